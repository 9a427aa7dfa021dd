"""Recorded runs of a realignment with dnf or zypper: the node that they are of, how they are played again.

A recording (``tests/fixtures/realign/runs/<family>/<case>.json``) holds, for every call of dnf, rpm or zypper
in the order in which it came, what was asked and what the real tool answered. Played again, the project's own
steps run with the very scripts that are rendered now, under ``/bin/sh``; only the three tools are stand-ins,
which give the recorded answers and accept no other question. So all that judges these answers is run for
real, the part of it that is shell too. ``tests/record_rpm_runs.py`` makes the recordings.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import ARGV, Output, RecordedRunner
from slurm_gsp.config import Config, Realign
from slurm_gsp.core.operation import Kind, Operation
from slurm_gsp.manifest.model import FileDigest, Matcher, Packages, PinnedPackage, Profile
from slurm_gsp.node.failing import RefusedError
from slurm_gsp.node.host import Host
from slurm_gsp.node.journal import Places
from slurm_gsp.node.realign import log_of, realign, stage
from slurm_gsp.node.staging import staging_folder
from slurm_gsp.node.steps import Log, StepFailedError
from slurm_gsp.node.target import Target
from slurm_gsp.process import DEFAULT_ENV, Finished, run

Recording = dict[str, Any]

FIXTURES: Final = Path(__file__).parent / "fixtures"
RUNS: Final = FIXTURES / "realign/runs"
COMMAND: Final = "python -m tests.record_rpm_runs"
NODES: Final = {"rhel": "rocky9-570-dkms-xz", "suse": "sles15-550-signed"}
"""The recorded nodes that these runs believe to be on; only their packages are real."""
TOOLS: Final = ("dnf", "rpm", "zypper")
SCRIPTS: Final = frozenset({"preflight", "fetch", "purge", "install", "hold"})
"""The scripts that are run. The others stop services, unload modules and build: they are left out."""
DOWNLOADS: Final = Realign().downloads
DIGEST: Final = "0123456789abcdef" * 4
ANOTHER: Final = 99
"""The exit status of a script or a call that is not the recorded one."""

_TOOL: Final = """\
#!/bin/sh
# Gives the next recorded answer, if the question is the recorded one.
read -r played <{folder}/played
number=$((played + 1))
call={folder}/$number
printf '%s\\n' "${{0##*/}}" "$@" >{folder}/asked
if ! cmp -s {folder}/asked "$call/argv"; then
    [ -e {folder}/wrong ] || cp {folder}/asked {folder}/wrong
    echo "not recorded: $*" >&2
    exit {another}
fi
echo "$number" >{folder}/played
if [ -d "$call/files" ]; then cp -R "$call/files/." {folder}/../downloads/; fi
if [ -s "$call/out" ]; then cat "$call/out"; fi
if [ -s "$call/err" ]; then cat "$call/err" >&2; fi
read -r code <"$call/rc"
exit "$code"
"""


def load(family: str, case: str) -> Recording:
    """The recording of one case."""
    made: Recording = json.loads((RUNS / family / f"{case}.json").read_text("utf-8"))
    return made


def save(recording: Recording, path: Path) -> None:
    """Write a recording down, one call a line."""
    head = {key: value for key, value in recording.items() if key != "runs"}
    runs = []
    for one in recording["runs"]:
        parts = [f"   {json.dumps(key)}: {_listed(value)}" for key, value in one.items()]
        runs.append("  {\n" + ",\n".join(parts) + "\n  }")
    text = json.dumps(head, indent=1).removesuffix("\n}")
    path.write_text("\n".join([f"{text},", ' "runs": [', ",\n".join(runs), " ]", "}", ""]), "utf-8")


def _listed(value: object) -> str:
    if not isinstance(value, list) or not value:
        return json.dumps(value)
    return "[\n" + ",\n".join(f"    {json.dumps(entry)}" for entry in value) + "\n   ]"


def digest_of(script: str, downloads: Path) -> str:
    """The SHA-256 of a script, wherever its downloads lie."""
    return hashlib.sha256(script.replace(str(downloads), DOWNLOADS).encode()).hexdigest()


@dataclass
class Shell:
    """Stands in for process.run: runs the scripts that are about packages, and rpm, with a folder's tools.

    ``known``: the scripts that are expected, in their order; None while they are recorded.
    """

    bin: Path
    downloads: Path
    known: Sequence[Mapping[str, Any]] | None = None
    scripts: list[dict[str, Any]] = field(default_factory=list)

    def __call__(
        self, argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> Finished:
        with_tools = {**(env or {}), "PATH": f"{self.bin}:{DEFAULT_ENV['PATH']}"}
        if argv[0] != "/bin/sh":
            return run(argv, deadline_s=deadline_s, env=with_tools)
        script, name = argv[5], argv[6].removeprefix("slurm-gsp-")
        if name not in SCRIPTS:
            return Finished(tuple(argv), 0, "", "")
        made = {"name": name, "sha256": digest_of(script, self.downloads)}
        if self.known is not None:
            expected = self.known[len(self.scripts)] if len(self.scripts) < len(self.known) else {}
            if {key: expected.get(key) for key in made} != made:
                self.scripts.append({**made, "rc": ANOTHER})
                told = f"{name} is another script than the recorded one: record anew with {COMMAND}"
                return Finished(tuple(argv), ANOTHER, "", told)
        done = run(argv, deadline_s=deadline_s, env=with_tools)
        self.scripts.append({**made, "rc": done.rc})
        return done


@dataclass
class Runner:
    """The recorded node's commands; rpm is asked."""

    recorded: RecordedRunner
    shell: Shell

    def run(self, command: str) -> Output | None:
        """The output of the command with this id."""
        if command == "transaction":
            return Output((command,), 0, "", "")
        if command != "rpm":
            return self.recorded.run(command)
        argv = (str(self.shell.bin / "rpm"), *ARGV["rpm"][1:])
        done = self.shell(argv, deadline_s=60)
        return Output(ARGV["rpm"], done.rc, done.stdout, done.stderr)


def make_host(folder: Path, family: str, shell: Shell) -> Host:
    """The recorded node, with the tools of this shell."""
    node = FIXTURES / "nodes" / NODES[family]
    if not folder.joinpath("root").exists():
        shutil.copytree(node / "root", folder / "root", symlinks=True)
        for modules in folder.glob("root/usr/lib/modules/*"):
            (modules / "build").mkdir()
        (folder / "proc").mkdir()
    return Host(
        node="n1",
        runner=Runner(RecordedRunner(node / "commands"), shell),
        root=Root(folder / "root"),
        run=shell,
        find=lambda name: str(shell.bin / name) if name in TOOLS else None,
        proc=folder / "proc",
        state=Places(folder / "state"),
        logs=folder / "logs",
        folder=folder / "run",
        ladder=folder / "state/ladder.json",
        boot_id=lambda: "00000000-0000-4000-8000-000000000001",
        free_mb=lambda _: 100_000,
        pause=lambda _: None,
        owner_uid=folder.stat().st_uid,
    )


def make_config(folder: Path, downloads: Path) -> Config:
    """As on a node without a configuration, but for the places."""
    return Config(realign=Realign(downloads=str(downloads), templates=str(folder / "templates")))


def make_target(family: str, recording: Recording, kind: Kind) -> Target:
    """What the recording pins."""
    pins = tuple(PinnedPackage(*pin) for pin in recording["pinned"].items())
    streams = tuple(recording["streams"])
    profile = Profile(
        name="h100",
        matcher=Matcher(gres=("gpu:h100",)),
        driver=recording["driver"],
        flavour="open",
        gpus=4,
        fabric_manager=False,
        packages=Packages(dnf=pins, dnf_modules=streams) if family == "rhel" else Packages(zypper=pins),
        downloads=tuple(FileDigest(*entry) for entry in recording["downloads"].items()),
    )
    return Target(Operation(kind, "c1", "2026-11", DIGEST[:12]), "2026-11", DIGEST, profile)


def carry_out(host: Host, config: Config, target: Target, do: str) -> tuple[str, Log]:
    """One run of the project's own steps: how it ended ("" is well), and its log."""
    log = log_of(host, target.operation)
    if do != "stage":
        failure = realign(host, config, target, log)
        return failure.what if failure else "", log
    log.open()
    try:
        stage(host, config, target, log)
    except StepFailedError as error:
        return error.failure.what, log
    except RefusedError as error:
        return f"refused: {error}", log
    return "", log


def kind_of(do: str) -> Kind:
    """The operation of a run."""
    return Kind.ROLLBACK if do == "rollback" else Kind.REALIGN


@dataclass(frozen=True)
class Played:
    """What came of a run that was played again."""

    end: str
    scripts: list[dict[str, Any]]
    log: str
    unasked: tuple[str, ...]
    """A call that was made and is not the next recorded one; or those that were recorded and not made."""

    @property
    def as_recorded(self) -> dict[str, Any]:
        """What a recording has of it."""
        return {"end": self.end, "scripts": self.scripts, "unasked": self.unasked}


class Player:
    """Plays the runs of one recording, one after the other, on one node."""

    def __init__(self, folder: Path, family: str, recording: Recording) -> None:
        self._folder = folder
        self._family = family
        self._stand_ins = dict(_stand_ins(recording))
        self._recording = {
            **recording,
            "downloads": {name: self._stand_ins[digest] for name, digest in recording["downloads"].items()},
        }
        self._downloads = folder / "downloads"
        folder.chmod(0o755)
        self._downloads.mkdir()

    def play(self, number: int) -> Played:
        """The run of this number; those before it have been played."""
        recorded = self._recording["runs"][number]
        calls = self._folder / f"calls-{number}"
        self._put_down(calls, recorded["calls"])
        shell = Shell(calls / "bin", self._downloads, recorded["scripts"])
        host = make_host(self._folder, self._family, shell)
        config = make_config(self._folder, self._downloads)
        target = make_target(self._family, self._recording, kind_of(recorded["do"]))
        for name in recorded.get("spoiled", ()):
            (staging_folder(config, target) / name).write_text("spoiled")
        before = log_of(host, target.operation).size()
        end, log = carry_out(host, config, target, recorded["do"])
        text = log.path.read_bytes()[before:].decode()
        return Played(self._told(end), shell.scripts, self._told(text), _unasked(calls, recorded["calls"]))

    def staged(self) -> set[str]:
        """The packages that lie in the folder of downloads."""
        return {path.name for path in self._downloads.rglob("*.rpm")}

    def _put_down(self, calls: Path, recorded: Sequence[Mapping[str, Any]]) -> None:
        (calls / "bin").mkdir(parents=True)
        (calls / "played").write_text("0\n")
        for tool in TOOLS:
            path = calls / "bin" / tool
            path.write_text(_TOOL.format(folder=calls, another=ANOTHER))
            path.chmod(0o755)
        for number, call in enumerate(recorded, start=1):
            one = calls / str(number)
            one.mkdir()
            for name, digest in call.get("files", {}).items():
                path = one / "files" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(digest)
            texts = {"argv": "".join(f"{word}\n" for word in call["argv"]), "rc": f"{call.get('rc', 0)}\n"}
            for name, text in {"out": "", "err": "", **call, **texts}.items():
                if name in {"argv", "rc", "out", "err"}:
                    (one / name).write_text(text.replace(DOWNLOADS, str(self._downloads)))

    def _told(self, text: str) -> str:
        """With the recording's places and digests."""
        for digest, stand_in in self._stand_ins.items():
            text = text.replace(stand_in, digest)
        return text.replace(str(self._downloads), DOWNLOADS)


def _stand_ins(recording: Recording) -> Iterable[tuple[str, str]]:
    """The files themselves are not recorded: their digests are their stand-ins' content."""
    digests = set(recording["downloads"].values())
    for one in recording["runs"]:
        for call in one.get("calls", ()):
            digests.update(call.get("files", {}).values())
    return ((digest, hashlib.sha256(digest.encode()).hexdigest()) for digest in sorted(digests))


def _unasked(calls: Path, recorded: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    wrong = calls / "wrong"
    if wrong.exists():
        return (f"asked: {' '.join(wrong.read_text().split())}",)
    return tuple(" ".join(call["argv"]) for call in recorded[int((calls / "played").read_text()) :])

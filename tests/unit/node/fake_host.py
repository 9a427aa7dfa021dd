"""A node for unit tests of its maintenance: a recorded root to write in, and a shell that only listens."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import Output, RecordedRunner
from slurm_gsp.config import Config, Realign
from slurm_gsp.core.operation import Kind, Operation
from slurm_gsp.manifest.model import FileDigest, Manifest, Matcher, Packages, PinnedPackage, Profile
from slurm_gsp.node.host import Host
from slurm_gsp.node.journal import Places
from slurm_gsp.node.staging import staging_folder
from slurm_gsp.node.target import Target
from slurm_gsp.process import Finished

NODES = Path(__file__).parents[2] / "fixtures/nodes"
UBUNTU, ROCKY, SLES = "ubuntu2404-580-dkms-zst", "rocky9-570-dkms-xz", "sles15-550-signed"
DIGEST = "0123456789abcdef" * 4
BOOT = "00000000-0000-4000-8000-000000000001"
V = "580.95.05"


def pins(*names: str, version: str) -> tuple[PinnedPackage, ...]:
    return tuple(PinnedPackage(name, version) for name in names)


APT = pins(
    "nvidia-dkms-580-open", "nvidia-kernel-source-580-open", "nvidia-kernel-common-580",
    "nvidia-firmware-580", "libnvidia-compute-580", "nvidia-utils-580", "nvidia-compute-utils-580",
    "nvidia-open",
    version=f"{V}-0ubuntu1",
)  # fmt: skip
NEWER = tuple(PinnedPackage(pin.name, f"{V}-0ubuntu2") for pin in APT)
"""The same driver, packed again: everything has to be installed, and then all is as it was."""


def profile(apt: Sequence[PinnedPackage] = APT, **changes: object) -> Profile:
    made = Profile(
        "h100", Matcher(gres=("gpu:h100",)), V, "open", 4, False, Packages(apt=tuple(apt))
    )  # fmt: skip
    return replace(made, **changes)


def target(of: Profile | None = None, operation: Operation | None = None) -> Target:
    operation = operation or Operation(Kind.REALIGN, "c1", "2026-11", DIGEST[:12])
    return Target(operation, "2026-11", DIGEST, of or profile())


def manifest(*profiles: Profile, name: str = "2026-11") -> Manifest:
    return Manifest(name, None, datetime(2026, 11, 21, tzinfo=UTC), profiles or (profile(),))


def write_manifest(config: Config, of: Target) -> str:
    """Put the target's manifest where this configuration looks for it; the first digits of its digest."""
    one = of.profile
    packages = ", ".join(f'"{pin.name}" = "{pin.version}"' for pin in one.packages.apt)
    path = Path(config.realign.manifest)
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f'name = "{of.manifest}"\nprevious = "none"\ncreated = 2026-11-21T09:00:00Z\n'
        f'[profile.{one.name}]\ngres = ["gpu:h100"]\ndriver = "{one.driver}"\nflavour = "{one.flavour}"\n'
        f"gpus = {one.gpus}\nfabric_manager = false\npackages.apt = {{ {packages} }}\n"
    )
    path.chmod(0o644)
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def digests(names: Mapping[str, str]) -> tuple[FileDigest, ...]:
    return tuple(FileDigest(name, digest) for name, digest in names.items())


@dataclass
class Shell:
    """Stands in for process.run: remembers what was run; ``answers`` by the script's or command's name."""

    answers: dict[str, Callable[[str], int | BaseException] | int | BaseException] = field(
        default_factory=dict
    )
    outputs: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)
    scripts: dict[str, str] = field(default_factory=dict)

    @property
    def steps(self) -> list[str]:
        """What was run, without the tools that only look."""
        return [name for name in self.ran if name not in {"dpkg", "modinfo", "mokutil"}]

    def __call__(
        self, argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> Finished:
        assert deadline_s > 0
        is_script = argv[0] == "/bin/sh" and len(argv) == 7
        name = argv[6].removeprefix("slurm-gsp-") if is_script else argv[0].rpartition("/")[2]
        self.ran.append(name)
        script = argv[5] if is_script else " ".join(argv[1:])
        self.scripts[name] = script
        answer = self.answers.get(name, 0)
        answer = answer(script) if callable(answer) else answer
        if isinstance(answer, BaseException):
            raise answer
        said = self.outputs.get(name, "")
        if is_script and said:
            with Path(argv[4]).open("a") as log:
                log.write(said)
        return Finished(tuple(argv), answer, "" if is_script else said, "")


@dataclass
class Runner:
    """The recording's commands; ``locks`` are held for that many looks."""

    recorded: RecordedRunner
    locks: int = 0

    def run(self, command: str) -> Output | None:
        if command == "transaction":
            self.locks -= 1
            return Output((command,), 0, "/var/lib/dpkg/lock" if self.locks >= 0 else "", "")
        return self.recorded.run(command)


def make_host(folder: Path, case: str = UBUNTU, **changes: object) -> Host:
    """A healthy node of this recording, below a folder."""
    shutil.copytree(NODES / case / "root", folder / "root", symlinks=True)
    for modules in folder.glob("root/usr/lib/modules/*"):
        (modules / "build").mkdir()
    (folder / "proc").mkdir()
    made = Host(
        node="n1",
        runner=Runner(RecordedRunner(NODES / case / "commands")),
        root=Root(folder / "root"),
        run=Shell(),
        find=lambda name: f"/usr/bin/{name}",
        proc=folder / "proc",
        state=Places(folder / "state"),
        logs=folder / "logs",
        folder=folder / "run",
        ladder=folder / "state/ladder.json",
        boot_id=lambda: BOOT,
        free_mb=lambda _: 100_000,
        pause=lambda _: None,
        owner_uid=folder.stat().st_uid,
    )
    return replace(made, **changes)


@contextmanager
def stuck(path: Path) -> Iterator[None]:
    """A file of /proc that does not answer, until the end."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        yield
    finally:
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))  # who waits for it goes on


def make_config(folder: Path, **changes: object) -> Config:
    realign = Realign(
        manifest=str(folder / "manifests/2026-11.toml"),
        templates=str(folder / "templates"),
        downloads=str(folder / "downloads"),
        reboot=("/usr/sbin/reboot",),
        lock_wait_s=3,
    )
    return Config(realign=replace(realign, **changes))


def fetches(config: Config, of: Target) -> Callable[[str], int]:
    """What the fetch script leaves behind."""

    def fetch(_script: str) -> int:
        folder = staging_folder(config, of)
        for pin in of.profile.packages.apt:
            (folder / f"{pin.name}_{pin.version}_amd64.deb").write_text(pin.name)
        return 0

    return fetch

"""`slurm-gsp fleet`, with an injected Slurm, clock and BMCs."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fleet_lines import NOW, line, scontrol_text, told

from slurm_gsp import process
from slurm_gsp.campaign.ledger import Ledger
from slurm_gsp.cli import main
from slurm_gsp.core.reading import Known, Unknown
from slurm_gsp.fleet.model import SHOWN_KEYS
from slurm_gsp.fleet_cli import Effects
from slurm_gsp.redfish.model import Answer, Component, Inventory

LINES = (
    line("gpu1"),
    line(
        "gpu2",
        extra=told(verdict="latent", faults="next-kernel", nvidia_driver="570.172.08"),
        partitions="main,b",
    ),
    line("gpu3", extra=""),
    line("old1", "DOWN*", reason="fan", user="ann"),
    line("login1", gres="", extra=""),
)
PROFILE = """
driver = "580.95.05"
flavour = "open"
gpus = 8
fabric_manager = false
packages.apt = { "nvidia-dkms-580-open" = "580.95.05-0ubuntu1" }
"""
MANIFEST = f"""\
name = "2026-11"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.h100]
nodes = "gpu[1-8]"{PROFILE}[profile.h100.bmc]
BMC_0 = "24.10-1"
"GPU_*" = "96"
[profile.old]
nodes = "old1"{PROFILE}"""
AWAY = process.Finished(("x",), 1, "", "slurm_load_node error: Unable to contact slurm controller\n")


class Slurm:
    """Shows one fleet after the other, the last one for ever."""

    def __init__(self, *looks: str | process.Finished) -> None:
        self.looks = list(looks or [scontrol_text(*LINES)])
        self.asked: list[str] = []

    def __call__(self, argv, *, deadline_s, env=None, sink):
        self.asked.append(" ".join(argv))
        if argv[-1] == "reservation":
            return lambda: process.Finished(tuple(argv), 0, "", "")
        answer = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

        def wait() -> process.Finished:
            if isinstance(answer, process.Finished):
                return answer
            sink(answer.encode())
            return process.Finished(tuple(argv), 0, "", "")

        return wait


def bmc(address: str, seconds: float) -> Answer:
    node = address.removeprefix("https://").removesuffix("-bmc")
    if node == "gpu3":
        return Unknown(address, "nothing listens there")
    found = {"BMC_0": "24.10-1" if node == "gpu1" else "23.1", "GPU_1": "96"}
    components = tuple(Component(name, None, Known(version, "x")) for name, version in found.items())
    return Known(Inventory(components), address)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "m.toml").write_text(MANIFEST)
    (tmp_path / "password").write_text("correct horse\n")
    (tmp_path / "password").chmod(0o600)
    configure(
        tmp_path,
        f'[redfish]\naddress = "https://{{node}}-bmc"\nuser = "r"\npassword_file = "{tmp_path}/password"\n',
    )
    return tmp_path


def configure(folder: Path, text: str) -> None:
    (folder / "config.toml").write_text(text)
    (folder / "config.toml").chmod(0o644)


def call(slurm: Slurm, *words: str, sleep: Callable[[float], None] | None = None) -> Result:
    effects = Effects(slurm, lambda: NOW, sleep or (lambda _: None), {}, bmc)
    return CliRunner().invoke(
        main, ["fleet", "--config", "config.toml", *words], obj=effects, catch_exceptions=False
    )


def names(result: Result) -> list[str]:
    assert result.exit_code == 0, result.stderr
    return [row["node"] for row in csv.DictReader(io.StringIO(result.stdout))]


def test_one_look(folder: Path) -> None:
    slurm = Slurm()
    result = call(slurm)
    assert result.exit_code == 0
    assert result.stdout.startswith(
        "4 GPU nodes at 2026-11-26 12:00:00 UTC; 1 without GPUs left out\n"
        "1 healthy and in service, 2 silent\n"
    )
    assert result.stderr == ""
    assert slurm.asked == [f"/usr/bin/scontrol -a -o show {what}" for what in ("node", "reservation")]


def test_the_configured_scontrol_is_asked(folder: Path) -> None:
    configure(folder, '[slurm]\nscontrol = "/opt/slurm/bin/scontrol"\n')
    slurm = Slurm()
    call(slurm)
    assert {asked.split()[0] for asked in slurm.asked} == {"/opt/slurm/bin/scontrol"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["gpu1", "gpu2", "gpu3", "old1"]),
        (("--partition", "b"), ["gpu2"]),
        (("--code", "next-kernel"), ["gpu2"]),
        (("--manifest", "m.toml", "--profile", "old"), ["old1"]),
        (("--manifest", "m.toml", "--profile", "h100", "--partition", "b"), ["gpu2"]),
    ],
)
def test_filters(folder: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert names(call(Slurm(), "--csv", *words)) == expected


def test_drift(folder: Path) -> None:
    found = json.loads(call(Slurm(), "--json", "--manifest", "m.toml").stdout)
    assert found["manifest"] == "2026-11"
    assert [profile["drift"] for profile in found["profiles"]] == [
        [{"what": "nvidia_driver 570.172.08, pinned 580.95.05", "count": 1, "which": "gpu2"}],
        [],
    ]
    assert found["unmatched"] == {"count": 0, "which": ""}


def test_json_and_csv_are_one_object_and_one_table(folder: Path) -> None:
    text = call(Slurm(), "--json").stdout
    assert (text.count("\n"), json.loads(text)["nodes"]) == (1, 4)
    rows = list(csv.reader(io.StringIO(call(Slurm(), "--csv").stdout)))
    assert (len(rows), {len(row) for row in rows}) == (5, {len(rows[0])})
    assert set(SHOWN_KEYS) < set(rows[0])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--json", "--csv"), 2, "--json or --csv"),
        (("--profile", "h100"), 2, "--profile needs --manifest"),
        (("--bmc",), 2, "--bmc needs --manifest"),
        (("--bmc", "--manifest", "m.toml", "--watch", "5"), 2, "--bmc or --watch"),
        (("--watch", "0.5"), 2, "--watch"),
        (("--code", "nextkernel"), 2, "there is no fault code nextkernel"),
        (("--manifest", "none.toml"), 2, "none.toml"),
        (("--partition", "c"), 1, "no node in a partition c"),
        (("--manifest", "m.toml", "--profile", "h200"), 1, "manifest 2026-11 has no profile h200: h100, old"),
    ],
)
def test_what_cannot_be_asked(folder: Path, words: tuple[str, ...], code: int, says: str) -> None:
    result = call(Slurm(), *words)
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (AWAY, "Unable to contact slurm controller"),
        ("", "no node in what scontrol said"),
        ("NodeName=n1 Arch=x\n", "not a node as scontrol writes it"),
        (scontrol_text(line(booted="soon", extra=told())), "not a time as Slurm writes it: 'soon'"),
    ],
)
def test_slurm_does_not_answer(folder: Path, answer: str | process.Finished, says: str) -> None:
    result = call(Slurm(answer))
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr


def test_a_configuration_with_mistakes(folder: Path) -> None:
    configure(folder, "[slurm]\nscontrol = 7\n")
    slurm = Slurm()
    result = call(slurm)
    assert (result.exit_code, slurm.asked, "scontrol" in result.stderr) == (1, [], True)


class Ctrl:
    """Sleeps, and presses Ctrl-C in the last sleep."""

    def __init__(self, sleeps: int) -> None:
        self.left = sleeps
        self.slept: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_watch_looks_until_it_is_ended(folder: Path) -> None:
    sleep = Ctrl(3)
    result = call(Slurm(), "--watch", "5", sleep=sleep)
    assert (result.exit_code, sleep.slept) == (0, [5.0] * 3)
    assert result.stdout.count("GPU nodes at") == 3
    assert "\x1b" not in result.stdout


def test_watch_goes_on_when_slurm_was_away(folder: Path) -> None:
    text = scontrol_text(*LINES)
    result = call(Slurm(text, AWAY, AWAY, text), "--watch", "5", sleep=Ctrl(4))
    assert (result.exit_code, result.stdout.count("GPU nodes at")) == (0, 2)
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(
        "12:00:00 UTC, no new look: /usr/bin/scontrol -a -o show node: slurm_load_node error"
    )


def test_on_a_terminal_the_last_look_stays_above_the_error(
    folder: Path,
) -> None:
    slurm = Slurm(scontrol_text(*LINES), AWAY)
    effects = Effects(slurm, lambda: NOW, Ctrl(2), {}, bmc, lambda: 90)
    result = CliRunner().invoke(main, ["fleet", "--watch", "5"], obj=effects, color=True)
    first, second = result.stdout.removeprefix("\x1b[H\x1b[2J").split("\x1b[H\x1b[2J")
    assert first == second
    assert result.output.rstrip().endswith("(exit status 1)")


def test_watch_does_not_wait_for_a_fleet_that_it_never_saw(folder: Path) -> None:
    sleep = Ctrl(9)
    result = call(Slurm(AWAY), "--watch", "5", sleep=sleep)
    assert (result.exit_code, sleep.slept, result.stdout) == (1, [], "")


def test_a_configuration_that_breaks_while_it_is_watched_is_told(folder: Path) -> None:
    ctrl = Ctrl(2)

    def sleep(seconds: float) -> None:
        configure(folder, "[slurm\n")
        ctrl(seconds)

    result = call(Slurm(), "--watch", "5", sleep=sleep)
    assert (result.exit_code, result.stdout.count("GPU nodes at")) == (0, 1)
    assert "no new look: config.toml" in result.stderr


def test_ctrl_c_in_a_single_look_is_no_success(folder: Path) -> None:
    def begin(*_, **__):
        raise KeyboardInterrupt

    result = CliRunner().invoke(main, ["fleet"], obj=Effects(begin))
    assert result.exit_code == 1


def test_bmcs(folder: Path) -> None:
    found = json.loads(call(Slurm(), "--json", "--manifest", "m.toml", "--bmc").stdout)
    assert found["out_of_band"] == [
        {"what": "BMC_0 23.1, pinned 24.10-1", "count": 1, "which": "gpu2"},
        {"what": "as pinned", "count": 1, "which": "gpu1"},
        {"what": "not known: nothing listens there", "count": 1, "which": "gpu3"},
    ]
    each = {node["node"]: node["out_of_band"] for node in found["each"]}
    assert each["old1"] == ""


def test_only_bmcs_of_nodes_that_are_shown_are_asked(folder: Path) -> None:
    result = call(Slurm(), "--json", "--manifest", "m.toml", "--bmc", "--partition", "b")
    assert [group["which"] for group in json.loads(result.stdout)["out_of_band"]] == ["gpu2"]


@pytest.mark.parametrize(
    ("config", "manifest", "says"),
    [
        ("", MANIFEST, "[redfish] address: is missing"),
        (
            None,
            MANIFEST.replace('[profile.h100.bmc]\nBMC_0 = "24.10-1"\n"GPU_*" = "96"\n', ""),
            "pins no firmware of BMCs",
        ),
    ],
)
def test_bmcs_that_cannot_be_asked(folder: Path, config: str | None, manifest: str, says: str) -> None:
    if config is not None:
        configure(folder, config)
    (folder / "m.toml").write_text(manifest)
    result = call(Slurm(), "--manifest", "m.toml", "--bmc")
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr


def test_without_the_redfish_library_it_is_said_how_to_get_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "slurm_gsp.redfish.client", None)
    effects = Effects(Slurm(), lambda: NOW, environ={})
    words = ["fleet", "--config", "config.toml", "--manifest", "m.toml", "--bmc"]
    result = CliRunner().invoke(main, words, obj=effects, catch_exceptions=False)
    assert (result.exit_code, "asking BMCs needs the package redfish" in result.stderr) == (1, True)


def test_bmcs_whose_certificates_nobody_checks(folder: Path) -> None:
    with (folder / "config.toml").open("a") as config:
        config.write("verify = false\n")
    result = call(Slurm(), "--manifest", "m.toml", "--bmc")
    assert (result.exit_code, "verify = false" in result.stderr) == (0, True)


def test_holds(folder: Path) -> None:
    configure(folder, f'[campaign]\nledger = "sqlite:///{folder}/ledger.db"\n')
    assert json.loads(call(Slurm(), "--json", "--holds").stdout)["held"] == []
    assert not (folder / "ledger.db").exists()
    Ledger(f"sqlite:///{folder}/ledger.db", "test").close()
    with closing(sqlite3.connect(folder / "ledger.db")) as database:
        row = ("gpu1", "c1", "2026-10", "2026-11-25T12:00:00+00:00", "rolled back")
        database.execute(
            "INSERT INTO holds (node, campaign, manifest, since, why) VALUES (?, ?, ?, ?, ?)", row
        )
        database.commit()
    held = json.loads(call(Slurm(), "--json", "--holds").stdout)["held"]
    assert held == [{"what": "at 2026-10 by c1", "count": 1, "which": "gpu1"}]


def test_a_ledger_that_cannot_be_read(folder: Path) -> None:
    (folder / "ledger.db").write_text("no database, but long enough to be taken for one\n" * 50)
    configure(folder, f'[campaign]\nledger = "sqlite:///{folder}/ledger.db"\n')
    result = call(Slurm(), "--holds")
    assert (result.exit_code, result.stdout, "ledger" in result.stderr) == (1, "", True)


PROGRAM = """
import sys
from slurm_gsp.cli import main
try:
    main(["fleet", "--config", sys.argv[1]])
except SystemExit as ended:
    code = ended.code
print(code, *sys.modules, file=sys.stderr)
"""
HEAVY = {"sqlalchemy", "jinja2", "rich", "pynvml", "ClusterShell", "redfish", "requests", "asyncio", "csv"}


def test_a_look_loads_no_heavy_module(folder: Path) -> None:
    scontrol = folder / "scontrol"
    scontrol.write_text(f'#!/bin/sh\n[ "$4" = node ] || exit 0\ncat {folder}/nodes.txt\n')
    scontrol.chmod(0o755)
    (folder / "nodes.txt").write_text(scontrol_text(*LINES))
    configure(folder, f'[slurm]\nscontrol = "{scontrol}"\n')
    done = subprocess.run(
        [sys.executable, "-I", "-c", PROGRAM, str(folder / "config.toml")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    code, *loaded = done.stderr.split()
    assert (code, "4 GPU nodes" in done.stdout) == ("0", True)
    assert {"slurm_gsp.fleet.view", "slurm_gsp.slurm.overview"} <= set(loaded)
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in loaded)
    assert not any(
        name.startswith(("slurm_gsp.campaign", "slurm_gsp.manifest", "slurm_gsp.redfish")) for name in loaded
    )

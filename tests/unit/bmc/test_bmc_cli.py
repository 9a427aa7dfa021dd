"""`slurm-gsp bmc`, with injected BMCs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from slurm_gsp import process
from slurm_gsp.bmc_cli import Outside
from slurm_gsp.cli import main
from slurm_gsp.core.reading import Known, Unknown
from slurm_gsp.redfish.model import Answer, Component, Inventory

RECORDED = Path(__file__).parents[1] / "campaign/recorded/22.05.8"
MANIFEST = """\
name = "2026-11"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.h100]
nodes = "gpu[1-8]"
driver = "570.195.03"
flavour = "open"
gpus = 8
fabric_manager = false
packages.apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }
[profile.h100.bmc]
BMC_0 = "24.10-1"
"GPU_*" = "96"
[profile.old]
nodes = "old1"
driver = "570.195.03"
flavour = "open"
gpus = 8
fabric_manager = false
packages.apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }
"""
NODES = "".join(f"NodeName={name} Gres=gpu:h100:8 State=IDLE\n" for name in
                [*(f"gpu{number}" for number in range(1, 9)), "old1", "login1"])  # fmt: skip
GOOD = {"BMC_0": "24.10-1", "GPU_1": "96", "GPU_2": "96"}


class Bmcs:
    """Answers by node; all others are as pinned."""

    def __init__(self, **answers: Mapping[str, str] | str) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def __call__(self, address: str, seconds: float) -> Answer:
        node = address.removeprefix("https://").removesuffix("-bmc")
        self.asked.append(node)
        answer = self.answers.get(node, GOOD)
        if isinstance(answer, str):
            return Unknown(address, answer)
        return Known(
            Inventory(tuple(Component(name, None, Known(text, "x")) for name, text in answer.items())),
            address,
        )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "m.toml").write_text(MANIFEST)
    (tmp_path / "nodes.txt").write_text(NODES)
    (tmp_path / "password").write_text("correct horse\n")
    (tmp_path / "password").chmod(0o600)
    configure(tmp_path)
    return tmp_path


def configure(folder: Path, more: str = "") -> None:
    text = (
        f'[redfish]\naddress = "https://{{node}}-bmc"\nuser = "reader"\npassword_file = "{folder}/password"\n'
    )
    (folder / "config.toml").write_text(text + more)
    (folder / "config.toml").chmod(0o644)


def call(bmcs: Bmcs, *words: str, run: Any = None) -> Result:
    nodes = () if run else ("--nodes-from", "nodes.txt")
    arguments = ["bmc", "--manifest", "m.toml", "--config", "config.toml", *nodes, *words]
    return CliRunner().invoke(main, arguments, obj=Outside(run, bmcs, lambda: 1.0), catch_exceptions=False)


pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="needs root: a configuration must be root's")


def test_all_as_pinned(folder: Path) -> None:
    bmcs = Bmcs()
    done = call(bmcs)
    assert (done.exit_code, done.stderr) == (0, "")
    assert sorted(bmcs.asked) == [f"gpu{number}" for number in range(1, 9)]
    assert [line.split() for line in done.stdout.splitlines() if line.strip(" ─")] == [
        ["manifest", "2026-11:", "8", "BMCs", "in", "0.0", "s"],
        ["verdict", "nodes", "which"],
        ["as", "pinned", "8", "gpu[1-8]"],
    ]


def test_who_is_the_odd_one_and_who_is_not_known(folder: Path) -> None:
    bmcs = Bmcs(
        gpu3={**GOOD, "GPU_2": "95"},
        gpu5={"BMC_0": "24.10-1"},
        gpu6="nothing listens there",
        gpu7={**GOOD, "BMC_0": "24.09\x1b[31m"},
        gpu8={**GOOD, "BMC_0": "24.09\x1b[31m"},
    )
    done = call(bmcs)
    assert done.exit_code == 1
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip(" ─")]
    assert lines == [
        "manifest 2026-11: 8 BMCs in 0.0 s",
        "verdict nodes which",
        "as pinned 3 gpu[1-2,4]",
        "differs 4 gpu[3,5,7-8]",
        "unknown 1 gpu6",
        "component pinned found nodes which",
        "BMC_0 24.10-1 24.09?[31m 2 gpu[7-8]",
        "as pinned 5 gpu[1-5]",
        "GPU_* 96 missing: the BMC lists no such component 1 gpu5",
        "GPU_2 96 95 1 gpu3",
        "as pinned 5 gpu[1-2,4,7-8]",
        "not known, because nodes which",
        "nothing listens there 1 gpu6",
    ]


def test_something_is_not_known(folder: Path) -> None:
    assert call(Bmcs(gpu2="took longer than 30 s")).exit_code == 3


def test_some_nodes_in_the_order_that_was_asked(folder: Path) -> None:
    done = call(Bmcs(), "gpu[3-4],old1", "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert list(found["nodes"]) == ["gpu3", "gpu4", "old1"]
    assert found["nodes"]["old1"]["verdict"] is None
    assert [one["id"] for one in found["nodes"]["old1"]["components"]] == ["BMC_0", "GPU_1", "GPU_2"]


def test_nothing_compared_is_nothing_known(folder: Path) -> None:
    done = call(Bmcs(), "old1")
    assert done.exit_code == 3
    assert "nothing pinned   1       old1" in done.stdout


def test_as_json(folder: Path) -> None:
    done = call(Bmcs(gpu2="nothing listens there"), "gpu[1-2]", "--json")
    found = json.loads(done.stdout)
    assert len(found.pop("sha256")) == 64
    component = {"name": None, "why": None, "updateable": None, "health": None, "state": None}
    pins = {"BMC_0": ("BMC_0", "24.10-1"), "GPU_1": ("GPU_*", "96"), "GPU_2": ("GPU_*", "96")}
    assert found == {
        "manifest": "2026-11",
        "certificates_verified": True,
        "nodes": {
            "gpu1": {
                "profile": "h100",
                "address": "https://gpu1-bmc",
                "verdict": "equal",
                "why": None,
                "findings": [
                    {"component": name, "pinned": version, "found": version, "verdict": "equal", "why": None}
                    for name, (_, version) in pins.items()
                ],
                "components": [
                    {"id": name, "version": version, **component} for name, version in GOOD.items()
                ],
            },
            "gpu2": {
                "profile": "h100",
                "address": "https://gpu2-bmc",
                "verdict": "unknown",
                "why": "nothing listens there",
                "findings": [
                    {
                        "component": name,
                        "pinned": version,
                        "found": None,
                        "verdict": "unknown",
                        "why": "nothing listens there",
                    }
                    for name, version in dict(pins.values()).items()
                ],
                "components": None,
            },
        },
    }


def test_unverified_certificates_are_told_every_time(folder: Path) -> None:
    configure(folder, "verify = false\n")
    told = (
        "[redfish] verify = false: nothing proves that these answers, or whoever gets the password, "
        "are the BMCs'\n"
    )
    assert call(Bmcs()).stderr == told
    done = call(Bmcs(), "--json")
    assert (done.stderr, json.loads(done.stdout)["certificates_verified"]) == (told, False)


def test_nodes_from_slurm(folder: Path) -> None:
    asked = []

    def run(
        argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> process.Finished:
        asked.append(Path(argv[0]).name)
        name = "jobs" if argv[0].endswith("squeue") else f"{argv[-1]}s"
        return process.Finished(tuple(argv), 0, (RECORDED / f"{name}.txt").read_text(), "")

    manifest = MANIFEST.replace('nodes = "gpu[1-8]"', 'gres = ["gpu:h100"]')
    (folder / "m.toml").write_text(manifest)
    bmcs = Bmcs()
    assert call(bmcs, run=run).exit_code == 0
    assert asked == ["scontrol", "scontrol", "squeue"]
    assert {"n1", "n3"} <= set(bmcs.asked)


def away(argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None) -> process.Finished:
    return process.Finished(tuple(argv), 1, "", "slurm_load_node error: Unable to contact slurm controller")


def test_whoever_cannot_ask_says_why(folder: Path) -> None:
    bmcs = Bmcs()

    def refused(*words: str, run: Any = None) -> str:
        done = call(bmcs, *words, run=run)
        assert (done.exit_code, done.stdout) == (2, "")
        return done.stderr

    assert "Unable to contact slurm controller" in refused(run=away)
    assert refused("gpu9,login1") == (
        "gpu9: Slurm knows no such node, or no profile is for it\n"
        "login1: Slurm knows no such node, or no profile is for it\n"
    )
    assert "not a hostlist" in refused("gpu[1-")
    (folder / "nodes.txt").write_text("NodeName=old1 State=IDLE\n")
    assert refused() == "no node takes a profile that pins firmware of its BMC: h100\n"
    (folder / "nodes.txt").write_text("hello\n")
    assert refused().startswith("nodes.txt:1: not a node: 'hello'")
    (folder / "nodes.txt").write_text(NODES)
    (folder / "m.toml").write_text(MANIFEST.replace('BMC_0 = "24.10-1"\n"GPU_*" = "96"\n', "").replace(
        "[profile.h100.bmc]\n", ""))  # fmt: skip
    assert refused() == "manifest 2026-11 pins no firmware of BMCs; write [profile.NAME.bmc] tables\n"
    (folder / "m.toml").write_text(MANIFEST.replace('"24.10-1"', "24.1"))
    assert refused().startswith("m.toml:12: [profile.h100.bmc] BMC_0: must be a string")
    (folder / "m.toml").write_text(MANIFEST)
    (folder / "password").chmod(0o644)
    assert "others can reach the password (mode 0644)" in refused()
    configure(folder, "concurency = 3\n")
    assert 'did you mean "concurrency"?' in refused()
    assert bmcs.asked == []


def test_the_password_has_no_option(folder: Path) -> None:
    said = CliRunner().invoke(main, ["bmc", "--help"]).output
    assert "password" not in said.lower()

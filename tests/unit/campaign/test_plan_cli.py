"""`slurm-gsp plan`, over what a real Slurm said."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from slurm_gsp import process
from slurm_gsp.campaign.model import CHANGE_CLASSES
from slurm_gsp.campaign.planfile import load_plan
from slurm_gsp.cli import main
from slurm_gsp.plan_cli import Effects

RECORDED = Path(__file__).parent / "recorded/22.05.8"
NOW = datetime(2026, 11, 21, 23, 1, 30, 5, tzinfo=UTC)
TOLD = 'Extra={"nvidia_driver":"580.95.05","gsp_seen":"b1","gsp_booted":"2026-11-21T21:33:30Z"}'
MANIFEST = """
name = "2026-11"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.h100]
gres = ["gpu:h100:2"]
driver = "580.95.05"
flavour = "open"
gpus = 2
fabric_manager = false
packages.apt = { "nvidia-dkms-580-open" = "580.95.05-0ubuntu1" }
"""


class Slurm:
    """Answers from recordings, and takes nothing but reads."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.nodes = (RECORDED / "nodes.txt").read_text().replace('Extra={"nvidia_driver":"580.95.05"}', TOLD)
        self.away = False

    def __call__(self, argv, *, deadline_s, env=None):
        self.asked.append(" ".join(argv))
        if self.away:
            said = "slurm_load_node error: Unable to contact slurm controller (connect failure)"
            return process.Finished(tuple(argv), 1, "", said)
        answers = {
            ("/usr/bin/scontrol", "-a", "-o", "show", "node"): self.nodes,
            ("/usr/bin/scontrol", "-a", "-o", "show", "reservation"): (
                RECORDED / "reservations.txt"
            ).read_text(),
        }
        text = (RECORDED / "jobs.txt").read_text() if argv[0].endswith("squeue") else answers[tuple(argv)]
        return process.Finished(tuple(argv), 0, text, "")


@pytest.fixture
def slurm():
    return Slurm()


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2026-11.toml").write_text(MANIFEST)
    return tmp_path


def call(slurm: Slurm, *words: str) -> Result:
    arguments = ["plan", "2026-11.toml", "--config", "none.toml", *words]
    return CliRunner().invoke(main, arguments, obj=Effects(slurm, lambda: NOW), catch_exceptions=False)


def test_a_plan_from_one_look(slurm, place):
    done = call(
        slurm, "--max-out", "5", "--window", "18:00-09:00", "--tz", "America/New_York", "--soak", "90m"
    )
    assert (done.exit_code, done.stderr) == (0, "")
    assert [line.rpartition("/")[2].split(" -t ")[0] for line in slurm.asked] == [
        "scontrol -a -o show node",
        "scontrol -a -o show reservation",
        "squeue -h -a",
    ]
    plan = load_plan((place / "2026-11.plan.json").read_text())
    assert [[slot.node for slot in wave.slots] for wave in plan.waves] == [["n3", "n7"], ["n1"]]
    assert (plan.campaign, plan.heading.change_class, plan.heading.approvals) == ("2026-11", "routine", 2)
    assert (plan.limits.max_out_count, plan.limits.max_out_percent, plan.limits.soak_s) == (5, None, 5400)
    assert plan.unknown_driver == ("n1", "n3", "n7")
    assert plan.made == NOW.replace(microsecond=0)
    for told in (
        "campaign 2026-11: routine (2 approvals), manifest 2026-11",
        "at most 5 of a partition out, 1 canary of a variant",
        "Mon-Sun 18:00-09:00",
        "canary 2 2026-11-21 18:02 2026-11-21 19:02 1 n[3,7]",
        "wave 1 1 2026-11-24 18:01 2026-11-24 18:31 1 n1",
        "━",
        "already right: 580.95.05",
        "drained by others: fan Nodes=x Gres=y [root@now] (root)",
        "3 nodes are planned without knowing the loaded driver",
        f"2026-11.plan.json: written, {plan.digest}",
    ):
        assert told in " ".join(done.stdout.split()), told


def test_json_is_the_plan_file_and_writes_nothing(slurm, place):
    done = call(slurm, "--json", "--class", "emergency", "--campaign", "c1", "--max-percent", "60")
    plan = load_plan(done.stdout)
    assert (plan.campaign, plan.heading.change_class, plan.heading.approvals) == ("c1", "emergency", 1)
    assert plan.limits.growth == CHANGE_CLASSES["emergency"].limits.growth
    assert list(place.iterdir()) == [place / "2026-11.toml"]
    done = call(slurm, "--json", "--out", "x.json", "--max-percent", "60")
    assert (place / "x.json").read_text() == done.stdout
    assert done.stderr.startswith("x.json: written, sha256:")
    assert sorted(path.name for path in place.iterdir()) == ["2026-11.toml", "x.json"]


def test_a_file_that_is_there_is_kept(slurm, place):
    (place / "x.json").write_text("mine")
    done = call(slurm, "--out", "x.json", "--max-out", "5")
    assert (done.exit_code, done.stderr) == (1, "--out: x.json is there already; --force writes over it\n")
    assert (place / "x.json").read_text() == "mine" and slurm.asked == []
    assert call(slurm, "--out", "x.json", "--max-out", "5", "--force").exit_code == 0
    assert load_plan((place / "x.json").read_text()).campaign == "2026-11"
    done = call(slurm, "--out", "no/x.json", "--max-out", "5")
    assert (done.exit_code, done.stderr) == (1, "no/x.json: cannot be written: No such file or directory\n")


def test_everything_that_is_wrong_at_once_and_slurm_is_not_asked(slurm, place):
    (place / "2026-11.toml").write_text(MANIFEST.replace("gpus = 2", "gpus = 2\nfans = 3"))
    done = call(
        slurm, "--tz", "Mars", "--window", "x", "--window", "Mo 1:00-2:00", "--except", "today",
        "--soak", "1y", "--slot", "soon", "--max-out", "0", "--per-block", "1", "--topology", "gone",
        "--campaign", "a b", "--growth", "0.5", "--canary", "0",
    )  # fmt: skip
    assert done.exit_code == 1 and slurm.asked == []
    told = done.stderr.splitlines()
    starts = [
        "--tz: there is no 'Mars'", "--window: not a window: 'x'", "--window: no day of the week: 'mo'",
        "--except: ", "--soak: not a time: '1y'", "--slot: not a time: 'soon'",
        "--topology: ", "2026-11.toml:10", "--campaign: 'a b' is not", "max_out_count: with 0",
        "canary_per_variant: 0", "growth: waves cannot",
    ]  # fmt: skip
    assert [line[: len(start)] for line, start in zip(told, starts, strict=True)] == starts


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--deadline", "2020-01-01T00:00"], "deadline: 2020-01-01T00:00:00+00:00 leaves no time"),
        (["--deadline", "2026-11-22T00:00+01:00", "--slot", "1h"], "deadline: 2026-11-21T23:00:00+00:00"),
        (["--window", "Mon 10:00-10:10"], "windows: none is ever long enough: a slot takes 1800 s"),
        (["--per-block", "1"], "--per-block: needs --topology or --block-feature"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be(slurm, place, words, error):
    done = call(slurm, *words)
    assert done.exit_code == 1 and done.stderr.startswith(error) and slurm.asked == []


def test_no_room_is_no_plan(slurm, place):
    done = call(slurm, "--max-out", "1", "--deadline", "2026-11-21T23:33")
    assert (done.exit_code, done.stderr.strip()) == (0, "")
    slurm.nodes = slurm.nodes.replace("gsp:gsp-skew", "hands off")
    done = call(slurm, "--max-out", "1", "--out", "y.json")
    assert done.exit_code == 1
    assert done.stderr == "no node can be placed within these limits: no plan is written\n"
    assert "of at most 1 nodes are out already" in done.stdout
    assert not (place / "y.json").exists()


def test_blocks_from_topology_conf(slurm, place):
    (place / "topology.conf").write_text("SwitchName=s1 Nodes=n[1-4]\nSwitchName=s2 Nodes=n[5-8]\n")
    done = call(slurm, "--max-percent", "100", "--per-block", "1", "--topology", "topology.conf")
    assert done.exit_code == 0
    assert "at most 100 % of a partition out, at most 1 of a block" in done.stdout
    assert "block s2: 3 of at most 1 nodes are out already" in done.stdout


def test_a_profile_overlap_and_a_slurm_that_is_away(slurm, place):
    second = MANIFEST[MANIFEST.index("[profile") :].replace("profile.h100", "profile.other")
    (place / "2026-11.toml").write_text(MANIFEST + second.replace('gres = ["gpu:h100:2"]', 'nodes = "n2"'))
    done = call(slurm)
    assert (done.exit_code, done.stderr) == (
        1,
        "2026-11.toml: n2 fits the profiles h100 and other; it may fit one\n",
    )
    slurm.away = True
    done = call(slurm)
    assert done.exit_code == 1 and "Unable to contact slurm controller" in done.stderr


def test_a_terminal_is_not_told_what_to_do_by_a_reason(slurm, place):
    slurm.nodes = slurm.nodes.replace("Reason=psu", "Reason=psu\x1b[31m [bold]x[/bold]")
    done = call(slurm, "--max-out", "5")
    assert "\x1b" not in done.stdout and "[bold]x[/bold]" in done.stdout


def test_the_plan_is_json_for_any_reader(slurm, place):
    call(slurm, "--max-out", "5")
    data = json.loads((place / "2026-11.plan.json").read_text())
    assert data["format"] == "slurm-gsp plan 2"

"""The commands that carry campaigns out: what they send to Slurm, what they print, what they refuse."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_controller import NOW, SLOT, planned, twelve

from slurm_gsp import process
from slurm_gsp.campaign.planfile import dump_plan, seal
from slurm_gsp.campaign_cli import Outside
from slurm_gsp.cli import main

NODES = "".join(
    f"NodeName={node.name} Gres=gpu:{node.variant}:2 State=IDLE Partitions=gpu BootTime=2026-01-01T00:00:00\n"
    for node in twelve()
)


class Slurm:
    """Takes every change, and shows nodes that never change."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.away = False

    def __call__(self, argv, *, deadline_s, stdin=None, env=None):
        if argv == ("/usr/bin/scontrol",):
            return self.fed(argv, deadline_s, stdin)
        self.asked.append(" ".join(argv).replace("/usr/bin/", ""))
        if argv[0].startswith("/gate"):
            return process.Finished(tuple(argv), 1, "", f"{env['GSP_WAVE']} {env['GSP_NODES']}: alerts")
        if self.away:
            return process.Finished(
                tuple(argv), 1, "", "slurm_load_node error: Unable to contact slurm controller"
            )
        out = NODES if "node" in argv[-1:] else ""
        return process.Finished(tuple(argv), 0, out, "")

    def fed(self, argv, deadline_s, stdin):
        """A scontrol that reads its commands, reservations all of them, from stdin."""
        out, err = [], []
        for line in stdin.splitlines():
            if line.startswith("gsp-mark-"):
                err.append(f"invalid keyword: {line}\n")
                continue
            done = self((*argv, *line.split()), deadline_s=deadline_s)
            if done.rc == 0:
                out.append(f"Reservation created: {line.split()[2].removeprefix('reservationname=')}\n")
            else:
                err.append(f"{done.stderr}\n")
        return process.Finished(tuple(argv), 1, "".join(out), "".join(err))

    @property
    def changes(self) -> list[str]:
        reads = (
            "scontrol -a -o show",
            "scontrol -a -d -o show",
            "scontrol show config",
            "scontrol --version",
            "squeue",
        )
        return [line for line in self.asked if not line.startswith(reads)]


class Place:
    """A folder with a plan and a configuration."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.slurm = Slurm()
        self.now = NOW
        self.config(f'ledger = "sqlite:///{folder}/ledger.db"\npoll_s = 5\n')
        self.plan = planned(twelve())
        self.write(self.plan)

    def config(self, campaign: str, more: str = "") -> None:
        path = self.folder / "config.toml"
        path.write_text(f"[campaign]\n{campaign}{more}")
        path.chmod(0o600)

    def write(self, plan) -> Path:
        (self.folder / "c1.plan.json").write_text(dump_plan(plan))
        return self.folder / "c1.plan.json"

    def call(self, *words: str, config: bool = True) -> Result:
        outside = Outside(self.slurm, lambda: self.now, lambda _: None)
        options = ["--config", str(self.folder / "config.toml")] if config else []
        return CliRunner().invoke(main, [*words, *options], obj=outside, catch_exceptions=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    return Place(tmp_path)


def test_a_dry_run_prints_what_the_real_run_does(place):
    dry = place.call("schedule", "c1.plan.json", "--dry-run")
    assert dry.exit_code == 0 and place.slurm.changes == []
    told = [line.strip().replace("'", "") for line in dry.stdout.splitlines() if line.startswith("  ")]
    assert place.call("status").stdout.startswith("no campaign yet")
    done = place.call("schedule", "c1.plan.json")
    assert done.exit_code == 0, done.output
    assert sorted(place.slurm.changes) == sorted(told) and len(told) == 12  # two scontrol at once make them
    assert told[0].startswith("scontrol create reservation reservationname=gsp_c1_a100-1 starttime=now")
    assert "next: slurm-gsp run c1" in done.stdout


def test_the_client_is_told_and_one_that_does_not_fit_is_refused(place):
    dry = place.call("schedule", "c1.plan.json", "--dry-run")
    assert "\nSlurm would be changed through scontrol: pyslurm " in dry.stdout
    place.config(f'ledger = "sqlite:///{place.folder}/ledger.db"\n', '[slurm]\nbackend = "pyslurm"\n')
    for words in (("--dry-run",), ()):
        refused = place.call("schedule", "c1.plan.json", *words)
        assert refused.exit_code == 1 and 'backend = "pyslurm" in [slurm]: pyslurm ' in refused.stderr
    assert place.slurm.changes == []


def test_scheduled_twice_nothing_changes(place):
    place.call("schedule", "c1.plan.json")
    before = len(place.slurm.changes)
    again = place.call("schedule", "c1.plan.json")
    assert (again.exit_code, again.stdout) == (
        0, "campaign c1 is scheduled already (running): nothing to do\n",
    )  # fmt: skip
    assert len(place.slurm.changes) == before


def test_half_scheduled_it_is_finished(place):
    place.slurm.away = True
    failed = place.call("schedule", "c1.plan.json")
    assert failed.exit_code == 1 and "not all is reserved: run this again" in failed.stderr
    place.slurm.away = False
    assert place.call("run", "c1").stderr == (
        "campaign c1 is half scheduled: slurm-gsp schedule PLAN finishes that first\n"
    )
    assert place.call("schedule", "c1.plan.json").exit_code == 0
    assert len(place.slurm.changes) == 12


def test_a_step_that_finds_its_reservations_gone(place):
    """The stand-in shows no reservation: to the campaign, all of them were deleted by hand."""
    place.call("schedule", "c1.plan.json")
    dry = place.call("step", "c1", "--dry-run")
    assert "a100-1: reserved -> skipped: its reservation was deleted by hand" in dry.stdout
    assert json.loads(place.call("status", "c1", "--json").stdout)["nodes"][0]["phase"] == "reserved"
    for _ in range(2):
        assert place.call("step", "c1").exit_code == 0
    ended = place.call("run", "c1")
    assert ended.exit_code == 1
    assert (
        "campaign c1: halted: the gate after the canary is closed: no canary of variant 'a100'"
        in ended.stdout
    )
    told = json.loads(place.call("status", "c1", "--json").stdout)
    assert (told["status"], told["manifest"], told["previous"]) == ("halted", "2026-11", "2026-10")
    assert {node["to"] for node in told["nodes"]} == {"unchanged"}


def test_orders(place):
    place.call("schedule", "c1.plan.json")
    paused = place.call("pause", "c1")
    assert paused.stdout == "campaign c1: paused\nnobody runs it: slurm-gsp run c1 carries that out\n"
    assert place.call("pause", "c1").stderr == "campaign c1 is paused, not running: nothing changed\n"
    assert place.call("resume", "c1").exit_code == 0
    aborted = place.call("abort", "c1")
    assert aborted.exit_code == 0 and "halted" in aborted.stdout
    assert place.call("resume", "c1").exit_code == 1
    who = json.loads(place.call("status", "c1", "--json").stdout)["why"]
    assert who.startswith("aborted by ") and "@" in who


def test_history_of_a_node_and_of_a_campaign(place):
    place.call("schedule", "c1.plan.json")
    one = place.call("history", "h100-1").stdout
    assert "h100-1" in one and "unchanged" in one and "c1" in one
    events = [json.loads(line) for line in place.call("history", "h100-1", "--json").stdout.splitlines()]
    assert [event["kind"] for event in events] == ["decided", "intent", "done", "decided"]
    assert events[1]["what"] == "reserve" and events[1]["data"]["seconds"] == SLOT
    assert "scheduled: class standard" in place.call("history", "c1", "--all").stdout
    assert place.call("history", "n99").stderr == "the ledger knows no node and no campaign n99\n"


MISTAKES = {
    "no plan file": (("schedule", "none.json"), "none.json: there is no such file"),
    "a plan that was altered": (
        ("schedule", "altered.json"),
        "altered.json: the plan was altered after it was made",
    ),
    "no campaign": (("run", "c9"), "the ledger knows no campaign c9; it knows: none"),
    "no campaign to pause": (("pause", "c9"), "the ledger knows no campaign c9; it knows: none"),
    "no hostlist": (("lift", "n[1"), "not a hostlist"),
    "nothing to roll back": (("rollback", "n7"), "no campaign of the ledger has returned n7"),
}


@pytest.mark.parametrize(("words", "told"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_told_in_one_line(place, words, told):
    text = (place.folder / "c1.plan.json").read_text()
    (place.folder / "altered.json").write_text(text.replace("h100-2", "h100-9"))
    done = place.call(*words)
    assert done.exit_code == 1 and told in done.stderr and "Traceback" not in done.output


def test_without_publishing_a_campaign_is_not_run(place):
    place.call("schedule", "c1.plan.json")
    place.config(f'ledger = "sqlite:///{place.folder}/ledger.db"\n', '[verify]\npublish = "off"\n')
    assert 'publish = "off" in [verify]' in place.call("run", "c1").stderr


def test_a_bad_configuration(place):
    place.config("poll_s = -1\n")
    done = place.call("status")
    assert done.exit_code == 1 and "config.toml:2: [campaign] poll_s: -1 is out of range" in done.stderr


def test_a_plan_that_is_late_begins_now_as_a_whole(place):
    place.now = NOW + timedelta(hours=5)
    place.call("schedule", "c1.plan.json")
    starts = [node["start"] for node in json.loads(place.call("status", "c1", "--json").stdout)["nodes"]]
    assert min(starts) == "2026-11-16T14:00:00+00:00"
    assert max(starts) > "2026-11-16T14:30"


# -- approvals -----------------------------------------------------------------------------------------------


def key(folder: Path, name: str) -> Path:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True
    )
    return folder / name


def approving(place: Place, *names: str, approvals: int = 2) -> dict[str, Path]:
    """A plan that asks for approvals, and keys of people who may give them."""
    keys = {name: key(place.folder, name) for name in (*names, "mallory")}
    allowed = place.folder / "approvers"
    allowed.write_text("".join(f"{name}@x {(keys[name].with_suffix('.pub')).read_text()}" for name in names))
    place.config(f'ledger = "sqlite:///{place.folder}/ledger.db"\napprovers = "{allowed}"\n')
    place.write(seal(replace(place.plan, heading=replace(place.plan.heading, approvals=approvals))))
    return keys


def approve(place: Place, who: Path) -> None:
    done = place.call("approve", "c1.plan.json", "--key", str(who), config=False)
    assert done.exit_code == 0, done.output


def test_two_people_approve(place):
    keys = approving(place, "alice", "bob")
    refused = place.call("schedule", "c1.plan.json")
    assert refused.exit_code == 1 and "c1.plan.json: 0 of 2 approvals" in refused.stderr
    approve(place, keys["alice"])
    approve(place, keys["alice"])
    refused = place.call("schedule", "c1.plan.json")
    assert "1 of 2 approvals (by alice@x)" in refused.stderr and place.slurm.changes == []
    approve(place, keys["mallory"])
    refused = place.call("schedule", "c1.plan.json")
    assert "1 of 2 approvals (by alice@x)" in refused.stderr
    assert "c1.plan.json.3.sig: the key SHA256:" in refused.stderr and "is not in" in refused.stderr
    approve(place, keys["bob"])
    assert place.call("schedule", "c1.plan.json").exit_code == 0
    assert json.loads(place.call("status", "c1", "--json").stdout)["approved_by"] == ["alice@x", "bob@x"]


def test_an_approval_is_of_one_plan_alone(place):
    keys = approving(place, "alice", approvals=1)
    approve(place, keys["alice"])
    other = replace(place.plan, realign_s=SLOT + 1)
    place.write(seal(replace(other, heading=replace(other.heading, approvals=1))))
    refused = place.call("schedule", "c1.plan.json")
    assert refused.exit_code == 1 and "was altered after it was signed" in refused.stderr


def test_a_signature_over_a_manifest_approves_nothing(place):
    keys = approving(place, "alice", approvals=1)
    plan_digest = json.loads((place.folder / "c1.plan.json").read_text())["digest"]
    signed = subprocess.run(
        ["ssh-keygen", "-Y", "sign", "-q", "-n", "slurm-gsp-manifest", "-f", keys["alice"]],
        input=plan_digest, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (place.folder / "c1.plan.json.1.sig").write_text(signed)
    assert "for another purpose than slurm-gsp-plan" in place.call("schedule", "c1.plan.json").stderr


def test_approvals_that_nobody_may_give(place):
    place.write(seal(replace(place.plan, heading=replace(place.plan.heading, approvals=1))))
    refused = place.call("schedule", "c1.plan.json")
    assert "nobody may give any: set approvers in [campaign]" in refused.stderr


# -- back ----------------------------------------------------------------------------------------------------


def test_a_gate_command_is_told_the_wave_and_its_nodes(place):
    from slurm_gsp.campaign.state import AskGate  # noqa: PLC0415
    from slurm_gsp.campaign_cli import Site  # noqa: PLC0415
    from slurm_gsp.config import parse_config  # noqa: PLC0415

    site = Site(parse_config('[campaign]\ngates = [["/gate/alerts"]]', "c"), Outside(place.slurm))
    around = site.around(site.terms(place.plan))
    assert around.ask_gate(AskGate(1, ("n1", "n2", "n3"))) == (
        False, "/gate/alerts: exit status 1: 1 n[1-3]: alerts",
    )  # fmt: skip
    quiet = Site(parse_config("", "c"), Outside(place.slurm))
    assert quiet.around(quiet.terms(place.plan)).ask_gate(AskGate(0, ("n1",))) == (True, "")


def test_who_is_behind_sudo_is_told(place, monkeypatch):
    monkeypatch.setitem(os.environ, "SUDO_USER", "alice")
    place.call("schedule", "c1.plan.json")
    assert json.loads(place.call("status", "c1", "--json").stdout)["created_by"].startswith("alice@")

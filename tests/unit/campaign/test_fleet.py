"""What Slurm says of a whole fleet, recorded on a real one, and the planner's nodes made of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slurm_gsp import process
from slurm_gsp.campaign.fleet import Topology, as_fleet, node_facts
from slurm_gsp.campaign.model import NEVER, FleetNode, Reservation
from slurm_gsp.manifest.match import Assignment
from slurm_gsp.manifest.model import Manifest, Matcher, Packages, Profile
from slurm_gsp.slurm.client import ControllerAway, Denied, NodeState, SlurmError, SlurmMissing, SlurmTimeout
from slurm_gsp.slurm.fleet import (
    FleetText,
    expand,
    parse_fleet,
    parse_jobs,
    parse_reservations,
    parse_topology,
    published_driver,
    read_fleet,
)

RECORDED = Path(__file__).parent / "recorded"
NOW = datetime(2026, 11, 21, 23, 1, 30, tzinfo=UTC)
BOOTED = "2026-11-21T21:33:29"
TOLD = '{"nvidia_driver":"580.95.05","gsp_seen":"b1","gsp_booted":"2026-11-21T21:33:30Z"}'


def recorded(release: str = "22.05.8") -> FleetText:
    text = FleetText(
        *((RECORDED / release / f"{name}.txt").read_text() for name in ("nodes", "jobs", "reservations"))
    )
    return replace(text, nodes=text.nodes.replace('Extra={"nvidia_driver":"580.95.05"}', f"Extra={TOLD}"))


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def manifest(*profiles: str) -> Manifest:
    pins = tuple(Profile(name, Matcher(), "580.95.05", "open", 2, False, Packages()) for name in profiles)
    return Manifest("2026-11", None, NOW, pins)


def test_a_recorded_fleet_as_the_planner_sees_it():
    seen = parse_fleet(recorded(), NOW)
    profiles = tuple((f"n{number}", "h100") for number in range(1, 8))
    fleet = as_fleet(seen, manifest("h100"), Assignment(profiles, ("n8",)), Topology(block_of={"n1": "s1"}))
    course = Reservation("course", utc("2026-11-23T23:00:49"), utc("2026-11-24T01:00:49"))
    with_ib, bare = "h100 gpu:h100:2 ib", "h100 gpu:h100:2"
    drained = ("IDLE", "DRAIN")
    both, three, side = ("main", "gpu"), ("main", "gpu", "debug"), ("main", "debug")

    def node(
        name: str, variant: str, partitions: tuple[str, ...], *states: str, **fields: object
    ) -> FleetNode:
        values = {"profile": "h100", "pinned": "580.95.05", **fields}
        return FleetNode(
            name=name, variant=variant, partitions=partitions, states=frozenset(states), **values
        )

    assert fleet[:7] == (
        node("n1", with_ib, both, "MIXED", block="s1", busy_until=utc("2026-11-24T23:00:51")),
        node("n2", with_ib, both, "MIXED", driver="580.95.05", busy_until=utc("2026-11-22T00:30:51")),
        node("n3", with_ib, both, *drained, reason="gsp:gsp-skew loaded=580.95.05", reason_user="root"),
        node("n4", with_ib, both, *drained, reason="fan Nodes=x Gres=y [root@now]", reason_user="root"),
        node("n5", bare, both, "DOWN", reason="psu", reason_user="root"),
        node(
            "n6", bare, three, "MIXED", "REBOOT_REQUESTED",
            reason="reboot requested", reason_user="root", busy_until=NEVER,
        ),
        node("n7", bare, side, "IDLE", reservations=(course,)),
    )  # fmt: skip
    last = fleet[7]
    assert (last.profile, last.variant, last.pinned) == (None, "- gpu:h100:2", None)
    assert last.states == {"IDLE", "MAINTENANCE", "RESERVED"}
    assert [held.name for held in last.reservations[:3]] == ["fixing", "fixing now", "nightly"]
    assert all(held.maint for held in last.reservations)
    assert {node.name: node.why_not(NOW) for node in fleet} == {
        "n1": None,
        "n2": "already right: 580.95.05",
        "n3": None,
        "n4": "drained by others: fan Nodes=x Gres=y [root@now] (root)",
        "n5": "down: psu (root)",
        "n6": "a reboot through Slurm is under way",
        "n7": None,
        "n8": "no profile of the manifest matches it",
    }


def test_blocks_and_variants_by_feature():
    line = (
        "NodeName=n1 Gres=gpu:h100:4(S:0),gpu:h100:4(S:1),nic:1 State=IDLE "
        "AvailableFeatures=rack-7,ib,driver-580 Partitions=p\n"
    )
    seen = parse_fleet(FleetText(line, "", ""), NOW)
    assigned = Assignment((("n1", "h"),))
    plain = as_fleet(seen, manifest("h"), assigned)[0]
    assert (plain.variant, plain.block) == ("h gpu:h100:4,gpu:h100:4 ib,rack-7", None)
    blocks = as_fleet(seen, manifest("h"), assigned, Topology(block_feature="rack-*"))[0]
    assert (blocks.variant, blocks.block) == ("h gpu:h100:4,gpu:h100:4 ib", "rack-7")
    racks = as_fleet(seen, manifest("h"), assigned, Topology({"n1": "r9"}, "rack-*", variant_by_block=True))[
        0
    ]
    assert (racks.variant, racks.block) == ("h gpu:h100:4,gpu:h100:4 ib r9", "r9")
    assert node_facts(seen)[0].features == ("rack-7", "ib", "driver-580")
    assert node_facts(seen)[0].gres == ("gpu:h100:4", "gpu:h100:4", "nic:1")


def test_jobs():
    text = (
        "1|RUNNING|1:30:00|2026-11-22T00:29:47|n[1-3]\n"
        "2|COMPLETING|3-00:00:00|2026-11-24T22:59:47|n1\n"
        "3|RUNNING|UNLIMITED|2027-11-21T22:59:47|n3,x4\n"
        "4|CONFIGURING|10:00|N/A|n5\n\n"
        "5|RUNNING|10:00|2026-11-22T00:00:00|\n"
    )
    early, late = utc("2026-11-22T00:29:47"), utc("2026-11-24T22:59:47")
    assert parse_jobs(text) == {"n1": late, "n2": early, "n3": NEVER, "x4": NEVER, "n5": NEVER}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("1|RUNNING|10:00|n1", "not a job as asked of squeue"),
        ("1|RUNNING|10:00|soon|n1", "not a time as Slurm writes it: 'soon'"),
        ("1|RUNNING|10:00|2026-11-22T00:29:47|n[1-", "not a hostlist: 'n[1-'"),
    ],
)
def test_jobs_that_are_none(text, error):
    with pytest.raises(SlurmError) as caught:
        parse_jobs(text)
    assert error in str(caught.value)


def reserved(flags: str, start: str = "2026-11-20T10:00:00", end: str = "2026-11-20T12:00:00") -> list[str]:
    line = f"ReservationName=r StartTime={start} EndTime={end} Nodes=n1 Flags={flags} Users=root"
    held = parse_reservations(line, NOW).get("n1", ())
    return [f"{one.start:%a %d.%H}-{one.end:%d.%H}" for one in held]


def test_reservations_that_recur_are_followed():
    assert reserved("SPEC_NODES") == []
    assert reserved("SPEC_NODES", end="2026-11-22T00:00:00") == ["Fri 20.10-22.00"]
    assert reserved("DAILY,SPEC_NODES")[:2] == ["Sun 22.10-22.12", "Mon 23.10-23.12"]
    assert len(reserved("DAILY,SPEC_NODES")) == 60
    assert reserved("WEEKLY")[:2] == ["Fri 27.10-27.12", "Fri 04.10-04.12"]
    assert reserved("WEEKDAY")[:2] == ["Mon 23.10-23.12", "Tue 24.10-24.12"]
    assert reserved("WEEKEND")[:3] == ["Sun 22.10-22.12", "Sat 28.10-28.12", "Sun 29.10-29.12"]
    (always,) = parse_reservations(
        "ReservationName=r StartTime=2026-11-20T10:00:00 EndTime=2026-11-20T10:10:00 Nodes=n1 Flags=HOURLY",
        NOW,
    )["n1"]
    assert (always.start, always.end) == (utc("2026-11-20T10:00:00"), NOW + timedelta(days=60))


def test_no_reservations_and_those_without_nodes():
    assert parse_reservations("No reservations in the system\n", NOW) == {}
    licenses = (
        "ReservationName=l StartTime=2026-11-22T10:00:00 EndTime=2026-11-22T12:00:00 Nodes=(null) Flags=ANY"
    )
    assert parse_reservations(licenses, NOW) == {}
    with pytest.raises(SlurmError, match="not a reservation as scontrol writes it"):
        parse_reservations("ReservationName=x Nodes=n1", NOW)


def test_text_without_nodes_is_refused():
    with pytest.raises(SlurmError, match="no node in what scontrol said"):
        parse_fleet(FleetText("slurm is away\n", "", ""), NOW)


@pytest.mark.parametrize(
    ("extra", "comment", "booted", "driver"),
    [
        (TOLD, "", BOOTED, "580.95.05"),
        (TOLD, "", "2026-11-21T22:33:29", None),
        (TOLD, "", "None", None),
        ("", f"rack 7 gsp:{TOLD}", BOOTED, "580.95.05"),
        (TOLD.replace("580.95.05", ""), "", BOOTED, None),
        ('{"nvidia_driver":"580.95.05"}', "", BOOTED, None),
        ('{"gsp_seen":58}', "", BOOTED, None),
        ("gsp_seen=580", "", BOOTED, None),
        ("", "", BOOTED, None),
    ],
)
def test_the_driver_counts_that_was_published_since_the_boot(extra, comment, booted, driver):
    state = NodeState("n1", frozenset({"IDLE"}), "", "", "", (), "", comment, extra, booted)
    assert published_driver(state) == driver


@pytest.mark.parametrize(
    ("hosts", "names"),
    [
        ("n1", ("n1",)), ("n1,x2", ("n1", "x2")), ("n[08-10,12]", ("n08", "n09", "n10", "n12")),
        ("r[1-2]n[1-2]", ("r1n1", "r1n2", "r2n1", "r2n2")), ("(null)", ()), ("", ()),
    ],
)  # fmt: skip
def test_hostlists(hosts, names):
    assert expand(hosts) == names


def test_topology():
    text = (
        "# leaves\nSwitchName=s0 Nodes=n[1-2] LinkSpeed=100\nswitchname = s1 nodes = n3,\\\nn4\n"
        "SwitchName=top Switches=s[0-1]\nBlockName=b1 Nodes=m[1-2]\nBlockSizes=2\n"
    )
    assert parse_topology(text) == {
        "n1": "s0", "n2": "s0", "n3": "s1", "n4": "s1", "m1": "b1", "m2": "b1",
    }  # fmt: skip


class Script:
    """Answers in turn, and what was asked."""

    def __init__(self, *answers: process.Finished | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []
        self.env: list[dict[str, str]] = []

    def __call__(self, argv, *, deadline_s, env=None):
        self.asked.append(tuple(argv))
        self.env.append(dict(env))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def said(stdout: str = "", rc: int = 0, stderr: str = "") -> process.Finished:
    return process.Finished(("scontrol",), rc, stdout, stderr)


def test_three_reads_in_utc_whatever_the_size():
    script = Script(said("nodes"), said("reservations"), said("jobs"))
    assert read_fleet(script, conf="/etc/slurm.conf") == FleetText("nodes", "jobs", "reservations")
    assert [argv[0].rpartition("/")[2] for argv in script.asked] == ["scontrol", "scontrol", "squeue"]
    assert all(env["TZ"] == "UTC0" and env["SLURM_CONF"] == "/etc/slurm.conf" for env in script.env)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (said(rc=1, stderr="slurm_load_node error: Unable to contact slurm controller"), ControllerAway),
        (said(stderr="slurm_load_node error: Invalid user id"), Denied),
        (said(rc=1, stdout="something"), SlurmError),
        (process.CommandMissing("no scontrol"), SlurmMissing),
        (process.DeadlineExceeded("60 s"), SlurmTimeout),
        (process.ProcessError("cut"), SlurmError),
    ],
)  # fmt: skip
def test_slurm_does_not_answer(answer, kind):
    with pytest.raises(kind) as caught:
        read_fleet(Script(answer))
    assert type(caught.value) is kind
    assert "scontrol -a -o show node" in str(caught.value)

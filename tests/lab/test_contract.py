"""What every Slurm client must do, on a real Slurm: one suite for scontrol and pyslurm.

It runs on the lab's Slurm; on any other one with SLURM_GSP_CONTRACT_SLURM=/usr, say: the prefix below which
bin/scontrol and sbin/slurmctld are. A client that does not fit the Slurm at hand is skipped, with the reason.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from contract import NOBODY, NODES, Ground, lab_ground, own_ground, scontrol, wait_for
from unit.slurm.standin_pyslurm import API, names, properties

from slurm_gsp.lab import golden, releases, suite
from slurm_gsp.slurm.admin import (
    Busy,
    Drained,
    Exists,
    Held,
    Moved,
    NoReservation,
    Rebooted,
    Released,
    Resumed,
    ScontrolAdmin,
    SlurmAdmin,
    Wanted,
)
from slurm_gsp.slurm.choose import choose
from slurm_gsp.slurm.client import ControllerAway, Denied, SlurmError, UnknownNode
from slurm_gsp.slurm.pyslurm_backend import PyslurmAdmin, load_pyslurm
from slurm_gsp.slurm.scontrol import parse_node

PREFIX = os.environ.get("SLURM_GSP_CONTRACT_SLURM", "")
OWN = "own"
NONE = "no-such-node"
HOUR = timedelta(hours=1)
SLEEP = "#!/bin/sh\nsleep 300\n"
LABS = [
    pytest.param(releases.HOST, id="host", marks=pytest.mark.lab),
    *(
        pytest.param(row.suite, id=row.slurm, marks=[pytest.mark.lab, pytest.mark.matrix])
        for row in releases.RELEASES
        if row.suite != releases.HOST
    ),
]


@pytest.fixture(scope="module", params=[OWN] if PREFIX else LABS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    if request.param == OWN:
        with own_ground(Path(PREFIX)) as running:
            yield running
        return
    cached = request.param == releases.HOST or suite.is_cached(golden.DEFAULT_CACHE, request.param)
    if not cached and not os.environ.get("SLURM_GSP_MATRIX"):
        pytest.skip(f"{request.param} is not built yet: SLURM_GSP_MATRIX=1 (make test-matrix) builds it")
    with lab_ground(request.param) as running:
        yield running


@pytest.fixture(scope="module", params=["scontrol", "pyslurm"])
def slurm(request: pytest.FixtureRequest, ground: Ground) -> SlurmAdmin:
    by_commands = by_scontrol(ground)
    if request.param == "scontrol":
        return by_commands
    try:
        choose("pyslurm", ground.place, ground.run)
    except SlurmError as error:
        pytest.skip(str(error))
    return PyslurmAdmin(load_pyslurm(ground.place.conf), by_commands)


@pytest.fixture(autouse=True)
def fresh(ground: Ground) -> Iterator[None]:
    """Nothing is left of a test: no job, no reservation, every node idle."""
    yield
    scancel = Path(ground.place.scontrol).with_name("scancel")
    ground.run((str(scancel), "-u", "root"), deadline_s=20, env={"SLURM_CONF": str(ground.place.conf)})
    wait_for(lambda: not {"ALLOCATED", "MIXED", "COMPLETING"} & flags(ground), "the jobs to end")
    for name in re.findall(r"ReservationName=(\S+)", scontrol(ground, "-o", "show", "reservation")):
        scontrol(ground, "delete", f"reservationname={name}")
    for node in NODES:
        if states(ground, node) != {"IDLE"}:
            scontrol(ground, "update", f"nodename={node}", "state=down", "reason=restore")
            scontrol(ground, "update", f"nodename={node}", "state=resume")
        texts = ("comment=", "extra=", "availablefeatures=", "activefeatures=")
        scontrol(ground, "update", f"nodename={node}", *texts)
    wait_for(lambda: flags(ground) == {"IDLE"}, "all nodes idle", 60)


def by_scontrol(ground: Ground) -> ScontrolAdmin:
    place = ground.place
    return ScontrolAdmin(
        ground.run, scontrol=place.scontrol, conf=place.conf, deadline_s=20, converse=ground.converse
    )


def raw(ground: Ground, node: str = "n1"):
    """The node as this release's scontrol writes it."""
    return parse_node(scontrol(ground, "-o", "show", "node", node).strip())


def states(ground: Ground, node: str = "n1") -> frozenset[str]:
    return raw(ground, node).states


def flags(ground: Ground) -> set[str]:
    return {flag for node in NODES for flag in states(ground, node)}


def reserved(ground: Ground, name: str) -> dict[str, str]:
    """A reservation as scontrol shows it; {} for none."""
    shown = scontrol(ground, "-o", "show", "reservation", name, check=False)
    return dict(re.findall(r"(\w+)=(\S*)", shown))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def busy(slurm: SlurmAdmin, ground: Ground, *options: str) -> str:
    """A job that runs on n1 for an hour."""
    words = ["--nodelist=n1", "--exclusive", "--time=60", "--output=/dev/null", "--chdir=/", *options]
    job = slurm.submit(SLEEP, words)
    wait_for(lambda: "ALLOCATED" in states(ground), "the job to run")
    return job


def later() -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + 24 * HOUR


# -- reading -------------------------------------------------------------------------------------------------


def reserve_now(slurm: SlurmAdmin, ground: Ground) -> None:
    slurm.reserve("r1", "n1", (datetime.now(UTC), 3600), ["root"], ignore_jobs=False)
    wait_for(lambda: {"MAINTENANCE", "RESERVED"} <= states(ground), "the reservation in the node's state")


def tell_all(slurm: SlurmAdmin, ground: Ground) -> None:
    slurm.annotate("n1", "comment", "rack 7 = left [x]")
    slurm.annotate("n1", "extra", '{"a":"b c","State":"DOWN"}')
    slurm.put_back("n1", "disk failed = see 't/12' today, admin Partitions=none State=IDLE")


SIGHTS = {
    "idle": lambda slurm, ground: None,
    "drained": lambda slurm, ground: slurm.drain("n1", "gsp:umd-skew kmd=1 umd=2"),
    "odd texts": tell_all,
    "down": lambda slurm, ground: scontrol(ground, "update", "nodename=n1", "state=down", "reason=fan"),
    "a job": busy,
    "a job on a drained node": lambda slurm, ground: (busy(slurm, ground), slurm.drain("n1", "fan")),
    "a part of it": lambda slurm, ground: (
        slurm.submit(SLEEP, ["--nodelist=n1", "--ntasks=1", "--time=60", "--output=/dev/null", "--chdir=/"]),
        wait_for(lambda: "MIXED" in states(ground), "the job to run"),
    ),
    "features": lambda slurm, ground: scontrol(
        ground, "update", "nodename=n1", "availablefeatures=ib,driver-580.95.05", "activefeatures=ib"
    ),
    "in maintenance": reserve_now,
    "a reboot is due": lambda slurm, ground: (busy(slurm, ground), slurm.reboot("n1", "gsp:realign c1")),
}


@pytest.mark.parametrize("make", SIGHTS.values(), ids=SIGHTS)
def test_a_node_is_read_as_scontrol_writes_it(slurm: SlurmAdmin, ground: Ground, make) -> None:
    make(slurm, ground)
    assert slurm.node("n1") == raw(ground)
    listed = {node.name: node for node in slurm.partition_nodes(["main"])}
    assert listed == {name: raw(ground, name) for name in NODES}


def test_the_nodes_of_partitions(slurm: SlurmAdmin) -> None:
    assert [node.name for node in slurm.partition_nodes(["main", "main", "none"])] == list(NODES)
    assert slurm.partition_nodes([]) == slurm.partition_nodes(["none"]) == ()


# -- drains --------------------------------------------------------------------------------------------------


def test_drain_and_resume(slurm: SlurmAdmin, ground: Ground) -> None:
    slurm.drain("n1", "first")
    slurm.drain("n1", "second, over the first")
    assert (states(ground), raw(ground).reason) == ({"IDLE", "DRAIN"}, "second, over the first")
    assert raw(ground).reason_user == "root"
    slurm.resume("n1")
    wait_for(lambda: states(ground) == {"IDLE"}, "n1 idle")
    slurm.resume("n1")
    assert states(ground) == {"IDLE"}


@pytest.mark.parametrize("reason", ["", " ", 'a "b"', "a\nb", "x" * 121, "ä"])
def test_a_bad_reason_changes_nothing(slurm: SlurmAdmin, ground: Ground, reason: str) -> None:
    for call in (
        slurm.drain,
        slurm.reboot,
        lambda node, text: slurm.drain_unless(node, text, lambda _: False),
    ):
        with pytest.raises(ValueError, match="Reason"):
            call("n1", reason)
    assert states(ground) == {"IDLE"}


def test_drain_unless(slurm: SlurmAdmin, ground: Ground) -> None:
    slurm.put_back("n1", "fan")
    kept = slurm.drain_unless("n1", "ours", lambda seen: seen.reason == "fan")
    assert (kept.reason, raw(ground).reason) == ("fan", "fan")
    seen = slurm.drain_unless("n2", "ours", lambda seen: seen.drained)
    assert (seen.states, raw(ground, "n2").reason) == ({"IDLE"}, "ours")


def test_a_drain_of_others_is_put_back(slurm: SlurmAdmin, ground: Ground) -> None:
    slurm.put_back("n1", "the big\n fan")
    slurm.put_back("n2", "")
    assert raw(ground).reason == "the big fan" and "DRAIN" in states(ground)
    assert raw(ground, "n2").reason == "drained before maintenance, without a Reason"


# -- reservations --------------------------------------------------------------------------------------------


def test_a_reservation_from_its_beginning_to_its_end(slurm: SlurmAdmin, ground: Ground) -> None:
    start = later()
    slurm.reserve("r1", "n1", (start, 5430), ["root", "daemon"], ignore_jobs=True)
    shown = reserved(ground, "r1")
    assert (at(shown["StartTime"]), at(shown["EndTime"])) == (start, start + timedelta(minutes=91))
    assert (shown["Nodes"], shown["Users"], shown["State"]) == ("n1", "root,daemon", "INACTIVE")
    assert set(shown["Flags"].split(",")) == {"MAINT", "IGNORE_JOBS", "SPEC_NODES"}
    with pytest.raises(Exists):
        slurm.reserve("r1", "n2", (start, 60), ["root"], ignore_jobs=False)
    slurm.move("r1", (start + HOUR, 60))
    shown = reserved(ground, "r1")
    assert (at(shown["StartTime"]), at(shown["EndTime"])) == (
        start + HOUR,
        start + HOUR + timedelta(minutes=1),
    )
    slurm.hold("r1", "n2")
    shown = reserved(ground, "r1")
    assert at(shown["EndTime"]) - at(shown["StartTime"]) == timedelta(days=365)
    assert (shown["Nodes"], shown["Users"]) == ("n2", "root,daemon")
    slurm.hold("r1")
    assert reserved(ground, "r1") == shown
    slurm.release("r1")
    assert "r1" not in scontrol(ground, "-o", "show", "reservation")
    for call in (slurm.release, slurm.hold, lambda name: slurm.move(name, (start, 60))):
        with pytest.raises(NoReservation):
            call("r1")


def test_from_now_and_without_end(slurm: SlurmAdmin, ground: Ground) -> None:
    slurm.reserve("r1", "n1", (datetime.now(UTC) - HOUR, None), ["root"], ignore_jobs=False)
    shown = reserved(ground, "r1")
    assert at(shown["EndTime"]) - at(shown["StartTime"]) == timedelta(days=365)
    assert abs(at(shown["StartTime"]) - datetime.now(UTC)) < timedelta(seconds=20)
    assert shown["State"] == "ACTIVE"
    with pytest.raises(SlurmError):  # it has begun
        slurm.move("r1", (later(), 60))
    slurm.hold("r1", "n1")


def test_busy_nodes(slurm: SlurmAdmin, ground: Ground) -> None:
    busy(slurm, ground)
    now = datetime.now(UTC)
    with pytest.raises(Busy):
        slurm.reserve("r1", "n1", (now, 3600), ["root"], ignore_jobs=False)
    slurm.reserve("r1", "n1", (now + 2 * HOUR, 3600), ["root"], ignore_jobs=False)
    slurm.reserve("r2", "n1", (now, 3600), ["root"], ignore_jobs=True)


def test_maintenance_may_overlap(slurm: SlurmAdmin, ground: Ground) -> None:
    span = (later(), 3600)
    slurm.reserve("r1", "n1", span, ["root"], ignore_jobs=False)
    slurm.reserve("r2", "n1", span, ["root"], ignore_jobs=False)
    assert {reserved(ground, name)["Nodes"] for name in ("r1", "r2")} == {"n1"}


def test_a_reservation_in_which_a_job_runs(slurm: SlurmAdmin, ground: Ground) -> None:
    reserve_now(slurm, ground)
    job = busy(slurm, ground, "--reservation=r1")
    with pytest.raises(Busy):
        slurm.release("r1")
    slurm.cancel(job)
    wait_for(lambda: "ALLOCATED" not in states(ground), "the job to end")
    slurm.release("r1")


def test_a_reservation_moves_over_a_job_where_that_is_asked_for(slurm: SlurmAdmin, ground: Ground) -> None:
    """Again and again, in front of the job; it stays so."""
    job = busy(slurm, ground)
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=10)
    slurm.reserve("r1", "n1", (later(), 60), ["root"], ignore_jobs=False)
    with pytest.raises(Busy):
        slurm.move("r1", (soon, 600))
    slurm.move("r1", (soon, 600), ignore_jobs=True)
    assert {"MAINT", "IGNORE_JOBS"} <= set(reserved(ground, "r1")["Flags"].split(","))
    for minutes in (5, 7):
        again = soon + timedelta(minutes=minutes)
        assert slurm.change_many([Moved("r1", (again, 600), ignore_jobs=True), Released("r9")])[0] is None
        begins = datetime.fromisoformat(reserved(ground, "r1")["StartTime"]).replace(tzinfo=UTC)
        assert abs(begins - again) < timedelta(minutes=1)
    assert "ALLOCATED" in states(ground) and "MAINTENANCE" not in states(ground)
    slurm.cancel(job)
    wait_for(lambda: "ALLOCATED" not in states(ground), "the job to end")


def test_many_are_as_many_single_ones(slurm: SlurmAdmin, ground: Ground) -> None:
    """Each answer is of its own request, in its place; one that is refused stops none."""
    busy(slurm, ground)
    start = later()
    slurm.reserve("there", "n2", (start, 60), ["root"], ignore_jobs=False)
    now = datetime.now(UTC)
    wanted = [
        Wanted("r1", "n1", (start, 60), ("root",)),
        Wanted("there", "n3", (start, 60), ("root",)),
        Wanted("r2", NONE, (start, 60), ("root",)),
        Wanted("r3", "n1", (now, 3600), ("root",)),
        Wanted("r4", "n1", (now, None), ("root", "daemon"), ignore_jobs=True),
        Wanted("r5", "n3", (start, 60), ("nobody-of-this-name",)),
        *(Wanted(f"s{number}", "n3", (start, 60), ("root",)) for number in range(20)),
    ]
    answers = slurm.change_many(wanted)
    singly = []
    for one in wanted:
        if one.name != "there" and reserved(ground, one.name):
            slurm.release(one.name)
        try:
            slurm.reserve(one.name, one.node, one.span, one.users, ignore_jobs=one.ignore_jobs)
        except SlurmError as error:
            singly.append(type(error))
        else:
            singly.append(type(None))
    assert [type(answer) for answer in answers] == singly
    assert singly[:5] == [type(None), Exists, UnknownNode, Busy, type(None)]
    assert set(singly[6:]) == {type(None)} and issubclass(singly[5], SlurmError)
    assert slurm.change_many([]) == ()


def test_many_changes_of_all_kinds(slurm: SlurmAdmin, ground: Ground) -> None:
    """A wave's: reservations held, moved and deleted; nodes drained with one Reason, and resumed."""
    start = later()
    for name, node in (("r1", "n1"), ("r2", "n2"), ("r3", "n3")):
        slurm.reserve(name, node, (start, 60), ["root"], ignore_jobs=False)
    reason = "gsp:realign c1 to=2026-11@0123456789ab try=1 id=0123abcd"
    other = start.replace(year=start.year + 1)
    answers = slurm.change_many([
        Held("r1", "n1"),
        Moved("r2", (other, 120)),
        Released("r3"),
        Released("r4"),
        Moved("r5", (other, 120)),
        Drained("n1", reason),
        Drained("n2", reason),
        Drained("n3", "fan 'two', slow"),
    ])  # fmt: skip
    assert [type(answer) for answer in answers] == [
        *[type(None)] * 3, NoReservation, NoReservation, *[type(None)] * 3,
    ]  # fmt: skip
    found = {node: slurm.node(node) for node in ("n1", "n2", "n3")}
    assert {node: state.reason for node, state in found.items()} == {
        "n1": reason, "n2": reason, "n3": "fan 'two', slow",
    }  # fmt: skip
    assert all("DRAIN" in state.states for state in found.values())
    assert not reserved(ground, "r3")
    day = timedelta(days=1)
    ends = [datetime.fromisoformat(reserved(ground, name)["EndTime"]) for name in ("r1", "r2")]
    starts = [datetime.fromisoformat(reserved(ground, name)["StartTime"]) for name in ("r1", "r2")]
    assert ends[0] - starts[0] > 300 * day and ends[1] - starts[1] == timedelta(minutes=2)
    assert starts[1] - starts[0] > 300 * day
    resumed = slurm.change_many([*(Resumed(node) for node in ("n1", "n2", "n3")), Released("r1")])
    assert set(resumed) == {None} and not any(slurm.node(node).drained for node in found)
    unknown, *_ = slurm.change_many([Drained(NONE, "fan"), Drained("n1", "fan")])
    assert isinstance(unknown, UnknownNode) and slurm.node("n1").reason == "fan"


def test_many_reboots(slurm: SlurmAdmin, ground: Ground) -> None:
    """Each is asked for once: of a node whose reboot is under way the answer says so."""
    job = busy(slurm, ground)
    asked = [Rebooted("n1", "gsp:realign c1"), Rebooted(NONE, "gsp:realign c1")]
    first = slurm.change_many(asked)
    assert first[0] is None and isinstance(first[1], SlurmError)
    assert {"DRAIN", "REBOOT_REQUESTED"} <= states(ground) and raw(ground).reason == "gsp:realign c1"
    singly = []
    for node in ("n1", NONE):
        try:
            slurm.reboot(node, "gsp:realign c1")
        except SlurmError as error:
            singly.append(type(error))
        else:
            singly.append(type(None))
    assert [type(answer) for answer in slurm.change_many(asked)] == singly
    scontrol(ground, "cancel_reboot", "n1")
    slurm.cancel(job)
    wait_for(lambda: "ALLOCATED" not in states(ground), "the job to end")


# -- reboots and jobs ----------------------------------------------------------------------------------------


def test_a_reboot_and_a_job(slurm: SlurmAdmin, ground: Ground) -> None:
    job = busy(slurm, ground)
    slurm.reboot("n1", "gsp:realign c1")
    assert {"DRAIN", "REBOOT_REQUESTED"} <= states(ground) and raw(ground).reason == "gsp:realign c1"
    scontrol(ground, "cancel_reboot", "n1")
    slurm.cancel(job)
    slurm.cancel(job)
    wait_for(lambda: "ALLOCATED" not in states(ground), "the job to end")


# -- errors --------------------------------------------------------------------------------------------------

CHANGES = {
    "drain": lambda slurm, node: slurm.drain(node, "fan"),
    "put back": lambda slurm, node: slurm.put_back(node, "fan"),
    "annotate": lambda slurm, node: slurm.annotate(node, "comment", "text"),
    "resume": lambda slurm, node: slurm.resume(node),
    "reserve": lambda slurm, node: slurm.reserve("rx", node, (later(), 60), ["root"], ignore_jobs=False),
    "drain unless": lambda slurm, node: slurm.drain_unless(node, "fan", lambda _: False),
}
READS = {
    "node": lambda slurm, node: slurm.node(node),
    "nodes": lambda slurm, node: slurm.partition_nodes(["main"]),
}


@pytest.mark.parametrize("call", [*CHANGES.values(), READS["node"]], ids=[*CHANGES, "node"])
def test_an_unknown_node(slurm: SlurmAdmin, call) -> None:
    with pytest.raises(UnknownNode):
        call(slurm, NONE)


def test_the_stand_in_has_names_of_the_real_one(slurm: SlurmAdmin) -> None:
    """The unit tests of the client for pyslurm rest on this."""
    if isinstance(slurm, ScontrolAdmin):
        pytest.skip("only pyslurm has a stand-in")
    module = load_pyslurm()
    for line in API.read_text().splitlines():
        name, _, listed = line.partition(" METHODS: ")
        if listed:
            missing = set(listed.split(", ")) - set(dir(getattr(module, name)))
            assert not missing, name
            assert properties(name) <= set(dir(getattr(module, name))), name
    assert {flag.name for flag in module.ReservationFlags} == names("ReservationFlags NAMES")
    assert issubclass(module.RPCError, module.PyslurmError)


@pytest.mark.parametrize("call", CHANGES.values(), ids=CHANGES)
def test_a_user_may_nothing(slurm: SlurmAdmin, ground: Ground, call) -> None:
    slurm.drain("n1", "ours")  # so that there is something to resume
    slurm.reserve("r1", "n2", (later(), 60), ["root"], ignore_jobs=False)
    others = {"release": lambda slurm, _: slurm.release("r1"), "hold": lambda slurm, _: slurm.hold("r1")}
    many = [Wanted(f"r{number}", "n2", (later(), 60), ("root",)) for number in (2, 3)]
    for each in (call, *others.values()):
        assert as_nobody(slurm, ground, lambda user, each=each: each(user, "n1")) == "Denied"

    def make_many(user: SlurmAdmin) -> None:
        for answer in user.change_many(many):
            assert isinstance(answer, Denied), answer
        raise Denied("all")

    assert as_nobody(slurm, ground, make_many) == "Denied"
    assert raw(ground).reason == "ours" and reserved(ground, "r1")["Nodes"] == "n2"


def as_nobody(slurm: SlurmAdmin, ground: Ground, call: Callable[[SlurmAdmin], object]) -> str:
    """The name of the error that a call ends in for an ordinary user; empty for none."""
    if isinstance(slurm, ScontrolAdmin):
        return _error(by_scontrol(ground.nobody()), call)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(writing, _error(slurm, call).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read().decode()
    os.waitpid(child, 0)
    return told


def _error(slurm: SlurmAdmin, call: Callable[[SlurmAdmin], object]) -> str:
    try:
        call(slurm)
    except SlurmError as error:
        return type(error).__name__
    return ""


def test_the_controller_is_away(slurm: SlurmAdmin, ground: Ground) -> None:
    calls = {**CHANGES, **READS, "release": lambda slurm, _: slurm.release("r1")}
    ground.stop_controller()
    try:
        for call in calls.values():
            with pytest.raises(ControllerAway):
                call(slurm, "n1")
        many = [Wanted(f"r{number}", "n1", (later(), 60), ("root",)) for number in (2, 3)]
        assert [type(answer) for answer in slurm.change_many(many)] == [ControllerAway] * 2
    finally:
        ground.start_controller()
    wait_for(lambda: flags(ground) == {"IDLE"}, "the nodes to answer again", 60)
    assert slurm.node("n1") == raw(ground)

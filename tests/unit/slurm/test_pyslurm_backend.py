"""The pyslurm client over a stand-in that has pyslurm's names and no others."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta

import pytest
from standin_pyslurm import FLAGS, Memory, module

from slurm_gsp.slurm.admin import Busy, Exists, NoReservation, ScontrolAdmin, SlurmAdmin, Wanted, WrongState
from slurm_gsp.slurm.client import (
    ControllerAway,
    Denied,
    Features,
    NodeState,
    SlurmError,
    SlurmTimeout,
    UnknownNode,
)
from slurm_gsp.slurm.pyslurm_backend import YEAR_S, PyslurmAdmin, load_pyslurm

NOW = 1_795_000_000
LATER = datetime.fromtimestamp(NOW + 86400, UTC)
IDLE = {"state": "IDLE", "partitions": ["main"], "boot_time": NOW - 60, "reason_user": "root"}
READ = NodeState(
    name="n1",
    states=frozenset({"IDLE"}),
    reason="",
    reason_user="",
    reason_time="",
    partitions=("main",),
    reservation="",
    comment="",
    extra="",
    boot_time=f"{datetime.fromtimestamp(NOW - 60, UTC):%Y-%m-%dT%H:%M:%S}",
)


@pytest.fixture
def memory() -> Memory:
    return Memory({"n1": dict(IDLE), "n2": {**IDLE, "partitions": None, "boot_time": None}})


@pytest.fixture
def slurm(memory: Memory) -> SlurmAdmin:
    return client(memory)


def client(memory: Memory, commands: object = None) -> PyslurmAdmin:
    return PyslurmAdmin(module(memory), ScontrolAdmin(commands), lambda: NOW + 0.9)


def test_what_is_read(slurm, memory):
    assert slurm.node("n1") == READ
    assert slurm.partition_nodes(["main", "other"]) == (READ,)
    assert slurm.partition_nodes([]) == slurm.partition_nodes(["other"]) == ()
    assert not any("reservation" in asked for asked in memory.asked)


def test_a_reason_has_its_stamp_and_features_their_order(slurm, memory):
    memory.nodes["n1"] |= {"available_features": ["ib", "r1"], "active_features": ["ib"]}
    memory.nodes["n1"] |= {
        "state": "IDLE*+DRAIN",
        "reason": "fan",
        "reason_time": NOW,
        "comment": "c",
        "extra": "e",
    }
    seen = slurm.node("n1")
    assert seen.features == Features(("ib", "r1"), ("ib",))
    assert seen.states == {"IDLE", "NOT_RESPONDING", "DRAIN"} and (seen.comment, seen.extra) == ("c", "e")
    assert (seen.reason, seen.reason_user) == ("fan", "root")
    assert seen.reason_time == f"{datetime.fromtimestamp(NOW, UTC):%Y-%m-%dT%H:%M:%S}"


def test_the_reservation_that_a_node_is_in_is_looked_up(slurm, memory):
    """pyslurm's Node has no such property; scontrol's has."""
    memory.nodes["n1"]["state"] = "IDLE+MAINTENANCE+RESERVED"
    memory.reservations = {
        "past": {"nodes": "n1", "is_active": False},
        "licences": {"nodes": None, "is_active": True},
        "held": {"nodes": "n[1-2]", "is_active": True},
        "odd": {"nodes": "n[1-", "is_active": True},
    }
    assert slurm.node("n1").reservation == "held"


def test_drains(slurm, memory):
    slurm.drain("n1", "fan")
    assert (memory.nodes["n1"]["state"], memory.nodes["n1"]["reason"]) == ("IDLE+DRAIN", "fan")
    slurm.put_back("n1", 'the "big"\nfan')
    assert memory.nodes["n1"]["reason"] == 'the "big" fan'
    slurm.resume("n1")
    slurm.resume("n1")  # in service already
    assert memory.nodes["n1"]["state"] == "IDLE"


def test_a_node_that_stays_down_is_not_resumed(slurm, memory):
    memory.nodes["n1"]["state"] = "DOWN"
    with pytest.raises(WrongState, match="Invalid node state transition"):
        slurm.resume("n1")


def test_drain_unless(slurm, memory):
    assert slurm.drain_unless("n1", "ours", lambda seen: True) == READ
    assert memory.nodes["n1"]["state"] == "IDLE"
    assert slurm.drain_unless("n1", "ours", lambda seen: seen.drained) == READ
    assert memory.nodes["n1"]["reason"] == "ours"


@pytest.mark.parametrize("reason", ["", "a\nb", 'a"b'])
def test_no_drain_without_a_reason(slurm, memory, reason):
    for call in (slurm.drain, lambda name, text: slurm.drain_unless(name, text, lambda _: False)):
        with pytest.raises(ValueError, match="Reason"):
            call("n1", reason)
    slurm.put_back("n1", reason)
    assert memory.nodes["n1"]["reason"].strip() and len(memory.asked) == 1


def test_texts(slurm, memory):
    slurm.annotate("n1", "extra", "{}")
    slurm.annotate("n1", "comment", "rack 7")
    assert (memory.nodes["n1"]["extra"], memory.nodes["n1"]["comment"]) == ("{}", "rack 7")
    with pytest.raises(ValueError, match="annotation"):
        slurm.annotate("n1", "comment", "")


def test_a_reservation_from_its_beginning_to_its_end(slurm, memory):
    slurm.reserve("r1", "n1", (LATER, 5430), ["root", "bob"], ignore_jobs=True)
    start = NOW + 86400
    assert memory.reservations["r1"] == {
        "start_time": start,
        "end_time": start + 91 * 60,
        "nodes": "n1",
        "users": ["root", "bob"],
        "flags": FLAGS.MAINTENANCE | FLAGS.IGNORE_RUNNING_JOBS,
    }
    slurm.move("r1", (LATER + timedelta(hours=1), 60))
    held = memory.reservations["r1"]
    assert (held["start_time"], held["end_time"]) == (start + 3600, start + 3660)
    slurm.hold("r1", "n2")
    held = memory.reservations["r1"]
    assert (held["start_time"], held["end_time"], held["nodes"]) == (
        start + 3600,
        start + 3600 + YEAR_S,
        "n2",
    )
    slurm.hold("r1")
    assert memory.reservations["r1"] == held
    slurm.release("r1")
    assert memory.reservations == {}
    for call in (slurm.release, slurm.hold, lambda name: slurm.move(name, (LATER, 60))):
        with pytest.raises(NoReservation):
            call("r1")


def test_what_is_past_is_now_and_without_end_a_year(slurm, memory):
    slurm.reserve("r1", "n1", (LATER - timedelta(days=9), None), ["root"], ignore_jobs=False)
    held = memory.reservations["r1"]
    assert (held["start_time"], held["end_time"]) == (NOW, NOW + YEAR_S)
    assert held["flags"] == FLAGS.MAINTENANCE


def test_many(slurm, memory):
    wanted = [
        Wanted("r1", "n1", (LATER, 60), ("root",)),
        Wanted("r1", "n2", (LATER, 60), ("root",)),
        Wanted("r2", "n9", (LATER, 60), ("root",)),
        Wanted("r3", "n2", (LATER, 60), ("root",)),
    ]
    assert [type(answer) for answer in slurm.change_many(wanted)] == [
        type(None), Exists, UnknownNode, type(None),
    ]  # fmt: skip
    assert sorted(memory.reservations) == ["r1", "r3"]


@pytest.mark.parametrize("said", ["Unable to contact slurm controller (connect failure)", "Invalid user id"])
def test_of_many_none_is_tried_once_slurm_cannot_be_asked(slurm, memory, said):
    memory.refuses = said
    wanted = [Wanted(f"r{number}", "n1", (LATER, 60), ("root",)) for number in range(5)]
    answers = slurm.change_many(wanted)
    assert len(answers) == 5 and len(set(map(id, answers))) == 1 and len(memory.asked) == 1
    assert isinstance(answers[0], ControllerAway | Denied)


def test_a_name_that_is_none_stops_all_before_the_first(slurm, memory):
    good = Wanted("r1", "n1", (LATER, 60), ("root",))
    for bad in (Wanted("r 2", "n1", (LATER, 60), ("root",)), Wanted("r2", "n1", (LATER, 60), ("a b",))):
        with pytest.raises(ValueError, match="not the name of a"):
            slurm.change_many([good, bad])
    assert memory.asked == []


ANSWERS = {
    "Unable to contact slurm controller (connect failure)": ControllerAway,
    "Unexpected message received": ControllerAway,
    "Socket timed out on send/recv operation": SlurmTimeout,
    "Invalid user id": Denied,
    "Access/permission denied": Denied,
    "Requested nodes are busy": Busy,
    "Requested reservation is in use": Busy,
    "Requested reservation overlaps with another reservation": Busy,
    "Invalid node name specified": UnknownNode,
    "Something new": SlurmError,
}


@pytest.mark.parametrize(("said", "kind"), ANSWERS.items(), ids=ANSWERS)
def test_errors_by_what_they_mean(slurm, memory, said, kind):
    memory.refuses = said
    calls = (
        lambda: slurm.node("n1"),
        lambda: slurm.partition_nodes(["main"]),
        lambda: slurm.drain("n1", "fan"),
        lambda: slurm.annotate("n1", "extra", "x"),
        lambda: slurm.reserve("r1", "n1", (LATER, 60), ["root"], ignore_jobs=False),
        lambda: slurm.release("r1"),
    )
    for call in calls:
        with pytest.raises(kind, match=r"pyslurm .*(?:n1|r1|all)") as caught:
            call()
        assert isinstance(caught.value, kind) and said in str(caught.value)


def test_an_unknown_node(slurm):
    for call in (slurm.node, slurm.resume, lambda name: slurm.drain(name, "fan")):
        with pytest.raises(UnknownNode):
            call("n9")


@pytest.mark.parametrize("name", ["", "n[1-2]", "ALL", "-x"])
def test_one_node_at_a_time(slurm, memory, name):
    calls = (slurm.node, slurm.resume, lambda node: slurm.put_back(node, "fan"))
    for call in calls:
        with pytest.raises(ValueError, match="not the name of one node"):
            call(name)
    assert memory.asked == []


def test_reboots_and_jobs_go_through_commands(memory):
    asked = []

    def run(argv, *, deadline_s, stdin=None, env=None):
        from slurm_gsp.process import Finished  # noqa: PLC0415

        asked.append(" ".join(argv))
        return Finished(tuple(argv), 0, "7\n", "")

    slurm = client(memory, run)
    slurm.reboot("n1", "gsp:realign c1")
    assert slurm.submit("#!/bin/sh\n", []) == "7"
    slurm.cancel("7")
    assert [line.split()[0].rpartition("/")[2] for line in asked] == ["scontrol", "sbatch", "scancel"]
    assert memory.asked == []


def test_the_module_is_loaded_with_its_configuration_and_leaves_the_loader_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "pyslurm.py").write_text(
        "import os, sys\nCONF = os.environ.get('SLURM_CONF')\n"
        "sys.setdlopenflags(os.RTLD_NOW | os.RTLD_GLOBAL)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SLURM_CONF", "/before")
    monkeypatch.delitem(sys.modules, "pyslurm", raising=False)
    flags = sys.getdlopenflags()
    assert load_pyslurm("/etc/here.conf").CONF == os.environ["SLURM_CONF"] == "/etc/here.conf"
    assert sys.getdlopenflags() == flags
    monkeypatch.delitem(sys.modules, "pyslurm")
    assert load_pyslurm().CONF is None  # as scontrol beside it, which inherits nothing
    monkeypatch.delitem(sys.modules, "pyslurm")

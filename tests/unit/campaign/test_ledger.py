"""The ledger: what is kept is what is read, one controller at a time, clear words where it cannot be used."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from test_controller import NOW, World

from slurm_gsp.campaign.ledger import (
    EventKind,
    Lease,
    LeaseTakenError,
    Ledger,
    LedgerError,
    Line,
    alive,
    owner_id,
)
from slurm_gsp.campaign.planfile import seal
from slurm_gsp.campaign.state import Found, Gate, GateState, Phase, Status
from slurm_gsp.core.operation import Kind, Operation


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def open_ledger(tmp_path: Path, owner: str | None = None) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/ledger.db", "alice@login1", owner, lambda: NOW)


def test_a_node_comes_back_as_it_was_saved(world, tmp_path):
    record = world.record("h100-1").to(
        Phase.VERIFYING,
        NOW + timedelta(seconds=1, microseconds=5),
        "why",
        operation=Operation(Kind.ROLLBACK, "c1", "2026-10", "0123456789ab", 2, "cafe0123"),
        found=Found(True, "fan"),
        touched=True,
        before="570.1",
        boot="b",
        block="r1",
        failures=("one", "two"),
    )
    with open_ledger(tmp_path).lead("c1", 60) as lead:
        lead.together([Line(EventKind.DECIDED, record.node, "what", {"seen": 1})], [record])
    assert world.record("h100-1") == record
    assert world.ledger.events(node="h100-1")[-1].data == {"seen": 1}


def test_gates_and_status(world, tmp_path):
    with open_ledger(tmp_path).lead("c1", 60) as lead:
        assert not lead.status(Status.RUNNING, Status.DONE, "")
        assert lead.status(Status.SCHEDULING, Status.RUNNING, "")
        lead.gate(Gate(0, GateState.SOAKING, NOW), "soaking")
        lead.gate(Gate(0, GateState.CLOSED, NOW, "alerts"), "closed")
    assert world.state.status is Status.RUNNING
    assert world.state.gates == (Gate(0, GateState.CLOSED, NOW, "alerts"),)


def test_the_same_plan_again_changes_nothing_and_another_of_its_name_is_refused(world, tmp_path):
    ledger = open_ledger(tmp_path)
    assert not ledger.add(world.plan, world.state)
    with pytest.raises(LedgerError, match=r"is there already, with another plan.*--campaign NAME"):
        ledger.add(seal(replace(world.plan, realign_s=61)), world.state)


def test_one_controller_at_a_time(world, tmp_path):
    first, second = open_ledger(tmp_path, "far:1:1"), open_ledger(tmp_path, "farther:2:2")
    told = r"c1 is worked on by alice@login1 \(process far:1:1\) since"
    with first.lead("c1", 60) as lead:
        with pytest.raises(LeaseTakenError, match=told), second.lead("c1", 60):
            pass
        lead.beat()
    with second.lead("c1", 60):
        assert second.lease("c1").owner == "farther:2:2"
    assert second.lease("c1") is None


def test_a_controller_that_lost_its_lease_writes_nothing_more(world, tmp_path):
    first = open_ledger(tmp_path, "far:1:1")
    later = Ledger(
        f"sqlite:///{tmp_path}/ledger.db", "bob", "farther:2:2", lambda: NOW + timedelta(seconds=61)
    )
    moved = world.record("h100-1").to(Phase.DRAINED, NOW)
    taken = pytest.raises(LeaseTakenError, match="taken over by another controller")
    with first.lead("c1", 60) as lead, later.lead("c1", 60), taken:
        lead.together([Line(EventKind.DECIDED, moved.node, "x")], [moved])
    assert world.record("h100-1").phase is Phase.PLANNED


def test_what_is_told_together_is_one_record(world, tmp_path):
    """All of it or nothing, and nothing without the lease."""
    ledger = open_ledger(tmp_path, "far:1:1")
    later = Ledger(f"sqlite:///{tmp_path}/ledger.db", "b", "farther:2:2", lambda: NOW + timedelta(seconds=61))
    moved = [world.record(node).to(Phase.RESERVED, NOW) for node in ("h100-1", "h100-2")]
    lines = [Line(EventKind.DONE, record.node, "reserve", {"n": 1}) for record in moved]
    before = len(world.ledger.events(campaign="c1"))
    with ledger.lead("c1", 60) as lead:
        with pytest.raises(TypeError):
            lead.together(lines, [moved[0], None])
        assert world.record("h100-1").phase is Phase.PLANNED
        lead.together(lines, moved)
        lead.together(lines[:1])
        with later.lead("c1", 60), pytest.raises(LeaseTakenError):
            lead.together(lines, [record.to(Phase.WAITING, NOW) for record in moved])
    assert [world.record(record.node) for record in moved] == moved
    assert world.record("h100-3").phase is Phase.PLANNED
    told = [(event.node, event.what, event.data) for event in world.ledger.events(campaign="c1")[before:]]
    assert told == [(node, "reserve", {"n": 1}) for node in ("h100-1", "h100-2", "h100-1")]


def test_on_the_same_host_a_dead_process_holds_nothing():
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    host, _, started = owner_id().rsplit(":", 2)
    dead.wait()
    lease = Lease(f"{host}:{dead.pid}:12345", "x", NOW, NOW)
    assert not alive(lease, 10**6, NOW)
    assert alive(Lease(f"{host}:{os.getpid()}:{started}", "x", NOW, NOW), 0, NOW + timedelta(days=1))
    assert not alive(Lease(f"{host}:{os.getpid()}:1", "x", NOW, NOW), 10**6, NOW)


def test_on_another_host_the_last_beat_decides():
    lease = Lease("far:1:1", "x", NOW, NOW)
    assert alive(lease, 60, NOW + timedelta(seconds=59))
    assert not alive(lease, 60, NOW + timedelta(seconds=60))


def test_orders_are_kept_only_where_they_fit(world):
    assert not world.ledger.order("c1", [Status.RUNNING], Status.PAUSED, "lunch")
    assert world.ledger.order("c1", [Status.SCHEDULING], Status.HALTED, "aborted by bob")
    assert world.state.why == "aborted by bob"
    orders = [event for event in world.ledger.events(campaign="c1") if event.kind is EventKind.ORDER]
    assert orders[-1].what == "aborted by bob"


def test_the_database_is_there_for_any_reader(world, tmp_path):
    world.run()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        rows = connection.execute("SELECT node, record FROM nodes WHERE campaign = 'c1'").fetchall()
    assert {json.loads(record)["phase"] for _, record in rows} == {"returned"}


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("sqlite:////proc/nowhere/ledger.db", "the ledger cannot be"),
        ("postgresql+nothing://u:secret@db/x", "cannot be opened"),
        ("nonsense", "cannot be opened"),
    ],
)
def test_a_ledger_that_cannot_be_used(url, told):
    with pytest.raises(LedgerError) as caught:
        Ledger(url, "x")
    assert told in str(caught.value) and "secret" not in str(caught.value)


def test_a_file_that_is_no_database(tmp_path):
    (tmp_path / "ledger.db").write_text("these are notes, no database at all" * 20)
    with pytest.raises(LedgerError, match=r"cannot be used: .*not a database"):
        open_ledger(tmp_path)

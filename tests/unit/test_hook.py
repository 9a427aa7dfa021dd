"""The hooks with a fake Slurm, a fake look and a clock of their own: what is told and remembered."""

import json
import os
import re
import select
import socket
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from slurm_gsp.collect.bounded import LeftBehind, in_child
from slurm_gsp.collect.collect import Level, collect
from slurm_gsp.collect.runner import LiveRunner, RecordedRunner, _end_of
from slurm_gsp.config import Config, Deadlines, Drain, Health, Verify
from slurm_gsp.core.finding import Basis, Clue, Diagnosis, Finding, Remedy, Verdict
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import Level as Depth
from slurm_gsp.core.published import Proof, Result, proof_in, read_published
from slurm_gsp.core.reading import Unknown
from slurm_gsp.hook import memory as store
from slurm_gsp.hook.log_look import nothing_new
from slurm_gsp.hook.main import (
    FINDING,
    FINE,
    Gate,
    HealthCheck,
    HookRoot,
    HookTimeoutError,
    Host,
    _for_commands,
    identity,
    say,
    still_runs,
)
from slurm_gsp.hook.memory import Memory, Places
from slurm_gsp.node import journal as journals
from slurm_gsp.node.journal import Journal, State, Step
from slurm_gsp.node.prove import SETTLED_S
from slurm_gsp.parse import ParseError
from slurm_gsp.record import open_recording
from slurm_gsp.slurm.client import ControllerAway, Denied, NodeState, SlurmError

RECORDING = next(
    path.parent for path in sorted((Path(__file__).parents[1] / "fixtures/nodes").rglob("recording.json"))
)
EVIDENCE = collect(*open_recording(RECORDING))
HEALTH = Health(jitter=0.0)
LATER = Verify(publish_spread_s=10**9)
"""Nothing is published, unless a campaign waits for it."""


def node(state="IDLE", reason="", reservation="", name="n1"):
    return NodeState(
        name, frozenset(state.split("+")), reason, "root", "", ("main",), reservation, "", "", ""
    )


@dataclass
class FakeSlurm:
    """One node's record, what was asked of it, and whether it answers."""

    state: NodeState = field(default_factory=node)
    others: tuple[NodeState, ...] = ()
    away: bool = False
    refuses: SlurmError | None = None
    calls: list[str] = field(default_factory=list)

    def _ask(self, call):
        self.calls.append(call)
        if self.away:
            raise ControllerAway("no answer")

    def annotate(self, name, field, text, features=None):
        self._ask("annotate")
        if self.refuses is not None:
            raise self.refuses
        self.state = replace(self.state, **{field: text}, features=features or self.state.features)

    def node(self, name):
        self._ask("node")
        return self.state

    def partition_nodes(self, partitions):
        self._ask("partition_nodes")
        return (self.state, *self.others)

    def resume(self, name):
        self._ask("resume")
        self.state = node()

    def drain_unless(self, name, reason, keep):
        self._ask("drain_unless")
        seen = self.state
        if not keep(seen):
            self.state = replace(seen, states=seen.states | {"DRAIN"}, reason=reason)
            self.calls.append(f"drain {reason}")
        return seen


def finding(code="umd-skew", basis=Basis.STATE, **facts):
    clues = (Clue("text", "source"),)
    return Finding(code, "summary", clues, Remedy.REALIGN, tuple(facts.items()), basis)


def diagnosis(*findings, verdict=Verdict.CONSISTENT):
    found = findings[0].fault.verdict if findings else verdict
    return Diagnosis(found, Remedy.NONE, findings, ())


SKEW = finding(kmd="1", umd="2")
XID = finding("gsp-timeout", Basis.LOG, xid="119")
HUNG = finding("driver-hung", Basis.PROBE, stuck="1")


@dataclass
class Machine:
    """A node: its clock, its boot, what a look finds, and the levels that were looked at."""

    folder: Path
    found: Diagnosis = field(default_factory=diagnosis)
    now: float = 1000.0
    boot: str = "boot-1"
    name: str = "n1"
    levels: list[Level] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    def look(self, past, level):
        self.levels.append(level)
        return EVIDENCE, self.found

    @property
    def host(self):
        places = Places(self.folder / "run", self.folder / "lib")
        return Host(
            self.name, self.look, places, lambda: self.now, lambda: self.boot, sleep=self.slept.append
        )

    @property
    def memory(self):
        return store.load(self.boot, self.host.places.state(self.name))


@pytest.fixture
def slurm():
    return FakeSlurm()


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def check(machine, slurm, why="bad", config=None, **options):
    config = config or Config(health=HEALTH, verify=LATER)
    return HealthCheck(config, slurm, machine.host, **{"report_only": False, **options}).run(why)


def gate(machine, slurm, why="moved", hook="prolog"):
    return Gate(Config(health=HEALTH), slurm, machine.host, hook).run(why)


# The health check


def test_a_healthy_node_asks_nothing_of_slurm(machine, slurm):
    assert [check(machine, slurm, why) for why in ("first", "moved", "unsettled")] == [FINE] * 3
    assert (slurm.calls, machine.memory.verdict) == ([], "consistent")
    assert "healthy=1" in (machine.folder / "run/watch").read_text()


def test_a_proven_fault_drains_once(machine, slurm):
    machine.found = diagnosis(SKEW)
    assert [check(machine, slurm) for _ in range(3)] == [FINDING] * 3
    assert slurm.calls == ["drain_unless", "partition_nodes", "drain gsp:umd-skew kmd=1 umd=2"]
    assert "healthy=0" in (machine.folder / "run/watch").read_text()


@pytest.mark.parametrize(("fault", "needed"), [(SKEW, 1), (XID, 3), (HUNG, 2)])
def test_a_lead_has_to_repeat(machine, slurm, fault, needed):
    machine.found = diagnosis(fault)
    answers = [check(machine, slurm) for _ in range(needed)]
    assert answers == [FINE] * (needed - 1) + [FINDING]
    assert slurm.state.reason.startswith(f"gsp:{fault.code} ")


def test_a_lead_that_pauses_starts_anew(machine, slurm):
    for found in (diagnosis(HUNG), diagnosis(), diagnosis(HUNG)):
        machine.found = found
        assert check(machine, slurm) == FINE
    assert slurm.calls == []


def test_a_count_that_changes_does_not_restamp_our_drain(machine, slurm):
    for stuck in ("1", "2", "3", "4"):
        machine.found = diagnosis(finding("driver-hung", Basis.PROBE, stuck=stuck))
        check(machine, slurm)
    assert slurm.calls == ["drain_unless", "partition_nodes", "drain gsp:driver-hung stuck=2"]


def test_a_new_fact_is_told(machine, slurm):
    for umd in ("2", "3"):
        machine.found = diagnosis(finding(kmd="1", umd=umd))
        check(machine, slurm)
    assert slurm.state.reason == "gsp:umd-skew kmd=1 umd=3"


@pytest.mark.parametrize(
    ("state", "after", "calls_in_retry", "calls_after"),
    [
        (node("IDLE+DRAIN", "fan"), "foreign", 1, 2),
        (node("IDLE+MAINTENANCE", "", "others"), "foreign", 1, 2),
        (node("IDLE+REBOOT_ISSUED"), "foreign", 1, 2),
        (node("DOWN", "Not responding"), "pending", 3, 4),
        (node("IDLE+DRAIN", "gsp:umd-skew kmd=1 umd=2"), "ours", 1, 1),
    ],
)
def test_what_is_somebody_elses_is_left_and_seldom_asked_for(
    machine, slurm, state, after, calls_in_retry, calls_after
):
    slurm.state = state
    machine.found = diagnosis(SKEW)
    for _ in range(3):
        assert check(machine, slurm) == FINDING
    assert (slurm.state, machine.memory.standing) == (state, after)
    assert slurm.calls == ["drain_unless"] * calls_in_retry
    machine.now += HEALTH.retry_interval_s
    check(machine, slurm)
    assert (slurm.state, slurm.calls) == (state, ["drain_unless"] * calls_after)


def test_the_breaker_holds_and_the_prolog_passes(machine, slurm):
    slurm.others = tuple(node("IDLE+DRAIN", "gsp:umd-skew", name=name) for name in ("n2", "n3"))
    machine.found = diagnosis(SKEW)
    assert [check(machine, slurm), check(machine, slurm)] == [FINDING, FINDING]
    assert slurm.calls == ["drain_unless", "partition_nodes"]
    assert (gate(machine, slurm, "bad"), slurm.state) == (FINE, node())


def test_a_prologs_drain_is_remembered_as_ours_and_a_foreign_one_is_not(machine, slurm):
    """Else a node that rebooted before its next health check would never be resumed."""
    places, name = machine.host.places, machine.host.node
    machine.found = diagnosis(SKEW)
    slurm.state = node("IDLE+DRAIN", "fan")
    assert (gate(machine, slurm), store.drained_in(places.drained(name))) == (FINDING, None)
    slurm.state = node()
    assert gate(machine, slurm) == FINDING
    assert store.drained_in(places.drained(name)) == machine.host.boot_id()


def test_no_drain_is_lost_while_the_controller_is_away(machine, slurm):
    slurm.away, machine.found = True, diagnosis(SKEW)
    assert (check(machine, slurm), machine.memory.standing) == (FINDING, "pending")
    slurm.away = False
    machine.now += HEALTH.retry_interval_s
    check(machine, slurm)
    assert slurm.state.reason == "gsp:umd-skew kmd=1 umd=2"
    assert machine.memory.failed == 0


def test_a_drain_that_does_not_arrive_is_tried_later_each_time(machine, slurm, monkeypatch):
    """Or all nodes of a cluster that one fault has hit would ask together again, and get no answer again."""
    monkeypatch.setattr("slurm_gsp.hook.main.random.random", lambda: 0.5)
    slurm.away, machine.found = True, diagnosis(SKEW)
    tries, waits = [], []
    for _ in range(6):
        check(machine, slurm)
        tries.append(len(slurm.calls))
        waits.append(machine.memory.next_ask - machine.now)
        machine.now = machine.memory.next_ask - 1
        check(machine, slurm)
        assert len(slurm.calls) == tries[-1], "before its time"
        machine.now += 1
    interval = HEALTH.retry_interval_s
    assert waits == [interval * times / 2 for times in (1, 2, 4, 8, 8, 8)]
    assert len(machine.slept) == 5 and 0 <= min(machine.slept) <= max(machine.slept) <= interval / 20


def test_a_node_that_slurm_has_lost_for_a_moment_is_tried_at_every_run(machine, slurm):
    slurm.state, machine.found = node("DOWN", "Not responding"), diagnosis(SKEW)
    for _ in range(3):
        check(machine, slurm)
    assert (slurm.calls, machine.memory.failed, machine.slept) == (["drain_unless"] * 3, 0, [])


def test_a_proven_fault_that_is_over_leaves_no_reason_behind(machine, slurm):
    """Else the prolog would refuse, and drain, for a fault that was repaired."""
    machine.found = diagnosis(SKEW)
    check(machine, slurm)
    machine.found = diagnosis(XID)
    check(machine, slurm)
    assert (machine.memory.reason, machine.memory.standing) == ("", "none")


def test_report_only_tells_slurm_nothing_and_hides_nothing_from_the_next_run(machine, slurm):
    machine.found = diagnosis(SKEW)
    check(machine, slurm)
    machine.found = diagnosis(finding("kmd-split"))
    slurm.calls.clear()
    assert (check(machine, slurm, report_only=True), slurm.calls) == (FINDING, [])
    check(machine, slurm)
    assert slurm.state.reason == "gsp:kmd-split"


@pytest.mark.parametrize(
    ("resume", "boot", "verdict", "state", "resumed", "forgotten"),
    [
        (True, "boot-2", Verdict.CONSISTENT, "IDLE+DRAIN", True, True),
        (False, "boot-2", Verdict.CONSISTENT, "IDLE+DRAIN", False, False),
        (True, "boot-1", Verdict.CONSISTENT, "IDLE+DRAIN", False, False),
        (True, "boot-2", Verdict.UNKNOWN, "IDLE+DRAIN", False, False),
        (True, "boot-2", Verdict.LATENT, "IDLE+DRAIN", False, False),
        (True, "boot-2", Verdict.CONSISTENT, "DOWN+DRAIN+REBOOT_ISSUED", False, False),
        (True, "boot-2", Verdict.CONSISTENT, "IDLE+DRAIN+MAINTENANCE", False, False),
        (True, "boot-2", Verdict.CONSISTENT, "IDLE", False, True),
    ],
)
def test_resume(machine, slurm, resume, boot, verdict, state, resumed, forgotten):
    config = Config(health=replace(HEALTH, resume=resume), verify=LATER)
    machine.found = diagnosis(SKEW)
    check(machine, slurm, config=config)
    slurm.state = node(state, slurm.state.reason)
    machine.boot, machine.found = boot, diagnosis(verdict=verdict)
    check(machine, slurm, "first", config)
    assert "resume" not in slurm.calls, "in the second of its return"
    machine.now += 10
    check(machine, slurm, "bad", config)
    assert ("resume" in slurm.calls) is resumed
    assert machine.host.places.drained("n1").exists() is not forgotten


def test_resume_is_tried_again_once_the_reboot_is_over(machine, slurm):
    """Slurm may call it a reboot for a while after slurmd has registered."""
    config = Config(health=replace(HEALTH, resume=True), verify=LATER)
    machine.found = diagnosis(SKEW)
    check(machine, slurm, config=config)
    slurm.state = node("DOWN+DRAIN+REBOOT_ISSUED", "gsp:umd-skew : reboot issued")
    machine.boot, machine.found = "boot-2", diagnosis()
    check(machine, slurm, "first", config)
    assert machine.memory.next_full == machine.now + 10
    machine.now += 10
    check(machine, slurm, "due", config)
    assert machine.memory.next_full == machine.now + HEALTH.retry_interval_s
    slurm.state = node("DOWN", "gsp:umd-skew : reboot issued : reboot complete")
    machine.now += HEALTH.retry_interval_s
    check(machine, slurm, "due", config)
    assert slurm.state == node()


def test_a_drain_of_others_is_never_resumed(machine, slurm):
    config = Config(health=replace(HEALTH, resume=True), verify=LATER)
    machine.found = diagnosis(SKEW)
    check(machine, slurm, config=config)
    slurm.state = node("IDLE+DRAIN", "fan")
    machine.boot, machine.found = "boot-2", diagnosis()
    check(machine, slurm, "first", config)
    machine.now += 10
    check(machine, slurm, "due", config)
    assert slurm.state == node("IDLE+DRAIN", "fan")


def test_only_the_log_is_looked_at_while_that_is_all_that_is_due(machine, slurm):
    check(machine, slurm, "first")
    machine.now += 200
    check(machine, slurm, "due")
    machine.now += HEALTH.full_interval_s
    check(machine, slurm, "due")
    assert machine.levels == [Level.FULL, Level.CHEAP, Level.FULL]


def test_a_log_line_that_means_something_asks_for_a_full_look(machine, slurm):
    check(machine, slurm, "first")
    machine.found = diagnosis(XID)
    check(machine, slurm, "due")
    assert machine.levels == [Level.FULL, Level.CHEAP, Level.FULL]
    assert machine.memory.runs == {"gsp-timeout": 1}


def test_what_does_not_drain_by_configuration_is_only_said(machine, slurm):
    machine.found = diagnosis(SKEW)
    config = Config(health=HEALTH, verify=LATER, drain=Drain((("umd-skew", False),)))
    assert (check(machine, slurm, config=config), slurm.calls) == (FINE, [])


def test_two_nodes_of_one_host_are_drained_both(machine, slurm):
    machine.found = diagnosis(SKEW)
    check(machine, slurm)
    other, second = FakeSlurm(node(name="n2")), replace(machine, name="n2")
    check(second, other)
    check(machine, slurm)
    assert other.state.reason == slurm.state.reason == "gsp:umd-skew kmd=1 umd=2"
    assert slurm.calls.count("drain_unless") == 1


def test_a_node_is_drained_though_nothing_can_be_written_in_its_history(machine, slurm):
    (machine.folder / "lib").write_text("a file where the folder should be")
    machine.found = diagnosis(SKEW)
    assert (check(machine, slurm), slurm.state.reason) == (FINDING, "gsp:umd-skew kmd=1 umd=2")


def test_the_time_of_the_next_look_is_written_last(machine, slurm):
    """A run that is cut off before that leaves the old time, which has passed: the look is made again."""
    check(machine, slurm, "first")
    names = ("state-n1.json", "watch", "log-cursor", "due")
    times = [(machine.folder / "run" / name).stat().st_mtime_ns for name in names]
    assert times == sorted(times)


# After a realignment

PINNED = Pinned(
    "2026-11", "0123456789ab", "p", EVIDENCE.loaded.value, EVIDENCE.flavour.value, 2, fabric_manager=False
)
REALIGN = "gsp:realign c1 to=2026-11@0123456789ab try=1 : reboot issued : reboot complete"


def realigned(machine, state=State.DONE, boot="boot-0", **change):
    """The node was realigned in another boot."""
    journal = Journal("c1/realign/1", boot, PINNED, state, before="570.172.08", **change)
    journals.save_journal(journals.Places(machine.folder / "lib"), journal)


def proven(machine):
    journal = journals.load_journal(journals.Places(machine.folder / "lib"))
    return journal is not None and journal.proven == machine.boot


def proof(slurm):
    return proof_in(read_published(slurm.state.extra))


def quick(result, why="", codes=(), boot="boot-1"):
    return Proof("c1/realign/1", Depth.QUICK, result, boot, PINNED.target, codes, why, before="570.172.08")


def test_a_node_proves_itself_once_after_its_reboot(machine, slurm):
    slurm.state = node("DOWN", REALIGN)
    realigned(machine)
    assert [check(machine, slurm, why) for why in ("first", "moved", "due")] == [FINE] * 3
    assert slurm.calls == ["node", "annotate"]
    assert (proof(slurm), proven(machine)) == (quick(Result.PASS), True)
    assert read_published(slurm.state.extra)["nvidia_driver"] == EVIDENCE.loaded.value
    assert (slurm.state.reason, slurm.state.drained) == (REALIGN, True)


def test_before_the_reboot_there_is_nothing_to_prove(machine, slurm):
    realigned(machine, boot="boot-1")
    check(machine, slurm, "first")
    assert (slurm.calls, proven(machine)) == ([], False)


def test_without_a_journal_nothing_of_a_realignment_is_read(machine, slurm):
    check(machine, slurm, "first")
    assert slurm.calls == []
    assert not (machine.folder / "lib").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"operation": "c1/realign/1"}'])
def test_a_damaged_journal_is_none(machine, slurm, text):
    (machine.folder / "lib").mkdir()
    (machine.folder / "lib/realign.json").write_text(text)
    assert (check(machine, slurm, "first"), slurm.calls) == (FINE, [])


@pytest.mark.parametrize(
    ("state", "change", "why"),
    [
        (State.RUNNING, {"steps": (Step(4, "dkms"),)}, "cut off in step 4 dkms"),
        (State.FAILED, {"failed": "step 3 install: exit code 100"}, "step 3 install: exit code 100"),
    ],
)
def test_a_node_that_booted_in_the_middle_says_so_at_once(machine, slurm, state, change, why):
    realigned(machine, state, **change)
    check(machine, slurm, "first")
    assert (proof(slurm), proven(machine)) == (quick(Result.UNFINISHED, why), True)


def test_the_next_boot_is_another_proof(machine, slurm):
    realigned(machine)
    check(machine, slurm, "first")
    machine.boot = "boot-2"
    check(machine, slurm, "first")
    assert (proof(slurm), proven(machine)) == (quick(Result.PASS, boot="boot-2"), True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (diagnosis(SKEW), quick(Result.FAIL, "detector: umd-skew kmd=1 umd=2", ("umd-skew",))),
        (diagnosis(XID), quick(Result.FAIL, "detector: gsp-timeout xid=119", ("gsp-timeout",))),
        (diagnosis(finding("next-kernel")), quick(Result.FAIL, "detector: next-kernel", ("next-kernel",))),
        (
            diagnosis(verdict=Verdict.UNKNOWN),
            quick(Result.UNKNOWN, "detector: too little could be read"),
        ),
    ],
)
def test_what_is_not_good_is_told_by_the_second_look(machine, slurm, found, expected):
    """Right after a boot daemons are still starting; what a log says counts without three runs of it."""
    slurm.state = node("DOWN", REALIGN)
    realigned(machine)
    machine.found = found
    check(machine, slurm, "first")
    assert (proof(slurm), proven(machine), machine.memory.doubted) == (None, False, True)
    assert machine.memory.next_full == machine.now + 15
    machine.now += 15
    check(machine, slurm, "due")
    assert (proof(slurm), proven(machine)) == (expected, True)


def test_a_boot_has_time_to_settle(machine, slurm):
    """A fabric manager or a library that is late by minutes is no reason to roll back."""
    realigned(machine)
    machine.found = diagnosis(verdict=Verdict.UNKNOWN)
    machine.now = SETTLED_S - 16
    check(machine, slurm, "first")
    for _ in range(2):
        assert (proof(slurm), machine.memory.next_full) == (None, machine.now + 15)
        machine.now += 15
        check(machine, slurm, "due")
    assert proof(slurm) is not None


def test_what_was_only_late_is_no_failure(machine, slurm):
    realigned(machine)
    machine.found = diagnosis(verdict=Verdict.UNKNOWN)
    check(machine, slurm, "first")
    machine.found = diagnosis()
    machine.now += 15
    check(machine, slurm, "due")
    assert (proof(slurm), machine.memory.doubted) == (quick(Result.PASS), False)


def test_a_proof_waits_for_slurm(machine, slurm):
    realigned(machine)
    slurm.away = True
    check(machine, slurm, "first")
    assert (proven(machine), machine.memory.next_full) == (False, machine.now + 15)
    slurm.away = False
    machine.now += 15
    check(machine, slurm, "due")
    assert (proof(slurm), proven(machine)) == (quick(Result.PASS), True)


def test_a_proof_does_not_ask_what_a_drain_just_asked_in_vain(machine, slurm):
    realigned(machine)
    slurm.away, machine.found = True, diagnosis(SKEW)
    check(machine, slurm, "first")
    machine.now = machine.memory.next_ask
    check(machine, slurm)
    assert slurm.calls == ["drain_unless"] * 2


def test_a_refusal_is_not_asked_for_again_at_once(machine, slurm):
    realigned(machine)
    slurm.refuses = Denied("Invalid user id")
    check(machine, slurm, "first")
    assert (proven(machine), machine.memory.next_full) == (False, machine.now + 300)


def test_a_proof_is_published_where_the_configuration_says(machine, slurm):
    realigned(machine)
    check(machine, slurm, config=Config(health=HEALTH, verify=Verify(publish="comment")))
    assert proof_in(read_published(slurm.state.comment)) == quick(Result.PASS)


def test_a_proof_that_is_not_to_be_told_is_given_all_the_same(machine, slurm):
    realigned(machine)
    check(machine, slurm, config=Config(health=HEALTH, verify=Verify(publish="off")))
    assert (slurm.calls, proven(machine)) == ([], True)


def test_report_only_proves_nothing(machine, slurm):
    realigned(machine)
    check(machine, slurm, report_only=True)
    assert (slurm.calls, proven(machine)) == ([], False)


def test_a_realignment_that_begins_meanwhile_keeps_its_journal(machine, slurm):
    """Marking the old one proven must not write over the new one."""
    realigned(machine)
    new = Journal("c1/realign/2", "boot-1", PINNED)
    places = journals.Places(machine.folder / "lib")
    annotate = slurm.annotate

    def begin(name, field, text):
        annotate(name, field, text)
        journals.save_journal(places, new)

    slurm.annotate = begin
    check(machine, slurm, "first")
    assert journals.load_journal(places) == new


def test_a_journal_that_cannot_be_written_costs_no_run(machine, slurm):
    """As with a full disk: the proof was given, and is given again."""
    realigned(machine)
    (machine.folder / "lib/realign.json.new").mkdir()
    assert [check(machine, slurm, why) for why in ("first", "moved")] == [FINE, FINE]
    assert (slurm.calls, proven(machine)) == (["node", "annotate", "node"], False)


def test_the_watch_sees_a_new_journal_and_a_new_pin(machine, slurm):
    check(machine, slurm, "first")
    watch = (machine.folder / "run/watch").read_text()
    lib = machine.folder / "lib"
    assert f"[ ! -e '{lib}/realign.json' ]" in watch
    assert f"[ ! -e '{lib}/pin.json' ]" in watch
    realigned(machine)
    check(machine, slurm, "moved")
    assert f"[ -e '{lib}/realign.json' ] && " in (machine.folder / "run/watch").read_text()


def test_the_hooks_and_the_realignment_mean_the_same_files(machine):
    ours, theirs = Places(lib=machine.folder), journals.Places(machine.folder)
    assert (ours.journal, ours.pin) == (theirs.journal, theirs.pin)
    assert Places().lib == journals.STATE


CAMPAIGNS = [
    "gsp:realign c1 to=2026-11@0123456789ab try=1",
    REALIGN,
    "gsp:rollback c1 to=2026-10@0123456789ab try=2",
    "gsp:realign-failed step=3 install",
    "gsp:escalated c1 failed on both pins",
]


@pytest.mark.parametrize("reason", CAMPAIGNS)
@pytest.mark.parametrize("state", ["IDLE+DRAIN", "DOWN", "IDLE+DRAIN+MAINTENANCE+RESERVED"])
def test_a_node_in_a_campaigns_hands_is_left_alone(machine, slurm, reason, state):
    """Neither is its Reason overwritten by a fault, nor is it resumed where we had drained it before."""
    config = Config(health=replace(HEALTH, resume=True), verify=LATER)
    machine.found = diagnosis(SKEW)
    check(machine, slurm, config=config)
    slurm.state = given = node(state, reason, "gsp_c1_n1" if "MAINT" in state else "")
    machine.found = diagnosis(finding("kmd-split"))
    check(machine, slurm, config=config)
    assert (slurm.state, machine.memory.standing) == (given, "foreign")
    machine.boot, machine.found = "boot-2", diagnosis()
    check(machine, slurm, "first", config)
    machine.now += 10
    check(machine, slurm, "due", config)
    assert slurm.state == given
    assert "resume" not in slurm.calls
    assert not machine.host.places.drained("n1").exists()


def test_a_gate_keeps_a_campaigns_reason(machine, slurm):
    slurm.state, machine.found = node("IDLE+DRAIN", REALIGN), diagnosis(SKEW)
    assert (gate(machine, slurm), slurm.state.reason) == (FINDING, REALIGN)


def test_a_fault_in_our_own_reservation_drains(machine, slurm):
    """The campaign has resumed the node there, and sees the drain."""
    slurm.state = node("IDLE+MAINTENANCE+RESERVED", "", "gsp_c1_n1")
    machine.found = diagnosis(SKEW)
    assert (check(machine, slurm), slurm.state.reason) == (FINDING, "gsp:umd-skew kmd=1 umd=2")
    slurm.state = node("IDLE+MAINTENANCE+RESERVED", "", "gsp_c1_n1")
    assert (gate(machine, slurm), slurm.state.reason) == (FINDING, "gsp:umd-skew kmd=1 umd=2")


# The prolog and the epilog


def test_a_gate_passes_a_healthy_node_and_asks_nothing(machine, slurm):
    assert (gate(machine, slurm), slurm.calls, machine.levels) == (FINE, [], [Level.CHEAP])


@pytest.mark.parametrize("hook", ["prolog", "epilog"])
def test_a_gate_refuses_with_one_call(machine, slurm, hook):
    machine.found = diagnosis(SKEW)
    assert gate(machine, slurm, hook=hook) == FINDING
    assert slurm.calls == ["drain_unless", "drain gsp:umd-skew kmd=1 umd=2"]


@pytest.mark.parametrize("lead", [XID, HUNG])
def test_a_gate_leaves_leads_to_the_health_check(machine, slurm, lead):
    machine.found = diagnosis(lead)
    assert (gate(machine, slurm), gate(machine, slurm, "bad"), slurm.calls) == (FINE, FINE, [])


@pytest.mark.parametrize("fault", [SKEW, HUNG])
def test_a_gate_refuses_what_the_health_check_proved_and_still_holds(machine, slurm, fault):
    machine.found = diagnosis(fault)
    check(machine, slurm)
    check(machine, slurm)
    slurm.state = node()
    machine.found = diagnosis(replace(fault, facts=(("stuck", "9"),)) if fault is HUNG else fault)
    assert gate(machine, slurm, "bad") == FINDING
    assert slurm.state.reason == machine.memory.reason
    assert machine.levels[-1] is Level.FULL


def test_a_gate_passes_what_was_repaired_and_resumed_before_the_next_health_check(machine, slurm):
    """A GPU that was reset moves nothing that the watch compares."""
    machine.found = diagnosis(HUNG)
    check(machine, slurm)
    check(machine, slurm)
    slurm.state, machine.found = node(), diagnosis()
    assert (gate(machine, slurm, "bad"), slurm.state) == (FINE, node())


@pytest.mark.parametrize(
    ("state", "answer"),
    [
        (node("IDLE+MAINTENANCE", "", "others"), FINE),
        (node("ALLOCATED+REBOOT_REQUESTED"), FINE),
        (node("IDLE+DRAIN", "fan"), FINDING),
    ],
)
def test_a_gate_makes_slurm_drain_nothing_that_is_not_ours_to_drain(machine, slurm, capsys, state, answer):
    """Slurm drains a node for our exit code, in a maintenance of others too."""
    slurm.state, machine.found = state, diagnosis(SKEW)
    assert (gate(machine, slurm), slurm.state) == (answer, state)
    assert ("cannot run GPU jobs" in capsys.readouterr().out) is (answer == FINDING)


def test_a_gate_refuses_while_the_controller_is_away(machine, slurm):
    slurm.away, machine.found = True, diagnosis(SKEW)
    assert (gate(machine, slurm), slurm.calls) == (FINDING, ["drain_unless"])


# What is remembered


def test_memory_comes_back_as_it_was(tmp_path):
    full = Memory(
        "b", "mismatch", "gsp:x", "ours", {"x": 2}, 7, "line\n", 1.5, 2.5, 3.5, (4, 5), (6, 7), True
    )
    for memory in (Memory("b"), full):
        store.save(memory, tmp_path / "state")
        assert store.load("b", tmp_path / "state") == memory
    assert store.load("another boot", tmp_path / "state") is None


GOOD = {
    "boot_id": "b", "verdict": "v", "reason": "", "standing": "none", "runs": {}, "log_seq": 1,
    "log_text": "", "next_full": 1, "next_log": 1, "next_ask": 1, "probe": None, "reader": None, "version": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "{}", '"x"', "\0", "[" * 100_000,
        *(json.dumps({**GOOD, **wrong}) for wrong in (
            {"version": 2}, {"runs": None}, {"runs": []}, {"runs": {"x": "y"}}, {"log_seq": None},
            {"next_full": "soon"}, {"probe": []}, {"probe": 5}, {"log_seq": 1e999},
        )),
    ],
)  # fmt: skip
def test_a_damaged_memory_is_a_first_run(tmp_path, machine, slurm, text):
    """Never a fault of every run from then on."""
    path = machine.host.places.state("n1")
    path.parent.mkdir(parents=True)
    path.write_text(text.replace('"boot_id": "b"', '"boot_id": "boot-1"'))
    assert store.load("boot-1", path) is None
    assert (check(machine, slurm), machine.memory.verdict) == (FINE, "consistent")


@pytest.mark.parametrize("text", ["", "[]", '{"x": 1}', "[" * 100_000])
def test_a_damaged_history_is_none(tmp_path, text):
    (tmp_path / "file").write_text(text)
    assert store.load_ladder(tmp_path / "file") == {}
    assert store.drained_in(tmp_path / "file") is None


def test_a_file_that_cannot_be_written_leaves_the_old_one_whole(tmp_path):
    store.write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        store.write_text(tmp_path / "file", "\ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


# The light look at the log

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
QUIET = "6,41,1000,-;usb 1-1: new device\n"


@pytest.mark.parametrize(
    ("cursor", "log", "nothing"),
    [
        (f"{BOOT} 40 2000 120", QUIET, True),
        (f"{BOOT} 40 2000 120", QUIET + "3,42,1000,-;NVRM: Xid (PCI:0000:06:00): 119\n", False),
        (f"{BOOT} 42 2000 120", QUIET + "3,42,1000,-;NVRM: Xid (PCI:0000:06:00): 119\n", True),
        (f"{BOOT} 40 999 120", QUIET, False),
        ("another-boot 40 2000 120", QUIET, False),
        (f"{BOOT} 40 inf inf", QUIET, False),
        (f"{BOOT} 40 nan nan", QUIET, False),
        (f"{BOOT} x 2000 120", QUIET, False),
        ("", QUIET, False),
        (None, QUIET, False),
        (f"{BOOT} 40 2000 120", None, False),
    ],
)
def test_light_look(tmp_path, cursor, log, nothing):
    for name, text in (("log-cursor", cursor), ("kmsg", log)):
        if text is not None:
            (tmp_path / name).write_text(text)
    assert nothing_new(1000.0, str(tmp_path), str(tmp_path / "kmsg")) is nothing
    due = tmp_path / "due"
    assert (due.read_text() if due.exists() else None) == ("1120\n" if nothing else None)


# What may hang


def test_a_child_that_hangs_holds_neither_our_output_nor_a_lock(tmp_path):
    """slurmd reads the output to its end, and the next health check needs the lock."""
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    began = time.monotonic()
    with pytest.raises(LeftBehind):
        in_child(lambda: time.sleep(3), 0.1)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 1)
    assert (bool(ready), time.monotonic() - began < 1) == (True, True)
    assert os.read(reader, 1) == b""
    os.close(reader)


class SlowRoot(HookRoot):
    """A driver in which every read hangs."""

    def read(self, path, limit=0, *, note=True):
        time.sleep(3)


def test_no_reader_joins_one_that_hangs():
    past, paths = Memory("b"), ["/proc/driver/nvidia/gpus/0/information"]
    assert SlowRoot(past).read_all(paths, 0.1) == {paths[0]: Unknown(paths[0], "no answer within 0.1 s")}
    assert past.reader is not None
    left = past.reader
    began = time.monotonic()
    answer = SlowRoot(past).read_all(paths, 2)
    assert answer == {paths[0]: Unknown(paths[0], "an earlier reader still hangs in it")}
    assert (past.reader, time.monotonic() - began < 1) == (left, True)
    os.kill(left[0], 9)
    os.waitpid(left[0], 0)
    assert not still_runs(left)


def test_a_probe_that_said_all_and_does_not_end_is_left():
    """Closing the device hangs like opening it, and the output is closed before."""
    with subprocess.Popen(["sleep", "30"]) as probe:
        assert _end_of(probe, time.monotonic()) is None
        probe.kill()


def test_a_zombie_does_not_run():
    """Nobody may reap what we left: slurmd as the first process of a container does not."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert identity(child) is None
    os.waitpid(child, 0)


def test_what_a_look_left_behind_is_remembered_though_it_ran_out_of_time(machine, slurm):
    def look(past, level):
        past.probe = (1, 2)
        raise HookTimeoutError

    host = replace(machine.host, look=look)
    with pytest.raises(HookTimeoutError):
        HealthCheck(Config(health=HEALTH), slurm, host, report_only=False).run("bad")
    assert machine.memory.probe == (1, 2)


def test_a_journal_that_takes_no_more_stops_nobody(tmp_path):
    path, message = str(tmp_path / "log"), "x" * 1000
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(path)
        say("first", path)
        assert re.fullmatch(rb"<29>.{15} slurm-gsp\[\d+\]: first", log.recv(100))
        began = time.monotonic()
        for _ in range(1000):
            say(message, path)
        assert time.monotonic() - began < 2
    say("nobody listens", path)


def test_a_child_answers(tmp_path):
    assert in_child(lambda: ["known", "text" * 100_000], 5) == ["known", "text" * 100_000]


def test_commands_share_what_the_probe_and_slurm_leave():
    runner = LiveRunner(command_s=5, commands_s=0)
    output = runner.run("ldcache")
    assert output is not None
    assert (output.rc, output.stderr) == (None, "not asked: other commands used up the time")
    limits = Deadlines()
    assert _for_commands(limits) + limits.nvml_s + 3 + 2 * limits.slurm_s <= limits.run_s


@pytest.mark.parametrize("kind", ["fifo", "link", "folder"])
def test_a_strangers_recording_neither_blocks_nor_leads_outside(tmp_path, kind):
    (tmp_path / "outside").write_text("secret")
    commands = tmp_path / "commands"
    commands.mkdir()
    path = commands / "dkms.json"
    {
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(tmp_path / "outside"),
        "folder": path.mkdir,
    }[kind]()
    if kind == "link":
        assert RecordedRunner(commands).run("dkms") is None
    else:
        with pytest.raises(ParseError, match=r"dkms\.json: not a recorded command"):
            RecordedRunner(commands).run("dkms")

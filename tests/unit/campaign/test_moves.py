"""What follows from one look: phase by phase, from what a healthy node shows to what it never should."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from model_slurm import ModelSlurm, Node
from test_campaign_cli import Place
from test_controller import Killed, World, asked, at_phase, twelve

from slurm_gsp import process
from slurm_gsp.campaign.advance import advance, first_state, settled
from slurm_gsp.campaign.controller import Controller
from slurm_gsp.campaign.look import Job, Look, Seen
from slurm_gsp.campaign.model import Heading, Limits, Plan, PlannedProfile, Reservation, Slot, Wave, WaveKind
from slurm_gsp.campaign.planfile import seal
from slurm_gsp.campaign.state import (
    Decision,
    Found,
    Gate,
    GateState,
    NodeRecord,
    Phase,
    Reserve,
    Shift,
    State,
    Status,
    Terms,
)
from slurm_gsp.campaign.windows import parse_window
from slurm_gsp.core.operation import Kind
from slurm_gsp.core.published import Level, Proof, Result
from slurm_gsp.slurm.client import NodeState, SlurmError, SlurmTimeout

NOW = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SLOT = timedelta(minutes=10)
OWN = Reservation("gsp_c1_n1", NOW - timedelta(minutes=1), NOW + SLOT, maint=True)


def planned(*waves: tuple[Slot, ...], **limits: object) -> Plan:
    profiles = (PlannedProfile("h100", "580.95.05", 8, "570.195.03"),)
    heading = Heading("c1", "2026-11", "ab" * 32, "standard", 0, "2026-10", "cd" * 32, profiles)
    kinds = [WaveKind.CANARY, *[WaveKind.WAVE] * (len(waves) - 1)]
    made = tuple(Wave(number, kinds[number], slots) for number, slots in enumerate(waves))
    return seal(Plan(heading, NOW, 600, Limits(**{"soak_s": 60, **limits}), made, ()))


def slot(node: str, block: str | None = None) -> Slot:
    return Slot(node, "h100", NOW, "h100", block)


TERMS = Terms(planned((slot("n1"),)), wait_s=600, return_s=1200, proof_s=300, verify_s=600, lead_s=20)
REALIGN = TERMS.operation(Kind.REALIGN, 1)
ROLLBACK = TERMS.operation(Kind.ROLLBACK, 1)
ISSUED = f"{REALIGN.reason} : reboot issued"
BACK = f"{ISSUED} : reboot complete"
OTHERS = "gsp:realign c2 to=2026-12@0123456789ab try=1 id=0123abcd"
QUICK = Proof(REALIGN.key, Level.QUICK, Result.PASS, "b2", REALIGN.target)
DEEP = replace(QUICK, level=Level.HARDWARE, job="7")
MINE = f"gsp {REALIGN.key} n1"


def record(phase: Phase, **more: object) -> NodeRecord:
    """A node as far as this; what its phase says of it is filled in."""
    known: dict[str, object] = {}
    if phase not in {Phase.PLANNED, Phase.RESERVED, Phase.WAITING}:
        known["operation"] = REALIGN
    if phase in {Phase.ASKED, Phase.REALIGNING, Phase.REBOOTED, Phase.VERIFYING, Phase.RETURNING}:
        known["touched"] = True
    if phase in {Phase.VERIFYING, Phase.RETURNING}:
        known["boot"] = "b2"
    known["since"] = NOW - timedelta(seconds=30)
    return NodeRecord(**{
        "node": "n1", "wave": 0, "start": NOW, "profile": "h100", "variant": "h100", "phase": phase,
        **known, **more,
    })  # fmt: skip


def seen(states: str = "IDLE", reason: str = "", *, boot: datetime | None = None, **more: object) -> Seen:
    """The node, in its reservation unless that is said otherwise."""
    booted = (boot or NOW - timedelta(days=9)).strftime("%Y-%m-%dT%H:%M:%S")
    state = NodeState(
        name="n1", states=frozenset(states.split("+")), reason=reason, reason_user="bob", reason_time="",
        partitions=("gpu",), reservation="", comment="", extra="", boot_time=booted,
    )  # fmt: skip
    return Seen(state, **{"reservations": (OWN,), **more})


def decide(
    before: NodeRecord,
    sight: Seen | None,
    status: Status = Status.RUNNING,
    at: datetime = NOW,
    jobs: tuple[Job, ...] = (),
    terms: Terms = TERMS,
) -> Decision:
    nodes = {} if sight is None else {"n1": sight}
    verifications = {MINE: jobs} if jobs else {}
    look = Look(at, nodes, verifications, {"gpu": 10}, {})
    return advance(terms, State(status, (before,), why="aborted by alice"), look)


def told(decision: Decision) -> str:
    """The phases and effects of a decision, in their order; a halt and nothing else as such."""
    if decision.status is Status.HALTED:
        return f"halt: {decision.why}"
    words: list[str] = []
    for move in decision.moves:
        words += [*(type(effect).__name__.lower() for effect in move.effects), move.record.phase.value]
    return " ".join(words)


def last(decision: Decision) -> NodeRecord:
    return decision.moves[-1].record


IDLE = seen().state


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


LOWER = "gres/gpu count reported lower than configured (7 < 8)"
USER = Job("5", "RUNNING", "alice", NOW + HOUR, ("n1",))
SIGHTS: dict[str, Seen | None] = {
    "idle": seen(),
    "leftover Reason": seen("IDLE", BACK),
    "no reservation": seen(reservations=()),
    "a user's job": seen("ALLOCATED", jobs=(USER,)),
    "a job past its limit": seen("ALLOCATED", jobs=(replace(USER, end=NOW - HOUR),)),
    "drained by us": seen("IDLE+DRAIN", REALIGN.reason),
    "drained by others": seen("IDLE+DRAIN", "fan"),
    "drained by the health check": seen("IDLE+DRAIN", "gsp:gsp-timeout xid=119"),
    "drained by another campaign": seen("IDLE+DRAIN", OTHERS),
    "given up by another campaign": seen("DOWN+DRAIN", "gsp:escalated c0 unproven"),
    "GPUs missing to Slurm": seen("IDLE+DRAIN+INVALID_REG", LOWER),
    "prolog error": seen("IDLE+DRAIN", "Prolog error"),
    "down, not responding": seen("DOWN+NOT_RESPONDING", "Not responding"),
    "not responding": seen("IDLE+NOT_RESPONDING"),
    "down, unexpectedly rebooted": seen("DOWN", "Node unexpectedly rebooted", boot=NOW),
    "others reboot it": seen("IDLE+DRAIN+REBOOT_REQUESTED", "Reboot ASAP"),
    "switched off": seen("IDLE+POWERED_DOWN"),
    "in others' maintenance": seen(
        reservations=(Reservation("dimm", NOW - HOUR, NOW + HOUR, maint=True), OWN)
    ),
    "reboot asked": seen("IDLE+DRAIN+REBOOT_REQUESTED", REALIGN.reason),
    "reboot issued": seen("DOWN+DRAIN+REBOOT_ISSUED", ISSUED),
    "back": seen("DOWN", BACK, boot=NOW),
    "back by itself": seen("IDLE", "", boot=NOW),  # ReturnToService=2
    "back and proven": seen("DOWN", BACK, boot=NOW, proof=QUICK),
    "back and not well": seen("DOWN", BACK, proof=replace(QUICK, result=Result.FAIL)),
    "a step failed": seen("DOWN", "gsp:realign-failed step=3 install : reboot timed out"),
    "gone from slurm.conf": None,
}

TABLE = {
    Phase.RESERVED: {
        "idle": "taken hold drain taken",
        "leftover Reason": "taken hold drain taken",
        "no reservation": "skipped",
        "a user's job": "planned reserve reserved",
        "a job past its limit": "hold waiting",
        "drained by others": "skipped release skipped",
        "drained by the health check": "taken hold drain taken",
        "drained by another campaign": "taken hold drain taken",  # one that is over: it holds no reservation
        "given up by another campaign": "skipped release skipped",
        "GPUs missing to Slurm": "skipped release skipped",
        "down, not responding": "skipped release skipped",
        "not responding": "hold waiting",
        "others reboot it": "skipped release skipped",
        "switched off": "skipped release skipped",
        "in others' maintenance": "skipped release skipped",
        "gone from slurm.conf": "skipped",
    },
    Phase.WAITING: {
        "idle": "taken hold drain taken",
        "no reservation": "skipped",
        "a user's job": "",
        "drained by others": "skipped release skipped",
        "drained by the health check": "taken hold drain taken",
        "not responding": "",
        "others reboot it": "skipped release skipped",
        "switched off": "skipped release skipped",
        "in others' maintenance": "skipped release skipped",
    },
    Phase.TAKEN: {
        "idle": "hold drain taken",
        "no reservation": "skipped",
        "drained by us": "drained drained reboot reboot-asked",
        "drained by others": "skipped release skipped",
        "drained by the health check": "hold drain taken",
        "drained by another campaign": "skipped release skipped",
        "others reboot it": "skipped release skipped",
        "switched off": "skipped release skipped",
        "in others' maintenance": "skipped release skipped",
        "given up by another campaign": "skipped release skipped",
    },
    Phase.DRAINED: {
        "idle": "skipped release skipped",  # lifted by hand
        "no reservation": "skipped",
        "drained by us": "drained reboot reboot-asked",
        "drained by others": "skipped release skipped",
        "drained by another campaign": "skipped release skipped",
        "drained by the health check": "drained drain drained",
        "others reboot it": "skipped release skipped",
        "reboot asked": "reboot-asked",
        "reboot issued": "reboot-asked realigning",
        "back": "reboot-asked rebooted",
        "back and proven": "reboot-asked rebooted",
        "gone from slurm.conf": "skipped",
    },
    Phase.ASKED: {
        "idle": "",
        "no reservation": "reserve reboot-asked",
        "reboot asked": "",
        "reboot issued": "realigning",
        "back": "rebooted",
        "back by itself": "rebooted",
        "back and proven": "rebooted",
        "a step failed": "drained drain drained",
        "drained by others": "skipped",
        "drained by another campaign": "skipped",
        "down, not responding": "",
        "down, unexpectedly rebooted": "rebooted",
        "gone from slurm.conf": "skipped",
    },
    Phase.REBOOTED: {
        "back": "",
        "back by itself": "",
        "back and proven": "resume verifying",
        "back and not well": "drained drain drained",
        "a step failed": "drained drain drained",
        "drained by others": "skipped",
        "drained by another campaign": "skipped",
        "drained by the health check": "drained drain drained",
        "GPUs missing to Slurm": "drained drain drained",
        "down, not responding": "",
        "reboot issued": "",
        "no reservation": "drain reserve rebooted",
    },
    Phase.VERIFYING: {
        "idle": "verify verifying",
        "leftover Reason": "verify verifying",
        "back": "resume verifying",
        "no reservation": "drain reserve rebooted",
        "drained by others": "skipped",
        "drained by another campaign": "skipped",
        "drained by the health check": "drained drain drained",
        "GPUs missing to Slurm": "drained drain drained",
        "prolog error": "drained drain drained",
        "down, not responding": "drained drain drained",
        "down, unexpectedly rebooted": "drained drain drained",
        "not responding": "",
        "others reboot it": "skipped",
    },
    Phase.RETURNING: {
        "idle": "release returning",
        "back": "resume release returning",
        "no reservation": "returned",
        "drained by others": "release returning",
        "drained by another campaign": "release returning",
        "drained by the health check": "drained drain drained",
        "GPUs missing to Slurm": "drained drain drained",
        "down, not responding": "release returning",
    },
    Phase.RETURNED: {
        "idle": "",
        "leftover Reason": "",
        "drained by others": "",
        "drained by another campaign": "",
        "given up by another campaign": "",
        "drained by the health check": "halt: n1: gsp:gsp-timeout xid=119, after it was returned",
        "GPUs missing to Slurm": f"halt: n1: {LOWER}, after it was returned",
        "prolog error": "halt: n1: Prolog error, after it was returned",
        "down, not responding": "halt: n1: down, Not responding, after it was returned",
    },
    Phase.SKIPPED: {
        "idle": "release skipped",
        "no reservation": "",
        "drained by us": "resume release skipped",
        "drained by others": "release skipped",
        "drained by another campaign": "release skipped",
        "gone from slurm.conf": "",
    },
}
TABLE[Phase.REALIGNING] = {
    **TABLE[Phase.ASKED], "reboot issued": "", "no reservation": "reserve realigning",
}  # fmt: skip
ROWS = [(phase, sight, moves) for phase, row in TABLE.items() for sight, moves in row.items()]


@pytest.mark.parametrize(
    ("phase", "sight", "moves"), ROWS, ids=[f"{phase.value}: {sight}" for phase, sight, _ in ROWS]
)
def test_what_follows(phase, sight, moves):
    assert told(decide(record(phase), SIGHTS[sight])) == moves


ORDERS = {
    (Status.PAUSED, Phase.RESERVED): "planned reserve reserved",
    (Status.PAUSED, Phase.WAITING): "planned reserve reserved",
    (Status.PAUSED, Phase.TAKEN): "hold drain taken",
    (Status.PAUSED, Phase.DRAINED): "drained reboot reboot-asked",
    (Status.PAUSED, Phase.VERIFYING): "verify verifying",
    (Status.PAUSED, Phase.RETURNING): "release returning",
    (Status.HALTED, Phase.PLANNED): "skipped release skipped",
    (Status.HALTED, Phase.RESERVED): "skipped release skipped",
    (Status.HALTED, Phase.WAITING): "skipped release skipped",
    (Status.HALTED, Phase.TAKEN): "skipped release skipped",
    (Status.HALTED, Phase.DRAINED): "skipped resume release skipped",
    (Status.HALTED, Phase.VERIFYING): "verify verifying",
    (Status.HALTED, Phase.RETURNING): "release returning",
}


@pytest.mark.parametrize(("order", "moves"), ORDERS.items(), ids=[f"{o[0]} {o[1]}" for o in ORDERS])
def test_orders_stop_what_is_not_begun_and_let_the_rest_end(order, moves):
    status, phase = order
    sight = SIGHTS["drained by us" if phase is Phase.DRAINED else "idle"]
    assert told(decide(record(phase), sight, status)) == moves


def job(state: str, number: str = "7") -> Job:
    return Job(number, state, "root", None, ("n1",), MINE)


ANSWERS = {
    "the job runs": (None, "RUNNING", ""),
    "the job waits": (None, "PENDING", ""),
    "good, and the job is on its way out": (DEEP, "COMPLETING", ""),
    "good": (DEEP, "COMPLETED", "returning release returning"),
    "good, and Slurm has forgotten the job": (DEEP, None, "returning release returning"),
    "of another boot": (replace(DEEP, boot="b3"), "COMPLETED", "drained drain drained"),
    "of another try": (
        replace(DEEP, operation=f"c1/realign/2/{TERMS.plan_id}"),
        "COMPLETED",
        "drain escalated",
    ),
    "of another plan": (replace(DEEP, operation="c1/realign/1/00000000"), "COMPLETED", "drain escalated"),
    "from no job": (replace(DEEP, job=""), "COMPLETED", "drain escalated"),
    "too shallow": (replace(DEEP, level=Level.QUICK), "COMPLETED", "drain escalated"),
    "against another pin": (replace(DEEP, pin="2026-10@0"), "COMPLETED", "drain escalated"),
    "bad": (replace(DEEP, result=Result.FAIL), "FAILED", "drained drain drained"),
    "bad, and no driver helps": (
        replace(DEEP, result=Result.FAIL, codes=("vbios",)),
        "FAILED",
        "drain escalated",
    ),
    "unknown": (replace(DEEP, result=Result.UNKNOWN), "FAILED", "drain escalated"),
    "unfinished": (replace(DEEP, result=Result.UNFINISHED), "FAILED", "drained drain drained"),
    "none, the job was cancelled": (None, "CANCELLED", "drain escalated"),
    "none, the job took too long": (None, "TIMEOUT", "drained drain drained"),
    "none, the node was lost": (None, "NODE_FAIL", "drained drain drained"),
}


@pytest.mark.parametrize(("proof", "state", "moves"), ANSWERS.values(), ids=ANSWERS)
def test_what_a_verification_comes_to(proof, state, moves):
    jobs = () if state is None else (job("FAILED", "3"), job(state))  # the latest counts
    assert told(decide(record(Phase.VERIFYING), seen(proof=proof), jobs=jobs)) == moves


# -- a controller that was away ------------------------------------------------------------------------------

LONG_AGO = NOW - 9 * HOUR


AWAY = {
    "verified meanwhile": (record(Phase.VERIFYING), seen(proof=DEEP), "returning release returning"),
    "verification never asked for": (record(Phase.VERIFYING), seen(), "verify verifying"),
    "back meanwhile": (record(Phase.ASKED), SIGHTS["back"], "rebooted"),
    "reboot never asked for": (
        record(Phase.DRAINED, touched=True), SIGHTS["drained by us"], "reboot reboot-asked",
    ),
    "slot gone by": (record(Phase.RESERVED), seen(reservations=()), "planned reserve reserved"),
    "taken, slot gone by": (record(Phase.TAKEN), seen(reservations=()), "planned reserve reserved"),
}  # fmt: skip


@pytest.mark.parametrize(("before", "sight", "moves"), AWAY.values(), ids=AWAY)
def test_time_that_nobody_was_there_counts_against_no_node(before, sight, moves):
    assert told(decide(replace(before, since=LONG_AGO, start=LONG_AGO), sight)) == moves


def test_a_node_is_not_drained_after_its_window():
    limits = {"windows": (parse_window("06:00-07:00"),)}
    terms = replace(TERMS, plan=planned((slot("n1"),), **limits))
    taken = record(Phase.TAKEN, since=NOW - 3 * HOUR, start=NOW - 3 * HOUR)
    assert told(decide(taken, seen(), terms=terms)) == "planned reserve reserved"
    assert last(decide(taken, seen(), terms=terms)).start == NOW + 21 * HOUR


def test_a_pause_moves_a_node_by_a_slot_and_not_at_every_look():
    assert last(decide(record(Phase.RESERVED), seen(), Status.PAUSED)).start == NOW + SLOT


def test_that_a_reboot_is_asked_for_is_in_the_ledger_before_it_is():
    first, second = decide(record(Phase.DRAINED), SIGHTS["drained by us"]).moves
    assert first.record.touched and not first.effects
    assert [type(effect).__name__ for effect in second.effects] == ["Reboot"]
    # so that a node that came back by itself, before the controller did, is not let go
    back = seen("IDLE", "", boot=NOW - timedelta(seconds=10))
    assert told(decide(first.record, back)) == "rebooted"
    assert told(decide(first.record, SIGHTS["idle"])) == "drain drained"


class KilledAfter:
    """An executor whose process dies after the first effect of a kind."""

    def __init__(self, inner: object, effect: str) -> None:
        self.inner, self.effect = inner, effect

    def perform_many(self, effects: object) -> object:
        answers = self.inner.perform_many(effects)
        if self.effect in {type(effect).__name__ for effect in effects}:
            raise Killed
        return answers


def die_after(world: World, effect: str) -> None:
    """Run until the controller dies after this effect."""
    around = world.around()
    killed = replace(around, executor=KilledAfter(around.executor, effect))
    with pytest.raises(Killed), world.ledger.lead("c1", 60) as lead:
        while True:
            Controller(world.terms, lead, killed).tick()
            world.slurm.pass_time(world.step)


def test_a_node_that_returned_by_itself_while_nobody_was_there_is_verified_all_the_same(tmp_path):
    """ReturnToService=2: it is in service after its reboot, and its health check has not spoken yet."""
    world = World(tmp_path, twelve()[:1])
    die_after(world, "Reboot")
    node = world.slurm.nodes["h100-1"]
    while node.due is None:
        world.slurm.pass_time(5)
    node.flags.clear()
    node.reason = ""
    world.run()
    assert world.slurm.wrong == [] and world.phases() == {"h100-1": "returned"}
    assert any(one.comment for one in world.slurm.jobs)


@pytest.mark.parametrize("effect", ["Hold", "Drain", "Reboot", "Resume", "Verify", "Release"])
def test_hours_without_a_controller_end_as_if_it_had_been_there(tmp_path, effect):
    world = World(tmp_path, twelve()[:3])
    die_after(world, effect)
    world.slurm.pass_time(4 * 3600)
    world.run()
    assert world.slurm.wrong == [] and set(world.phases().values()) == {"returned"}
    assert {len(asked(node)) for node in world.slurm.nodes.values()} == {1}


# -- the hands of others -------------------------------------------------------------------------------------


def test_a_node_that_another_campaign_has_reserved_is_not_reserved_again():
    theirs = Reservation("gsp_c2_n1", NOW + HOUR, NOW + 2 * HOUR, maint=True)
    decision = decide(record(Phase.PLANNED), seen(reservations=(theirs,)), Status.SCHEDULING)
    assert told(decision) == "skipped" and last(decision).why == "reserved by another campaign: gsp_c2_n1"


def second(tmp_path: Path, first: World, nodes: list[Node]) -> World:
    """Another campaign, c2, on the same Slurm."""
    world = World(tmp_path, nodes)
    world.slurm = first.slurm
    plan = world.plan
    world.terms = replace(world.terms, plan=seal(replace(plan, heading=replace(plan.heading, campaign="c2"))))
    world.ledger.add(world.terms.plan, first_state(world.terms, NOW))
    return world


def run_both(first: World, other: World) -> None:
    with first.ledger.lead("c1", 60) as one, other.ledger.lead("c2", 60) as two:
        controllers = (
            Controller(first.terms, one, first.around()), Controller(other.terms, two, other.around()),
        )  # fmt: skip
        while sum(controller.tick().finished for controller in controllers) < 2:
            first.slurm.pass_time(5)
            assert first.slurm.now < NOW + 99 * HOUR


def test_two_campaigns_that_share_a_partition_share_its_limits(tmp_path):
    nodes = twelve()
    first = World(tmp_path / "1", nodes[:6])
    first.slurm = ModelSlurm(nodes, NOW)
    other = second(tmp_path / "2", first, nodes[6:])
    run_both(first, other)
    assert first.slurm.most_out <= 3 and first.slurm.wrong == [] and first.slurm.held == {}
    assert {node.driver for node in nodes} == {"570.195.03"}


def test_two_campaigns_that_want_the_same_nodes(tmp_path):
    """Both plans were made before either was scheduled: who comes first has them."""
    nodes = twelve()[:2]
    first = World(tmp_path / "1", nodes)
    other = second(tmp_path / "2", first, nodes)
    run_both(first, other)
    assert first.state.status is Status.DONE and first.slurm.wrong == [] and first.slurm.held == {}
    skipped = other.ledger.state("c2")
    assert {record.phase for record in skipped.nodes} == {Phase.SKIPPED}
    assert "reserved by another campaign: gsp_c1_h100-1" in skipped.why


def test_an_answer_that_is_there_before_the_question_is_none():
    """The same plan, carried out from another ledger before."""
    decision = decide(record(Phase.RESERVED), seen(proof=DEEP))
    assert told(decision) == "skipped release skipped" and "this very plan already" in last(decision).why
    other = replace(DEEP, operation="c1/realign/1/00000000")
    assert told(decide(record(Phase.RESERVED), seen(proof=other))) == "taken hold drain taken"


FOUND = ["fan", "Prolog error", 'the "big"\tfan ' + "é%s" * 500, "Not responding"]


@pytest.mark.parametrize("reason", FOUND, ids=["plain", "Slurm's own", "huge and odd", "Slurm's own, down"])
def test_a_drain_of_others_that_was_asked_for_is_put_back(reason):
    found = Found(True, reason)
    take = record(Phase.RESERVED, take=True)
    assert told(decide(take, seen("IDLE+DRAIN", reason))) == "taken hold drain taken"
    assert last(decide(take, seen("IDLE+DRAIN", reason))).found == found
    proven = record(Phase.RETURNING, take=True, found=found)
    decision = decide(proven, seen())
    assert told(decision) == "putback release returning" and decision.moves[0].effects[0].reason == reason
    put_back = seen("IDLE+DRAIN", reason, reservations=())
    assert told(decide(proven, put_back)) == "returned"
    assert told(decide(replace(proven, phase=Phase.RETURNED), put_back)) == ""
    changed = decide(record(Phase.TAKEN, take=True, found=found), seen("IDLE+DRAIN", "smoke"))
    assert told(changed) == "skipped release skipped"
    given_up = decide(record(Phase.REBOOTED, take=True, found=found, since=LONG_AGO), SIGHTS["back"])
    assert last(given_up).why.endswith(f"; it was drained before: {reason}")


def test_a_node_that_our_health_check_had_drained_may_relapse_with_the_same_words():
    found, sight = Found(True, "gsp:gsp-timeout xid=119"), SIGHTS["drained by the health check"]
    assert told(decide(record(Phase.RETURNING, found=found), sight)) == "drained drain drained"
    assert told(decide(record(Phase.RETURNED, found=found), sight)).startswith("halt: n1: gsp:gsp-timeout")


def test_an_admins_drain_in_a_reboot_is_not_written_over_when_it_takes_too_long():
    sight = seen("DOWN+DRAIN+REBOOT_ISSUED", "smoke")
    given_up = decide(record(Phase.REALIGNING, since=LONG_AGO), sight)
    assert told(given_up) == "escalated"
    assert told(decide(last(given_up), sight, Status.HALTED)) == ""


@pytest.mark.parametrize("why", ['it\'s "odd" \\ é\n\t' * 40, "x " * 99], ids=["odd", "blanks"])
def test_what_a_person_is_told_fits_into_a_reason(why):
    from slurm_gsp.slurm.client import check_reason  # noqa: PLC0415

    failed = decide(
        record(Phase.REBOOTED), seen("DOWN", BACK, proof=replace(QUICK, result=Result.UNKNOWN, why=why))
    )
    text = failed.moves[-1].effects[0].reason
    check_reason(text)
    assert text.startswith("gsp:escalated c1 unproven: ")
    # seen as it was written, it is let go
    after = decide(last(failed), seen("DOWN+DRAIN", text), Status.HALTED)
    assert told(after) == "release escalated"


def test_a_node_is_drained_for_a_person_before_the_ledger_says_so():
    """Else a reservation that is deleted in between leaves it to its users."""
    (move,) = decide(record(Phase.VERIFYING), seen(), jobs=(job("CANCELLED"),)).moves
    assert [type(effect).__name__ for effect in move.effects] == ["Drain"]


def test_a_node_that_slurm_itself_drains_in_verification_is_no_admins(world):
    """Else a pin that loses GPUs would go on from node to node."""

    def lose() -> None:
        node = world.slurm.nodes["h100-2"]
        node.flags |= {"DRAIN", "INVALID_REG"}
        node.reason = LOWER

    world.slurm.nodes["h100-2"].asked_for = True  # nobody's Reason is written over
    at_phase(world, "h100-2", Phase.VERIFYING, lose)
    world.run()
    assert world.phases()["h100-2"] == "rolled-back" and world.state.status is Status.HALTED
    assert world.state.why == f"h100-2: realign: drained by Slurm: {LOWER}"


# -- everything comes to an end ------------------------------------------------------------------------------


def never_started(world: World) -> None:
    """Verification jobs stay in the queue: their partition is down, say."""
    submit = world.slurm.submit

    def queued(script, options):
        number = submit(script, options)
        world.slurm.jobs[-1] = replace(world.slurm.jobs[-1], state="PENDING", end=None)
        return number

    world.slurm.submit = queued


def test_a_verification_job_that_never_starts(world):
    never_started(world)
    world.run()
    assert {world.record(name).why for name in ("h100-1", "a100-1", "l40s-1")} == {
        "unproven: its verification job did not end"
    }
    assert world.state.status is Status.HALTED and world.slurm.held == {} and world.slurm.wrong == []
    assert {one.state for one in world.slurm.jobs} == {"CANCELLED"}


def test_a_verification_job_that_cannot_be_ended(world):
    """Its reservation cannot be deleted: it stays, and the campaign ends."""
    never_started(world)
    world.slurm.cancel = lambda job: None
    world.run()
    assert world.state.status is Status.HALTED and set(world.slurm.held) == {
        "gsp_c1_h100-1", "gsp_c1_a100-1", "gsp_c1_l40s-1",
    }  # fmt: skip
    assert all("DRAIN" in world.slurm.nodes[name].flags for name in ("h100-1", "a100-1", "l40s-1"))


REFUSALS = {
    "reboot": "not rebooted: Slurm refuses: no RebootProgram",
    "submit": "unproven: Slurm refuses: invalid partition",
}


@pytest.mark.parametrize(("call", "why"), REFUSALS.items(), ids=REFUSALS)
def test_what_slurm_refuses_is_told_and_ends(world, call, why):
    def refuse(*_):
        raise SlurmError(why.rpartition(": ")[2])

    setattr(world.slurm, call, refuse)
    told_early: set[str] = set()
    world.each_tick = lambda: told_early.add(world.record("h100-1").why)
    world.run()
    assert world.record("h100-1").phase is Phase.ESCALATED and world.record("h100-1").why == why
    assert why.partition(": ")[2] in told_early
    assert world.state.status is Status.HALTED and world.slurm.held == {} and world.slurm.wrong == []


def test_a_failed_verification_holds_up_no_rollback():
    back = record(Phase.DRAINED, touched=True, operation=ROLLBACK)
    decision = decide(back, seen("IDLE+DRAIN", ROLLBACK.reason), jobs=(job("RUNNING"), job("FAILED", "8")))
    assert told(decision) == "cancel reboot reboot-asked"
    assert decision.moves[0].effects[0].job == "7"


def test_a_reboot_of_others_is_waited_for_and_not_for_ever():
    sight = seen("DOWN+REBOOT_ISSUED+INVALID_REG", LOWER)
    assert told(decide(record(Phase.REBOOTED), sight)) == ""
    assert told(decide(record(Phase.REBOOTED, since=LONG_AGO), sight)) == "drain escalated"


@pytest.mark.parametrize("states", ["IDLE+DRAIN+POWERED_DOWN", "DOWN+DRAIN+REBOOT_ISSUED"])
def test_a_node_that_slurm_does_not_reboot(states):
    """A reboot of an operation before this one, or none because it is switched off."""
    sight = seen(states, ROLLBACK.reason)
    for touched, end in ((True, "drain escalated"), (False, "skipped release skipped")):
        before = record(Phase.DRAINED, touched=touched)
        assert told(decide(before, sight)) == ""
        assert told(decide(replace(before, since=LONG_AGO), sight)) == end


def test_a_reservation_that_was_given_another_node(world):
    """Its name is taken, and it does not hold the node: it is put right."""

    def edit() -> None:
        _, *rest = world.slurm.held["gsp_c1_h100-2"]
        world.slurm.held["gsp_c1_h100-2"] = ("h100-4", *rest)

    at_phase(world, "h100-2", Phase.REALIGNING, edit)
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.held == {}


def test_a_job_may_run_on_for_longer_than_the_slot(tmp_path):
    """Its limit is past, the site lets it run: wait_s decides, not the reservation's end."""
    world = World(tmp_path, twelve()[:1])
    world.slurm.users_submit(100)
    begun = world.slurm.now

    def overstay() -> None:
        if world.slurm.now < begun + timedelta(seconds=2400):
            running = world.slurm.jobs[0]
            world.slurm.jobs[0] = replace(
                running, end=max(running.end, world.slurm.now + timedelta(seconds=10))
            )

    world.terms = replace(world.terms, wait_s=3600)
    world.each_tick = overstay
    world.run()
    assert world.phases() == {"h100-1": "returned"} and world.slurm.wrong == []


def test_a_job_that_starts_while_others_are_reserved_costs_its_node_a_later_slot(world):
    reserve = world.slurm.reserve

    def busy(name, node, span, users, *, ignore_jobs):
        if node == "h100-4" and not world.slurm.jobs:
            world.slurm.users_submit(9000, ["h100-4"])
        reserve(name, node, span, users, ignore_jobs=ignore_jobs)

    world.slurm.reserve = busy
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []


def test_what_slurm_never_lets_go_ends_no_later():
    passed = (Gate(0, GateState.PASSED, NOW),)
    for since, status in ((NOW - timedelta(minutes=1), None), (LONG_AGO, Status.DONE)):
        skipped = record(Phase.SKIPPED, since=since)
        look = Look(NOW, {"n1": seen()}, {}, {"gpu": 10}, {})
        state = State(Status.RUNNING, (skipped,), passed)
        decision = advance(TERMS, state, look)
        assert (told(decision), decision.status) == ("release skipped", status)
        halted = replace(state, status=Status.HALTED)
        assert settled(halted, advance(TERMS, halted, look)) is (status is Status.DONE)


def test_reservations_that_slurm_refuses_are_told_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.chmod(0o700)
    place = Place(tmp_path)

    class Refusing(type(place.slurm)):
        def __call__(self, argv, **more):
            if "create" in argv and argv[-3] == "nodes=h100-3":
                self.asked.append(" ".join(argv))
                return process.Finished(
                    tuple(argv), 1, "", "Error creating the reservation: Unspecified error"
                )
            return super().__call__(argv, **more)

    place.slurm = Refusing()
    done = place.call("schedule", "c1.plan.json")
    assert done.exit_code == 1 and "h100-3: reserve: " in done.stdout
    assert (
        done.stderr == "Slurm refuses the reservations that are left\nnot all is reserved: run this again\n"
    )
    assert len([one for one in place.slurm.asked if " nodes=h100-3 " in one]) == 2


# -- limits --------------------------------------------------------------------------------------------------


def test_what_is_reserved_at_once_keeps_the_limits_too(tmp_path):
    """Two nodes were lost between the plan and its schedule, and its first slots begin now."""
    world = World(tmp_path)
    for name in ("h100-3", "h100-4"):
        world.slurm.nodes[name].flags.add("DOWN")
        world.slurm.nodes[name].reason = "Not responding"
    world.run()
    assert world.slurm.most_out <= 3 and world.slurm.wrong == []
    assert sorted(world.phases().values()) == ["returned"] * 10 + ["skipped"] * 2


def test_a_block_counts_nodes_whose_maintenance_has_just_begun():
    """Slurm shows the flag some seconds late; the reservation is there at once."""
    slots = (slot("n1", "r1"), slot("n2", "r1"))
    terms = replace(TERMS, plan=planned(slots, per_block=1))
    waits = record(Phase.WAITING, block="r1")
    other = replace(record(Phase.RESERVED, block="r1"), node="n2")
    held = Reservation("gsp_c1_n2", OWN.start, OWN.end, maint=True)
    sights = {
        "n1": seen("ALLOCATED", jobs=(USER,)),
        "n2": replace(seen(reservations=(held,)), state=replace(seen().state, name="n2")),
    }
    look = Look(NOW, sights, {}, {"gpu": 100}, {"gpu": frozenset({"n1", "n2"})})
    decision = advance(terms, State(Status.RUNNING, (waits, other)), look)
    assert told(decision) == "planned reserve reserved"
    assert (last(decision).node, last(decision).why) == ("n2", "as many nodes are out as may be")


def test_a_put_off_slot_keeps_inside_its_windows():
    limits = {"windows": (parse_window("09:00-10:00"),), "deadline": NOW + 2 * HOUR}
    terms = replace(TERMS, plan=planned((slot("n1"),), **limits))
    late = record(Phase.PLANNED, start=NOW + timedelta(minutes=55))
    decision = decide(late, seen(reservations=()), terms=terms)
    assert told(decision) == "skipped" and last(decision).why == "no window is left before the deadline"


# -- before its slot, and before its wave --------------------------------------------------------------------

AHEAD = Reservation("gsp_c1_n1", NOW + 8 * HOUR, NOW + 8 * HOUR + SLOT, maint=True)


def ahead(states: str = "IDLE", reason: str = "", **more: object) -> Decision:
    """A node whose slot is hours away, and which shows this now."""
    options = {key: more.pop(key) for key in ("terms", "status") if key in more}
    before = record(Phase.RESERVED, start=AHEAD.start, wave=more.pop("wave", 0))
    return decide(before, seen(states, reason, **{"reservations": (AHEAD,), **more}), **options)


def test_a_node_whose_jobs_end_early_goes_early():
    early = ahead()
    assert (told(early), last(early).start) == ("planned reserve reserved", NOW + timedelta(seconds=20))
    assert early.moves[0].record.why == "idle before its slot"
    later = replace(TERMS, plan=planned((slot("n1"),), windows=(parse_window("17:00-18:00"),)))
    two_waves = replace(TERMS, plan=planned((slot("n0"),), (slot("n1"),)))
    kept = {
        "it runs a job": ahead(jobs=(USER,)),
        "it does not respond": ahead("IDLE+NOT_RESPONDING"),
        "somebody has drained it": ahead("IDLE+DRAIN", "fan"),
        "others have reserved it": ahead(reservations=(AHEAD, replace(OWN, name="fans"))),
        "paused": ahead(status=Status.PAUSED),
        "no window is open": ahead(terms=later),
        "its wave is not": ahead(terms=two_waves, wave=1),
    }
    assert {why: told(decision) for why, decision in kept.items()} == dict.fromkeys(kept, "")


def test_a_node_goes_early_only_where_there_is_room():
    full = Look(NOW, {"n1": seen(reservations=(AHEAD,))}, {}, {"gpu": 10}, {"gpu": frozenset({"n7"})})
    before = State(Status.RUNNING, (record(Phase.RESERVED, start=AHEAD.start),))
    assert told(advance(TERMS, before, full)) == ""


def test_jobs_that_end_early_end_a_campaign_early(tmp_path):
    """All nodes are reserved for the end of the jobs' time limit, and the jobs end long before."""
    world = World(tmp_path, twelve())
    world.slurm.users_submit(8 * 3600)
    begun = world.slurm.now

    def end_early() -> None:
        if world.slurm.now >= begun + HOUR:
            world.slurm.jobs = [replace(one, end=min(one.end, world.slurm.now)) for one in world.slurm.jobs]

    world.each_tick = end_early
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []
    assert world.slurm.most_out <= 3 and world.slurm.now < begun + 4 * HOUR


BY_WAVE = Limits(max_out_count=3, max_out_percent=None, soak_s=300, ahead=False)


def test_a_wave_is_reserved_when_it_opens(tmp_path):
    world = World(tmp_path, twelve(), BY_WAVE)
    held: list[set[int]] = []
    wave = {record.node: record.wave for record in world.state.nodes}

    def look() -> None:
        reserved = {wave[node] for node, *_ in world.slurm.held.values()}
        held.extend([reserved] if reserved not in held else [])

    world.each_tick = look
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []
    assert world.slurm.most_out <= 3 and held == [set(), {0}, {1}, {2}]


def test_nodes_of_a_wave_to_come_take_any_job(tmp_path):
    """Longer ones too than the time until their slot; it is reserved from their end on."""
    world = World(tmp_path, twelve(), BY_WAVE)
    at_phase(world, "h100-1", Phase.VERIFYING, lambda: world.slurm.users_submit(2 * 3600))
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []
    assert world.slurm.users == 9


KEEPING = replace(TERMS, plan=planned((slot("n1"),), ahead=False))
LONG = replace(USER, end=NOW + 8 * HOUR)


def keeping(before: NodeRecord | None = None, **more: object) -> Decision:
    """A node whose wave is open, that runs one job with all of it, and whatever else is said of it."""
    terms, status = more.pop("terms", KEEPING), more.pop("status", Status.RUNNING)
    sight = seen(
        more.pop("states", "ALLOCATED"), **{"full": True, "jobs": (LONG,), "reservations": (), **more}
    )
    return decide(before or record(Phase.PLANNED), sight, status, terms=terms)


def test_no_job_starts_behind_the_last_one_of_a_node():
    kept = keeping()
    assert told(kept) == "reserve reserved" and last(kept).start == NOW + SLOT
    assert kept.moves[0].effects == (Reserve("n1", NOW + SLOT, 600, beside_jobs=True),)
    assert last(kept).why == "runs job 5 of alice, its last one"
    behind_it = {
        "there is room beside it": keeping(full=False),
        "two jobs": keeping(jobs=(LONG, replace(LONG, id="6"))),
        "drained": keeping(states="ALLOCATED+DRAIN", reason="gsp:gsp-skew loaded=1"),
        "all is reserved ahead": keeping(terms=TERMS),
        "no window is open": keeping(
            terms=replace(
                KEEPING, plan=planned((slot("n1"),), ahead=False, windows=(parse_window("17:00-18:00"),))
            )
        ),
    }
    assert {why: last(decision).start for why, decision in behind_it.items()} == dict.fromkeys(
        behind_it, LONG.end
    )
    assert told(keeping(status=Status.PAUSED)) == ""
    assert told(keeping(jobs=(replace(LONG, end=None),))) == "skipped"
    assert last(keeping(jobs=(replace(LONG, end=NOW + SLOT / 2),))).start == NOW + SLOT / 2


def own(begins: datetime) -> Reservation:
    return replace(OWN, start=begins, end=begins + SLOT)


def test_the_reservation_of_a_node_that_is_kept_free_never_begins_while_its_job_runs():
    """It is moved on when half of a slot is left; what the job leaves is taken at once."""
    later = own(NOW + SLOT)
    far = record(Phase.RESERVED, start=later.start)
    assert told(keeping(far, reservations=(later,))) == ""
    for left in (SLOT / 2, timedelta(seconds=15), timedelta(seconds=1)):
        held = own(NOW + left)
        moved = keeping(record(Phase.RESERVED, start=held.start), reservations=(held,))
        assert told(moved) == "reserved shift reserved" and last(moved).start == NOW + SLOT
        assert moved.moves[1].effects == (Shift("n1", NOW + SLOT, 600),)
        assert moved.moves[0].effects == (), "the new time is in the ledger before it is Slurm's"
    freed = keeping(far, reservations=(later,), jobs=(), states="IDLE", full=False)
    assert told(freed) == "planned reserve reserved" and last(freed).start == NOW + timedelta(seconds=20)
    near = own(NOW + timedelta(seconds=15))
    shared = keeping(record(Phase.RESERVED, start=near.start), reservations=(near,), full=False)
    assert told(shared) == "planned reserve reserved" and last(shared).start == LONG.end


@pytest.mark.parametrize("start", [OWN.start, NOW + 6 * HOUR], ids=["known", "not in the ledger"])
def test_a_reservation_that_began_over_a_job_while_nobody_was_there_is_made_anew(start):
    late = keeping(record(Phase.RESERVED, start=start), reservations=(OWN,))
    assert told(late) == "planned reserve reserved" and last(late).start == NOW + SLOT


def test_a_shared_node_becomes_one_that_is_kept_free():
    """It was reserved behind two jobs; both have ended, and a third one has all of it."""
    behind = own(NOW + 12 * HOUR)
    kept = keeping(record(Phase.RESERVED, start=behind.start), reservations=(behind,), jobs=(LONG,))
    assert told(kept) == "reserved shift reserved" and last(kept).start == NOW + SLOT


def in_wave(sights: dict[str, Seen], records: dict[str, NodeRecord], **limits: object) -> dict[str, datetime]:
    """Of a wave that is open the nodes that are reserved now, in their order of turns, and from when on."""
    terms = replace(
        TERMS, plan=planned((slot("n0"),), tuple(map(slot, sights)), **{"ahead": False, **limits})
    )
    seen_now = {name: replace(sight, state=replace(sight.state, name=name)) for name, sight in sights.items()}
    nodes = tuple(
        records.get(name) or record(Phase.PLANNED, node=name, wave=1, start=NOW + 90 * HOUR, block="b1")
        for name in sights
    )
    state = State(Status.RUNNING, nodes, (Gate(0, GateState.PASSED, NOW),))
    moves = advance(terms, state, Look(NOW, seen_now, {}, {"gpu": 10}, {})).moves
    return {move.record.node: move.record.start for move in moves if move.effects}


def test_a_wave_is_reserved_in_turn_and_what_is_empty_soonest_comes_first():
    """Twice as many at a time as may be out: with 20 percent of ten nodes four."""
    behind = replace(LONG, end=NOW + 5 * HOUR)
    sights = {
        "n1": seen("MIXED", jobs=(USER,), reservations=()),  # other jobs can start beside it
        "n2": seen("ALLOCATED", jobs=(LONG,), full=True, reservations=()),
        "n3": seen("ALLOCATED", jobs=(behind,), full=True, reservations=()),
        "n4": seen(reservations=()),
        "n5": seen(reservations=()),
        "n6": seen("ALLOCATED", jobs=(USER, replace(USER, id="6")), full=True, reservations=()),
    }
    chosen = in_wave(sights, {}, max_out_percent=20.0)
    assert set(chosen) == {"n2", "n3", "n4", "n5"}
    assert (chosen["n2"], chosen["n3"]) == (NOW + SLOT, NOW + SLOT)
    assert chosen["n4"] == chosen["n5"] == NOW
    assert set(in_wave(sights, {}, max_out_percent=40.0)) == {"n2", "n3", "n4", "n5"}, "n1, n6 are shared"
    all_of_them = in_wave(sights, {}, max_out_percent=60.0)
    assert (all_of_them["n1"], all_of_them["n6"]) == (USER.end, USER.end)
    assert set(in_wave(sights, {}, max_out_percent=None, per_block=1)) == {"n3", "n4"}


def test_who_has_a_turn_keeps_it_until_its_end():
    """Idle nodes wait for those that are out, not for those that wait for jobs; these wait for both."""
    busy = seen("ALLOCATED", jobs=(LONG,), full=True, reservations=())
    held = {name: replace(own(NOW + SLOT), name=f"gsp_c1_{name}") for name in ("n1", "n2")}
    sights = {
        "n1": replace(busy, reservations=(held["n1"],)),
        "n2": seen("DOWN+DRAIN+REBOOT_ISSUED", ISSUED, reservations=(replace(held["n2"], start=OWN.start),)),
        "n3": seen(reservations=()),
        "n4": seen(reservations=()),
        "n5": busy,
    }
    turns = {
        "n1": record(Phase.RESERVED, node="n1", wave=1, start=NOW + SLOT),
        "n2": record(Phase.REALIGNING, node="n2", wave=1),
    }
    assert in_wave(sights, turns, max_out_percent=10.0) == {}
    ended = {**turns, "n2": record(Phase.RETURNED, node="n2", wave=1)}
    returned = {**sights, "n2": seen(reservations=())}
    assert set(in_wave(returned, ended, max_out_percent=10.0)) == {"n3"}
    assert set(in_wave({**returned, "n3": busy, "n4": busy}, ended, max_out_percent=10.0)) == {"n3"}


def test_nodes_that_slurm_refuses_to_reserve_hold_up_no_others(tmp_path):
    """Two of them would have all turns there are, at each look."""
    world = World(
        tmp_path, [Node(f"h100-{number}") for number in range(1, 7)], replace(BY_WAVE, max_out_count=1)
    )
    reserve = world.slurm.reserve

    def refuse(name, node, span, users, *, ignore_jobs):
        if node in {"h100-2", "h100-3"} and world.slurm.now < NOW + 3 * HOUR:
            raise SlurmError("Error creating the reservation: Unspecified error")
        reserve(name, node, span, users, ignore_jobs=ignore_jobs)

    world.slurm.reserve = refuse
    done: dict[str, datetime] = {}

    def look() -> None:
        for node, phase in world.phases().items():
            if phase == "returned":
                done.setdefault(node, world.slurm.now)

    world.each_tick = look
    world.run()
    look()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []
    assert world.record("h100-2").wave == 1 and not world.record("h100-2").why
    others = {name for name, record in at_end(world).items() if record.wave == 1} - {"h100-2", "h100-3"}
    assert all(done[name] < NOW + 3 * HOUR for name in others) and done["h100-2"] > NOW + 3 * HOUR


def at_end(world: World) -> dict[str, NodeRecord]:
    return {record.node: record for record in world.state.nodes}


def test_a_look_that_comes_late_breaks_no_limit(tmp_path):
    """Kept nodes are moved on early enough for a look of a minute, three times the lead."""
    world = World(tmp_path, [Node(f"h100-{number}") for number in range(1, 9)], BY_WAVE)
    world.slurm.users_submit(20 * 3600)
    ticks = 0

    def slow() -> None:
        nonlocal ticks
        ticks += 1
        world.step = 60 if ticks % 5 == 0 else 5
        if world.slurm.now > NOW + 2 * HOUR:
            now = world.slurm.now
            world.slurm.jobs = [
                job if job.comment else replace(job, end=min(job.end, now)) for job in world.slurm.jobs
            ]

    world.each_tick = slow
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []
    assert world.slurm.most_out <= 3


def test_a_command_that_always_times_out_holds_up_no_other_node(tmp_path):
    """The verification job of h100-3 cannot be submitted; h100-4, free a little later, goes all the same."""
    world = World(tmp_path, [Node(f"h100-{number}") for number in range(1, 5)], BY_WAVE)
    submit = world.slurm.submit
    at_phase(world, "h100-1", Phase.VERIFYING, lambda: world.slurm.users_submit(1500, ["h100-4"]))

    def slow(script, options):
        if "--nodelist=h100-3" in options:
            raise SlurmTimeout("sbatch: no end after 30 s")
        return submit(script, options)

    world.slurm.submit = slow
    world.run()
    assert world.record("h100-3").wave == world.record("h100-4").wave and world.slurm.wrong == []
    assert world.phases()["h100-4"] == "returned" and world.phases()["h100-3"] == "escalated"
    assert any("no end after 30 s" in line for line in world.told)


def test_whole_node_jobs_that_end_early_leave_their_nodes_to_the_campaign(tmp_path):
    """Users have a job ready for every node that is free for an hour: none gets a node of the open wave."""
    world = World(tmp_path, twelve(), BY_WAVE)
    world.slurm.users_submit(24 * 3600)
    ended = dict.fromkeys(world.slurm.nodes, 0)

    def end_early() -> None:
        now = world.slurm.now
        for index, job in enumerate(world.slurm.jobs):
            node = job.nodes[0]
            if job.end == NOW + 24 * HOUR and now >= NOW + HOUR / 2 * (1 + int(node[-1])):
                world.slurm.jobs[index] = replace(job, end=now)
                ended[node] += 1
        world.slurm.users_submit(3600)

    world.each_tick = end_early
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []
    assert world.slurm.most_out <= 3 and all(ended.values())
    kept = [event for event in world.ledger.events(campaign="c1") if "its last one" in event.what]
    assert {event.node for event in kept} == {record.node for record in world.state.nodes}


def test_a_halt_leaves_waves_to_come_alone(tmp_path):
    world = World(tmp_path, twelve(), BY_WAVE)

    def lose() -> None:
        world.slurm.nodes["h100-1"].flags |= {"DRAIN", "INVALID_REG"}
        world.slurm.nodes["h100-1"].reason = LOWER

    at_phase(world, "h100-1", Phase.VERIFYING, lose)
    world.run()
    to_come = {record.phase for record in world.state.nodes if record.wave}
    assert world.state.status is Status.HALTED and to_come == {Phase.SKIPPED} and world.slurm.held == {}


def test_a_pause_reserves_no_wave():
    two_waves = replace(TERMS, plan=planned((slot("n0"),), (slot("n1"),), ahead=False))
    gates = (Gate(0, GateState.PASSED, NOW),)
    waits = record(Phase.PLANNED, wave=1, start=NOW + 8 * HOUR)
    look = Look(NOW, {"n1": seen(reservations=())}, {}, {"gpu": 10}, {})
    paused = advance(two_waves, State(Status.PAUSED, (waits,), gates), look)
    opened = advance(two_waves, State(Status.RUNNING, (waits,), gates), look)
    assert (told(paused), told(opened)) == ("", "reserve reserved")
    assert last(opened).start == NOW, "as soon as its wave is open"

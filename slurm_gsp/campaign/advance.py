"""The next step of a campaign, from its ledger and one look at Slurm. Pure: nothing is done here."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from slurm_gsp.campaign.bounds import NOT_IN_SERVICE, Bounds, opening, openings
from slurm_gsp.campaign.look import Look, Seen
from slurm_gsp.campaign.model import WaveKind
from slurm_gsp.campaign.moves import Mover, by_slurm
from slurm_gsp.campaign.state import (
    AskGate,
    Decision,
    Gate,
    GateState,
    NodeRecord,
    Phase,
    State,
    Status,
    Terms,
)
from slurm_gsp.core.policy import SLURMS_OWN_REASONS
from slurm_gsp.core.reason import is_ours


def first_state(terms: Terms, now: datetime) -> State:
    """A campaign before its first reservation. A plan whose first slot is past begins now, as a whole."""
    plan = terms.plan
    late = max(timedelta(0), now - min(slot.start for slot in plan.slots))
    times = openings(terms, now)
    records = []
    for wave in plan.waves:
        for slot in wave.slots:
            start = opening(times, slot.start + late)
            record = NodeRecord(
                node=slot.node,
                wave=wave.number,
                start=start or slot.start,
                profile=slot.profile,
                variant=slot.variant,
                phase=Phase.PLANNED,
                since=now,
                block=slot.block,
                take=slot.take,
                hold=plan.heading.hold,
            )
            if start is None:
                record = record.to(Phase.SKIPPED, now, "no window is left before the deadline")
            records.append(record)
    return State(Status.SCHEDULING, tuple(records))


def advance(terms: Terms, state: State, look: Look) -> Decision:
    """What to do now. One call at most halts, passes a gate or ends the campaign; the next one goes on."""
    if state.status is Status.DONE:
        return Decision()
    halt = _why_halt(terms, state, look)
    if halt is not None:
        return Decision(status=Status.HALTED, why=halt)
    bounds = Bounds(terms, state, look)
    mover = Mover(terms, state, look, bounds)
    if state.status is Status.SCHEDULING:
        due = [record for record in state.nodes if terms.plan.limits.ahead or record.wave == 0]
        planned = [record for record in due if record.phase is Phase.PLANNED]
        moves = tuple(move for record in planned for move in mover.moves(record))
        return Decision(moves=moves, status=None if planned else Status.RUNNING)
    gate = _gate(terms, state, look, bounds)
    moves = tuple(move for record in state.nodes for move in mover.moves(record))
    loose = any(mover.loose(record) for record in state.nodes)
    over = state.status is Status.RUNNING and bounds.over and not loose
    return Decision(
        moves=moves,
        gate=gate if isinstance(gate, Gate) else None,
        ask=gate if isinstance(gate, AskGate) else None,
        status=Status.DONE if over else None,
        loose=loose,
    )


def settled(state: State, decision: Decision) -> bool:
    """Whether nothing is left to do: the campaign is done, or halted, and every node has ended."""
    ended = state.status is Status.HALTED and all(record.ended for record in state.nodes)
    return state.status is Status.DONE or (ended and not decision.loose)


def wave_name(wave: int) -> str:
    """A wave for people."""
    return "the canary" if wave == 0 else f"wave {wave}"


def _why_halt(terms: Terms, state: State, look: Look) -> str | None:
    """Why no new node may be touched any more: something failed, or a gate is closed."""
    if state.status in {Status.HALTED, Status.SCHEDULING}:
        return None
    for gate in state.gates:
        if gate.state is GateState.CLOSED:
            return f"the gate after {wave_name(gate.wave)} is closed: {gate.told}"
    for record in state.nodes:
        if record.failures or record.phase is Phase.ESCALATED:
            return f"{record.node}: {record.failures[0] if record.failures else record.why}"
        relapse = _relapse(terms, record, look.seen(record.node))
        if relapse is not None:
            return f"{record.node}: {relapse}, after it was returned"
    return None


def _relapse(terms: Terms, record: NodeRecord, seen: Seen | None) -> str | None:
    """What became of a node that was returned; a drain of others is their business."""
    if record.phase is not Phase.RETURNED or seen is None:
        return None
    reason = seen.state.reason
    ours = is_ours(reason) and not terms.is_anothers(reason)
    if seen.states & NOT_IN_SERVICE and (ours or (by_slurm(seen) and reason != record.put_back)):
        return reason
    if "DOWN" in seen.states and reason.startswith(SLURMS_OWN_REASONS):
        return f"down, {reason}"
    failed = [job.id for job in seen.failed if job.end is None or job.end >= record.since]
    return f"job {failed[0]} failed with the node" if failed else None


def _gate(terms: Terms, state: State, look: Look, bounds: Bounds) -> Gate | AskGate | None:
    """What the gate of the open wave comes to; None: nothing new."""
    if state.status is Status.HALTED or bounds.over:
        return None
    wave = bounds.open_wave
    records = [record for record in state.nodes if record.wave == wave]
    if not all(record.ended for record in records):
        return None
    why = _unproven_variant(terms, wave, records)
    if why is not None:
        return Gate(wave, GateState.CLOSED, look.at, why)
    gate = bounds.gate()
    if gate is None:
        return Gate(wave, GateState.SOAKING, look.at)
    if look.at < gate.since + timedelta(seconds=terms.plan.limits.soak_s):
        return None
    if terms.gate_commands:
        return AskGate(wave, tuple(record.node for record in records))
    return Gate(wave, GateState.PASSED, look.at)


def _unproven_variant(terms: Terms, wave: int, records: Sequence[NodeRecord]) -> str | None:
    """Which variant no canary has proven; later waves may lose nodes to their admins and go on."""
    if all(each.kind is not WaveKind.CANARY for each in terms.plan.waves if each.number == wave):
        return None
    proven = {record.variant for record in records if record.phase is Phase.RETURNED}
    for record in records:
        if record.variant not in proven:
            return f"no canary of variant {record.variant!r} was verified ({record.node}: {record.why})"
    return None

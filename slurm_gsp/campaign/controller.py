"""One tick of a campaign: look, decide, write down, do, write down. It keeps nothing in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from slurm_gsp.campaign.advance import advance, settled, wave_name
from slurm_gsp.campaign.execute import CANNOT_BE_ASKED
from slurm_gsp.campaign.ledger import EventKind, Lead, Line
from slurm_gsp.campaign.look import Look, Seen
from slurm_gsp.campaign.state import (
    ENDED,
    REFUSED,
    UNTOUCHED,
    AskGate,
    Decision,
    Effect,
    Gate,
    GateState,
    Move,
    NodeRecord,
    Phase,
    Reserve,
    State,
    Terms,
)
from slurm_gsp.slurm.client import SlurmError

TOGETHER: Final = 250
"""At most so many reservations are made between two records: half a second's work, and one sign of life."""


class Performs(Protocol):
    """What does an effect, or many reservations; SlurmError, raised or given, where it was not done."""

    def perform(self, effect: Effect) -> None: ...

    def reserve_many(self, effects: Sequence[Reserve]) -> Sequence[SlurmError | None]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a controller reaches outside: a look at nodes, the effects, the gate, a clock, a listener."""

    look: Callable[[Collection[str]], Look]
    executor: Performs
    ask_gate: Callable[[AskGate], tuple[bool, str]]
    clock: Callable[[], datetime]
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Tick:
    """How one tick ended; ``finished``: there is nothing left to do, for good."""

    state: State
    finished: bool


class Controller:
    """Carries a campaign on, tick by tick."""

    def __init__(self, terms: Terms, lead: Lead, around: Surroundings) -> None:
        self._terms = terms
        self._lead = lead
        self._around = around

    def tick(self) -> Tick:
        """One look and all that follows from it. SlurmError: Slurm could not be asked; tick again later."""
        state = self._lead.state()
        look = self._around.look([record.node for record in state.nodes])
        decision = advance(self._terms, state, look)
        records = {record.node: record for record in state.nodes}
        for move in decision.moves:
            node = move.record.node
            if _reserve(move) is None:
                records[node] = self._carry_out(move, records[node], look.seen(node))
        # last, because a node has no further move after one with effects
        reserves = [move for move in decision.moves if _reserve(move) is not None]
        for first in range(0, len(reserves), TOGETHER):
            self._reserve(reserves[first : first + TOGETHER], records, look)
        if decision.gate is not None:
            self._set_gate(decision.gate)
        if decision.ask is not None:
            self._ask_gate(decision.ask)
        if decision.status is not None and self._lead.status(state.status, decision.status, decision.why):
            self._around.tell(
                f"campaign {decision.status.value}" + (f": {decision.why}" if decision.why else "")
            )
        if decision == Decision():
            self._lead.beat()
        return Tick(self._lead.state(), settled(state, decision))

    def _carry_out(self, move: Move, before: NodeRecord, seen: Seen | None) -> NodeRecord:
        """Do a move; the record that holds then. Where Slurm refuses, the next look decides again."""
        after = move.record
        told = _told(before, after)
        if not move.effects:
            self._lead.decided(after, told, _excerpt(seen), save=True)
            self._announce(before, after)
            return after
        self._lead.decided(after, told, {**_excerpt(seen), "effects": _texts(move.effects)}, save=False)
        for effect in move.effects:
            error = self._perform(effect)
            if error is not None:
                return self._refused(before, error)
        if after != before:
            self._lead.save(after, told)
            self._announce(before, after)
        return after

    def _reserve(self, moves: Sequence[Move], records: Mapping[str, NodeRecord], look: Look) -> None:
        """Do moves that are a reservation each: all intents in one record, then all outcomes in one."""
        begun: list[Line] = []
        effects: list[Reserve] = []
        for move in moves:
            node, effect = move.record.node, _reserve(move)
            assert effect is not None
            seen = {**_excerpt(look.seen(node)), "effects": _texts(move.effects)}
            begun.append(Line(EventKind.DECIDED, node, _told(records[node], move.record), seen))
            begun.append(Line(EventKind.INTENT, node, _name(effect), _data(effect)))
            effects.append(effect)
        self._lead.together(begun)
        answers = self._around.executor.reserve_many(effects)
        ended: list[Line] = []
        changes: list[tuple[NodeRecord, NodeRecord]] = []
        for move, effect, error in zip(moves, effects, answers, strict=True):
            before = records[effect.node]
            after = move.record if error is None else _held_up(before, error)
            told = _name(effect) if error is None else f"{_name(effect)}: {error}"
            ended.append(Line(EventKind.DONE if error is None else EventKind.FAILED, effect.node, told))
            if error is not None:
                self._around.tell(f"{effect.node}: {told}")
            if after != before:
                ended.append(Line(EventKind.DECIDED, effect.node, _told(before, after)))
                changes.append((before, after))
        self._lead.together(ended, [after for _, after in changes])
        for before, after in changes:
            self._announce(before, after)
        for error in answers:
            if isinstance(error, CANNOT_BE_ASKED):
                raise error

    def _refused(self, before: NodeRecord, error: SlurmError) -> NodeRecord:
        """What holds of a node whose effect was not done."""
        after = _held_up(before, error)
        if after != before:
            self._lead.save(after, _told(before, after))
        return after

    def _perform(self, effect: Effect) -> SlurmError | None:
        """Do an effect; what Slurm said where it refused. SlurmError where it could not be asked."""
        name = _name(effect)
        self._lead.intent(effect.node, name, _data(effect))
        try:
            self._around.executor.perform(effect)
        except SlurmError as error:
            self._lead.outcome(effect.node, name, str(error))
            self._around.tell(f"{effect.node}: {name}: {error}")
            if isinstance(error, CANNOT_BE_ASKED):
                raise
            return error
        self._lead.outcome(effect.node, name)
        return None

    def _announce(self, before: NodeRecord, after: NodeRecord) -> None:
        """Tell a new phase."""
        if before.phase is not after.phase:
            self._around.tell(_told(before, after, node=True))

    def _set_gate(self, gate: Gate) -> None:
        told = f"gate after {wave_name(gate.wave)}: {gate.state.value}" + (
            f": {gate.told}" if gate.told else ""
        )
        self._lead.gate(gate, told)
        self._around.tell(told)

    def _ask_gate(self, ask: AskGate) -> None:
        self._lead.intent(None, f"gate commands after {wave_name(ask.wave)}", {"nodes": list(ask.nodes)})
        passed, told = self._around.ask_gate(ask)
        state = GateState.PASSED if passed else GateState.CLOSED
        self._set_gate(Gate(ask.wave, state, self._around.clock(), told))


def _told(before: NodeRecord, after: NodeRecord, *, node: bool = False) -> str:
    """A move for people and for the ledger."""
    told = (
        f"{before.phase.value} -> {after.phase.value}"
        if before.phase is not after.phase
        else after.phase.value
    )
    if after.phase is Phase.PLANNED:
        told += f" for {after.start:%Y-%m-%d %H:%M:%S} UTC"
    if after.operation is not None and after.operation != before.operation:
        told += f", {after.operation.kind.value} to {after.operation.target}"
    if after.why and after.why != before.why:
        told += f": {after.why}"
    return f"{after.node}: {told}" if node else told


def _excerpt(seen: Seen | None) -> dict[str, Any]:
    """What was seen of a node that a decision rests on."""
    if seen is None:
        return {"seen": None}
    found: dict[str, Any] = {
        "state": "+".join(sorted(seen.states)),
        "reason": seen.state.reason,
        "boot_time": seen.state.boot_time,
        "jobs": [job.id for job in seen.jobs],
        "reservations": [held.name for held in seen.reservations],
        "driver": seen.driver,
    }
    if seen.proof is not None:
        found["proof"] = {key: value for key, value in asdict(seen.proof).items() if value}
    return {"seen": found}


def _reserve(move: Move) -> Reserve | None:
    """The reservation that a move is, and nothing besides."""
    effect = move.effects[0] if len(move.effects) == 1 else None
    return effect if isinstance(effect, Reserve) else None


def _held_up(before: NodeRecord, error: SlurmError) -> NodeRecord:
    """A node whose effect was not done: as before, and if it is in hand, with the cause."""
    if before.phase in UNTOUCHED | ENDED:
        return before
    return replace(before, why=f"{REFUSED}{error}")


def _name(effect: Effect) -> str:
    return type(effect).__name__.lower()


def _texts(effects: Sequence[Effect]) -> list[str]:
    return [_name(effect) for effect in effects]


def _data(effect: Effect) -> dict[str, Any]:
    return {key: value for key, value in asdict(effect).items() if key != "node"}

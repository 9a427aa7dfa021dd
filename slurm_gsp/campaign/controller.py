"""One tick of a campaign: look, decide, write down, do, write down. It keeps nothing in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any, Final, Protocol

from slurm_gsp.campaign.advance import advance, settled, wave_name
from slurm_gsp.campaign.ledger import EventKind, Lead, Line
from slurm_gsp.campaign.look import Look, Seen
from slurm_gsp.campaign.state import (
    ENDED,
    REFUSED,
    AskGate,
    Cancel,
    Decision,
    Effect,
    Gate,
    GateState,
    Move,
    NodeRecord,
    Phase,
    PutBack,
    Reboot,
    State,
    Terms,
    Verify,
)
from slurm_gsp.slurm.admin import AWAY, CANNOT_BE_ASKED
from slurm_gsp.slurm.client import SlurmError

TOGETHER: Final = 250
"""At most so many nodes are worked on between two records: a second's work, and one sign of life."""
ONE_BY_ONE: Final = 25
"""The same where an effect is a command of its own."""
_COMMANDS: Final = (Reboot, PutBack, Verify, Cancel)


class Performs(Protocol):
    """What does effects; why one was not done, None where it was."""

    def perform_many(self, effects: Sequence[Effect]) -> Sequence[SlurmError | None]: ...


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
        self._write_down([move for move in decision.moves if not move.effects], records, look)
        # last, because a node has no further move after one with effects
        for moves in _batches([move for move in decision.moves if move.effects]):
            self._carry_out(moves, records, look)
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

    def _write_down(self, moves: Sequence[Move], records: dict[str, NodeRecord], look: Look) -> None:
        """Moves that are phases on paper alone, in their order."""
        lines: list[Line] = []
        changes: list[tuple[NodeRecord, NodeRecord]] = []
        for move in moves:
            after = move.record
            before, records[after.node] = records[after.node], after
            seen = _excerpt(look.seen(after.node))
            lines.append(Line(EventKind.DECIDED, after.node, _told(before, after), seen))
            changes.append((before, after))
        if lines:
            latest = {after.node: after for _, after in changes}
            self._lead.together(lines, list(latest.values()))
        for before, after in changes:
            self._announce(before, after)

    def _carry_out(self, moves: Sequence[Move], records: Mapping[str, NodeRecord], look: Look) -> None:
        """Do moves with effects: all first ones together, then the second ones of those that came so far.

        What is going to be done is in the ledger before it, and what became of it right after. Where Slurm
        refuses, the next look decides again.
        """
        lines: list[Line] = []
        for move in moves:
            node = move.record.node
            seen = {**_excerpt(look.seen(node)), "effects": _texts(move.effects)}
            lines.append(Line(EventKind.DECIDED, node, _told(records[node], move.record), seen))
        ended: list[tuple[Move, SlurmError | None]] = []
        under_way, turn = list(moves), 0
        while under_way:  # those that Slurm has answered go on, whatever became of the others
            effects = [move.effects[turn] for move in under_way]
            lines += [Line(EventKind.INTENT, one.node, _name(one), _data(one)) for one in effects]
            self._lead.together(lines)
            answers = self._around.executor.perform_many(effects)
            lines = [self._outcome(*done) for done in zip(effects, answers, strict=True)]
            turn += 1
            done = list(zip(under_way, answers, strict=True))
            ended += [(move, error) for move, error in done if error is not None or turn == len(move.effects)]
            under_way = [move for move, error in done if error is None and turn < len(move.effects)]
        self._close(ended, records, lines)
        for _, error in ended:
            if isinstance(error, CANNOT_BE_ASKED):
                raise error

    def _outcome(self, effect: Effect, error: SlurmError | None) -> Line:
        told = _name(effect) if error is None else f"{_name(effect)}: {error}"
        if error is not None:
            self._around.tell(f"{effect.node}: {told}")
        return Line(EventKind.DONE if error is None else EventKind.FAILED, effect.node, told)

    def _close(
        self,
        ended: Sequence[tuple[Move, SlurmError | None]],
        records: Mapping[str, NodeRecord],
        lines: list[Line],
    ) -> None:
        """The last outcomes, and where the nodes are now."""
        changes: list[tuple[NodeRecord, NodeRecord]] = []
        for move, error in ended:
            before = records[move.record.node]
            after = move.record if error is None else _held_up(before, error)
            if after != before:
                lines.append(Line(EventKind.DECIDED, after.node, _told(before, after)))
                changes.append((before, after))
        self._lead.together(lines, [after for _, after in changes])
        for before, after in changes:
            self._announce(before, after)

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
        asked = f"gate commands after {wave_name(ask.wave)}"
        self._lead.together([Line(EventKind.INTENT, None, asked, {"nodes": list(ask.nodes)})])
        passed, told = self._around.ask_gate(ask)
        state = GateState.PASSED if passed else GateState.CLOSED
        self._set_gate(Gate(ask.wave, state, self._around.clock(), told))


def _batches(moves: Sequence[Move]) -> Iterator[Sequence[Move]]:
    """Moves that are done together; those with commands of their own come last."""
    alone = [any(isinstance(effect, _COMMANDS) for effect in move.effects) for move in moves]
    for size, slow in ((TOGETHER, False), (ONE_BY_ONE, True)):
        some = [move for move, is_slow in zip(moves, alone, strict=True) if is_slow is slow]
        yield from (some[first : first + size] for first in range(0, len(some), size))


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


def _held_up(before: NodeRecord, error: SlurmError) -> NodeRecord:
    """A node whose effect was not done: as before, and where that is about this node, with the cause."""
    if before.phase in ENDED or isinstance(error, AWAY):
        return before
    return replace(before, why=f"{REFUSED}{error}")


def _name(effect: Effect) -> str:
    return type(effect).__name__.lower()


def _texts(effects: Sequence[Effect]) -> list[str]:
    return [_name(effect) for effect in effects]


def _data(effect: Effect) -> dict[str, Any]:
    return {key: value for key, value in asdict(effect).items() if key != "node"}

"""Time and room of a running campaign: which wave is open, when a slot may lie, how many nodes may be out.

The plan kept all limits when it was made. Nodes fail and jobs start meanwhile, so they are asked again for
every node, by what Slurm shows now and counting everybody's nodes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from slurm_gsp.campaign.look import Look, Seen
from slurm_gsp.campaign.model import NEVER
from slurm_gsp.campaign.plan import HORIZON_S
from slurm_gsp.campaign.state import REFUSED, Gate, GateState, NodeRecord, Phase, State, Status, Terms
from slurm_gsp.campaign.windows import Openings, open_spans

NOT_IN_SERVICE: Final = frozenset({"DOWN", "DRAIN", "ERROR", "FAIL"})
"""States in which a node takes no job by a decision; a MAINT reservation alone is none."""


def openings(terms: Terms, now: datetime) -> Openings:
    """When slots may lie; one that began no longer than a slot ago still counts as being in its window."""
    begin = int(now.timestamp())
    deadline = terms.plan.limits.deadline
    end = begin + HORIZON_S if deadline is None else min(begin + HORIZON_S, int(deadline.timestamp()))
    spans = open_spans(terms.plan.limits, begin - terms.plan.realign_s, end)
    return Openings(spans, terms.plan.realign_s, 1)


def opening(times: Openings, start: datetime) -> datetime | None:
    """The first moment from then on at which a slot may begin; None: there is none before the deadline."""
    found = times.next_start(math.ceil(start.timestamp()))
    return None if found is None else datetime.fromtimestamp(found, UTC)


IN_TURN: Final = 2
"""So many times the nodes that may be out are reserved where each runs one job with all it has: most of these
have hours to go. Others, idle or shared, are as many as may be out: GPUs stand idle on them."""
_Limit: TypeAlias = tuple[str, str]
"""What a limit is of: ("partition", name) or ("block", name)."""


class Bounds:
    """What the limits leave at one look. ``room`` counts: ask once for each node, in the plan's order."""

    def __init__(self, terms: Terms, state: State, look: Look) -> None:
        self._terms = terms
        self._state = state
        self._look = look
        self._now = look.at
        self.lead = timedelta(seconds=terms.lead_s)
        self._slot = timedelta(seconds=terms.plan.realign_s)
        self.openings = openings(terms, look.at)
        self.open_wave = self._open_wave()
        self.slip = self._slip()
        self._out = self._are_out()
        self.turns = self._turns()

    @property
    def over(self) -> bool:
        """Whether every gate was passed."""
        return self.open_wave == -1

    def gate(self) -> Gate | None:
        """The gate of the open wave, if it has one yet."""
        return next((gate for gate in self._state.gates if gate.wave == self.open_wave), None)

    def near(self, start: datetime) -> bool:
        """Whether it has to be decided now if this may begin."""
        return start <= self._now + self.lead

    @property
    def a_slot_on(self) -> datetime:
        """In a slot's time, and not near: a reservation does not begin by itself where the next look is late.

        A node that is put off so far goes before, once there is room.
        """
        return self._now + max(self._slot, 2 * self.lead)

    def half_gone(self, start: datetime) -> bool:
        """Whether at most half of a slot is left until then."""
        return start <= self._now + self._slot / 2

    def next_opening(self, start: datetime) -> datetime | None:
        """The first moment from then on, and not at once, at which a slot may begin."""
        return opening(self.openings, max(start, self._now + self.lead))

    def fits(self, record: NodeRecord) -> bool:
        """Whether a slot that begins now, give or take a look, lies in a window."""
        begins = max(record.start, self._now - self.lead).replace(microsecond=0)
        return opening(self.openings, begins) == begins

    def room(self, record: NodeRecord, seen: Seen) -> bool:
        """Whether this node may be out beside all that are out, whoever took them; it then counts as out."""
        limits = self._limits(record, seen)
        out_by_itself = bool(seen.states & NOT_IN_SERVICE)  # its slot takes nobody away
        if not out_by_itself and any(len(self._out[one] - {record.node}) >= most for one, most in limits):
            return False
        for one, _ in limits:
            self._out[one].add(record.node)
        return True

    def keep(self, record: NodeRecord, seen: Seen) -> datetime | None:
        """When the reservation is to begin of a node that takes no job after the one it runs; None: it may.

        One slot from now: it is moved on before it begins for as long as the job runs, and if nobody is there
        to move it, the node is back with its users a slot later. Only a job that leaves room for no other is
        waited for so: beside any other, GPUs would be idle for as long as that one runs.
        """
        if self._state.status is Status.PAUSED or seen.states & NOT_IN_SERVICE:
            return None
        job, ahead = seen.last_job, self._terms.plan.limits.ahead
        begins = self.a_slot_on.replace(microsecond=0)
        if job is None or job.end is None or job.end <= begins or ahead or self._terms.ignore_jobs:
            return None
        if record.wave != self.open_wave or self.next_opening(begins) != begins:
            return None
        return begins

    def _limits(self, record: NodeRecord, seen: Seen) -> list[tuple[_Limit, int]]:
        """The limits that a node is under, each with how many nodes it lets out."""
        limits, sizes = self._terms.plan.limits, self._look.sizes
        found: list[tuple[_Limit, int]] = [
            (("partition", partition), limits.most_out(sizes[partition]))
            for partition in seen.state.partitions
            if partition in sizes
        ]
        if record.block is not None and limits.per_block is not None:
            found.append((("block", record.block), limits.per_block))
        return found

    def _are_out(self) -> dict[_Limit, set[str]]:
        """The nodes of each partition that are out now, and the planned ones of each block."""
        out: dict[_Limit, set[str]] = defaultdict(set)
        for partition, names in self._look.out.items():
            out["partition", partition] |= names
        everywhere = frozenset().union(*self._look.out.values())
        for record in self._state.nodes:
            if record.block is not None and record.node in everywhere:
                out["block", record.block].add(record.node)
        return out

    def _turns(self) -> frozenset[str]:
        """The nodes of the open wave whose turn it is to be reserved: those first that are empty soonest.

        The canary is reserved as a whole, by ``schedule``. None where all are reserved ahead.
        """
        if self._terms.plan.limits.ahead:
            return frozenset()
        in_turn: dict[_Limit, set[str]] = defaultdict(set)
        idle: dict[_Limit, set[str]] = defaultdict(set)
        waiting: list[tuple[NodeRecord, Seen]] = []

        def has_turn(record: NodeRecord, seen: Seen) -> None:
            for one, _ in self._limits(record, seen):
                in_turn[one].add(record.node)
                if not seen.jobs:
                    idle[one].add(record.node)

        for record in self._state.nodes:
            seen = self._look.seen(record.node)
            if record.wave != self.open_wave or record.ended or seen is None:
                continue
            held = seen.reservation(self._terms.reservation(record.node))
            if record.phase is Phase.PLANNED and held is None:
                waiting.append((record, seen))
            else:
                has_turn(record, seen)
        chosen: set[str] = set()
        for record, seen in sorted(waiting, key=_turn):
            times = IN_TURN if seen.last_job is not None else 1
            before = in_turn if seen.jobs else idle  # an idle node does not wait for those that wait for jobs
            limits = self._limits(record, seen)
            if record.wave == 0 or all(len(before[one]) < times * most for one, most in limits):
                chosen.add(record.node)
                has_turn(record, seen)
        return frozenset(chosen)

    def _open_wave(self) -> int:
        """The wave that is worked on: the first whose gate has not been passed."""
        passed = {gate.wave for gate in self._state.gates if gate.state is GateState.PASSED}
        return next((wave.number for wave in self._terms.plan.waves if wave.number not in passed), -1)

    def _slip(self) -> timedelta:
        """How much later all waves to come begin, because the open one is not over.

        Nothing is moved before the next wave is near: most waves end in time.
        """
        starts = [
            record.start
            for record in self._state.nodes
            if record.wave > self.open_wave and record.phase is Phase.RESERVED
        ]
        halted = self._state.status is Status.HALTED
        if halted or self.over or not starts or not self.near(min(starts)):
            return timedelta(0)
        gate = self.gate()
        begun = [record.start for record in self._state.nodes if record.wave == self.open_wave]
        ended = gate.since if gate is not None else max(self._now, max(begun) + self._slot)
        ready = ended + timedelta(seconds=self._terms.plan.limits.soak_s)
        return max(ready, self._now + self.lead) + self.lead - min(starts)


def _turn(waiting: tuple[NodeRecord, Seen]) -> tuple[bool, bool, bool, datetime]:
    """Sorts nodes by what waiting for them costs: idle ones, those with one job that has all of them, others.

    Among these those first that must be empty soonest; behind all others those that Slurm did not reserve.
    """
    record, seen = waiting
    ends = [job.end or NEVER for job in seen.jobs]
    refused = record.why.startswith(REFUSED)
    return refused, bool(seen.jobs), seen.last_job is None, max(ends, default=NEVER)

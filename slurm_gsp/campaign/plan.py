"""The planner: one look at the fleet, and a slot for every node. Pure; the order of input does not matter.

It plays the campaign through on a clock that only goes forward. At each moment at which something changes (a
job must have ended, a slot ends, a window opens, a reservation of others ends) it starts the nodes that are
ready, those whose jobs end soonest first, as long as every partition and block that a node belongs to has
room. All slots are of one length and none starts before an earlier one, so a limit that holds when a slot
starts holds until it ends. Reservations of others that take nodes out later are the exception: they count
from the last moment at which a new slot would still run into them.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from itertools import pairwise
from typing import Final
from zoneinfo import ZoneInfo

from slurm_gsp.campaign.model import (
    FleetNode,
    Heading,
    LeftOut,
    Limits,
    Plan,
    PlanError,
    Reservation,
    Slot,
    Wave,
    WaveKind,
)
from slurm_gsp.campaign.planfile import seal
from slurm_gsp.campaign.windows import Openings, Span, at, longest, open_spans
from slurm_gsp.core.reason import is_ours

GRID_S: Final = 60
"""Slots start on whole minutes, so that few of them start at moments of their own."""
SHORT_S: Final = 300
SHORT_GRID_S: Final = 5
"""Slots shorter than SHORT_S, as in a rehearsal, start on a finer grid: a minute would double them."""
HORIZON_S: Final = 366 * 86400
"""How far ahead a plan looks where there is no deadline."""


def plan(
    fleet: Sequence[FleetNode],
    limits: Limits,
    now: datetime,
    realign_s: int,
    heading: Heading | None = None,
) -> Plan | PlanError:
    """A slot of ``realign_s`` seconds for every node that may get one, or all that is wrong."""
    errors = [*_wrong_times(fleet, limits, now), *_wrong_limits(limits, realign_s), *_wrong_fleet(fleet)]
    if errors:
        return PlanError(tuple(errors))
    grid = GRID_S if realign_s >= SHORT_S else SHORT_GRID_S
    begin = _up(_seconds(now), grid)
    end = begin + HORIZON_S
    if limits.deadline is not None:
        end = min(end, int(limits.deadline.timestamp()))
    spans = open_spans(limits, begin, end)
    errors = _wrong_spans(limits, begin, end, spans, realign_s)
    if errors:
        return PlanError(tuple(errors))
    left_out: dict[str, str] = {}
    candidates: list[FleetNode] = []
    for node in fleet:
        why = node.why_not(now)
        if why is None:
            candidates.append(node)
        else:
            left_out[node.name] = why
    terms = _Terms(fleet, limits, begin, end, realign_s, grid, Openings(spans, realign_s, grid))
    course = _Course(terms, candidates)
    waves = course.waves()
    while course.without_canary:
        # such a variant must not hold up the others until the end: leave all of it out, and play again
        left_out.update(course.unplaced())
        course = _Course(terms, [node for node in candidates if node.name not in left_out])
        waves = course.waves()
    left_out.update(course.unplaced())
    drivers = {node.name: node.driver for node in candidates}
    unknown = [slot.node for wave in waves for slot in wave.slots if drivers[slot.node] is None]
    return seal(
        Plan(
            heading=heading or Heading(),
            made=now,
            realign_s=realign_s,
            limits=limits,
            waves=waves,
            left_out=tuple(LeftOut(name, left_out[name]) for name in sorted(left_out, key=natural)),
            unknown_driver=tuple(sorted(unknown, key=natural)),
        )
    )


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorts n2 before n10."""
    return [int(part) if part.isdecimal() else part for part in _DIGITS.split(name)], name


_DIGITS: Final = re.compile(r"([0-9]+)")


def _wrong_times(fleet: Iterable[FleetNode], limits: Limits, now: datetime) -> list[str]:
    def naive(moment: datetime | None) -> bool:
        return moment is not None and moment.utcoffset() is None

    naive_times = [
        (what, when) for what, when in (("now", now), ("deadline", limits.deadline)) if naive(when)
    ]
    jobs = [(f"busy_until of {node.name}", node.busy_until) for node in fleet if naive(node.busy_until)]
    naive_times += sorted(jobs, key=str)
    reservations = {id(node.reservations): node.reservations for node in fleet}
    found = {
        (f"reservation {held.name}", when)
        for each in reservations.values()
        for held in each
        for when in (held.start, held.end)
        if naive(when)
    }
    naive_times += sorted(found, key=str)
    return [f"{what}: {when} has no time zone" for what, when in naive_times]


def _wrong_limits(limits: Limits, realign_s: int) -> list[str]:
    tests = (
        (realign_s >= 1, f"realign_s: a slot of {realign_s} s is none"),
        (
            limits.max_out_count is None or limits.max_out_count >= 1,
            f"max_out_count: with {limits.max_out_count} nodes out at most, none can ever go; at least 1",
        ),
        (
            limits.max_out_percent is None or 0 < limits.max_out_percent <= 100,
            f"max_out_percent: {limits.max_out_percent} is not above 0 and up to 100",
        ),
        (
            limits.per_block is None or limits.per_block >= 1,
            f"per_block: with {limits.per_block} nodes of a block at most, none can ever go; at least 1",
        ),
        (limits.canary_per_variant >= 1, f"canary_per_variant: {limits.canary_per_variant} is less than 1"),
        (
            math.isfinite(limits.growth) and limits.growth >= 1,
            f"growth: waves cannot grow by {limits.growth}; at least 1",
        ),
        (limits.soak_s >= 0, f"soak_s: {limits.soak_s} is less than 0"),
    )
    errors = [error for good, error in tests if not good]
    for window in limits.windows:
        if not window.days or not window.days <= frozenset(range(7)):
            errors.append(f"windows: {sorted(window.days)} are not days of the week, Monday 0 to Sunday 6")
        if not (0 <= window.opens < 1440 and 0 <= window.closes <= 1440):
            errors.append(f"windows: {window.opens} to {window.closes} are not minutes of a day")
    try:
        ZoneInfo(limits.time_zone)
    except (OSError, ValueError, LookupError):
        errors.append(f"time_zone: there is no {limits.time_zone!r}; write it like Europe/Berlin")
    return errors


def _wrong_fleet(fleet: Iterable[FleetNode]) -> list[str]:
    names = sorted(node.name for node in fleet)
    return [
        f"{name} is there twice" for name in sorted({one for one, next_ in pairwise(names) if one == next_})
    ]


def _wrong_spans(limits: Limits, begin: int, end: int, spans: Sequence[Span], realign_s: int) -> list[str]:
    """Where no slot could ever lie."""
    if end - begin < realign_s:
        return [f"deadline: {at(end).isoformat()} leaves no time for one slot of {realign_s} s from now on"]
    if longest(spans) >= realign_s:
        return []
    if not limits.windows:
        return ["exceptions: no time for one slot is left between them"]
    ever = open_spans(limits, begin, begin + HORIZON_S)
    if longest(ever) < realign_s:
        return [
            f"windows: none is ever long enough: a slot takes {realign_s} s, the longest {longest(ever)} s"
        ]
    return ["deadline: no window is open long enough for one slot before it"]


def _seconds(moment: datetime) -> int:
    return math.ceil(moment.timestamp())


def _up(moment: int, grid: int) -> int:
    """The next moment at which a slot may start."""
    return -(-moment // grid) * grid


class _Room:
    """How many nodes of one partition or block are out, and may be."""

    def __init__(self, what: str, most: int) -> None:
        self.what = what
        self.most = most
        self.out = 0
        self.ours = 0
        """Of these: out for a slot, and not before it."""
        self.waiting: list[_Group] = []

    @property
    def full(self) -> bool:
        return self.out >= self.most


@dataclass(slots=True, eq=False)
class _Group:
    """Candidates that are alike in everything that limits ask about; the queue is in the order of turns."""

    rooms: tuple[_Room, ...]
    held: tuple[Span, ...]
    variant: str
    out: bool
    queue: deque[int] = field(default_factory=deque)
    stands: bool = False
    """Whether it stands in a line: among those to start, at a full room, or at a reservation's end."""


@dataclass(frozen=True, slots=True)
class _Running:
    end: int
    group: _Group


@dataclass(frozen=True, slots=True)
class _Spans:
    """What the reservations of a node mean for it, and, of those with MAINT, for the others.

    ``maintenance`` is when the node counts as out for a slot that starts: one slot earlier than it is.
    """

    held: tuple[Span, ...]
    maintenance: tuple[Span, ...]

    @classmethod
    def of(cls, reservations: Sequence[Reservation], begin: int, length: int) -> _Spans:
        spans = sorted((_seconds(one.start), _seconds(one.end), one.maint) for one in reservations)
        merged: list[Span] = []
        for start, stop, maint in spans:
            first = start - length + 1
            if not maint or stop <= begin:
                continue
            if merged and first <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((first, stop))
        return cls(tuple((start, stop) for start, stop, _ in spans if stop > begin), tuple(merged))


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a course is played on."""

    fleet: Sequence[FleetNode]
    limits: Limits
    begin: int
    end: int
    length: int
    grid: int
    openings: Openings


class _Course:
    """One campaign, played through."""

    def __init__(self, terms: _Terms, candidates: Sequence[FleetNode]) -> None:
        self.terms = terms
        self.limits = terms.limits
        self.begin = terms.begin
        self.now = terms.begin
        self.last_end = terms.begin
        self.length = terms.length
        self.rooms: dict[tuple[str, str], _Room] = {}
        self.spans: dict[int, _Spans] = {}
        self.steps: list[tuple[int, int, _Room]] = []
        self._make_rooms(terms.fleet)
        ready = {node.name: self._ready(node) for node in candidates}
        order = sorted(candidates, key=lambda node: (not node.out, ready[node.name], natural(node.name)))
        self.nodes = order
        self.ready = [ready[node.name] for node in order]
        self.group_of = self._grouped(order)
        self.arrivals = sorted(range(len(order)), key=lambda turn: (self.ready[turn], turn))
        self.arrived = 0
        self.stepped = 0
        self.line: list[tuple[int, int, _Group]] = []
        self.held: list[tuple[int, int, int, _Group]] = []
        self.running: deque[_Running] = deque()
        self.counter = 0
        self.canaries_due = self._canaries_due()
        self.without_canary: frozenset[str] = frozenset()
        self.started: list[int | None] = [None] * len(order)

    def waves(self) -> tuple[Wave, ...]:
        """The canary, then waves until nobody is left who could start."""
        parked: list[_Group] = []
        canary = self._wave(None, parked)
        self.without_canary = frozenset(variant for variant, due in self.canaries_due.items() if due)
        if self.without_canary or not canary:
            return ()
        for group in parked:
            self._line_up(group)
        waves = [self._as_wave(0, WaveKind.CANARY, canary)]
        size = float(len(canary))
        while self._after_soak():
            turns = self._wave(math.ceil(size - 1e-9), parked)
            if not turns:
                break
            waves.append(self._as_wave(len(waves), WaveKind.WAVE, turns))
            size = min(size * self.limits.growth, float(len(self.nodes)))
        return tuple(waves)

    def unplaced(self) -> dict[str, str]:
        """Why candidates got no slot: all of the variants without a canary, or, with none, each one left."""
        return {
            node.name: self._why(turn, node)
            for turn, node in enumerate(self.nodes)
            if (node.variant in self.without_canary if self.without_canary else self.started[turn] is None)
        }

    def _make_rooms(self, fleet: Sequence[FleetNode]) -> None:
        sizes: dict[str, int] = defaultdict(int)
        for node in fleet:
            if node.exists:
                for partition in set(node.partitions):
                    sizes[partition] += 1
        for partition, nodes in sizes.items():
            self.rooms["partition", partition] = _Room(f"partition {partition}", self.limits.most_out(nodes))
        kept: dict[tuple[tuple[Span, ...], tuple[_Room, ...]], int] = defaultdict(int)
        for node in fleet:
            if node.exists:
                rooms = self._rooms_of(node)
                if node.out:
                    for room in rooms:
                        room.out += 1
                if node.reservations and (not node.out or node.drained_by_us):
                    kept[self._spans_of(node).maintenance, rooms] += 1
        for (maintenance, rooms), nodes in kept.items():
            for first, stop in maintenance:
                self.steps += [(first, nodes, room) for room in rooms]
                self.steps += [(stop, -nodes, room) for room in rooms]
        self.steps.sort(key=lambda step: (step[0], step[1]))

    def _spans_of(self, node: FleetNode) -> _Spans:
        """Nodes that share their reservations share the answer."""
        known = self.spans.get(id(node.reservations))
        if known is None:
            known = self.spans[id(node.reservations)] = _Spans.of(node.reservations, self.begin, self.length)
        return known

    def _rooms_of(self, node: FleetNode) -> tuple[_Room, ...]:
        rooms = [self.rooms["partition", partition] for partition in sorted(set(node.partitions))]
        if node.block is not None and self.limits.per_block is not None:
            room = self.rooms.get(("block", node.block))
            if room is None:
                room = self.rooms["block", node.block] = _Room(f"block {node.block}", self.limits.per_block)
            rooms.append(room)
        return tuple(rooms)

    def _up(self, moment: int) -> int:
        return _up(moment, self.terms.grid)

    def _ready(self, node: FleetNode) -> int:
        return self.begin if node.busy_until is None else max(self.begin, self._up(_seconds(node.busy_until)))

    def _grouped(self, order: Sequence[FleetNode]) -> list[_Group]:
        groups: dict[tuple[tuple[str, ...], str | None, tuple[Span, ...], str, bool], _Group] = {}
        found = []
        for node in order:
            held = self._spans_of(node).held
            key = (tuple(sorted(set(node.partitions))), node.block, held, node.variant, node.out)
            group = groups.get(key)
            if group is None:
                group = groups[key] = _Group(self._rooms_of(node), held, node.variant, node.out)
            found.append(group)
        return found

    def _canaries_due(self) -> dict[str, int]:
        due: dict[str, int] = defaultdict(int)
        for node in self.nodes:
            due[node.variant] = min(due[node.variant] + 1, self.limits.canary_per_variant)
        return due

    def _wave(self, size: int | None, parked: list[_Group]) -> list[int]:
        """Start nodes until the wave is full; size None: the canary, full when every variant has its own."""
        turns: list[int] = []
        most = sum(self.canaries_due.values()) if size is None else size
        while len(turns) < most:
            start = self.terms.openings.next_start(self.now)
            if start is None:
                break
            self._advance(start)
            while self.line and len(turns) < most:
                _, _, group = heappop(self.line)
                group.stands = False
                if size is None and self.canaries_due[group.variant] == 0:
                    group.stands = True
                    parked.append(group)
                elif self._has_room(group):
                    turns.append(self._start(group))
                    if size is None:
                        self.canaries_due[group.variant] -= 1
                    self._line_up(group)
            upcoming = self._next_event()
            if upcoming is None:
                break
            if len(turns) < most:
                self.now = upcoming
        return turns

    def _has_room(self, group: _Group) -> bool:
        """Whether its next node may start now; if not, the group waits where that will change."""
        for start, stop in group.held:
            if start < self.now + self.length and self.now < stop:
                group.stands = True
                self.counter += 1
                heappush(self.held, (self._up(stop), group.queue[0], self.counter, group))
                return False
        if not group.out:
            for room in group.rooms:
                if room.out >= room.most:
                    group.stands = True
                    room.waiting.append(group)
                    return False
        return True

    def _start(self, group: _Group) -> int:
        turn = group.queue.popleft()
        self.started[turn] = self.now
        self.last_end = self.now + self.length
        self.running.append(_Running(self.last_end, group))
        if not group.out:
            for room in group.rooms:
                room.out += 1
                room.ours += 1
        return turn

    def _line_up(self, group: _Group) -> None:
        group.stands = bool(group.queue)
        if group.queue:
            self.counter += 1
            heappush(self.line, (group.queue[0], self.counter, group))

    def _advance(self, moment: int) -> None:
        """Let everything happen that happens up to this moment."""
        self.now = moment
        while self.running and self.running[0].end <= moment:
            group = self.running.popleft().group
            for room in group.rooms:
                room.out -= 1
                room.ours -= 0 if group.out else 1
                self._wake(room)
        while self.stepped < len(self.steps) and self.steps[self.stepped][0] <= moment:
            _, change, room = self.steps[self.stepped]
            self.stepped += 1
            room.out += change
            self._wake(room)
        while self.held and self.held[0][0] <= moment:
            self._line_up(heappop(self.held)[-1])
        while self.arrived < len(self.arrivals) and self.ready[self.arrivals[self.arrived]] <= moment:
            turn = self.arrivals[self.arrived]
            self.arrived += 1
            group = self.group_of[turn]
            group.queue.append(turn)
            if not group.stands:
                self._line_up(group)

    def _wake(self, room: _Room) -> None:
        if room.waiting and not room.full:
            waiting, room.waiting = room.waiting, []
            for group in waiting:
                self._line_up(group)

    def _next_event(self) -> int | None:
        moments = []
        if self.running:
            moments.append(self._up(self.running[0].end))
        if self.stepped < len(self.steps):
            moments.append(self._up(self.steps[self.stepped][0]))
        if self.held:
            moments.append(self.held[0][0])
        if self.arrived < len(self.arrivals):
            moments.append(self.ready[self.arrivals[self.arrived]])
        return min(moments, default=None)

    def _after_soak(self) -> bool:
        """Move past the last slot of the wave and the soak; whether anybody is left."""
        self.now = max(self.now, self._up(self.last_end + self.limits.soak_s))
        return None in self.started

    def _as_wave(self, number: int, kind: WaveKind, turns: Sequence[int]) -> Wave:
        slots = []
        for turn in turns:
            start = self.started[turn]
            assert start is not None
            node = self.nodes[turn]
            taken = node.out and not is_ours(node.reason)
            slot = Slot(node.name, node.variant, at(start), node.profile or "", node.block, taken)
            slots.append((start, natural(node.name), slot))
        return Wave(number, kind, tuple(slot for *_, slot in sorted(slots, key=lambda item: item[:2])))

    def _why(self, turn: int, node: FleetNode) -> str:
        end = self.terms.end
        by = f"{'the deadline' if self.limits.deadline else 'the end of any plan,'} {_text(end)}"
        if self.ready[turn] + self.length > end:
            return f"its last job may run until {_text(self.ready[turn])}: too late for {by}"
        for room in self.group_of[turn].rooms:
            others = room.out - room.ours
            if not node.out and others >= room.most:
                return f"{room.what}: {others} of at most {room.most} nodes are out already"
        if node.variant in self.without_canary:
            return f"no canary of its variant {node.variant!r} could be placed before {by}"
        return f"within the limits its turn comes after {by}"


def _text(moment: int) -> str:
    return at(moment).strftime("%Y-%m-%d %H:%M UTC")

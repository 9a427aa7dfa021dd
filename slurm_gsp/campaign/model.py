"""The values of a plan: how a fleet stands, what is allowed, and which node goes when."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from slurm_gsp.core.operation import ESCALATED, is_campaigns
from slurm_gsp.core.policy import OWN_RESERVATION
from slurm_gsp.core.reason import code_of, is_ours

NEVER: Final = datetime.max.replace(tzinfo=UTC)
"""When a job without a time limit must end."""

OUT: Final = frozenset({
    "DOWN",
    "DRAIN",
    "ERROR",
    "FAIL",
    "INVALID_REG",
    "MAINTENANCE",
    "NOT_RESPONDING",
    "REBOOT_ISSUED",
    "REBOOT_REQUESTED",
    "UNKNOWN",
})
"""States in which users cannot count on a node: it is one of those that are out, whoever took it out."""
NOT_ON: Final = frozenset({"POWERED_DOWN", "POWERING_DOWN", "POWERING_UP", "POWER_DOWN", "POWER_UP"})
"""States of a node that is switched off, or on its way, to save power."""
_MINUTES_A_DAY: Final = 24 * 60


@dataclass(frozen=True, slots=True)
class Reservation:
    """One span of a reservation that holds a node; ``maint`` takes the node from its users meanwhile."""

    name: str
    start: datetime
    end: datetime
    maint: bool = False

    @property
    def ours(self) -> bool:
        """Whether it belongs to a campaign of ours."""
        return self.name.startswith(OWN_RESERVATION)


@dataclass(frozen=True, slots=True)
class FleetNode:
    """One node at the moment of the look.

    ``profile`` None: the manifest matches it by no profile. ``driver`` None: nobody says what is loaded.
    ``busy_until``: when the last job on it must have ended; None: it runs none. ``wanted``: whether it was
    asked for at all. ``take``: it was asked for although others drained it. ``held``: why it stays on an
    older pin.
    """

    name: str
    profile: str | None
    variant: str
    partitions: tuple[str, ...] = ()
    block: str | None = None
    states: frozenset[str] = frozenset({"IDLE"})
    reason: str = ""
    reason_user: str = ""
    reservations: tuple[Reservation, ...] = ()
    driver: str | None = None
    pinned: str | None = None
    busy_until: datetime | None = None
    wanted: bool = True
    take: bool = False
    held: str = ""

    @property
    def exists(self) -> bool:
        """Whether there is hardware behind the name yet."""
        return "FUTURE" not in self.states

    @property
    def out(self) -> bool:
        """Whether users cannot count on it now, whoever took it out."""
        return self.exists and not self.states.isdisjoint(OUT)

    @property
    def drained_by_us(self) -> bool:
        """Whether it is out by our own Reason and nothing else: a campaign is what it waits for."""
        flags = self.states & OUT
        drained = flags == {"DRAIN"} and is_ours(self.reason)
        left = bool(flags) and flags <= {"DOWN", "DRAIN"} and is_campaigns(self.reason)
        return (drained or left) and not self.escalated

    @property
    def escalated(self) -> bool:
        """Whether a campaign gave up on it: a person has to look first."""
        return self.out and code_of(self.reason) == ESCALATED

    def why_not(self, now: datetime) -> str | None:
        """Why this node is no candidate, whatever the limits are; None: it is one."""
        if not self.exists:
            return "there is no such node yet (state FUTURE)"
        if not self.wanted:
            return "not asked for"
        if self.profile is None:
            return "no profile of the manifest matches it"
        if self.held:
            return self.held
        for held in sorted(self.reservations, key=lambda held: (held.start, held.name)):
            if held.ours and held.end > now:
                return f"reserved by another campaign: {held.name}"
            if held.start <= now < held.end:
                return f"in the reservation {held.name}"
        why = self._state_why_not()
        if why is None and self.busy_until == NEVER:
            return "runs a job that has no time limit"
        if why is None and not self.out and self.driver is not None and self.driver == self.pinned:
            return f"already right: {self.driver}"
        return why

    def _state_why_not(self) -> str | None:
        flags = self.states & OUT
        said = self.reason or "no Reason"
        who = f" ({self.reason_user})" if self.reason_user else ""
        if flags & {"REBOOT_ISSUED", "REBOOT_REQUESTED"}:
            return "a reboot through Slurm is under way"
        if "MAINTENANCE" in flags:
            return "in a MAINT reservation"
        if flags - {"DRAIN"} and not self.drained_by_us:
            return f"{'+'.join(sorted(flags - {'DRAIN'})).lower()}: {said}{who}"
        if flags and not self.take and not is_ours(self.reason):
            return f"drained by others: {said}{who}"
        if not self.take and self.escalated:
            return f"given up by a campaign: {said}"
        if self.states & NOT_ON:
            return "switched off to save power"
        return None


@dataclass(frozen=True, slots=True)
class Window:
    """When slots may lie, each week: on these days (Monday is 0) from ``opens`` to ``closes``.

    Both are minutes after midnight, by the clock on the wall. A window that closes no later than it opens
    closes on the next day; 0 to 1440 is the whole day.
    """

    days: frozenset[int]
    opens: int
    closes: int

    @property
    def overnight(self) -> bool:
        """Whether it closes on the day after the one it opens on."""
        return self.closes <= self.opens

    @property
    def minutes(self) -> int:
        """How long it is open, on a day without a change of the clocks."""
        return self.closes - self.opens + (_MINUTES_A_DAY if self.overnight else 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan may do; None: no such limit.

    A percentage is of all nodes of a partition, rounded down, and never less than one node: a small partition
    gives up one at a time. No windows: at any time. No slot touches a day of ``exceptions``.
    """

    max_out_count: int | None = None
    max_out_percent: float | None = 10.0
    per_block: int | None = None
    canary_per_variant: int = 1
    growth: float = 2.0
    soak_s: int = 3600
    deadline: datetime | None = None
    windows: tuple[Window, ...] = ()
    time_zone: str = "UTC"
    exceptions: tuple[date, ...] = ()
    ahead: bool = True
    """Whether ``schedule`` reserves all nodes; else only the canary, and a wave in turn once it is open:
    until then its nodes take any job, and the campaign ends later than its plan says."""

    def most_out(self, nodes: int) -> int:
        """How many nodes of a partition of this size may be out at once."""
        most = nodes if self.max_out_count is None else self.max_out_count
        if self.max_out_percent is not None:
            most = min(most, max(1, int(nodes * self.max_out_percent / 100 + 1e-9)))
        return most


@dataclass(frozen=True, slots=True)
class ChangeClass:
    """A preset of limits, and how many people must sign the plan before anything is reserved."""

    name: str
    limits: Limits
    approvals: int


CHANGE_CLASSES: Final = MappingProxyType({
    kind.name: kind
    for kind in (
        # a hole that is being used: a quarter at once, few steps, a look of ten minutes between them
        ChangeClass("emergency", Limits(max_out_percent=25.0, growth=4.0, soak_s=600), approvals=1),
        # a new bundle: small waves, each reserved in its time, a soak that outlives a short job, two people
        ChangeClass("routine", Limits(max_out_percent=10.0, soak_s=3600, ahead=False), approvals=2),
        # approved once for all: a minor version inside the validated tuple, logged, never hurried
        ChangeClass("standard", Limits(max_out_percent=5.0, soak_s=1800), approvals=0),
    )
})


class WaveKind(StrEnum):
    """What a wave is for."""

    CANARY = "canary"
    WAVE = "wave"


@dataclass(frozen=True, slots=True)
class Slot:
    """One node, out of service from ``start`` for the plan's ``realign_s``.

    ``take``: it was drained by others when it was planned, and is put back so.
    """

    node: str
    variant: str
    start: datetime
    profile: str = ""
    block: str | None = None
    take: bool = False


@dataclass(frozen=True, slots=True)
class Wave:
    """Nodes between two gates."""

    number: int
    kind: WaveKind
    slots: tuple[Slot, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that is not in the plan, and why."""

    node: str
    why: str


@dataclass(frozen=True, slots=True)
class PlannedProfile:
    """What a profile brings its nodes to, and what a rollback brings them back to (None: nothing)."""

    name: str
    driver: str
    gpus: int
    previous_driver: str | None = None


@dataclass(frozen=True, slots=True)
class Heading:
    """What a plan is called and answers to; digests are SHA-256, 64 hexadecimal digits.

    ``hold``: its nodes stay on this manifest until somebody lifts that, as after a rollback.
    """

    campaign: str = ""
    manifest: str = ""
    manifest_digest: str = ""
    change_class: str = "routine"
    approvals: int = CHANGE_CLASSES["routine"].approvals
    previous: str | None = None
    previous_digest: str = ""
    profiles: tuple[PlannedProfile, ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Which node goes when. ``digest`` is over everything else (campaign/planfile.py)."""

    heading: Heading
    made: datetime
    realign_s: int
    limits: Limits
    waves: tuple[Wave, ...]
    left_out: tuple[LeftOut, ...]
    unknown_driver: tuple[str, ...] = ()
    """Planned nodes whose loaded driver nobody has told: they may turn out to be right already."""
    digest: str = ""

    @property
    def campaign(self) -> str:
        """The campaign's name."""
        return self.heading.campaign

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The slots of all waves."""
        return tuple(slot for wave in self.waves for slot in wave.slots)


@dataclass(frozen=True, slots=True)
class PlanError:
    """No plan: everything that is wrong with what was asked."""

    errors: tuple[str, ...]

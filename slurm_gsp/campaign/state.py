"""The values of a running campaign: how far each node is, and what is to be done next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from slurm_gsp.campaign.model import Plan
from slurm_gsp.core.operation import DIGEST_LENGTH, PLAN_LENGTH, Kind, Operation
from slurm_gsp.core.policy import OWN_RESERVATION
from slurm_gsp.core.published import Level


class Phase(StrEnum):
    """How far one node is. The value is the word in the ledger and in `status`.

    ``planned`` has a time and no reservation for it yet.
    """

    PLANNED = "planned"
    RESERVED = "reserved"
    WAITING = "waiting"
    TAKEN = "taken"
    DRAINED = "drained"
    ASKED = "reboot-asked"
    REALIGNING = "realigning"
    REBOOTED = "rebooted"
    VERIFYING = "verifying"
    RETURNING = "returning"
    RETURNED = "returned"
    ROLLED_BACK = "rolled-back"
    ESCALATED = "escalated"
    SKIPPED = "skipped"


ENDED = frozenset({Phase.RETURNED, Phase.ROLLED_BACK, Phase.ESCALATED, Phase.SKIPPED})
"""Nothing more is done to the node, but for taking back what is ours."""
UNTOUCHED = frozenset({Phase.PLANNED, Phase.RESERVED, Phase.WAITING})
"""The campaign has taken nothing but the node's time."""


class Status(StrEnum):
    """How a campaign as a whole stands."""

    SCHEDULING = "scheduling"
    RUNNING = "running"
    PAUSED = "paused"
    HALTED = "halted"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Found:
    """How a node stood when the campaign took it, to be put back so where the drain was somebody else's."""

    drained: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node of a campaign; what the ledger keeps of it.

    ``start`` is when its reservation begins. ``touched``: a reboot was asked for, so what runs on it may have
    changed. ``boot`` is the boot whose quick proof was good. ``failures`` are operations without success.
    """

    node: str
    wave: int
    start: datetime
    profile: str
    variant: str
    phase: Phase
    since: datetime
    block: str | None = None
    take: bool = False
    hold: bool = False
    operation: Operation | None = None
    found: Found = field(default_factory=Found)
    touched: bool = False
    before: str | None = None
    boot: str = ""
    failures: tuple[str, ...] = ()
    why: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over for this node."""
        return self.phase in ENDED

    def to(self, phase: Phase, at: datetime, why: str = "", **changes: object) -> NodeRecord:
        """The record in another phase."""
        return replace(self, phase=phase, since=at, why=why, **changes)  # type: ignore[arg-type]


class GateState(StrEnum):
    """What lies between two waves."""

    SOAKING = "soaking"
    PASSED = "passed"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate after one wave; ``told`` is why it is closed, or what its commands said."""

    wave: int
    state: GateState
    since: datetime
    told: str = ""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a campaign goes by: its plan, and the configuration's times in seconds.

    ``lead_s``: how long before a reservation begins it is decided whether it may.
    """

    plan: Plan
    level: Level = Level.HARDWARE
    attempts: int = 2
    wait_s: int = 3600
    return_s: int = 3600
    proof_s: int = 900
    verify_s: int = 3600
    lead_s: int = 65
    ignore_jobs: bool = False
    gate_commands: bool = False

    def operation(self, kind: Kind, attempt: int) -> Operation:
        """A try onto the plan's manifest, or back onto the one before it."""
        head = self.plan.heading
        name, digest = head.manifest, head.manifest_digest
        if kind is Kind.ROLLBACK:
            name, digest = head.previous or "", head.previous_digest
        plan = self.plan.digest.removeprefix("sha256:")[:PLAN_LENGTH]
        return Operation(kind, head.campaign, name, digest[:DIGEST_LENGTH], attempt, plan)

    def can_roll_back(self, profile: str) -> bool:
        """Whether there is a pin before this one for the profile."""
        return any(one.name == profile and one.previous_driver for one in self.plan.heading.profiles)

    def gpus(self, profile: str) -> int:
        """How many GPUs each node of the profile has."""
        return next((one.gpus for one in self.plan.heading.profiles if one.name == profile), 0)

    def reservation(self, node: str) -> str:
        """The name of the node's reservation: it carries campaign and node."""
        return f"{OWN_RESERVATION}{self.plan.campaign}_{node}"


@dataclass(frozen=True, slots=True)
class State:
    """A campaign as the ledger has it."""

    status: Status
    nodes: tuple[NodeRecord, ...]
    gates: tuple[Gate, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Make the node's reservation begin then, whether it is there or not; ``seconds`` None: without end."""

    node: str
    start: datetime
    seconds: int | None


@dataclass(frozen=True, slots=True)
class Hold:
    """Take the end away from the node's reservation: what is not proven is not given back by a clock."""

    node: str


@dataclass(frozen=True, slots=True)
class Release:
    """Delete the node's reservation: this is what gives a node back."""

    node: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Drain the node with this Reason."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """Drain the node as somebody else had drained it."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resume:
    """Lift our drain."""

    node: str


@dataclass(frozen=True, slots=True)
class Reboot:
    """Ask Slurm for a reboot that ends in DOWN, with this Reason."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Verify:
    """Submit the verification job of an operation (Operation.key), with all GPUs of the node."""

    node: str
    operation: str
    level: Level
    partition: str
    gpus: int


@dataclass(frozen=True, slots=True)
class AskGate:
    """Run the gate's commands for a wave and its nodes."""

    wave: int
    nodes: tuple[str, ...]


Effect: TypeAlias = Reserve | Hold | Release | Drain | PutBack | Resume | Reboot | Verify
"""One change in Slurm. Each may be done twice: the second time changes nothing."""


@dataclass(frozen=True, slots=True)
class Move:
    """What to do about one node: the effects in their order, and the record that holds once all are done."""

    record: NodeRecord
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """All that follows from one look. ``status`` None: as it is. ``loose``: there will be something to do."""

    moves: tuple[Move, ...] = ()
    gate: Gate | None = None
    ask: AskGate | None = None
    status: Status | None = None
    why: str = ""
    loose: bool = False

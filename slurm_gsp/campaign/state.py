"""The values of a running campaign: how far each node is, and what is to be done next."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from slurm_gsp.campaign.model import Plan
from slurm_gsp.core.operation import (
    DIGEST_LENGTH,
    ESCALATED,
    FAILED,
    PLAN_LENGTH,
    Kind,
    Operation,
    is_campaigns,
    parse_operation,
)
from slurm_gsp.core.policy import OWN_RESERVATION
from slurm_gsp.core.published import Level
from slurm_gsp.core.reason import code_of, is_ours


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
REFUSED = "Slurm refuses: "
"""How the ``why`` of a node in hand begins whose last effect was not done."""


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

    ``start`` is when its reservation begins. ``touched``: a reboot is asked for, so what runs on it may have
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
    def put_back(self) -> str | None:
        """The Reason of the drain of others that it gets again at the end; None: it goes into service."""
        return self.found.reason if self.found.drained and not is_ours(self.found.reason) else None

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

    @property
    def plan_id(self) -> str:
        """What tells the plan from others in a Reason and in an answer."""
        return self.plan.digest.removeprefix("sha256:")[:PLAN_LENGTH]

    def operation(self, kind: Kind, attempt: int) -> Operation:
        """A try onto the plan's manifest, or back onto the one before it."""
        head = self.plan.heading
        name, digest = head.manifest, head.manifest_digest
        if kind is Kind.ROLLBACK:
            name, digest = head.previous or "", head.previous_digest
        return Operation(kind, head.campaign, name, digest[:DIGEST_LENGTH], attempt, self.plan_id)

    def asked(self, operation: str) -> bool:
        """Whether this plan asked for the operation of this key."""
        return operation.startswith(f"{self.plan.campaign}/") and operation.endswith(f"/{self.plan_id}")

    def is_anothers(self, reason: str) -> bool:
        """Whether a Reason is that of another campaign, or of somebody who realigns by hand."""
        if not is_campaigns(reason) or code_of(reason) == FAILED:
            return False
        asked = parse_operation(reason)
        if asked is None:
            return not reason.startswith(f"gsp:{ESCALATED} {self.plan.campaign} ")
        return (asked.campaign, asked.plan) != (self.plan.campaign, self.plan_id)

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
    """Make the node's reservation begin then, whether it is there or not; ``seconds`` None: without end.

    ``beside_jobs``: although a job on the node may run for longer.
    """

    node: str
    start: datetime
    seconds: int | None
    beside_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Shift:
    """Give the node's reservation another time, over the job that runs on it; it has not begun."""

    node: str
    start: datetime
    seconds: int


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
class Cancel:
    """End a verification job of ours, by its id."""

    node: str
    job: str


def job_comment(node: str, operation: str) -> str:
    """What a verification job says of itself in its comment."""
    return f"gsp {operation} {node}"


def operation_in(comment: str) -> str:
    """The operation in a ``job_comment``."""
    return comment.removeprefix("gsp ").partition(" ")[0]


@dataclass(frozen=True, slots=True)
class AskGate:
    """Run the gate's commands for a wave and its nodes."""

    wave: int
    nodes: tuple[str, ...]


Effect: TypeAlias = Reserve | Shift | Hold | Release | Drain | PutBack | Resume | Reboot | Verify | Cancel
"""One change in Slurm. Each may be done twice: the second time changes nothing."""


@dataclass(frozen=True, slots=True)
class Move:
    """What to do about one node: the effects in their order, and the record that holds once all are done."""

    record: NodeRecord
    effects: tuple[Effect, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """All that follows from one look.

    ``status`` None: as it is. ``loose``: something of ours is left at nodes that have ended, and will go yet.
    """

    moves: tuple[Move, ...] = ()
    gate: Gate | None = None
    ask: AskGate | None = None
    status: Status | None = None
    why: str = ""
    loose: bool = False

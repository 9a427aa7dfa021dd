"""What a campaign asks of a node: an operation, and the Reason that carries it there.

Slurm is the only channel between a campaign and a node. The Reason of the drain names the operation, so that
``RebootProgram`` knows what to do; the node's answer comes back in its own record (core/published.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slurm_gsp.core.reason import MAX_LENGTH, code_of

DIGEST_LENGTH: Final = 12
"""Hexadecimal digits of a manifest's SHA-256 that a Reason has room for."""
PLAN_LENGTH: Final = 8
"""The same of a plan's digest."""
FAILED: Final = "realign-failed"
"""``gsp:realign-failed step=<n> <what>``: the node's own; it was not rebooted."""
ESCALATED: Final = "escalated"
"""``gsp:escalated <campaign> <why>``: a campaign gave up on the node."""

_OPERATION: Final = re.compile(
    r"gsp:(?P<kind>realign|rollback) (?P<campaign>[^\s/]+)"
    r"(?: to=(?P<manifest>[^\s@]+)@(?P<digest>[0-9a-f]{12}))?(?! to=)(?: try=(?P<attempt>[0-9]{1,4}))?"
    r"(?: id=(?P<plan>[0-9a-f]{8}))?(?![^\s])"
)
_LONGEST_ATTEMPT: Final = 9999


class Kind(StrEnum):
    """Which way: onto the pin of the campaign, or back onto the pin before it."""

    REALIGN = "realign"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class Operation:
    """One try at bringing a node onto a manifest.

    ``plan`` has the first 8 hexadecimal digits of the plan's SHA-256: a campaign of the same name, in another
    ledger or another year, is another one, and an answer to it is no answer to this.
    ``digest`` has the first 12 hexadecimal digits of the manifest's SHA-256. Where somebody
    asked by hand, with the kind and a campaign's name alone, ``manifest`` and ``digest`` are empty: it is the
    node's configured one.
    """

    kind: Kind
    campaign: str
    manifest: str = ""
    digest: str = ""
    attempt: int = 1
    plan: str = ""

    @property
    def reason(self) -> str:
        """The Reason of the drain and of the reboot."""
        target = f" to={self.target}" if self.manifest else ""
        plan = f" id={self.plan}" if self.plan else ""
        return f"gsp:{self.kind.value} {self.campaign}{target} try={self.attempt}{plan}"

    @property
    def target(self) -> str:
        """The manifest as people and nodes name it: ``2026-11@0123456789ab``."""
        return f"{self.manifest}@{self.digest}"

    @property
    def key(self) -> str:
        """What names this try among all others on this node: ``c1/realign/2/0123abcd``."""
        plan = f"/{self.plan}" if self.plan else ""
        return f"{self.campaign}/{self.kind.value}/{self.attempt}{plan}"


def parse_operation(reason: str) -> Operation | None:
    """The operation that a Reason asks for, or None; Slurm appends to it (`` : reboot issued``)."""
    found = _OPERATION.match(reason)
    if found is None:
        return None
    return Operation(
        Kind(found["kind"]),
        found["campaign"],
        found["manifest"] or "",
        found["digest"] or "",
        int(found["attempt"] or 1),
        found["plan"] or "",
    )


def is_campaigns(reason: str) -> bool:
    """Whether a campaign, not the health check, has this node in hand: it is left to the campaign."""
    return code_of(reason) in {*(kind.value for kind in Kind), FAILED, ESCALATED}


def reason_fits(campaign: str, manifest: str) -> bool:
    """Whether every Reason of a campaign with these names stays one line of the length that we allow."""
    digest, plan = "0" * DIGEST_LENGTH, "0" * PLAN_LENGTH
    operations = (Operation(kind, campaign, manifest, digest, _LONGEST_ATTEMPT, plan) for kind in Kind)
    return all(len(operation.reason) <= MAX_LENGTH for operation in operations)

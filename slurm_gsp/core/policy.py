"""What a hook does about a diagnosis: pure decisions, so that each can be read and tested on its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slurm_gsp.core.finding import Basis, Diagnosis, Finding
from slurm_gsp.core.operation import is_campaigns
from slurm_gsp.core.reason import is_ours

MOST_DOUBLINGS: Final = 3
"""Of the interval after which a drain is tried again."""
APART: Final = 0.05
"""The share of that interval by which such tries are kept apart: Slurm may start all checks at once."""

OWN_RESERVATION = "gsp_"
"""Reservations of our campaigns start with this."""

SLURMS_OWN_REASONS = ("Not responding", "Node unexpectedly rebooted")
"""Reasons that Slurm sets and clears by itself: nobody's decision, so the next run looks again."""


class Standing(StrEnum):
    """What the health check knows of the node in Slurm, between its runs."""

    NONE = "none"
    OURS = "ours"
    FOREIGN = "foreign"
    PENDING = "pending"
    BREAKER = "breaker"


@dataclass(frozen=True, slots=True)
class Limits:
    """Runs in a row that a finding needs before it drains, by what it rests on."""

    log_runs: int
    hung_runs: int

    def needed(self, basis: Basis) -> int:
        """State needs one look; log lines and probes have to repeat."""
        return {Basis.STATE: 1, Basis.LOG: self.log_runs, Basis.PROBE: self.hung_runs}[basis]


def count_runs(diagnosis: Diagnosis, before: Mapping[str, int]) -> dict[str, int]:
    """Runs in a row in which each code was found, this one included."""
    return {finding.code: before.get(finding.code, 0) + 1 for finding in diagnosis.findings}


def draining(diagnosis: Diagnosis, drains: Callable[[str], bool]) -> list[Finding]:
    """Findings that take the node out of service by configuration, or because the next open fails."""
    return [finding for finding in diagnosis.findings if drains(finding.code) or finding.urgent]


def confirmed(findings: Sequence[Finding], runs: Mapping[str, int], limits: Limits) -> Finding | None:
    """The worst finding that was seen often enough."""
    for finding in findings:
        if runs.get(finding.code, 0) >= limits.needed(finding.basis):
            return finding
    return None


@dataclass(frozen=True, slots=True)
class SlurmView:
    """The part of a node's record that ownership rests on."""

    drained: bool
    rebooting: bool
    in_maintenance: bool
    reservation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether to write, what the node's standing is if not, and why, for the log."""

    write: bool
    standing: Standing
    why: str


def decide_drain(view: SlurmView, reason: str) -> Decision:
    """Drain, or leave alone what is somebody else's."""
    if view.rebooting:
        return Decision(False, Standing.FOREIGN, "a reboot through Slurm is under way")
    if view.in_maintenance and not view.reservation.startswith(OWN_RESERVATION):
        return Decision(
            False, Standing.FOREIGN, f"inside the MAINT reservation {view.reservation or 'of others'}"
        )
    if not view.drained:
        return Decision(True, Standing.OURS, "in service")
    if view.reason == reason:
        return Decision(False, Standing.OURS, "already drained with this Reason")
    if is_campaigns(view.reason):
        return Decision(False, Standing.FOREIGN, f"in the hands of a campaign: {view.reason!r}")
    if is_ours(view.reason):
        return Decision(True, Standing.OURS, f"our own Reason changed from {view.reason!r}")
    if view.reason.startswith(SLURMS_OWN_REASONS):
        return Decision(False, Standing.PENDING, f"down by Slurm itself: {view.reason!r}")
    return Decision(False, Standing.FOREIGN, f"drained or down for another reason: {view.reason!r}")


def may_resume(view: SlurmView) -> bool:
    """Only the hooks' own drain, in no reboot and in no maintenance."""
    return drained_by_hooks(view) and not view.rebooting and not view.in_maintenance


def drained_by_hooks(view: SlurmView) -> bool:
    """Whether a hook drained this node, and no campaign has taken it over since."""
    return view.drained and is_ours(view.reason) and not is_campaigns(view.reason)


def retry_after(interval_s: float, failed: int, share: float) -> float:
    """Seconds until a drain that Slurm did not answer in time is tried again, after so many failures.

    ``share`` is a random number from 0 to 1. Where a fault hits all nodes of a large cluster at once, they
    ask more than slurmctld can answer in time, and would all ask together again.
    """
    return share * interval_s * float(2 ** min(failed - 1, MOST_DOUBLINGS))


def breaker_trips(partitions: Sequence[Sequence[SlurmView]], share: float) -> bool:
    """Whether more than ``share`` of a partition's nodes stand drained by our hooks already."""
    for nodes in partitions:
        reasons = [node.reason for node in nodes if node.drained]
        ours = sum(1 for reason in reasons if is_ours(reason) and not is_campaigns(reason))
        if ours > share * len(nodes):
            return True
    return False


def climbed(
    before: Mapping[str, tuple[str, tuple[str, ...]]], code: str, boot_id: str
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Remember a fault as code -> (boot it was last seen in, remedies tried); a new boot is a reboot."""
    boot, tried = before.get(code, (boot_id, ()))
    if boot != boot_id and "reboot" not in tried:
        tried = (*tried, "reboot")
    return {**before, code: (boot_id, tried)}

"""The public vocabulary: verdicts, remedies, fault codes, findings and the diagnosis."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Verdict(StrEnum):
    """What a look at a node says; the value is the word printed."""

    NO_GPU = "no-gpu"
    CONSISTENT = "consistent"
    LATENT = "latent"
    MISMATCH = "mismatch"
    ELSEWHERE = "elsewhere"
    UNKNOWN = "unknown"


EXIT_CODES = {
    Verdict.NO_GPU: 0,
    Verdict.CONSISTENT: 0,
    Verdict.LATENT: 1,
    Verdict.MISMATCH: 2,
    Verdict.ELSEWHERE: 3,
    Verdict.UNKNOWN: 4,
}


class Rank(IntEnum):
    """Order of findings: a cause that only looks like a mismatch hides one, so it comes first."""

    LOOKALIKE = 0
    MISMATCH = 1
    ELSEWHERE = 2
    LATENT = 3


class Basis(StrEnum):
    """What a finding rests on; log lines and a single hung probe have to repeat before they drain."""

    STATE = "state"
    LOG = "log"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the catalogue: the code, its verdict and rank, and the runbook's next step."""

    code: str
    verdict: Verdict
    rank: Rank
    drains: bool
    step: str


_REALIGN = "Realign the node to the pinned set (never copy images by hand), reboot, verify."
_REBOOT = "Reboot if the set on disk agrees and is what is pinned; otherwise realign first. Then verify."
_RELOAD = "Reload the driver with no process on the GPUs; if it comes back, climb the ladder."

_ROWS: tuple[tuple[str, Rank, bool, str], ...] = (
    (
        "sb-refused",
        Rank.LOOKALIKE,
        True,
        "Sign the module or enrol its key (MOK); do not reinstall the driver.",
    ),
    (
        "vbios",
        Rank.LOOKALIKE,
        True,
        "Board firmware: engage NVIDIA support; reinstalling does not reflash a board.",
    ),
    (
        "nouveau",
        Rank.LOOKALIKE,
        True,
        "Kernel modules runbook: keep nouveau off these GPUs, then load nvidia.",
    ),
    (
        "wrong-flavour",
        Rank.LOOKALIKE,
        True,
        "Install the other flavour (open or proprietary) of the same version.",
    ),
    (
        "gpu-missing",
        Rank.LOOKALIKE,
        True,
        "GPU missing runbook: seating, power, PCIe; the driver is not the cause.",
    ),
    ("umd-skew", Rank.MISMATCH, True, _REBOOT),
    ("kmd-split", Rank.MISMATCH, True, _REBOOT),
    ("fw-missing", Rank.MISMATCH, True, _REALIGN),
    ("fw-skew", Rank.MISMATCH, True, _REALIGN),
    ("fw-damaged", Rank.MISMATCH, True, _REALIGN),
    ("gsp-skew", Rank.MISMATCH, True, _REBOOT),
    (
        "kmd-unbuilt",
        Rank.MISMATCH,
        True,
        "Build or install the module for the running kernel (headers first), reboot.",
    ),
    (
        "kmd-unloaded",
        Rank.MISMATCH,
        True,
        "Load the module (modprobe nvidia) and read why it was not loaded at boot.",
    ),
    (
        "fabric-skew",
        Rank.MISMATCH,
        True,
        "Bring the fabric manager to the driver's exact version, restart it, verify.",
    ),
    ("gsp-timeout", Rank.ELSEWHERE, True, _RELOAD),
    ("gpu-lost", Rank.ELSEWHERE, True, _RELOAD),
    ("driver-hung", Rank.ELSEWHERE, True, _RELOAD),
    (
        "fw-interrupted",
        Rank.ELSEWHERE,
        True,
        "The image is intact: reload the driver so that it is read again.",
    ),
    (
        "fw-gone",
        Rank.LATENT,
        False,
        "Reinstall the pinned set before the next driver load; do not reboot into it.",
    ),
    ("reboot-pending", Rank.LATENT, False, "Reboot in the next window if the set on disk is the pinned one."),
    (
        "next-kernel",
        Rank.LATENT,
        False,
        "Build the module for the kernel that boots next before anything reboots.",
    ),
    (
        "pkg-split",
        Rank.LATENT,
        False,
        "Finish or undo the interrupted change; purge only the stray branch's packages.",
    ),
    (
        "umd-missing",
        Rank.LATENT,
        False,
        "Install the userspace libraries of the loaded driver's exact version.",
    ),
    ("drift", Rank.LATENT, False, "Put the node into the next maintenance campaign."),
    (
        "gsp-off",
        Rank.LATENT,
        False,
        "Remove NVreg_EnableGpuFirmware=0; switching GSP off is a debugging probe.",
    ),
)

_VERDICT_OF_RANK = {
    Rank.LOOKALIKE: Verdict.ELSEWHERE,
    Rank.MISMATCH: Verdict.MISMATCH,
    Rank.ELSEWHERE: Verdict.ELSEWHERE,
    Rank.LATENT: Verdict.LATENT,
}

FAULTS: dict[str, Fault] = {
    code: Fault(code, _VERDICT_OF_RANK[rank], rank, drains, step) for code, rank, drains, step in _ROWS
}
"""The catalogue, worst first: position is severity."""

_SEVERITY = {code: position for position, code in enumerate(FAULTS)}


class Remedy(StrEnum):
    """The closed set of remedies; routes name another runbook."""

    NONE = "none"
    RELOAD = "reload"
    REBOOT = "reboot"
    REALIGN = "realign"
    ROLLBACK = "rollback"
    ESCALATE = "escalate"
    ROUTE_SIGNING = "route:secure-boot"
    ROUTE_MODULES = "route:kernel-modules"
    ROUTE_FLAVOUR = "route:module-flavour"
    ROUTE_GPU_MISSING = "route:gpu-missing"
    ROUTE_PARAMETER = "route:gsp-parameter"


@dataclass(frozen=True, slots=True)
class Clue:
    """One piece of evidence a finding rests on, with where it was read."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault that holds. ``facts`` are the Reason's key=value pairs; ``urgent`` drains a latent fault."""

    code: str
    summary: str
    clues: tuple[Clue, ...]
    remedy: Remedy
    facts: tuple[tuple[str, str], ...] = ()
    basis: Basis = Basis.STATE
    urgent: bool = False

    @property
    def fault(self) -> Fault:
        """The catalogue's row."""
        return FAULTS[self.code]

    @property
    def step(self) -> str:
        """The runbook's next step: the catalogue's, or the one half of it that the remedy chose."""
        if self.remedy is Remedy.REBOOT:
            return "The set on disk agrees: reboot, then verify."
        if self.remedy is Remedy.REALIGN and self.fault.step == _REBOOT:
            return _REALIGN
        return self.fault.step


def severity(finding: Finding) -> int:
    """Sort key: worst first."""
    return _SEVERITY[finding.code]


@dataclass(frozen=True, slots=True)
class Unread:
    """A layer that could not be read, why, and whether the verdict needed it."""

    layer: str
    source: str
    why: str
    needed: bool


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The judgement on one node; findings are worst first."""

    verdict: Verdict
    remedy: Remedy
    findings: tuple[Finding, ...]
    unread: tuple[Unread, ...]

    @property
    def worst(self) -> Finding | None:
        """The finding that decided the verdict."""
        return self.findings[0] if self.findings else None

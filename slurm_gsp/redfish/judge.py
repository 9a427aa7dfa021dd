"""A manifest's pins against what a BMC lists. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.manifest.model import FirmwarePin, Manifest
from slurm_gsp.redfish.model import Answer, Component

_ABSENT: Final = "Absent"
"""Redfish's state of a component that is listed but not there."""
_UPDATING: Final = "Updating"


class Verdict(StrEnum):
    """How one component, or a whole BMC, stands to its pin."""

    EQUAL = "equal"
    DIFFERS = "differs"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One component against one pin; ``component`` is the pin's own text where nothing matches it."""

    component: str
    pinned: str
    verdict: Verdict
    found: str | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """One node: its BMC's answer, and that against the pins of its profile."""

    node: str
    profile: str
    answer: Answer
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict | None:
        """All in all; None where nothing is pinned."""
        return overall(self.findings) if self.findings else None


def compare(
    manifest: Manifest, profiles: Mapping[str, str], answers: Mapping[str, Answer]
) -> tuple[Compared, ...]:
    """Every node's answer against its profile, in the order of the answers."""
    return tuple(
        Compared(node, profiles[node], answer, judge(manifest.profile(profiles[node]).bmc, answer))
        for node, answer in answers.items()
    )


def judge(pins: Sequence[FirmwarePin], answer: Answer) -> tuple[Finding, ...]:
    """Every pin against the inventory; a component must satisfy all that cover it."""
    if isinstance(answer, Unknown):
        return tuple(Finding(pin.component, pin.version, Verdict.UNKNOWN, None, answer.why) for pin in pins)
    components = answer.value.components
    return tuple(dict.fromkeys(finding for pin in pins for finding in _judge(pin, components)))


def overall(findings: Iterable[Finding]) -> Verdict:
    """One verdict: a difference is one whatever else is not known; nothing that was compared is not equal."""
    seen = {finding.verdict for finding in findings}
    if seen & {Verdict.DIFFERS, Verdict.MISSING}:
        return Verdict.DIFFERS
    return Verdict.EQUAL if seen == {Verdict.EQUAL} else Verdict.UNKNOWN


def _judge(pin: FirmwarePin, components: Sequence[Component]) -> list[Finding]:
    covered = [component for component in components if pin.covers(component.id)]
    there = [component for component in covered if component.state != _ABSENT]
    if there:
        return [_compare(pin, component) for component in there]
    why = "is listed as absent" if covered else "the BMC lists no such component"
    return [Finding(pin.component, pin.version, Verdict.MISSING, None, why)]


def _compare(pin: FirmwarePin, component: Component) -> Finding:
    version = component.version
    if isinstance(version, Unknown):
        return Finding(component.id, pin.version, Verdict.UNKNOWN, None, version.why)
    if isinstance(version, Absent):
        return Finding(component.id, pin.version, Verdict.UNKNOWN, None, "the BMC names no version")
    if component.state == _UPDATING:
        return Finding(component.id, pin.version, Verdict.UNKNOWN, version.value, "is being updated")
    return _known(pin, component.id, version)


def _known(pin: FirmwarePin, component: str, version: Known[str]) -> Finding:
    verdict = Verdict.EQUAL if version.value == pin.version else Verdict.DIFFERS
    return Finding(component, pin.version, verdict, version.value)

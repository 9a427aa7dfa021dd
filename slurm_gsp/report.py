"""A diagnosis as plain text for people and as one JSON-able object for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from slurm_gsp.core.evidence import Evidence, Library
from slurm_gsp.core.finding import Basis, Diagnosis, Finding, Verdict
from slurm_gsp.core.reading import Absent, Known, Reading, value_of
from slurm_gsp.core.reason import format_reason

_WIDTH = 100
_MEANING = {
    Verdict.NO_GPU: "no NVIDIA GPU here, and none expected",
    Verdict.CONSISTENT: "every layer that could be read agrees",
    Verdict.LATENT: "what runs now is consistent; the next reload, reboot or job may break it",
    Verdict.MISMATCH: "the running driver set is inconsistent",
    Verdict.ELSEWHERE: "the GPUs are not usable, and not for a version mismatch",
    Verdict.UNKNOWN: "too little could be read to say",
}


def as_object(evidence: Evidence, diagnosis: Diagnosis) -> dict[str, object]:
    """The object that ``inspect --json`` prints."""
    return {
        "node": evidence.hostname,
        "verdict": diagnosis.verdict.value,
        "remedy": diagnosis.remedy.value,
        "reason": format_reason(diagnosis.worst) if diagnosis.worst is not None else None,
        "versions": dict(versions(evidence)),
        "findings": [_finding_object(finding) for finding in diagnosis.findings],
        "unread": [
            {"layer": item.layer, "source": item.source, "why": item.why, "needed": item.needed}
            for item in diagnosis.unread
        ],
    }


def _finding_object(finding: Finding) -> dict[str, object]:
    return {
        "code": finding.code,
        "verdict": finding.fault.verdict.value,
        "summary": finding.summary,
        "remedy": finding.remedy.value,
        "step": finding.step,
        "confirmed": finding.basis is Basis.STATE,
        "facts": dict(finding.facts),
        "evidence": [{"text": clue.text, "source": clue.source} for clue in finding.clues],
    }


def versions(evidence: Evidence) -> Iterator[tuple[str, str | None]]:
    """The version tuple of the node, None where a layer is absent or unread."""
    disk, next_disk = value_of(evidence.disk), value_of(evidence.next_disk)
    yield "kernel", value_of(evidence.kernel)
    yield "loaded", value_of(evidence.loaded)
    yield "flavour", value_of(evidence.flavour)
    yield "on disk", disk.version if disk else None
    yield "gsp running", ", ".join(_running_gsp(evidence)) or None
    yield "nvml library", _library(evidence.userspace.nvml)
    yield "cuda library", _library(evidence.userspace.cuda)
    yield "fabric manager", value_of(evidence.fabric_manager)
    yield "next kernel", value_of(evidence.next_kernel)
    yield "on disk for it", next_disk.version if next_disk else None
    yield "pinned", evidence.pin.driver


def _running_gsp(evidence: Evidence) -> list[str]:
    pci = value_of(evidence.pci)
    readings = (value_of(gpu.information) for gpu in (pci.gpus if pci is not None else ()))
    return sorted({reading.firmware for reading in readings if reading is not None and reading.firmware})


def _library(reading: Reading[Library]) -> str | None:
    library = value_of(reading)
    return library.version if library is not None else None


def as_text(evidence: Evidence, diagnosis: Diagnosis) -> str:
    """What ``inspect`` prints."""
    return "\n".join(_lines(evidence, diagnosis))


def _lines(evidence: Evidence, diagnosis: Diagnosis) -> Iterator[str]:
    yield f"{evidence.hostname}: {diagnosis.verdict.value} ({_MEANING[diagnosis.verdict]})"
    yield f"remedy: {diagnosis.remedy.value}"
    yield ""
    yield from _layers(evidence)
    for finding in diagnosis.findings:
        yield ""
        yield f"{finding.code}  [{finding.fault.verdict.value}, remedy {finding.remedy.value}]"
        yield from _wrapped(finding.summary, "  ")
        for clue in finding.clues:
            yield from _wrapped(f"- {clue.text}  [{clue.source}]", "    ")
        yield from _wrapped(f"next: {finding.step}", "  ")
    if diagnosis.unread:
        yield ""
        yield "not read:"
        for item in diagnosis.unread:
            needed = ", needed for a verdict" if item.needed else ""
            yield from _wrapped(f"- {item.layer}: {item.why}  [{item.source}{needed}]", "  ")


def _layers(evidence: Evidence) -> Iterator[str]:
    pci = value_of(evidence.pci)
    if pci is not None:
        switches = f", {pci.nvswitches} NVSwitches" if pci.nvswitches else ""
        yield f"  {'GPUs on PCI':<16}{len(pci.gpus)}{_expected(evidence.expected_gpus)}{switches}"
    for name, version in versions(evidence):
        if version is not None:
            yield f"  {name:<16}{version}"
    for library in evidence.userspace.others:
        yield f"  {'other copy':<16}{library.soname} {library.version or '?'} ({library.path})"


def _expected(reading: Reading[int]) -> str:
    if isinstance(reading, Known):
        return f" of {reading.value} expected"
    return "" if isinstance(reading, Absent) else " (expected number unknown)"


def _wrapped(text: str, indent: str) -> Iterator[str]:
    yield from textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_long_words=False
    )

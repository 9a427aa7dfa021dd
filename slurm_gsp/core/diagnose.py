"""Evidence in, Diagnosis out: pure, and the only place where a verdict is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Diagnosis, Finding, Rank, Remedy, Unread, Verdict, severity
from slurm_gsp.core.ladder import climb
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.core.rules import NVML_LIBRARY_NOT_FOUND, NVML_MISMATCH, RULES
from slurm_gsp.core.view import ImageState, Running, View

_STRENGTH = (Remedy.NONE, Remedy.RELOAD, Remedy.REBOOT, Remedy.REALIGN, Remedy.ROLLBACK, Remedy.ESCALATE)


def diagnose(evidence: Evidence) -> Diagnosis:
    """Judge one node.

    The worst finding decides the verdict. With no finding the node is ``consistent`` only if every
    layer that the verdict needs was read; otherwise it is ``unknown``.
    """
    view = View(evidence)
    found = (finding for rule in RULES if (finding := rule(view)) is not None)
    findings = tuple(sorted((_laddered(finding, evidence) for finding in found), key=severity))
    unread = tuple(_unread(view))
    if findings:
        return Diagnosis(findings[0].fault.verdict, _node_remedy(findings), findings, unread)
    pci = value_of(evidence.pci)
    if pci is not None and not pci.gpus:
        return Diagnosis(Verdict.NO_GPU, Remedy.NONE, (), unread)
    if any(layer.needed for layer in unread):
        return Diagnosis(Verdict.UNKNOWN, Remedy.NONE, (), unread)
    return Diagnosis(Verdict.CONSISTENT, Remedy.NONE, (), unread)


def _laddered(finding: Finding, evidence: Evidence) -> Finding:
    tried = [remedy for code, remedy in evidence.tried if code == finding.code]
    return replace(finding, remedy=climb(finding.remedy, tried))


def _node_remedy(findings: tuple[Finding, ...]) -> Remedy:
    """The worst finding's remedy, or a stronger one on the same ladder that another finding needs as well.

    Only a mismatch is strengthened this way: a reboot into a kernel without a module repairs nothing.
    """
    worst = findings[0]
    if worst.fault.rank is not Rank.MISMATCH or worst.remedy not in _STRENGTH:
        return worst.remedy
    candidates = [
        finding.remedy
        for finding in findings
        if finding.fault.rank in {Rank.MISMATCH, Rank.LATENT} and finding.remedy in _STRENGTH
    ]
    return max(candidates, key=_STRENGTH.index)


def _unread(view: View) -> Iterator[Unread]:
    """Layers that could not be read. Needed are those without which nobody can say "consistent"."""
    evidence = view.evidence
    yield from _layer("PCI devices", evidence.pci, needed=True)
    has_gpus = bool(view.gpus)
    yield from _layer("loaded module", evidence.loaded, needed=has_gpus)
    if has_gpus and view.is_loaded is False:
        yield from _layer("module on disk", evidence.disk, needed=True)
    else:
        yield from _layer("module on disk", evidence.disk, needed=False)
        yield from _userspace(view, needed=has_gpus)
        yield from _gpus(view)
        yield from _nvml(view, needed=has_gpus)
    for firmware in evidence.firmware:
        yield from _layer("GSP images", firmware, needed=False)
    for name, reading in _optional_layers(evidence):
        yield from _layer(name, reading, needed=False)


def _optional_layers(evidence: Evidence) -> tuple[tuple[str, Reading[object]], ...]:
    return (
        ("kernel log", evidence.log),
        ("package database", evidence.packages),
        ("DKMS", evidence.dkms),
        ("next kernel", evidence.next_kernel),
        ("stuck processes", evidence.stuck),
        ("Secure Boot", evidence.secure_boot),
        ("fabric manager", evidence.fabric_manager),
    )


def _layer(name: str, reading: Reading[object], *, needed: bool) -> Iterator[Unread]:
    if isinstance(reading, Unknown):
        yield Unread(name, reading.source, reading.why, needed)


def _userspace(view: View, *, needed: bool) -> Iterator[Unread]:
    """NVML coming up proves its library; else the loader's pick has to carry a version."""
    for name, reading in (
        ("NVML library", view.evidence.userspace.nvml),
        ("CUDA library", view.evidence.userspace.cuda),
    ):
        is_nvml = name == "NVML library"
        proven = view.nvml_works if is_nvml else True
        if isinstance(reading, Known) and reading.value.version is None:
            why = "the file name behind it carries no driver version"
            yield Unread(name, reading.value.path, why, needed and not proven)
        elif isinstance(reading, Absent) and is_nvml and not proven:
            yield Unread(name, reading.source, "the loader finds none", needed)
        elif isinstance(reading, Unknown):
            yield Unread(name, reading.source, reading.why, needed and not proven)


def _gpus(view: View) -> Iterator[Unread]:
    """A GPU counts when it runs, or when nothing stands in the way of its next start."""
    if view.loaded is None:
        return
    for gpu in view.gpus:
        information = value_of(gpu.information)
        if information is not None and information.excluded:
            continue
        if view.nvml_listed and view.nvml_gpu(gpu) is None:
            # The driver's information file is cached from 590.44.01 on: it does not prove that the GPU lives.
            why = "NVML does not list it: lost, or hidden from this process by a cgroup"
            yield Unread(f"GPU {gpu.bus_id}", view.evidence.nvml.source, why, needed=True)
        elif view.running(gpu) in {Running.GSP, Running.PLAIN}:
            continue
        elif view.needs_gsp(gpu) is not False and view.image(gpu, view.loaded).state is ImageState.UNREAD:
            check = view.image(gpu, view.loaded)
            yield Unread(
                f"GSP image for {gpu.bus_id}", check.path or "firmware search path", check.why, needed=True
            )


def _nvml(view: View, *, needed: bool) -> Iterator[Unread]:
    """An NVML that answers with an error confirms nothing; one that was not asked is missing evidence."""
    reading = view.evidence.nvml
    yield from _layer("NVML", reading, needed=False)
    if view.nvml is None or view.nvml_works:
        return
    init = view.nvml.init
    # 12 and 18 are answers: the rules for a missing and for a skewed library rest on them.
    if init not in {NVML_LIBRARY_NOT_FOUND, NVML_MISMATCH}:
        yield Unread("NVML", reading.source, f"nvmlInit ended with {init}", needed)

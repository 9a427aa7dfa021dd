"""How a node proves itself after an operation: checks of what was read, and the proof they add up to.

Pure: values in, checks out. What could not be read is unknown, never fine; and unknown is never a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slurm_gsp.core.evidence import NO_MODULE_TREE, Evidence, Gpu, Library
from slurm_gsp.core.finding import Diagnosis, Finding, Verdict
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import MAX_WHY, Level, Proof, Result
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.core.reason import format_reason
from slurm_gsp.core.rules import NVML_LIBRARY_NOT_FOUND
from slurm_gsp.core.view import Running, View, bus_ids

NOT_THIS_OPERATIONS: Final = frozenset({"gsp-off"})
"""Findings that are told and fail no proof: a parameter that the site set, which no installation of a driver
sets or takes back. All other latent ones fail: what the next reload or reboot breaks is not verified."""


class Outcome(StrEnum):
    """How one check ended."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not-applicable"


@dataclass(frozen=True, slots=True)
class Check:
    """One check; ``told`` says in a few words what was found."""

    name: str
    outcome: Outcome
    told: str


def passed(name: str, told: str) -> Check:
    """A check that passed."""
    return Check(name, Outcome.PASS, told)


def failed(name: str, told: str) -> Check:
    """A check that failed."""
    return Check(name, Outcome.FAIL, told)


def unknown(name: str, told: str) -> Check:
    """A check that could not be made."""
    return Check(name, Outcome.UNKNOWN, told)


def not_applicable(name: str, told: str) -> Check:
    """A check that this node has no use for."""
    return Check(name, Outcome.NOT_APPLICABLE, told)


def unread(name: str, reading: Reading[object]) -> Check:
    """A check whose reading is not known."""
    why = reading.why if isinstance(reading, Unknown) else "is not there"
    return unknown(name, f"{reading.source}: {why}")


def result_of(checks: Iterable[Check]) -> Result:
    """Fail if any failed, else unknown if any is unknown, else pass."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAIL in outcomes:
        return Result.FAIL
    return Result.UNKNOWN if Outcome.UNKNOWN in outcomes or not outcomes else Result.PASS


def proof_of(  # noqa: PLR0913 - the fields of a proof
    checks: tuple[Check, ...],
    diagnosis: Diagnosis,
    *,
    level: Level,
    boot: str,
    operation: str = "",
    pinned: Pinned | None = None,
    job: str = "",
) -> Proof:
    """What these checks prove; ``why`` names the first that failed, else the first that could not be made."""
    result = result_of(checks)
    wanted = {Result.FAIL: Outcome.FAIL, Result.UNKNOWN: Outcome.UNKNOWN}.get(result)
    told = next((f"{check.name}: {check.told}" for check in checks if check.outcome is wanted), "")
    return Proof(
        operation=operation,
        level=level,
        result=result,
        boot=boot,
        pin=pinned.target if pinned is not None else "",
        codes=tuple(finding.code for finding in failing(diagnosis)),
        why=told[:MAX_WHY],
        job=job,
    )


def failing(diagnosis: Diagnosis) -> tuple[Finding, ...]:
    """The findings that fail a proof. Those that rest on log lines or on one hung probe count at once."""
    return tuple(found for found in diagnosis.findings if found.code not in NOT_THIS_OPERATIONS)


def quick_checks(evidence: Evidence, diagnosis: Diagnosis, pinned: Pinned | None) -> tuple[Check, ...]:
    """What one full look of the detector proves. Without a pin: that the node agrees with itself."""
    view = View(evidence)
    if view.has_no_gpus and pinned is None and not diagnosis.findings:
        return (not_applicable("detector", "no GPU of this driver is here, and none is missing"),)
    return (
        _detector(diagnosis),
        _module(view, pinned),
        _flavour(view, pinned),
        _nvml(view),
        _gpus(view, pinned),
        _one_version(view),
        _gsp(view),
        _userspace(view),
        _module_on_disk(view),
    )


def _detector(diagnosis: Diagnosis) -> Check:
    name = "detector"
    wrong = failing(diagnosis)
    if wrong:
        return failed(name, "; ".join(format_reason(found).partition(":")[2] for found in wrong))
    if diagnosis.verdict is Verdict.UNKNOWN:
        needed = [f"{layer.layer}: {layer.why}" for layer in diagnosis.unread if layer.needed]
        return unknown(name, "; ".join(needed) or "too little could be read")
    told = "".join(f"; told: {found.code}" for found in diagnosis.findings)
    return passed(name, f"{diagnosis.verdict.value}{told}")


def _module(view: View, pinned: Pinned | None) -> Check:
    name = "module"
    if view.loaded is None:
        if view.is_loaded is False:
            return failed(name, "no nvidia module is loaded")
        return unread(name, view.evidence.loaded)
    if pinned is None:
        return passed(name, f"{view.loaded} is loaded; nothing is pinned")
    if view.loaded != pinned.driver:
        return failed(name, f"{view.loaded} is loaded, {pinned.driver} is pinned")
    return passed(name, f"{view.loaded} is loaded, as pinned")


def _flavour(view: View, pinned: Pinned | None) -> Check:
    name = "flavour"
    if pinned is None:
        return not_applicable(name, "nothing is pinned")
    if view.flavour is None:
        return unread(name, view.evidence.flavour)
    if view.flavour != pinned.flavour:
        return failed(name, f"{view.flavour}, {pinned.flavour} is pinned")
    return passed(name, f"{view.flavour}, as pinned")


def _nvml(view: View) -> Check:
    name = "nvml"
    if view.nvml is None:
        return unread(name, view.evidence.nvml)
    if view.nvml_works:
        return passed(name, f"up, {view.nvml.library or 'of no known version'}")
    if view.nvml.init == NVML_LIBRARY_NOT_FOUND and view.driver_in_container:
        return unknown(name, "the driver and its libraries are in a container")
    if isinstance(view.nvml.init, int):
        return failed(name, f"nvmlInit ended with {int(view.nvml.init)}")
    told = {"timeout": "no answer in time; the probe was left alone", "crash": "the probe crashed"}
    return unknown(name, told[view.nvml.init.value])


def expected_gpus(view: View, pinned: Pinned | None) -> int | None:
    """How many GPUs there must be: as pinned, else as configured; None: nobody says."""
    return pinned.gpus if pinned is not None else value_of(view.evidence.expected_gpus)


def _gpus(view: View, pinned: Pinned | None) -> Check:
    name = "gpus"
    wanted = expected_gpus(view, pinned)
    if view.nvml is None or not view.nvml_listed:
        return unknown(name, "NVML lists none: it is not up")
    listed = len(view.nvml.gpus)
    if wanted is None:
        expected = view.evidence.expected_gpus
        if isinstance(expected, Absent):
            return not_applicable(name, f"{listed} listed; no number is configured")
        return unread(name, expected)
    told = f"{listed} listed, {wanted} expected"
    if listed >= wanted:
        return passed(name, told)
    unseen = [gpu for gpu in view.gpus if view.nvml_gpu(gpu) is None and view.running(gpu) is Running.GSP]
    if listed + len(unseen) >= wanted:
        return unknown(name, f"{told}; lost, or hidden from this job: {bus_ids(unseen)}")
    return failed(name, told)


def _one_version(view: View) -> Check:
    """The modules and the NVML library that answered are of one version."""
    name = "one-version"
    modules = value_of(view.evidence.modules)
    if modules is None:
        return unread(name, view.evidence.modules)
    found = {(module, version) for module, version in modules if version is not None}
    if view.nvml is not None and view.nvml.library is not None:
        found.add(("NVML", view.nvml.library))
    versions = sorted({version for _, version in found})
    if not versions:
        return unknown(name, "no module of the driver shows a version")
    if len(versions) > 1:
        return failed(name, ", ".join(f"{part} {version}" for part, version in sorted(found)))
    return passed(name, f"{versions[0]} in {len(found)} places")


def _gsp(view: View) -> Check:
    """Every GPU runs the loaded driver's GSP firmware, but for those that are not meant to run any."""
    name = "gsp"
    if view.loaded is None:
        return unknown(name, "the loaded version is not known")
    running = {gpu: view.gsp_version(gpu) for gpu in view.gpus if not _is_excluded(gpu)}
    if not running:
        return unknown(name, "no GPU of this driver is on PCI")
    wrong = [
        f"{gpu.bus_id} {version}" for gpu, version in running.items() if version not in {None, view.loaded}
    ]
    if wrong:
        return failed(name, f"{', '.join(wrong)} under {view.loaded}")
    bare = [gpu for gpu, version in running.items() if version is None and _runs_gsp(view, gpu) is not False]
    without = [gpu for gpu in bare if _runs_gsp(view, gpu) and view.nvml_gpu(gpu) is not None]
    if without:
        return failed(name, f"no GSP firmware runs on {bus_ids(without)}")
    if bare:
        return unknown(name, f"not known of {bus_ids(bare)}")
    return _gsp_passed(name, view, running)


def _runs_gsp(view: View, gpu: Gpu) -> bool | None:
    """Whether the GPU is meant to run GSP firmware, by its chip and by the driver's parameter."""
    return False if view.gsp_mode == 0 else view.needs_gsp(gpu)


def _is_excluded(gpu: Gpu) -> bool:
    information = value_of(gpu.information)
    return information is not None and information.excluded


def _gsp_passed(name: str, view: View, running: dict[Gpu, str | None]) -> Check:
    count = sum(version is not None for version in running.values())
    rest = len(running) - count
    if count == 0:
        return not_applicable(name, f"none of {rest} GPU(s) is meant to run GSP firmware")
    return passed(name, f"{view.loaded} on {count} GPU(s)" + (f", none by design on {rest}" if rest else ""))


def _userspace(view: View) -> Check:
    """The libraries that programs get are the loaded module's."""
    name = "userspace"
    if view.driver_in_container:
        return not_applicable(name, "the driver and its libraries are in a container")
    if view.loaded is None:
        return unknown(name, "the loaded version is not known")
    picks = (("libnvidia-ml", view.evidence.userspace.nvml), ("libcuda", view.evidence.userspace.cuda))
    checks = [_library(name, soname, reading, view.loaded) for soname, reading in picks]
    for outcome in (Outcome.FAIL, Outcome.UNKNOWN):
        for check in checks:
            if check.outcome is outcome:
                return check
    return passed(name, f"libnvidia-ml and libcuda {view.loaded}")


def _library(name: str, soname: str, reading: Reading[Library], loaded: str) -> Check:
    if isinstance(reading, Absent):
        return failed(name, f"the loader finds no {soname}")
    if not isinstance(reading, Known):
        return unread(name, reading)
    if reading.value.version is None:
        return unknown(name, f"{reading.value.path}: its name carries no version")
    if reading.value.version != loaded:
        return failed(name, f"{soname} {reading.value.version}, {loaded} is loaded")
    return passed(name, soname)


def _module_on_disk(view: View) -> Check:
    """The kernel's own view: what a reload would load is what is loaded."""
    name = "module-on-disk"
    disk = view.disk
    if disk is None:
        if isinstance(view.evidence.disk, Absent):
            return failed(
                name, f"none for the running kernel {value_of(view.evidence.kernel) or ''}".rstrip()
            )
        if view.evidence.disk == NO_MODULE_TREE:
            return not_applicable(name, "this node keeps no modules on disk")
        return unread(name, view.evidence.disk)
    if disk.version is None:
        return unknown(name, f"{disk.path}: its version cannot be read")
    versions = {disk.version, *(version for _, version in disk.companions)}
    if versions != {view.loaded}:
        return failed(
            name, f"{', '.join(sorted(versions))} for {disk.kernel}, {view.loaded or 'none'} is loaded"
        )
    return passed(name, f"{disk.version} for {disk.kernel}")

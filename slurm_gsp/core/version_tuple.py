"""What a node publishes of a look: the version tuple, the verdict, and in which boot that was seen. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Diagnosis
from slurm_gsp.core.published import (
    DRIVER_KEY,
    FABRIC_KEY,
    FAULTS_KEY,
    FLAVOUR_KEY,
    GSP_KEY,
    KERNEL_KEY,
    MANIFEST_KEY,
    NICS_KEY,
    SEEN_KEY,
    UMD_KEY,
    VBIOS_KEY,
    VERDICT_KEY,
    plain,
)
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.core.view import Running, View

MAX_VALUE: Final = 128
"""Longest value: slurmctld keeps all of them, for each node."""
_NO_VBIOS: Final = "?"
"""The driver writes ``??.??.??.??.??`` while a GPU is not initialised."""


def version_tuple(evidence: Evidence, diagnosis: Diagnosis, manifest: str, boot: str) -> dict[str, str]:
    """The keys and values; ``manifest`` is what the node is pinned to, empty where that is nothing."""
    view = View(evidence)
    readings: dict[str, Reading[str]] = {
        DRIVER_KEY: evidence.loaded,
        FLAVOUR_KEY: evidence.flavour,
        GSP_KEY: _gsp(view),
        UMD_KEY: _userspace(evidence),
        FABRIC_KEY: evidence.fabric_manager,
        VBIOS_KEY: _vbios(view),
        NICS_KEY: _nics(evidence),
        KERNEL_KEY: evidence.kernel,
        MANIFEST_KEY: Known(manifest, "pin"),
        VERDICT_KEY: Known(diagnosis.verdict.value, "look"),
        FAULTS_KEY: Known(",".join(finding.code for finding in diagnosis.findings), "look"),
        SEEN_KEY: Known(boot, "look"),
    }
    return {
        key: plain(value_of(reading) or "")[:MAX_VALUE]
        for key, reading in readings.items()
        if not isinstance(reading, Unknown)
    }


def _joined(values: Iterable[str | None], source: str) -> Known[str]:
    return Known("+".join(sorted({value for value in values if value})), source)


def _gsp(view: View) -> Reading[str]:
    """The GSP firmware that runs; empty where none does."""
    if not isinstance(view.evidence.pci, Known):
        return Unknown("GSP firmware", "the GPUs are not known")
    versions = [view.gsp_version(gpu) for gpu in view.gpus]
    if not any(versions) and any(view.running(gpu) is Running.UNKNOWN for gpu in view.gpus):
        return Unknown("GSP firmware", "no GPU could be asked")
    return _joined(versions, "GSP firmware")


def _userspace(evidence: Evidence) -> Reading[str]:
    """What the loader gives programs: the NVML and the CUDA library."""
    readings = (evidence.userspace.nvml, evidence.userspace.cuda)
    if all(isinstance(reading, Absent) for reading in readings):
        return Absent("libraries")
    versions = [library.version for reading in readings if (library := value_of(reading)) is not None]
    return _joined(versions, "libraries") if any(versions) else Unknown("libraries", "no version was read")


def _vbios(view: View) -> Reading[str]:
    found = []
    for gpu in view.gpus:
        seen, information = view.nvml_gpu(gpu), value_of(gpu.information)
        found += [seen.vbios if seen is not None else None, information.vbios if information else None]
    told = [version.upper() for version in found if version and _NO_VBIOS not in version]
    if view.gpus and not told:
        return Unknown("VBIOS", "no GPU told")
    return _joined(told, "VBIOS")


def _nics(evidence: Evidence) -> Reading[str]:
    nics = value_of(evidence.nics)
    if nics is None:
        return Unknown("NIC firmware", "not read")
    return _joined((version for _, version in nics), "NIC firmware")

# ruff: noqa: E501 - one case a line
"""What one look proves: every check passed, failed, not known and not applicable; and the proof of them."""

from dataclasses import replace
from pathlib import Path

import pytest

from slurm_gsp.collect.collect import collect
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.evidence import Library, Nvml, NvmlFailure, Pin
from slurm_gsp.core.finding import Basis, Clue, Diagnosis, Finding, Remedy, Verdict
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import Level, Proof, Result
from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.core.verification import (
    Check,
    failed,
    not_applicable,
    passed,
    proof_of,
    quick_checks,
    result_of,
    unknown,
)
from slurm_gsp.record import open_recording

NODES = Path(__file__).parents[1] / "fixtures/nodes"
RECORDINGS = sorted(path.parent.name for path in NODES.glob("*/recording.json"))
DARK = Unknown("here", "permission denied")


def recorded(name):
    return collect(*open_recording(NODES / name))


HEALTHY = recorded("ubuntu2204-570-server-open")
V, OTHER = "570.172.08", "580.95.05"
PINNED = Pinned("2026-11", "0123456789ab", "h100", V, "open", 8, False)
OLD = recorded("geforce-535-proprietary-without-images")


def gpus(evidence=HEALTHY, **change):
    """The evidence with its first GPU, in the driver's file and in NVML, changed."""
    pci, nvml = evidence.pci.value, evidence.nvml.value
    first, *others = pci.gpus
    information = Known(replace(first.information.value, **change), first.information.source)
    shown = replace(nvml.gpus[0], gsp=change["firmware"]) if "firmware" in change else nvml.gpus[0]
    return replace(
        evidence,
        pci=Known(replace(pci, gpus=(replace(first, information=information), *others)), "pci"),
        nvml=Known(replace(nvml, gpus=(shown, *nvml.gpus[1:])), "nvml"),
    )


def nvml(**change):
    return replace(HEALTHY, nvml=Known(replace(HEALTHY.nvml.value, **change), "nvml"))


def library(name, version=V):
    return Known(Library(name, f"/usr/lib/{name}", version), "ldconfig -p")


def userspace(**change):
    return replace(HEALTHY, userspace=replace(HEALTHY.userspace, **change))


def disk(**change):
    return replace(HEALTHY, disk=Known(replace(HEALTHY.disk.value, **change), "disk"))


def check(name, evidence=HEALTHY, pinned=PINNED):
    found = {item.name: item for item in quick_checks(evidence, diagnose(evidence), pinned)}
    return found[name]


def finding(code, basis=Basis.STATE, **facts):
    return Finding(code, "summary", (Clue("text", "source"),), Remedy.REALIGN, tuple(facts.items()), basis)


def diagnosis(*findings, verdict=Verdict.CONSISTENT):
    return Diagnosis(findings[0].fault.verdict if findings else verdict, Remedy.NONE, findings, ())


def test_a_healthy_node_passes_every_check():
    checks = quick_checks(HEALTHY, diagnose(HEALTHY), PINNED)
    assert checks == (
        passed("detector", "consistent"),
        passed("module", f"{V} is loaded, as pinned"),
        passed("flavour", "open, as pinned"),
        passed("nvml", f"up, {V}"),
        passed("gpus", "8 listed, 8 expected"),
        passed("one-version", f"{V} in 5 places"),
        passed("gsp", f"{V} on 8 GPU(s)"),
        passed("userspace", f"libnvidia-ml and libcuda {V}"),
        passed("module-on-disk", f"{V} for 5.15.0-151-generic"),
    )


BARE = recorded("module-not-loaded")
CASES = [
    # module
    ("module", HEALTHY, None, passed("module", f"{V} is loaded; nothing is pinned")),
    ("module", HEALTHY, replace(PINNED, driver=OTHER), failed("module", f"{V} is loaded, {OTHER} is pinned")),
    ("module", BARE, PINNED, failed("module", "no nvidia module is loaded")),
    ("module", replace(HEALTHY, loaded=DARK), PINNED, unknown("module", "here: permission denied")),
    # flavour
    ("flavour", HEALTHY, None, not_applicable("flavour", "nothing is pinned")),
    ("flavour", HEALTHY, replace(PINNED, flavour="proprietary"), failed("flavour", "open, proprietary is pinned")),
    ("flavour", replace(HEALTHY, flavour=Absent("here")), PINNED, unknown("flavour", "here: is not there")),
    # nvml
    ("nvml", nvml(init=9), PINNED, failed("nvml", "nvmlInit ended with 9")),
    (
        "nvml",
        nvml(init=NvmlFailure.TIMEOUT),
        PINNED,
        unknown("nvml", "no answer in time; the probe was left alone"),
    ),
    ("nvml", nvml(init=NvmlFailure.CRASH), PINNED, unknown("nvml", "the probe crashed")),
    ("nvml", replace(HEALTHY, nvml=DARK), PINNED, unknown("nvml", "here: permission denied")),
    # gpus
    # the driver says that it runs: a cgroup may hide it from this job
    ("gpus", nvml(gpus=HEALTHY.nvml.value.gpus[1:]), PINNED, unknown("gpus", "7 listed, 8 expected; lost, or hidden from this job: 0000:1b:00.0")),
    ("gpus", nvml(gpus=HEALTHY.nvml.value.gpus[1:]), replace(PINNED, gpus=9), failed("gpus", "7 listed, 9 expected")),
    ("gpus", replace(gpus(firmware=None), nvml=nvml(gpus=HEALTHY.nvml.value.gpus[1:]).nvml), PINNED, failed("gpus", "7 listed, 8 expected")),
    ("gpus", HEALTHY, replace(PINNED, gpus=2), passed("gpus", "8 listed, 2 expected")),
    ("gpus", nvml(init=18, gpus=()), PINNED, unknown("gpus", "NVML lists none: it is not up")),
    ("gpus", nvml(gpus=(), listed=False), PINNED, unknown("gpus", "NVML lists none: it is not up")),
    (
        "gpus",
        replace(HEALTHY, expected_gpus=Absent("gres.conf")),
        None,
        not_applicable("gpus", "8 listed; no number is configured"),
    ),
    ("gpus", replace(HEALTHY, expected_gpus=DARK), None, unknown("gpus", "here: permission denied")),
    ("gpus", replace(HEALTHY, expected_gpus=Known(8, "gres.conf")), None, passed("gpus", "8 listed, 8 expected")),
    # one-version
    ("one-version", nvml(library=OTHER), PINNED, failed(
        "one-version",
        f"NVML {OTHER}, nvidia {V}, nvidia_drm {V}, nvidia_modeset {V}, nvidia_uvm {V}",
    )),
    ("one-version", replace(HEALTHY, modules=DARK), PINNED, unknown("one-version", "here: permission denied")),
    (
        "one-version",
        replace(nvml(library=None), modules=Known((("nvidia", None),), "here")),
        PINNED,
        unknown("one-version", "no module of the driver shows a version"),
    ),
    # gsp
    ("gsp", gpus(firmware=OTHER), PINNED, failed("gsp", f"0000:1b:00.0 {OTHER} under {V}")),
    ("gsp", gpus(firmware=None), PINNED, failed("gsp", "no GSP firmware runs on 0000:1b:00.0")),
    ("gsp", replace(HEALTHY, loaded=DARK), PINNED, unknown("gsp", "the loaded version is not known")),
    ("gsp", OLD, None, unknown("gsp", "not known of 0000:1b:00.0, 0000:43:00.0")),
    (
        "gsp",
        recorded("v100-proprietary-no-gsp"),
        None,
        not_applicable("gsp", "none of 4 GPU(s) is meant to run GSP firmware"),
    ),
    (
        "gsp",
        recorded("gsp-switched-off"),
        None,
        not_applicable("gsp", "none of 4 GPU(s) is meant to run GSP firmware"),
    ),
    ("gsp", gpus(excluded=True, firmware=None), PINNED, passed("gsp", f"{V} on 7 GPU(s)")),
    # userspace
    (
        "userspace",
        userspace(cuda=library("libcuda.so.1", OTHER)),
        PINNED,
        failed("userspace", f"libcuda {OTHER}, {V} is loaded"),
    ),
    ("userspace", userspace(cuda=Absent("here")), PINNED, failed("userspace", "the loader finds no libcuda")),
    ("userspace", userspace(nvml=DARK), PINNED, unknown("userspace", "here: permission denied")),
    (
        "userspace",
        userspace(cuda=library("libcuda.so.1", None)),
        PINNED,
        unknown("userspace", "/usr/lib/libcuda.so.1: its name carries no version"),
    ),
    ("userspace", replace(HEALTHY, loaded=DARK), PINNED, unknown("userspace", "the loaded version is not known")),
    # module-on-disk
    (
        "module-on-disk",
        disk(version=OTHER),
        PINNED,
        failed("module-on-disk", f"{V}, {OTHER} for 5.15.0-151-generic, {V} is loaded"),
    ),
    ("module-on-disk", disk(version=None), PINNED, unknown("module-on-disk", f"{HEALTHY.disk.value.path}: its version cannot be read")),
    (
        "module-on-disk",
        replace(HEALTHY, disk=Absent("/lib/modules/5")),
        PINNED,
        failed("module-on-disk", "none for the running kernel 5.15.0-151-generic"),
    ),
    ("module-on-disk", replace(HEALTHY, disk=DARK), PINNED, unknown("module-on-disk", "here: permission denied")),
    (
        "module-on-disk",
        recorded("h100-580-open"),
        None,
        not_applicable("module-on-disk", "this node keeps no modules on disk"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "evidence", "pinned", "expected"), CASES)
def test_a_check(name: str, evidence, pinned, expected) -> None:
    assert check(name, evidence, pinned) == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (diagnosis(), passed("detector", "consistent")),
        (diagnosis(verdict=Verdict.UNKNOWN), unknown("detector", "too little could be read")),
        (diagnosis(finding("umd-skew", kmd="1")), failed("detector", "umd-skew kmd=1")),
        (diagnosis(finding("gpu-missing")), failed("detector", "gpu-missing")),
        (diagnosis(finding("next-kernel"), finding("drift")), failed("detector", "next-kernel; drift")),
        (diagnosis(finding("gsp-timeout", Basis.LOG)), failed("detector", "gsp-timeout")),
        (diagnosis(finding("driver-hung", Basis.PROBE)), failed("detector", "driver-hung")),
        (diagnosis(finding("gsp-off")), passed("detector", "latent; told: gsp-off")),
        (diagnosis(finding("fw-gone"), finding("gsp-off")), failed("detector", "fw-gone")),
    ],
)
def test_the_detectors_word(found, expected):
    """What rests on log lines or on one probe counts at once; the site's own parameter does not."""
    assert quick_checks(HEALTHY, found, PINNED)[0] == expected


def test_a_node_without_gpus_has_nothing_to_prove():
    nothing = not_applicable("detector", "no GPU of this driver is here, and none is missing")
    for name in ("cpu-node-shared-gres-conf", "all-gpus-on-vfio"):
        evidence = recorded(name)
        checks = quick_checks(evidence, diagnose(evidence), None)
        assert (checks, result_of(checks)) == ((nothing,), Result.PASS)
    evidence = recorded("cpu-node-shared-gres-conf")
    assert result_of(quick_checks(evidence, diagnose(evidence), PINNED)) is Result.FAIL


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_recorded_node(name: str) -> None:
    """A node with a fault, or of which too little is known, never passes; a healthy one never fails."""
    evidence = recorded(name)
    found = diagnose(evidence)
    result = result_of(quick_checks(evidence, found, None))
    allowed = {
        Verdict.MISMATCH: {Result.FAIL},
        Verdict.ELSEWHERE: {Result.FAIL},
        Verdict.LATENT: {Result.PASS if found.worst and found.worst.code == "gsp-off" else Result.FAIL},
        Verdict.UNKNOWN: {Result.UNKNOWN, Result.FAIL},
        Verdict.CONSISTENT: {Result.PASS, Result.UNKNOWN},
        Verdict.NO_GPU: {Result.PASS},
    }
    assert result in allowed[found.verdict]


def test_a_pinned_node_that_runs_something_else_fails_with_its_code():
    evidence = replace(HEALTHY, pin=Pin(OTHER, "open", "pin.json"))
    found = diagnose(evidence)
    pinned = replace(PINNED, driver=OTHER)
    checks = quick_checks(evidence, found, pinned)
    proof = proof_of(
        checks, found, level=Level.QUICK, boot="b", operation="c1/realign/1", pinned=pinned, job="7"
    )
    assert proof == Proof(
        "c1/realign/1",
        Level.QUICK,
        Result.FAIL,
        "b",
        "2026-11@0123456789ab",
        ("drift",),
        f"detector: drift kmd={V} pin={OTHER}",
        "7",
    )


PASSED, FAILED, DARKLY, NOTHING = (
    passed("a", "x"),
    failed("b", "y"),
    unknown("c", "z"),
    not_applicable("d", "-"),
)


@pytest.mark.parametrize(
    ("checks", "result", "why"),
    [
        ((PASSED, NOTHING), Result.PASS, ""),
        ((NOTHING,), Result.PASS, ""),
        ((PASSED, DARKLY, NOTHING), Result.UNKNOWN, "c: z"),
        ((PASSED, DARKLY, FAILED), Result.FAIL, "b: y"),
        ((), Result.UNKNOWN, ""),
        ((failed("long", "x" * 500),), Result.FAIL, f"long: {'x' * 154}"),
    ],
)
def test_what_checks_add_up_to(checks: tuple[Check, ...], result, why):
    assert result_of(checks) is result
    proof = proof_of(checks, diagnosis(), level=Level.HARDWARE, boot="b")
    assert proof == Proof("", Level.HARDWARE, result, "b", why=why)


def test_nvml_in_a_container_that_holds_the_driver():
    contained = recorded("ubuntu2204-570-server-open")
    firmware = Known(
        replace(contained.firmware[0].value, searched=("/run/nvidia/driver/lib/firmware",)), "here"
    )
    evidence = replace(contained, firmware=(firmware,), nvml=Known(Nvml(12), "nvml"))
    told = "the driver and its libraries are in a container"
    assert check("nvml", evidence) == unknown("nvml", told)
    assert check("userspace", evidence) == not_applicable("userspace", told)

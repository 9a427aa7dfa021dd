# ruff: noqa: E501 - one case a line
"""The deeper checks: boards, links, NICs, images, and what DCGM, the smoke job and NCCL answered."""

from dataclasses import replace
from pathlib import Path

import pytest

from slurm_gsp.collect.collect import collect
from slurm_gsp.core.evidence import Pci
from slurm_gsp.core.hardware import (
    Board,
    Boards,
    Computed,
    Facts,
    Smoke,
    dcgm_check,
    hardware_checks,
    nccl_check,
    smoke_check,
)
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.core.verification import failed, not_applicable, passed, unknown
from slurm_gsp.parse.dcgm import DcgmReport, DcgmResult, DcgmStatus, parse_dcgm
from slurm_gsp.parse.nccl import NcclReport
from slurm_gsp.record import open_recording

HERE = Path(__file__).parent
EVIDENCE = collect(*open_recording(HERE.parent / "fixtures/nodes/h200-nvswitch-fabric-matches"))
V = EVIDENCE.loaded.value
BUSES = tuple(gpu.bus_id for gpu in EVIDENCE.pci.value.gpus)
FIRST, SECOND = BUSES[:2]
DARK = Unknown("here", "permission denied")
MATRIX = "\tGPU0\tGPU1\nGPU0\t X \tNV18\nGPU1\tNV18\t X \n"
LINKS = {("GPU0", "GPU0"): "X", ("GPU0", "GPU1"): "NV18", ("GPU1", "GPU0"): "NV18", ("GPU1", "GPU1"): "X"}
PINNED = Pinned(
    "2026-11",
    "0123456789ab",
    "h200",
    V,
    "open",
    len(BUSES),
    True,
    vbios="96.00.AF.00.01",
    inforom="G520.0200.00.05",
    cuda="12.8",
    nic_firmware="28.43.2566",
    pcie_width=16,
    pcie_generation=5,
    topology=MATRIX,
    images=(("gsp_ga10x.bin", "a" * 64),),
)
BARE = Pinned("2026-11", "0123456789ab", "h200", V, "open", len(BUSES), False)


def board(bus, **change):
    values = {
        "vbios": "96.00.af.00.01", "inforom": "G520.0200.00.05", "width": 16, "generation": 5, "generation_max": 5,
        "retirement_pending": "n/a", "remap_pending": False, "remap_failed": False,
    }  # fmt: skip
    return Board(bus, **{**values, **change})


def boards(cuda="12.8", **change):
    """All boards, the first of them changed."""
    return Known(Boards(cuda, (board(FIRST, **change), *(board(bus) for bus in BUSES[1:]))), "NVML")


FACTS = Facts(
    boards=boards(),
    fabric_state=Known("active", "systemctl"),
    topology=Known(LINKS, "nvidia-smi topo -m"),
    nics=Known((("mlx5_0", "28.43.2566"), ("mlx5_1", "20.31.1014")), "/sys/class/infiniband"),
    images=Known((("gsp_ga10x.bin", "a" * 64), ("gsp_tu10x.bin", "b" * 64)), "firmware search path"),
)
SMOKE = Known(Smoke(tuple(Computed(bus, "H200", "", 16, 5) for bus in BUSES)), "smoke")
N = len(BUSES)


def smoked(**change):
    """The smoke job, its first GPU changed."""
    first, *others = SMOKE.value.gpus
    return Known(Smoke((replace(first, **change), *others)), "smoke")


def check(name, facts=FACTS, pinned=PINNED, smoke=SMOKE, evidence=EVIDENCE):
    found = {item.name: item for item in hardware_checks(evidence, pinned, facts, smoke)}
    return found[name]


def test_a_healthy_node_passes_every_check():
    assert hardware_checks(EVIDENCE, PINNED, FACTS, SMOKE) == (
        passed("fabric-manager", f"active, {V}"),
        passed("topology", "4 links as pinned"),
        passed("pcie", f"x16 generation 5 on {N} GPU(s)"),
        passed("memory", f"nothing pending on {N} GPU(s)"),
        passed("vbios", f"96.00.AF.00.01 on {N} GPU(s)"),
        passed("inforom", f"G520.0200.00.05 on {N} GPU(s)"),
        passed("cuda", "12.8"),
        passed("nic-firmware", "28.43.2566 on 1 NIC(s)"),
        passed("images", "1 as pinned"),
    )


@pytest.mark.parametrize("pinned", [BARE, None])
def test_what_is_not_pinned_is_not_compared(pinned):
    evidence = replace(EVIDENCE, pci=Known(replace(EVIDENCE.pci.value, nvswitches=0), "pci"))
    dark = Facts(DARK, DARK, DARK, DARK, DARK)
    told = {item.name: item for item in hardware_checks(evidence, pinned, dark, SMOKE)}
    assert told.pop("fabric-manager") == not_applicable("fabric-manager", "this node needs none")
    assert told.pop("memory") == unknown("memory", "here: permission denied")
    assert list(told.values()) == [not_applicable(name, "not pinned") for name in told]


def test_nothing_that_is_pinned_and_cannot_be_read_passes():
    dark = Facts(DARK, DARK, DARK, DARK, DARK)
    told = hardware_checks(EVIDENCE, PINNED, dark, SMOKE)
    assert told == tuple(unknown(item.name, "here: permission denied") for item in told)


@pytest.mark.parametrize(
    ("name", "facts", "expected"),
    [
        ("fabric-manager", {"fabric_state": Known("failed", "systemctl")}, failed("fabric-manager", "systemd calls it failed")),
        ("fabric-manager", {"fabric_state": Unknown("systemctl", "no systemd")}, unknown("fabric-manager", "systemctl: no systemd")),
        ("topology", {"topology": Known({**LINKS, ("GPU0", "GPU1"): "SYS"}, "x")}, failed("topology", "GPU0-GPU1 SYS for NV18 pinned")),
        ("topology", {"topology": Known({("GPU0", "GPU0"): "X"}, "x")}, failed("topology", "GPU0-GPU1 None for NV18, GPU1-GPU0 None for NV18, GPU1-GPU1 None for X pinned")),
        ("memory", {"boards": boards(remap_failed=True, remap_pending=True)}, failed("memory", f"{FIRST} row remapping failed, row remapping pending")),
        ("memory", {"boards": boards(remap_pending="n/a", remap_failed="n/a", retirement_pending=True)}, failed("memory", f"{FIRST} page retirement pending")),
        ("memory", {"boards": boards(remap_pending=None, remap_failed=None, retirement_pending=None)}, unknown("memory", f"{FIRST} NVML says neither pages nor rows")),
        ("memory", {"boards": boards(remap_pending=None, remap_failed=None)}, unknown("memory", f"{FIRST} NVML says neither pages nor rows")),
        ("memory", {"boards": Known(Boards("12.8", (board(FIRST, remap_pending="n/a", remap_failed="n/a"),)), "NVML")}, not_applicable("memory", "no such memory")),
        ("memory", {"boards": Known(Boards("12.8", ()), "NVML")}, unknown("memory", "NVML lists no GPU")),
        ("vbios", {"boards": boards(vbios="96.00.AF.00.02")}, failed("vbios", f"{FIRST} 96.00.AF.00.02 for 96.00.AF.00.01")),
        ("inforom", {"boards": boards(inforom="G500")}, failed("inforom", f"{FIRST} G500 for G520.0200.00.05")),
        ("inforom", {"boards": boards(inforom=None)}, unknown("inforom", f"{FIRST} NVML does not say")),
        ("cuda", {"boards": boards(cuda="13.0")}, failed("cuda", "13.0 for 12.8")),
        ("cuda", {"boards": boards(cuda=None)}, unknown("cuda", "NVML does not say")),
        ("nic-firmware", {"nics": Known((("mlx5_0", "28.39.1002"), ("mlx5_1", "28.43.2566")), "x")}, failed("nic-firmware", "mlx5_0 28.39.1002 for 28.43.2566")),
        ("nic-firmware", {"nics": Known((("mlx5_1", "20.31.1014"),), "x")}, failed("nic-firmware", "no NIC of this kind is there, 28.43.2566 is pinned")),
        ("nic-firmware", {"nics": Known((), "x")}, failed("nic-firmware", "no NIC of this kind is there, 28.43.2566 is pinned")),
        ("images", {"images": Known((("gsp_ga10x.bin", "c" * 64),), "x")}, failed("images", "another gsp_ga10x.bin")),
        ("images", {"images": Known((), "x")}, failed("images", "no gsp_ga10x.bin")),
    ],
)  # fmt: skip
def test_a_check(name, facts, expected):
    assert check(name, replace(FACTS, **facts)) == expected


def test_a_pinned_topology_that_is_none():
    told = unknown("topology", "the pin: not the matrix of nvidia-smi topo -m")
    assert check("topology", pinned=replace(PINNED, topology="GPU0 is fast")) == told


def test_vbios_of_the_drivers_own_file_where_nvml_says_nothing():
    wanted = EVIDENCE.pci.value.gpus[0].information.value.vbios
    facts = replace(FACTS, boards=Known(Boards(None, (board(FIRST, vbios=None),)), "NVML"))
    assert check("vbios", facts, replace(PINNED, vbios=wanted)) == passed("vbios", f"{wanted} on 1 GPU(s)")


@pytest.mark.parametrize(
    ("manager", "expected"),
    [
        (Known("570.195.03", "dpkg"), failed("fabric-manager", f"570.195.03, {V} is loaded")),
        (Absent("dpkg"), unknown("fabric-manager", "dpkg: is not there")),
    ],
)
def test_the_fabric_managers_version(manager, expected):
    assert check("fabric-manager", evidence=replace(EVIDENCE, fabric_manager=manager)) == expected


@pytest.mark.parametrize(("switches", "asked"), [(4, True), (0, False)])
def test_without_a_pin_nvswitches_ask_for_a_fabric_manager(switches, asked):
    evidence = replace(EVIDENCE, pci=Known(Pci(EVIDENCE.pci.value.gpus, switches), "pci"))
    assert (check("fabric-manager", pinned=None, evidence=evidence).told == f"active, {V}") is asked


UNREAD = Unknown("smoke", "not started")
MIG = f"MIG is on, set smoke = false in [verify]: {FIRST}"


@pytest.mark.parametrize(
    ("change", "smoke", "expected"),
    [
        ({"width": 8}, SMOKE, failed("pcie", f"{FIRST} x8 of x16")),
        ({"width": None}, SMOKE, passed("pcie", f"x16 generation 5 on {N} GPU(s)")),
        ({"width": None}, UNREAD, unknown("pcie", f"{FIRST} its width cannot be read")),
        ({"generation": 1}, SMOKE, passed("pcie", f"x16 generation 5 on {N} GPU(s)")),
        ({"generation": 1}, UNREAD, unknown("pcie", f"{FIRST} generation 1 of 5, idle")),
        ({"generation": 1, "generation_max": 4}, UNREAD, failed("pcie", f"{FIRST} generation 1 of 5")),
        ({"generation": 3}, smoked(generation=3), failed("pcie", f"{FIRST} generation 3 of 5")),
        ({"generation": 1}, smoked(generation=None), unknown("pcie", f"{FIRST} generation 1 of 5, idle")),
        ({"generation": None, "generation_max": None}, UNREAD, unknown("pcie", f"{FIRST} generation ? of 5, idle")),
        ({}, UNREAD, passed("pcie", f"x16 generation 5 on {N} GPU(s)")),
    ],
)  # fmt: skip
def test_the_link(change, smoke, expected):
    """An idle GPU turns its generation down and not its width: only under load is a low one a failure."""
    assert check("pcie", replace(FACTS, boards=boards(**change)), smoke=smoke) == expected


def test_a_wider_or_newer_link_than_pinned_is_fine():
    assert check("pcie", pinned=replace(PINNED, pcie_width=8, pcie_generation=None)).told == (
        f"x8 generation ? on {N} GPU(s)"
    )


def run_of(*gpus, **change):
    return Known(Smoke(gpus, **change), "smoke")


@pytest.mark.parametrize(
    ("smoke", "pinned", "expected"),
    [
        (SMOKE, PINNED, passed("smoke", f"{N} GPU(s) computed")),
        (SMOKE, None, passed("smoke", f"{N} GPU(s) computed")),
        (run_of(*SMOKE.value.gpus[1:]), PINNED, failed("smoke", f"{N - 1} of {N} GPU(s) computed")),
        (run_of(*SMOKE.value.gpus[1:]), None, failed("smoke", f"{N - 1} of {N} GPU(s) computed")),
        (
            run_of(*SMOKE.value.gpus[:2], given=2),
            PINNED,
            unknown("smoke", f"this job was given 2 of {N} GPU(s)"),
        ),
        (run_of(SMOKE.value.gpus[0], given=N), PINNED, failed("smoke", f"1 of {N} GPU(s) computed")),
        (run_of(error="cuInit: 803"), PINNED, failed("smoke", "cuInit: 803")),
        (smoked(error="cuLaunchKernel: 719"), PINNED, failed("smoke", f"{FIRST} cuLaunchKernel: 719")),
        (Absent("smoke = false"), PINNED, not_applicable("smoke", "smoke = false")),
        (UNREAD, PINNED, unknown("smoke", "not started")),
    ],
)
def test_the_smoke_job(smoke, pinned, expected):
    assert smoke_check(EVIDENCE, pinned, boards(), smoke) == expected


@pytest.mark.parametrize(
    ("smoke", "expected"),
    [
        (run_of(SMOKE.value.gpus[0], given=N), unknown("smoke", MIG)),  # CUDA shows one instance
        (run_of(error="cuInit: 100 CUDA_ERROR_NO_DEVICE"), unknown("smoke", MIG)),  # nobody made one yet
        (smoked(error="1 of 1048576 elements are wrong"), failed("smoke", f"{FIRST} 1 of 1048576 elements are wrong")),
        (Absent("smoke = false"), not_applicable("smoke", "smoke = false")),
    ],
)  # fmt: skip
def test_the_smoke_job_on_divided_gpus(smoke, expected):
    assert smoke_check(EVIDENCE, PINNED, boards(mig=True), smoke) == expected


def report(name):
    return Known(parse_dcgm((HERE / "parse/verify" / name).read_text()), "dcgmi diag")


REMAP = "GPU 1 had uncorrectable memory errors and row remapping failed."
PCIE = "Error: PCIe replay count 12 exceeds the threshold"


@pytest.mark.parametrize(
    ("found", "required", "expected"),
    [
        (report("dcgm-3.1-r1-pass.json"), False, passed("dcgm-1", "9 passed, 0 skipped")),
        (report("dcgm-4-r1-pass.json"), True, passed("dcgm-1", "2 passed, 0 skipped")),
        (report("dcgm-3.1-r3-fail.json"), True, failed("dcgm-1", f"PCIe on GPU 1 ({PCIE})")),
        (report("dcgm-4-r3-fail.json"), True, failed("dcgm-1", f"memory on GPU 1 ({REMAP})")),
        (report("dcgm-4-internal.json"), True, unknown("dcgm-1", "DCGM itself failed: memory on GPU 0 (API call dcgmWatchFields returned API version mismatch)")),
        (report("dcgm-4-runtime-error.json"), True, unknown("dcgm-1", "DCGM cannot run: Error: Unable to complete diagnostic. Return: (-21) : Detected unsupported Cuda version")),
        (Absent("dcgmi on this node"), True, unknown("dcgm-1", "DCGM cannot run: no dcgmi on this node")),
        (Absent("dcgmi on this node"), False, not_applicable("dcgm-1", "no dcgmi on this node")),
        (Unknown("dcgmi", "no end after 300 s"), False, unknown("dcgm-1", "DCGM cannot run: no end after 300 s")),
        (Known(DcgmReport(), "x"), False, unknown("dcgm-1", "DCGM cannot run: it tested nothing")),
        (Known(DcgmReport((DcgmResult("t", "GPU 0", DcgmStatus.SKIP),)), "x"), False, unknown("dcgm-1", "DCGM cannot run: it tested nothing, all skipped")),
        (
            Known(DcgmReport((DcgmResult("a", "GPU 0", DcgmStatus.PASS), DcgmResult("b", "", DcgmStatus.WARN, "w"))), "x"),
            False,
            passed("dcgm-1", "1 passed, 0 skipped; warned: b (w)"),
        ),
        (
            Known(DcgmReport(tuple(DcgmResult("t", f"GPU {n}", DcgmStatus.FAIL) for n in range(5))), "x"),
            False,
            failed("dcgm-1", "t on GPU 0, t on GPU 1, t on GPU 2 and 2 more"),
        ),
    ],
)  # fmt: skip
def test_dcgm(found, required, expected):
    """That DCGM cannot run is a result of its own, and never that a GPU failed."""
    assert dcgm_check(1, found, required=required) == expected


@pytest.mark.parametrize(
    ("found", "floor", "expected"),
    [
        (Known(NcclReport(8, 481.357, 0), "x"), 400, passed("nccl", "481.357 GB/s on average over 8 GPU(s)")),
        (Known(NcclReport(8, 92.3, 0), "x"), 400, failed("nccl", "92.3 GB/s on average over 8 GPU(s), 400 is the floor")),
        (Known(NcclReport(8, 481.0, 3), "x"), 0, failed("nccl", "3 wrong values")),
        (Known(NcclReport(8, 0, 0, "Test NCCL failure"), "x"), 0, failed("nccl", "Test NCCL failure")),
        (Known(NcclReport(1, 0, 0), "x"), 400, passed("nccl", "right on 1 GPU, where there is no bus bandwidth")),
        (Absent("the first node of the job runs it"), 0, not_applicable("nccl", "the first node of the job runs it")),
        (Unknown("all_reduce_perf", "exit code 127"), 0, unknown("nccl", "all_reduce_perf: exit code 127")),
    ],
)  # fmt: skip
def test_nccl(found, floor, expected):
    assert nccl_check(found, floor) == expected

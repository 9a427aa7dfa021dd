# ruff: noqa: E501 - one case a line
"""Every rule: when it holds, when it does not, and that a layer nobody could read accuses nobody."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.evidence import (
    Damage,
    DiskModule,
    Evidence,
    Firmware,
    Gpu,
    GpuInformation,
    ImageFile,
    Library,
    Nvml,
    NvmlFailure,
    NvmlGpu,
    Pci,
    Pin,
    StuckProcess,
    Userspace,
)
from slurm_gsp.core.finding import FAULTS, Basis, Remedy, Verdict
from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.core.reason import format_reason
from slurm_gsp.core.rules import RULES
from slurm_gsp.core.view import Running, View
from slurm_gsp.parse.dkms import DkmsEntry
from slurm_gsp.parse.elf import GspImage
from slurm_gsp.parse.kmsg import LogEvent, parse_dmesg, read_events
from slurm_gsp.parse.packages import Package

V, NEW, KERNEL = "580.65.06", "580.95.05", "6.8.0-64-generic"
BUS = ("0000:1b:00.0", "0000:43:00.0")
H100, V100, B200, A100, L40S = 0x2330, 0x1DB5, 0x2901, 0x20B2, 0x26B9
MISSING, UNREAD = Absent("looked"), Unknown("looked", "permission denied")
CHIPS = frozenset({"ga10x", "ad10x", "gh100", "gb10x"})


def known(value, source="here"):
    return Known(value, source)


def gpu(bus=BUS[0], device=H100, gsp=V, driver="nvidia", excluded=False):
    return Gpu(bus, device, known(driver), known(GpuInformation(gsp, "96.00", excluded)))


def image(version=V, chips=CHIPS, name="gsp_ga10x.bin", content=None):
    return ImageFile(
        name, f"/lib/firmware/nvidia/{version}/{name}", content or GspImage(version, tuple(chips))
    )


def firmware(version=V, *images):
    return known(Firmware(version, ("/lib/firmware",), images))


def library(soname, version=V):
    return known(Library(soname, f"/usr/lib/{soname}", version))


def userspace(nvml=V, cuda=V):
    return Userspace(library("libnvidia-ml.so.1", nvml), library("libcuda.so.1", cuda))


def nvml(*buses, gsp=V, persistence=True, init=0):
    return known(Nvml(init, V, tuple(NvmlGpu(bus, gsp, persistence) for bus in buses)))


def disk(version=V, companions=(), kernel=KERNEL):
    return known(DiskModule(kernel, "/lib/modules/nvidia.ko", version, tuple(companions)))


def log(*lines):
    banner = f"NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  {V}  Release Build"
    text = "".join(f"[ {number:4}.000000] {line}\n" for number, line in enumerate([banner, *lines], 10))
    return known(read_events(parse_dmesg(text)))


def packages(*items):
    return known(tuple(Package(name, version, "amd64", state) for name, version, state in items))


def modules(**versions):
    return known((("nvidia", V), *versions.items()))


HEALTHY = Evidence(
    hostname="n1",
    machine="x86_64",
    kernel=known(KERNEL),
    boot_id=known("b1"),
    pci=known(Pci((gpu(), gpu(BUS[1])), 0)),
    loaded=known(V),
    flavour=known("open"),
    modules=modules(nvidia_uvm=V),
    parameters=known({"EnableGpuFirmware": "18"}),
    disk=disk(),
    next_kernel=known(KERNEL),
    next_disk=disk(),
    firmware=(firmware(V, image()),),
    userspace=userspace(),
    nvml=nvml(*BUS),
    packages=packages(("libnvidia-compute-580", f"{V}-0ubuntu1", "installed")),
    transaction=MISSING,
    dkms=known((DkmsEntry("nvidia", V, KERNEL, "x86_64", "installed", ""),)),
    log=log(),
    secure_boot=known(False),
    fabric_manager=MISSING,
    stuck=known(()),
    expected_gpus=known(2),
    pin=Pin(),
)

UNLOADED = replace(
    HEALTHY,
    pci=known(Pci((Gpu(BUS[0], H100, MISSING, MISSING), Gpu(BUS[1], H100, MISSING, MISSING)), 0)),
    loaded=MISSING,
    flavour=MISSING,
    modules=known(()),
    parameters=MISSING,
    log=known(()),
    nvml=nvml(init=9),
)
DOWN = replace(HEALTHY, pci=known(Pci((gpu(gsp=None), gpu(BUS[1])), 0)), nvml=nvml(BUS[1]))
"""The first of two GPUs did not come up."""

UPGRADED = replace(
    HEALTHY,
    disk=disk(NEW, [("nvidia_uvm", NEW)]),
    next_disk=disk(NEW),
    firmware=(firmware(V, image()), firmware(NEW, image(NEW))),
    userspace=userspace(NEW, NEW),
    nvml=nvml(init=18),
)
"""Everything on disk is newer than what is loaded."""

HOLDS = {
    "sb-refused": replace(UNLOADED, log=log("nvidia: Loading of unsigned module is rejected")),
    "vbios": replace(DOWN, log=log(f"NVRM: GPU {BUS[0]}: failed to execute FWSEC cmd 0x15: status 0x65")),
    "nouveau": replace(
        UNLOADED, pci=known(Pci((Gpu(BUS[0], H100, known("nouveau"), MISSING),), 0)), expected_gpus=MISSING
    ),
    "wrong-flavour": replace(
        HEALTHY, pci=known(Pci((gpu(device=V100, gsp=None),), 0)), nvml=nvml(), expected_gpus=MISSING
    ),
    "gpu-missing": replace(HEALTHY, expected_gpus=known(8)),
    "umd-skew": UPGRADED,
    "kmd-split": replace(HEALTHY, modules=modules(nvidia_uvm=NEW)),
    "fw-missing": replace(DOWN, firmware=(firmware(),)),
    "fw-skew": replace(DOWN, firmware=(firmware(V, image(V, content=GspImage(NEW, tuple(CHIPS)))),)),
    "fw-damaged": replace(DOWN, firmware=(firmware(V, image(content=Damage("truncated: at byte 9"))),)),
    "gsp-skew": replace(HEALTHY, pci=known(Pci((gpu(gsp=NEW), gpu(BUS[1])), 0))),
    "kmd-unbuilt": replace(UNLOADED, disk=MISSING, next_disk=MISSING),
    "kmd-unloaded": UNLOADED,
    "fabric-skew": replace(HEALTHY, pci=known(Pci((gpu(), gpu(BUS[1])), 4)), fabric_manager=known(NEW)),
    "gsp-timeout": replace(
        HEALTHY, log=log(f"NVRM: Xid (PCI:{BUS[0][:-2]}): 119, Timeout after 6s of waiting for RPC response")
    ),
    "gpu-lost": replace(HEALTHY, nvml=nvml(init=15)),
    "driver-hung": replace(HEALTHY, nvml=known(Nvml(NvmlFailure.TIMEOUT))),
    "fw-interrupted": replace(
        DOWN,
        log=log(f"nvidia {BUS[0]}: Direct firmware load for nvidia/{V}/gsp_ga10x.bin failed with error -4"),
    ),
    "fw-gone": replace(HEALTHY, firmware=(firmware(),)),
    "reboot-pending": replace(HEALTHY, disk=disk(NEW), next_disk=disk(NEW)),
    "next-kernel": replace(HEALTHY, next_kernel=known("6.8.0-71-generic"), next_disk=MISSING),
    "pkg-split": replace(
        HEALTHY,
        packages=packages(
            ("libnvidia-compute-580", f"{V}-0ubuntu1", "installed"),
            ("libnvidia-compute-570", "570.172.08-0ubuntu1", "installed"),
        ),
    ),
    "umd-missing": replace(HEALTHY, userspace=Userspace(MISSING, MISSING), nvml=nvml(init=12)),
    "drift": replace(HEALTHY, pin=Pin(NEW, None, "configuration")),
    "gsp-off": replace(
        HEALTHY,
        parameters=known({"EnableGpuFirmware": "0"}),
        flavour=known("proprietary"),
        pci=known(Pci((gpu(gsp=None), gpu(BUS[1], gsp=None)), 0)),
        nvml=nvml(*BUS, gsp=None),
    ),
}

REASONS = {
    "sb-refused": "gsp:sb-refused loaded=none",
    "vbios": f"gsp:vbios gpu={BUS[0]}",
    "nouveau": "gsp:nouveau gpus=1",
    "wrong-flavour": "gsp:wrong-flavour have=open need=proprietary",
    "gpu-missing": "gsp:gpu-missing pci=2 expected=8",
    "umd-skew": f"gsp:umd-skew kmd={V} umd={NEW} disk={NEW}",
    "kmd-split": f"gsp:kmd-split kmd={V} uvm={NEW}",
    "fw-missing": f"gsp:fw-missing kmd={V} image=gsp_ga10x.bin",
    "fw-skew": f"gsp:fw-skew kmd={V} image={NEW}",
    "fw-damaged": f"gsp:fw-damaged kmd={V} why=truncated",
    "gsp-skew": f"gsp:gsp-skew kmd={V} gsp={NEW}",
    "kmd-unbuilt": f"gsp:kmd-unbuilt kernel={KERNEL}",
    "kmd-unloaded": f"gsp:kmd-unloaded disk={V} loaded=none",
    "fabric-skew": f"gsp:fabric-skew kmd={V} fm={NEW}",
    "gsp-timeout": f"gsp:gsp-timeout xid=119 gpu={BUS[0]}",
    "gpu-lost": "gsp:gpu-lost nvml=15",
    "driver-hung": "gsp:driver-hung nvml=timeout",
    "fw-interrupted": f"gsp:fw-interrupted error=-4 gpu={BUS[0]}",
    "fw-gone": f"gsp:fw-gone kmd={V} image=missing",
    "reboot-pending": f"gsp:reboot-pending kmd={V} disk={NEW}",
    "next-kernel": "gsp:next-kernel kernel=6.8.0-71-generic",
    "pkg-split": f"gsp:pkg-split versions=570.172.08+{V}",
    "umd-missing": f"gsp:umd-missing kmd={V} umd=none",
    "drift": f"gsp:drift kmd={V} pin={NEW}",
    "gsp-off": "gsp:gsp-off EnableGpuFirmware=0",
}

REMEDIES = {
    "sb-refused": Remedy.ROUTE_SIGNING,
    "vbios": Remedy.ESCALATE,
    "nouveau": Remedy.ROUTE_MODULES,
    "wrong-flavour": Remedy.ROUTE_FLAVOUR,
    "gpu-missing": Remedy.ROUTE_GPU_MISSING,
    "umd-skew": Remedy.REBOOT,
    "kmd-split": Remedy.REBOOT,
    "gsp-skew": Remedy.REBOOT,
    "kmd-unloaded": Remedy.RELOAD,
    "gsp-timeout": Remedy.RELOAD,
    "gpu-lost": Remedy.RELOAD,
    "driver-hung": Remedy.RELOAD,
    "fw-interrupted": Remedy.RELOAD,
    "gsp-off": Remedy.ROUTE_PARAMETER,
}
"""Every other code asks for a realignment."""

# The layer that each rule rests on: without it, read as unknown, the rule must keep quiet.
LAYER = {
    "sb-refused": "log", "vbios": "log", "nouveau": "pci", "wrong-flavour": "flavour",
    "gpu-missing": "expected_gpus", "umd-skew": "loaded", "kmd-split": "modules", "fw-missing": "firmware",
    "fw-skew": "firmware", "fw-damaged": "firmware", "gsp-skew": "loaded", "kmd-unbuilt": "disk",
    "kmd-unloaded": "disk", "fabric-skew": "fabric_manager", "gsp-timeout": "log", "gpu-lost": "nvml",
    "driver-hung": "nvml", "fw-interrupted": "log", "fw-gone": "firmware", "reboot-pending": "disk",
    "next-kernel": "next_disk", "pkg-split": "packages", "umd-missing": "nvml", "drift": "loaded",
    "gsp-off": "parameters",
}  # fmt: skip


def codes(evidence):
    return [finding.code for finding in diagnose(evidence).findings]


def finding_of(evidence, code):
    return next(finding for finding in diagnose(evidence).findings if finding.code == code)


# --- the tables ------------------------------------------------------------------------------------------
def test_rules_stand_in_the_order_of_the_catalogue():
    assert [rule.__name__.replace("_", "-") for rule in RULES] == list(FAULTS)


def test_the_public_catalogue_stays():
    """Codes, verdicts and defaults are vocabulary: in sinfo -R, in JSON, in sites' own scripts."""
    told = {}
    for words, row in (
        ("sb-refused vbios nouveau wrong-flavour gpu-missing", ("elsewhere", True, True)),
        (
            "umd-skew kmd-split fw-missing fw-skew fw-damaged gsp-skew kmd-unbuilt kmd-unloaded fabric-skew",
            ("mismatch", False, True),
        ),
        ("gsp-timeout gpu-lost driver-hung fw-interrupted", ("elsewhere", False, True)),
        ("fw-gone reboot-pending next-kernel pkg-split drift gsp-off umd-missing", ("latent", False, False)),
    ):
        told |= dict.fromkeys(words.split(), row)
    ours = {
        code: (fault.verdict.value, fault.rank.name == "LOOKALIKE", fault.drains)
        for code, fault in FAULTS.items()
    }
    assert ours == told


def test_every_code_has_its_case():
    assert set(HOLDS) == set(REASONS) == set(LAYER) == set(FAULTS)


# --- every code ------------------------------------------------------------------------------------------
def test_healthy_node_is_consistent():
    diagnosis = diagnose(HEALTHY)
    assert (diagnosis.verdict, diagnosis.remedy, diagnosis.findings) == (Verdict.CONSISTENT, Remedy.NONE, ())


@pytest.mark.parametrize("code", FAULTS)
def test_code_holds(code):
    assert code in codes(HOLDS[code])


@pytest.mark.parametrize("code", FAULTS)
def test_code_is_the_worst_of_its_case_and_decides_the_verdict(code):
    diagnosis = diagnose(HOLDS[code])
    assert diagnosis.worst.code == code
    assert diagnosis.verdict is FAULTS[code].verdict


@pytest.mark.parametrize("code", FAULTS)
def test_reason(code):
    assert format_reason(finding_of(HOLDS[code], code)) == REASONS[code]


@pytest.mark.parametrize("code", FAULTS)
def test_remedy(code):
    assert finding_of(HOLDS[code], code).remedy is REMEDIES.get(code, Remedy.REALIGN)


@pytest.mark.parametrize("code", FAULTS)
def test_finding_rests_on_evidence_with_its_source(code):
    clues = finding_of(HOLDS[code], code).clues
    assert clues
    assert all(clue.text and clue.source for clue in clues)


ABSENCE_IS_THE_FAULT = {"kmd-unbuilt", "next-kernel", "fw-missing", "fw-skew", "fw-damaged", "fw-gone"}


def unconfirmed(code):
    """The case without NVML's 18, which says umd-skew whatever else was read."""
    return replace(UPGRADED, nvml=UNREAD) if code == "umd-skew" else HOLDS[code]


@pytest.mark.parametrize("code", FAULTS)
def test_unread_layer_accuses_nobody(code):
    layer = LAYER[code]
    unread = (UNREAD,) if layer == "firmware" else UNREAD
    assert code not in codes(replace(unconfirmed(code), **{layer: unread}))


@pytest.mark.parametrize("code", sorted(code for code in FAULTS if code not in ABSENCE_IS_THE_FAULT))
def test_absent_layer_is_not_this_fault(code):
    layer = LAYER[code]
    assert code not in codes(replace(unconfirmed(code), **{layer: MISSING}))


@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize(
    "field", ["log", "packages", "dkms", "secure_boot", "stuck", "transaction", "boot_id"]
)
def test_no_other_layer_is_needed_to_be_healthy(code, field):
    assert diagnose(replace(HEALTHY, **{field: UNREAD})).verdict is Verdict.CONSISTENT


@pytest.mark.parametrize("code", sorted(set(FAULTS) - {"gpu-missing"}))
def test_nothing_holds_on_a_node_without_gpus(code):
    bare = replace(HOLDS[code], pci=known(Pci((), 0)), expected_gpus=MISSING)
    if code in {"gpu-lost", "driver-hung", "gsp-timeout"}:
        return  # the driver spoke of a GPU that is not on the bus any more
    diagnosis = diagnose(bare)
    assert [finding.code for finding in diagnosis.findings] in ([], ["umd-missing"])


# --- reboot or realign -----------------------------------------------------------------------------------
def test_everything_on_disk_agrees_reboot():
    assert diagnose(UPGRADED).remedy is Remedy.REBOOT


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"disk": MISSING}, id="no module on disk"),
        pytest.param({"disk": UNREAD}, id="module on disk unread"),
        pytest.param({"disk": disk(None)}, id="module on disk without a version"),
        pytest.param({"disk": disk(V)}, id="module on disk is still the old one"),
        pytest.param({"disk": disk(NEW, [("nvidia_uvm", V)])}, id="nvidia-uvm on disk is older"),
        pytest.param({"firmware": (firmware(V, image()), firmware(NEW))}, id="no image for the module on disk"),
        pytest.param({"firmware": (firmware(V, image()),)}, id="image for the module on disk not looked up"),
        pytest.param(
            {"firmware": (firmware(NEW, image(NEW, content=Damage("empty"))),)}, id="its image is damaged"
        ),
        pytest.param(
            {"firmware": (firmware(NEW, image(NEW, content=GspImage(V, tuple(CHIPS)))),)}, id="its image is skewed"
        ),
        pytest.param({"firmware": (firmware(NEW, image(NEW, chips={"ga10x"})),)}, id="its image lacks the chip"),
        pytest.param({"userspace": userspace(NEW, V)}, id="libcuda is of the old one"),
        pytest.param({"userspace": Userspace(UNREAD, UNREAD)}, id="libraries unread"),
        pytest.param({"pin": Pin("580.105.08", None, "configuration")}, id="another release is pinned"),
        pytest.param({"next_disk": MISSING}, id="the next kernel has no module"),
        pytest.param({"next_disk": disk(V)}, id="the next kernel has the old module"),
    ],
)  # fmt: skip
def test_one_part_that_disagrees_asks_for_a_realignment(changed):
    diagnosis = diagnose(replace(UPGRADED, **changed))
    assert "umd-skew" in [finding.code for finding in diagnosis.findings]
    assert diagnosis.remedy is Remedy.REALIGN


def test_unread_next_kernel_stands_in_no_reboots_way():
    assert diagnose(replace(UPGRADED, next_kernel=UNREAD, next_disk=UNREAD)).remedy is Remedy.REBOOT


def test_pin_on_disk_reboot():
    assert diagnose(replace(UPGRADED, pin=Pin(NEW, "open", "configuration"))).remedy is Remedy.REBOOT


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({}, Remedy.REALIGN),
        ({"pin": Pin(NEW, None, "c")}, Remedy.REBOOT),
        ({"pin": Pin(V, None, "c")}, Remedy.REALIGN),
        ({"pin": Pin(NEW, None, "c"), "next_disk": MISSING}, Remedy.REALIGN),
    ],
)
def test_reboot_pending_reboots_into_the_pinned_set_only(changed, remedy):
    assert finding_of(replace(HOLDS["reboot-pending"], **changed), "reboot-pending").remedy is remedy


# --- the finer conditions --------------------------------------------------------------------------------
def with_log(base, *lines):
    return replace(base, log=log(*lines))


SPLIT = f"nvidia-modeset: Version mismatch: nvidia.ko({V}) nvidia-modeset.ko({NEW})"
FABRIC = f"fabric manager NVIDIA GPU driver interface version {NEW} don't match with driver version {V}"
INIT_FAILED = f"NVRM: GPU {BUS[0]}: RmInitAdapter failed! (0x62:0x65:1860)"
UNCLAIMED = Gpu(BUS[1], H100, MISSING, MISSING)


@pytest.mark.parametrize(
    ("evidence", "code"),
    [
        pytest.param(replace(with_log(HEALTHY, SPLIT), modules=modules(nvidia_modeset=V)), "kmd-split", id="it joined since"),
        pytest.param(with_log(HEALTHY, SPLIT.replace(V, "1.2")), "kmd-split", id="of a module before this one"),
        pytest.param(with_log(HEALTHY, FABRIC), "fabric-skew", id="a fabric manager without NVSwitches"),
        pytest.param(replace(HEALTHY, pci=known(Pci((gpu(), gpu(BUS[1])), 4)), log=log(FABRIC), fabric_manager=known(V)),
                     "fabric-skew", id="the fabric manager was put right since"),
        pytest.param(replace(HOLDS["fw-gone"], loaded=UNREAD), "fw-gone", id="loaded version unread"),
        pytest.param(replace(HEALTHY, pci=known(Pci((Gpu(BUS[0], H100, MISSING, MISSING), UNCLAIMED), 0)), nvml=UNREAD),
                     "gpu-lost", id="the recording lacks the driver's files altogether"),
        pytest.param(replace(with_log(DOWN, f"NVRM: image version mismatch: got version {NEW}, expected version 570.172.08"),
                             firmware=(UNREAD,)), "fw-skew", id="a refusal under another module"),
        pytest.param(replace(DOWN, nvml=nvml(BUS[1], persistence=None)), "gpu-lost", id="persistence not told"),
        pytest.param(with_log(HEALTHY, "nvidia: module verification failed: x - tainting kernel"), "sb-refused", id="taint"),
        pytest.param(with_log(HEALTHY, "Loading of unsigned module is rejected"), "sb-refused", id="refused once, loaded now"),
        pytest.param(with_log(UNLOADED, "zfs: Loading of unsigned module is rejected"), "sb-refused", id="another module"),
        pytest.param(
            with_log(HOLDS["kmd-unbuilt"], "Loading of unsigned module is rejected"), "sb-refused", id="no module to refuse"
        ),
        pytest.param(with_log(HEALTHY, f"NVRM: GPU {BUS[0]}: failed to execute FWSEC cmd 0x15"), "vbios", id="GPU runs"),
        pytest.param(
            with_log(DOWN, f"NVRM: GPU {BUS[1]}: failed to execute FWSEC cmd 0x15: 0x65"), "vbios", id="another GPU's"
        ),
        pytest.param(
            replace(HEALTHY, pci=known(Pci((gpu(), gpu(BUS[1], device=V100, gsp=None)), 0))), "wrong-flavour",
            id="it works all the same",
        ),
        pytest.param(replace(HEALTHY, expected_gpus=known(1)), "gpu-missing", id="more than expected"),
        pytest.param(with_log(HEALTHY, f"NVRM: API mismatch: the client has the version {NEW}, but",
                              f"NVRM: this kernel module has the version {V}.  Please"), "umd-skew", id="a container's"),
        pytest.param(replace(HEALTHY, modules=modules(nvidia_uvm=None, nvidia_fs="2.25.7")), "kmd-split", id="nvidia-fs"),
        pytest.param(replace(DOWN, firmware=(firmware(),), pci=known(Pci((gpu(device=V100, gsp=None),), 0)),
                             flavour=known("proprietary")), "fw-missing", id="no GSP on the chip"),
        pytest.param(replace(DOWN, firmware=(firmware(),), pci=known(Pci((gpu(gsp=None, excluded=True),), 0))),
                     "fw-missing", id="excluded by parameter"),
        pytest.param(replace(HEALTHY, firmware=(firmware(V, image(content=Damage("empty"))),)), "fw-damaged", id="runs"),
        pytest.param(replace(UNLOADED, loaded=UNREAD), "kmd-unloaded", id="not known whether loaded"),
        pytest.param(replace(HOLDS["kmd-unbuilt"], loaded=UNREAD), "kmd-unbuilt", id="not known whether loaded (2)"),
        pytest.param(HOLDS["nouveau"], "kmd-unloaded", id="nouveau explains it"),
        pytest.param(HOLDS["sb-refused"], "kmd-unloaded", id="the signature explains it"),
        pytest.param(replace(HOLDS["fabric-skew"], pci=HEALTHY.pci), "fabric-skew", id="no NVSwitches"),
        pytest.param(replace(HOLDS["fabric-skew"], fabric_manager=known(V)), "fabric-skew", id="the driver's version"),
        pytest.param(with_log(HEALTHY, f"NVRM: Xid (PCI:{BUS[0][:-2]}): 31, MMU fault"), "gsp-timeout", id="the job's Xid"),
        pytest.param(with_log(HEALTHY, f"NVRM: Xid (PCI:{BUS[0][:-2]}): 140, ECC"), "gsp-timeout", id="Xid 140"),
        pytest.param(with_log(HEALTHY, f"NVRM: Xid (PCI:{BUS[0][:-2]}): 119, Timeout", "NVRM: loading NVIDIA UNIX Open "
                              f"Kernel Module for x86_64  {V}  Release Build"), "gsp-timeout", id="reloaded since"),
        pytest.param(with_log(HEALTHY, f"NVRM: GPU {BUS[0]}: RmInitAdapter failed! (0x62:0x40:1860)"), "gpu-lost",
                     id="it runs now"),
        pytest.param(replace(HEALTHY, nvml=nvml(BUS[0])), "gpu-lost", id="a cgroup hides one"),
        pytest.param(replace(DOWN, nvml=nvml(BUS[1], persistence=False)), "gpu-lost", id="a cgroup hides an idle one"),
        pytest.param(replace(HEALTHY, stuck=known((StuckProcess(7, "x", "nvidia_poll"),))), "driver-hung", id="NVML answers"),
        pytest.param(replace(HOLDS["fw-interrupted"], firmware=(firmware(),)), "fw-interrupted", id="the image is missing"),
        pytest.param(replace(HOLDS["fw-interrupted"], pci=HEALTHY.pci), "fw-interrupted", id="it runs now (2)"),
        pytest.param(replace(HEALTHY, firmware=(firmware(NEW),)), "fw-gone", id="only another release was looked up"),
        pytest.param(replace(HOLDS["reboot-pending"], userspace=userspace(NEW, NEW)), "reboot-pending",
                     id="userspace moved: that is umd-skew"),
        pytest.param(replace(HOLDS["next-kernel"], transaction=known("dpkg")), "next-kernel", id="apt is at it"),
        pytest.param(replace(HOLDS["next-kernel"], next_disk=disk()), "next-kernel", id="it has a module"),
        pytest.param(HOLDS["kmd-unbuilt"], "next-kernel", id="the running kernel lacks it already"),
        pytest.param(replace(HOLDS["pkg-split"], transaction=known("dpkg")), "pkg-split", id="apt is at it (2)"),
        pytest.param(replace(HEALTHY, packages=packages(("libnvidia-compute-580", V, "installed"),
                             ("libnvidia-compute-570", "570.172.08", "config-files"))), "pkg-split", id="config files"),
        pytest.param(replace(HEALTHY, packages=packages(("nvidia-dkms-580", V, "installed"),
                             ("nvidia-settings", NEW, "installed"), ("nvidia-container-toolkit", "1.17.8", "installed"))),
                     "pkg-split", id="tools"),
        pytest.param(replace(HOLDS["umd-missing"], nvml=UNREAD), "umd-missing", id="NVML was not asked"),
        pytest.param(replace(HEALTHY, pin=Pin(V, "open", "c")), "drift", id="it is what is pinned"),
        pytest.param(replace(HOLDS["reboot-pending"], pin=Pin(NEW, None, "c")), "drift", id="a reboot brings it"),
        pytest.param(replace(HOLDS["gsp-off"], pci=known(Pci((gpu(device=V100, gsp=None),), 0))), "gsp-off",
                     id="the chip has no GSP"),
        pytest.param(replace(HEALTHY, parameters=known({"EnableGpuFirmware": "0"})), "gsp-off", id="it runs all the same"),
    ],
)  # fmt: skip
def test_code_does_not_hold(evidence, code):
    assert code not in codes(evidence)


@pytest.mark.parametrize(
    ("evidence", "expected"),
    [
        pytest.param(replace(HEALTHY, nvml=nvml(init=18)), ["umd-skew"], id="NVML 18 alone"),
        pytest.param(replace(HEALTHY, nvml=nvml(init=18), loaded=UNREAD), ["umd-skew"], id="NVML 18, version unread"),
        pytest.param(replace(UPGRADED, pci=UNREAD), ["umd-skew"], id="PCI unread"),
        pytest.param(replace(HEALTHY, userspace=userspace(V, NEW)), ["umd-skew"], id="libcuda alone"),
        pytest.param(replace(HEALTHY, nvml=nvml(init=16)), ["gpu-lost"], id="reset required"),
        pytest.param(DOWN, ["gpu-lost"], id="down without a word, the other is persistent"),
        pytest.param(with_log(DOWN, f"NVRM: GPU {BUS[0]}: RmInitAdapter failed! (0x62:0x40:1)"), ["gpu-lost"], id="WPR2"),
        pytest.param(with_log(HEALTHY, f"NVRM: GPU {BUS[0]}: GPU has fallen off the bus."), ["gpu-lost"], id="Xid 79"),
        pytest.param(with_log(DOWN, f"NVRM: GPU {BUS[0]}: RmInitAdapter failed! (0x61:0x56:1)"), ["fw-interrupted"],
                     id="no image then, an intact one now"),
        pytest.param(
            replace(DOWN, firmware=(firmware(V, image(chips={"tu10x"})),)), ["fw-damaged", "fw-gone"], id="signed for others"
        ),
        pytest.param(
            replace(with_log(DOWN, f"NVRM: image version mismatch: got version {NEW}, expected version {V}"),
                    firmware=(UNREAD,)), ["fw-skew"], id="the driver says what nobody could read",
        ),
        pytest.param(replace(HOLDS["fw-missing"], pci=known(Pci((gpu(gsp=None), gpu(BUS[1])), 0))),
                     ["fw-missing", "fw-gone"], id="one lost it, the other runs on"),
        pytest.param(replace(HEALTHY, stuck=known((StuckProcess(7, "x", "nvidia_poll"),)),
                             nvml=known(Nvml(NvmlFailure.TIMEOUT))), ["driver-hung"], id="stuck and hung"),
        pytest.param(replace(HEALTHY, packages=packages(("nvidia-dkms-580", V, "half-configured"))), ["pkg-split"],
                     id="half-configured"),
        pytest.param(replace(HEALTHY, pin=Pin(None, "proprietary", "c")), ["drift"], id="the other flavour is pinned"),
        pytest.param(with_log(HEALTHY, f"NVRM: Xid (PCI:{BUS[0][:-2]}): 120, GSP task exception"), ["gsp-timeout"], id="120"),
        pytest.param(replace(HOLDS["gsp-off"], flavour=known("open")), ["gsp-off"], id="open module"),
        pytest.param(replace(HOLDS["kmd-unbuilt"], dkms=MISSING), ["kmd-unbuilt"], id="no DKMS"),
        pytest.param(with_log(HEALTHY, SPLIT), ["kmd-split"], id="modeset refused to join"),
        pytest.param(replace(HEALTHY, pci=known(Pci((gpu(), gpu(BUS[1])), 4)), log=log(FABRIC)), ["fabric-skew"],
                     id="the fabric manager's own words"),
        pytest.param(replace(HEALTHY, pci=known(Pci((gpu(), UNCLAIMED), 0)), nvml=UNREAD), ["gpu-lost"], id="unclaimed"),
        pytest.param(replace(DOWN, pci=known(Pci((Gpu(BUS[0], H100, known("nvidia"), MISSING), gpu(BUS[1])), 0))),
                     ["gpu-lost"], id="bound, and the driver has no file on it"),
        pytest.param(replace(HOLDS["reboot-pending"], userspace=userspace(V, NEW)), ["umd-skew"], id="libcuda moved on"),
        pytest.param(replace(HEALTHY, disk=MISSING, next_disk=MISSING), ["next-kernel"], id="module gone while loaded"),
        pytest.param(replace(UNLOADED, next_kernel=known("6.8.0-71-generic"), next_disk=MISSING),
                     ["kmd-unloaded", "next-kernel"], id="not loaded now, and none for the next kernel"),
        pytest.param(replace(UNLOADED, nvml=nvml(init=18)), ["umd-skew"], id="NVML met a module that sysfs hides"),
        pytest.param(replace(UNLOADED, modules=known((("nvidia", None),)), nvml=UNREAD), [], id="/proc/modules has it"),
        pytest.param(with_log(DOWN, "NVRM: failed VBIOS image preparation", INIT_FAILED), ["vbios"],
                     id="an error without a GPU explains the one that is down"),
        pytest.param(with_log(DOWN, f"NVRM: GPU {BUS[1]}: failed VBIOS image preparation", INIT_FAILED), ["gpu-lost"],
                     id="another GPU's error explains nothing"),
        pytest.param(replace(with_log(DOWN, "NVRM: RmFetchGspRmImages: No firmware image found"), firmware=(firmware(),),
                             pci=known(Pci((gpu(device=0x1234, gsp=None),), 0)), expected_gpus=MISSING),
                     ["fw-missing"], id="a chip that the table lacks"),
        # precedence
        pytest.param(replace(UPGRADED, expected_gpus=known(8)), ["gpu-missing", "umd-skew"], id="^ before mismatch"),
        pytest.param(replace(UPGRADED, log=HOLDS["gsp-timeout"].log), ["umd-skew", "gsp-timeout"],
                     id="mismatch before elsewhere"),
        pytest.param(replace(HOLDS["gsp-timeout"], packages=HOLDS["pkg-split"].packages), ["gsp-timeout", "pkg-split"],
                     id="elsewhere before latent"),
    ],
)  # fmt: skip
def test_all_codes_in_order(evidence, expected):
    assert codes(evidence) == expected


def test_stronger_latent_remedy_strengthens_a_mismatch_only():
    bare = {"next_kernel": known("6.8.0-71-generic"), "next_disk": MISSING}
    assert diagnose(replace(HEALTHY, modules=modules(nvidia_uvm=NEW), **bare)).remedy is Remedy.REALIGN
    assert diagnose(replace(HOLDS["gsp-timeout"], **bare)).remedy is Remedy.RELOAD
    assert diagnose(replace(HOLDS["gpu-missing"], **bare)).remedy is Remedy.ROUTE_GPU_MISSING


ONE_DOWN = replace(HEALTHY, nvml=nvml(), expected_gpus=MISSING)
SAID = f"NVRM: The NVIDIA GPU {BUS[0]} (PCI ID: 10de:2330)"


@pytest.mark.parametrize(
    ("device", "flavour", "lines", "reason"),
    [
        (B200, "proprietary", (), "gsp:wrong-flavour have=proprietary need=open"),
        (V100, "open", (), "gsp:wrong-flavour have=open need=proprietary"),
        (H100, "proprietary", (SAID, "NVRM: installed in this system requires use of the NVIDIA open kernel modules."),
         "gsp:wrong-flavour have=proprietary need=open"),
        (0x1234, "open", (SAID, "NVRM: installed in this system is not supported by open", "NVRM: nvidia.ko because"),
         "gsp:wrong-flavour have=open need=proprietary"),
        (B200, "open", (), None),
        (A100, "proprietary", (), None),
        (V100, "proprietary", (), None),
        (0x1234, "proprietary", (), None),
    ],
)  # fmt: skip
def test_flavours(device, flavour, lines, reason):
    evidence = replace(
        with_log(ONE_DOWN, *lines), pci=known(Pci((gpu(device=device, gsp=None),), 0)), flavour=known(flavour)
    )
    found = [finding for finding in diagnose(evidence).findings if finding.code == "wrong-flavour"]
    assert [format_reason(finding) for finding in found] == ([reason] if reason else [])


def test_summary_names_the_gpu_where_the_log_does():
    assert finding_of(HOLDS["vbios"], "vbios").summary.endswith(BUS[0])
    unnamed = with_log(DOWN, "NVRM: failed VBIOS image preparation")
    assert finding_of(unnamed, "vbios").summary.endswith("a GPU")


@pytest.mark.parametrize(
    ("device", "flavour", "parameter", "loaded", "needs"),
    [
        (V100, "proprietary", "18", V, False),
        (V100, "open", "18", V, False),
        (H100, "open", "18", V, True),
        (H100, "open", "0", V, True),
        (H100, "proprietary", "16", V, False),
        (L40S, "proprietary", "17", "535.183.01", True),
        (H100, "proprietary", "0", V, False),
        (L40S, "proprietary", "1", "535.261.03", True),
        (L40S, "proprietary", "18", "535.261.03", None),
        (L40S, "proprietary", "18", V, True),
        (H100, "proprietary", "18", "535.261.03", True),
        (H100, None, "18", V, None),
        (0x1234, "open", "18", V, None),
    ],
)
def test_which_gpus_need_an_image(device, flavour, parameter, loaded, needs):
    evidence = replace(
        HEALTHY,
        loaded=known(loaded),
        flavour=known(flavour) if flavour else UNREAD,
        parameters=known({"EnableGpuFirmware": parameter}),
    )
    assert View(evidence).needs_gsp(gpu(device=device)) is needs


@pytest.mark.parametrize(
    ("information", "nvml_reading", "running"),
    [
        (known(GpuInformation(V, None, False)), UNREAD, Running.GSP),
        (known(GpuInformation(None, None, False)), nvml(BUS[0]), Running.GSP),
        (known(GpuInformation(None, None, False)), nvml(BUS[0], gsp=None), Running.PLAIN),
        (known(GpuInformation(None, None, False)), nvml(), Running.NOT),
        (known(GpuInformation(None, None, False)), nvml(BUS[0], init=15), Running.NOT),
        (known(GpuInformation(None, None, False)), UNREAD, Running.NOT),
        (UNREAD, UNREAD, Running.UNKNOWN),
        (UNREAD, nvml(), Running.NOT),
        (UNREAD, nvml(BUS[0], gsp=None), Running.PLAIN),
        (MISSING, UNREAD, Running.NOT),
    ],
)
def test_how_far_a_gpu_came_up(information, nvml_reading, running):
    one = Gpu(BUS[0], H100, known("nvidia"), information)
    assert View(replace(HEALTHY, nvml=nvml_reading)).running(one) is running


def test_every_gpu_needs_its_image_for_a_reboot_to_cure():
    both = known(Pci((gpu(), gpu(BUS[1], device=A100)), 0))
    tu10x = image(NEW, {"ga100"}, "gsp_tu10x.bin")
    with_both = replace(UPGRADED, pci=both, firmware=(firmware(NEW, image(NEW), tu10x),))
    assert diagnose(with_both).remedy is Remedy.REBOOT
    assert diagnose(replace(with_both, firmware=(firmware(NEW, image(NEW)),))).remedy is Remedy.REALIGN
    assert diagnose(replace(with_both, firmware=(firmware(NEW, tu10x),))).remedy is Remedy.REALIGN


@pytest.mark.parametrize(
    ("items", "summary"),
    [
        ([("nvidia-dkms-580", V, "installed"), ("libnvidia-compute-570", "570.172.08", "installed")],
         "the package database holds 2 driver branches"),
        ([("nvidia-dkms-580", V, "installed"), ("libnvidia-compute-580", NEW, "installed")],
         "driver packages are of two versions"),
        ([("nvidia-dkms-580", V, "unpacked")], "driver packages are half installed"),
    ],
)  # fmt: skip
def test_kinds_of_package_splits(items, summary):
    assert finding_of(replace(HEALTHY, packages=packages(*items)), "pkg-split").summary == summary


def test_fw_gone_is_urgent_without_persistence():
    assert not finding_of(HOLDS["fw-gone"], "fw-gone").urgent
    off = replace(HOLDS["fw-gone"], nvml=nvml(*BUS, persistence=False))
    assert finding_of(off, "fw-gone").urgent
    assert not finding_of(replace(off, nvml=UNREAD), "fw-gone").urgent


def test_ladder_is_climbed_for_the_same_code_only():
    tried = (("gsp-timeout", "reload"), ("umd-skew", "realign"))
    assert diagnose(replace(HOLDS["gsp-timeout"], tried=tried)).remedy is Remedy.REBOOT
    assert diagnose(replace(HOLDS["gsp-timeout"], tried=tried[1:])).remedy is Remedy.RELOAD
    assert diagnose(replace(UPGRADED, tried=tried)).remedy is Remedy.ROLLBACK


@pytest.mark.parametrize(
    ("code", "basis"),
    [("umd-skew", Basis.STATE), ("gsp-timeout", Basis.LOG), ("vbios", Basis.LOG), ("fw-interrupted", Basis.LOG),
     ("driver-hung", Basis.PROBE), ("gpu-lost", Basis.PROBE), ("fw-missing", Basis.STATE)],
)  # fmt: skip
def test_what_a_finding_rests_on(code, basis):
    assert finding_of(HOLDS[code], code).basis is basis


# --- consistent, unknown, no GPU -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({"pci": UNREAD}, Verdict.UNKNOWN),
        ({"loaded": UNREAD}, Verdict.UNKNOWN),
        ({"userspace": Userspace(UNREAD, UNREAD), "nvml": UNREAD}, Verdict.UNKNOWN),
        ({"userspace": Userspace(MISSING, MISSING), "nvml": UNREAD}, Verdict.UNKNOWN),
        ({"userspace": Userspace(UNREAD, UNREAD)}, Verdict.CONSISTENT),
        ({"nvml": UNREAD}, Verdict.CONSISTENT),
        ({"nvml": UNREAD, "userspace": userspace(None, V)}, Verdict.UNKNOWN),
        ({"nvml": UNREAD, "userspace": userspace(V, None)}, Verdict.CONSISTENT),
        ({"userspace": userspace(None, None)}, Verdict.CONSISTENT),
        ({"pci": known(Pci((gpu(), gpu(BUS[1], gsp=None, excluded=True)), 0)), "nvml": nvml(BUS[0])}, Verdict.CONSISTENT),
        ({"nvml": nvml(init=999)}, Verdict.UNKNOWN),
        ({"nvml": nvml(init=9)}, Verdict.UNKNOWN),
        ({"nvml": known(Nvml(NvmlFailure.CRASH))}, Verdict.UNKNOWN),
        ({"nvml": nvml()}, Verdict.UNKNOWN),
        ({"firmware": (UNREAD,)}, Verdict.CONSISTENT),
        ({"pci": known(Pci((gpu(gsp=None),), 0)), "nvml": UNREAD, "expected_gpus": MISSING}, Verdict.CONSISTENT),
        ({"pci": known(Pci((gpu(gsp=None),), 0)), "nvml": UNREAD, "expected_gpus": MISSING, "firmware": (UNREAD,)},
         Verdict.UNKNOWN),
        ({"pci": known(Pci((gpu(gsp=None),), 0)), "nvml": nvml(), "expected_gpus": MISSING}, Verdict.UNKNOWN),
        ({"pci": known(Pci((), 0)), "expected_gpus": MISSING}, Verdict.NO_GPU),
        ({"pci": known(Pci((), 0)), "expected_gpus": UNREAD}, Verdict.NO_GPU),
        ({"pci": known(Pci((gpu(driver="vfio-pci", gsp=None), gpu(BUS[1], driver="nvgrace-gpu-vfio-pci", gsp=None)), 0)),
          "loaded": MISSING, "modules": known(()), "nvml": nvml(init=9)}, Verdict.CONSISTENT),
        ({"pci": known(Pci((gpu(driver="pci-stub", gsp=None),), 0)), "loaded": MISSING, "modules": known(()),
          "disk": MISSING, "nvml": UNREAD, "expected_gpus": MISSING}, Verdict.CONSISTENT),
    ],
)  # fmt: skip
def test_verdict_without_findings(changed, verdict):
    diagnosis = diagnose(replace(HEALTHY, **changed))
    assert (diagnosis.verdict, diagnosis.findings) == (verdict, ())


# --- any combination -------------------------------------------------------------------------------------
def pool(field):
    """The values that a layer has in any of the cases, and: absent, unknown."""
    values = [getattr(evidence, field) for evidence in (HEALTHY, UNLOADED, DOWN, UPGRADED, *HOLDS.values())]
    if field == "firmware":
        return st.sampled_from([*values, (UNREAD,), ()])
    if field == "userspace":
        return st.sampled_from([*values, Userspace(UNREAD, MISSING), Userspace(MISSING, UNREAD)])
    if field in {"pin", "tried"}:
        return st.sampled_from(
            [*values, Pin(NEW, "open", "c")] if field == "pin" else [(), (("umd-skew", "reboot"),)]
        )
    return st.sampled_from([*values, MISSING, UNREAD])


LAYERS = [name for name in Evidence.__dataclass_fields__ if name not in {"hostname", "machine"}]
ANY = st.fixed_dictionaries({name: pool(name) for name in LAYERS})


@settings(deadline=None, max_examples=400)
@given(ANY)
def test_any_node_gets_a_sound_diagnosis(layers):
    diagnosis = diagnose(replace(HEALTHY, **layers))
    found = [finding.code for finding in diagnosis.findings]
    assert found == [code for code in FAULTS if code in found]
    for finding in diagnosis.findings:
        reason = format_reason(finding)
        assert reason.startswith(f"gsp:{finding.code}") and len(reason) <= 120
        assert all(" " <= char <= "~" for char in reason)
        assert finding.clues and finding.summary
    if diagnosis.verdict in {Verdict.CONSISTENT, Verdict.NO_GPU, Verdict.UNKNOWN}:
        assert (found, diagnosis.remedy) == ([], Remedy.NONE)
    if diagnosis.verdict is Verdict.CONSISTENT:
        assert not any(layer.needed for layer in diagnosis.unread)
    if diagnosis.verdict is Verdict.UNKNOWN:
        assert any(layer.needed for layer in diagnosis.unread)


@settings(deadline=None, max_examples=400)
@given(st.sets(st.sampled_from([name for name in LAYERS if name not in {"pin", "tried"}])))
def test_what_cannot_be_read_on_a_healthy_node_never_drains_it(unread):
    values = dict.fromkeys(unread, UNREAD)
    if "firmware" in values:
        values["firmware"] = (UNREAD,)
    if "userspace" in values:
        values["userspace"] = Userspace(UNREAD, UNREAD)
    diagnosis = diagnose(replace(HEALTHY, **values))
    assert diagnosis.findings == ()
    assert diagnosis.verdict in {Verdict.CONSISTENT, Verdict.UNKNOWN}


@settings(deadline=None, max_examples=200)
@given(ANY)
def test_judging_twice_says_the_same(layers):
    evidence = replace(HEALTHY, **layers)
    assert diagnose(evidence) == diagnose(evidence)
    assert View(evidence).evidence is evidence


def test_log_lines_without_a_gpu_reach_no_rule_by_accident():
    stray = known((LogEvent("no-such-kind", 1, "text"),))
    assert diagnose(replace(HEALTHY, log=stray)).verdict is Verdict.CONSISTENT

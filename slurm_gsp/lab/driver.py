"""What the kernel and the NVIDIA driver would show after a boot, worked out from the disk and the hardware.

Nothing here writes or starts anything: `boot` reads the disk below a root and answers with the files
that are to appear under /sys and /proc, and with the kernel log.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from slurm_gsp.lab import elf

MODULES = ("nvidia", "nvidia-modeset", "nvidia-drm", "nvidia-uvm")
UNINITIALISED_VBIOS = "??.??.??.??.??"
UNINITIALISED_UUID = "GPU-????????-????-????-????-????????????"
BUILDER = "dvs-builder@U22-I3-AE18-23-3"

# How one GPU fails although everything on disk is right: (what the driver logs, RmInitAdapter's codes).
FAILURES = {
    "vbios": (
        (
            "NVRM: kgspExecuteFwsec_TU102: FWSEC VBIOS ucode failed: status 0x25",
            "NVRM: kgspInitRm_IMPL: failed VBIOS image preparation: 0x25",
        ),
        "0x62:0x25:2014",
    ),
    "lost": ((), "0x24:0xffff:1219"),
    "interrupted": (
        (
            "nvidia {bus}: Direct firmware load for nvidia/{version}/{image} failed with error -4",
            "NVRM: RmFetchGspRmImages: No firmware image found",
        ),
        "0x61:0x56:1697",
    ),
}


@dataclass(frozen=True)
class Gpu:
    """One GPU on the PCI bus."""

    bus: str
    uuid: str
    device: str = "0x2330"
    model: str = "NVIDIA H100 80GB HBM3"
    chip: str = "gh100"
    image: str = "gsp_ga10x.bin"
    vbios: str = "96.00.da.00.0c"
    failure: str = ""  # a key of FAILURES
    fails_with: str = ""  # the driver version with which it does not come up
    bound_to: str = "nvidia"
    requires_open: bool = False


@dataclass(frozen=True)
class Hardware:
    """What a node is made of, and what its firmware and kernel command line say."""

    gpus: tuple[Gpu, ...]
    nvswitches: tuple[str, ...] = ()
    secure_boot: bool = False
    firmware_path: str = ""  # firmware_class.path= on the kernel command line
    returns: bool = True  # False: the next boot hangs for ever

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Hardware":
        value: dict[str, Any] = json.loads(text)
        gpus = tuple(Gpu(**gpu) for gpu in value.pop("gpus"))
        return cls(gpus=gpus, nvswitches=tuple(value.pop("nvswitches")), **value)

    def with_gpu(self, index: int, **change: Any) -> "Hardware":
        gpus = list(self.gpus)
        gpus[index] = dataclasses.replace(gpus[index], **change)
        return dataclasses.replace(self, gpus=tuple(gpus))


@dataclass
class Boot:
    """What a boot makes visible: files and links at absolute paths, and the kernel log."""

    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    kmsg: list[tuple[int, str]] = field(default_factory=list)  # (syslog level, text)

    def log(self, text: str, level: int = 6) -> None:
        self.kmsg.append((level, text))


@dataclass(frozen=True)
class Module:
    """A kernel module on disk."""

    path: Path
    version: str
    srcversion: str
    is_open: bool


def kmsg_record(sequence: int, microseconds: int, level: int, text: str) -> str:
    """One record as a read of /dev/kmsg returns it."""
    return f"{level},{sequence},{microseconds},-;{text.replace(chr(10), chr(92) + 'x0a')}\n"


def modules_on_disk(root: Path, release: str) -> dict[str, Module]:
    """The NVIDIA modules that modprobe would load for this kernel: updates come before the rest."""
    base = root / "lib/modules" / release
    found: dict[str, Module] = {}
    for name in MODULES:
        for folder in ("updates", "extra", "kernel"):
            paths = sorted((base / folder).rglob(f"{name}.ko"))
            if paths:
                info = elf.modinfo(paths[0].read_bytes())
                is_open = info.get("license") != "NVIDIA"
                found[name] = Module(paths[0], info.get("version", ""), info.get("srcversion", ""), is_open)
                break
    return found


def firmware_search_path(root: Path, release: str, custom: str) -> Iterator[Path]:
    """Where the kernel looks for firmware, in its order."""
    if custom:
        yield root / custom.lstrip("/")
    for folder in (f"updates/{release}", "updates", release):
        yield root / "lib/firmware" / folder
    yield root / "lib/firmware"


def gsp_fault(image: Path | None, gpu: Gpu, version: str) -> tuple[list[str], str] | None:
    """Why the driver refuses this image (log lines, RmInitAdapter's codes), or None where it boots it."""
    if image is None:
        name = f"nvidia/{version}/{gpu.image}"
        missing = f"nvidia {gpu.bus}: Direct firmware load for {name} failed with error -2"
        return [missing, "NVRM: RmFetchGspRmImages: No firmware image found"], "0x61:0x56:1697"
    try:
        sections = elf.read(image.read_bytes())
    except elf.NotElfError:
        sections = {}
    got = sections.get(".fwversion")
    status = "Invalid data [NV_ERR_INVALID_DATA] (0x00000025)"
    check = f"NVRM: nvCheckOkFailedNoLog: Check failed: {status} returned from"
    if got is None:
        return [f"{check} _kgspFwContainerGetSection @ kernel_gsp.c:4730"], "0x62:0x25:2014"
    if got != version.encode() + b"\0":
        text = got.rstrip(b"\0").decode("ascii", "replace")
        mismatch = f"GSP firmware image version mismatch: got version {text}, expected version {version}"
        return [f"NVRM: _kgspFwContainerVerifyVersion: {mismatch}"], "0x62:0x25:2014"
    if f".fwsignature_{gpu.chip}" not in sections:
        return [f"{check} _kgspGetSectionNameForPrefix @ kernel_gsp.c:4790"], "0x62:0x25:2014"
    return None


def gsp_parameter(root: Path) -> int:
    """NVreg_EnableGpuFirmware as modprobe.d sets it; 18 is the driver's default."""
    value = 18
    for path in sorted((root / "etc/modprobe.d").glob("*.conf")):
        for match in re.finditer(r"^options nvidia .*NVreg_EnableGpuFirmware=(\d+)", path.read_text(), re.M):
            value = int(match[1])
    return value


def boot(root: Path, hardware: Hardware, release: str) -> Boot:
    """Boot this kernel on this hardware with this disk."""
    result = Boot()
    result.log(
        f"Linux version {release} (buildd@lcy02-amd64-063) (x86_64-linux-gnu-gcc-13) #1 SMP PREEMPT_DYNAMIC",
        5,
    )
    result.log(
        f"Command line: BOOT_IMAGE=/boot/vmlinuz-{release} root=/dev/vda1 ro"
        + (f" firmware_class.path={hardware.firmware_path}" if hardware.firmware_path else "")
    )
    result.log("secureboot: Secure boot " + ("enabled" if hardware.secure_boot else "disabled"))
    result.files["/sys/module/firmware_class/parameters/path"] = hardware.firmware_path + "\n"
    _pci(result, hardware)
    if not hardware.gpus:
        return result
    if any(gpu.bound_to == "nouveau" for gpu in hardware.gpus):
        _nouveau(result, hardware)
        return result
    modules = modules_on_disk(root, release)
    if "nvidia" in modules:
        _load(result, root, hardware, release, modules)
    return result


def load(root: Path, hardware: Hardware, release: str) -> Boot:
    """Load the driver into a running kernel: what a boot shows of it, without the machine around it."""
    result = Boot()
    modules = modules_on_disk(root, release)
    if "nvidia" in modules:
        _load(result, root, hardware, release, modules)
    return result


def _pci(result: Boot, hardware: Hardware) -> None:
    for gpu in hardware.gpus:
        _device(result, gpu.bus, gpu.device, "0x030200")
    for bus in hardware.nvswitches:
        _device(result, bus, "0x22a3", "0x068000")


def _device(result: Boot, bus: str, device: str, device_class: str) -> None:
    base, kind = f"/sys/bus/pci/devices/{bus}", device_class[2:6]
    values = {
        "vendor": "0x10de",
        "device": device,
        "class": device_class,
        "current_link_width": "16",
        "max_link_width": "16",
        "current_link_speed": "32.0 GT/s PCIe",
        "max_link_speed": "32.0 GT/s PCIe",
        "enable": "1",
        "numa_node": "0",
        "modalias": f"pci:v000010DEd0000{device[2:].upper()}sv000010DEsd000016C1bc{kind[:2]}sc{kind[2:]}i00",
    }
    result.files.update({f"{base}/{name}": value + "\n" for name, value in values.items()})
    result.log(f"pci {bus}: [10de:{device[2:]}] type 00 class {device_class} PCIe Endpoint")


def _bind(result: Boot, bus: str, driver: str) -> None:
    result.files.setdefault(f"/sys/bus/pci/drivers/{driver}/module_name", driver + "\n")
    result.links[f"/sys/bus/pci/devices/{bus}/driver"] = f"../../drivers/{driver}"


def _module(result: Boot, name: str, module: Module | None) -> None:
    base = f"/sys/module/{name.replace('-', '_')}"
    result.files[f"{base}/initstate"] = "live\n"
    result.files[f"{base}/refcnt"] = "0\n"
    if module:
        result.files[f"{base}/version"] = module.version + "\n"
        result.files[f"{base}/srcversion"] = module.srcversion + "\n"


def _nouveau(result: Boot, hardware: Hardware) -> None:
    _module(result, "nouveau", None)
    for gpu in hardware.gpus:
        _bind(result, gpu.bus, "nouveau")
        result.log(f"nouveau {gpu.bus}: NVIDIA GH100 (180000a1)")
    result.files["/proc/modules"] = "nouveau 3096576 1 - Live 0xffffffffc0400000\n"
    result.log("nvidia-nvlink: Nvlink Core is being initialized, major device number 240")
    result.log(f"NVRM: The NVIDIA probe routine was not called for {len(hardware.gpus)} device(s).", 3)
    result.log(
        "NVRM: This can occur when a driver such as: \nNVRM: nouveau, rivafb, nvidiafb or rivatv \n"
        "NVRM: was loaded and obtained ownership of the NVIDIA device(s).",
        3,
    )
    result.log("NVRM: No NVIDIA devices probed.", 3)
    result.log("nvidia-nvlink: Unregistered Nvlink Core, major device number 240")


def _load(result: Boot, root: Path, hardware: Hardware, release: str, modules: dict[str, Module]) -> None:
    if hardware.secure_boot:
        result.log("Loading of unsigned module is rejected", 3)
        result.log("Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7", 5)
        result.log(
            "systemd-modules-load[271]: Failed to insert module 'nvidia': Key was rejected by service", 3
        )
        return
    kmd = modules["nvidia"]
    result.log("nvidia: loading out-of-tree module taints kernel.", 4)
    result.log(
        "nvidia: module verification failed: signature and/or required key missing - tainting kernel", 4
    )
    result.log("nvidia-nvlink: Nvlink Core is being initialized, major device number 240")
    banner = nvrm_banner(kmd.version, is_open=kmd.is_open)
    result.log(f"NVRM: loading {banner}", 4)
    lines = []
    for name, module in modules.items():
        if name != "nvidia" and module.version != kmd.version:
            result.log(f"NVRM: Version mismatch: nvidia.ko({kmd.version}) {name}.ko({module.version})", 3)
        _module(result, name, module)
        lines.append(proc_modules_line(name))
    result.files["/proc/modules"] = "".join(reversed(lines))
    parameter = gsp_parameter(root)
    result.files["/proc/driver/nvidia/version"] = (
        f"NVRM version: {banner}\nGCC version:  gcc version 13.3.0 \n"
    )
    result.files["/proc/driver/nvidia/params"] = _params(parameter)
    folders = firmware_search_path(root, release, hardware.firmware_path)
    # the open modules need the GSP: they take no notice of the parameter
    loaded = _Loaded(kmd, kmd.is_open or parameter != 0, tuple(folders))
    for minor, gpu in enumerate(hardware.gpus):
        _bind(result, gpu.bus, "nvidia")
        running = loaded.open(gpu, minor, result)
        result.files[f"/proc/driver/nvidia/gpus/{gpu.bus}/information"] = information(gpu, minor, running)


def proc_modules_line(name: str) -> str:
    """A loaded module's line in /proc/modules."""
    return f"{name.replace('-', '_')} 1830912 0 - Live 0xffffffffc080c000 (OE)\n"


def nvrm_banner(version: str, *, is_open: bool) -> str:
    """The text behind `NVRM version:` of /proc/driver/nvidia/version."""
    if is_open:
        return f"NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build  ({BUILDER})  "
    return f"NVIDIA UNIX x86_64 Kernel Module  {version}  Tue Jul  8 18:10:03 UTC 2025"


@dataclass(frozen=True)
class _Loaded:
    """The driver while it opens its GPUs."""

    module: Module
    gsp: bool
    image_folders: tuple[Path, ...]

    def open(self, gpu: Gpu, minor: int, result: Boot) -> str | None:
        """The GSP version that runs then, N/A where the GPU runs none, or None where it failed."""
        fault = self._fault(gpu)
        if fault is None:
            return self.module.version if self.gsp else "N/A"
        for line in fault[0]:
            result.log(line, 3)
        result.log(f"NVRM: GPU {gpu.bus}: RmInitAdapter failed! ({fault[1]})", 3)
        result.log(f"NVRM: GPU {gpu.bus}: rm_init_adapter failed, device minor number {minor}", 3)
        return None

    def _fault(self, gpu: Gpu) -> tuple[list[str], str] | None:
        if gpu.requires_open and not self.module.is_open:
            text = (
                f"NVRM: The NVIDIA GPU {gpu.bus} (PCI ID: 10de:{gpu.device[2:]})\n"
                "NVRM: installed in this system requires use of the NVIDIA open kernel modules."
            )
            return [text], "0x22:0x56:884"
        version = self.module.version
        if gpu.failure or gpu.fails_with == version:
            lines, codes = FAILURES[gpu.failure or "lost"]
            return [line.format(bus=gpu.bus, version=version, image=gpu.image) for line in lines], codes
        if not self.gsp:
            return None
        candidates = (folder / "nvidia" / version / gpu.image for folder in self.image_folders)
        return gsp_fault(next((path for path in candidates if path.is_file()), None), gpu, version)


def information(gpu: Gpu, minor: int, running: str | None) -> str:
    """/proc/driver/nvidia/gpus/<bus>/information; running is None for a GPU that did not initialise."""
    return (
        f"Model: \t\t {gpu.model}\n"
        f"IRQ:   \t\t {41 + minor}\n"
        f"GPU UUID: \t {UNINITIALISED_UUID if running is None else gpu.uuid}\n"
        f"Video BIOS: \t {UNINITIALISED_VBIOS if running is None else gpu.vbios}\n"
        "Bus Type: \t PCIe\n"
        "DMA Size: \t 52 bits\n"
        "DMA Mask: \t 0xfffffffffffff\n"
        f"Bus Location: \t {gpu.bus}\n"
        f"Device Minor: \t {minor}\n"
        f"GPU Firmware: \t {running or 'N/A'}\n"
        "GPU Excluded:\t No\n"
    )


def _params(gsp: int) -> str:
    return (
        "ResmanDebugLevel: 4294967295\nRmLogonRC: 1\nModifyDeviceFiles: 1\n"
        "DeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 438\nEnableMSI: 1\n"
        "RmProfilingAdminOnly: 0\nDynamicPowerManagement: 3\n"
        f"EnableGpuFirmware: {gsp}\nEnableGpuFirmwareLogs: 2\nOpenRmEnableUnsupportedGpus: 1\n"
        'RegistryDwords: ""\nRmMsg: ""\nExcludedGpus: ""\n'
    )

"""Builds recordings of whole GPU nodes, healthy and broken: the cases under tests/fixtures/nodes.

``python -m tests.nodebuilder [DIR]`` writes them all. A case starts from the healthy node of a distribution
and changes what its story changes. What each must be judged as stands beside it, in ``expected.json``, and
comes from the fault catalogue, not from what the detector says today.
"""

# ruff: noqa: E501 - lines of a kernel log are as long as the kernel makes them
from __future__ import annotations

import json
import lzma
import shutil
import struct
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.elfbuilder import elf_file, kernel_module

FIXTURES = Path(__file__).parent / "fixtures" / "nodes"
RECORDED = ("h100-580-open", "h100-580-umd-550")
"""Recordings of a real node: kept as they came, never written by this module."""

V535 = "535.261.03"
V550 = "550.163.01"
V570 = "570.172.08"
V570_NEW = "570.195.03"
V580 = "580.95.05"
V580_OLD = "580.65.06"

GA10X = ("ga10x", "ad10x", "gh100", "cc_gh100")
BLACKWELL = ("gb10x", "gb10y", "gb20x", "gb20y", "cc_gb10x", "cc_gb10y", "cc_gb20x", "cc_gb20y")
TU10X = ("tu10x", "tu11x", "ga100")


# --- pieces ----------------------------------------------------------------------------------------------
def image(version: str, chips: Sequence[str]) -> bytes:
    """A GSP image with the real sections' names and a token payload."""
    return elf_file([
        (".fwimage", b"\xa5" * 256),
        (".fwversion", version.encode() + b"\0"),
        *((f".fwsignature_{chip}", b"\x5a" * 16) for chip in chips),
    ])


def images(version: str) -> dict[str, bytes]:
    """Both images of a driver release, by file name."""
    ga10x = GA10X if int(version[:3]) < 570 else GA10X + BLACKWELL
    return {"gsp_ga10x.bin": image(version, ga10x), "gsp_tu10x.bin": image(version, TU10X)}


def xz(data: bytes) -> bytes:
    """Compressed as kernel modules and firmware are."""
    return lzma.compress(data, check=lzma.CHECK_CRC32, preset=6)


def plain(data: bytes) -> bytes:
    """Not compressed."""
    return data


def zst(data: bytes) -> bytes:
    """A Zstandard frame of stored blocks: the format allows it, and no compressor is needed."""
    limit = 1 << 17
    blocks = [data[at : at + limit] for at in range(0, len(data), limit)] or [b""]
    frame = struct.pack("<IBI", 0xFD2FB528, 0b1010_0000, len(data))
    for number, block in enumerate(blocks, 1):
        frame += struct.pack("<I", len(block) << 3 | (number == len(blocks)))[:3] + block
    return frame


@dataclass(frozen=True)
class Gpu:
    name: str
    device: int
    vbios: str = "96.00.99.00.01"
    pci_class: int = 0x030200
    gsp: bool = True


H100 = Gpu("NVIDIA H100 80GB HBM3", 0x2330)
H200 = Gpu("NVIDIA H200", 0x2335, "96.00.B4.00.03")
A100 = Gpu("NVIDIA A100-SXM4-80GB", 0x20B2, "92.00.81.00.01")
T4 = Gpu("Tesla T4", 0x1EB8, "90.04.96.00.02")
L40S = Gpu("NVIDIA L40S", 0x26B9, "95.02.66.00.02")
B200 = Gpu("NVIDIA B200", 0x2901, "97.00.88.00.0F")
GH200 = Gpu("NVIDIA GH200 480GB", 0x2342, "96.00.A3.00.01")
V100 = Gpu("Tesla V100-SXM2-32GB", 0x1DB5, "88.00.80.00.01", gsp=False)
RTX3090 = Gpu("NVIDIA GeForce RTX 3090", 0x2204, "94.02.4B.00.0B", 0x030000)

SLOTS = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")


@dataclass
class Node:
    """A recording in the making: files and links below root/, and the answers of commands."""

    hostname: str
    kernel: str
    machine: str = "x86_64"
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    commands: dict[str, dict[str, object]] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    libdir: str = "/usr/lib/x86_64-linux-gnu"
    module_path: str = ""
    firmware: str = "/usr/lib/firmware"
    modules: str = "/usr/lib/modules"
    gpus: list[tuple[str, Gpu]] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    rpms: list[str] = field(default_factory=list)
    cache: list[str] = field(default_factory=list)

    # files
    def write(self, path: str, content: str | bytes) -> None:
        self.files[path] = content.encode() if isinstance(content, str) else content

    def keep(self, directory: str) -> None:
        """A directory that exists and is empty: git needs a file in it."""
        self.write(f"{directory}/.keep", "")

    def link(self, path: str, target: str) -> None:
        self.links[path] = target

    def remove(self, prefix: str) -> None:
        """Takes away a file, a link or a whole directory."""
        for table in (self.files, self.links):
            for path in [p for p in table if p == prefix or p.startswith(prefix + "/")]:
                del table[path]

    # commands
    def command(
        self, name: str, argv: Sequence[str], stdout: str = "", rc: int = 0, stderr: str = ""
    ) -> None:
        self.commands[name] = {"argv": list(argv), "rc": rc, "stdout": stdout, "stderr": stderr}

    def kmsg(self, text: str) -> None:
        """Adds lines to the kernel log; each gets a later time than the one before."""
        self.log += text.strip("\n").splitlines()

    def nvml(self, **answer: object) -> None:
        self.command("nvml", ["nvml"], json.dumps(answer))

    def nvml_fine(self, version: str, listed: int | None = None, persistence: bool = True) -> None:
        gpus = [
            {
                "bus_id": f"0000{bus.upper()}",
                "name": gpu.name,
                "uuid": f"GPU-00000000-0000-0000-0000-{number:012d}",
                "gsp": version if gpu.gsp else None,
                "vbios": gpu.vbios,
                "persistence": persistence,
                "pcie_width": 16,
                "pcie_width_max": 16,
                "pcie_gen": 5,
            }
            for number, (bus, gpu) in enumerate(self.gpus)
        ]
        cuda = {"535": "12", "550": "12", "570": "12", "580": "13"}.get(version[:3], "13")
        self.nvml(init=0, driver=version, nvml=f"{cuda}.{version}", gpus=gpus[:listed])

    # hardware
    def pci(self, bus: str, vendor: int, device: int, pci_class: int, driver: str | None) -> None:
        base = f"/sys/bus/pci/devices/{bus}"
        self.remove(base)
        self.write(f"{base}/vendor", f"0x{vendor:04x}\n")
        self.write(f"{base}/device", f"0x{device:04x}\n")
        self.write(f"{base}/class", f"0x{pci_class:06x}\n")
        if driver:
            self.keep(f"/sys/bus/pci/drivers/{driver}")
            self.link(f"{base}/driver", f"../../../bus/pci/drivers/{driver}")

    def gpu(self, bus: str, gpu: Gpu, driver: str | None = "nvidia") -> None:
        self.pci(bus, 0x10DE, gpu.device, gpu.pci_class, driver)
        self.gpus.append((bus, gpu))

    def drive(self, driver: str | None, buses: Iterable[str] | None = None) -> None:
        """Another kernel driver (or none) holds these GPUs."""
        chosen = set(buses) if buses is not None else {bus for bus, _gpu in self.gpus}
        for bus, gpu in self.gpus:
            if bus in chosen:
                self.pci(bus, 0x10DE, gpu.device, gpu.pci_class, driver)

    def nvswitches(self, count: int = 4) -> None:
        for number in range(count):
            self.pci(f"0000:0{number + 5}:00.0", 0x10DE, 0x22A3, 0x068000, "nvidia-nvswitch")

    def bus(self, index: int) -> str:
        return self.gpus[index][0]

    # the driver as it runs
    def loaded(
        self, version: str, flavour: str, names: Sequence[str] = ("", "_uvm", "_modeset", "_drm")
    ) -> None:
        taint = "OE"
        users = {"": 30, "_uvm": 2, "_modeset": 1, "_drm": 0}
        self.remove("/proc/modules")
        lines = [
            f"nvidia{n} 14299136 {users[n]} - Live 0x0000000000000000 ({taint})" for n in reversed(names)
        ]
        self.write("/proc/modules", "\n".join([*lines, "ext4 1130496 2 - Live 0x0000000000000000", ""]))
        for name in names:
            self.write(f"/sys/module/nvidia{name}/version", f"{version}\n")
            self.write(f"/sys/module/nvidia{name}/initstate", "live\n")
        banner = {
            "open": f"NVIDIA UNIX Open Kernel Module for {self.machine}  {version}  Release Build  "
            "(dvs-builder@U22-I3-AE18-24-2)  Wed Jul  9 16:54:10 UTC 2025",
            "proprietary": f"NVIDIA UNIX {self.machine} Kernel Module  {version}  Wed Jul  9 15:09:09 UTC 2025",
        }[flavour]
        gcc = "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2~24.04)"
        self.write("/proc/driver/nvidia/version", f"NVRM version: {banner}\n{gcc}\n")
        self.params()
        self.log = [line for line in self.log if "NVRM: loading NVIDIA" not in line]
        self.kmsg(f"[   10.301517] NVRM: loading {banner}")

    def params(self, firmware: int = 18, **more: object) -> None:
        lines = [
            "ResmanDebugLevel: 4294967295",
            "RmLogonRC: 1",
            "ModifyDeviceFiles: 1",
            "DeviceFileMode: 438",
        ]
        lines += [
            f"EnableGpuFirmware: {firmware}",
            "EnableGpuFirmwareLogs: 2",
            "OpenRmEnableUnsupportedGpus: 1",
        ]
        lines += [f"{key}: {value}" for key, value in more.items()] + [
            'RegistryDwords: ""',
            'ExcludedGpus: ""',
        ]
        self.write("/proc/driver/nvidia/params", "\n".join(lines) + "\n")

    def information(
        self, running: str | None, indices: Iterable[int] | None = None, excluded: str = "No"
    ) -> None:
        """What each GPU's information file says: the GSP version that runs, or N/A."""
        chosen = range(len(self.gpus)) if indices is None else indices
        for number in chosen:
            bus, gpu = self.gpus[number]
            lines = [
                f"Model: \t\t {gpu.name}",
                f"IRQ:   \t\t {40 + number}",
                f"GPU UUID: \t GPU-00000000-0000-0000-0000-{number:012d}",
                f"Video BIOS: \t {gpu.vbios.lower() if running or not gpu.gsp else '??.??.??.??.??'}",
                "Bus Type: \t PCIe",
                "DMA Size: \t 52 bits",
                "DMA Mask: \t 0xfffffffffffff",
                f"Bus Location: \t {bus}",
                f"Device Minor: \t {number}",
                f"GPU Firmware: \t {running if running and gpu.gsp else 'N/A'}",
                f"GPU Excluded:\t {excluded}",
            ]
            self.write(f"/proc/driver/nvidia/gpus/{bus}/information", "\n".join(lines) + "\n")

    def unloaded(self) -> None:
        """No NVIDIA module is loaded, and no GPU has a driver."""
        self.remove("/proc/driver/nvidia")
        for name in ("", "_uvm", "_modeset", "_drm"):
            self.remove(f"/sys/module/nvidia{name}")
        self.write("/proc/modules", "ext4 1130496 2 - Live 0x0000000000000000\n")
        self.drive(None)
        self.log = [line for line in self.log if "NVRM: loading NVIDIA" not in line]
        self.nvml(init=9)

    # the driver on disk
    def module(
        self,
        version: str,
        flavour: str = "open",
        *,
        kernel: str | None = None,
        path: str | None = None,
        names: Sequence[str] = ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"),
    ) -> None:
        """Kernel modules on disk; ``path`` is the directory below the kernel's and a suffix: updates/dkms|.ko.zst."""
        kernel = kernel or self.kernel
        where, suffix = (path or self.module_path).split("|")
        squeeze = {".ko": plain, ".ko.xz": xz, ".ko.zst": zst}[suffix]
        base = f"{self.modules}/{kernel}"
        for name in names:
            info = {
                "license": "Dual MIT/GPL" if flavour == "open" else "NVIDIA",
                "version": version,
                "srcversion": "06B987C9B8B712FF4E7FB47",
                "name": name.replace("-current", "").replace("-", "_"),
                "vermagic": f"{kernel} SMP preempt mod_unload modversions ",
            }
            if name in {"nvidia", "nvidia-current"}:
                info["firmware"] = f"nvidia/{version}/gsp_ga10x.bin"
            self.write(f"{base}/{where}/{name}{suffix}", squeeze(kernel_module(info)))
        self.modules_dep(kernel)
        if kernel == self.kernel and "modinfo" in self.commands:
            self.modinfo(f"/lib/modules/{kernel}/{where}/{names[0]}{suffix}", version, flavour, kernel)

    def modules_dep(self, kernel: str) -> None:
        base = f"{self.modules}/{kernel}/"
        paths = [
            p.removeprefix(base) for p in (*self.files, *self.links) if p.startswith(base) and ".ko" in p
        ]
        self.write(base + "modules.dep", "".join(f"{path}:\n" for path in sorted(paths)))

    def modinfo(self, filename: str, version: str, flavour: str, kernel: str) -> None:
        self.command(
            "modinfo",
            ["modinfo", "nvidia"],
            f"filename:       {filename}\nimport_ns:      DMA_BUF\nalias:          char-major-195-*\n"
            f"version:        {version}\nsupported:      external\n"
            f"license:        {'Dual MIT/GPL' if flavour == 'open' else 'NVIDIA'}\n"
            f"firmware:       nvidia/{version}/gsp_tu10x.bin\nfirmware:       nvidia/{version}/gsp_ga10x.bin\n"
            "srcversion:     06B987C9B8B712FF4E7FB47\ndepends:        \nname:           nvidia\n"
            f"vermagic:       {kernel} SMP preempt mod_unload modversions \n"
            "parm:           NVreg_ResmanDebugLevel:int\n",
        )

    def no_module(self, kernel: str | None = None) -> None:
        """No NVIDIA module on disk for this kernel, whose other modules are there."""
        kernel = kernel or self.kernel
        base = f"{self.modules}/{kernel}"
        for path in [p for p in (*self.files, *self.links) if p.startswith(base) and "nvidia" in p]:
            self.remove(path)
        self.write(f"{base}/kernel/fs/ext4/ext4.ko", kernel_module({"name": "ext4", "license": "GPL"}))
        self.modules_dep(kernel)
        if kernel == self.kernel and "modinfo" in self.commands:
            missing = "modinfo: ERROR: Module nvidia not found.\n"
            self.command("modinfo", ["modinfo", "nvidia"], rc=1, stderr=missing)

    def gsp_images(self, version: str, suffix: str = "", only: Sequence[str] = ()) -> None:
        squeeze = {"": plain, ".xz": xz, ".zst": zst}[suffix]
        for name, data in images(version).items():
            if not only or name in only:
                self.write(f"{self.firmware}/nvidia/{version}/{name}{suffix}", squeeze(data))

    def image_path(self, version: str, name: str = "gsp_ga10x.bin") -> str:
        return f"{self.firmware}/nvidia/{version}/{name}"

    def libraries(self, version: str, names: Sequence[str] = ("libnvidia-ml", "libcuda")) -> None:
        """The libraries of one version, where the loader finds them first."""
        for name in names:
            self.write(f"{self.libdir}/{name}.so.{version}", "")
            self.link(f"{self.libdir}/{name}.so.1", f"{name}.so.{version}")
            self.link(f"{self.libdir}/{name}.so", f"{name}.so.1")

    def no_libraries(self, version: str) -> None:
        for name in ("libnvidia-ml", "libcuda"):
            self.remove(f"{self.libdir}/{name}.so.{version}")

    def ldcache(self, *first: str) -> None:
        """``ldconfig -p`` with these lines before the usual ones."""
        arch = {"x86_64": "libc6,x86-64", "aarch64": "libc6,AArch64"}[self.machine]
        usual = [
            f"{name} ({arch}) => {self.libdir}/{name}"
            for name in ("libnvidia-ml.so.1", "libnvidia-ml.so", "libcuda.so.1", "libcuda.so")
        ]
        lines = [*first, *usual, f"libc.so.6 ({arch}, OS ABI: Linux 3.2.0) => {self.libdir}/libc.so.6"]
        text = f"{len(lines)} libs found in cache `/etc/ld.so.cache'\n" + "".join(
            f"\t{line}\n" for line in lines
        )
        self.command("ldcache", ["ldconfig", "-p"], text)

    # packages
    def dpkg(self, version: str, *names: str, status: str = "install ok installed") -> None:
        for name in names:
            self.packages[name] = (
                f"Package: {name}\nStatus: {status}\nPriority: optional\nSection: libs\n"
                + (
                    f"Installed-Size: 1234\nMaintainer: NVIDIA <x@y.invalid>\nArchitecture: amd64\nVersion: {version}\n"
                    f"Description: NVIDIA package\n {name}\n"
                )
            )

    def rpm(self, version: str, *names: str, epoch: int = 3, arch: str = "x86_64") -> None:
        self.rpms += [f"{name} {epoch}:{version} {arch}" for name in names]

    # boot
    def grub(self, *kernels: str, default: str = "0") -> None:
        """Debian's grub.cfg: the first kernel as the simple entry, all of them in the submenu."""

        def entry(kernel: str, indent: str, simple: bool) -> str:
            title = "Ubuntu" if simple else f"Ubuntu, with Linux {kernel}"
            ident = "gnulinux-simple-1234" if simple else f"gnulinux-{kernel}-advanced-1234"
            return (
                f"{indent}menuentry '{title}' --class ubuntu --class os $menuentry_id_option '{ident}' {{\n"
                f"{indent}\tlinux\t/boot/vmlinuz-{kernel} root=UUID=1234 ro  quiet\n"
                f"{indent}\tinitrd\t/boot/initrd.img-{kernel}\n{indent}}}\n"
            )

        text = (
            "if [ -s $prefix/grubenv ]; then\n  set have_grubenv=true\n  load_env\nfi\n"
            'if [ "${next_entry}" ] ; then\n   set default="${next_entry}"\n   set next_entry=\n   save_env next_entry\n'
            f'   set boot_once=true\nelse\n   set default="{default}"\nfi\n' + entry(kernels[0], "", True)
        )
        text += "submenu 'Advanced options for Ubuntu' $menuentry_id_option 'gnulinux-advanced-1234' {\n"
        text += "".join(entry(kernel, "\t", False) for kernel in kernels) + "}\n"
        self.write("/boot/grub/grub.cfg", text)
        self.kernels(*kernels)

    def kernels(self, *kernels: str) -> None:
        """The kernels in /boot, the newest first, and Debian's symlinks to it."""
        for kernel in kernels:
            self.write(f"/boot/vmlinuz-{kernel}", "")
        self.link("/boot/vmlinuz", f"vmlinuz-{kernels[0]}")

    # out
    def save(self, target: Path) -> None:
        """Writes the recording; what was in ``target`` is gone."""
        shutil.rmtree(target, ignore_errors=True)
        if self.packages:
            self.write("/var/lib/dpkg/status", "\n".join(self.packages.values()))
        if self.rpms and "rpm" not in self.commands:
            query = "%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\\n"
            self.command("rpm", ["rpm", "-qa", "--qf", query], "\n".join([*self.rpms, ""]))
        if "kmsg" not in self.commands:
            self.command("kmsg", ["dmesg"], "".join(line + "\n" for line in self.log))
        _write(
            target / "recording.json",
            {
                "format": 1,
                "hostname": self.hostname,
                "kernel": self.kernel,
                "machine": self.machine,
                "boot_id": "00000000-0000-0000-0000-0000000000aa",
                "captured_at": "2026-11-21T20:27:09Z",
            },
        )
        for name, answer in self.commands.items():
            if name not in self.absent:
                _write(target / "commands" / f"{name}.json", answer)
        (target / "root").mkdir(parents=True, exist_ok=True)
        for path, link in self.links.items():
            place = target / "root" / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(link)
        for path, content in self.files.items():
            place = target / "root" / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)

    absent: set[str] = field(default_factory=set)
    """Commands that the node does not have."""


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# --- healthy nodes ---------------------------------------------------------------------------------------
def _base(hostname: str, kernel: str, machine: str = "x86_64") -> Node:
    node = Node(hostname, kernel, machine)
    node.write("/proc/sys/kernel/osrelease", f"{kernel}\n")
    node.write("/proc/sys/kernel/random/boot_id", "00000000-0000-0000-0000-0000000000aa\n")
    node.write("/sys/module/firmware_class/parameters/path", "\n")
    node.pci("0000:00:00.0", 0x8086, 0x09A2, 0x088000, None)
    node.pci("0000:02:00.0", 0x1A03, 0x2000, 0x030000, "ast")
    node.pci("0000:18:00.0", 0x15B3, 0x1021, 0x020700, "mlx5_core")
    node.kmsg(
        f"[    0.000000] Linux version {kernel} (buildd@lcy02) #1 SMP\n"
        "[    7.771210] ast 0000:02:00.0: [drm] Using P2A bridge for configuration\n"
        "[    9.901210] nvidia: loading out-of-tree module taints kernel.\n"
        "[   10.101210] nvidia-nvlink: Nvlink Core is being initialized, major device number 235"
    )
    return node


def _gpus(node: Node, gpu: Gpu, count: int) -> None:
    for slot in SLOTS[:count]:
        node.gpu(f"0000:{slot}:00.0", gpu)


def _runs(node: Node, version: str, flavour: str) -> None:
    """This version is loaded and runs on every GPU; its modules and images are on disk."""
    node.loaded(version, flavour)
    node.information(version)
    node.nvml_fine(version)


def ubuntu2204(version: str = V570, gpu: Gpu = H100, count: int = 8) -> Node:
    """Canonical's server packages: a prebuilt module, images of the nvidia-firmware package."""
    kernel, branch = "5.15.0-151-generic", version[:3]
    node = _base("gpu01", kernel)
    node.link("/lib", "usr/lib")
    node.write("/etc/os-release", 'ID=ubuntu\nVERSION_ID="22.04"\n')
    _gpus(node, gpu, count)
    _runs(node, version, "open")
    node.command("modinfo", ["modinfo", "nvidia"])
    node.module_path = f"kernel/nvidia-{branch}srv-open|.ko"
    node.module(version)
    node.gsp_images(version)
    node.libraries(version)
    node.ldcache()
    packaged = f"{version}-0ubuntu0.22.04.1"
    node.dpkg(
        packaged,
        f"nvidia-headless-no-dkms-{branch}-server-open",
        f"nvidia-utils-{branch}-server",
        f"libnvidia-compute-{branch}-server",
        f"nvidia-kernel-common-{branch}-server",
        f"nvidia-firmware-{branch}-server-{version}",
        f"nvidia-compute-utils-{branch}-server",
    )
    node.dpkg("5.15.0-151.161", f"linux-modules-nvidia-{branch}-server-open-{kernel}")
    node.dpkg("5.15.0.151.161", f"linux-modules-nvidia-{branch}-server-open-generic")
    node.grub(kernel, "5.15.0-143-generic")
    node.module(version, kernel="5.15.0-143-generic")
    return node


def ubuntu2404(version: str = V580, gpu: Gpu = H100, count: int = 4, flavour: str = "open") -> Node:
    """NVIDIA's repository: DKMS, compressed modules, images of nvidia-kernel-common / nvidia-firmware."""
    kernel, branch = "6.8.0-64-generic", version[:3]
    node = _base("gpu02", kernel)
    node.link("/lib", "usr/lib")
    node.write("/etc/os-release", 'ID=ubuntu\nVERSION_ID="24.04"\n')
    _gpus(node, gpu, count)
    _runs(node, version, flavour)
    node.command("modinfo", ["modinfo", "nvidia"])
    node.module_path = "updates/dkms|.ko.zst"
    node.module(version, flavour)
    node.command("dkms", ["dkms", "status"], f"nvidia/{version}, {kernel}, x86_64: installed\n")
    node.gsp_images(version)
    node.libraries(version)
    node.ldcache()
    kind = "-open" if flavour == "open" else ""
    node.dpkg(
        f"{version}-0ubuntu1",
        f"nvidia-dkms-{branch}{kind}",
        f"nvidia-kernel-source-{branch}{kind}",
        f"nvidia-kernel-common-{branch}",
        f"nvidia-firmware-{branch}",
        f"libnvidia-compute-{branch}",
        f"nvidia-utils-{branch}",
        f"nvidia-compute-utils-{branch}",
        "nvidia-open" if kind else "cuda-drivers",
    )
    node.dpkg("3.0.11-1ubuntu13", "dkms")
    node.grub(kernel)
    return node


def debian12(gpu: Gpu = A100, count: int = 4) -> Node:
    """Debian's own packages: nvidia-current.ko, alternatives everywhere, modinfo nvidia finds nothing."""
    version, kernel = V535, "6.1.0-37-amd64"
    node = _base("gpu03", kernel)
    node.link("/lib", "usr/lib")
    node.write("/etc/os-release", 'ID=debian\nVERSION_ID="12"\n')
    _gpus(node, gpu, count)
    _runs(node, version, "proprietary")
    node.module_path = "updates/dkms|.ko"
    node.module(
        version,
        "proprietary",
        names=(
            "nvidia-current",
            "nvidia-current-uvm",
            "nvidia-current-modeset",
            "nvidia-current-drm",
        ),
    )
    missing = "modinfo: ERROR: Module nvidia not found.\n"
    node.command("modinfo", ["modinfo", "nvidia"], rc=1, stderr=missing)
    node.command("dkms", ["dkms", "status"], f"nvidia-current/{version}, {kernel}, x86_64: installed\n")
    node.gsp_images(version)
    current = "/usr/lib/x86_64-linux-gnu/nvidia/current"
    for name in ("libnvidia-ml", "libcuda"):
        node.write(f"{current}/{name}.so.{version}", "")
        node.link(f"{current}/{name}.so.1", f"{name}.so.{version}")
        node.link(
            f"/usr/lib/x86_64-linux-gnu/{name}.so.1", f"/etc/alternatives/glx--{name}.so.1-x86_64-linux-gnu"
        )
        node.link(
            f"/etc/alternatives/glx--{name}.so.1-x86_64-linux-gnu",
            f"/usr/lib/x86_64-linux-gnu/nvidia/{name}.so.1-x86_64-linux-gnu",
        )
        node.link(
            f"/usr/lib/x86_64-linux-gnu/nvidia/{name}.so.1-x86_64-linux-gnu",
            f"/etc/alternatives/nvidia--{name}.so.1-x86_64-linux-gnu",
        )
        node.link(f"/etc/alternatives/nvidia--{name}.so.1-x86_64-linux-gnu", f"{current}/{name}.so.1")
    node.ldcache()
    node.dpkg(
        f"{version}-1~deb12u1",
        "nvidia-kernel-dkms",
        "firmware-nvidia-gsp",
        "libnvidia-ml1",
        "libcuda1",
        "nvidia-driver-bin",
        "nvidia-alternative",
        "nvidia-smi",
        "nvidia-persistenced",
        "nvidia-kernel-support",
    )
    node.dpkg("20220217+3~deb12u1", "nvidia-support", "nvidia-installer-cleanup")
    node.kernels(kernel)
    node.link("/vmlinuz", f"boot/vmlinuz-{kernel}")
    return node


def rocky9(version: str = V570, gpu: Gpu = H100, count: int = 4) -> Node:
    """NVIDIA's rhel9 repository: extra/, weak-updates, xz, merged /usr, BLS boot entries."""
    kernel = "5.14.0-570.26.1.el9_6.x86_64"
    node = _base("gpu04", kernel)
    node.link("/lib", "usr/lib")
    node.link("/lib64", "usr/lib64")
    node.libdir = "/usr/lib64"
    node.write("/etc/os-release", 'ID="rocky"\nVERSION_ID="9.6"\n')
    _gpus(node, gpu, count)
    _runs(node, version, "open")
    node.command("modinfo", ["modinfo", "nvidia"])
    node.module_path = "extra|.ko.xz"
    node.module(version)
    node.command("dkms", ["dkms", "status"], f"nvidia-open/{version}, {kernel}, x86_64: installed\n")
    node.gsp_images(version, ".xz")
    node.libraries(version)
    node.ldcache()
    node.rpm(
        f"{version}-1.el9",
        "kmod-nvidia-open-dkms",
        "nvidia-kmod-common",
        "libnvidia-ml",
        "libnvidia-cfg",
        "nvidia-driver-cuda-libs",
        "nvidia-driver-cuda",
        "nvidia-persistenced",
        "nvidia-modprobe",
    )
    node.rpm("3.2.1-1.el9", "dkms", epoch=0, arch="noarch")
    node.rpm("5.14.0-570.26.1.el9_6", "kernel-core", epoch=0)
    _bls(node, kernel)
    return node


def _bls(node: Node, *kernels: str, saved: int = 0) -> None:
    """Boot Loader Specification entries, and grubenv's saved_entry."""
    ident = "c0ffee00c0ffee00c0ffee00c0ffee00"
    for kernel in kernels:
        node.write(
            f"/boot/loader/entries/{ident}-{kernel}.conf",
            f"title Rocky Linux ({kernel}) 9.6 (Blue Onyx)\nversion {kernel}\nlinux /vmlinuz-{kernel}\n"
            f"initrd /initramfs-{kernel}.img $tuned_initrd\noptions root=/dev/sda1 ro\ngrub_users $grub_users\n"
            "grub_arg --unrestricted\ngrub_class rocky\n",
        )
        node.write(f"/boot/vmlinuz-{kernel}", "")
    node.write(
        "/boot/grub2/grub.cfg",
        "if [ -f ${config_directory}/grubenv ]; then\n  load_env -f ${config_directory}/grubenv\nfi\n"
        'if [ "${next_entry}" ] ; then\n   set default="${next_entry}"\n   set next_entry=\n'
        '   save_env next_entry\n   set boot_once=true\nelse\n   set default="${saved_entry}"\nfi\n'
        "insmod part_gpt\ninsmod blscfg\nblscfg\n",
    )
    env = f"# GRUB Environment Block\nsaved_entry={ident}-{kernels[saved]}\nboot_success=0\n"
    node.write("/boot/grub2/grubenv", env.ljust(1024, "#"))


def sles15(version: str = V550, gpu: Gpu = H100, count: int = 4) -> Node:
    """SUSE's signed open module: updates/, no merged /usr, rpm without epochs."""
    kernel = "6.4.0-150600.23.60-default"
    node = _base("gpu05", kernel)
    node.firmware, node.modules, node.libdir = "/lib/firmware", "/lib/modules", "/usr/lib64"
    node.write("/etc/os-release", 'ID="sles"\nVERSION_ID="15.6"\n')
    _gpus(node, gpu, count)
    _runs(node, version, "open")
    node.command("modinfo", ["modinfo", "nvidia"])
    node.module_path = "updates|.ko"
    node.module(version)
    node.gsp_images(version)
    node.libraries(version)
    node.ldcache()
    node.rpm(
        f"{version}_k6.4.0_150600.21-150600.3.20.1", "nvidia-open-driver-G06-signed-kmp-default", epoch=0
    )
    node.rpm(f"{version}-150600.3.20.1", "kernel-firmware-nvidia-gspx-G06", epoch=0)
    node.rpm(
        f"{version}-21.1", "nvidia-compute-G06", "nvidia-compute-utils-G06", "libnvidia-gpucomp", epoch=0
    )
    node.rpm("6.4.0-150600.23.60.5", "kernel-default", epoch=0)
    node.write(f"/boot/vmlinuz-{kernel}", "")
    node.link("/boot/vmlinuz", f"vmlinuz-{kernel}")
    return node


def runfile(version: str = V580, gpu: Gpu = H100, count: int = 4) -> Node:
    """NVIDIA's .run installer on Ubuntu: nothing in the package database."""
    kernel = "6.8.0-64-generic"
    node = _base("gpu06", kernel)
    node.link("/lib", "usr/lib")
    _gpus(node, gpu, count)
    _runs(node, version, "open")
    node.command("modinfo", ["modinfo", "nvidia"])
    node.module_path = "kernel/drivers/video|.ko"
    node.module(version)
    node.gsp_images(version)
    node.libraries(version)
    node.ldcache()
    node.write("/usr/bin/nvidia-uninstall", "")
    node.write("/var/log/nvidia-installer.log", f"nvidia-installer log file\nDriver version: {version}\n")
    node.dpkg("2.39-0ubuntu8.4", "libc6")
    node.grub(kernel)
    return node


def minimal(version: str = V580, gpu: Gpu = H100, count: int = 1) -> Node:
    """An appliance image as the recorded H100's: a custom firmware path and hardly a command."""
    node = _base("gpu07", "6.18.44-appliance")
    node.libdir, node.firmware = "/usr/local/nvidia/lib64", "/usr/local/nvidia/firmware"
    node.write("/sys/module/firmware_class/parameters/path", "/usr/local/nvidia/firmware\n")
    _gpus(node, gpu, count)
    node.loaded(version, "open", names=("", "_uvm"))
    node.information(version)
    node.nvml_fine(version)
    node.gsp_images(version)
    node.libraries(version)
    node.ldcache()
    return node


# --- cases -----------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Case:
    """One node, and what must be said of it."""

    name: str
    build: Callable[[], Node] | None
    verdict: str
    remedy: str
    codes: tuple[str, ...]
    reason: str | None
    why: str

    @property
    def expected(self) -> dict[str, object]:
        return {
            "verdict": self.verdict,
            "remedy": self.remedy,
            "codes": list(self.codes),
            "reason": self.reason,
            "why": self.why,
        }

    def save(self, directory: Path) -> None:
        target = directory / self.name
        if self.build is not None:
            self.build().save(target)
        _write(target / "expected.json", self.expected)


CASES: list[Case] = []


def case(
    verdict: str, remedy: str = "none", *codes: str, reason: str | None = None, why: str
) -> Callable[[Callable[[], Node]], Callable[[], Node]]:
    """Registers a node under its function's name, with what must be said of it."""

    def register(build: Callable[[], Node]) -> Callable[[], Node]:
        name = build.__name__.replace("_", "-")
        CASES.append(Case(name, build, verdict, remedy, codes, reason, why))
        return build

    return register


CASES += [
    Case("h100-580-open", None, "consistent", "none", (), None, "A real H100 with a custom firmware path."),
    Case(
        "h100-580-umd-550",
        None,
        "mismatch",
        "realign",
        ("umd-skew",),
        "gsp:umd-skew kmd=580.159.04 umd=550.163.01",
        "The same host with an older NVML first in the loader's cache: NVML 18.",
    ),
]


# healthy
@case("consistent", why="Canonical's prebuilt server-open module, one version everywhere.")
def ubuntu2204_570_server_open() -> Node:
    return ubuntu2204()


@case("consistent", why="NVIDIA's repository with DKMS and zstd-compressed modules.")
def ubuntu2404_580_dkms_zst() -> Node:
    return ubuntu2404()


@case("consistent", why="Debian names the module nvidia-current: modinfo nvidia finding nothing is no fault.")
def debian12_535_alternatives() -> Node:
    return debian12()


@case("consistent", why="Modules in extra/, images as .xz, merged /usr, everything of epoch 3.")
def rocky9_570_dkms_xz() -> Node:
    return rocky9()


@case("consistent", why="A precompiled kmod of an older kernel is linked into weak-updates.")
def rocky9_570_weak_updates() -> Node:
    node, built_for = rocky9(), "5.14.0-570.12.1.el9_6.x86_64"
    node.no_module()
    node.module(V570, kernel=built_for, path="extra/drivers/video/nvidia|.ko")
    for name in ("nvidia", "nvidia-uvm", "nvidia-modeset", "nvidia-drm"):
        node.link(
            f"/usr/lib/modules/{node.kernel}/weak-updates/{name}.ko",
            f"/lib/modules/{built_for}/extra/drivers/video/nvidia/{name}.ko",
        )
    node.modules_dep(node.kernel)
    node.modinfo(f"/lib/modules/{node.kernel}/weak-updates/nvidia.ko", V570, "open", built_for)
    node.command("dkms", ["dkms", "status"], "")
    node.rpms = [line.replace("kmod-nvidia-open-dkms", "kmod-nvidia-open") for line in node.rpms]
    return node


@case("consistent", why="SUSE's signed module in updates/, images in the kernel-firmware package.")
def sles15_550_signed() -> Node:
    return sles15()


@case("consistent", why="A runfile installation alone: no packages to disagree with.")
def runfile_580_alone() -> Node:
    return runfile()


@case("consistent", why="A custom firmware path, no /lib/firmware, no modinfo, no dkms, no /lib/modules.")
def minimal_580_custom_path() -> Node:
    return minimal()


@case("consistent", why="GA100 boots gsp_tu10x.bin: gsp_ga10x.bin is not needed.")
def a100_tu10x_only() -> Node:
    node = ubuntu2204(V570, A100)
    node.remove(node.image_path(V570))
    return node


@case("consistent", why="A100 and T4 both boot gsp_tu10x.bin.")
def a100_and_t4() -> Node:
    node = ubuntu2204(V570, A100, 2)
    node.gpu("0000:9d:00.0", T4)
    node.gpu("0000:c3:00.0", T4)
    node.information(V570)
    node.nvml_fine(V570)
    return node


@case("consistent", why="Ada with its audio functions on the bus, which are no GPUs.")
def l40s_audio_functions() -> Node:
    node = ubuntu2404(V580, L40S, 4)
    for slot in SLOTS[:4]:
        node.pci(f"0000:{slot}:00.1", 0x10DE, 0x22BA, 0x040300, "snd_hda_intel")
    return node


@case("consistent", why="Eight H200 behind NVSwitches, fabric manager of the driver's version.")
def h200_nvswitch_fabric_matches() -> Node:
    return _with_fabric_manager(ubuntu2204(V570, H200), V570)


def _with_fabric_manager(node: Node, version: str, state: str = "active") -> Node:
    node.nvswitches()
    node.dpkg(f"{version}-0ubuntu0.22.04.1", f"nvidia-fabricmanager-{version[:3]}")
    node.command(
        "systemctl",
        ["systemctl", "show", "nvidia-fabricmanager", "nvidia-persistenced"],
        f"Id=nvidia-fabricmanager.service\nLoadState=loaded\nActiveState={state}\n"
        f"SubState={'running' if state == 'active' else state}\n"
        "\nId=nvidia-persistenced.service\nLoadState=loaded\nActiveState=active\nSubState=running\n",
    )
    return node


@case("consistent", why="Blackwell boots gsp_ga10x.bin of a release that signs it.")
def b200_580() -> Node:
    return ubuntu2404(V580, B200)


@case("consistent", why="Grace Hopper: the aarch64 banner, loader cache and module.")
def gh200_aarch64() -> Node:
    node = _base("gpu08", "6.8.0-1028-nvidia-64k", "aarch64")
    node.link("/lib", "usr/lib")
    node.libdir = "/usr/lib/aarch64-linux-gnu"
    node.gpu("0009:01:00.0", GH200)
    _runs(node, V570, "open")
    node.command("modinfo", ["modinfo", "nvidia"])
    node.module_path = "kernel/nvidia-570srv-open|.ko.zst"
    node.module(V570)
    node.gsp_images(V570)
    node.libraries(V570)
    node.ldcache()
    return node


@case("consistent", why="Volta has no GSP: N/A in the information file and no image is right.")
def v100_proprietary_no_gsp() -> Node:
    node = ubuntu2404(V570, V100, 4, "proprietary")
    node.remove("/usr/lib/firmware")
    return node


@case("consistent", why="GeForce under the proprietary 535 driver runs without GSP by default.")
def geforce_535_proprietary_without_images() -> Node:
    node = ubuntu2404(V535, RTX3090, 2, "proprietary")
    node.remove("/usr/lib/firmware")
    _without_gsp(node)
    return node


def _without_gsp(node: Node) -> None:
    """Every GPU works, and none runs GSP firmware."""
    node.information(None)
    answer = json.loads(str(node.commands["nvml"]["stdout"]))
    for gpu in answer["gpus"]:
        gpu["gsp"] = None
    node.nvml(**answer)


@case("consistent", why="Every GPU is handed to virtual machines: nothing is for nvidia to drive.")
def all_gpus_on_vfio() -> Node:
    node = ubuntu2404()
    node.unloaded()
    node.drive("vfio-pci")
    node.write("/etc/modprobe.d/vfio.conf", "options vfio-pci ids=10de:2330\nblacklist nvidia\n")
    return node


@case("consistent", why="Two of four GPUs are handed to virtual machines, the others run.")
def two_gpus_on_vfio() -> Node:
    node = ubuntu2404(V580, L40S, 4)
    passed = [node.bus(2), node.bus(3)]
    node.drive("vfio-pci", passed)
    for bus in passed:
        node.remove(f"/proc/driver/nvidia/gpus/{bus}")
    node.nvml_fine(V580, listed=2)
    return node


@case("consistent", why="Persistence off and idle: N/A in the information files, the image is intact.")
def idle_without_persistence() -> Node:
    node = ubuntu2404()
    node.information(None)
    node.absent.add("nvml")
    return node


@case("consistent", why="Firmware directories of older releases are normal, whatever they hold.")
def stale_firmware_directories() -> Node:
    node = ubuntu2404()
    for version in (V535, V550, "570.86.10"):
        node.gsp_images(version)
    node.write(node.image_path(V535), b"")
    node.write("/usr/lib/firmware/nvidia/tu102/gsp/gsp-535.113.01.bin", "nouveau's own")
    return node


@case("consistent", why="Packages that left only configuration files are not installed.")
def leftover_config_files_packages() -> Node:
    node = ubuntu2404()
    gone = ("nvidia-dkms-535", "libnvidia-compute-535", "nvidia-kernel-common-535", "nvidia-utils-535")
    node.dpkg(f"{V535}-0ubuntu1", *gone, status="deinstall ok config-files")
    return node


@case("consistent", why="cuda-compat puts a newer libcuda first on purpose: forward compatibility.")
def cuda_compat_first() -> Node:
    node = ubuntu2404(V570)
    compat = "/usr/local/cuda-12.9/compat"
    node.write(f"{compat}/libcuda.so.575.57.08", "")
    node.link(f"{compat}/libcuda.so.1", "libcuda.so.575.57.08")
    node.ldcache(f"libcuda.so.1 (libc6,x86-64) => {compat}/libcuda.so.1")
    node.dpkg("575.57.08-0ubuntu1", "cuda-compat-12-9")
    return node


@case("consistent", why="A 32-bit library of another release serves no 64-bit program.")
def library_of_32_bit_differs() -> Node:
    node = ubuntu2404()
    for name in ("libnvidia-ml", "libcuda"):
        node.write(f"/usr/lib/i386-linux-gnu/{name}.so.{V550}", "")
        node.link(f"/usr/lib/i386-linux-gnu/{name}.so.1", f"{name}.so.{V550}")
    node.ldcache(
        "libnvidia-ml.so.1 (libc6) => /usr/lib/i386-linux-gnu/libnvidia-ml.so.1",
        "libcuda.so.1 (libc6) => /usr/lib/i386-linux-gnu/libcuda.so.1",
    )
    return node


@case("consistent", why="Tools have versions of their own: container toolkit, settings, nvidia-fs, DCGM.")
def tools_of_other_versions() -> Node:
    node = ubuntu2204()
    node.dpkg("1.17.8-1", "nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container1")
    node.dpkg("580.95.05-0ubuntu1", "nvidia-settings", "libxnvctrl0")
    node.dpkg("575.57.08-0ubuntu1", "nvidia-modprobe")
    node.dpkg("2.25.7-1", "nvidia-fs-dkms", "nvidia-fs")
    node.dpkg("1:1.1.13-1", "libnvidia-egl-wayland1")
    node.dpkg("1:3.3.9", "datacenter-gpu-manager")
    node.dpkg("0.8.17.1", "nvidia-prime")
    node.dpkg("12.0.140~12.0.1-4build4", "nvidia-cuda-toolkit", "nvidia-cuda-dev")
    return node


@case("consistent", why="An ordinary user may not read the kernel log: less evidence, no fault.")
def inspected_by_a_user() -> Node:
    node = ubuntu2404()
    denied = "dmesg: read kernel buffer failed: Operation not permitted\n"
    node.command("kmsg", ["dmesg"], rc=1, stderr=denied)
    return node


@case("unknown", why="NVML lists one GPU of eight: a cgroup hides the others, or they are lost.")
def cgroup_hides_seven_of_eight() -> Node:
    node = ubuntu2404(count=8)
    node.nvml_fine(V580, listed=1)
    return node


@case("unknown", why="NVML lists no GPU: a cgroup hides them, or they are lost.")
def cgroup_hides_all_gpus() -> Node:
    node = ubuntu2404()
    node.nvml_fine(V580, listed=0)
    return node


@case("consistent", why="A container with an old library asked the kernel: the host's own library agrees.")
def api_mismatch_of_a_container_only() -> Node:
    node = ubuntu2404()
    node.kmsg(
        "[ 5026.768273] NVRM: API mismatch: the client 'python3' (pid 51022)\n"
        "               NVRM: has the version 550.163.01, but this kernel module has\n"
        f"               NVRM: the version {V580}.  Please make sure that this\n"
        "               NVRM: kernel module and all NVIDIA driver components\n"
        "               NVRM: have the same version."
    )
    return node


@case("consistent", why="Module verification failed alone only taints the kernel.")
def module_verification_taint_only() -> Node:
    node = ubuntu2404()
    node.kmsg(
        "[   10.054321] nvidia: module verification failed: signature and/or required key missing"
        " - tainting kernel"
    )
    return node


@case("consistent", why="Xid 13 and 31 are the job's own, 94 and 63 a contained ECC error.")
def xids_of_jobs_only() -> Node:
    node = ubuntu2404()
    node.kmsg(
        "[12346.678901] NVRM: Xid (PCI:0000:1b:00): 13, pid=4242, name=python3, Graphics Exception\n"
        "[12347.678901] NVRM: Xid (PCI:0000:43:00): 31, pid=4243, name=python3, Ch 00000008, intr 00000000."
        " MMU Fault: ENGINE GRAPHICS\n"
        "[12348.678901] NVRM: Xid (PCI:0000:52:00): 63, pid='<unknown>', name=<unknown>, Row Remapper\n"
        "[12349.678901] NVRM: Xid (PCI:0000:52:00): 94, pid=4244, name=python3, Contained: SM (0x1)"
    )
    return node


@case("consistent", why="The image was missing at boot; it was reinstalled and the driver reloaded since.")
def firmware_error_then_reload() -> Node:
    node = ubuntu2404()
    loading = node.log.pop()
    node.kmsg(loading)
    for bus, _gpu in node.gpus:
        node.kmsg(_fetch_failed(bus, V580, -2, 20))
    node.kmsg(
        "[ 3600.101210] nvidia-nvlink: Unregistered Nvlink Core, major device number 235\n"
        "[ 3605.101210] nvidia-nvlink: Nvlink Core is being initialized, major device number 235\n"
        + loading.replace("   10.3", " 3605.3")
    )
    return node


def _fetch_failed(bus: str, version: str, error: int, at: int, image_name: str = "gsp_ga10x.bin") -> str:
    name = f"nvidia/{version}/{image_name}"
    return (
        f"[   {at}.201517] nvidia {bus}: Direct firmware load for {name} failed with error {error}\n"
        f"[   {at}.201521] NVRM: RmFetchGspRmImages: No firmware image found\n"
        f"[   {at}.201530] NVRM: GPU {bus}: RmInitAdapter failed! (0x61:0x56:1770)\n"
        f"[   {at}.201560] NVRM: GPU {bus}: rm_init_adapter failed, device minor number 0"
    )


@case("consistent", why="One GPU failed its first initialisation at boot and runs its GSP now.")
def failed_once_then_initialised() -> Node:
    node = ubuntu2404()
    node.kmsg(
        "[   21.201530] NVRM: GPU 0000:1b:00.0: RmInitAdapter failed! (0x62:0x65:1860)\n"
        "[   21.201560] NVRM: GPU 0000:1b:00.0: rm_init_adapter failed, device minor number 0"
    )
    return node


@case("consistent", why="Firmware errors of other drivers, and of nouveau's own images, are not ours.")
def firmware_errors_of_other_drivers() -> Node:
    node = ubuntu2404()
    node.kmsg(
        "[    6.001000] amdgpu 0000:02:00.0: Direct firmware load for amdgpu/gc_11_0_0.bin failed with error -2\n"
        "[    6.101000] i915 0000:00:02.0: Direct firmware load for i915/dg2_huc_gsc.bin failed with error -2\n"
        "[    6.201000] nouveau 0000:1b:00.0: Direct firmware load for nvidia/gh100/gsp/booter_load-535.113.01.bin"
        " failed with error -2\n"
        "[    6.301000] nouveau 0000:1b:00.0: probe with driver nouveau failed with error -2\n"
        "[    6.401000] Lockdown: Xorg: raw io port access is restricted; see man kernel_lockdown.7"
    )
    return node


@case("no-gpu", why="A CPU node that shares gres.conf with the GPU nodes.")
def cpu_node_shared_gres_conf() -> Node:
    node = _base("cpu017", "5.15.0-151-generic")
    node.link("/lib", "usr/lib")
    node.log = node.log[:2]
    node.write("/proc/modules", "ext4 1130496 2 - Live 0x0000000000000000\n")
    node.write("/etc/slurm/gres.conf", GRES_CONF)
    node.write("/etc/slurm/slurm.conf", SLURM_CONF)
    node.no_module()
    node.grub(node.kernel)
    node.command(
        "ldcache",
        ["ldconfig", "-p"],
        "1 libs found in cache `/etc/ld.so.cache'\n"
        "\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6\n",
    )
    return node


GRES_CONF = """# one file for the whole cluster
NodeName=gpu[01-16] Name=gpu Type=h100 File=/dev/nvidia[0-7]
NodeName=viz[1-2] Name=gpu Type=l40s File=/dev/nvidia[0-1]
"""
SLURM_CONF = """ClusterName=c1
GresTypes=gpu
NodeName=gpu[01-16] CPUs=128 RealMemory=2000000 Gres=gpu:h100:8
NodeName=viz[1-2] CPUs=32 Gres=gpu:l40s:2
NodeName=cpu[001-400] CPUs=128 RealMemory=500000
"""


@case("consistent", why="All eight GPUs that gres.conf names are on PCI.")
def gres_conf_matches() -> Node:
    node = ubuntu2204()
    node.write("/etc/slurm/gres.conf", GRES_CONF)
    node.write("/etc/slurm/slurm.conf", SLURM_CONF)
    return node


@case("consistent", why="A GPU excluded by a module parameter is not a broken one.")
def one_gpu_excluded_by_parameter() -> Node:
    node = ubuntu2404(V580, L40S, 4)
    node.information(None, [3], excluded="Yes")
    node.nvml_fine(V580, listed=3)
    return node


@case("consistent", why="DKMS still lists an older release for an older kernel.")
def dkms_lists_older_releases() -> Node:
    node = ubuntu2404()
    node.command(
        "dkms",
        ["dkms", "status"],
        (
            "mlnx-ofed-kernel/24.10, 6.8.0-64-generic, x86_64: installed\n"
            f"nvidia/{V570}, 6.8.0-55-generic, x86_64: installed\n"
            f"nvidia/{V580}, 6.8.0-64-generic, x86_64: installed (WARNING! Diff between built and installed module!)\n"
            f"nvidia/{V580_OLD}: added\n"
        ),
    )
    return node


@case("consistent", why="sysfs as it is: /sys/bus/pci/devices holds links into /sys/devices.")
def pci_devices_are_links() -> Node:
    node = ubuntu2404()
    for number, (bus, _gpu) in enumerate(node.gpus):
        old, new = f"/sys/bus/pci/devices/{bus}", f"/sys/devices/pci0000:{number}0/0000:{number}0:01.0/{bus}"
        for path in [p for p in node.files if p.startswith(old + "/")]:
            node.files[new + path.removeprefix(old)] = node.files.pop(path)
        node.links.pop(f"{old}/driver")
        node.link(f"{new}/driver", "../../../../bus/pci/drivers/nvidia")
        node.link(old, f"../../../devices/pci0000:{number}0/0000:{number}0:01.0/{bus}")
    return node


# mismatch
@case(
    "mismatch",
    "reboot",
    "umd-skew",
    "fw-gone",
    reason="gsp:umd-skew kmd=570.172.08 umd=570.195.03 disk=570.195.03",
    why="unattended-upgrades replaced module, image and libraries on disk; the old module still runs.",
)
def unattended_upgrade_all_on_disk() -> Node:
    return _upgraded(ubuntu2204())


def _upgraded(node: Node, version: str = V570_NEW, old: str = V570) -> Node:
    """Module, image, libraries and packages of another release on disk; the loaded module stays."""
    node.module(version)
    node.remove(f"{node.firmware}/nvidia/{old}")
    node.gsp_images(version)
    node.no_libraries(old)
    node.libraries(version)
    for name in [n for n in node.packages if node.packages[n].count(old)]:
        node.packages[name] = node.packages[name].replace(old, version)
    for name in [n for n in node.packages if old in n]:
        node.packages[name.replace(old, version)] = node.packages.pop(name)
    node.rpms = [line.replace(old, version) for line in node.rpms]
    if "dkms" in node.commands:
        node.commands["dkms"]["stdout"] = str(node.commands["dkms"]["stdout"]).replace(old, version)
    node.nvml(init=18)
    node.kmsg(
        f"[86401.768273] NVRM: API mismatch: the client 'nvidia-smi' (pid 99510)\n"
        f"               NVRM: has the version {version}, but this kernel module has\n"
        f"               NVRM: the version {old}.  Please make sure that this\n"
        "               NVRM: kernel module and all NVIDIA driver components\n"
        "               NVRM: have the same version."
    )
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    "fw-gone",
    "next-kernel",
    reason="gsp:umd-skew kmd=570.172.08 umd=570.195.03 disk=570.195.03",
    why="The same, but the kernel that boots next has no nvidia module: a reboot alone would break it.",
)
def unattended_upgrade_next_kernel_bare() -> Node:
    node = _upgraded(ubuntu2204())
    node.no_module("5.15.0-153-generic")
    node.grub("5.15.0-153-generic", node.kernel, "5.15.0-143-generic")
    return node


@case(
    "mismatch",
    "reboot",
    "umd-skew",
    "fw-gone",
    reason="gsp:umd-skew kmd=580.65.06 umd=580.95.05 disk=580.95.05",
    why="dnf upgraded everything and DKMS rebuilt; the old module still runs.",
)
def rocky9_dnf_upgraded() -> Node:
    node = rocky9(V580_OLD)
    _upgraded(node, V580, V580_OLD)
    node.remove(f"{node.firmware}/nvidia/{V580}")
    node.gsp_images(V580, ".xz")
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    "fw-gone",
    "pkg-split",
    reason="gsp:umd-skew kmd=580.65.06 umd=580.95.05 disk=580.65.06",
    why="An upgrade was interrupted: libraries and images are new, the module was never rebuilt.",
)
def interrupted_upgrade() -> Node:
    node = ubuntu2404(V580_OLD)
    node.remove(f"{node.firmware}/nvidia/{V580_OLD}")
    node.gsp_images(V580)
    node.no_libraries(V580_OLD)
    node.libraries(V580)
    node.dpkg(
        f"{V580}-0ubuntu1",
        "libnvidia-compute-580",
        "nvidia-firmware-580",
        "nvidia-kernel-source-580-open",
        "nvidia-kernel-common-580",
    )
    node.dpkg(f"{V580}-0ubuntu1", "nvidia-dkms-580-open", status="install ok half-configured")
    node.dpkg(f"{V580}-0ubuntu1", "nvidia-utils-580", status="install ok unpacked")
    node.nvml(init=18)
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=580.95.05 umd=570.172.08 disk=580.95.05",
    why="A runfile's module over packaged libraries, which apt put back since.",
)
def runfile_over_packages() -> Node:
    node = ubuntu2204(V570)
    node.remove(f"/usr/lib/modules/{node.kernel}/kernel/nvidia-570srv-open")
    node.module(V580, path="kernel/drivers/video|.ko")
    node.loaded(V580, "open")
    node.information(V580)
    node.gsp_images(V580)
    node.write("/usr/bin/nvidia-uninstall", "")
    node.write("/var/log/nvidia-installer.log", f"nvidia-installer log file\nDriver version: {V580}\n")
    node.nvml(init=18)
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=580.95.05 umd=570.172.08 disk=580.95.05",
    why="Only libcuda is of another release: nvidia-smi works, every CUDA program fails.",
)
def libcuda_alone_differs() -> Node:
    node = ubuntu2404()
    node.remove(f"{node.libdir}/libcuda.so.{V580}")
    node.libraries(V570, ["libcuda"])
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=580.95.05 nvml=18",
    why="The library cannot be resolved, but NVML itself says 18.",
)
def nvml_18_without_loader_cache() -> Node:
    node = minimal()
    node.absent.add("ldcache")
    node.remove("/usr/local/nvidia/lib64")
    node.nvml(init=18)
    return node


@case(
    "mismatch",
    "realign",
    "kmd-split",
    reason="gsp:kmd-split kmd=580.95.05 uvm=580.65.06 modeset=580.95.05 drm=580.95.05",
    why="nvidia was reloaded after an upgrade, nvidia-uvm came from the initramfs.",
)
def uvm_of_another_release() -> Node:
    node = ubuntu2204(V580)
    node.write("/sys/module/nvidia_uvm/version", f"{V580_OLD}\n")
    node.kmsg(
        f"[   12.1] NVRM: API mismatch: the client has the version {V580_OLD}, but\n"
        f"               NVRM: this kernel module has the version {V580}.  Please"
    )
    node.module(V580_OLD, names=["nvidia-uvm"])
    node.modinfo(f"/lib/modules/{node.kernel}/kernel/nvidia-580srv-open/nvidia.ko", V580, "open", node.kernel)
    return node


def _no_gpu_initialised(node: Node, version: str, error: int = -2, image_name: str = "gsp_ga10x.bin") -> Node:
    """Every GPU failed to fetch its image and runs none."""
    node.information(None)
    node.nvml(init=0, driver=version, nvml=f"13.{version}", gpus=[])
    for bus, _gpu in node.gpus:
        node.kmsg(_fetch_failed(bus, version, error, 20, image_name))
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    reason="gsp:fw-missing kmd=580.95.05 image=gsp_ga10x.bin",
    why="The loaded module's firmware directory is gone; no GPU could start.",
)
def firmware_directory_missing() -> Node:
    node = _no_gpu_initialised(ubuntu2404(), V580)
    node.remove(f"{node.firmware}/nvidia/{V580}")
    node.gsp_images(V570)
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    reason="gsp:fw-missing kmd=570.172.08 image=gsp_ga10x.bin",
    why="The directory is incomplete: gsp_tu10x.bin is there, Hopper needs gsp_ga10x.bin.",
)
def firmware_directory_partial() -> Node:
    node = _no_gpu_initialised(rocky9(), V570)
    node.remove(node.image_path(V570) + ".xz")
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    reason="gsp:fw-missing kmd=570.172.08 image=gsp_tu10x.bin",
    why="A100 without gsp_tu10x.bin: gsp_ga10x.bin does not serve it.",
)
def a100_without_tu10x() -> Node:
    node = _no_gpu_initialised(ubuntu2204(V570, A100), V570, image_name="gsp_tu10x.bin")
    node.remove(node.image_path(V570, "gsp_tu10x.bin"))
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    reason="gsp:fw-missing kmd=580.95.05 image=gsp_ga10x.bin",
    why="The custom firmware path points at nothing; /lib/firmware has none either.",
)
def custom_path_points_nowhere() -> Node:
    node = _no_gpu_initialised(minimal(), V580)
    node.remove("/usr/local/nvidia/firmware")
    return node


@case(
    "mismatch",
    "realign",
    "fw-skew",
    reason="gsp:fw-skew kmd=570.172.08 image=570.195.03",
    why="Somebody copied another release's image into the loaded module's directory.",
)
def image_of_another_version() -> Node:
    node = ubuntu2204()
    node.write(node.image_path(V570), images(V570_NEW)["gsp_ga10x.bin"])
    node.information(None)
    node.nvml(init=0, driver=V570, nvml=f"12.{V570}", gpus=[])
    for bus, _gpu in node.gpus:
        node.kmsg(
            f"[   20.201521] NVRM: _kgspFwContainerVerifyVersion: GSP firmware image version mismatch:"
            f" got version {V570_NEW}, expected version {V570}\n"
            f"[   20.201530] NVRM: GPU {bus}: RmInitAdapter failed! (0x62:0x25:1860)\n"
            f"[   20.201560] NVRM: GPU {bus}: rm_init_adapter failed, device minor number 0"
        )
    return node


def _damaged(content: bytes, suffix: str = "") -> Node:
    node = _no_gpu_initialised(ubuntu2404(), V580)
    node.remove(node.image_path(V580))
    node.write(node.image_path(V580) + suffix, content)
    return node


@case(
    "mismatch",
    "realign",
    "fw-damaged",
    reason="gsp:fw-damaged kmd=580.95.05 why=truncated",
    why="A full disk cut the image short.",
)
def image_truncated() -> Node:
    whole = images(V580)["gsp_ga10x.bin"]
    return _damaged(whole[: len(whole) // 2])


@case(
    "mismatch",
    "realign",
    "fw-damaged",
    reason="gsp:fw-damaged kmd=580.95.05 why=empty",
    why="The image has no content.",
)
def image_of_zero_length() -> Node:
    return _damaged(b"")


@case(
    "mismatch",
    "realign",
    "fw-damaged",
    reason="gsp:fw-damaged kmd=580.95.05 why=not-an-ELF-file",
    why="A Git LFS pointer where the image should be.",
)
def image_is_no_elf() -> Node:
    return _damaged(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 75000000\n")


@case(
    "mismatch",
    "realign",
    "fw-damaged",
    reason="gsp:fw-damaged kmd=580.95.05 why=no-signature-for-gh100",
    why="The image is signed for other chips only: gsp_tu10x.bin under gsp_ga10x.bin's name.",
)
def image_for_another_chip() -> Node:
    return _damaged(images(V580)["gsp_tu10x.bin"])


@case(
    "mismatch",
    "realign",
    "fw-damaged",
    reason="gsp:fw-damaged kmd=580.95.05 why=truncated",
    why="The compressed image ends early.",
)
def image_xz_truncated() -> Node:
    whole = xz(images(V580)["gsp_ga10x.bin"])
    return _damaged(whole[: len(whole) - 40], ".xz")


@case(
    "mismatch",
    "realign",
    "gsp-skew",
    "reboot-pending",
    reason="gsp:gsp-skew kmd=580.95.05 gsp=580.65.06",
    why="A GPU still runs the GSP firmware of the release before.",
)
def one_gpu_runs_old_gsp() -> Node:
    node = ubuntu2404()
    node.information(V580_OLD, [2])
    node.remove(f"/usr/lib/modules/{node.kernel}/updates")
    node.module(V580_OLD)
    node.command("dkms", ["dkms", "status"], f"nvidia/{V580_OLD}, {node.kernel}, x86_64: installed\n")
    return node


@case(
    "mismatch",
    "reboot",
    "gsp-skew",
    reason="gsp:gsp-skew kmd=580.95.05 gsp=580.65.06",
    why="Everything on disk is the loaded release; only what runs on one GPU is older.",
)
def one_gpu_runs_old_gsp_disk_agrees() -> Node:
    node = ubuntu2404()
    node.information(V580_OLD, [2])
    return node


@case(
    "mismatch",
    "realign",
    "kmd-unbuilt",
    reason="gsp:kmd-unbuilt kernel=6.8.0-64-generic",
    why="A kernel bump without headers: DKMS built nothing for the running kernel.",
)
def kernel_bump_without_headers() -> Node:
    node = ubuntu2404()
    node.unloaded()
    for path in [p for p in node.files if "updates/dkms" in p]:
        node.files[path.replace(node.kernel, "6.8.0-60-generic")] = node.files.pop(path)
    node.modules_dep("6.8.0-60-generic")
    node.no_module()
    node.command("dkms", ["dkms", "status"], f"nvidia/{V580}, 6.8.0-60-generic, x86_64: installed\n")
    node.grub(node.kernel, "6.8.0-60-generic")
    return node


@case(
    "mismatch",
    "reload",
    "kmd-unloaded",
    reason="gsp:kmd-unloaded disk=580.95.05 loaded=none",
    why="The module is on disk for the running kernel and nobody loaded it.",
)
def module_not_loaded() -> Node:
    node = ubuntu2404()
    node.unloaded()
    return node


@case(
    "mismatch",
    "realign",
    "fabric-skew",
    reason="gsp:fabric-skew kmd=570.172.08 fm=570.195.03",
    why="The fabric manager was upgraded alone; it says so and the package database too.",
)
def fabric_manager_newer() -> Node:
    node = _with_fabric_manager(ubuntu2204(V570, H200), V570_NEW, "failed")
    node.kmsg(
        f"[   31.101210] nv-fabricmanager[2011]: fabric manager NVIDIA GPU driver interface version {V570_NEW}"
        f" don't match with driver version {V570}. Please update with matching NVIDIA driver package."
    )
    return node


@case(
    "mismatch",
    "realign",
    "fabric-skew",
    reason="gsp:fabric-skew kmd=570.172.08 fm=570.133.20",
    why="An NVSwitch system whose fabric manager package stayed behind.",
)
def rocky9_fabric_manager_older() -> Node:
    node = rocky9(V570, H200)
    node.nvswitches()
    node.rpm("570.133.20-1", "nvidia-fabricmanager", epoch=0)
    return node


# elsewhere, looking like a mismatch
def _refused(message: str) -> Node:
    node = ubuntu2404()
    node.unloaded()
    node.write("/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c", b"\6\0\0\0\1")
    node.kmsg(message)
    return node


@case(
    "elsewhere",
    "route:secure-boot",
    "sb-refused",
    reason="gsp:sb-refused loaded=none",
    why="The kernel rejects the unsigned module.",
)
def secure_boot_unsigned() -> Node:
    return _refused("[   10.054321] Loading of unsigned module is rejected")


@case(
    "elsewhere",
    "route:secure-boot",
    "sb-refused",
    reason="gsp:sb-refused loaded=none",
    why="The DKMS key is not enrolled.",
)
def secure_boot_key_not_enrolled() -> Node:
    return _refused(
        "[   10.054320] nvidia: loading out-of-tree module taints kernel.\n"
        "[   10.054321] Loading of module with unavailable key is rejected\n"
        "[   10.154321] systemd-modules-load[611]: Failed to insert module 'nvidia': Key was rejected by service"
    )


@case(
    "elsewhere",
    "route:secure-boot",
    "sb-refused",
    reason="gsp:sb-refused loaded=none",
    why="Kernel lockdown refuses the unsigned module.",
)
def lockdown_refuses_module() -> Node:
    return _refused(
        "[    0.000000] Kernel is locked down from EFI Secure Boot mode; see man kernel_lockdown.7\n"
        "[   10.054321] Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7"
    )


@case(
    "elsewhere",
    "route:secure-boot",
    "sb-refused",
    reason="gsp:sb-refused loaded=none",
    why="modprobe was told that the key was rejected.",
)
def secure_boot_key_rejected() -> Node:
    return _refused("[   10.0] modprobe: ERROR: could not insert 'nvidia': Key was rejected by service")


@case(
    "elsewhere",
    "escalate",
    "vbios",
    reason="gsp:vbios gpu=0000:52:00.0",
    why="FWSEC fails on one board: its firmware, not the driver's.",
)
def fwsec_fails() -> Node:
    node = ubuntu2404()
    node.information(None, [2])
    node.nvml_fine(V580, listed=None)
    _nvml_without(node, [2])
    node.kmsg(
        "[   20.201521] NVRM: GPU 0000:52:00.0: kgspExecuteFwsecFrts_TU102: failed to execute FWSEC cmd 0x15:"
        " status 0x65\n"
        "[   20.201522] NVRM: kgspPrepareForFwsecFrts: failed VBIOS image preparation\n"
        "[   20.201530] NVRM: GPU 0000:52:00.0: RmInitAdapter failed! (0x62:0x25:1860)\n"
        "[   20.201560] NVRM: GPU 0000:52:00.0: rm_init_adapter failed, device minor number 2"
    )
    return node


def _nvml_without(node: Node, missing: Iterable[int]) -> None:
    """NVML lists all GPUs but these."""
    node.nvml_fine(node.files["/sys/module/nvidia/version"].decode().strip())
    answer = json.loads(str(node.commands["nvml"]["stdout"]))
    answer["gpus"] = [gpu for number, gpu in enumerate(answer["gpus"]) if number not in set(missing)]
    node.nvml(**answer)


@case(
    "elsewhere",
    "route:kernel-modules",
    "nouveau",
    "kmd-unbuilt",
    reason="gsp:nouveau gpus=4",
    why="A kernel bump left no nvidia module, and nouveau took the GPUs.",
)
def nouveau_after_kernel_bump() -> Node:
    node = ubuntu2404(V580, A100)
    node.unloaded()
    node.no_module()
    node.drive("nouveau")
    node.write("/proc/modules", "nouveau 3096576 8 - Live 0x0000000000000000\n")
    node.write("/sys/module/nouveau/initstate", "live\n")
    node.command("dkms", ["dkms", "status"], f"nvidia/{V580}: added\n")
    return node


@case(
    "elsewhere",
    "route:kernel-modules",
    "nouveau",
    reason="gsp:nouveau gpus=4",
    why="The blacklist was lost: nouveau loaded first, nvidia is on disk.",
)
def nouveau_before_nvidia() -> Node:
    node = ubuntu2404(V580, A100)
    node.unloaded()
    node.drive("nouveau")
    node.write("/proc/modules", "nouveau 3096576 8 - Live 0x0000000000000000\n")
    node.kmsg(
        "[   10.1] NVRM: GPU 0000:1b:00.0 is already bound to nouveau.\n"
        "[   10.2] NVRM: The NVIDIA probe routine was not called for 4 device(s)."
    )
    return node


@case(
    "elsewhere",
    "route:module-flavour",
    "wrong-flavour",
    reason="gsp:wrong-flavour have=proprietary need=open",
    why="Blackwell under the proprietary module, which says that it needs the open one.",
)
def b200_proprietary() -> Node:
    node = ubuntu2404(V580, B200, 4, "proprietary")
    node.information(None)
    node.nvml(init=0, driver=V580, nvml=f"13.{V580}", gpus=[])
    for bus, _gpu in node.gpus:
        node.kmsg(
            f"[   20.1] NVRM: The NVIDIA GPU {bus} (PCI ID: 10de:2901)\n"
            "[   20.1] NVRM: installed in this system requires use of the NVIDIA open kernel modules.\n"
            f"[   20.1] NVRM: GPU {bus}: RmInitAdapter failed! (0x22:0x56:884)\n"
            f"[   20.1] NVRM: GPU {bus}: rm_init_adapter failed, device minor number 0"
        )
    return node


@case(
    "elsewhere",
    "route:module-flavour",
    "wrong-flavour",
    reason="gsp:wrong-flavour have=unknown need=proprietary",
    why="Volta under the open module: the probe fails and the module unloads itself.",
)
def v100_open() -> Node:
    node = ubuntu2404(V570, V100, 4)
    node.unloaded()
    node.kmsg(
        "[   10.3] NVRM: The NVIDIA GPU 0000:1b:00.0 (PCI ID: 10de:1db5)\n"
        "[   10.3] NVRM: installed in this system is not supported by open\n"
        "[   10.3] NVRM: nvidia.ko because it does not include the required GPU\n"
        "[   10.3] NVRM: System Processor (GSP).\n"
        "[   10.3] NVRM: Please see the 'Open Linux Kernel Modules' and 'GSP\n"
        "[   10.3] NVRM: Firmware' sections in the driver README, available on\n"
        "[   10.3] nvidia: probe of 0000:1b:00.0 failed with error -1\n"
        "[   10.4] NVRM: The NVIDIA probe routine failed for 4 device(s).\n"
        "[   10.4] NVRM: None of the NVIDIA devices were initialized.\n"
        "[   10.5] nvidia-nvlink: Unregistered Nvlink Core, major device number 235"
    )
    return node


@case(
    "elsewhere",
    "route:gpu-missing",
    "gpu-missing",
    reason="gsp:gpu-missing pci=7 expected=8",
    why="gres.conf names eight GPUs, seven are on PCI.",
)
def seven_gpus_of_eight() -> Node:
    node = ubuntu2204(count=7)
    node.write("/etc/slurm/gres.conf", GRES_CONF)
    node.write("/etc/slurm/slurm.conf", SLURM_CONF)
    return node


@case(
    "elsewhere",
    "route:gpu-missing",
    "gpu-missing",
    reason="gsp:gpu-missing pci=0 expected=8",
    why="A riser died: none of the eight GPUs is on PCI.",
)
def no_gpu_of_eight() -> Node:
    node = ubuntu2204(count=0)
    node.unloaded()
    node.write("/etc/slurm/gres.conf", GRES_CONF)
    node.write("/etc/slurm/slurm.conf", SLURM_CONF)
    return node


@case(
    "elsewhere",
    "route:gpu-missing",
    "gpu-missing",
    "umd-skew",
    "fw-gone",
    reason="gsp:gpu-missing pci=7 expected=8",
    why="A GPU is missing and the libraries differ: hardware first.",
)
def missing_gpu_and_upgrade() -> Node:
    node = _upgraded(ubuntu2204(count=7))
    node.write("/etc/slurm/gres.conf", GRES_CONF)
    return node


# elsewhere
@case(
    "elsewhere",
    "reload",
    "fw-interrupted",
    reason="gsp:fw-interrupted error=-4 gpu=0000:c3:00.0",
    why="error -4 is an interrupted load: three GPUs of eight missed it, the image is intact.",
)
def error_minus_4_image_intact() -> Node:
    node = ubuntu2204(V570, H200)
    node.information(None, [5, 6, 7])
    _nvml_without(node, [5, 6, 7])
    for number in (5, 6, 7):
        bus = node.bus(number)
        node.kmsg(
            f"[   20.1] nvidia {bus}: loading /lib/firmware/nvidia/{V570}/gsp_ga10x.bin failed with error -4\n"
            + _fetch_failed(bus, V570, -4, 20)
        )
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    reason="gsp:fw-missing kmd=570.172.08 image=gsp_ga10x.bin",
    why="error -4, but the image is not there: a mismatch all the same.",
)
def error_minus_4_image_missing() -> Node:
    node = _no_gpu_initialised(ubuntu2204(V570, H200), V570, -4)
    node.remove(f"{node.firmware}/nvidia/{V570}")
    return node


@case(
    "elsewhere",
    "reload",
    "gsp-timeout",
    reason="gsp:gsp-timeout xid=119 gpu=0000:43:00.0",
    why="Xid 119 as drivers before 550 word it.",
)
def xid_119_wording_of_535() -> Node:
    node = debian12()
    node.kmsg(
        "[98541.123456] NVRM: Xid (PCI:0000:43:00): 119, pid=1234, name=python3, Timeout waiting for RPC from GSP!"
        " Expected function 76 (GSP_RM_CONTROL) (0x2080a0a6 0x4)."
    )
    return node


@case(
    "elsewhere",
    "reload",
    "gsp-timeout",
    reason="gsp:gsp-timeout xid=119 gpu=0000:43:00.0",
    why="Xid 119 as later drivers word it.",
)
def xid_119_wording_of_570() -> Node:
    node = ubuntu2404()
    node.kmsg(
        "[98541.123456] NVRM: Xid (PCI:0000:43:00): 119, pid=1234, name=python3, Timeout after 6s of waiting for"
        " RPC response from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) sequence 100 (0x20802002 0x4)."
    )
    return node


@case(
    "elsewhere",
    "reload",
    "gsp-timeout",
    reason="gsp:gsp-timeout xid=120 gpu=0000:43:00.0",
    why="Xid 120: the GSP itself faulted.",
)
def xid_120() -> Node:
    node = rocky9()
    node.kmsg(
        "[98541.123456] NVRM: Xid (PCI:0000:43:00): 120, pid='<unknown>', name=<unknown>, GSP task exception:"
        " instruction access page fault (cause:0x8) @ pc:0x0"
    )
    return node


@case("consistent", why="Xid 119, and the driver was reloaded since: all GPUs run.")
def xid_119_then_reload() -> Node:
    node = ubuntu2404()
    loading = node.log.pop()
    node.kmsg(loading)
    node.kmsg(
        "[ 8541.123456] NVRM: Xid (PCI:0000:43:00): 119, pid=1234, name=python3, Timeout after 6s of waiting for"
        " RPC response from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) sequence 100 (0x20802002 0x4).\n"
        "[ 9600.101210] nvidia-nvlink: Unregistered Nvlink Core, major device number 235\n"
        "[ 9605.101210] nvidia-nvlink: Nvlink Core is being initialized, major device number 235\n"
        + loading.replace("   10.3", " 9605.3")
    )
    return node


@case(
    "elsewhere",
    "reload",
    "driver-hung",
    reason="gsp:driver-hung nvml=timeout",
    why="The NVML probe did not come back in time.",
)
def nvml_timeout() -> Node:
    node = ubuntu2404()
    node.nvml(init="timeout")
    return node


@case("elsewhere", "reload", "gpu-lost", reason="gsp:gpu-lost nvml=15", why="NVML 15: a GPU is lost.")
def nvml_15() -> Node:
    node = ubuntu2404()
    node.nvml(init=15)
    return node


@case(
    "elsewhere",
    "reload",
    "gpu-lost",
    reason="gsp:gpu-lost gpu=0000:61:00.0",
    why="WPR2 is already up: the GPU needs a reset, not a reinstallation.",
)
def wpr2_already_up() -> Node:
    node = ubuntu2404()
    node.information(None, [3])
    _nvml_without(node, [3])
    node.kmsg(
        "[   20.1] NVRM: kgspBootstrap_GH100: unexpected WPR2 already up, cannot proceed with booting GSP\n"
        "[   20.1] NVRM: kgspBootstrap_GH100: (the GPU is likely in a bad state and may need to be reset)\n"
        "[   20.1] NVRM: GPU 0000:61:00.0: RmInitAdapter failed! (0x62:0x40:1860)\n"
        "[   20.1] NVRM: GPU 0000:61:00.0: rm_init_adapter failed, device minor number 3"
    )
    return node


@case(
    "elsewhere",
    "reload",
    "gpu-lost",
    reason="gsp:gpu-lost gpu=0000:61:00.0",
    why="Xid 79: the GPU has fallen off the bus.",
)
def xid_79() -> Node:
    node = ubuntu2404()
    _nvml_without(node, [3])
    node.kmsg(
        "[ 8541.1] NVRM: Xid (PCI:0000:61:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.\n"
        "[ 8541.1] NVRM: GPU 0000:61:00.0: GPU has fallen off the bus.\n"
        "[ 8541.1] NVRM: GPU 0000:61:00.0: GPU serial number is 1650523000000."
    )
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    "gsp-timeout",
    reason="gsp:umd-skew kmd=580.95.05 umd=570.172.08 disk=580.95.05",
    why="A mismatch comes before faults of the hardware.",
)
def skew_and_gsp_timeout() -> Node:
    node = ubuntu2404()
    node.no_libraries(V580)
    node.libraries(V570)
    node.nvml(init=18)
    node.kmsg(
        "[98541.1] NVRM: Xid (PCI:0000:43:00): 119, pid=1, name=x, Timeout after 6s of waiting for RPC response"
        " from GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) sequence 100 (0x20802002 0x4)."
    )
    return node


@case(
    "elsewhere",
    "reload",
    "gsp-timeout",
    "next-kernel",
    reason="gsp:gsp-timeout xid=119 gpu=0000:43:00.0",
    why="What is broken now comes before what the next boot breaks.",
)
def gsp_timeout_and_next_kernel() -> Node:
    node = xid_119_wording_of_570()
    node.no_module("6.8.0-71-generic")
    node.grub("6.8.0-71-generic", node.kernel)
    return node


# latent
@case(
    "latent",
    "realign",
    "fw-gone",
    reason="gsp:fw-gone kmd=580.95.05 image=missing",
    why="The loaded release's image was removed; the GPUs run theirs and persistence holds them.",
)
def image_gone_persistence_on() -> Node:
    node = ubuntu2404()
    node.remove(f"{node.firmware}/nvidia/{V580}")
    return node


@case(
    "latent",
    "realign",
    "fw-gone",
    reason="gsp:fw-gone kmd=580.95.05 image=missing",
    why="The image is gone and persistence is off: the next open fails.",
)
def image_gone_persistence_off() -> Node:
    node = ubuntu2404()
    node.remove(f"{node.firmware}/nvidia/{V580}")
    node.nvml_fine(V580, persistence=False)
    return node


@case(
    "latent",
    "realign",
    "fw-gone",
    reason="gsp:fw-gone kmd=580.95.05 image=skewed",
    why="The image on disk was overwritten with another release's; the GPUs run theirs.",
)
def image_replaced_while_running() -> Node:
    node = ubuntu2404()
    node.write(node.image_path(V580), images(V570)["gsp_ga10x.bin"])
    return node


@case(
    "latent",
    "realign",
    "reboot-pending",
    reason="gsp:reboot-pending kmd=580.65.06 disk=580.95.05",
    why="DKMS built a newer module; libraries are still the loaded release's.",
)
def module_on_disk_newer() -> Node:
    node = ubuntu2404(V580_OLD)
    node.module(V580)
    node.gsp_images(V580)
    node.command("dkms", ["dkms", "status"], f"nvidia/{V580}, {node.kernel}, x86_64: installed\n")
    return node


@case(
    "latent",
    "realign",
    "next-kernel",
    reason="gsp:next-kernel kernel=5.15.0-153-generic",
    why="grub.cfg boots a newer kernel that has no nvidia module.",
)
def next_kernel_by_grub() -> Node:
    node = ubuntu2204()
    node.no_module("5.15.0-153-generic")
    node.grub("5.15.0-153-generic", node.kernel)
    return node


@case(
    "latent",
    "realign",
    "next-kernel",
    reason="gsp:next-kernel kernel=6.1.0-38-amd64",
    why="Debian's /vmlinuz points at a newer kernel that has no nvidia module.",
)
def next_kernel_by_symlink() -> Node:
    node = debian12()
    node.no_module("6.1.0-38-amd64")
    node.kernels("6.1.0-38-amd64", node.kernel)
    node.link("/vmlinuz", "boot/vmlinuz-6.1.0-38-amd64")
    return node


@case(
    "latent",
    "realign",
    "next-kernel",
    reason="gsp:next-kernel kernel=5.14.0-570.58.1.el9_6.x86_64",
    why="The saved boot entry is a newer kernel without a module.",
)
def next_kernel_by_bls() -> Node:
    node = rocky9()
    new = "5.14.0-570.58.1.el9_6.x86_64"
    node.no_module(new)
    _bls(node, new, node.kernel)
    return node


@case(
    "consistent", why="A newer kernel without a module is installed, but the saved entry is the running one."
)
def newer_kernel_installed_not_booted() -> Node:
    node = rocky9()
    new = "5.14.0-570.58.1.el9_6.x86_64"
    node.no_module(new)
    _bls(node, new, node.kernel, saved=1)
    return node


@case(
    "latent",
    "realign",
    "next-kernel",
    reason="gsp:next-kernel kernel=6.8.0-71-generic",
    why="No boot loader to read: the newest kernel in /lib/modules has no nvidia module.",
)
def next_kernel_by_lib_modules() -> Node:
    node = ubuntu2404()
    node.remove("/boot")
    node.no_module("6.8.0-71-generic")
    return node


@case(
    "latent",
    "realign",
    "pkg-split",
    reason="gsp:pkg-split versions=570.172.08+580.95.05",
    why="Two driver branches are installed side by side; what runs is consistent.",
)
def two_branches_dpkg() -> Node:
    node = ubuntu2404()
    node.dpkg(
        f"{V570}-0ubuntu1", "libnvidia-compute-570", "nvidia-dkms-570-open", "nvidia-kernel-source-570-open"
    )
    return node


@case(
    "latent",
    "realign",
    "pkg-split",
    reason="gsp:pkg-split broken=nvidia-dkms-580-open",
    why="A driver package stayed half-installed, and no transaction runs.",
)
def half_installed_dpkg() -> Node:
    node = ubuntu2404()
    node.dpkg(f"{V580}-0ubuntu1", "nvidia-dkms-580-open", status="install reinstreq half-installed")
    return node


@case(
    "latent",
    "realign",
    "pkg-split",
    reason="gsp:pkg-split versions=580.95.05+570.172.08",
    why="rpm lists driver packages of two branches.",
)
def two_branches_rpm() -> Node:
    node = rocky9(V580)
    node.rpm(f"{V570}-1.el9", "libnvidia-ml", "nvidia-driver-cuda-libs")
    return node


@case(
    "latent",
    "realign",
    "pkg-split",
    reason="gsp:pkg-split versions=580.95.05+580.65.06",
    why="An interrupted dnf left two versions of one package.",
)
def duplicated_rpm() -> Node:
    node = rocky9(V580)
    node.rpm(f"{V580_OLD}-1.el9", "nvidia-kmod-common", "libnvidia-ml")
    return node


@case(
    "latent",
    "route:gsp-parameter",
    "gsp-off",
    reason="gsp:gsp-off EnableGpuFirmware=0",
    why="NVreg_EnableGpuFirmware=0 on Hopper, which runs GSP by default.",
)
def gsp_switched_off() -> Node:
    node = ubuntu2404(V570, A100, 4, "proprietary")
    node.params(firmware=0)
    _without_gsp(node)
    node.write("/etc/modprobe.d/nvidia.conf", "options nvidia NVreg_EnableGpuFirmware=0\n")
    return node


# unknown
@case("unknown", why="Nothing under root/ could be read.")
def nothing_readable() -> Node:
    node = Node("gpu99", "6.8.0-64-generic")
    node.absent |= {"kmsg"}
    node.keep("")
    return node


@case("unknown", why="A loaded module, and no way to tell which library programs get.")
def library_unresolved_no_nvml() -> Node:
    node = minimal()
    node.absent |= {"nvml", "ldcache"}
    node.remove("/usr/local/nvidia/lib64")
    return node


# more that deceive
@case("unknown", why="Idle GPUs without persistence that a cgroup hides look as broken ones do.")
def cgroup_hides_idle_gpus() -> Node:
    node = ubuntu2404()
    node.information(None, [1, 2, 3])
    node.nvml_fine(V580, listed=1, persistence=False)
    return node


@case(
    "elsewhere",
    "reload",
    "gpu-lost",
    reason="gsp:gpu-lost gpu=0000:52:00.0",
    why="Persistence keeps the others up; this one neither runs nor is listed.",
)
def one_gpu_down_without_a_word() -> Node:
    node = ubuntu2404()
    node.information(None, [2])
    _nvml_without(node, [2])
    return node


@case(
    "latent",
    "route:gsp-parameter",
    "gsp-off",
    reason="gsp:gsp-off EnableGpuFirmware=0",
    why="The parameter stands in the open module's way too.",
)
def gsp_switched_off_open_module() -> Node:
    node = minimal()
    node.params(firmware=0)
    _without_gsp(node)
    return node


@case("no-gpu", why="A CPU node of the GPU nodes' image, with a messy package database: not our business.")
def cpu_node_with_driver_packages() -> Node:
    node = cpu_node_shared_gres_conf()
    node.dpkg(f"{V570}-0ubuntu1", "libnvidia-compute-570")
    node.dpkg(f"{V580}-0ubuntu1", "libnvidia-compute-580", status="install ok half-configured")
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=580.95.05 umd=550.163.01",
    why="The recording lacks PCI: the driver is loaded all the same, and its library differs.",
)
def skew_without_pci_listing() -> Node:
    node = minimal()
    node.remove("/sys/bus")
    node.no_libraries(V580)
    node.libraries(V550)
    node.nvml(init=18)
    return node


@case(
    "mismatch",
    "realign",
    "kmd-unbuilt",
    reason="gsp:kmd-unbuilt kernel=6.8.0-64-generic",
    why="The kernel refused some other unsigned module: there is no nvidia.ko that it could refuse.",
)
def another_module_refused() -> Node:
    node = kernel_bump_without_headers()
    node.kmsg(
        "[    8.054321] Loading of unsigned module is rejected\n"
        "[    8.154321] systemd-modules-load[611]: Failed to insert module 'zfs': Key was rejected by service"
    )
    return node


@case("consistent", why="apt runs: what is half-installed now will be installed in a minute.")
def apt_transaction_running() -> Node:
    node = half_installed_dpkg()
    node.command("transaction", ["transaction"], "/var/lib/dpkg/lock-frontend")
    return node


@case(
    "elsewhere",
    "reload",
    "fw-interrupted",
    reason="gsp:fw-interrupted gpu=0000:43:00.0",
    why="The fetch failed at boot; the image was put back since and nobody reloaded the driver.",
)
def image_put_back_not_reloaded() -> Node:
    node = ubuntu2404()
    node.information(None, [1])
    _nvml_without(node, [1])
    node.kmsg(
        "[   20.201521] NVRM: RmFetchGspRmImages: No firmware image found\n"
        "[   20.201530] NVRM: GPU 0000:43:00.0: RmInitAdapter failed! (0x61:0x56:1770)\n"
        "[   20.201560] NVRM: GPU 0000:43:00.0: rm_init_adapter failed, device minor number 1"
    )
    return node


@case("consistent", why="Grace Hopper's own variant of vfio-pci holds the GPU for a virtual machine.")
def gh200_passed_through() -> Node:
    node = gh200_aarch64()
    node.unloaded()
    node.drive("nvgrace-gpu-vfio-pci")
    return node


@case(
    "latent",
    "realign",
    "umd-missing",
    reason="gsp:umd-missing kmd=580.95.05 umd=none",
    why="Compute libraries were removed: the module runs, and nothing can use it.",
)
def libraries_removed() -> Node:
    node = ubuntu2404()
    node.no_libraries(V580)
    for name in ("libnvidia-ml", "libcuda"):
        node.remove(f"{node.libdir}/{name}.so.1")
        node.remove(f"{node.libdir}/{name}.so")
    node.command(
        "ldcache",
        ["ldconfig", "-p"],
        "1 libs found in cache `/etc/ld.so.cache'\n"
        "\tlibc.so.6 (libc6,x86-64) => /lib/x86_64-linux-gnu/libc.so.6\n",
    )
    node.nvml(init=12)
    return node


@case("unknown", why="NVML 999 says nothing that anybody could act on.")
def nvml_999() -> Node:
    node = ubuntu2404()
    node.nvml(init=999)
    return node


@case(
    "mismatch",
    "reboot",
    "umd-skew",
    "fw-gone",
    reason="gsp:umd-skew kmd=580.65.06 umd=580.95.05 disk=580.95.05",
    why="DKMS alone tells the version on disk: the module is zstd-compressed and there is no modinfo.",
)
def upgraded_dkms_tells_version() -> Node:
    node = _upgraded(ubuntu2404(V580_OLD), V580, V580_OLD)
    node.absent.add("modinfo")
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=535.261.03 umd=535.247.01 disk=535.261.03",
    why="The older wording of the API mismatch; the libraries were rolled back, the module was not.",
)
def api_mismatch_wording_of_535() -> Node:
    node = debian12()
    older = "535.247.01"
    for name in ("libnvidia-ml", "libcuda"):
        node.remove(f"/usr/lib/x86_64-linux-gnu/nvidia/current/{name}.so.{V535}")
        node.write(f"/usr/lib/x86_64-linux-gnu/nvidia/current/{name}.so.{older}", "")
        node.link(f"/usr/lib/x86_64-linux-gnu/nvidia/current/{name}.so.1", f"{name}.so.{older}")
    node.nvml(init=18)
    node.kmsg(
        f"[86401.768273] NVRM: API mismatch: the client has the version {older}, but\n"
        f"[86401.768273] NVRM: this kernel module has the version {V535}.  Please\n"
        "[86401.768273] NVRM: make sure that this kernel module and all NVIDIA driver\n"
        "[86401.768273] NVRM: components have the same version."
    )
    return node


@case("consistent", why="Branch 525 has its own image for Ada.")
def l40s_525_layout() -> Node:
    version = "525.147.05"
    node = ubuntu2404(version, L40S, 2)
    node.remove(f"{node.firmware}/nvidia/{version}")
    node.write(node.image_path(version, "gsp_ad10x.bin"), image(version, ["ad10x"]))
    node.write(node.image_path(version, "gsp_tu10x.bin"), image(version, [*TU10X, "ga10x"]))
    return node


@case("consistent", why="From 590 on NVIDIA's package names carry no branch; settings stay older.")
def ubuntu2404_595_without_branch_names() -> Node:
    version = "595.45.04"
    node = ubuntu2404(version)
    node.packages.clear()
    node.dpkg(
        f"{version}-1ubuntu1",
        "nvidia-dkms-open",
        "nvidia-kernel-source-open",
        "nvidia-firmware",
        "libnvidia-compute",
        "nvidia-open",
        "nvidia-kernel-common",
        "nvidia-driver-open",
    )
    node.dpkg("590.48.01-1ubuntu1", "nvidia-settings", "nvidia-modprobe")
    return node


@case("consistent", why="dmesg -T; the boot before ended in Xid 119, which is over.")
def log_of_two_boots() -> Node:
    node = ubuntu2404()
    banner = node.log[-1].partition("] ")[2]
    node.command(
        "kmsg",
        ["dmesg"],
        "".join(
            line + "\n"
            for line in (
                "[    0.000000] Linux version 6.8.0-60-generic (buildd@lcy02) #1 SMP",
                f"[   10.301517] {banner}",
                "[98541.123456] NVRM: Xid (PCI:0000:43:00): 119, pid=1234, name=python3, Timeout after 6s of waiting for"
                " RPC response from GPU1 GSP! Expected function 76 (GSP_RM_CONTROL) sequence 100 (0x20802002 0x4).",
                "[    0.000000] Linux version 6.8.0-64-generic (buildd@lcy02) #1 SMP",
                f"[   10.301517] {banner}",
            )
        ),
    )
    return node


@case(
    "elsewhere",
    "reload",
    "driver-hung",
    reason="gsp:driver-hung nvml=timeout stuck=1",
    why="A process sleeps for ever inside the driver, and the probe did not come back.",
)
def process_stuck_in_driver() -> Node:
    node = ubuntu2404()
    node.nvml(init="timeout")
    node.write("/proc/4711/stat", "4711 (nvidia-smi) D 1 4711 4711 0 -1 4194560 0 0 0 0\n")
    node.write(
        "/proc/4711/stack",
        "[<0>] os_acquire_rwlock_write+0x35/0x50 [nvidia]\n[<0>] rm_ioctl+0x59/0x80 [nvidia]\n",
    )
    return node


@case(
    "mismatch",
    "realign",
    "kmd-unbuilt",
    reason="gsp:kmd-unbuilt kernel=6.8.0-64-generic",
    why="DKMS says installed, and its modules are gone from the kernel's folder.",
)
def dkms_installed_module_gone() -> Node:
    node = ubuntu2404()
    node.unloaded()
    node.no_module()
    node.command(
        "dkms",
        ["dkms", "status"],
        f"nvidia/{V580}, {node.kernel}, x86_64: installed"
        " (Built modules are missing in the kernel modules folder)\n",
    )
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    "fw-gone",
    reason="gsp:fw-missing kmd=580.95.05 image=gsp_ga10x.bin",
    why="The directory vanished; three GPUs run on, the fourth was reset and found nothing.",
)
def image_missing_for_one_reset_gpu() -> Node:
    node = ubuntu2404()
    node.remove(f"{node.firmware}/nvidia/{V580}")
    node.information(None, [3])
    _nvml_without(node, [3])
    node.kmsg(_fetch_failed(node.bus(3), V580, -2, 90))
    return node


@case(
    "mismatch",
    "realign",
    "fw-missing",
    reason="gsp:fw-missing kmd=580.95.05 image=gsp_ga10x.bin",
    why="A link to an image that is not there: the kernel finds a name and no file.",
)
def image_is_dangling_link() -> Node:
    node = _no_gpu_initialised(ubuntu2404(), V580)
    node.remove(node.image_path(V580))
    node.link(node.image_path(V580), "/opt/nvidia/gsp_ga10x.bin")
    return node


@case(
    "elsewhere",
    "reload",
    "gpu-lost",
    reason="gsp:gpu-lost gpu=0000:61:00.0",
    why="The driver's probe of one GPU failed: no driver holds it, and the others run.",
)
def one_gpu_unclaimed() -> Node:
    node = ubuntu2404()
    node.drive(None, [node.bus(3)])
    node.remove(f"/proc/driver/nvidia/gpus/{node.bus(3)}")
    node.absent.add("nvml")
    node.kmsg(
        "[   10.4] NVRM: This PCI I/O region assigned to your NVIDIA device is invalid:\n"
        "[   10.4] NVRM: BAR0 is 0M @ 0x0 (PCI:0000:61:00.0)\n"
        "[   10.4] nvidia: probe of 0000:61:00.0 failed with error -1"
    )
    return node


@case(
    "elsewhere",
    "route:gpu-missing",
    "gpu-missing",
    reason="gsp:gpu-missing pci=7 expected=8",
    why="The host calls itself by its full name, gres.conf by the short one.",
)
def seven_gpus_full_host_name() -> Node:
    node = seven_gpus_of_eight()
    node.hostname = "gpu01.cluster.example"
    return node


@case(
    "elsewhere",
    "reload",
    "driver-hung",
    reason="gsp:driver-hung nvml=timeout",
    why="The probe was left behind without an answer.",
)
def nvml_probe_without_answer() -> Node:
    node = ubuntu2404()
    node.commands["nvml"] = {"argv": ["nvml"], "rc": None, "stdout": "", "stderr": ""}
    return node


def save_all(directory: Path) -> None:
    """Writes every case below ``directory``; recordings of real nodes there keep what they recorded."""
    for each in CASES:
        each.save(directory)


# --- what other people's nodes taught ----------------------------------------------------------------------
@case("consistent", why="slurm.conf counts MIG instances: 28 of them are not 28 GPUs.")
def mig_instances_in_slurm_conf() -> Node:
    node = ubuntu2404(V580, A100)
    node.write("/etc/slurm/slurm.conf", f"NodeName={node.hostname} Gres=gpu:1g.10gb:28 State=UNKNOWN\n")
    return node


@case("consistent", why="An untyped count in slurm.conf may be of MIG instances: it promises nothing.")
def untyped_gres_in_slurm_conf() -> Node:
    node = ubuntu2404(V580, A100)
    node.write("/etc/slurm/slurm.conf", f"NodeName={node.hostname} Gres=gpu:28\n")
    return node


@case(
    "elsewhere",
    "route:gpu-missing",
    "gpu-missing",
    reason="gsp:gpu-missing pci=3 expected=4",
    why="gres.conf is AutoDetect alone; slurm.conf promises four of this model.",
)
def three_gpus_of_four_by_slurm_conf() -> Node:
    node = ubuntu2404(V580, H100, count=3)
    node.write("/etc/slurm/gres.conf", "AutoDetect=nvml\n")
    node.write("/etc/slurm/slurm.conf", f"NodeName={node.hostname} CPUs=96 Gres=gpu:h100:4(S:0-1)\n")
    return node


@case("unknown", why="nvmlInit took the probe down: that confirms nothing.")
def nvml_crashed() -> Node:
    node = ubuntu2404()
    node.command("nvml", ["nvml"], rc=-11)
    return node


@case("consistent", why="An NVML answer that lists no GPUs at all is not a list of none.")
def nvml_without_a_list() -> Node:
    node = ubuntu2404()
    node.nvml(init=0, driver=V580, nvml=f"13.{V580}")
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=580.95.05 umd=535.104.05 disk=580.95.05",
    why="An old compatibility libcuda first in the cache is no forward compatibility: CUDA fails.",
)
def cuda_compat_older() -> Node:
    node = ubuntu2404(V580)
    compat = "/usr/local/cuda-12.2/compat"
    node.write(f"{compat}/libcuda.so.535.104.05", "")
    node.link(f"{compat}/libcuda.so.1", "libcuda.so.535.104.05")
    node.ldcache(f"libcuda.so.1 (libc6,x86-64) => {compat}/libcuda.so.1")
    return node


@case(
    "mismatch",
    "realign",
    "umd-skew",
    reason="gsp:umd-skew kmd=580.95.05 nvml=18 disk=580.95.05",
    why="NVML 18 while every library found fits: what does not fit is not known, a reboot keeps it.",
)
def nvml_18_and_every_library_fits() -> Node:
    node = ubuntu2404()
    node.nvml(init=18)
    return node


@case(
    "elsewhere",
    "route:kernel-modules",
    "nouveau",
    reason="gsp:nouveau gpus=4",
    why="The in-kernel nova driver took the GPUs; PCI calls it NovaCore.",
)
def nova_core_took_the_gpus() -> Node:
    node = ubuntu2404()
    node.unloaded()
    node.drive("NovaCore")
    return node


@case(
    "latent",
    "realign",
    "fw-gone",
    reason="gsp:fw-gone kmd=580.95.05 image=missing",
    why="The firmware directory is a link to itself: the kernel cannot reach it either.",
)
def firmware_directory_loops() -> Node:
    node = ubuntu2404()
    node.remove(f"{node.firmware}/nvidia/{V580}")
    node.link(f"{node.firmware}/nvidia/{V580}", V580)
    return node


@case(
    "latent",
    "realign",
    "next-kernel",
    reason="gsp:next-kernel kernel=6.8.0-71-generic disk=580.105.08",
    why="The next kernel's module is of another version than the libraries: the boot makes a skew.",
)
def next_kernel_with_another_version() -> Node:
    node = ubuntu2404()
    new = "6.8.0-71-generic"
    node.module("580.105.08", kernel=new, path="kernel/nvidia-580|.ko")
    node.kernels(new, node.kernel)
    node.grub(new, node.kernel)
    return node


if __name__ == "__main__":
    save_all(Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES)

"""Read one node into Evidence: a root and a runner in, readings out. Nothing here judges."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import BinaryIO, TypeVar

from slurm_gsp.collect.compressed import CannotDecompress, OutsideWindow, open_elf
from slurm_gsp.collect.root import Root, failed
from slurm_gsp.collect.runner import Output, Runner
from slurm_gsp.core.evidence import (
    NO_MODULE_TREE,
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
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.core.version import (
    find_driver_version,
    kernel_sort_key,
    parse_driver_version,
    version_key,
)
from slurm_gsp.core.view import NEEDED_MODULES
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.boot import grub_default, loader_entry, release_of_image
from slurm_gsp.parse.dkms import DkmsEntry, parse_dkms
from slurm_gsp.parse.elf import GspImage, read_gsp_image, read_modinfo
from slurm_gsp.parse.gres import configured_gpu_count, gpu_count
from slurm_gsp.parse.kmsg import LogEvent, parse_dmesg, read_events
from slurm_gsp.parse.ldcache import loader_paths, parse_ldconfig
from slurm_gsp.parse.modinfo import (
    is_nvidia_module_file,
    parse_gpu_information,
    parse_modinfo,
    parse_modules_dep,
    parse_nvrm_version,
    parse_params,
    parse_proc_modules,
)
from slurm_gsp.parse.packages import (
    Package,
    driver_version_of,
    fabric_manager,
    parse_dpkg_status,
    parse_rpm,
)

NVIDIA = "0x10de"
PCI_DEVICES = "/sys/bus/pci/devices"
PROC = "/proc/driver/nvidia"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
DPKG_STATUS = "/var/lib/dpkg/status"
MIG = f"{PROC}/capabilities"
LADDER = "/var/lib/slurm-gsp/ladder.json"
GRES_FILES = ("/etc/slurm/gres.conf", "/run/slurm/conf/gres.conf", "/etc/slurm-llnl/gres.conf")
INFINIBAND = "/sys/class/infiniband"
FIRMWARE_PATH = "/sys/module/firmware_class/parameters/path"
COMPRESSIONS = ("", ".zst", ".xz")
"""The kernel tries every directory for the plain name first, then for .zst, then for .xz."""

LIBRARY_DIRS = {
    "x86_64": (
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ),
    "aarch64": (
        "/lib/aarch64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ),
}
"""The loader's built-in directories, for a node without a loader cache."""

MODULE_DIRS = (
    "updates/dkms",
    "updates",
    "extra",
    "weak-updates",
    "kernel/drivers/video",
    "kernel/drivers/video/nvidia",
    "kernel/drivers/char/drm",
    "kernel",
    "misc",
)
"""Where packages and the runfile put nvidia.ko; also one level below each, e.g. kernel/nvidia-580."""

_STUCK_MARK = "[nvidia"
_NVML_CODES = 1000


T = TypeVar("T")


class Level(Enum):
    """CHEAP: files, and what hooks read on every run. FULL: also NVML, packages, DKMS, modinfo, processes."""

    CHEAP = "cheap"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the configuration says of this node."""

    hostname: str
    machine: str
    kernel: str | None = None
    boot_id: str | None = None
    expected_gpus: Reading[int] | None = None
    gres_files: tuple[str, ...] = GRES_FILES
    pin: Pin = field(default_factory=Pin)
    information_s: float = 3.0


def collect(root: Root, runner: Runner, expect: Expectation, level: Level = Level.FULL) -> Evidence:
    """Read the node. A layer that cannot be read becomes Unknown; this function raises nothing for it."""
    full = level is Level.FULL
    kernel = _first_line(root, "/proc/sys/kernel/osrelease")
    if not isinstance(kernel, Known) and expect.kernel is not None:
        kernel = Known(expect.kernel, "recording.json")
    loaded, flavour = _loaded(root)
    pci = _pci(root, expect.information_s)
    dkms = _dkms(runner) if full else _skipped("dkms status")
    disk = _disk(root, runner if full else None, kernel, dkms)
    next_kernel = _next_kernel(root) if full else _skipped("boot loader")
    packages = _packages(root, runner) if full else _skipped("package database")
    versions = {version for version in (value_of(loaded), _version(disk)) if version is not None}
    return Evidence(
        hostname=expect.hostname,
        machine=expect.machine,
        kernel=kernel,
        boot_id=_boot_id(root, expect),
        pci=pci,
        loaded=loaded,
        flavour=flavour,
        modules=_modules(root),
        parameters=_parse(root.read(f"{PROC}/params"), parse_params),
        disk=disk,
        next_kernel=next_kernel,
        next_disk=_next_disk(root, kernel, next_kernel, disk, dkms) if full else _skipped("/lib/modules"),
        firmware=tuple(_firmware(root, version, value_of(kernel)) for version in sorted(versions)),
        userspace=_userspace(root, runner, expect.machine, value_of(loaded)),
        nvml=_nvml(runner) if full else _skipped("NVML"),
        packages=packages,
        transaction=_transaction(runner) if full else _skipped("package locks"),
        dkms=dkms,
        log=_log(runner),
        secure_boot=_secure_boot(root),
        fabric_manager=_fabric_manager(packages),
        stuck=_stuck(root) if full else _skipped("/proc"),
        expected_gpus=_expected(root, expect, pci),
        pin=expect.pin,
        nics=read_nics(root) if full else _skipped(INFINIBAND),
        tried=_tried(root),
    )


def normal_bus_id(text: str) -> str:
    """``00000000:06:00.0`` (NVML) and ``0000:06:00.0`` (kernel) are one device."""
    domain, _, rest = text.strip().lower().partition(":")
    return f"{domain.lstrip('0').rjust(4, '0')}:{rest}"


def _skipped(source: str) -> Unknown:
    return Unknown(source, "not read in a cheap look")


def _first_line(root: Root, path: str) -> Reading[str]:
    reading = root.read(path, 1 << 16)
    if isinstance(reading, Known):
        line = reading.value.strip()
        return Known(line, path) if line else Unknown(path, "empty")
    return reading


def _parse(reading: Reading[str], parser: Callable[[str], T]) -> Reading[T]:
    """A parsed file; what the parser refuses is unknown."""
    if not isinstance(reading, Known):
        return reading
    try:
        return Known(parser(reading.value), reading.source)
    except ParseError as error:
        return Unknown(reading.source, str(error))


def _boot_id(root: Root, expect: Expectation) -> Reading[str]:
    if expect.boot_id is not None:
        return Known(expect.boot_id, "recording.json")
    return _first_line(root, "/proc/sys/kernel/random/boot_id")


def loaded_driver(root: Root) -> Reading[str]:
    """The version of the loaded nvidia.ko."""
    return _loaded(root)[0]


def _loaded(root: Root) -> tuple[Reading[str], Reading[str]]:
    """Version and flavour of the loaded nvidia.ko."""
    nvrm = _parse(root.read(f"{PROC}/version"), parse_nvrm_version)
    flavour: Reading[str] = Known(nvrm.value[1], nvrm.source) if isinstance(nvrm, Known) else nvrm
    state = root.read("/sys/module/nvidia/initstate")
    if isinstance(state, Known) and state.value.strip() != "live":
        return Unknown(state.source, f"the module is {state.value.strip()}: loading or unloading"), flavour
    version = _first_line(root, "/sys/module/nvidia/version")
    if isinstance(version, Known):
        parsed = parse_driver_version(version.value)
        if parsed is not None:
            return Known(parsed, version.source), flavour
        return Unknown(version.source, f"not a driver version: {version.value[:40]}"), flavour
    if isinstance(nvrm, Known):
        return Known(nvrm.value[0], nvrm.source), flavour
    if isinstance(root.list("/sys/module/nvidia"), Known):
        return Unknown("/sys/module/nvidia/version", "the module is loaded and shows no version"), flavour
    if isinstance(version, Unknown):
        return version, flavour
    # A recording holds what was read: where /sys is there and nothing of nvidia's in it, none was loaded.
    return (Absent("/sys/module/nvidia") if root.exists("/sys") else Unknown("/sys", "not there")), flavour


def _modules(root: Root) -> Reading[tuple[tuple[str, str | None], ...]]:
    names = _parse(root.read("/proc/modules"), parse_proc_modules)
    listed = set(names.value) if isinstance(names, Known) else set()
    found: list[tuple[str, str | None]] = []
    for name in NEEDED_MODULES:
        version = _first_line(root, f"/sys/module/{name}/version")
        if isinstance(version, Known):
            found.append((name, version.value))
        elif name in listed:
            found.append((name, None))
    if not found and not isinstance(names, Known) and not root.exists("/sys/module"):
        return Unknown("/sys/module", "neither it nor /proc/modules could be read")
    return Known(tuple(found), "/sys/module/*/version")


def _pci(root: Root, deadline_s: float) -> Reading[Pci]:
    devices = root.list(PCI_DEVICES)
    if isinstance(devices, Absent):
        # A machine without a PCI bus has no GPU; a root without /sys, or with a loaded driver, tells nothing.
        if not root.exists("/sys"):
            return Unknown(PCI_DEVICES, "/sys is not there")
        if root.exists("/sys/module/nvidia") or root.exists(PROC):
            return Unknown(PCI_DEVICES, "not there, though the driver is loaded")
        return Known(Pci((), 0), PCI_DEVICES)
    if isinstance(devices, Unknown):
        return devices
    gpus, switches = [], 0
    for name in devices.value:
        if value_of(_first_line(root, f"{PCI_DEVICES}/{name}/vendor")) != NVIDIA:
            continue
        device_class = value_of(_first_line(root, f"{PCI_DEVICES}/{name}/class")) or ""
        if device_class.startswith("0x0680"):
            switches += 1
        elif device_class.startswith(("0x0300", "0x0302")):
            gpus.append(name)
        elif not device_class:
            return Unknown(f"{PCI_DEVICES}/{name}/class", "the class of an NVIDIA device could not be read")
    paths = {name: f"{PROC}/gpus/{name}/information" for name in gpus}
    there = [path for path in paths.values() if root.exists(path)]
    texts = root.read_all(there, deadline_s)
    return Known(Pci(tuple(_gpu(root, name, texts.get(paths[name])) for name in gpus), switches), PCI_DEVICES)


def _gpu(root: Root, name: str, information: Reading[str] | None) -> Gpu:
    device = value_of(_first_line(root, f"{PCI_DEVICES}/{name}/device")) or ""
    try:
        device_id = int(device, 16)
    except ValueError:
        device_id = 0
    source = f"{PROC}/gpus/{name}/information"
    return Gpu(
        bus_id=normal_bus_id(name),
        device_id=device_id,
        driver=root.link_name(f"{PCI_DEVICES}/{name}/driver"),
        information=_parse(information, _information) if information is not None else Absent(source),
    )


def _information(text: str) -> GpuInformation:
    fields = parse_gpu_information(text)
    return GpuInformation(
        firmware=parse_driver_version(fields.get("GPU Firmware", "")),
        vbios=fields.get("Video BIOS"),
        excluded=fields.get("GPU Excluded", "").lower() == "yes",
    )


def _firmware(root: Root, version: str, kernel: str | None) -> Reading[Firmware]:
    """For each image name of this version, the file that the kernel's loader would read."""
    directories = _search_path(root, kernel)
    names: set[str] = set()
    listings: dict[str, tuple[str, ...]] = {}
    for directory in directories:
        listing = root.list(f"{directory}/nvidia/{version}")
        if isinstance(listing, Unknown):
            return listing
        listings[directory] = listing.value if isinstance(listing, Known) else ()
        names |= {_plain_name(name) for name in listings[directory] if name.startswith("gsp")}
    found = (_image(root, version, name, listings) for name in sorted(names) if name.endswith(".bin"))
    images = tuple(image for image in found if image is not None)
    return Known(Firmware(version, tuple(directories), images), "firmware search path")


def _search_path(root: Root, kernel: str | None) -> list[str]:
    custom = value_of(_first_line(root, FIRMWARE_PATH))
    paths = [custom.rstrip("/")] if custom is not None and custom.startswith("/") else []
    if kernel is not None:
        return [
            *paths,
            f"/lib/firmware/updates/{kernel}",
            "/lib/firmware/updates",
            f"/lib/firmware/{kernel}",
            "/lib/firmware",
        ]
    return [*paths, "/lib/firmware/updates", "/lib/firmware"]


def _plain_name(name: str) -> str:
    return name.removesuffix(".zst").removesuffix(".xz")


def _image(root: Root, version: str, name: str, listings: dict[str, tuple[str, ...]]) -> ImageFile | None:
    """The kernel skips a file it cannot read, an empty one too, and goes on to the next place.

    None when all that is there are links that lead nowhere.
    """
    damaged: ImageFile | None = None
    for suffix in COMPRESSIONS:
        for directory, listing in listings.items():
            if name + suffix not in listing:
                continue
            image = _read_image(root, f"{directory}/nvidia/{version}/{name}{suffix}", name)
            if image is not None and image.content != _EMPTY:
                return image
            damaged = damaged or image
    return damaged


_EMPTY = Damage("empty")


def _read_image(root: Root, path: str, name: str) -> ImageFile | None:
    try:
        stream, size, _ = root.open(path)
    except OSError as error:
        if isinstance(failed(path, error), Absent):
            return None
        if error.errno in {errno.EINVAL, errno.EISDIR}:
            return ImageFile(name, path, Damage("not a regular file"))
        return ImageFile(name, path, None, (error.strerror or str(error)).lower())
    with stream:
        if size == 0:
            return ImageFile(name, path, _EMPTY)
        return ImageFile(name, path, *_read_content(stream, path, size))


def _read_content(stream: BinaryIO, path: str, size: int) -> tuple[GspImage | Damage | None, str]:
    try:
        return read_gsp_image(*open_elf(stream, path, size)), ""
    except (CannotDecompress, OutsideWindow) as error:
        return None, str(error)
    except ParseError as error:
        return Damage(str(error)), ""
    except OSError as error:
        return None, (error.strerror or str(error)).lower()


def _userspace(root: Root, runner: Runner, machine: str, loaded: str | None) -> Userspace:
    output = runner.run("ldcache")
    if output is None or output.rc != 0:
        why = "ldconfig is not there" if output is None else "ldconfig -p failed"
        entries, source = None, why
    else:
        try:
            entries, source = parse_ldconfig(output.stdout), "ldconfig -p"
        except ParseError as error:
            entries, source = None, str(error)
    picks: dict[str, Reading[Library]] = {}
    others: list[Library] = []
    for soname in ("libnvidia-ml.so.1", "libcuda.so.1"):
        cached = loader_paths(entries, soname, machine) if entries is not None else ()
        builtin = [
            f"{folder}/{soname}"
            for folder in LIBRARY_DIRS.get(machine, ("/lib64", "/usr/lib64", "/lib", "/usr/lib"))
        ]
        libraries = _libraries(root, soname, [*cached, *builtin])
        drivers = [library for library in libraries if not _is_forward_compatible(library, loaded)]
        if drivers:
            picks[soname] = Known(drivers[0], source)
        elif entries is None:
            picks[soname] = Unknown(
                "ldconfig -p", f"{source}, and it is in none of the loader's own directories"
            )
        elif cached and not libraries:
            picks[soname] = Unknown(cached[0], "the loader's cache lists it, and the file is not there")
        else:
            picks[soname] = Absent("ldconfig -p")
        others += [library for library in libraries if library is not value_of(picks[soname])]
    return Userspace(picks["libnvidia-ml.so.1"], picks["libcuda.so.1"], tuple(others))


def _is_forward_compatible(library: Library, loaded: str | None) -> bool:
    """CUDA's compatibility libcuda is newer than the driver on purpose; an older one breaks every job."""
    if "compat" not in library.path.split("/"):
        return False
    return loaded is None or library.version is None or version_key(library.version) > version_key(loaded)


def _libraries(root: Root, soname: str, paths: Iterable[str]) -> list[Library]:
    """The copies that exist, each file once, in the loader's order."""
    found: dict[str, Library] = {}
    for path in paths:
        try:
            real = root.real(path)
            stream, _, _ = root.open(path)
            stream.close()
        except OSError:
            continue
        version = find_driver_version(real.rpartition("/")[2])
        found.setdefault(real, Library(soname, path, version))
    return list(found.values())


def _disk(
    root: Root, runner: Runner | None, kernel: Reading[str], dkms: Reading[tuple[DkmsEntry, ...]]
) -> Reading[DiskModule]:
    """``nvidia.ko`` for a kernel: its files, then what modinfo says of the running kernel, then DKMS."""
    if not isinstance(kernel, Known):
        return Unknown("/lib/modules", "the kernel release is not known")
    release = kernel.value
    by_file = _disk_by_file(root, release)
    if isinstance(by_file, Known) and by_file.value.version is not None:
        return by_file
    told = _modinfo(runner, release) if runner is not None else None
    if isinstance(told, Known) or (told is not None and not isinstance(by_file, Known)):
        return told
    told = _dkms_says(dkms, release)
    if isinstance(by_file, Known):
        return told if isinstance(told, Known) else by_file
    return told if isinstance(by_file, Unknown) and told is not None else by_file


def _next_disk(
    root: Root,
    kernel: Reading[str],
    next_kernel: Reading[str],
    disk: Reading[DiskModule],
    dkms: Reading[tuple[DkmsEntry, ...]],
) -> Reading[DiskModule]:
    """``nvidia.ko`` for the kernel that boots next: mostly the running one, of which modinfo told more."""
    if value_of(kernel) is not None and value_of(kernel) == value_of(next_kernel):
        return disk
    return _disk(root, None, next_kernel, dkms)


def _disk_by_file(root: Root, release: str) -> Reading[DiskModule]:
    base = f"/lib/modules/{release}"
    listing = root.list(base)
    if not isinstance(listing, Known):
        if isinstance(listing, Absent) and not root.exists("/lib/modules"):
            return NO_MODULE_TREE
        return listing
    dep = root.read(f"{base}/modules.dep", 64 << 20)
    listed = parse_modules_dep(dep.value) if isinstance(dep, Known) else ()
    paths = [path if path.startswith("/") else f"{base}/{path}" for path in listed] or _scan(root, base)
    for path in paths:
        folder, _, file = path.rpartition("/")
        names = root.list(folder)
        if isinstance(names, Known) and file in names.value:
            return Known(
                DiskModule(release, path, _module_version(root, path), _companions(root, path, names.value)),
                path,
            )
    return Absent(base)


def _scan(root: Root, base: str) -> list[str]:
    """For a tree without a modules.dep entry: the usual directories, and one level below each."""
    found = []
    for folder in MODULE_DIRS:
        names = root.list(f"{base}/{folder}", note=False)
        if not isinstance(names, Known):
            continue
        found += [f"{base}/{folder}/{name}" for name in names.value if is_nvidia_module_file(name)]
        for name in names.value:
            if name.startswith("nvidia") and not name.partition(".")[2]:
                below = root.list(f"{base}/{folder}/{name}", note=False)
                files = below.value if isinstance(below, Known) else ()
                found += [f"{base}/{folder}/{name}/{file}" for file in files if is_nvidia_module_file(file)]
    return found


def _module_version(root: Root, path: str) -> str | None:
    try:
        stream, size, _ = root.open(path)
        with stream:
            return parse_driver_version(read_modinfo(*open_elf(stream, path, size)).get("version", ""))
    except (OSError, ParseError, CannotDecompress):
        return None


def _companions(root: Root, path: str, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Versions of the driver's other modules beside nvidia.ko."""
    folder = path.rpartition("/")[0]
    found = []
    for name in names:
        stem = name.partition(".")[0].replace("-", "_")
        if stem in NEEDED_MODULES and stem != "nvidia":
            version = _module_version(root, f"{folder}/{name}")
            if version is not None:
                found.append((stem, version))
    return tuple(found)


def _modinfo(runner: Runner, release: str) -> Reading[DiskModule] | None:
    """What modprobe would load for the running kernel; None where modinfo is not there or says nothing."""
    output = runner.run("modinfo")
    if output is None or output.rc is None:
        return None
    if output.rc != 0:
        return Absent("modinfo nvidia") if "not found" in output.stderr.lower() else None
    fields = parse_modinfo(output.stdout)
    version = parse_driver_version(fields.get("version", ""))
    if version is None:
        return None
    return Known(DiskModule(release, fields.get("filename", "modinfo nvidia"), version), "modinfo nvidia")


def _dkms_says(dkms: Reading[tuple[DkmsEntry, ...]], release: str) -> Reading[DiskModule] | None:
    """For a node whose /lib/modules cannot be read: DKMS's own account."""
    entries = [entry for entry in value_of(dkms) or () if entry.module.startswith("nvidia")]
    if not entries:
        return None
    for entry in entries:
        if entry.kernel == release and entry.state.startswith("installed"):
            return Known(
                DiskModule(release, "dkms status", find_driver_version(entry.version)), "dkms status"
            )
    return Absent("dkms status")


def _version(disk: Reading[DiskModule]) -> str | None:
    module = value_of(disk)
    return module.version if module is not None else None


def _next_kernel(root: Root) -> Reading[str]:
    """The kernel the boot loader starts next, from the most explicit source to the least."""
    for find in (_by_grub, _by_loader_entry, _by_link, _by_newest_image, _by_newest_modules):
        found = find(root)
        if found is not None:
            return found
    return Unknown(
        "/boot", "no boot loader configuration, kernel image or module tree says which kernel boots next"
    )


def _by_grub(root: Root) -> Known[str] | None:
    for folder in ("/boot/grub", "/boot/grub2"):
        environment, config = root.read(f"{folder}/grubenv"), root.read(f"{folder}/grub.cfg")
        release = grub_default(value_of(environment), value_of(config))
        if release is not None:
            return Known(release, folder)
    return None


def _by_loader_entry(root: Root) -> Known[str] | None:
    for folder in ("/boot/loader", "/efi/loader", "/boot/efi/loader"):
        config = value_of(root.read(f"{folder}/loader.conf"))
        names = value_of(root.list(f"{folder}/entries"))
        if config is None or names is None:
            continue
        default = next(
            (line.split(None, 1)[1] for line in config.splitlines() if line.startswith("default ")), ""
        )
        entries = {name: value_of(root.read(f"{folder}/entries/{name}")) or "" for name in names}
        release = loader_entry(default.strip(), entries)
        if release is not None:
            return Known(release, folder)
    return None


def _by_link(root: Root) -> Known[str] | None:
    for path in ("/vmlinuz", "/boot/vmlinuz"):
        target = value_of(root.link_name(path))
        release = release_of_image(target) if target is not None else None
        if release is not None:
            return Known(release, path)
    return None


def _by_newest_image(root: Root) -> Known[str] | None:
    names = value_of(root.list("/boot")) or ()
    releases = [release for name in names if (release := release_of_image(name)) is not None]
    return Known(max(releases, key=kernel_sort_key), "newest kernel image in /boot") if releases else None


def _by_newest_modules(root: Root) -> Known[str] | None:
    """Only trees of an installed kernel count: a purged one leaves a folder with DKMS's files behind."""
    names = value_of(root.list("/lib/modules")) or ()
    installed = []
    for name in names:
        content = value_of(root.list(f"/lib/modules/{name}")) or ()
        if {"kernel", "modules.builtin", "modules.order", "vmlinuz"} & set(content):
            installed.append(name)
    return Known(max(installed, key=kernel_sort_key), "newest module tree") if installed else None


def _nvml(runner: Runner) -> Reading[Nvml]:
    output = runner.run("nvml")
    if output is None:
        return Unknown("NVML", "not asked: pynvml (nvidia-ml-py) is not installed, or nothing was recorded")
    if output.rc is None and not output.stdout.strip():
        return Known(Nvml(NvmlFailure.TIMEOUT), "NVML")
    try:
        return Known(_nvml_answer(json.loads(output.stdout)), "NVML")
    except (ValueError, TypeError, KeyError, AttributeError):
        # NVML can take its caller down: an answer cut short is an answer too, and not a good one.
        return Known(Nvml(NvmlFailure.CRASH), "NVML")


def _nvml_answer(data: dict[str, object]) -> Nvml:
    init = data["init"]
    if isinstance(init, str):
        return Nvml(NvmlFailure(init))
    if not isinstance(init, int) or not 0 <= init < _NVML_CODES:
        raise ValueError(f"init is {init!r}")
    library = data.get("nvml")
    gpus = data.get("gpus") or []
    if not isinstance(gpus, list):
        raise TypeError("gpus is not a list")
    return Nvml(
        init,
        find_driver_version(library) if isinstance(library, str) else None,
        tuple(_nvml_gpu(gpu) for gpu in gpus if gpu.get("bus_id")),
        listed=data.get("gpus") is not None,
    )


def _nvml_gpu(data: dict[str, object]) -> NvmlGpu:
    gsp, persistence = data.get("gsp"), data.get("persistence")
    return NvmlGpu(
        bus_id=normal_bus_id(str(data["bus_id"])),
        gsp=parse_driver_version(gsp) if isinstance(gsp, str) else None,
        persistence=persistence if isinstance(persistence, bool) else None,
        name=str(data.get("name") or ""),
        vbios=str(data["vbios"]) if data.get("vbios") else None,
    )


def _packages(root: Root, runner: Runner) -> Reading[tuple[Package, ...]]:
    dpkg = root.read(DPKG_STATUS, 256 << 20)
    if isinstance(dpkg, Known):
        return _parse(dpkg, parse_dpkg_status)
    if isinstance(dpkg, Unknown):
        return dpkg
    output = runner.run("rpm")
    if output is None:
        return Absent("dpkg, rpm")
    return _parse(_stdout(output, "rpm -qa"), parse_rpm)


def _dkms(runner: Runner) -> Reading[tuple[DkmsEntry, ...]]:
    output = runner.run("dkms")
    if output is None:
        return Absent("dkms status")
    return _parse(_stdout(output, "dkms status"), parse_dkms)


def _stdout(output: Output, source: str) -> Reading[str]:
    if output.rc == 0:
        return Known(output.stdout, source)
    said = (output.stderr.strip() or output.stdout.strip()).splitlines()
    why = said[-1][:200] if said else ("no answer in time" if output.rc is None else f"exit code {output.rc}")
    return Unknown(source, why)


def _transaction(runner: Runner) -> Reading[str]:
    output = runner.run("transaction")
    if output is None or output.rc != 0:
        return Unknown("package locks", "not asked")
    held = output.stdout.strip()
    return Known(held, held.splitlines()[0]) if held else Absent("package locks")


def _log(runner: Runner) -> Reading[tuple[LogEvent, ...]]:
    output = runner.run("kmsg")
    if output is None:
        return Unknown("kernel log", "neither /dev/kmsg nor dmesg can be used")
    reading = _stdout(output, "kernel log")
    if not isinstance(reading, Known):
        return reading
    return Known(read_events(parse_dmesg(reading.value)), reading.source)


def _secure_boot(root: Root) -> Reading[bool]:
    """The EFI variable: four bytes of attributes, then one that is 1 when Secure Boot is on."""
    reading = root.read(SECURE_BOOT, 64)
    if not isinstance(reading, Known):
        return reading
    return (
        Known(reading.value.endswith("\x01"), SECURE_BOOT) if reading.value else Unknown(SECURE_BOOT, "empty")
    )


def _fabric_manager(packages: Reading[tuple[Package, ...]]) -> Reading[str]:
    if not isinstance(packages, Known):
        return packages
    manager = fabric_manager(packages.value)
    version = driver_version_of(manager) if manager is not None else None
    return Known(version, packages.source) if version is not None else Absent(packages.source)


def read_nics(root: Root) -> Reading[tuple[tuple[str, str], ...]]:
    """(name, firmware version) of each InfiniBand or RoCE device."""
    names = root.list(INFINIBAND)
    if isinstance(names, Absent):
        return Known((), INFINIBAND)
    if not isinstance(names, Known):
        return names
    found = []
    for name in names.value:
        version = root.read(f"{INFINIBAND}/{name}/fw_ver", 1 << 10)
        if not isinstance(version, Known):
            return Unknown(f"{INFINIBAND}/{name}/fw_ver", "cannot be read")
        found.append((name, version.value.strip()))
    return Known(tuple(found), INFINIBAND)


def _stuck(root: Root) -> Reading[tuple[StuckProcess, ...]]:
    """Processes in uninterruptible sleep with the driver on their kernel stack."""
    names = root.list("/proc", note=False)
    if not isinstance(names, Known):
        return names
    found = []
    for pid in names.value:
        if not pid.isdecimal():
            continue
        stat = value_of(root.read(f"/proc/{pid}/stat", 1 << 14, note=False))
        if stat is None or not stat.rpartition(")")[2].lstrip().startswith("D"):
            continue
        root.read(f"/proc/{pid}/stat", 1 << 14)
        where = _in_driver(root, pid)
        if where is not None:
            found.append(StuckProcess(int(pid), stat.partition("(")[2].rpartition(")")[0], where))
    return Known(tuple(found), "/proc")


def _in_driver(root: Root, pid: str) -> str | None:
    for line in (value_of(root.read(f"/proc/{pid}/stack", 1 << 16)) or "").splitlines():
        if _STUCK_MARK in line:
            return line.strip().rpartition("] ")[2].split("+")[0]
    channel = value_of(root.read(f"/proc/{pid}/wchan", 256)) or ""
    return channel if channel.startswith(("nvidia", "_nv", "nv_", "uvm_", "rm_")) else None


def _expected(root: Root, expect: Expectation, pci: Reading[Pci]) -> Reading[int]:
    if expect.expected_gpus is not None:
        return expect.expected_gpus
    has_gpus = bool((value_of(pci) or Pci((), 0)).gpus)
    for path in expect.gres_files:
        text = value_of(root.read(path))
        if text is None:
            continue
        if not has_gpus:
            # One gres.conf is often shared: lines for no node in particular make no CPU node a GPU node.
            text = "\n".join(line for line in text.splitlines() if "nodename=" in line.lower())
        try:
            count = gpu_count(text, expect.hostname) or gpu_count(text, expect.hostname.partition(".")[0])
        except ParseError as error:
            return Unknown(path, str(error))
        if count is not None:
            return Known(count, path)
    return _configured(root, expect)


def _has_mig(root: Root, expect: Expectation) -> bool:
    """MIG instances on the GPUs now, or in gres.conf."""
    gpus = value_of(root.list(MIG)) or ()
    instances = (value_of(root.list(f"{MIG}/{gpu}/mig")) or () for gpu in gpus if gpu.startswith("gpu"))
    if any(name.startswith("gi") for names in instances for name in names):
        return True
    texts = ((value_of(root.read(path)) or "").lower() for path in expect.gres_files)
    return any("multiplefiles=" in text or "nvidia-caps" in text for text in texts)


def _configured(root: Root, expect: Expectation) -> Reading[int]:
    """``Gres=`` in slurm.conf, for sites whose gres.conf is AutoDetect alone.

    It counts MIG instances like GPUs, so it says nothing of a node that has some.
    """
    if _has_mig(root, expect):
        return Absent(MIG)
    paths = [f"{path.rpartition('/')[0]}/slurm.conf" for path in expect.gres_files]
    short = expect.hostname.partition(".")[0]
    for path in paths:
        text = value_of(root.read(path))
        if text is None:
            continue
        try:
            count = configured_gpu_count(text, expect.hostname) or configured_gpu_count(text, short)
        except ParseError as error:
            return Unknown(path, str(error))
        if count is not None:
            return Known(count, path)
    return Absent(", ".join((*expect.gres_files, *paths)))


def _tried(root: Root) -> tuple[tuple[str, str], ...]:
    """Remedies tried for a fault, as the hooks and the maintenance commands remember them."""
    text = value_of(root.read(LADDER, 1 << 20))
    try:
        data = json.loads(text) if text else {}
        return tuple((str(code), str(item)) for code, past in sorted(data.items()) for item in past["tried"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return ()

"""Everything the detector read on one node, as one immutable value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from slurm_gsp.core.reading import Reading, Unknown
from slurm_gsp.parse.dkms import DkmsEntry
from slurm_gsp.parse.elf import GspImage
from slurm_gsp.parse.kmsg import LogEvent
from slurm_gsp.parse.packages import Package


@dataclass(frozen=True, slots=True)
class GpuInformation:
    """``/proc/driver/nvidia/gpus/<bus id>/information``; ``firmware`` None is the driver's ``N/A``."""

    firmware: str | None
    vbios: str | None
    excluded: bool


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA display device on PCI. ``bus_id`` like ``0000:06:00.0``, ``driver`` the kernel's for it."""

    bus_id: str
    device_id: int
    driver: Reading[str]
    information: Reading[GpuInformation]


@dataclass(frozen=True, slots=True)
class Pci:
    """NVIDIA's devices on PCI: display devices and the number of NVSwitches."""

    gpus: tuple[Gpu, ...]
    nvswitches: int


@dataclass(frozen=True, slots=True)
class Damage:
    """An image the driver cannot use; ``why`` says what is wrong with the file."""

    why: str


@dataclass(frozen=True, slots=True)
class ImageFile:
    """The file the kernel would load for ``nvidia/<version>/<name>``; ``content`` is None when unreadable."""

    name: str
    path: str
    content: GspImage | Damage | None
    why_unread: str = ""


@dataclass(frozen=True, slots=True)
class Firmware:
    """The GSP images of one driver version on the kernel's firmware search path."""

    version: str
    searched: tuple[str, ...]
    images: tuple[ImageFile, ...]


@dataclass(frozen=True, slots=True)
class DiskModule:
    """``nvidia.ko`` for one kernel release; companions are (name, version) of the modules beside it."""

    kernel: str
    path: str
    version: str | None
    companions: tuple[tuple[str, str], ...] = ()


NO_MODULE_TREE = Unknown("/lib/modules", "not there")
"""For a DiskModule: a node that keeps no modules on disk at all, of any kernel."""


NICS_NOT_READ = Unknown("/sys/class/infiniband", "not read")
"""For a value that was made without them."""


@dataclass(frozen=True, slots=True)
class Library:
    """A copy of a userspace library; ``version`` from the file name behind the links, None if it has none."""

    soname: str
    path: str
    version: str | None


@dataclass(frozen=True, slots=True)
class Userspace:
    """What the loader picks for each soname, and the other copies it knows."""

    nvml: Reading[Library]
    cuda: Reading[Library]
    others: tuple[Library, ...] = ()


@dataclass(frozen=True, slots=True)
class NvmlGpu:
    """One GPU as NVML lists it; ``gsp`` None when NVML reports none."""

    bus_id: str
    gsp: str | None
    persistence: bool | None
    name: str = ""
    vbios: str | None = None


class NvmlFailure(StrEnum):
    """How the bounded probe ended when it brought no NVML code home."""

    TIMEOUT = "timeout"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class Nvml:
    """The bounded NVML probe: ``init`` is nvmlInit's return code or how the probe failed.

    ``listed`` tells whether it listed GPUs at all: an empty list is not a list that was not given.
    """

    init: int | NvmlFailure
    library: str | None = None
    gpus: tuple[NvmlGpu, ...] = ()
    listed: bool = True


@dataclass(frozen=True, slots=True)
class StuckProcess:
    """A process in uninterruptible sleep inside the NVIDIA driver."""

    pid: int
    name: str
    where: str


@dataclass(frozen=True, slots=True)
class Pin:
    """The version tuple this node is meant to run."""

    driver: str | None = None
    flavour: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was read on one node. Versions are strings, loaded modules are (name, version or None) pairs."""

    hostname: str
    machine: str
    kernel: Reading[str]
    boot_id: Reading[str]
    pci: Reading[Pci]
    loaded: Reading[str]
    flavour: Reading[str]
    modules: Reading[tuple[tuple[str, str | None], ...]]
    parameters: Reading[dict[str, str]]
    disk: Reading[DiskModule]
    next_kernel: Reading[str]
    next_disk: Reading[DiskModule]
    firmware: tuple[Reading[Firmware], ...]
    userspace: Userspace
    nvml: Reading[Nvml]
    packages: Reading[tuple[Package, ...]]
    transaction: Reading[str]
    dkms: Reading[tuple[DkmsEntry, ...]]
    log: Reading[tuple[LogEvent, ...]]
    secure_boot: Reading[bool]
    fabric_manager: Reading[str]
    stuck: Reading[tuple[StuckProcess, ...]]
    expected_gpus: Reading[int]
    pin: Pin = Pin()
    nics: Reading[tuple[tuple[str, str], ...]] = NICS_NOT_READ
    """(name, firmware version) of each InfiniBand or RoCE device."""
    tried: tuple[tuple[str, str], ...] = ()
    """(code, remedy) pairs already tried on this node since the fault first appeared."""

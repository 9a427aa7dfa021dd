"""Facts derived from Evidence that several rules share; nothing here decides what is a fault."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from slurm_gsp.core.chips import chip_of, gsp_by_default, has_gsp, image_name
from slurm_gsp.core.evidence import (
    DiskModule,
    Evidence,
    Firmware,
    Gpu,
    ImageFile,
    Library,
    Nvml,
    NvmlFailure,
    NvmlGpu,
)
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.parse.elf import GspImage
from slurm_gsp.parse.kmsg import LogEvent

NEEDED_MODULES = ("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_drm", "nvidia_peermem")
"""Modules that carry the driver's version; nvidia_fs and others have versions of their own."""

FOREIGN_DRIVERS = ("nouveau", "nova_core", "nova-core", "NovaCore")
"""In-kernel drivers that take an NVIDIA GPU away from nvidia.ko."""


NVML_MET_MODULE = (0, 15, 16, 18)
"""nvmlInit's answers that come from a loaded module: fine, GPU lost, reset required, version mismatch."""

PASSED_THROUGH = ("pci-stub", "pciback", "xen-pciback")
"""Drivers that hold a GPU for a virtual machine, besides vfio-pci and its variants (nvgrace-gpu-vfio-pci)."""


class Running(Enum):
    """How far a GPU came up."""

    GSP = "runs its GSP firmware"
    PLAIN = "works without GSP firmware"
    NOT = "is not initialised"
    UNKNOWN = "could not be told"


class ImageState(Enum):
    """What the kernel's search path holds for one GPU and one driver version."""

    GOOD = "good"
    MISSING = "missing"
    SKEWED = "skewed"
    DAMAGED = "damaged"
    UNREAD = "unread"
    NOT_NEEDED = "not needed"


@dataclass(frozen=True, slots=True)
class ImageCheck:
    """The outcome for one GPU: the file the driver would be given, if any, and what is wrong with it."""

    state: ImageState
    name: str = ""
    path: str = ""
    why: str = ""


class View:
    """A read-only look at one node's Evidence."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The host's display devices: those handed to a virtual machine (vfio) are not the driver's."""
        pci = value_of(self.evidence.pci)
        return tuple(gpu for gpu in pci.gpus if not _is_passed_through(gpu)) if pci is not None else ()

    @cached_property
    def has_no_gpus(self) -> bool:
        """PCI was read, and no display device on it is the driver's."""
        return isinstance(self.evidence.pci, Known) and not self.gpus

    @cached_property
    def loaded(self) -> str | None:
        """Version of the loaded nvidia.ko."""
        return value_of(self.evidence.loaded)

    @cached_property
    def flavour(self) -> str | None:
        """``open`` or ``proprietary``, of the loaded module."""
        return value_of(self.evidence.flavour)

    @cached_property
    def is_loaded(self) -> bool | None:
        """Whether nvidia.ko is loaded; None when it could not be told."""
        if isinstance(self.evidence.loaded, Known):
            return True
        modules = value_of(self.evidence.modules)
        if modules is not None and any(name == "nvidia" for name, _ in modules):
            return True
        if self.nvml is not None and self.nvml.init in NVML_MET_MODULE:
            return None
        return False if isinstance(self.evidence.loaded, Absent) else None

    @cached_property
    def nvml(self) -> Nvml | None:
        """The NVML probe's answer."""
        return value_of(self.evidence.nvml)

    @cached_property
    def nvml_works(self) -> bool:
        """NVML came up: the library and the module are one version."""
        return self.nvml is not None and self.nvml.init == 0

    @cached_property
    def nvml_listed(self) -> bool:
        """NVML came up and said which GPUs there are."""
        return self.nvml_works and self.nvml is not None and self.nvml.listed

    @cached_property
    def events(self) -> tuple[LogEvent, ...]:
        """Driver events in the kernel log of this boot."""
        return value_of(self.evidence.log) or ()

    def events_of(self, *kinds: str) -> tuple[LogEvent, ...]:
        """Events of these kinds, oldest first."""
        return tuple(event for event in self.events if event.kind in kinds)

    @cached_property
    def last_load(self) -> int:
        """Log line of the last time nvidia.ko announced itself, -1 if it never did."""
        return max((event.line for event in self.events_of("module-loaded")), default=-1)

    def since_load(self, *kinds: str) -> tuple[LogEvent, ...]:
        """Events after the last load: an earlier one was cleared by the driver starting anew."""
        return tuple(event for event in self.events_of(*kinds) if event.line > self.last_load)

    def nvml_gpu(self, gpu: Gpu) -> NvmlGpu | None:
        """The GPU in NVML's list."""
        if self.nvml is None or not self.nvml_works:
            return None
        return next((seen for seen in self.nvml.gpus if seen.bus_id == gpu.bus_id), None)

    def running(self, gpu: Gpu) -> Running:
        """How far the GPU came up, from NVML's list and the driver's own information file."""
        seen = self.nvml_gpu(gpu)
        if self.gsp_version(gpu) is not None:
            return Running.GSP
        if seen is not None:
            return Running.PLAIN
        if isinstance(gpu.information, Unknown) and not self.nvml_listed:
            return Running.UNKNOWN
        return Running.NOT

    def gsp_version(self, gpu: Gpu) -> str | None:
        """The GSP firmware version that runs on the GPU now."""
        information = value_of(gpu.information)
        if information is not None and information.firmware is not None:
            return information.firmware
        seen = self.nvml_gpu(gpu)
        return seen.gsp if seen is not None else None

    def family(self, gpu: Gpu) -> str | None:
        """Chip family of the PCI device id, None for an id the table does not know."""
        chip = chip_of(gpu.device_id)
        return chip.family if chip is not None else None

    @cached_property
    def driver_in_container(self) -> bool:
        """The GPU Operator's driver container: the host has no libraries of its own, on purpose."""
        known = (value_of(reading) for reading in self.evidence.firmware)
        return any(path.startswith("/run/nvidia/driver") for item in known if item for path in item.searched)

    @cached_property
    def gsp_mode(self) -> int | None:
        """Mode in ``EnableGpuFirmware`` of the loaded module: 0 off, 1 on, 2 the driver's default.

        The low four bits are the mode, the others policy (18 is the default mode with fallback allowed).
        """
        text = (value_of(self.evidence.parameters) or {}).get("EnableGpuFirmware", "")
        return int(text) & 0xF if text.isdecimal() else None

    def needs_gsp(self, gpu: Gpu) -> bool | None:
        """Whether this GPU needs a GSP image under the loaded driver; None when it could not be told."""
        family = self.family(gpu)
        if family is None:
            return None
        if not has_gsp(family):
            return False
        if self.flavour == "open":
            return True
        if self.gsp_mode == 0:
            return False
        if self.gsp_mode == 1:
            return True
        version = self.loaded or self.disk_version
        if version is None or self.flavour is None:
            return None
        return gsp_by_default(family, version, self.flavour)

    def firmware(self, version: str) -> Reading[Firmware]:
        """What the search path holds for a driver version."""
        for reading in self.evidence.firmware:
            if isinstance(reading, Known) and reading.value.version == version:
                return reading
        unread = [reading for reading in self.evidence.firmware if isinstance(reading, Unknown)]
        return unread[0] if unread else Unknown("firmware search path", f"nvidia/{version} was not looked up")

    def image(self, gpu: Gpu, version: str) -> ImageCheck:
        """Whether the image that this driver version would request for this GPU is there and usable."""
        reading = self.firmware(version)
        if not isinstance(reading, Known):
            return ImageCheck(ImageState.UNREAD, why=reading.why if isinstance(reading, Unknown) else "")
        family = self.family(gpu)
        if family is not None and not has_gsp(family):
            return ImageCheck(ImageState.NOT_NEEDED)
        requested = image_name(family, version) if family is not None else None
        if requested is None:
            return _check_any_image(reading.value, family)
        for image in reading.value.images:
            if image.name == requested:
                return check_image(image, version, family)
        return ImageCheck(
            ImageState.MISSING, requested, f"nvidia/{version}/{requested}", "not on the search path"
        )

    @cached_property
    def disk(self) -> DiskModule | None:
        """The module on disk for the running kernel."""
        return value_of(self.evidence.disk)

    @cached_property
    def disk_version(self) -> str | None:
        """Its version."""
        return self.disk.version if self.disk is not None else None

    @cached_property
    def picks(self) -> tuple[Library, ...]:
        """The libraries that the loader picks and whose version is known."""
        readings = (self.evidence.userspace.nvml, self.evidence.userspace.cuda)
        known = (value_of(reading) for reading in readings)
        return tuple(library for library in known if library is not None and library.version is not None)

    def uninitialised(self) -> Iterator[Gpu]:
        """GPUs of the host that did not come up and were not excluded by hand."""
        for gpu in self.gpus:
            information = value_of(gpu.information)
            if information is not None and information.excluded:
                continue
            if self.running(gpu) is Running.NOT:
                yield gpu

    def is_unclaimed(self, gpu: Gpu) -> bool:
        """No driver holds the GPU, though the loaded one took others: its probe of this one failed."""
        return (
            isinstance(gpu.driver, Absent)
            and isinstance(gpu.information, Absent)
            and any(isinstance(other.information, Known) for other in self.gpus)
        )

    @cached_property
    def hung(self) -> bool:
        """The NVML probe did not come back within its deadline."""
        return self.nvml is not None and self.nvml.init is NvmlFailure.TIMEOUT

    @cached_property
    def cured_by_reboot(self) -> bool:
        """What the next boot would load is one set: module, image, libraries, and what is pinned."""
        disk = self.disk_version
        if disk is None or not self.picks or any(pick.version != disk for pick in self.picks):
            return False
        assert self.disk is not None
        if any(version != disk for _, version in self.disk.companions):
            return False
        if self.evidence.pin.driver not in {None, disk}:
            return False
        if not self.next_kernel_agrees(disk):
            return False
        usable = {ImageState.GOOD, ImageState.NOT_NEEDED}
        return all(self.needs_gsp(gpu) is False or self.image(gpu, disk).state in usable for gpu in self.gpus)

    def next_kernel_agrees(self, version: str) -> bool:
        """A reboot into a kernel without this module cures nothing."""
        reading = self.evidence.next_disk
        if isinstance(reading, Known):
            return reading.value.version in {None, version}
        return not isinstance(reading, Absent)


def check_image(image: ImageFile, version: str, family: str | None) -> ImageCheck:
    """The driver's own test of an image: readable ELF, its exact version text, a signature for the chip."""
    content = image.content
    if content is None:
        return ImageCheck(ImageState.UNREAD, image.name, image.path, image.why_unread)
    if not isinstance(content, GspImage):
        return ImageCheck(ImageState.DAMAGED, image.name, image.path, content.why)
    if content.version != version:
        return ImageCheck(ImageState.SKEWED, image.name, image.path, content.version)
    if family is not None and family not in content.chips:
        return ImageCheck(ImageState.DAMAGED, image.name, image.path, f"no signature for {family}")
    return ImageCheck(ImageState.GOOD, image.name, image.path)


def _check_any_image(firmware: Firmware, family: str | None) -> ImageCheck:
    """For a layout or chip the table does not know: one image that passes is enough, else it is not known."""
    checks = [check_image(image, firmware.version, family) for image in firmware.images]
    for check in checks:
        if check.state is ImageState.GOOD:
            return check
    if not checks:
        return ImageCheck(
            ImageState.MISSING, "gsp*.bin", f"nvidia/{firmware.version}/", "not on the search path"
        )
    return ImageCheck(
        ImageState.UNREAD, checks[0].name, checks[0].path, "image layout not known for this chip"
    )


def _is_passed_through(gpu: Gpu) -> bool:
    driver = value_of(gpu.driver) or ""
    return "vfio" in driver or driver in PASSED_THROUGH


def bus_ids(gpus: Iterable[Gpu]) -> str:
    """Bus ids for a summary."""
    return ", ".join(gpu.bus_id for gpu in gpus)

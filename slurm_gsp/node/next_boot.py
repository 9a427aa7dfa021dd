"""What the next boot will find on disk: module, images, libraries, packages, compared with the pin."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from slurm_gsp import process
from slurm_gsp.collect.collect import collect
from slurm_gsp.collect.compressed import CannotDecompress, open_elf
from slurm_gsp.collect.root import READ_LIMIT, Root
from slurm_gsp.collect.runner import Output
from slurm_gsp.config import Config
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.core.view import ImageState, View
from slurm_gsp.manifest.model import Profile
from slurm_gsp.node.facts import digests
from slurm_gsp.node.host import COMMAND_S, Host
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.elf import read_modinfo
from slurm_gsp.parse.modinfo import parse_modinfo
from slurm_gsp.this_node import expectation

OSRELEASE: Final = "/proc/sys/kernel/osrelease"
PROPRIETARY: Final = "NVIDIA"
"""The licence in nvidia.ko that is not open."""
_BAD: Final = frozenset({ImageState.MISSING, ImageState.SKEWED, ImageState.DAMAGED})
"""One that cannot be read, packed as this Python cannot unpack it, is no fault: its package was compared."""


class OtherKernel(Root):
    """The node's files, as another kernel would see them."""

    def __init__(self, root: Root, kernel: str) -> None:
        super().__init__(root.base)
        self._kernel = kernel

    def read(self, path: str, limit: int = READ_LIMIT, *, note: bool = True) -> Reading[str]:
        """As Root.read."""
        return Known(self._kernel, path) if path == OSRELEASE else super().read(path, limit, note=note)


class DiskOnly:
    """A runner that leaves the driver alone, and asks modinfo about another kernel than the running one."""

    def __init__(self, host: Host, kernel: str) -> None:
        self._host = host
        self._kernel = kernel

    def run(self, command: str) -> Output | None:
        """The output of the command with this id."""
        if command == "nvml":
            return None
        return self.modinfo() if command == "modinfo" else self._host.runner.run(command)

    def modinfo(self) -> Output | None:
        """What modprobe would load under that kernel; None where there is no modinfo."""
        path = self._host.find("modinfo")
        if path is None:
            return None
        try:
            done = self._host.run((path, "-k", self._kernel, "nvidia"), deadline_s=COMMAND_S)
        except process.ProcessError:
            return None
        return Output(done.argv, done.rc, done.stdout, done.stderr)


def faults_on_disk(host: Host, config: Config, profile: Profile, kernel: str) -> tuple[str, ...]:
    """What the next boot, into this kernel, would trip over; () where all that can be read is as pinned."""
    root, runner = OtherKernel(host.root, kernel), DiskOnly(host, kernel)
    evidence = collect(root, runner, expectation(config, host.node, host.state.state))
    expected = value_of(evidence.next_kernel)
    if expected not in {None, kernel}:
        return (f"kernel {expected} boots next now, no longer {kernel}: repeat this",)
    # As it will be: nothing is loaded yet, and it will be of this flavour.
    view = View(replace(evidence, loaded=Absent(""), flavour=Known(profile.flavour, "the profile")))
    return _module(root, runner, view, profile) or (
        *_images(root, view, profile),
        *_libraries(view, profile),
        *_fabric_manager(evidence, profile),
    )


def _module(root: Root, runner: DiskOnly, view: View, profile: Profile) -> tuple[str, ...]:
    module = view.disk
    if module is None:
        return (f"no nvidia module on disk for {value_of(view.evidence.kernel)}",)
    if module.version != profile.driver:
        return (f"{module.path} is {module.version or 'of unknown version'}, pinned is {profile.driver}",)
    faults = [
        f"{name} beside it is {version}" for name, version in module.companions if version != profile.driver
    ]
    flavour = _flavour(_licence_in(root, module.path) or _licence_told(runner))
    if flavour not in {None, profile.flavour}:
        faults.append(f"{module.path} is {flavour}, pinned is {profile.flavour}")
    return tuple(faults)


def _flavour(licence: str | None) -> str | None:
    """The flavour of a module by its licence; None where that cannot be read."""
    return None if not licence else "proprietary" if licence == PROPRIETARY else "open"


def _licence_in(root: Root, path: str) -> str | None:
    try:
        stream, size, _ = root.open(path)
        with stream:
            return read_modinfo(*open_elf(stream, path, size)).get("license")
    except (OSError, ParseError, CannotDecompress):
        return None


def _licence_told(runner: DiskOnly) -> str | None:
    """By modinfo, for a module that this Python cannot unpack."""
    output = runner.modinfo()
    return parse_modinfo(output.stdout).get("license") if output is not None and output.rc == 0 else None


def _images(root: Root, view: View, profile: Profile) -> tuple[str, ...]:
    """By the driver's own test, for the chips that are there; and by their sums where these are pinned."""
    faults = []
    for gpu in view.gpus:
        image, needed = view.image(gpu, profile.driver), view.needs_gsp(gpu)
        # where nobody can tell whether it is needed, the driver may do without
        bad = _BAD if needed else _BAD - {ImageState.MISSING}
        if needed is not False and image.state in bad:
            faults.append(f"GSP image {image.path or image.name} is {image.state.value}: {image.why}")
    if profile.images:
        firmware = view.firmware(profile.driver)
        found = digests(root, firmware.value.images) if isinstance(firmware, Known) else firmware
        if isinstance(found, Unknown):
            return (*faults, f"GSP image {found.source} could not be compared: {found.why}")
        sums = dict(value_of(found) or ())
        faults += [
            f"GSP image {pinned.name} is not the pinned one (SHA-256 {sums.get(pinned.name, 'of no file')})"
            for pinned in profile.images
            if sums.get(pinned.name) != pinned.sha256
        ]
    return tuple(dict.fromkeys(faults))


def _libraries(view: View, profile: Profile) -> tuple[str, ...]:
    if value_of(view.evidence.userspace.nvml) is None:
        return ("the loader finds no libnvidia-ml.so.1",)
    return tuple(
        f"the loader picks {pick.soname} {pick.version} ({pick.path}), pinned is {profile.driver}"
        for pick in view.picks
        if pick.version != profile.driver
    )


def _fabric_manager(evidence: Evidence, profile: Profile) -> tuple[str, ...]:
    found = value_of(evidence.fabric_manager)
    if not profile.fabric_manager or found == profile.driver:
        return ()
    return (f"the fabric manager is {found or 'not installed'}, pinned is {profile.driver}",)

"""The package databases, and which packages are the NVIDIA driver.

Two tests by name, because a healthy node has many NVIDIA packages whose versions differ from each other:
``is_driver_package`` (belongs to the driver) and ``is_core_package`` (is installed once and always has the
driver's own version, so that two branches among these are a split). Names as in Ubuntu 22.04 and 24.04,
Debian 12 and 13, SLES 15, RPM Fusion, ELRepo, and NVIDIA's own repositories for these and RHEL.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slurm_gsp.core.version import find_driver_version, version_key
from slurm_gsp.parse import ParseError


@dataclass(frozen=True, slots=True)
class Package:
    """One package; ``version`` with epoch and release, ``state`` a value of _DPKG_STATES."""

    name: str
    version: str
    arch: str
    state: str


# dpkg(1), "package states".
_DPKG_STATES: Final = {
    "installed": "installed",
    "half-installed": "half-installed",
    "unpacked": "unpacked",
    "half-configured": "half-configured",
    "triggers-awaited": "triggers",
    "triggers-pending": "triggers",
    "config-files": "config-files",
    "not-installed": "not-installed",
}
_FIELD: Final = re.compile(r"^(Package|Status|Version|Architecture):[ \t]*(.*)$", re.MULTILINE)
# rpm -qa --qf '%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\n'
_RPM: Final = re.compile(r"(\S+) ([0-9]+:\S+-\S+) (\S+)")

# Ubuntu's suffix: -570, -570-server, -570-open, -570-server-open; NVIDIA's own repository drops it from 590.
_BRANCH: Final = r"(?:-[0-9]{3})?(?:-server)?(?:-open)?(?:-i386)?"
_CORE: Final = re.compile(
    "|".join((
        # Ubuntu and NVIDIA's repository for it; Debian's own nvidia-driver(-bin|-libs|...)
        rf"nvidia-(?:dkms|kernel-source|kernel-open|headless|headless-no-dkms|utils|compute-utils){_BRANCH}",
        rf"nvidia-dkms-open|nvidia-driver(?:-(?:bin|full|libs|cuda|cuda-libs|NVML|open))?{_BRANCH}",
        rf"libnvidia-compute{_BRANCH}|nvidia-open(?:-[0-9]{{3}})?|cuda-drivers(?:-[0-9]{{3}})?",
        r"nvidia-linux-grid(?:-[0-9]{3})?",
        # Debian, and NVIDIA's repository for it
        r"nvidia-kernel-(?:dkms|source)|nvidia-(?:open-kernel|kernel-open)-(?:dkms|source)",
        r"libnvidia-ml1|libcuda1(?:-i386)?|nvidia-smi",
        # RHEL, Fedora; not the precompiled kmod-nvidia-<version>-<kernel>, of which old ones stay installed
        r"a?kmod-nvidia(?:-open)?(?:-latest)?(?:-dkms)?|nvidia-kmod-common|libnvidia-ml",
        r"nvidia-x11-drv(?:-libs)?|xorg-x11-drv-nvidia(?:-(?:cuda|cuda-libs|libs))?",
        # SLES; not its -kmp- packages, of which one for an older kernel may stay
        r"nvidia-compute(?:-utils)?-G[0-9]{2}",
    ))
)
# Belong to the driver, but several may be installed at once, or have a version of their own.
_OTHER: Final = re.compile(
    "|".join((
        r"firmware-nvidia-gsp|nvidia-firmware(?:-.+)?|kernel-firmware-nvidia-gspx?-G[0-9]{2}.*",
        r"linux-(?:modules|objects|signatures)-nvidia-.+",
        r"kmod-nvidia-.+|nvidia-(?:open-)?driver-G[0-9]{2}-.+|nvidia-tesla(?:-.+)?|nvidia-legacy-[0-9]{3}xx-.+",
        r"nvidia-fabric-?manager(?:-[0-9]{3})?|cuda-drivers-fabricmanager(?:-[0-9]{3})?|nvidia-imex(?:-[0-9]{3})?",
        rf"nvidia-kernel-(?:common|support){_BRANCH}|nvidia-(?:gl|video|common|drivers)-G[0-9]{{2}}.*",
        r"nvidia-(?:suspend-common|cuda-mps|opencl-icd|vulkan-icd|vdpau-driver|egl-icd|egl-common)",
        r"nvidia-driver-(?:NvFBCOpenGL|devel)|xorg-x11-nvidia|xorg-x11-drv-nvidia-.+|xserver-xorg-video-nvidia.*",
        # Debian's and Ubuntu's libraries; those of EGL's outer layers and of containers are other projects.
        r"libnvidia-(?!container|egl-|ml-dev).+|libcudadebugger1|libnvcuvid1|libnvoptix1",
        r"lib(?:gl1|gl|glx|egl|egl1|gles|gles1|gles2)-nvidia.*",
    ))
)
_FABRIC: Final = re.compile(r"nvidia-fabric-?manager(?:-[0-9]{3})?")
# Their version is the kernel's, not the driver's.
_KERNEL_VERSIONED: Final = ("linux-modules-nvidia-", "linux-objects-nvidia-", "linux-signatures-nvidia-")


def parse_dpkg_status(text: str) -> tuple[Package, ...]:
    """The packages of /var/lib/dpkg/status; ParseError when the text holds something else."""
    packages = tuple(package for package in map(_paragraph, text.split("\n\n")) if package)
    if text.strip() and not packages:
        raise ParseError(f"not a dpkg status file: {text.strip()[:80]!r}")
    return packages


def parse_rpm(text: str) -> tuple[Package, ...]:
    """The packages of ``rpm -qa`` in our query format, all of them installed.

    Other lines (rpm's warnings) are skipped, unless there is nothing else: then ParseError.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = (_RPM.fullmatch(line) for line in lines)
    packages = tuple(Package(match[1], match[2], match[3], "installed") for match in found if match)
    if lines and not packages:
        raise ParseError(f"not rpm's answer: {lines[0][:80]!r}")
    return packages


def is_driver_package(name: str) -> bool:
    """Whether the package is part of the NVIDIA driver: modules, firmware, userspace, fabric manager."""
    return is_core_package(name) or _OTHER.fullmatch(name) is not None


def is_core_package(name: str) -> bool:
    """Whether a healthy system has the package in one version only, the driver's.

    Meant for packages in state "installed": what is left of a removed one is no second driver.
    """
    return _CORE.fullmatch(name) is not None


def driver_version_of(package: Package) -> str | None:
    """The driver version in a driver package's version, never from its name, which outlives its branch."""
    if not is_driver_package(package.name) or package.name.startswith(_KERNEL_VERSIONED):
        return None
    return find_driver_version(package.version)


def fabric_manager(packages: Sequence[Package]) -> Package | None:
    """The installed fabric manager, the newest if a transitional package stands beside it."""
    there = [
        package
        for package in packages
        if _FABRIC.fullmatch(package.name) and package.state not in {"config-files", "not-installed"}
    ]
    return max(there, key=lambda package: version_key(driver_version_of(package) or ""), default=None)


def _paragraph(text: str) -> Package | None:
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(text):
        fields.setdefault(name, value.strip())
    state = _state(fields.get("Status", ""))
    if state is None or not fields.get("Package"):
        return None
    return Package(fields["Package"], fields.get("Version", ""), fields.get("Architecture", ""), state)


def _state(status: str) -> str | None:
    """The state in "install ok installed"; a package flagged reinstreq counts as half there."""
    words = status.split()
    if len(words) != 3:
        return None
    return "half-installed" if words[1] != "ok" else _DPKG_STATES.get(words[2])

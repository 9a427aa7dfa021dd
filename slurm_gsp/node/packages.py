"""Which packages a realignment installs, which it removes, and whether there is anything to do. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from slurm_gsp.core.version import branch
from slurm_gsp.manifest.model import PinnedPackage, Profile
from slurm_gsp.manifest.parse import flavour_of
from slurm_gsp.parse.packages import Package, driver_version_of, is_driver_package

DEBIAN: Final = "debian"
RHEL: Final = "rhel"
SUSE: Final = "suse"
MANAGERS: Final[Mapping[str, str]] = {DEBIAN: "apt", RHEL: "dnf", SUSE: "zypper"}
"""The families of distributions that have templates, and what a manifest calls their packages."""

_RELATIVES: Final = {
    "debian": DEBIAN, "ubuntu": DEBIAN,
    "rhel": RHEL, "fedora": RHEL, "centos": RHEL, "rocky": RHEL, "almalinux": RHEL, "ol": RHEL, "amzn": RHEL,
    "suse": SUSE, "sles": SUSE, "opensuse": SUSE, "opensuse-leap": SUSE,
}  # fmt: skip
_OS_FIELD: Final = re.compile(r"^(ID|ID_LIKE)=[\"']?([^\"'\n]*)", re.MULTILINE)
_HEADERS: Final = ("linux-headers-", "kernel-devel", "kernel-default-devel")
_BRANCH: Final = re.compile(r"-([3-9][0-9]{2})(?=-|$)")
_RPM_32_BIT: Final = frozenset({"i386", "i486", "i586", "i686"})
_GONE: Final = frozenset({"config-files", "not-installed"})
_WHOLE: Final = frozenset({"installed", "triggers"})
# As `rpm -V` and `dpkg -V` write it: nine flags or "missing", an attribute letter, the path.
_DIFFERENCE: Final = re.compile(r"(missing|[.?A-Z0-9]{9,})\s+(?:([a-z])\s+)?(/.*)")
_CONTENT: Final = frozenset("S5L")
_NOT_CODE: Final = frozenset("cdglr")
"""Of rpm's attributes: configuration, documentation, what no package brings, licence, readme."""
_DOCUMENTS: Final = tuple(
    f"/usr/share/{name}/" for name in ("bug", "doc", "help", "info", "lintian", "locale", "man")
)


def family_of(os_release: str) -> str | None:
    """The family of a distribution, from its os-release; None for one that has no templates."""
    fields = dict(_OS_FIELD.findall(os_release))
    words = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
    return next((_RELATIVES[word] for word in words if word in _RELATIVES), None)


def wanted(profile: Profile, family: str) -> tuple[PinnedPackage, ...]:
    """What the profile pins for this family; () where it pins nothing for it."""
    packages = profile.packages
    return {DEBIAN: packages.apt, RHEL: packages.dnf, SUSE: packages.zypper}[family]


def uses_dkms(pinned: Sequence[PinnedPackage]) -> bool:
    """Whether one of these packages builds its modules on the node."""
    return any("dkms" in re.split(r"[-:]", package.name) for package in pinned)


def brings_headers(pinned: Sequence[PinnedPackage]) -> bool:
    """Whether headers of a kernel are among these packages."""
    return any(package.name.startswith(_HEADERS) for package in pinned)


def strays(
    packages: Sequence[Package], pinned: Sequence[PinnedPackage], profile: Profile, family: str
) -> tuple[Package, ...]:
    """Driver packages that are there, are not pinned by name, and are of another driver or flavour."""
    ours = {package for pin in pinned for package in _of(packages, pin, family)}
    return tuple(
        package
        for package in packages
        if package.state not in _GONE
        and package not in ours
        and is_driver_package(package.name)
        and _is_of_another(package, profile)
    )


def differences(packages: Sequence[Package], pinned: Sequence[PinnedPackage], family: str) -> tuple[str, ...]:
    """What the database shows otherwise than pinned, one line for each package; () where all is exact."""
    return tuple(filter(None, (_difference(packages, pin, family) for pin in pinned)))


def exact(
    packages: Sequence[Package], pinned: Sequence[PinnedPackage], family: str
) -> tuple[PinnedPackage, ...]:
    """The pinned packages of which the exact version is installed.

    Another one may be installed beside it, where the power went in the middle of an rpm transaction.
    """
    return tuple(
        pin
        for pin in pinned
        if any(
            one.state in _WHOLE and _plain(one.version) == _plain(pin.version)
            for one in _of(packages, pin, family)
        )
    )


def altered_files(verified: str) -> tuple[str, ...]:
    """Files that are not as their package brought them, from ``dpkg -V`` or ``rpm -V``.

    Configuration files are the admin's; times, owners and modes are not what a driver breaks on. Neither is
    documentation, and dpkg calls it missing where an image leaves it out (path-exclude).
    """
    found = (_DIFFERENCE.fullmatch(line.strip()) for line in verified.splitlines())
    return tuple(
        line[3]
        for line in found
        if line is not None
        and line[2] not in _NOT_CODE
        and not line[3].startswith(_DOCUMENTS)
        and (line[1] == "missing" or _CONTENT & set(line[1]))
    )


def spec(pin: PinnedPackage, family: str) -> str:
    """Name and version as the family's package manager takes them."""
    return f"{pin.name}-{pin.version}" if family == RHEL else f"{pin.name}={pin.version}"


def file_pattern(pin: PinnedPackage, family: str) -> str:
    """The name of the file that brings this package, as a pattern of a shell."""
    name, _, arch = pin.name.partition(":")
    if family == DEBIAN:
        return f"{name}_{pin.version.replace(':', '%3a')}_{arch or '*'}.deb"
    return f"{name}-{pin.version.rpartition(':')[2]}.*.rpm"


def full_name(package: Package, family: str, native: str) -> str:
    """What names this one package to the tool that removes it."""
    if family == DEBIAN:
        return package.name if package.arch in {"all", native} else f"{package.name}:{package.arch}"
    return f"{package.name}-{package.version.rpartition(':')[2]}.{package.arch}"


def native_arch(packages: Sequence[Package]) -> str:
    """The machine's own architecture, as dpkg names it: dpkg's own."""
    return next((package.arch for package in packages if package.name == "dpkg"), "amd64")


def without(status: str, gone: Sequence[Package]) -> str:
    """The text of dpkg's database as it will be once these packages are gone and all others are configured.

    apt resolves against it, so that what is broken now does not keep it from fetching what repairs it.
    """
    names = {(package.name, package.arch) for package in gone}
    kept = (part for part in status.split("\n\n") if _named(part) not in names)
    return _HALF.sub(r"\1 ok installed", "\n\n".join(kept))


_HALF: Final = re.compile(
    r"^(Status: \S+) \S+ (?:half-installed|unpacked|half-configured|triggers-\w+)$", re.MULTILINE
)
_FIELD: Final = re.compile(r"^(Package|Architecture): (\S+)$", re.MULTILINE)


def _named(paragraph: str) -> tuple[str, str]:
    fields = dict(_FIELD.findall(paragraph))
    return fields.get("Package", ""), fields.get("Architecture", "")


def _of(packages: Sequence[Package], pin: PinnedPackage, family: str) -> list[Package]:
    """The entries of the database that this pin is about: of its architecture, or of the machine's own."""
    name, _, arch = pin.name.partition(":")
    if family != DEBIAN:
        return [one for one in packages if one.name == name and one.arch not in _RPM_32_BIT]
    arches = {arch} if arch else {native_arch(packages), "all"}
    return [one for one in packages if one.name == name and one.arch in arches]


def _difference(packages: Sequence[Package], pin: PinnedPackage, family: str) -> str:
    there = [package for package in _of(packages, pin, family) if package.state not in _GONE]
    if not there:
        return f"{pin.name} is not installed"
    for package in there:
        if _plain(package.version) != _plain(pin.version):
            return f"{pin.name} is {package.version}, pinned is {pin.version}"
        if package.state not in _WHOLE:
            return f"{pin.name} is {package.state}"
    return ""


def _plain(version: str) -> str:
    """rpm shows epoch 0 where nobody wrote one."""
    return version.removeprefix("0:")


def _is_of_another(package: Package, profile: Profile) -> bool:
    version = driver_version_of(package)
    if version not in {None, profile.driver} or flavour_of(package.name) not in {None, profile.flavour}:
        return True
    found = _BRANCH.search(package.name) if version is None else None
    return found is not None and int(found[1]) != branch(profile.driver)

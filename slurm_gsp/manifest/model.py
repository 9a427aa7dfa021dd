"""A manifest as a value: which nodes, and the whole tuple of versions that they should run."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from slurm_gsp.core.evidence import Pin
from slurm_gsp.parse.gres import expand_hostlist


@dataclass(frozen=True, slots=True)
class Matcher:
    """Which nodes a profile is for. Every list that is given must fit; in a list, one entry must.

    ``nodes`` is a hostlist, empty when not given. A GRES is ``gpu``, ``gpu:h100`` or ``gpu:h100:8``.
    """

    nodes: str = ""
    partitions: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    gres: tuple[str, ...] = ()

    def names(self) -> frozenset[str]:
        """The nodes that are named; empty when none is."""
        return frozenset(expand_hostlist(self.nodes))


@dataclass(frozen=True, slots=True)
class PinnedPackage:
    """One package and its exact version as its package manager writes it, with epoch and release."""

    name: str
    version: str


@dataclass(frozen=True, slots=True)
class Packages:
    """What is pinned for each package manager; () where a manager is not used."""

    apt: tuple[PinnedPackage, ...] = ()
    dnf: tuple[PinnedPackage, ...] = ()
    dnf_modules: tuple[str, ...] = ()
    zypper: tuple[PinnedPackage, ...] = ()


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file by name, and the SHA-256 of its content in small hexadecimal digits."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Hardware:
    """What else was validated together with the driver; None: not pinned."""

    vbios: str | None = None
    inforom: str | None = None
    cuda: str | None = None
    nic_firmware: str | None = None
    pcie_width: int | None = None
    pcie_generation: int | None = None
    topology: str | None = None


@dataclass(frozen=True, slots=True)
class FirmwarePin:
    """Firmware that a node's BMC lists: a component's id, with * and ? for parts of it, and its version."""

    component: str
    version: str

    def covers(self, component: str) -> bool:
        """Whether the component of this id is pinned by it."""
        return fnmatchcase(component, self.component)


@dataclass(frozen=True, slots=True)
class Profile:
    """One hardware variant: its nodes and its validated tuple. ``flavour`` is "open" or "proprietary"."""

    name: str
    matcher: Matcher
    driver: str
    flavour: str
    gpus: int
    fabric_manager: bool
    packages: Packages
    hardware: Hardware = field(default_factory=Hardware)
    images: tuple[FileDigest, ...] = ()
    downloads: tuple[FileDigest, ...] = ()
    bmc: tuple[FirmwarePin, ...] = ()

    def pin(self, source: str) -> Pin:
        """The pin as the detector compares it with a node."""
        return Pin(self.driver, self.flavour, source)


@dataclass(frozen=True, slots=True)
class Manifest:
    """One release of the fleet's pin; ``previous`` None: the first, there is nothing to roll back to."""

    name: str
    previous: str | None
    created: datetime
    profiles: tuple[Profile, ...]
    notes: str = ""

    def profile(self, name: str) -> Profile:
        """The profile of that name; KeyError when there is none."""
        return {profile.name: profile for profile in self.profiles}[name]

"""What stands against a realignment before its first change: one function for each, in one table. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from slurm_gsp.config import Config
from slurm_gsp.core.reading import Known, Unknown, value_of
from slurm_gsp.core.rules import sb_refused, vbios
from slurm_gsp.core.view import View
from slurm_gsp.node import packages as pkg
from slurm_gsp.node.situation import Situation
from slurm_gsp.node.target import Target

Against: TypeAlias = Callable[[Situation, Target, Config], str]
"""Why not, or an empty text. The first words have to make sense alone: a Reason cuts the rest."""


def not_root(now: Situation, _target: Target, _config: Config) -> str:
    """Only root installs."""
    return "" if now.is_root else "root is needed"


def nothing_pinned(now: Situation, target: Target, _config: Config) -> str:
    """The manifest says nothing for this distribution."""
    if not now.family:
        return f"no steps for this distribution: {now.distribution}"
    if now.pinned:
        return ""
    manager = pkg.MANAGERS[now.family]
    return f"profile {target.profile.name} pins no package for {manager}, which {now.distribution} uses"


def other_pin(_now: Situation, target: Target, config: Config) -> str:
    """[pin] of config.toml would call the node drifted at once."""
    pin, profile = config.pin, target.profile
    if pin.driver not in {None, profile.driver}:
        return _two_pins("driver", pin.driver, profile.driver)
    if pin.flavour not in {None, profile.flavour}:
        return _two_pins("flavour", pin.flavour, profile.flavour)
    return ""


def _two_pins(key: str, configured: str | None, pinned: str) -> str:
    return f"config.toml pins {key} {configured}, the profile {pinned}: remove {key} from [pin]"


def gpus(now: Situation, target: Target, _config: Config) -> str:
    """A GPU that is not on PCI comes back by no package."""
    pci = now.evidence.pci
    if not isinstance(pci, Known):
        return f"PCI could not be read: {pci.why if isinstance(pci, Unknown) else 'nothing there'}"
    there = len(pci.value.gpus)
    if there >= target.profile.gpus:
        return ""
    return f"{there} of {target.profile.gpus} GPUs on PCI: no matter of versions, see gpu-missing"


def unsigned_modules(now: Situation, _target: Target, _config: Config) -> str:
    """Under Secure Boot, the next boot would refuse what is built here."""
    on = value_of(now.evidence.secure_boot) or sb_refused(View(now.evidence)) is not None
    return f"Secure Boot is on and {now.unsigned}" if on and now.unsigned else ""


def board_firmware(now: Situation, _target: Target, _config: Config) -> str:
    """VBIOS and FWSEC errors are the board's: a driver package flashes no board."""
    found = vbios(View(now.evidence))
    return f"{found.summary}: escalate, do not reinstall" if found else ""


def database(now: Situation, _target: Target, _config: Config) -> str:
    """Without it nobody knows what is installed."""
    packages = now.evidence.packages
    if isinstance(packages, Known):
        return ""
    return f"package database: {packages.why if isinstance(packages, Unknown) else 'there is none'}"


def transaction(now: Situation, _target: Target, _config: Config) -> str:
    """Another package manager is at work."""
    held = value_of(now.evidence.transaction)
    return f"a package manager still runs (lock {held.split()[0]})" if held else ""


def next_kernel(now: Situation, _target: Target, _config: Config) -> str:
    """Modules are built for the kernel that boots next."""
    if now.kernel is None:
        return "nothing tells which kernel boots next"
    if now.headers or not pkg.uses_dkms(now.pinned) or pkg.brings_headers(now.pinned):
        return ""
    return f"no headers of kernel {now.kernel}: DKMS cannot build for it; install or pin them"


def space(now: Situation, _target: Target, config: Config) -> str:
    """A full disk in the middle is the worst place to stop."""
    for path, free in now.free_mb:
        if free < config.realign.min_free_mb:
            return f"{free} MB free on {path}, min_free_mb is {config.realign.min_free_mb}"
    return ""


REALIGN: Final[tuple[Against, ...]] = (
    not_root, nothing_pinned, other_pin, gpus, unsigned_modules, board_firmware, database, transaction,
    next_kernel, space,
)  # fmt: skip
STAGE: Final[tuple[Against, ...]] = (not_root, nothing_pinned, database, space)
"""Staging changes nothing that runs, so it asks less."""


def against(rules: tuple[Against, ...], now: Situation, target: Target, config: Config) -> tuple[str, ...]:
    """All that stands against it, the first reason first."""
    return tuple(filter(None, (rule(now, target, config) for rule in rules)))

"""What a manifest pins for each node, as nodes publish it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from slurm_gsp.core.published import DRIVER_KEY, FABRIC_KEY, FLAVOUR_KEY, NICS_KEY, VBIOS_KEY
from slurm_gsp.fleet.errors import FleetError
from slurm_gsp.fleet.view import Target
from slurm_gsp.manifest.load import load
from slurm_gsp.manifest.match import NodeFacts, assign
from slurm_gsp.manifest.model import Manifest, Profile
from slurm_gsp.manifest.parse import ManifestError
from slurm_gsp.manifest.sign import FileError, SignatureError
from slurm_gsp.slurm.overview import Line


def load_manifest(path: Path) -> Manifest:
    """The manifest in this file. FleetError."""
    try:
        return load(path).manifest
    except ManifestError as error:
        raise FleetError(error.errors) from error
    except (FileError, SignatureError) as error:
        raise FleetError([str(error)]) from error


def target_of(manifest: Manifest, lines: Iterable[Line]) -> Target:
    """The profile of every node, and what it pins. FleetError."""
    assigned = assign(manifest, [_facts(line) for line in lines])
    if assigned.overlaps:
        raise FleetError(
            f"{item.node} fits the profiles {' and '.join(item.profiles)} of {manifest.name}; it may fit one"
            for item in assigned.overlaps
        )
    pins = {profile.name: pins_of(profile) for profile in manifest.profiles}
    return Target(manifest.name, pins, dict(assigned.by_node))


def pins_of(profile: Profile) -> dict[str, str]:
    """The keys that a profile pins, and their values."""
    pins = {
        DRIVER_KEY: profile.driver,
        FLAVOUR_KEY: profile.flavour,
        FABRIC_KEY: profile.driver if profile.fabric_manager else None,
        VBIOS_KEY: profile.hardware.vbios.upper() if profile.hardware.vbios else None,
        NICS_KEY: profile.hardware.nic_firmware,
    }
    return {key: value for key, value in pins.items() if value}


def _facts(line: Line) -> NodeFacts:
    return NodeFacts(line.name, _listed(line.partitions), _listed(line.features), _listed(line.gres))


@cache
def _listed(text: str) -> tuple[str, ...]:
    """The words of a list, without sockets behind them: ``gpu:h100:8(S:0-1)``."""
    words, depth = [""], 0
    for char in text:
        depth += char == "("
        if char == "," and depth == 0:
            words.append("")
        elif depth == 0:
            words[-1] += char
        depth -= char == ")"
    return tuple(filter(None, words))

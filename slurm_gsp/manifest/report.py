"""A manifest for people and as one JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from slurm_gsp.manifest.model import FileDigest, Manifest, PinnedPackage, Profile

_HARDWARE: Final = ("vbios", "inforom", "cuda", "nic_firmware", "pcie_width", "pcie_generation")
_MANAGERS: Final = ("apt", "dnf", "zypper")


def as_object(manifest: Manifest, digest: str) -> dict[str, object]:
    """The manifest as JSON; what is not pinned is null."""
    return {
        "name": manifest.name,
        "previous": manifest.previous,
        "created": manifest.created.isoformat(),
        "notes": manifest.notes,
        "sha256": digest,
        "profiles": {profile.name: _profile_object(profile) for profile in manifest.profiles},
    }


def as_text(manifest: Manifest, digest: str) -> str:
    """The manifest on a few lines for each profile."""
    lines = [
        f"manifest {manifest.name}",
        f"  previous  {manifest.previous or 'none'}",
        f"  created   {manifest.created.isoformat(sep=' ')}",
        f"  sha256    {digest}",
    ]
    lines += [f"  notes     {line}" for line in manifest.notes.strip().splitlines()]
    for profile in manifest.profiles:
        lines += ["", *_profile_lines(profile)]
    return "\n".join(map(_printable, lines))


def _profile_lines(profile: Profile) -> list[str]:
    matcher = profile.matcher
    fields = [("nodes", matcher.nodes)] if matcher.nodes else []
    fields += [
        (key, " or ".join(values))
        for key, values in (
            ("partitions", matcher.partitions),
            ("features", matcher.features),
            ("gres", matcher.gres),
        )
        if values
    ]
    manager = "with fabric manager" if profile.fabric_manager else "without fabric manager"
    fields += [("driver", f"{profile.driver} {profile.flavour}"), ("gpus", f"{profile.gpus}, {manager}")]
    fields += [
        (key, str(value)) for key in _HARDWARE if (value := getattr(profile.hardware, key)) is not None
    ]
    if profile.hardware.topology is not None:
        fields.append(("topology", f"{len(profile.hardware.topology.splitlines())} lines"))
    fields += [("dnf module", module) for module in profile.packages.dnf_modules]
    for name in _MANAGERS:
        packages: Sequence[PinnedPackage] = getattr(profile.packages, name)
        fields += [(name, f"{package.name} {package.version}") for package in packages]
    fields += [("image", f"{file.sha256}  {file.name}") for file in profile.images]
    fields += [("download", f"{file.sha256}  {file.name}") for file in profile.downloads]
    fields += [("bmc", f"{pin.component} {pin.version}") for pin in profile.bmc]
    return [f"profile {profile.name}", *(f"  {key:15}  {value}" for key, value in fields)]


def _profile_object(profile: Profile) -> dict[str, object]:
    packages = profile.packages
    return {
        "nodes": profile.matcher.nodes or None,
        "partitions": list(profile.matcher.partitions),
        "features": list(profile.matcher.features),
        "gres": list(profile.matcher.gres),
        "driver": profile.driver,
        "flavour": profile.flavour,
        "gpus": profile.gpus,
        "fabric_manager": profile.fabric_manager,
        "packages": {
            "apt": _versions(packages.apt),
            "dnf": _versions(packages.dnf),
            "dnf_modules": list(packages.dnf_modules),
            "zypper": _versions(packages.zypper),
        },
        **{key: getattr(profile.hardware, key) for key in (*_HARDWARE, "topology")},
        "images": _digests(profile.images),
        "downloads": _digests(profile.downloads),
        "bmc": {pin.component: pin.version for pin in profile.bmc},
    }


def _versions(packages: Sequence[PinnedPackage]) -> dict[str, str]:
    return {package.name: package.version for package in packages}


def _digests(files: Sequence[FileDigest]) -> dict[str, str]:
    return {file.name: file.sha256 for file in files}


def _printable(line: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in line)

"""Manifests of what the lab's repository offers, where every node of the lab sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from slurm_gsp.core.operation import DIGEST_LENGTH
from slurm_gsp.lab import packages
from slurm_gsp.lab.cluster import Lab

FOLDER = "/etc/slurm-gsp/manifests"


def manifest_text(
    name: str, version: str, previous: str = "none", downloads: Mapping[str, str] | None = None
) -> str:
    """A manifest that pins one driver version for the lab's nodes."""
    pins = "\n".join(
        f'"{package}" = "{packages.deb_version(version)}"'
        for package in packages.driver_package_names(version)
    )
    sums = "\n".join(f'"{file}" = "{digest}"' for file, digest in (downloads or {}).items())
    return f"""\
name = "{name}"
previous = "{previous}"
created = 2026-11-21T09:00:00Z
[profile.h100]
gres = ["gpu:h100:2"]
driver = "{version}"
flavour = "open"
gpus = 2
fabric_manager = false
[profile.h100.packages.apt]
{pins}
{f"[profile.h100.downloads]{chr(10)}{sums}{chr(10)}" if downloads else ""}"""


def write_manifest(
    lab: Lab,
    name: str,
    version: str,
    previous: str = "none",
    downloads: Mapping[str, str] | None = None,
) -> str:
    """Put a manifest where the nodes look; how an operation names it: ``name@digest``."""
    data = manifest_text(name, version, previous, downloads).encode()
    (lab.manifests / f"{name}.toml").write_bytes(data)
    return f"{name}@{hashlib.sha256(data).hexdigest()[:DIGEST_LENGTH]}"

"""The packages of a profile, fetched ahead: one folder for each manifest and profile, checked at each use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from slurm_gsp.config import Config
from slurm_gsp.core.operation import DIGEST_LENGTH
from slurm_gsp.core.reading import value_of
from slurm_gsp.hook.memory import write_text
from slurm_gsp.manifest.model import FileDigest, PinnedPackage
from slurm_gsp.node import packages as pkg
from slurm_gsp.node.failing import StepError
from slurm_gsp.node.host import Host
from slurm_gsp.node.target import Target
from slurm_gsp.node.trusted import why_untrusted
from slurm_gsp.parse.packages import Package

MARKER: Final = "staged.json"
"""Says that everything is there, and what its files are."""
STATUS: Final = "status"
"""The package database as it will be after the purge, for apt to resolve against."""
DPKG_STATUS: Final = "/var/lib/dpkg/status"
_ENDINGS: Final = (".deb", ".rpm")


def staging_folder(config: Config, target: Target) -> Path:
    """Where the packages of this profile are staged, and nothing else: what lies there is installed."""
    return Path(config.realign.downloads) / target.digest[:DIGEST_LENGTH] / target.profile.name


def make_folder(host: Host, folder: Path) -> None:
    """Make it. StepError where others than root could put packages into it."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for place in (folder, folder.parent):  # and that one's folder, the one that is configured
        if why := why_untrusted(place, host.owner_uid):
            raise StepError(why)


def is_staged(folder: Path, pinned: Sequence[PinnedPackage]) -> bool:
    """Whether everything was fetched for exactly these packages, and is still there."""
    packages, files = _load(folder / MARKER)
    names = {path.name for path in _files(folder)}
    return bool(pinned) and packages == _as_dict(pinned) and names >= files.keys()


def write_status(host: Host, folder: Path, gone: Sequence[Package]) -> None:
    """Put down the database as the purge will leave it; nothing where there is no dpkg."""
    status = value_of(host.root.read(DPKG_STATUS, 256 << 20))
    if status is not None:
        write_text(folder / STATUS, pkg.without(status, gone))


def finish(
    folder: Path, downloads: Sequence[FileDigest], pinned: Sequence[PinnedPackage], family: str
) -> int:
    """Compare all that was fetched with what is pinned and remember it; how many files there are.

    Files that differ are removed, so that the next try fetches them again. StepError: install nothing.
    """
    (folder / MARKER).unlink(missing_ok=True)
    digests = {path: _sha256(path) for path in _files(folder)}
    _check_files(digests, downloads)
    for pin in pinned:
        if not any(path.match(pkg.file_pattern(pin, family)) for path in digests):
            raise StepError(f"{pin.name} {pin.version} was not fetched: no {pkg.file_pattern(pin, family)}")
    known = {"packages": _as_dict(pinned), "files": {path.name: digest for path, digest in digests.items()}}
    write_text(folder / MARKER, json.dumps(known, indent=1))
    return len(digests)


def check_again(folder: Path) -> bool:
    """Whether every staged file is still what it was; what is not goes, and with it the marker."""
    _, known = _load(folder / MARKER)
    changed = [path for path in _files(folder) if known.get(path.name) != _sha256(path)]
    for path in changed:
        path.unlink()
        (folder / MARKER).unlink(missing_ok=True)
    return not changed


def _check_files(digests: dict[Path, str], pinned: Sequence[FileDigest]) -> None:
    """Where the profile pins downloads: nothing else, and nothing that differs."""
    if not pinned:
        return
    wanted = {_plain(entry.name): entry.sha256 for entry in pinned}
    wrong = []
    for path, digest in digests.items():
        expected = wanted.get(_plain(path.name))
        if expected != digest:
            path.unlink()
            told = (
                f"its SHA-256 is {digest}, pinned is {expected}"
                if expected
                else "it is not among the downloads"
            )
            wrong.append(f"{path.name}: {told}")
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise StepError(f"{wrong[0]}{more}; nothing was installed")


def _plain(name: str) -> str:
    """apt writes the colon behind an epoch as %3a."""
    return name.replace("%3a", ":")


def _files(folder: Path) -> list[Path]:
    """The packages in a folder: apt puts them into it, dnf and zypper below it."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix in _ENDINGS and path.parent.name != "partial"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_dict(pinned: Sequence[PinnedPackage]) -> dict[str, str]:
    return {pin.name: pin.version for pin in pinned}


def _load(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    try:
        data = json.loads(path.read_text("utf-8"))
        return dict(data["packages"]), dict(data["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}, {}

"""Which client is used for changes: pyslurm where it fits the Slurm that runs, scontrol everywhere else.

pyslurm X.Y runs with Slurm X.Y alone, and another one can end the process at its first call. So everything
here is found out without importing it: its version from its metadata, the release of slurmctld and of the
client commands from scontrol, and at last one call in a process of its own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Final, Literal

from slurm_gsp import process
from slurm_gsp.slurm.admin import Run, ScontrolAdmin, SlurmAdmin
from slurm_gsp.slurm.ask import asking
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.pyslurm_backend import PyslurmAdmin, load_pyslurm

TRIAL_S: Final = 30.0
"""Seconds for a first call of pyslurm; it takes 0.1 s, and MessageTimeout where slurmctld is away."""
_TRIAL: Final = "import pyslurm; pyslurm.Reservations.load()"
_RELEASE: Final = re.compile(r"(\d+\.\d+)(?:\.|$)")
_CONTROLLER: Final = re.compile(r"^SLURM_VERSION\s*=\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which client is used, and why."""

    backend: Literal["scontrol", "pyslurm"]
    why: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where Slurm is: scontrol by absolute path, SLURM_CONF where it is needed, seconds for each command."""

    scontrol: str = "/usr/bin/scontrol"
    conf: str | None = None
    deadline_s: float = 30.0


def installed_pyslurm() -> str | None:
    """The version of pyslurm in this Python environment, told by its metadata; None: it is not there."""
    try:
        return metadata.version("pyslurm")
    except metadata.PackageNotFoundError:
        return None


def choose(
    wanted: str,
    place: Place,
    run: Run = process.run,
    installed: Callable[[], str | None] = installed_pyslurm,
) -> Choice:
    """The client to use. SlurmError where pyslurm is asked for by name and does not fit."""
    if wanted == "scontrol":
        return Choice("scontrol", "by configuration")
    version = installed()
    why = _unfit(version, place, run)
    if why is None:
        return Choice("pyslurm", f"pyslurm {version} fits this Slurm")
    if wanted == "pyslurm":
        raise SlurmError(f'backend = "pyslurm" in [slurm]: {why}')
    return Choice("scontrol", why)


def admin(wanted: str, place: Place, run: Run = process.run) -> SlurmAdmin:
    """The client that is chosen, ready to use. SlurmError as for ``choose``."""
    choice = choose(wanted, place, run)
    by_commands = ScontrolAdmin(run, scontrol=place.scontrol, deadline_s=place.deadline_s, conf=place.conf)
    if choice.backend == "scontrol":
        return by_commands
    return PyslurmAdmin(load_pyslurm(place.conf), by_commands)


def _unfit(version: str | None, place: Place, run: Run) -> str | None:
    """Why this pyslurm is not used; None: it fits."""
    if version is None:
        return "pyslurm is not installed in this Python environment"
    ask = asking(run, place.conf, place.deadline_s)
    try:
        controller = _CONTROLLER.search(ask(place.scontrol, "show", "config"))
        commands = ask(place.scontrol, "--version").split()
    except SlurmError as error:
        return f"Slurm does not tell its release: {error}"
    told = {"slurmctld": controller[1] if controller else "", "scontrol": commands[-1] if commands else ""}
    for program, release in told.items():
        if _release(release) is None or _release(release) != _release(version):
            return (
                f"pyslurm {version} fits Slurm {_release(version)} alone, and {program} is {release or '?'}"
            )
    return _trial(version, place, run)


def _trial(version: str, place: Place, run: Run) -> str | None:
    """Let a process of its own load it and ask once: it may be linked with another libslurm."""
    env = {"SLURM_CONF": place.conf} if place.conf else {}
    try:
        done = run((sys.executable, "-c", _TRIAL), deadline_s=TRIAL_S, env=env)
    except process.ProcessError as error:
        return f"pyslurm {version} does not work here: {error}"
    if done.rc == 0:
        return None
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return f"pyslurm {version} does not work here: {said[-1] if said else f'exit status {done.rc}'}"[:300]


def _release(version: str) -> str | None:
    """``25.11`` of ``25.11.7`` or ``25.11.0rc1``."""
    found = _RELEASE.match(version)
    return found[1] if found else None

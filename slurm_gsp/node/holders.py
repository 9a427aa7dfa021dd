"""Who has the driver open: processes with a descriptor on /dev/nvidia*, named and never ended."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from slurm_gsp.collect.bounded import LeftBehind, in_child
from slurm_gsp.node.failing import StepError

DEVICES: Final = "/dev/nvidia"
SERVICES: Final = frozenset({
    "nvidia-persistenced", "nvidia-persiste", "nv-fabricmanager", "nv-fabricmanage", "nv-hostengine",
    "dcgm-exporter", "nvidia-imex", "nvidia-dcgm",
})  # fmt: skip
"""Programs of the services that are stopped first; the kernel cuts names at 15 characters."""
_JOB_OF_CGROUP: Final = re.compile(r"/job_([0-9]+)(?:/|$)", re.MULTILINE)
_STEPD: Final = re.compile(r"slurmstepd: \[([0-9]+)\.")
_MAX_DEPTH: Final = 64


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has the driver open; ``job`` is the Slurm job that it belongs to."""

    pid: int
    name: str
    user: str
    job: str | None = None

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"{self.name} (pid {self.pid}, {self.user}{job})"


def find_holders(proc: Path = Path("/proc"), passwd: Path = Path("/etc/passwd")) -> tuple[Holder, ...]:
    """The processes that have a device of NVIDIA's open, ourselves left out."""
    users = _users(passwd)
    return tuple(_holder(proc, pid, users) for pid in _pids(proc) if pid != os.getpid() and _holds(proc, pid))


def holders_in_time(proc: Path, deadline_s: float) -> tuple[Holder, ...] | None:
    """As find_holders, in a child; None: /proc does not answer for a process that is stuck in the driver."""
    try:
        found = in_child(lambda: [asdict(holder) for holder in find_holders(proc)], deadline_s)
    except LeftBehind:
        return None
    if not isinstance(found, list):
        raise StepError(f"{proc} could not be read: nobody can tell who has the driver open")
    return tuple(Holder(**entry) for entry in found)


def of_jobs(holders: Iterable[Holder]) -> tuple[Holder, ...]:
    """Those that belong to Slurm jobs."""
    return tuple(holder for holder in holders if holder.job is not None)


def of_others(holders: Iterable[Holder]) -> tuple[Holder, ...]:
    """All but the services that are stopped first."""
    return tuple(holder for holder in holders if holder.job is not None or holder.name not in SERVICES)


def named(holders: Iterable[Holder]) -> str:
    """For people."""
    return ", ".join(map(str, holders))


def _pids(proc: Path) -> Iterator[int]:
    return (
        int(name) for name in sorted(os.listdir(proc), key=lambda name: (len(name), name)) if name.isdecimal()
    )


def _holds(proc: Path, pid: int) -> bool:
    folder = proc / str(pid) / "fd"
    try:
        return any(_target(folder / name).startswith(DEVICES) for name in os.listdir(folder))
    except OSError:  # it ended meanwhile
        return False


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def _holder(proc: Path, pid: int, users: dict[int, str]) -> Holder:
    name = _text(proc / str(pid) / "comm").strip()
    uid = re.search(r"^Uid:\s*([0-9]+)", _text(proc / str(pid) / "status"), re.MULTILINE)
    number = int(uid[1]) if uid else -1
    return Holder(pid, name or "?", users.get(number, f"uid {number}"), _job_of(proc, pid))


def _job_of(proc: Path, pid: int) -> str | None:
    """By its cgroup, which is told of a stuck process too, its environment, or the slurmstepd above it."""
    found = _JOB_OF_CGROUP.search(_text(proc / str(pid) / "cgroup"))
    if found:
        return found[1]
    for variable in _text(proc / str(pid) / "environ").split("\0"):
        if variable.startswith("SLURM_JOB_ID=") and variable[13:].isdecimal():
            return variable[13:]
    for above in ancestors(proc, pid):
        stepd = _STEPD.match(_text(proc / str(above) / "cmdline"))
        if stepd:
            return stepd[1]
    return None


def ancestors(proc: Path, pid: int) -> Iterator[int]:
    """The processes above one, nearest first."""
    for _ in range(_MAX_DEPTH):
        fields = _text(proc / str(pid) / "stat").rpartition(")")[2].split()
        if len(fields) < 2 or fields[1] == "0":
            return
        pid = int(fields[1])
        yield pid


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _users(passwd: Path) -> dict[int, str]:
    """Of the file alone: a directory service may hang."""
    fields = (line.split(":") for line in _text(passwd).splitlines())
    return {int(field[2]): field[0] for field in fields if len(field) > 2 and field[2].isdecimal()}

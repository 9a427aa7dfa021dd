"""The machine that is maintained, as far as the steps reach it; tests hand in their own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from slurm_gsp import process
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import LiveRunner, Runner
from slurm_gsp.config import Config
from slurm_gsp.hook.main import boot_id
from slurm_gsp.hook.memory import PLACES
from slurm_gsp.node.journal import Places
from slurm_gsp.slurm.scontrol import Run

LOGS = Path("/var/log/slurm-gsp")
RUN = Path("/run/slurm-gsp")
COMMAND_S = 60.0
"""For commands that only look, on a node that nobody waits for: dkms and rpm take their time."""


def free_mb(path: Path) -> int:
    """Megabytes that root can still write where this path is, or will be."""
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize >> 20


@dataclass(frozen=True, slots=True)
class Host:
    """One node: Slurm's name for it, how it is read and commands are run, and where things are kept.

    ``proc_s``: how long /proc may take to answer; of a process that is stuck in the driver it may never.
    """

    node: str
    runner: Runner
    root: Root = field(default_factory=Root)
    run: Run = process.run
    find: Callable[[str], str | None] = process.find_command
    proc: Path = Path("/proc")
    proc_s: float = 10.0
    state: Places = field(default_factory=Places)
    logs: Path = LOGS
    folder: Path = RUN
    ladder: Path = PLACES.ladder
    boot_id: Callable[[], str] = boot_id
    free_mb: Callable[[Path], int] = free_mb
    is_root: bool = True
    pause: Callable[[float], None] = time.sleep
    owner_uid: int = 0


def this_host(node: str, config: Config) -> Host:
    """This machine."""
    runner = LiveRunner(COMMAND_S, config.deadlines.nvml_s)
    return Host(node, runner, is_root=os.geteuid() == 0)

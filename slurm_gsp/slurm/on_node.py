"""What a node asks Slurm about itself before it is taken apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from slurm_gsp import process
from slurm_gsp.slurm.client import NodeState, SlurmError, check_node_name
from slurm_gsp.slurm.scontrol import Run, Scontrol

HOLDING: Final = "RUNNING,SUSPENDED,COMPLETING,CONFIGURING,RESIZING,SIGNALING,STAGE_OUT,STOPPED"
"""States in which a job holds its nodes."""


class SlurmOfNode(Protocol):
    """Slurm, as far as the maintenance of one node needs it; every call is bounded and raises SlurmError."""

    def record(self, name: str) -> str:
        """One node as scontrol writes it, on one line."""
        ...

    def jobs(self, name: str) -> tuple[str, ...]:
        """The ids of the jobs that hold this node."""
        ...

    def drain_unless(self, name: str, reason: str, keep: Callable[[NodeState], bool]) -> NodeState:
        """Read one node and drain it only if ``keep`` of what was read is false; the state that was read."""
        ...


class ScontrolOfNode(Scontrol):
    """SlurmOfNode by scontrol and the squeue beside it."""

    def __init__(
        self,
        run: Run = process.run,
        *,
        scontrol: str = "/usr/bin/scontrol",
        deadline_s: float = 10.0,
        conf: str | None = None,
    ) -> None:
        super().__init__(run, scontrol=scontrol, deadline_s=deadline_s, conf=conf)
        self._squeue = str(Path(scontrol).with_name("squeue"))

    def jobs(self, name: str) -> tuple[str, ...]:
        """The ids of the jobs that hold this node."""
        check_node_name(name)
        argv = (self._squeue, "-h", "-a", "-w", name, "-t", HOLDING, "-o", "%A")
        try:
            done = self._run(argv, deadline_s=self._deadline_s, env=self._env)
        except process.ProcessError as error:
            raise SlurmError(f"squeue: {error}") from error
        ids = done.stdout.split()
        if done.rc != 0 or not all(map(str.isdecimal, ids)):
            said = " / ".join((done.stderr or done.stdout).split("\n"))[:300].strip(" /")
            raise SlurmError(f"squeue: {said or 'no answer'} (exit status {done.rc})")
        return tuple(dict.fromkeys(ids))

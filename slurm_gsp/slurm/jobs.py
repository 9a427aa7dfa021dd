"""What the prolog asks of Slurm for one job, through scontrol and scancel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Protocol

from slurm_gsp import process
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.scontrol import Scontrol, failed, kind_of

_GONE: Final = re.compile(r"pending execution|already complet|Invalid job id", re.IGNORECASE)
"""Somebody else, another node's prolog for one, sent the job away first."""
_NEVER: Final = re.compile(r"Only batch jobs|presently disabled", re.IGNORECASE)
"""Not a batch job, or submitted with --no-requeue."""


class JobClient(Protocol):
    """Slurm, as far as a prolog needs it for its own job; every call is bounded and raises SlurmError."""

    def exact(self, job: str) -> str:
        """The name of this job and of no other."""
        ...

    def explain(self, job: str, text: str) -> None:
        """Put a text where its owner sees it."""
        ...

    def requeue_held(self, job: str) -> bool:
        """Send the job back into the queue, held. False: it is of a kind that cannot be."""
        ...

    def cancel(self, job: str) -> None:
        """End the job."""
        ...


class ScontrolJobs(Scontrol):
    """JobClient by scontrol and scancel."""

    def exact(self, job: str) -> str:
        """``7_3`` for a task of an array: one of its tasks has the number of the array, which means all."""
        if not re.fullmatch(r"[0-9]+", job):
            raise ValueError(f"not the id of one job: {job!r}")
        lines = self._ask("-o", "show", "job", job).stdout
        task = re.search(rf"^JobId={job} ArrayJobId=([0-9]+) ArrayTaskId=([0-9]+) ", lines, re.MULTILINE)
        return f"{task[1]}_{task[2]}" if task else job

    def explain(self, job: str, text: str) -> None:
        """AdminComment: what the job's owner wrote into Comment stays."""
        self._change("update", f"jobid={job}", f"admincomment={text}")

    def requeue_held(self, job: str) -> bool:
        """By ``requeuehold``; its owner may release it."""
        return self._sent_away("scontrol", "requeuehold", job)

    def cancel(self, job: str) -> None:
        """By scancel, from the folder of scontrol."""
        if not self._sent_away("scancel", job):
            raise SlurmError(f"scancel {job}: it cannot be ended")

    def _sent_away(self, command: str, *words: str) -> bool:
        argv = (str(Path(self._scontrol).with_name(command)), *words)
        asked = " ".join((command, *words))
        try:
            finished = self._run(argv, deadline_s=self._deadline_s, env=self._env)
        except process.ProcessError as error:
            raise failed(error, asked) from error
        said = f"{finished.stderr}\n{finished.stdout}".strip()
        if finished.rc == 0 or _GONE.search(said):
            return True
        if _NEVER.search(said):
            return False
        raise kind_of(said)(f"{asked}: {said[:500] or 'no answer'} (exit status {finished.rc})")

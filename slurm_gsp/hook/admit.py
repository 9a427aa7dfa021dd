"""The prolog's last question: does the node run what this job asked for?

Slurm places a job by what the node's record says. Where that is stale, or nothing filters on it, the job is
sent away again, and the node stays in service: nothing is wrong with it, and any user can ask for anything.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from slurm_gsp.collect.collect import loaded_driver
from slurm_gsp.collect.root import Root
from slurm_gsp.config import Config
from slurm_gsp.core.admission import demands_of, refusal
from slurm_gsp.core.published import DRIVER_KEY, MANIFEST_KEY
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown
from slurm_gsp.hook import memory as store
from slurm_gsp.hook.log_look import CURSOR, DUE
from slurm_gsp.hook.memory import Places
from slurm_gsp.node.journal import Places as Journals
from slurm_gsp.node.journal import load_pin
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.jobs import JobClient

LEAVE_S: Final = 3.0
"""slurmd starts nothing of a job that it was told to end while its prolog ran, so we wait for that word: it
leaves slurmctld within milliseconds, or with its next round of messages."""
TRIES: Final = 2
"""Each may take ``slurm_s``, and the whole prolog ``run_s``."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What the question needs of the machine; ``root`` shows the loaded driver, ``wait`` takes seconds."""

    config: Config
    jobs: JobClient
    node: str
    places: Places
    say: Callable[[str], None]
    root: Root
    wait: Callable[[float], None] = time.sleep

    def admit(self, environment: Mapping[str, str]) -> bool:
        """Whether the job of this environment may start here; if not, it is on its way out.

        SlurmError where it is not to start and Slurm cannot be told.
        """
        demands = demands_of(
            environment.get("SLURM_JOB_CONSTRAINTS", ""),
            environment.get("SLURM_JOB_EXTRA", ""),
            features=self.config.verify.feature,
        )
        if not demands:
            return True
        has = {DRIVER_KEY: loaded_driver(self.root), MANIFEST_KEY: pinned_manifest(self.places)}
        why = refusal(demands, has)
        if not why:
            return True
        text = f"{self.node} runs {why}"
        self._look_again()
        # a component of a heterogeneous job comes and goes with all of it, under the number of the first
        job = environment.get("SLURM_HET_JOB_ID") or environment["SLURM_JOB_ID"]
        ending = self._send_away(job, f"slurm-gsp: {text}; not started there")
        self.say(f"job {job} not started: {text}; {ending}")
        print(f"slurm-gsp prolog: {text}; {ending}", file=sys.stderr)
        self.wait(LEAVE_S)
        return False

    def _send_away(self, job: str, text: str) -> str:
        """Back into the queue, held: nobody knows whether anything else would place it better."""
        for left in reversed(range(TRIES)):
            try:
                name = self.jobs.exact(job)
                try:
                    self.jobs.explain(name, text)
                except SlurmError as error:
                    self.say(f"job {name} not told why: {error}")
                if self.jobs.requeue_held(name):
                    return "requeued, held"
                self.jobs.cancel(name)
            except SlurmError:
                if not left:
                    raise
            else:
                return "cancelled: it cannot be requeued"
        raise AssertionError

    def _look_again(self) -> None:
        """The next health check publishes anew, whatever it remembers to have told."""
        try:
            store.write_text(self.places.stale(self.node), "")
            (self.places.run / CURSOR).unlink(missing_ok=True)  # else a look at the log alone would do
            store.write_text(self.places.run / DUE, "0\n")
        except OSError as error:
            self.say(f"the record is looked at later: {error}")


def pinned_manifest(places: Places) -> Reading[str]:
    """As it is published; absent where the node is pinned to none."""
    source = str(places.pin)
    try:
        if not places.pin.exists():
            return Absent(source)
        pinned = load_pin(Journals(places.lib))
    except OSError as error:
        return Unknown(source, str(error))
    return Known(pinned.target, source) if pinned else Unknown(source, "not a pin")

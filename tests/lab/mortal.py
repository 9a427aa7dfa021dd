"""A controller that is killed at a record of its ledger: LAB FOLDER N BEFORE; the plan is FOLDER/plan.json.

Killed right before (1) or after (0) its N-th record is in the ledger; exit code 0 where it came to the end.
"""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from campaigns import Watched, site

from slurm_gsp.campaign.ledger import Connection, Ledger
from slurm_gsp.campaign.planfile import load_plan
from slurm_gsp.lab.cluster import Lab


class Mortal(Ledger):
    """A ledger whose process dies at one of its records."""

    records = 0

    @contextmanager
    def write(self) -> Iterator[Connection]:
        dies = self.records + 1 == DIES_AT
        self.records += 1
        with super().write() as connection:
            yield connection
            if dies and BEFORE:
                os.kill(os.getpid(), signal.SIGKILL)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    lab, folder = Lab.open(Path(sys.argv[1])), Path(sys.argv[2])
    DIES_AT, BEFORE = int(sys.argv[3]), sys.argv[4] == "1"
    around = site(lab, folder)
    url = around.config.campaign.ledger
    around.ledger = lambda: Mortal(url, "root")
    Watched(lab, around, load_plan((folder / "plan.json").read_text())).run()

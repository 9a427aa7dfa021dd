"""Which client is used: pyslurm is not imported before everything says that it fits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from slurm_gsp import process
from slurm_gsp.slurm.admin import ScontrolAdmin
from slurm_gsp.slurm.choose import Choice, Place, admin, choose
from slurm_gsp.slurm.client import SlurmError

PLACE = Place("/opt/bin/scontrol", "/etc/s.conf", 5)


class Answers:
    """slurmctld and scontrol of some release, and how the trial of pyslurm ends."""

    def __init__(self, controller: str = "25.11.7", scontrol: str = "25.11.7", trial: object = 0) -> None:
        self.controller, self.scontrol, self.trial = controller, scontrol, trial
        self.asked: list[str] = []

    def __call__(self, argv, *, deadline_s, stdin=None, env=None):
        asked = " ".join(argv).replace(sys.executable, "python")
        self.asked.append(asked)
        assert env["SLURM_CONF"] == "/etc/s.conf"
        if asked.startswith("python"):
            if isinstance(self.trial, Exception):
                raise self.trial
            return process.Finished(tuple(argv), self.trial, "", "Traceback\nImportError: libslurmfull.so\n")
        if asked.endswith("--version"):
            return process.Finished(tuple(argv), 0, f"slurm {self.scontrol}\n", "")
        out = f"Configuration data\nSLURM_CONF = /etc/s.conf\nSLURM_VERSION           = {self.controller}\n"
        if self.controller == "away":
            return process.Finished(tuple(argv), 1, "", "slurm_load_ctl_conf error: Unable to contact\n")
        return process.Finished(tuple(argv), 0, out if self.controller else "", "")


def test_pyslurm_where_it_fits():
    run = Answers()
    assert choose("auto", PLACE, run, lambda: "25.11.2") == Choice(
        "pyslurm", "pyslurm 25.11.2 fits this Slurm"
    )
    assert run.asked == [
        "/opt/bin/scontrol show config",
        "/opt/bin/scontrol --version",
        "python -c import pyslurm; pyslurm.Reservations.load()",
    ]


MISFITS = {
    "slurmctld is newer": (
        Answers("26.05.5"),
        "pyslurm 25.11.2 fits Slurm 25.11 alone, and slurmctld is 26.05.5",
    ),
    "slurmctld is older": (
        Answers("25.05.1"),
        "pyslurm 25.11.2 fits Slurm 25.11 alone, and slurmctld is 25.05.1",
    ),
    "another on this host": (
        Answers("25.11.0-0rc1", "24.11.5"),
        "pyslurm 25.11.2 fits Slurm 25.11 alone, and scontrol is 24.11.5",
    ),
    "no version": (Answers(""), "pyslurm 25.11.2 fits Slurm 25.11 alone, and slurmctld is ?"),
    "it does not load": (
        Answers(trial=1),
        "pyslurm 25.11.2 does not work here: ImportError: libslurmfull.so",
    ),
    "it ends its process": (
        Answers(trial=-6),
        "pyslurm 25.11.2 does not work here: ImportError: libslurmfull.so",
    ),
    "it hangs": (
        Answers(trial=process.DeadlineExceeded("no end after 30 s")),
        "pyslurm 25.11.2 does not work here: no end after 30 s",
    ),
}


@pytest.mark.parametrize(("run", "why"), MISFITS.values(), ids=MISFITS)
def test_scontrol_where_it_does_not(run, why):
    assert choose("auto", PLACE, run, lambda: "25.11.2") == Choice("scontrol", why)
    with pytest.raises(SlurmError) as caught:
        choose("pyslurm", PLACE, run, lambda: "25.11.2")
    assert str(caught.value) == f'backend = "pyslurm" in [slurm]: {why}'


def test_scontrol_while_slurm_is_away():
    choice = choose("auto", PLACE, Answers("away"), lambda: "25.11.2")
    assert choice.backend == "scontrol" and choice.why.startswith("Slurm does not tell its release: ")


def test_nothing_is_asked_where_it_is_not_installed_or_not_wanted():
    run = Answers()
    assert choose("auto", PLACE, run, lambda: None) == Choice(
        "scontrol", "pyslurm is not installed in this Python environment"
    )
    assert choose("scontrol", PLACE, run, lambda: "25.11.2") == Choice("scontrol", "by configuration")
    assert run.asked == []
    assert isinstance(admin("scontrol", PLACE, run), ScontrolAdmin)


def test_choosing_imports_no_pyslurm():
    code = (
        "import sys, slurm_gsp.slurm.choose as c; c.installed_pyslurm(); sys.exit('pyslurm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""What a node asks Slurm of itself."""

import pytest

from slurm_gsp.process import CommandMissing, Finished
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.on_node import HOLDING, ScontrolOfNode


class Run:
    def __init__(self, stdout="", rc=0, stderr="", error=None):
        self.answer = (rc, stdout, stderr)
        self.error = error
        self.argv = ()
        self.env = None

    def __call__(self, argv, *, deadline_s, env=None):
        self.argv, self.env = tuple(argv), env
        assert deadline_s == 10.0
        if self.error:
            raise self.error
        return Finished(self.argv, *self.answer)


def test_the_jobs_of_a_node():
    run = Run("7\n8\n7\n")
    client = ScontrolOfNode(run, scontrol="/opt/slurm/bin/scontrol", conf="/x/slurm.conf")
    assert client.jobs("n1") == ("7", "8")
    assert run.argv == ("/opt/slurm/bin/squeue", "-h", "-a", "-w", "n1", "-t", HOLDING, "-o", "%A")
    assert run.env == {"SLURM_CONF": "/x/slurm.conf"}
    assert ScontrolOfNode(Run("")).jobs("n1") == ()
    assert ScontrolOfNode(Run("", stderr="squeue: error: Ignoring obsolete FastSchedule=1")).jobs("n1") == ()


@pytest.mark.parametrize(
    "run",
    [
        Run(rc=1, stderr="slurm_load_jobs error: Unable to contact slurm controller (connect failure)"),
        Run(rc=1, stderr="squeue: error: Invalid node name n9"),
        Run("JOBID\n7\n"),
        Run(error=CommandMissing("/usr/bin/squeue: No such file or directory")),
    ],
)
def test_no_answer_is_not_no_jobs(run):
    with pytest.raises(SlurmError, match="squeue"):
        ScontrolOfNode(run).jobs("n1")


@pytest.mark.parametrize("name", ["", "n[1-2]", "ALL", "-x"])
def test_one_plain_node_only(name):
    with pytest.raises(ValueError, match="not the name of one node"):
        ScontrolOfNode(Run()).jobs(name)

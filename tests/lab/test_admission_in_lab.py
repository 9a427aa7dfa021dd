"""A job that asks for a driver starts on nodes that run it, and on no others."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from admissions import Job, begin, everywhere, features, kept_out, look_soon, put, record, upgrade
from campaigns import NEW, OLD
from test_detect import calls, check, reset_calls

from slurm_gsp.lab.cluster import Lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """n3 runs the newer driver, the others the older one; n1 has features of the site's own."""
    settings = ["SchedulerParameters=bf_interval=1,sched_interval=2,nohold_on_prolog_fail"]
    with Lab.up(tmp_path_factory.mktemp("adm") / "l", interval=3600, settings=settings) as lab:
        put(lab.node("n1"), "ib,rack7")
        for node in lab.nodes:
            begin(node)
        upgrade(lab.node("n3"))
        yield lab


def stale(lab: Lab) -> None:
    """Slurm thinks that n1 runs the newer driver."""
    put(lab.node("n1"), f"ib,driver-{NEW},rack7")


def corrected(lab: Lab) -> None:
    """One health check of n1 is enough, and it costs one update."""
    node = lab.node("n1")
    reset_calls(lab)
    check(node)
    check(node)
    assert calls(lab)["REQUEST_UPDATE_NODE"] == 1
    assert features(node) == f"ib,driver-{OLD},rack7"


def test_each_node_has_its_driver_among_its_features(mixed: Lab) -> None:
    found = [features(node) for node in mixed.nodes]
    assert found == [f"ib,rack7,driver-{OLD}", f"driver-{OLD}", f"driver-{NEW}", f"driver-{OLD}"]
    reset_calls(mixed)
    for node in mixed.nodes:
        for _ in range(3):
            check(node)
    assert calls(mixed) == {}


@pytest.mark.parametrize("how", ["reconfigure", "restart"])
def test_what_slurmctld_forgets_comes_back_with_the_next_look_at_it(mixed: Lab, how: str) -> None:
    if how == "reconfigure":
        mixed.slurm(["scontrol", "reconfigure"])
    else:
        mixed.ctld_stop()
        mixed.ctld_start()
    mixed.wait_for(lambda: {features(node) for node in mixed.nodes} == {""}, 10, "the features are forgotten")
    assert all("nvidia_driver" in record(node).extra for node in mixed.nodes)
    put(mixed.node("n1"), "ib,rack7")
    for node in mixed.nodes:
        look_soon(node)
        check(node)
    found = [features(node) for node in mixed.nodes]
    assert found == [f"ib,rack7,driver-{OLD}", f"driver-{OLD}", f"driver-{NEW}", f"driver-{OLD}"]


def test_two_nodes_start_together_only_where_both_run_it(mixed: Lab) -> None:
    refused = Job(mixed, "-N2", f"--constraint=driver-{NEW}")
    assert "Requested node configuration is not available" in refused.answer.stderr
    job = Job(mixed, "-N2", f"--constraint=driver-{NEW}", "--hold", "--gres=gpu:1")
    mixed.slurm(["scontrol", "release", job.id])
    other = Job(mixed, "-N3", f"--constraint=driver-{OLD}", "--gres=gpu:1")
    other.wait("COMPLETED")
    assert other.ran() == everywhere(["n1", "n2", "n4"], OLD)
    time.sleep(2)
    assert (job.state, job.ran()) == ("PENDING", [])
    upgrade(mixed.node("n4"))
    job.wait("COMPLETED")
    assert job.ran() == everywhere(["n3", "n4"], NEW)


@pytest.mark.parametrize("options", [("--gres=gpu:1",), ()], ids=["gpus", "no-gpus"])
def test_the_prolog_keeps_out_what_a_stale_feature_let_in(mixed: Lab, options: tuple[str, ...]) -> None:
    stale(mixed)
    job = Job(mixed, "-N2", "-w", "n1,n3", f"--constraint=driver-{NEW}", *options)
    kept_out(job, "n1")
    assert job.ran() == []
    corrected(mixed)
    mixed.slurm(["scancel", job.id])


def test_also_where_another_node_has_the_batch_script(mixed: Lab) -> None:
    mixed.slurm(["scontrol", "update", "nodename=n3", "weight=1"])
    put(mixed.node("n2"), f"driver-{NEW}")
    job = Job(mixed, "-N3", "-w", "n2,n3,n4", f"--constraint=driver-{NEW}", "--gres=gpu:1")
    kept_out(job, "n2")
    check(mixed.node("n2"))
    assert features(mixed.node("n2")) == f"driver-{OLD}"
    mixed.slurm(["scancel", job.id])


def test_a_job_that_cannot_be_requeued_is_cancelled(mixed: Lab) -> None:
    stale(mixed)
    file = mixed.shared / "interactive"
    words = ["-N2", "-w", "n1,n3", f"--constraint=driver-{NEW}", "--chdir=/", "/bin/touch", str(file)]
    done = mixed.slurm(["srun", *words], check=False)
    assert (done.returncode != 0, file.exists()) == (True, False)
    job = Job(mixed, "-N1", "-w", "n1", f"--constraint=driver-{NEW}", "--no-requeue")
    job.wait("CANCELLED")
    assert f"n1 runs driver {OLD}, the job asks for {NEW}" in job.shown("AdminComment")
    assert job.ran() == []
    mixed.wait_for(lambda: {node.state for node in mixed.nodes} == {"IDLE"}, 30, "all nodes idle")
    corrected(mixed)


def test_the_other_tasks_of_an_array_run_on(mixed: Lab) -> None:
    """The last task to start has the number of the whole array."""
    stale(mixed)
    mixed.slurm(["scontrol", "update", "nodename=n1", "weight=50"])
    mixed.slurm(["scontrol", "update", "nodename=n4", "state=drain", "reason=test"])
    try:
        job = Job(mixed, "--array=1-2", "-N1", "--exclusive", f"--constraint=driver-{NEW}", more="sleep 6")
        kept = f"{job.id}_2"
        mixed.wait_for(lambda: job.shown("Priority", kept) == "0", 30, "the task on n1 held")
        assert job.shown("AdminComment", kept).endswith("not started there")
        assert (job.shown("JobState", f"{job.id}_1"), job.shown("Restarts", f"{job.id}_1")) == (
            "RUNNING",
            "0",
        )
        mixed.wait_for(lambda: job.shown("JobState", f"{job.id}_1") == "COMPLETED", 30, "the other task done")
        assert job.ran() == everywhere(["n3"], NEW)
        corrected(mixed)
        mixed.slurm(["scancel", job.id])
    finally:
        mixed.slurm(["scontrol", "update", "nodename=n4", "state=resume"])
        mixed.slurm(["scontrol", "update", "nodename=n1", "weight=1"])


@pytest.mark.parametrize(
    ("choice", "where"),
    [(f"driver-{NEW}|rack7", ["-w", "n1,n3"]), (f"[driver-{NEW}*1&driver-{OLD}*1]", [])],
)
def test_a_choice_is_left_to_slurm(mixed: Lab, choice: str, where: list[str]) -> None:
    job = Job(mixed, "-N2", *where, f"--constraint={choice}", "--gres=gpu:1")
    job.wait("COMPLETED")
    assert {line.split()[2] for line in job.ran()} == {OLD, NEW}
    assert not any(node.exists("/run/slurm-gsp/failed-open") for node in mixed.nodes)

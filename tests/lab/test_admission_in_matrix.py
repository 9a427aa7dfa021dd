"""Jobs that ask for a driver, on every Slurm release that the lab can start."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from admissions import Job, begin, everywhere, features, kept_out, put, record, upgrade
from campaigns import NEW, OLD
from test_detect import check
from test_matrix import release

from slurm_gsp.lab.cluster import Lab
from slurm_gsp.lab.releases import Release

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

__all__ = ["release"]
ASK = f"nvidia_driver={NEW}"
SCHEDULER = "SchedulerParameters=bf_interval=1,sched_interval=2,nohold_on_prolog_fail"


@pytest.fixture(scope="module")
def fleet(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """n3 runs the newer driver, the others the older one; Extra filters jobs where it can."""
    settings = [SCHEDULER + ",extra_constraints" * release.extra_constraints]
    folder = tmp_path_factory.mktemp("ma") / "l"
    with Lab.up(folder, nodes=4, interval=3600, suite=release.suite, settings=settings) as lab:
        put(lab.node("n1"), "ib")
        for node in lab.nodes:
            begin(node)
        upgrade(lab.node("n3"))
        yield lab


def test_a_stale_feature_lets_nothing_in(fleet: Lab) -> None:
    put(fleet.node("n1"), f"driver-{NEW},ib")
    job = Job(fleet, "-N2", "-w", "n1,n3", f"--constraint=driver-{NEW}", "--gres=gpu:1")
    kept_out(job, "n1")
    fleet.slurm(["scancel", job.id])
    check(fleet.node("n1"))
    assert features(fleet.node("n1")) == f"driver-{OLD},ib"


def test_features_are_forgotten_and_extra_is_not(fleet: Lab) -> None:
    fleet.slurm(["scontrol", "reconfigure"])
    fleet.wait_for(lambda: {features(node) for node in fleet.nodes} == {""}, 10, "the features are forgotten")
    assert all("nvidia_driver" in record(node).extra for node in fleet.nodes)


def test_two_nodes_start_together_only_where_both_run_it(release: Release, fleet: Lab) -> None:
    """By ``--extra`` alone: slurmctld keeps the job waiting until two nodes run the driver."""
    job = Job(fleet, "-N2", f"--extra={ASK}", "--gres=gpu:1")
    if not release.extra_constraints:
        assert "first arg of -B" in job.answer.stderr  # taken for --extra-node-info
        return
    other = Job(fleet, "-N3", f"--extra=nvidia_driver={OLD}", "--gres=gpu:1")
    other.wait("COMPLETED")
    assert other.ran() == everywhere(["n1", "n2", "n4"], OLD)
    time.sleep(3)
    assert (job.state, job.ran()) == ("PENDING", [])
    upgrade(fleet.node("n4"))
    job.wait("COMPLETED")
    assert job.ran() == everywhere(["n3", "n4"], NEW)


def test_the_prolog_keeps_out_what_a_stale_record_let_in(release: Release, fleet: Lab) -> None:
    if not release.extra_constraints:
        pytest.skip("no --extra")
    node = fleet.node("n1")
    fleet.slurm(["scontrol", "update", "nodename=n1", f'extra={{"nvidia_driver":"{NEW}"}}'])
    job = Job(fleet, "-N2", "-w", "n1,n3", f"--extra={ASK}", "--gres=gpu:1")
    kept_out(job, "n1")
    check(node)
    assert f'"nvidia_driver":"{OLD}"' in record(node).extra
    fleet.slurm(["scancel", job.id])


def test_the_prolog_keeps_out_what_nothing_filters(release: Release, fleet: Lab) -> None:
    """Without extra_constraints, --extra is a free text to slurmctld."""
    if not release.extra_constraints:
        pytest.skip("no --extra")
    text = fleet.conf.read_text()
    fleet.conf.write_text(text.replace(",extra_constraints", ""))
    fleet.slurm(["scontrol", "reconfigure"])
    try:
        time.sleep(2)
        job = Job(fleet, "-N2", "-w", "n1,n3", f"--extra={ASK}", "--gres=gpu:1")
        kept_out(job, "n1")
        free = Job(fleet, "-N2", "-w", "n1,n3", f"--extra=as in {ASK}|whatever", "--gres=gpu:1")
        free.wait("COMPLETED")
        fleet.slurm(["scancel", job.id])
    finally:
        fleet.conf.write_text(text)
        fleet.slurm(["scontrol", "reconfigure"])

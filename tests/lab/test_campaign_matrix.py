"""A campaign on every Slurm release that the lab can start: two nodes onto the pin, one rolled back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from campaigns import NEW, OLD, Watched, loaded, phases, plan, reservations, site
from test_matrix import release

from slurm_gsp.campaign.planfile import seal
from slurm_gsp.campaign.state import Phase, State, Status
from slurm_gsp.lab.cluster import Lab
from slurm_gsp.lab.releases import Release

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

__all__ = ["release"]


@pytest.fixture(scope="module")
def fleet(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three nodes whose health check runs every three seconds."""
    with Lab.up(
        tmp_path_factory.mktemp("mf") / "l",
        nodes=3,
        interval=3,
        suite=release.suite,
        settings=["ResumeTimeout=25"],
    ) as running:
        yield running


def test_a_campaign_on_this_release(fleet: Lab, tmp_path: Path) -> None:
    nodes = {node.name: node for node in fleet.nodes}
    nodes["n3"].hardware = nodes["n3"].hardware.with_gpu(1, fails_with=NEW)
    reachable: list[str] = []

    def users_look(state: State) -> None:
        """What Slurm would give to a user, while a node is resumed and not verified yet."""
        for record in state.nodes:
            if record.phase is Phase.VERIFYING and "MAINT" not in nodes[record.node].state:
                reachable.append(f"{record.node} {nodes[record.node].state}")

    watched = Watched(fleet, site(fleet, tmp_path), plan(fleet, [["n1"], ["n2", "n3"]]), each_tick=users_look)
    state = watched.run()
    assert phases(state) == {"n1": "returned", "n2": "returned", "n3": "rolled-back"}, watched.told
    assert state.status is Status.HALTED and "gpu-lost" in state.why
    assert [loaded(node) for node in fleet.nodes] == [NEW, NEW, OLD]
    assert {node.state for node in fleet.nodes} == {"IDLE"} and reservations(fleet) == ""
    assert [node.boots for node in fleet.nodes] == [2, 2, 3]
    assert {record.before for record in state.nodes} == {OLD, NEW}
    assert reachable == []


def job_state(lab: Lab, job: str) -> str:
    found = re.search(r" JobState=(\S+)", lab.slurm(["scontrol", "-o", "show", "job", job]).stdout)
    assert found is not None
    return found[1]


def test_no_job_starts_behind_the_last_one_of_a_node(fleet: Lab, tmp_path: Path) -> None:
    """Its reservation moves along in front of the job, which runs on; with its end the node goes at once.

    The job has all GPUs, and one CPU of several.
    """
    asked = ["sbatch", "--parsable", "--nodelist=n1", "--gres=gpu:2", "--output=/dev/null"]
    last = fleet.slurm([*asked, "--time=60", "--wrap", "sleep 3600"]).stdout.strip()
    fleet.wait_for(lambda: job_state(fleet, last) == "RUNNING", what="the job runs")
    assert fleet.nodes[0].state == "MIXED"
    behind = fleet.slurm([*asked, "--time=20", "--wrap", "true"]).stdout.strip()
    starts: list[datetime] = []
    seen: set[tuple[str, str]] = set()

    def watch(state: State) -> None:
        record = state.nodes[0]
        if record.phase is Phase.RESERVED and record.start not in starts:
            starts.append(record.start)
        if len(starts) < 4:
            seen.add((record.phase.value, job_state(fleet, last)))
        elif len(starts) == 4:
            fleet.slurm(["scancel", last])
            starts.append(record.start + timedelta(hours=1))
        if not record.ended:
            assert job_state(fleet, behind) == "PENDING", record

    made = seal(replace(plan(fleet, [["n1"]], name="c2", ahead=False), realign_s=20))
    watched = Watched(fleet, site(fleet, tmp_path), made, each_tick=watch)
    assert phases(watched.run()) == {"n1": "returned"}, watched.told
    assert seen == {("reserved", "RUNNING")} and starts[3] < starts[0] + timedelta(minutes=10)
    fleet.wait_for(lambda: job_state(fleet, behind) == "COMPLETED", what="the job behind has its turn")
    assert reservations(fleet) == "" and fleet.nodes[0].state == "IDLE"

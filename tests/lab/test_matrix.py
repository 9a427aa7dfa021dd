"""The hooks on every Slurm release that the lab can start, and what releases.py says of each."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
import test_detect as detect

from slurm_gsp.lab import golden, releases, suite
from slurm_gsp.lab.cluster import INSTALLED_AT, Lab, Node, slurm_version
from slurm_gsp.lab.releases import Release

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

ready = detect.ready

FAULTS = ("unattended-upgrade", "module-unloaded", "truncated-image", "fabric-skew", "xid-119", "nvml-hang")
"""One for each thing that a look reads: libraries, /sys, images, a program, the kernel log, NVML."""

ALIKE = (
    detect.test_a_foreign_drain_stays_byte_for_byte,
    detect.test_a_drain_lifted_by_its_owner_makes_room_for_ours,
    detect.test_a_maintenance_reservation_of_others_is_respected,
    detect.test_no_drain_is_lost_while_the_controller_is_away,
    detect.test_prolog_refuses_and_the_job_runs_elsewhere,
    detect.test_our_own_reason_follows_our_own_finding,
)
"""What must be alike on all releases, and is written down where the host's own is tested."""


@pytest.fixture(scope="session", params=releases.RELEASES, ids=lambda row: row.slurm)
def release(request: pytest.FixtureRequest) -> Release:
    row: Release = request.param
    if row.suite == releases.HOST and releases.fitting(slurm_version()) != row:
        pytest.skip(f"the host's own Slurm is not {row.slurm}")
    if os.environ.get("SLURM_GSP_MATRIX"):
        return row
    if row.suite == releases.HOST:
        pytest.skip("the other tests run on the host's Slurm: SLURM_GSP_MATRIX=1 (make test-matrix)")
    if not suite.is_cached(golden.DEFAULT_CACHE, row.suite):
        pytest.skip(f"{row.suite} is not built yet: SLURM_GSP_MATRIX=1 (make test-matrix) builds it")
    return row


@pytest.fixture(scope="session")
def hooked(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes with the health check every two seconds, the prolog and the epilog."""
    with Lab.up(tmp_path_factory.mktemp("mh") / "l", interval=2, suite=release.suite) as running:
        yield running


@pytest.fixture(scope="session")
def calm(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes whose health check Slurm starts once, at boot: the tests start the others.

    They reboot without slurm-gsp-reboot: what Slurm itself does is looked at.
    """
    plain = ["RebootProgram=/usr/sbin/reboot"]
    folder = tmp_path_factory.mktemp("mc") / "l"
    with Lab.up(folder, interval=3600, suite=release.suite, settings=plain) as running:
        yield running


def test_all_of_it_is_of_one_release(release: Release, calm: Lab) -> None:
    programs = [["sinfo", "-V"], ["slurmctld", "-V"]]
    said = [calm.slurm(program).stdout for program in programs]
    said.append(calm.node("n1").run(["slurmd", "-V"]).stdout)
    assert {text.split()[1].rpartition(".")[0] for text in said} == {release.slurm}


def test_healthy_nodes_stay_idle(hooked: Lab) -> None:
    for node in hooked.nodes:
        watch = partial(node.exists, "/run/slurm-gsp/watch")
        hooked.wait_for(watch, 30, f"the first health check of {node.name}")
    time.sleep(3 * hooked.interval)
    assert {node.state for node in hooked.nodes} == {"IDLE"}
    assert [node.name for node in hooked.nodes if node.exists("/run/slurm-gsp/failed-open")] == []


def test_a_healthy_node_is_read_in_full(calm: Lab) -> None:
    answer = detect.inspect(calm.node("n1"))
    assert (answer["verdict"], answer["findings"]) == ("consistent", [])
    pynvml = [f"{INSTALLED_AT}/.venv/bin/python3", "-c", "import pynvml; pynvml.nvmlInit()"]
    assert calm.node("n1").run(pynvml, check=False).returncode == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_ends_in_its_reason(hooked: Lab, borrow: detect.Borrow, fault: str) -> None:
    detect.test_every_fault_ends_in_its_reason(hooked, borrow, fault)


@pytest.mark.parametrize("alike", ALIKE, ids=lambda test: test.__name__.removeprefix("test_"))
def test_alike(calm: Lab, ready: detect.Borrow, alike: Callable[[Lab, detect.Borrow], None]) -> None:
    alike(calm, ready)


def test_twenty_checks_of_a_healthy_and_of_a_drained_node_cost_no_call(
    calm: Lab, ready: detect.Borrow
) -> None:
    healthy, broken = ready(calm, "n1"), ready(calm, "n2")
    detect.split(broken)
    detect.check(broken)
    assert broken.reason == detect.REASONS["kmd-split"]
    detect.check(healthy)
    detect.reset_calls(calm)
    assert {detect.check(healthy).returncode for _ in range(20)} == {0}
    assert {detect.check(broken).returncode for _ in range(20)} == {1}
    assert detect.calls(calm) == {}
    # and the counter counts on this release too
    calm.slurm(["scontrol", "show", "node", "n1"])
    assert sum(detect.calls(calm).values()) > 0


# --- the table ---------------------------------------------------------------------------------------------


def test_the_reason_after_a_resume(release: Release, calm: Lab, ready: detect.Borrow) -> None:
    node = ready(calm, "n3")
    calm.slurm(["scontrol", "update", "nodename=n3", "state=drain", "reason=fan"])
    calm.slurm(["scontrol", "update", "nodename=n3", "state=resume"])
    calm.wait_for(lambda: node.state == "IDLE", 30, "n3 idle")
    assert node.reason == ("" if release.resume_clears_reason else "fan")


def test_whether_a_node_names_its_reservation(release: Release, calm: Lab, ready: detect.Borrow) -> None:
    node = ready(calm, "n3")
    words = ["reservationname=ours", "nodes=n3", "starttime=now", "duration=60", "users=root", "flags=MAINT"]
    calm.slurm(["scontrol", "create", "reservation", *words])
    try:
        calm.wait_for(lambda: "RESERVED" in node.state, 30, "the reservation shows in the node's state")
        assert node.state == "IDLE+MAINTENANCE+RESERVED"
        shown = calm.slurm(["scontrol", "show", "node", "n3"]).stdout
        assert ("ReservationName=ours" in shown) == release.shows_reservation
    finally:
        calm.slurm(["scontrol", "delete", "reservationname=ours"])


def test_whether_scontrol_has_json(release: Release, calm: Lab) -> None:
    done = calm.slurm(["scontrol", "--json", "show", "node", "n1"], check=False)
    assert (done.returncode == 0) == release.json


def _keep_environment(node: Node) -> None:
    """Let RebootProgram leave its variables behind before it reboots (PWD is the shell's own)."""
    kept = node.lab.shared / f"{node.name}.env"
    node.write("/usr/sbin/reboot", f"#!/bin/sh\n/usr/bin/env >{kept}\nkill -INT 1\n")


def test_what_a_reboot_leaves(release: Release, calm: Lab, ready: detect.Borrow) -> None:
    idle, drained, down = (ready(calm, name) for name in ("n1", "n2", "n3"))
    _keep_environment(idle)
    calm.slurm(["scontrol", "update", "nodename=n2", "state=drain", "reason=fan"])
    calm.slurm(["scontrol", "reboot", "n1,n2"])
    calm.slurm(["scontrol", "reboot", "ASAP", "nextstate=DOWN", "reason=gsp:realign c1", "n3"])
    calm.wait_for(lambda: {node.boots for node in (idle, drained, down)} == {2}, 40, "three reboots")
    calm.wait_for(lambda: down.reason.endswith("complete"), 40, "the end of the asked reboot")
    calm.wait_for(lambda: (idle.state, drained.state) == ("IDLE", "IDLE+DRAIN"), 40, "the two others")
    assert drained.reason == "fan : reboot issued"
    assert (down.state, down.reason) == ("DOWN", "gsp:realign c1 : reboot issued : reboot complete")
    names = {line.split("=")[0] for line in (calm.shared / "n1.env").read_text().splitlines()}
    assert names - {"PWD"} == release.reboot_environment


def test_a_drained_node_after_a_reboot_asap(release: Release, calm: Lab, ready: detect.Borrow) -> None:
    node = ready(calm, "n2")
    calm.slurm(["scontrol", "update", "nodename=n2", "state=drain", "reason=fan"])
    calm.slurm(["scontrol", "reboot", "ASAP", "n2"])
    calm.wait_for(lambda: node.boots == 2 and "REBOOT" not in node.state, 40, "the end of the reboot")
    calm.wait_for(lambda: "NOT_RESPONDING" not in node.state, 30, "n2 to answer")
    drained = ("IDLE+DRAIN", "fan : reboot issued")
    assert (node.state, node.reason) == (drained if release.asap_reboot_keeps_drain else ("IDLE", ""))

"""Realignment on every Slurm release that the lab can start: RebootProgram is where they differ most."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import test_matrix as matrix
import test_realign as realigned

from slurm_gsp.lab.cluster import Lab, Node
from slurm_gsp.lab.releases import Release

pytestmark = [pytest.mark.lab, pytest.mark.matrix]

release = matrix.release
ready = realigned.ready

ALIKE = (
    realigned.test_another_reason_is_a_plain_reboot,
    realigned.test_a_reboot_without_a_reason_stays_what_it_was,
    realigned.test_a_repository_that_is_gone_changes_nothing,
    realigned.test_a_step_that_fails_is_told_and_can_be_repeated,
    realigned.test_a_reason_of_somebody_else_stays,
    realigned.test_a_power_cut_in_the_middle_is_finished_by_the_next_request,
    realigned.test_staged_while_a_job_runs_then_realigned_without_a_repository,
    realigned.test_reload,
)
"""Written down where the host's own release is tested."""


@pytest.fixture(scope="module")
def realm(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes whose health check runs at boot."""
    folder, settings = tmp_path_factory.mktemp("mr") / "l", ["ResumeTimeout=60"]
    with Lab.up(folder, interval=3600, suite=release.suite, settings=settings) as running:
        realigned.write_manifests(running)
        yield running


def test_broken_nodes_end_on_the_pin(realm: Lab, ready: Callable[..., Node]) -> None:
    broken = ["interrupted-upgrade", "mixed-branches", "hand-copied-image", "kernel-bump-with-headers"]
    realigned.test_whatever_is_broken_ends_on_the_pin(realm, ready, broken, "r2", realigned.NEW)


@pytest.mark.parametrize("alike", ALIKE, ids=lambda test: test.__name__.removeprefix("test_"))
def test_alike(
    realm: Lab, ready: Callable[..., Node], alike: Callable[[Lab, Callable[..., Node]], None]
) -> None:
    alike(realm, ready)


def test_a_reason_that_was_left_behind_asks_for_nothing(realm: Lab, ready: Callable[..., Node]) -> None:
    """24.11 keeps the Reason of an operation that is over, and shows it to every later reboot."""
    node = ready()
    asked = realigned.operation(realm, "r2")
    realigned.ask(node, asked.reason)
    realigned.wait_for_answer(node)
    realigned.is_on(node, realigned.NEW)
    realm.slurm(["scontrol", "update", "nodename=n1", "state=resume"])
    realm.wait_for(lambda: node.state == "IDLE", 60, "n1 back in service")
    written, boots = realigned.log(node), node.boots
    realm.slurm(["scontrol", "reboot", "n1"])
    realm.wait_for(lambda: node.boots > boots and node.state == "IDLE", 90, "n1 back in service")
    assert realigned.log(node) == written


def test_a_request_that_was_taken_back_asks_for_nothing(realm: Lab, ready: Callable[..., Node]) -> None:
    """24.11 keeps the Reason of a drain that was lifted, too."""
    node = ready(drained=False)
    realigned.drain(node, realigned.operation(realm, "r2").reason)
    realm.slurm(["scontrol", "update", "nodename=n1", "state=resume"])
    realm.wait_for(lambda: node.state == "IDLE", 60, "n1 back in service")
    boots = node.boots
    realm.slurm(["scontrol", "reboot", "n1"])
    realm.wait_for(lambda: node.boots > boots and node.state == "IDLE", 90, "n1 back in service")
    assert not node.exists(realigned.LOGS)

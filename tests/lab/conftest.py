"""A lab for the tests that need a real Slurm: brought up once, its nodes put back as new after each test."""

import os
from collections.abc import Callable, Iterator

import pytest

from slurm_gsp.lab.cluster import Lab, Node, lacks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """SLURM_GSP_MATRIX: 1 for all releases, or some of them, as in "24.11 26.05"; the others are left out."""
    asked = os.environ.get("SLURM_GSP_MATRIX", "").split()
    if asked not in ([], ["1"]):
        others = [item for item in items if item.get_closest_marker("matrix") and not is_of(item, asked)]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in set(others)]
    missing = lacks()
    for item in items:
        if item.get_closest_marker("lab") and missing:
            item.add_marker(pytest.mark.skip(reason="the lab needs " + "; ".join(missing)))


def is_of(item: pytest.Item, asked: list[str]) -> bool:
    """Whether a test runs on one of these releases; they stand in its id."""
    return not set(asked).isdisjoint(item.name.partition("[")[2].rstrip("]").split("-"))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes without the hooks: what Slurm and the node do by themselves."""
    with Lab.up(tmp_path_factory.mktemp("lab") / "l", hooks=False, settings=["ResumeTimeout=15"]) as running:
        yield running


@pytest.fixture(scope="session")
def hooked_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes with the health check every two seconds, the prolog and the epilog."""
    with Lab.up(
        tmp_path_factory.mktemp("hooked") / "l", interval=2, settings=["ResumeTimeout=15"]
    ) as running:
        yield running


def restore(node: Node) -> None:
    """Put a node back as new and into service, whatever was done to it."""
    lab = node.lab
    lab.ctld_start()
    lab.slurm(["scancel", "--nodelist", node.name], check=False)
    node.renew()
    lab.slurm(["scontrol", "cancel_reboot", node.name], check=False)
    lab.slurm(["scontrol", "update", f"nodename={node.name}", "state=down", "reason=restore"])
    lab.slurm(["scontrol", "update", f"nodename={node.name}", "state=resume"])
    lab.wait_for(lambda: node.state == "IDLE", 30, f"{node.name} idle after it was restored")


@pytest.fixture
def borrow(request: pytest.FixtureRequest) -> Callable[[Lab, str], Node]:
    """Borrow a node of a lab: `borrow(lab, "n1")`; it is restored at the test's end."""

    def lend(lab: Lab, name: str) -> Node:
        node = lab.node(name)
        request.addfinalizer(lambda: restore(node))
        return node

    return lend


@pytest.fixture
def node(lab: Lab, borrow: Callable[[Lab, str], Node]) -> Node:
    """A healthy node of the lab without hooks."""
    return borrow(lab, "n1")

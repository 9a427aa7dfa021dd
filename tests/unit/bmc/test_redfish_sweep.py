"""Many BMCs at once, read by an injected function."""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

from slurm_gsp.core.reading import Known, Unknown
from slurm_gsp.redfish import sweep as module
from slurm_gsp.redfish.model import Answer, Inventory
from slurm_gsp.redfish.site import Access, Site
from slurm_gsp.redfish.sweep import GRACE_S, INSTALL, sweep

EMPTY = Inventory(())
ACCESS = Access("reader", "x")


def site(concurrency: int = 8, deadline_s: float = 5.0, total_s: float = 60.0) -> Site:
    return Site(ACCESS, "https://{node}-bmc", {}, concurrency, deadline_s, total_s)


def good(address: str, seconds: float) -> Answer:
    return Known(EMPTY, address)


def test_answers_come_in_the_order_of_the_nodes_each_once() -> None:
    def read(address: str, seconds: float) -> Answer:
        time.sleep(0.05 if "n1" in address else 0.0)
        return good(address, seconds)

    names = ["n1", "n3", "n2", "n3"]
    found = sweep(names, site(), read)
    assert list(found.items()) == [(name, Known(EMPTY, f"https://{name}-bmc")) for name in ("n1", "n3", "n2")]


def test_nobody_to_ask() -> None:
    assert sweep([], site(), good) == {}


def test_never_more_at_once_than_allowed_and_not_fewer() -> None:
    lock, running, most = threading.Lock(), 0, 0

    def read(address: str, seconds: float) -> Answer:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return good(address, seconds)

    begun = time.monotonic()
    assert len(sweep([f"n{number}" for number in range(200)], site(20), read)) == 200
    assert most == 20
    assert time.monotonic() - begun < 200 * 0.02 / 3


def test_each_gets_its_deadline_or_what_is_left_for_all() -> None:
    given: list[float] = []

    def read(address: str, seconds: float) -> Answer:
        given.append(seconds)
        return good(address, seconds)

    sweep(["n1"], site(deadline_s=5), read)
    sweep(["n1"], site(deadline_s=5, total_s=2), read)
    assert given[0] == 5 and 1 < given[1] <= 2


def test_one_that_never_comes_back_holds_no_other() -> None:
    over = threading.Event()

    def read(address: str, seconds: float) -> Answer:
        if "bad" in address:
            over.wait(60)
        return good(address, seconds)

    bad = [f"bad{number}" for number in range(4)]
    nodes = [*bad, *(f"n{number}" for number in range(20))]
    threads = threading.active_count()
    begun = time.monotonic()
    try:
        found = sweep(nodes, site(concurrency=4, deadline_s=0.2), read)
        seconds = time.monotonic() - begun
        assert threading.active_count() == threads + 4
    finally:
        over.set()
    assert [name for name, answer in found.items() if isinstance(answer, Unknown)] == bad
    assert found["bad0"] == Unknown("https://bad0-bmc", "did not come back in time")
    assert 0.2 + GRACE_S <= seconds < 0.2 + GRACE_S + 3


def test_who_was_not_asked_in_time_is_unknown() -> None:
    def read(address: str, seconds: float) -> Answer:
        time.sleep(0.1)
        return good(address, seconds)

    begun = time.monotonic()
    found = sweep([f"n{number}" for number in range(100)], site(concurrency=2, total_s=0.35), read)
    assert time.monotonic() - begun < 3
    told = "was not asked: the 0.35 s of the whole sweep were over"
    assert found["n99"] == Unknown("https://n99-bmc", told)
    assert isinstance(found["n0"], Known) and isinstance(found["n1"], Known)


def test_a_node_whose_bmc_is_nowhere() -> None:
    nowhere = Site(ACCESS, "", {"n2": "https://10.0.0.2/"})
    assert sweep(["n1", "n2"], nowhere, good) == {
        "n1": Unknown("n1", "nothing says where its BMC is ([redfish] address)"),
        "n2": Known(EMPTY, "https://10.0.0.2"),
    }


def test_without_the_library_the_command_says_what_to_install(tmp_path: Path) -> None:
    """In an interpreter that has no site-packages."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from slurm_gsp.redfish.sweep import LibraryMissingError, library_reader\n"
        "try: library_reader(None)\n"
        "except LibraryMissingError as error: print(error)"
    )
    root = str(Path(module.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, root],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("asking BMCs needs the package redfish (No module named ")
    assert done.stdout.endswith(f"): {INSTALL}\n")


def test_what_to_install_is_the_extra() -> None:
    root = Path(module.__file__).parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]["redfish"]
    assert shlex.split(INSTALL) == ["pip", "install", *wanted]
    assert set(wanted) <= set(project["optional-dependencies"]["test"])
    assert INSTALL.removeprefix("pip ") in (root / "docs/redfish.md").read_text()


@pytest.mark.parametrize("name", ["slurm_gsp.bmc_cli", "slurm_gsp.redfish.sweep", "slurm_gsp.cli"])
def test_the_library_is_imported_late(name: str) -> None:
    program = f"import sys, {name}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert {"redfish", "requests", "urllib3"}.isdisjoint(done.stdout.split())

"""Jobs that ask for a driver, on a lab whose nodes run different ones."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence

from campaigns import NEW, OLD
from test_detect import check

from slurm_gsp.lab.cluster import Lab, Node
from slurm_gsp.slurm.client import NodeState
from slurm_gsp.slurm.scontrol import parse_node

CONFIG = "[verify]\npublish_spread_s = 0\nfeature = true\n[health]\njitter = 0.0\n"
BATCH = """#!/bin/sh
echo "batch $(uname -n) $(cat /sys/module/nvidia/version)" >>{file}
srun /bin/sh -c 'echo "rank $(uname -n) $(cat /sys/module/nvidia/version)" >>{file}'
{more}
"""


def record(node: Node) -> NodeState:
    return parse_node(node.lab.slurm(["scontrol", "-o", "show", "node", node.name]).stdout.strip())


def features(node: Node) -> str:
    """The features that are active; those that are available are always the same here."""
    found = record(node).features
    assert found.available == found.active
    return ",".join(found.active)


def put(node: Node, names: str) -> None:
    """Features that somebody else wrote into the record."""
    node.lab.slurm([
        "scontrol",
        "update",
        f"nodename={node.name}",
        f"availablefeatures={names}",
        f"activefeatures={names}",
    ])


def until(node: Node, holds: Callable[[], bool]) -> None:
    """Health checks, as slurmd would start them, until something is so."""
    for _ in range(20):
        check(node)
        if holds():
            return
        time.sleep(0.3)
    raise AssertionError(f"{node.name}: {record(node)}")


def look_soon(node: Node) -> None:
    """The node's own look at its record, which comes once in ``full_interval_s``, is due now."""
    path = f"/run/slurm-gsp/state-{node.name}.json"
    node.write(path, json.dumps({**json.loads(node.read(path)), "next_check": 1.0, "next_full": 1.0}))
    node.run(["/bin/sh", "-c", "rm -f /run/slurm-gsp/log-cursor; echo 1 >/run/slurm-gsp/due"])


def begin(node: Node, config: str = CONFIG) -> None:
    """The node publishes what it runs, features included."""
    node.lab.wait_for(lambda: node.exists("/run/slurm-gsp/watch"), 30, "the first health check")
    node.run(["/bin/mkdir", "-p", "/etc/slurm-gsp"])
    node.write("/etc/slurm-gsp/config.toml", config)
    node.run(["/bin/sh", "-c", "rm -f /run/slurm-gsp/state-*.json /run/slurm-gsp/watch"])
    until(node, lambda: "nvidia_driver" in record(node).extra)


def upgrade(node: Node) -> None:
    """To the newer driver, by its packages and a reboot that Slurm does not see."""
    node.lab.fault(node.name, "unattended-upgrade")
    node.reboot(quiet=True)
    assert node.read("/sys/module/nvidia/version").strip() == NEW
    until(node, lambda: f'"nvidia_driver":"{NEW}"' in record(node).extra)
    node.lab.wait_for(lambda: node.state == "IDLE", 30, f"{node.name} idle")


class Job:
    """A batch job that writes down where it ran, and on which driver."""

    def __init__(self, lab: Lab, *options: str, more: str = "") -> None:
        self.lab = lab
        self.file = lab.shared / f"ran-{time.monotonic_ns()}"
        script = BATCH.format(file=self.file, more=more)
        self.answer = lab.slurm(
            ["sbatch", "--parsable", "--output=/dev/null", "--chdir=/", *options], check=False, stdin=script
        )
        self.id = self.answer.stdout.strip()

    def shown(self, name: str, of: str = "") -> str:
        text = self.lab.slurm(["scontrol", "-o", "show", "job", of or self.id], check=False).stdout
        found = re.search(rf" {name}=(.*?)(?= \w+=|$)", text, re.MULTILINE)
        return found[1].strip() if found else ""

    @property
    def state(self) -> str:
        return self.shown("JobState")

    def wait(self, *states: str) -> None:
        self.lab.wait_for(lambda: self.state in states, 40, f"job {self.id} {states}, is {self.state}")

    def ran(self) -> list[str]:
        """``rank n3 570.195.03`` and the like."""
        return sorted(self.file.read_text().splitlines()) if self.file.exists() else []


def everywhere(names: Sequence[str], driver: str) -> list[str]:
    """What a job leaves that ran on these nodes, the first of them its own."""
    return sorted([f"batch {names[0]} {driver}", *(f"rank {name} {driver}" for name in names)])


def kept_out(job: Job, node: str, asked: str = NEW) -> None:
    """The job did not start there, is held, and says why; the nodes are as they were."""
    job.lab.wait_for(lambda: (job.shown("Priority"), job.state) == ("0", "PENDING"), 40, "the job is held")
    why = f"{node} runs driver {OLD}, the job asks for {asked}"
    assert (why in job.shown("AdminComment"), job.shown("Restarts")) == (True, "1")
    job.lab.wait_for(lambda: {each.state for each in job.lab.nodes} == {"IDLE"}, 30, "all nodes idle")
    assert {each.reason for each in job.lab.nodes} == {""}
    assert [line for line in job.ran() if f" {node} " in line or line.startswith("rank")] == []

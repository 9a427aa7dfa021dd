"""What a campaign and a storm of drains cost a real slurmctld that holds 10,000 nodes.

    .venv/bin/python bench/controller_bench.py [--nodes 10000] [--in-hand 500] [--jobs 2000]

As root; some minutes.

1. One tick of a controller with that many nodes in hand, each paired with one `scontrol -o show node >
   /dev/null`, and how many commands a tick runs.
2. The time that slurmctld itself takes (sdiag) for the requests of a health check that drains its node, and
   with these a simulation (simpy) of two hours: a fault on every node of the partition at once. A few threads
   serve the requests in the order in which they come; a health check that had no answer in time has gone, and
   asks again when the hook would.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any, Final

import simpy
from fleet_bench import Cluster, timed

from slurm_gsp import process
from slurm_gsp.campaign.advance import first_state
from slurm_gsp.campaign.controller import Controller
from slurm_gsp.campaign.ledger import EventKind, Line
from slurm_gsp.campaign.model import FleetNode, Heading, Limits, Plan, PlannedProfile
from slurm_gsp.campaign.plan import plan as make_plan
from slurm_gsp.campaign.state import Phase, Status
from slurm_gsp.campaign_cli import Outside, Site
from slurm_gsp.config import Campaign, Config, Deadlines, Health, Slurm
from slurm_gsp.core.operation import Kind
from slurm_gsp.core.policy import APART, breaker_trips, decide_drain, retry_after
from slurm_gsp.hook.main import view_of
from slurm_gsp.lab.procs import tool
from slurm_gsp.slurm.client import NodeState
from slurm_gsp.slurm.scontrol import Scontrol

REASON: Final = "gsp:umd-skew kmd=580.95.05 umd=570.172.08"
SAMPLE: Final = 100
"""Drains that the time of a request is measured on."""
RPCS: Final = {"all": "REQUEST_NODE_INFO", "write": "REQUEST_UPDATE_NODE"}
"""scontrol reads all nodes, whichever it is to show."""


class Counting:
    """``process.run``, counted."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, *args: Any, **more: Any) -> process.Finished:
        self.calls += 1
        return process.run(*args, limit_bytes=1 << 30, **more)


def site_of(cluster: Cluster, run: Any) -> Site:
    """The controller's side of this cluster."""
    slurm = Slurm(scontrol=tool("scontrol"), conf=str(cluster.conf))
    campaign = Campaign(ledger=f"sqlite:///{cluster.folder}/ledger.db", poll_s=15.0)
    return Site(Config(slurm=slurm, campaign=campaign), Outside(run=run))


def plan_of(names: list[str]) -> Plan:
    """A campaign over these nodes."""
    now = datetime.now(UTC)
    fleet = [FleetNode(name=name, profile="h100", variant="h100", partitions=("main",)) for name in names]
    profiles = (PlannedProfile("h100", "580.95.05", 8, "570.172.08"),)
    heading = Heading("bench", "2026-11", "ab" * 32, "standard", 0, "2026-10", "cd" * 32, profiles)
    limits = Limits(max_out_count=len(names), max_out_percent=None, canary_per_variant=len(names))
    made = make_plan(fleet, limits, now, 1800, heading)
    assert isinstance(made, Plan), made
    return made


def in_hand(cluster: Cluster, site: Site, names: list[str]) -> Plan:
    """Bring these nodes as far as their return: reserved without end, DOWN, and not proven yet."""
    plan = plan_of(names)
    terms = site.terms(plan)
    operation = terms.operation(Kind.REALIGN, 1)
    when = "starttime=now duration=UNLIMITED flags=MAINT,IGNORE_JOBS users=root"
    lines = [
        f"create reservation reservationname={terms.reservation(name)} nodes={name} {when}" for name in names
    ]
    lines.append(
        f"update nodename={','.join(names)} state=down "
        f'reason="{operation.reason} : reboot issued : reboot complete"'
    )
    cluster.scontrol(stdin="".join(f"{line}\n" for line in lines))
    with closing(site.ledger()) as ledger:
        now = datetime.now(UTC)
        ledger.add(plan, first_state(terms, now))
        with ledger.lead("bench", 60) as lead:
            changes = {"operation": operation, "touched": True, "boot": ""}
            taken = [record.to(Phase.REBOOTED, now, **changes) for record in lead.state().nodes]
            told = [Line(EventKind.DECIDED, record.node, "the bench says so") for record in taken]
            lead.together(told, taken)
            lead.status(Status.SCHEDULING, Status.RUNNING, "the bench says so")
    return plan


def ticks(cluster: Cluster, names: list[str], pairs: int) -> None:
    """Time ticks in which nothing is to be done."""
    run = Counting()
    site = site_of(cluster, run)
    plan = in_hand(cluster, site, names)
    terms = site.terms(plan)
    base = [tool("scontrol"), "-o", "show", "node"]
    rows = []
    with closing(site.ledger()) as ledger, ledger.lead("bench", 120) as lead:
        controller = Controller(terms, lead, site.around(terms))
        before = controller.tick().state
        assert {record.phase for record in before.nodes} == {Phase.REBOOTED}, before.nodes[0]
        run.calls = 0
        for _ in range(pairs):
            theirs = timed(base, cluster.environment)
            begun, cpu = time.monotonic(), time.process_time()
            controller.tick()
            rows.append((theirs, time.monotonic() - begun, time.process_time() - cpu))
        assert lead.state() == before, "a tick did something"
    ratios = [mine / theirs for theirs, mine, _ in rows]
    theirs, mine, cpu = (statistics.median(column) for column in zip(*rows, strict=True))
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    print(f"{len(cluster.names)} nodes, {len(names)} in hand, {run.calls / pairs:g} commands a tick")
    print(
        f"a tick {mine:.2f} s, {cpu:.2f} s of them our own CPU; scontrol {theirs:.2f} s: {spread}", flush=True
    )


def rpc_times(cluster: Cluster, names: list[str]) -> dict[str, float]:
    """Seconds that slurmctld takes for each request of a health check that drains its node."""
    client = Scontrol(scontrol=tool("scontrol"), conf=str(cluster.conf))
    sdiag(cluster, "-r")

    def keep(state: NodeState) -> bool:
        nodes = client.partition_nodes(state.partitions)
        assert not breaker_trips([[view_of(node) for node in nodes]], Health().breaker_share)
        return not decide_drain(view_of(state), REASON).write

    for name in names:
        client.drain_unless(name, REASON, keep)
    text = sdiag(cluster)
    found = {}
    for key, rpc in RPCS.items():
        row = re.search(rf"^\s*{rpc}\s*\(\s*\d+\) count:(\d+)\s+ave_time:(\d+)", text, re.MULTILINE)
        assert row is not None and int(row[1]) >= len(names), f"{rpc} is not in what sdiag says"
        found[key] = int(row[2]) / 1e6
    return found


def sdiag(cluster: Cluster, *options: str) -> str:
    """What sdiag says."""
    argv = [tool("sdiag"), *options]
    return subprocess.run(argv, capture_output=True, text=True, check=True, env=cluster.environment).stdout


@dataclass(slots=True)
class Storm:
    """One fault on all nodes: how many were drained, and what slurmctld had to bear."""

    drained: int = 0
    last_s: float = 0.0
    longest_s: float = 0.0
    late: int = 0
    most_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Weather:
    """What a storm is made of: seconds of each request, threads, and when health checks run."""

    nodes: int
    times: Mapping[str, float]
    threads: int
    interval_s: float
    cycle: bool
    backs_off: bool


def storm(weather: Weather) -> Storm:
    """Every node's health check finds the fault at its next run."""
    env = simpy.Environment()
    server = simpy.Resource(env, capacity=weather.threads)
    limit, health, chance = Deadlines().slurm_s, Health(), random.Random(1)
    found = Storm()

    def asked(request: str, until: float) -> Iterator[Any]:
        """Whether there was an answer; slurmctld notices at once that somebody in the queue has gone."""
        with server.request() as turn:
            found.most_waiting = max(found.most_waiting, len(server.queue))
            yield turn | env.timeout(until - env.now)
            if not turn.triggered:
                return False
            yield env.timeout(weather.times[request])
        return env.now <= until

    def in_time() -> Iterator[Any]:
        """One health check: whether it got as far as it wanted before its own deadline."""
        begun = env.now
        for request in ("all", "all", "write"):  # its own node, the partition for the breaker, the drain
            if request == "write" and found.drained > health.breaker_share * weather.nodes:
                return True
            if not (yield from asked(request, begun + limit)):
                return False
            found.longest_s = max(found.longest_s, env.now - begun)
        found.drained += 1
        found.last_s = env.now
        return True

    def check(number: int) -> Iterator[Any]:
        """Health checks run every ``interval_s``, and do nothing before the hook wants to ask again."""
        first = number * weather.interval_s / weather.nodes if weather.cycle else chance.uniform(0, 2)
        yield env.timeout(first)
        tries = 0
        while not (yield from in_time()):
            found.late += 1
            tries += 1
            wait = retry_after(health.retry_interval_s, tries, chance.random()) if weather.backs_off else 0.0
            runs = math.ceil((env.now + wait - first) / weather.interval_s)
            apart = chance.uniform(0, APART * health.retry_interval_s) if weather.backs_off else 0.0
            yield env.timeout(first + runs * weather.interval_s + apart - env.now)

    for number in range(weather.nodes):
        env.process(check(number))
    env.run(until=7200)
    return found


def storms(nodes: int, times: Mapping[str, float]) -> None:
    """The table of the simulation."""
    print("| health checks | threads | asks again | drained | after | longest answer | late | waiting |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for interval, cycle, threads, backs_off in product((60.0, 300.0), (True, False), (1, 8), (False, True)):
        found = storm(Weather(nodes, times, threads, interval, cycle, backs_off))
        print(
            f"| every {interval:.0f} s, {'CYCLE' if cycle else 'all at once'} | {threads} "
            f"| {'later each time' if backs_off else 'at the next run'} | {found.drained} "
            f"| {found.last_s:.0f} s | {found.longest_s:.1f} s | {found.late} | {found.most_waiting} |",
            flush=True,
        )


def run_jobs(cluster: Cluster, names: list[str]) -> None:
    """An allocation on each of these nodes, as salloc makes it: no slurmd takes part."""
    for name in names:
        argv = [tool("salloc"), "--no-shell", "-Q", "-w", name, "-t", "1-0"]
        subprocess.run(argv, check=True, capture_output=True, env=cluster.environment)


def main() -> None:
    """Print it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--in-hand", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2_000)
    parser.add_argument("--pairs", type=int, default=15)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "state").mkdir()
        cluster = Cluster(Path(folder), asked.nodes)
        with cluster.running():
            lines = cluster.scontrol("-o", "show", "node").splitlines()
            reserved = re.findall(r" Nodes=(\S+)", cluster.scontrol("-o", "show", "reservation"))
            names = (line.split()[0].partition("=")[2] for line in lines if " State=IDLE " in line)
            idle = [name for name in names if name not in reserved]
            hand, rest = idle[: asked.in_hand], idle[asked.in_hand :]
            run_jobs(cluster, rest[: asked.jobs])
            ticks(cluster, hand, asked.pairs)
            times = rpc_times(cluster, rest[-SAMPLE:])
        told = ", ".join(f"{RPCS[key]} {1000 * seconds:.2f} ms" for key, seconds in times.items())
        print(f"\nslurmctld itself: {told}\n")
        storms(asked.nodes, times)


if __name__ == "__main__":
    main()

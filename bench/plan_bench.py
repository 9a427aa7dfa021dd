"""Measure the planner on made-up fleets: seconds of one core, for the plan and for what is around it.

.venv/bin/python bench/plan_bench.py [--nodes 10000] [--jobs 20000] [--runs 3]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from slurm_gsp.campaign.model import FleetNode, Limits, Plan, PlanError, Window
from slurm_gsp.campaign.plan import plan
from slurm_gsp.campaign.planfile import dump_plan, load_plan
from slurm_gsp.slurm.fleet import FleetText, SeenNode, parse_fleet

NOW = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)
LIMITS = Limits(max_out_percent=10.0, per_block=4, soak_s=3600)
NIGHTS = Window(frozenset(range(7)), 20 * 60, 6 * 60)
SLOT_S = 1800
T = TypeVar("T")


def fleet_text(nodes: int, jobs: int, seed: int = 1) -> FleetText:
    """What Slurm would say of this many nodes and running jobs (one to eight nodes each)."""
    chance = random.Random(seed)
    lines = []
    for number in range(nodes):
        kind = ("h100", "h200", "b200")[number * 3 // nodes]
        drained = chance.random() < 0.02
        state = "IDLE+DRAIN" if drained else "MIXED"
        reason = " Reason=fan [root@2026-11-16T08:00:00]" if drained else ""
        lines.append(
            f"NodeName=gpu{number:06d} Arch=x86_64 CoresPerSocket=56 CPUAlloc=64 CPUEfctv=112 CPUTot=112 "
            f"CPULoad=12.30 AvailableFeatures=ib,rev{number % 4} ActiveFeatures=ib,rev{number % 4} "
            f"Gres=gpu:{kind}:8(S:0-1) NodeAddr=gpu{number:06d} NodeHostName=gpu{number:06d} Version=24.11.5 "
            f"OS=Linux 5.15.0 #1 SMP RealMemory=2000000 AllocMem=0 Sockets=2 Boards=1 State={state} "
            f"ThreadsPerCore=1 TmpDisk=0 Weight=1 Owner=N/A MCS_label=N/A Partitions=batch,{kind} "
            f"BootTime=2026-11-01T08:00:00 SlurmdStartTime=2026-11-01T08:01:00 CfgTRES=cpu=112{reason}"
        )
    running = []
    for job in range(jobs):
        first = chance.randrange(nodes)
        last = min(nodes - 1, first + chance.choice((0, 0, 0, 1, 3, 7)))
        hosts = f"gpu{first:06d}" if first == last else f"gpu[{first:06d}-{last:06d}]"
        end = NOW + timedelta(seconds=chance.randrange(7 * 86400))
        running.append(f"{job}|RUNNING|7-00:00:00|{end:%Y-%m-%dT%H:%M:%S}|{hosts}")
    return FleetText("\n".join(lines) + "\n", "\n".join(running) + "\n", "No reservations in the system\n")


def as_nodes(seen: tuple[SeenNode, ...], block_size: int = 32) -> list[FleetNode]:
    """Planner's nodes without a manifest: one profile for each GRES."""
    return [
        FleetNode(
            name=node.state.name,
            profile=node.gres[0],
            variant=f"{node.gres[0]} {','.join(node.features)}",
            partitions=node.state.partitions,
            block=f"s{number // block_size}",
            states=node.state.states,
            reason=node.state.reason,
            pinned="580.95.05",
            busy_until=node.busy_until,
        )
        for number, node in enumerate(seen)
    ]


def timed(what: Callable[[], T]) -> tuple[float, T]:
    """CPU seconds of one call, and its result."""
    before = time.process_time()
    result = what()
    return time.process_time() - before, result


def made(result: Plan | PlanError) -> Plan:
    assert isinstance(result, Plan), result
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    text = fleet_text(asked.nodes, asked.jobs)
    read_s, seen = timed(lambda: parse_fleet(text, NOW))
    fleet = as_nodes(seen)
    print(f"{asked.nodes} nodes, {asked.jobs} running jobs; CPU seconds, best of {asked.runs}")
    print(f"  read Slurm's text   {read_s:7.2f}")
    cases = {
        "plan": LIMITS,
        "plan, nights only": Limits(max_out_percent=10.0, per_block=4, soak_s=3600, windows=(NIGHTS,)),
        "plan, one a block": Limits(max_out_percent=4.0, per_block=1, soak_s=3600),
    }
    for name, limits in cases.items():
        runs = [
            timed(lambda limits=limits: made(plan(fleet, limits, NOW, SLOT_S))) for _ in range(asked.runs)
        ]
        seconds, result = min(runs, key=lambda run: run[0])
        slots = sum(len(wave.slots) for wave in result.waves)
        last = max(slot.start for wave in result.waves for slot in wave.slots)
        print(
            f"  {name:<19} {seconds:7.2f}   {slots} slots in {len(result.waves)} waves, "
            f"{len(result.left_out)} left out, the last after {(last - NOW) / timedelta(days=1):.1f} days"
        )
    write_s, text_out = timed(lambda: dump_plan(result))
    load_s, _ = timed(lambda: load_plan(text_out))
    print(f"  write the plan file {write_s:7.2f}   {len(text_out) / 1e6:.1f} MB")
    print(f"  load it             {load_s:7.2f}")


if __name__ == "__main__":
    main()

"""Measure the hooks on a real Slurm in the lab, side by side with the bare interpreter: ratios.

    make bench                       # or: .venv/bin/python bench/bench.py [--runs 40] [--peer PROGRAM]

CPU time is user + system of the whole process tree, from the kernel's accounting of each finished run.
Runs alternate (A B A B ...), so that a machine whose speed drifts gives the same ratio. ``--here`` measures
on this machine instead of a lab node: on a GPU node on which the hooks have run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

HOOKS = Path(__file__).resolve().parents[1]
WATCH = Path("/run/slurm-gsp/watch")
DUE = Path("/run/slurm-gsp/due")
ENVIRONMENT = {"SLURMD_NODENAME": os.environ.get("SLURMD_NODENAME", "n1"), "PWD": "/", "SLURM_JOB_GPUS": "0"}


def cpu_seconds(argv: Sequence[str]) -> float:
    """CPU seconds of one run, children included."""
    child = os.posix_spawn(
        argv[0],
        list(argv),
        ENVIRONMENT,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)],
    )
    _, status, usage = os.wait4(child, 0)
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != 0:
        raise SystemExit(f"{' '.join(argv)}: did not pass (wait status {status}); is this node healthy?")
    return usage.ru_utime + usage.ru_stime


def compare(
    argv: Sequence[str], base: Sequence[str], runs: int, prepare: Callable[[], object]
) -> dict[str, float]:
    """Median and spread of CPU(argv) / CPU(base), and both medians in milliseconds."""
    ratios, mine, theirs = [], [], []
    for _ in range(runs):
        prepare()
        a, b = cpu_seconds(argv), cpu_seconds(base)
        ratios.append(a / b)
        mine.append(a)
        theirs.append(b)
    return {
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "ms": 1000 * statistics.median(mine),
        "base_ms": 1000 * statistics.median(theirs),
    }


def measure_here(runs: int, hooks: Path, peer: str | None) -> dict[str, dict[str, float]]:
    """Ratios on this machine; the first health check leaves a settled watch."""
    check, prolog = str(hooks / "healthcheck"), str(hooks / "prolog")
    base = [os.path.realpath(hooks / ".venv/bin/python3"), "-I", "-S", "-c", "pass"]
    for _ in range(20):
        cpu_seconds([check])
        if "settled=1 healthy=1" in WATCH.read_text("utf-8"):
            break
        time.sleep(0.5)
    else:
        raise SystemExit("the health check's watch never settled: files below it keep changing")

    def nothing_due() -> None:
        DUE.write_text("999999999\n", "ascii")

    def log_due() -> None:
        DUE.write_text("0\n", "ascii")

    rows = {
        "healthcheck, steady state": compare([check], base, runs, nothing_due),
        "prolog, verdict still holds": compare([prolog], base, runs, nothing_due),
        "healthcheck, kernel log due": compare([check], base, runs, log_due),
        "healthcheck, full look": compare([check], base, max(5, runs // 4), WATCH.unlink),
    }
    nothing_due()
    if peer is not None:
        rows[f"peer: {peer}"] = compare([peer], base, max(5, runs // 4), nothing_due)
    return rows


def measure_in_lab(runs: int, peer: str | None) -> dict[str, dict[str, float]]:
    """The same inside a lab node."""
    from slurm_gsp.lab.cluster import INSTALLED_AT, Lab  # noqa: PLC0415 - --here needs no lab

    with tempfile.TemporaryDirectory() as folder, Lab.up(Path(folder) / "lab", nodes=1, interval=3600) as lab:
        node = lab.node("n1")
        lab.wait_for(lambda: node.exists("/run/slurm-gsp/watch"), 30, "the first health check")
        time.sleep(2)
        words = [f"{INSTALLED_AT}/.venv/bin/python", f"{INSTALLED_AT}/bench/bench.py", "--here", "--json"]
        words += ["--runs", str(runs), *(["--peer", peer] if peer is not None else [])]
        rows = json.loads(node.run(words, timeout=600).stdout)
        assert isinstance(rows, dict)
        return rows


def drain_latency(intervals: Sequence[int], times: int) -> list[tuple[int, list[float]]]:
    """Seconds from breaking a node's files to its Reason in Slurm, for several HealthCheckIntervals."""
    from slurm_gsp.lab.cluster import Lab  # noqa: PLC0415

    rows = []
    for interval in intervals:
        with tempfile.TemporaryDirectory() as folder, Lab.up(Path(folder) / "l", interval=interval) as lab:
            taken = []
            for turn in range(times):
                node = lab.node(f"n{1 + turn % 2}")
                node.renew()
                lab.wait_for(lambda node=node: node.exists("/run/slurm-gsp/watch"), 30, "the first look")
                time.sleep(
                    2.5 + (turn + 0.5) * interval / times
                )  # at another moment of the interval each time
                started = time.monotonic()
                node.write("/sys/module/nvidia_uvm/version", "570.195.03\n")
                lab.wait_for(lambda node=node: "gsp:" in node.reason, 3 * interval + 20, "the drain")
                taken.append(time.monotonic() - started)
                lab.slurm(["scontrol", "update", f"nodename={node.name}", "state=resume"])
            rows.append((interval, taken))
    return rows


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    title = "CPU time against `python -I -S -c pass`"
    print(f"{title:<44}{'ratio':>7}{'min':>7}{'max':>7}{'ms':>9}{'base ms':>9}")
    for name, row in rows.items():
        print(
            f"{name:<44}{row['ratio']:>7.2f}{row['low']:>7.2f}{row['high']:>7.2f}"
            f"{row['ms']:>9.2f}{row['base_ms']:>9.2f}"
        )


def main() -> int:
    """Run the benchmark; exit code 1 when a steady state costs more than three bare interpreters."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=40, help="pairs of runs (default 40)")
    parser.add_argument("--here", action="store_true", help="measure on this machine, not in a lab node")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no verdict")
    parser.add_argument(
        "--peer", help="another HealthCheckProgram to measure beside ours, e.g. /usr/sbin/nhc"
    )
    options = parser.parse_args()
    rows = (
        measure_here(options.runs, HOOKS, options.peer)
        if options.here
        else measure_in_lab(options.runs, options.peer)
    )
    if options.json:
        print(json.dumps(rows))
        return 0
    show(rows)
    if not options.here:
        print(f"\n{'from breaking a node to its drain':<34}{'median s':>9}{'max s':>8}{'max / interval':>16}")
        for interval, taken in drain_latency((2, 5, 10), 6):
            name = f"HealthCheckInterval={interval}"
            print(
                f"{name:<34}{statistics.median(taken):>9.1f}{max(taken):>8.1f}{max(taken) / interval:>16.2f}"
            )
    steady = ("healthcheck, steady state", "prolog, verdict still holds")
    return int(any(rows[name]["ratio"] > 3 for name in steady))


if __name__ == "__main__":
    sys.exit(main())

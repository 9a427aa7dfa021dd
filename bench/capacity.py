"""What a campaign costs in node-hours: the planner against other ways to take a fleet through a realignment.

A discrete-event simulation (simpy) of a cluster of 8-GPU nodes whose queue is never empty: first come first
served with EASY backfill, jobs that share nodes, and that end before their limit. Every way starts from the
same moment of the same jobs.

    .venv/bin/python bench/capacity.py [--mix training|mixed|short] [--growth 4] [--plot FILE.svg]
    .venv/bin/python bench/capacity.py --swf LOG.swf.gz --nodes 68 --cores-per-gpu 8 [--windows N]

A log in the Standard Workload Format is replayed in back-to-back windows of four days to warm up and --days;
each is one run that starts on an empty cluster, and the queue is as long as the log makes it.

Lost are the GPU-hours (over 8) without a job on a node that a way has in its hands, from when it is reserved
or drained for its realignment until that is done: all of the realignment itself, which is the bound, and of
the time before it what a job of the queue was kept from by nothing but the reservation or the drain. The last
column is the difference of the whole cluster to a run without maintenance; most of it is chance, for a job
that starts a minute later changes every one behind it. Where a way was not done with every node in time, how
many it was done with, as the mean of the runs, stands in place of the hours.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import simpy

from slurm_gsp.campaign.bounds import IN_TURN
from slurm_gsp.campaign.model import FleetNode, Limits, Plan
from slurm_gsp.campaign.plan import plan as make_plan

HOUR = 3600.0
EPOCH = datetime(2026, 11, 16, tzinfo=UTC)
GPUS = 8
REALIGN_S = 1800
"""What one node is out for at the least: realignment, reboot, verification."""
SOAK_S = 3600
TICK_S = 60
"""How often a controller, or the script by hand, looks."""
NEVER = math.inf
DEPTH = 60
"""How far down the queue backfill looks."""
WARM_UP_S = 96 * HOUR
MOST_WINDOWS = 20
"""Of a log, if no other number is asked for."""


@dataclass(frozen=True, slots=True)
class Job:
    """Seconds; ``run`` is what it really takes. ``gpus`` on each of its nodes."""

    submit: float
    nodes: int
    gpus: int
    run: float
    limit: float


@dataclass(frozen=True, slots=True)
class Part:
    """A share of the jobs: shapes (nodes, GPUs of each), limits in hours, and from and to of run / limit."""

    share: float
    shapes: tuple[tuple[int, int], ...]
    limits: tuple[float, ...]
    low: float
    high: float


MIXES = {
    "training": (
        Part(0.5, ((1, 8), (2, 8), (4, 8)), (24, 48), 0.3, 1.0),
        Part(0.4, ((8, 8),), (24, 48, 72), 0.5, 1.0),
        Part(0.1, ((16, 8),), (72,), 0.7, 1.0),
    ),
    "mixed": (
        Part(0.6, ((1, 1), (1, 2), (1, 4)), (4, 12), 0.05, 1.0),
        Part(0.3, ((1, 8), (2, 8)), (12, 24), 0.2, 1.0),
        Part(0.1, ((4, 8), (8, 8)), (24, 48), 0.4, 1.0),
    ),
    "short": (
        Part(0.8, ((1, 1), (1, 2)), (2, 4), 0.05, 1.0),
        Part(0.2, ((1, 4), (1, 8)), (4, 8), 0.2, 1.0),
    ),
}


def made_up(parts: Sequence[Part], nodes: int, hours: float, seed: int) -> list[Job]:
    """Jobs that would keep a fifth more GPUs busy than there are; the queue starts with a day's work."""
    chance = random.Random(seed)
    weights = [part.share for part in parts]
    jobs: list[Job] = []
    work, clock = 0.0, 0.0
    while clock < hours * HOUR:
        part = chance.choices(parts, weights)[0]
        count, gpus = chance.choice(part.shapes)
        limit = chance.choice(part.limits) * HOUR
        run = limit * chance.uniform(part.low, part.high)
        jobs.append(Job(clock, min(count, nodes), gpus, run, limit))
        work += min(count, nodes) * gpus * run
        clock = max(0.0, work / (1.2 * nodes * GPUS) - 24 * HOUR)
    return jobs


@dataclass(frozen=True, slots=True)
class Log:
    """The jobs that a log gives, in order and from the first on, and what must be said of it."""

    jobs: list[Job]
    notes: list[str]


def read_swf(path: Path, cores_per_gpu: int, nodes: int, limit_s: float = 0.0) -> Log:
    """Read a log in the Standard Workload Format.

    A run beyond its limit is cut there: Slurm would end the job. ``limit_s`` is for jobs that have none; a
    limit equal to the run would be a perfect forecast. Lines of status 2, 3 and 4 are parts of a job that has
    a line of its own. Jobs larger than the cluster would never start: they are left out, and told.
    """
    lines = _lines(path)
    records = [fields for line in lines if len(fields := line.split()) > 10 and fields[0][0] != ";"]
    ran = [fields for fields in records if float(fields[3]) > 0 and _processors(fields) > 0]
    entire = [fields for fields in ran if fields[10] not in {"2", "3", "4"}]
    if not entire:
        raise SystemExit(f"{path}: no job in it that ran: is it in the Standard Workload Format?")
    without = sum(float(fields[8]) <= 0 for fields in entire)
    if without and limit_s <= 0:
        raise SystemExit(
            f"{path}: {without} of {len(entire)} jobs have no limit; --limit-hours says which they get"
        )
    jobs = [_job(fields, cores_per_gpu, limit_s) for fields in entire]
    fitting = sorted((job for job in jobs if job.nodes <= nodes), key=lambda job: job.submit)
    largest = max(job.nodes for job in jobs)
    if not fitting:
        raise SystemExit(f"{path}: no job in it fits on {nodes} nodes; --nodes {largest} holds all of them")
    cut = sum(job.run < float(fields[3]) for job, fields in zip(jobs, entire, strict=True))
    notes = [
        f"in the log: {len(records)} jobs",
        *(line.strip("; \t\r") for line in lines if line.lstrip("; ").startswith(("MaxNodes:", "MaxProcs:"))),
        f"skipped, for they never ran: {len(records) - len(ran)}",
        f"skipped, for they are parts of others: {len(ran) - len(entire)}",
        f"skipped, for they are larger than the cluster: {len(jobs) - len(fitting)}, "
        f"{1 - _work(fitting) / _work(jobs):.1%} of the work; the largest wants {largest} nodes",
        f"without a limit of their own: {without / len(jobs):.1%}",
        f"cut at their limit: {cut / len(jobs):.1%}",
    ]
    first = fitting[0].submit
    return Log([replace(job, submit=job.submit - first) for job in fitting], notes)


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return text.decode("latin-1").split("\n")  # splitlines would break a line within an Å of UTF-8


def _processors(fields: Sequence[str]) -> float:
    """Allocated, or requested: a log may have but one of them."""
    return max(float(fields[4]), float(fields[7]))


def _job(fields: Sequence[str], cores_per_gpu: int, limit_s: float) -> Job:
    gpus = math.ceil(_processors(fields) / cores_per_gpu)
    limit = float(fields[8]) if float(fields[8]) > 0 else limit_s
    run = min(float(fields[3]), limit)
    return Job(float(fields[1]), math.ceil(gpus / GPUS), min(gpus, GPUS), run, limit)


def _work(jobs: Iterable[Job]) -> float:
    """GPU-seconds."""
    return sum(job.nodes * job.gpus * job.run for job in jobs)


def windows(jobs: Sequence[Job], span_s: float, asked: int | None) -> list[list[Job]]:
    """A log as back-to-back windows, each with its own warm-up; what is left at its end is not replayed."""
    length, window = jobs[-1].submit, WARM_UP_S + span_s
    count = asked or min(MOST_WINDOWS, max(1, int(length // window)))
    if length < count * window:
        day = 24 * HOUR
        need = f"{count} x ({WARM_UP_S / day:g} to warm up + --days {span_s / day:g})"
        fits = math.floor((length / count - WARM_UP_S) / day * 10) / 10
        advice = f"--days {fits:g} would fit" if fits > 0 else "no --days would fit"
        raise SystemExit(f"the log is {length / day:.1f} days long, too short for {need}: {advice}")
    found: list[list[Job]] = [[] for _ in range(count)]
    for job in jobs:
        number, submit = divmod(job.submit, window)
        if number < count:
            found[int(number)].append(replace(job, submit=submit))
    return found


class Cluster:
    """Nodes, a queue, and of each node one interval of maintenance to come (NEVER for none)."""

    def __init__(self, nodes: int, jobs: Sequence[Job]) -> None:
        self.env = simpy.Environment()
        self.size = nodes
        self.free = np.full(nodes, GPUS)
        self.ends: list[list[tuple[float, int]]] = [[] for _ in range(nodes)]
        """Of each job on a node: when its limit ends, and its GPUs."""
        self.free_at = np.zeros(nodes)
        """When all jobs on a node must have ended."""
        self.out_from = np.full(nodes, NEVER)
        self.out_to = np.full(nodes, NEVER)
        self.refuses = np.zeros(nodes, dtype=bool)
        """Takes no job: drained, or out."""
        self.in_hand = np.zeros(nodes, dtype=bool)
        self.done = np.zeros(nodes, dtype=bool)
        self.queue: list[Job] = []
        self.idle_s = 0.0
        """GPU-seconds without a job."""
        self.lost_s = 0.0
        """Of these: on nodes in hand, where a job was kept away."""
        self.measured_from = NEVER
        self.most_out = 0
        self.when_empty: list[Callable[[int], None]] = []
        self._last = 0.0
        self.env.process(self._arrivals(jobs))

    def account(self) -> None:
        """Add up what was idle since the last change."""
        now = self.env.now
        passed = now - max(self._last, self.measured_from)
        if passed > 0:
            self.idle_s += passed * int(self.free.sum())
            self.lost_s += passed * int(self.free[self._lost()].sum())
        self._last = now

    def _lost(self) -> np.ndarray:
        """The nodes in hand whose idle GPUs would have a job by now."""
        lost = self.refuses & (self.free == GPUS)
        for gpus, limit in {(job.gpus, job.limit) for job in self.queue[:DEPTH]}:
            lost |= (self.free >= gpus) & (self.refuses | (self.out_from < self.env.now + limit))
        return lost & self.in_hand

    def is_empty(self, node: int) -> bool:
        """Whether no job runs on it."""
        return bool(self.free[node] == GPUS)

    def last_job(self, node: int) -> float | None:
        """When the job must end that has all of a node; None: there is none such."""
        return self.ends[node][0][0] if len(self.ends[node]) == 1 and not self.free[node] else None

    def take_hold(self, node: int, start: float) -> None:
        """Reserve a node from this moment on, or move its reservation there."""
        self.account()
        self.in_hand[node] = True
        self.out_from[node], self.out_to[node] = start, start + REALIGN_S

    def drain(self, node: int) -> None:
        """It takes no job any more."""
        self.account()
        self.in_hand[node] = self.refuses[node] = True

    def take_out(self, node: int) -> None:
        """The realignment of an empty node begins now."""
        assert self.is_empty(node), "a job runs into a realignment"
        self.take_hold(node, self.env.now)
        self.refuses[node] = True
        self.env.process(self._realign(node))

    def schedule(self) -> None:
        """First come first served; behind the first that has to wait, what does not delay it."""
        while self.queue and self._start(self.queue[0], None):
            self.queue.pop(0)
        if not self.queue:
            return
        shadow, kept = self._shadow(self.queue[0])
        failed: set[tuple[int, int, float, bool]] = set()
        index = 1
        while index < min(len(self.queue), DEPTH):
            job = self.queue[index]
            in_time = self.env.now + job.limit <= shadow
            shape = (job.nodes, job.gpus, job.limit, in_time)
            if shape not in failed and self._start(job, None if in_time else kept):
                self.queue.pop(index)
                continue
            failed.add(shape)
            index += 1

    def _arrivals(self, jobs: Sequence[Job]) -> Iterator[Any]:
        for job in jobs:
            if job.submit > self.env.now:
                yield self.env.timeout(job.submit - self.env.now)
            self.account()
            self.queue.append(job)
            if len(self.queue) <= DEPTH:
                self.schedule()

    def _realign(self, node: int) -> Iterator[Any]:
        yield self.env.timeout(REALIGN_S)
        self.account()
        self.refuses[node] = self.in_hand[node] = False
        self.out_from[node] = self.out_to[node] = NEVER
        self.done[node] = True
        self.schedule()

    def _start(self, job: Job, barred: np.ndarray | None) -> bool:
        now = self.env.now
        fits = (self.free >= job.gpus) & ~self.refuses & (self.out_from >= now + job.limit)
        if barred is not None:
            fits &= ~barred
        chosen = np.flatnonzero(fits)
        if len(chosen) < job.nodes:
            return False
        chosen = chosen[np.argsort(self.free[chosen], kind="stable")[: job.nodes]]  # the fullest first
        self.account()
        self.free[chosen] -= job.gpus
        for node in chosen:
            self.ends[node].append((now + job.limit, job.gpus))
        self.free_at[chosen] = np.maximum(self.free_at[chosen], now + job.limit)
        self.env.process(self._run(job, chosen, now + job.limit))
        return True

    def _run(self, job: Job, nodes: np.ndarray, limit: float) -> Iterator[Any]:
        yield self.env.timeout(job.run)
        self.account()
        self.free[nodes] += job.gpus
        for node in nodes:
            self.ends[node].remove((limit, job.gpus))
            self.free_at[node] = max((end for end, _ in self.ends[node]), default=self.env.now)
        for node in nodes:
            if self.is_empty(node):
                for tell in self.when_empty:
                    tell(int(node))
        self.schedule()

    def _shadow(self, job: Job) -> tuple[float, np.ndarray]:
        """When the first job of the queue can start at the latest, and on which nodes."""
        ready = np.array([self._ready(node, job.gpus) for node in range(self.size)])
        blocked = self.out_from < ready + job.limit
        ready = np.where(blocked, np.maximum(ready, self.out_to), ready)
        ready[self.refuses & (self.out_to == NEVER)] = NEVER
        first = np.argsort(ready, kind="stable")[: job.nodes]
        kept = np.zeros(self.size, dtype=bool)
        kept[first] = True
        return float(ready[first[-1]]), kept

    def _ready(self, node: int, gpus: int) -> float:
        free = int(self.free[node])
        if free >= gpus:
            return self.env.now
        for end, more in sorted(self.ends[node]):
            free += more
            if free >= gpus:
                return end
        return NEVER


Way = Callable[[Cluster, Limits], None]
"""A way to take all nodes through, begun at the present moment of a cluster."""


def nothing(_cluster: Cluster, _limits: Limits) -> None:
    """No maintenance: what everything is compared with."""


def asap_everywhere(cluster: Cluster, _limits: Limits) -> None:
    """`scontrol reboot ASAP` on all nodes: each is drained at once and goes when its jobs have ended."""
    _drain_all(cluster, range(cluster.size))


def one_big_reservation(cluster: Cluster, _limits: Limits) -> None:
    """One MAINT reservation over all nodes, from the moment at which the last job must have ended."""
    start = float(max(cluster.free_at.max(), cluster.env.now))
    _book(cluster, dict.fromkeys(range(cluster.size), start))


def at_its_last_jobs_end(cluster: Cluster, _limits: Limits) -> None:
    """One reservation for each node, from the moment at which its jobs must have ended; no limits."""
    now = cluster.env.now
    _book(cluster, {node: float(max(cluster.free_at[node], now)) for node in range(cluster.size)})


def rolling_drain(cluster: Cluster, limits: Limits) -> None:
    """The script by hand: drain as many as may be out, reboot each when its jobs have ended, go on."""
    cluster.env.process(_roll(cluster, list(range(cluster.size)), limits.most_out(cluster.size)))


def rolling_waves(cluster: Cluster, limits: Limits) -> None:
    """The same with this planner's canary and waves, each after the soak of the one before."""

    def go() -> Iterator[Any]:
        for wave in _waves(cluster, limits).values():
            yield cluster.env.process(_roll(cluster, list(wave), limits.most_out(cluster.size)))
            yield cluster.env.timeout(SOAK_S)

    cluster.env.process(go())


def _roll(cluster: Cluster, waiting: list[int], most: int) -> Iterator[Any]:
    members = list(waiting)
    _drain_all(cluster, (), among=set(members))
    while not cluster.done[members].all():
        while waiting and int(cluster.refuses.sum()) < most:
            node = waiting.pop(0)
            cluster.drain(node)
            if cluster.is_empty(node):
                cluster.take_out(node)
        yield cluster.env.timeout(TICK_S)


def _drain_all(cluster: Cluster, nodes: Iterable[int], among: set[int] | None = None) -> None:
    """Drain these; whichever of them is drained goes out once it is empty."""

    def empty(node: int) -> None:
        drained = cluster.refuses[node] and cluster.out_to[node] == NEVER
        if drained and (among is None or node in among):
            cluster.take_out(node)

    cluster.when_empty.append(empty)
    for node in nodes:
        cluster.drain(node)
        if cluster.is_empty(node):
            cluster.take_out(node)


def by_wave(cluster: Cluster, limits: Limits) -> None:
    """This planner with `--reserve wave`: a wave is reserved in turn, once it is open."""
    cluster.env.process(_campaign(cluster, limits, _waves(cluster, limits), {}))


def all_ahead(cluster: Cluster, limits: Limits) -> None:
    """This planner with `--reserve all`: every node is reserved when the plan is scheduled."""
    waves = _waves(cluster, limits)
    starts = {node: start for wave in waves.values() for node, start in wave.items()}
    for node, start in starts.items():
        cluster.take_hold(node, start)
    cluster.env.process(_campaign(cluster, limits, waves, starts))


def _campaign(
    cluster: Cluster, limits: Limits, waves: dict[int, dict[int, float]], starts: dict[int, float]
) -> Iterator[Any]:
    """The controller: an empty node goes if its wave is open and there is room, its time come or not."""
    for number, wave in waves.items():
        times = wave if starts else dict.fromkeys(wave, 0.0)
        while not cluster.done[list(wave)].all():
            _look(cluster, limits, times, in_turn=not starts)
            cluster.schedule()
            yield cluster.env.timeout(TICK_S)
        opens = cluster.env.now + SOAK_S
        while cluster.env.now < opens:
            later = [node for other in waves if other > number for node in waves[other] if node in starts]
            near = [node for node in later if cluster.out_from[node] <= cluster.env.now + 2 * TICK_S]
            for node in near:
                cluster.take_hold(node, opens)
            yield cluster.env.timeout(TICK_S)


def _look(cluster: Cluster, limits: Limits, wave: dict[int, float], *, in_turn: bool) -> None:
    """One tick: an empty node goes, one with its last job is kept free behind it, others have their time."""
    now, most = cluster.env.now, limits.most_out(cluster.size)
    in_hand = [node for node in wave if cluster.in_hand[node]]
    taken, idle = len(in_hand), sum(cluster.is_empty(node) for node in in_hand)
    waiting = [node for node in wave if not cluster.done[node] and not cluster.refuses[node]]
    for node in sorted(waiting, key=lambda node: (not cluster.in_hand[node], *_emptiness(cluster, node))):
        last = cluster.last_job(node) if in_turn else None
        empty = cluster.is_empty(node)
        if not cluster.in_hand[node]:
            turns = IN_TURN * most if last is not None else most
            if in_turn and (idle if empty else taken) >= turns:
                continue
            taken, idle = taken + 1, idle + empty
        kept = last is not None and cluster.out_from[node] < last
        near = cluster.out_from[node] <= now + TICK_S
        if empty and int(cluster.refuses.sum()) < most:
            cluster.take_out(node)
        elif last is not None and last > now + REALIGN_S:
            if near or not kept:
                cluster.take_hold(node, now + REALIGN_S)
        elif near or not cluster.in_hand[node]:
            cluster.take_hold(node, max(now + 2 * TICK_S, wave[node], float(cluster.free_at[node])))


def _emptiness(cluster: Cluster, node: int) -> tuple[bool, bool, float]:
    """The order of turns, as bounds.py has it."""
    busy = not cluster.is_empty(node)
    return busy, cluster.last_job(node) is None, float(cluster.free_at[node]) if busy else 0.0


def _waves(cluster: Cluster, limits: Limits) -> dict[int, dict[int, float]]:
    """The plan: of each wave its nodes, and when each of them starts."""
    now = cluster.env.now
    fleet = [
        FleetNode(
            name=str(node),
            profile="p",
            variant=f"v{node * 3 // cluster.size}",
            partitions=("all",),
            busy_until=None if cluster.is_empty(node) else _moment(float(cluster.free_at[node])),
        )
        for node in range(cluster.size)
    ]
    made = make_plan(fleet, limits, _moment(now), REALIGN_S)
    assert isinstance(made, Plan), made
    return {
        wave.number: {int(slot.node): max(now, (slot.start - EPOCH).total_seconds()) for slot in wave.slots}
        for wave in made.waves
    }


def _moment(seconds: float) -> datetime:
    return EPOCH + timedelta(seconds=seconds)


def _book(cluster: Cluster, starts: dict[int, float]) -> None:
    """Reservations that are kept to the minute, whatever else is out."""

    def begin(node: int, start: float) -> Iterator[Any]:
        yield cluster.env.timeout(max(0.0, start - cluster.env.now))
        yield cluster.env.timeout(0)  # behind a job that ends with its limit in this very moment
        cluster.take_out(node)

    for node, start in starts.items():
        cluster.take_hold(node, start)
        cluster.env.process(begin(node, start))


WAYS: dict[str, tuple[Way, str]] = {
    "this planner, waves reserved in turn": (by_wave, "yes"),
    "this planner, all reserved ahead": (all_ahead, "yes"),
    "rolling drain by hand, in the same waves": (rolling_waves, "yes"),
    "rolling drain by hand": (rolling_drain, "no canary, no waves"),
    "each at its last job's end": (at_its_last_jobs_end, "no"),
    "`scontrol reboot ASAP` on all": (asap_everywhere, "no"),
    "one MAINT reservation over all": (one_big_reservation, "no"),
}
"""Each way, and whether it keeps the limits."""


@dataclass(slots=True)
class Outcome:
    """How one way went: GPU-seconds idle and lost, when the last node was done, most nodes out at once."""

    idle_s: float = 0.0
    lost_s: float = 0.0
    realigned: int = 0
    took_s: float = NEVER
    most_out: int = 0
    series: list[tuple[float, int]] = field(default_factory=list)


def simulate(nodes: int, jobs: Sequence[Job], way: Way, limits: Limits, span_s: float) -> Outcome:
    """Run the jobs, begin the campaign after four days, and go on for ``span_s``."""
    cluster = Cluster(nodes, jobs)
    cluster.env.run(until=WARM_UP_S)
    cluster.account()
    cluster.measured_from = WARM_UP_S
    way(cluster, limits)
    cluster.schedule()
    outcome = Outcome()

    def watch() -> Iterator[Any]:
        while True:
            out = int(cluster.refuses.sum())
            outcome.series.append((cluster.env.now - WARM_UP_S, out))
            outcome.most_out = max(outcome.most_out, out)
            if outcome.took_s == NEVER and cluster.done.all():
                outcome.took_s = cluster.env.now - WARM_UP_S
            yield cluster.env.timeout(301)  # never in the very moment in which one goes and another returns

    cluster.env.process(watch())
    cluster.env.run(until=WARM_UP_S + span_s)
    cluster.account()
    outcome.idle_s, outcome.lost_s = cluster.idle_s, cluster.lost_s
    outcome.realigned = int(cluster.done.sum())
    return outcome


def compare(
    nodes: int, loads: Sequence[Sequence[Job]], limits: Limits, span_s: float
) -> dict[str, list[tuple[Outcome, Outcome]]]:
    """Every way on the same jobs: each outcome, with that of no maintenance."""
    found: dict[str, list[tuple[Outcome, Outcome]]] = {name: [] for name in WAYS}
    for jobs in loads:
        base = simulate(nodes, jobs, nothing, limits, span_s)
        for name, (way, _) in WAYS.items():
            found[name].append((simulate(nodes, jobs, way, limits, span_s), base))
    return found


def told(found: dict[str, list[tuple[Outcome, Outcome]]], nodes: int) -> str:
    """The outcomes as a table in Markdown."""
    lines = [
        "| way | keeps the limits | node-hours lost per realigned node | times the bound | hours until done "
        "| most out | whole cluster, times the bound |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    unit = HOUR * GPUS * nodes
    bound = REALIGN_S / HOUR
    for name, runs in found.items():
        realigned = sum(run.realigned for run, _ in runs)
        lost = sum(run.lost_s for run, _ in runs) / realigned / (HOUR * GPUS) if realigned else None
        each = "— | —" if lost is None else f"{lost:.2f} | {lost / bound:.2f}"
        whole = [(run.idle_s - base.idle_s) / unit / bound for run, base in runs]
        spread = f" ± {statistics.stdev(whole) / math.sqrt(len(whole)):.1f}" if len(whole) > 1 else ""
        took = statistics.mean(run.took_s / HOUR for run, _ in runs)
        out = max(run.most_out for run, _ in runs) / nodes
        done = f"{took:.0f}" if took < NEVER else f"{realigned // len(runs)} of {nodes}"
        lines.append(
            f"| {name} | {WAYS[name][1]} | {each} | {done} | {out:.0%} "
            f"| {statistics.mean(whole):.1f}{spread} |"
        )
    return "\n".join(lines)


def draw(found: dict[str, list[tuple[Outcome, Outcome]]], nodes: int, path: Path) -> None:
    """Nodes out over time in the first run, a line for each way."""
    import matplotlib  # noqa: PLC0415 - only for the plot

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "capacity"  # the same picture from the same numbers
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(figsize=(8, 4))
    for name, runs in found.items():
        series = runs[0][0].series
        hours, out = [at / HOUR for at, _ in series], [100 * out / nodes for _, out in series]
        axes.plot(hours, out, label=name.replace("`", ""), linewidth=1)
    axes.set(xlabel="hours since the start", ylabel="nodes drained or out, percent")
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--mix", choices=sorted(MIXES), action="append")
    parser.add_argument("--swf", type=Path, help="a log instead of the mixes, .gz or not")
    parser.add_argument("--cores-per-gpu", type=int, default=1, help="processors of the log for each GPU")
    parser.add_argument("--windows", type=int, help=f"of the log (as many as it has, {MOST_WINDOWS} at most)")
    parser.add_argument("--limit-hours", type=float, default=0.0, help="for jobs of the log without a limit")
    parser.add_argument("--percent", type=float, default=10.0, help="most nodes out")
    parser.add_argument("--growth", type=float, default=2.0)
    parser.add_argument("--days", type=float, default=14.0, help="how long to look after the start")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    limits = Limits(max_out_percent=asked.percent, growth=asked.growth, soak_s=SOAK_S)
    span_s = asked.days * 24 * HOUR
    loads: dict[str, list[list[Job]]] = {}
    if asked.swf:
        log = read_swf(asked.swf, asked.cores_per_gpu, asked.nodes, asked.limit_hours * HOUR)
        loads[asked.swf.name] = windows(log.jobs, span_s, asked.windows)
        print(f"{asked.swf.name}:", *log.notes, sep="\n- ")
    else:
        hours = (WARM_UP_S + span_s) / HOUR
        for name in asked.mix or MIXES:
            seeds = range(1, asked.seeds + 1)
            loads[name] = [made_up(MIXES[name], asked.nodes, hours, seed) for seed in seeds]
    for name, load in loads.items():
        found = compare(asked.nodes, load, limits, span_s)
        offered = [_work(jobs) / (asked.nodes * GPUS * (WARM_UP_S + span_s)) for jobs in load]
        print(
            f"\n{name}: {asked.nodes} nodes, {sum(map(len, load))} jobs in {len(load)} runs, offered load "
            f"{statistics.mean(offered):.0%} ({min(offered):.0%} to {max(offered):.0%})\n"
        )
        print(told(found, asked.nodes), flush=True)
        if asked.plot:
            draw(found, asked.nodes, asked.plot.with_stem(f"{asked.plot.stem}-{name}"))


if __name__ == "__main__":
    main()

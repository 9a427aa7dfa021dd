"""One look of a running campaign at Slurm: four texts in, what its nodes are up to out. Pure.

Nodes of the campaign are read in full; of all others only what limits ask about: state and partitions.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from slurm_gsp.campaign.model import OUT, Reservation
from slurm_gsp.core.published import DRIVER_KEY, Proof, proof_in, read_published
from slurm_gsp.slurm.ask import time_or_none
from slurm_gsp.slurm.client import NodeState, SlurmError, parse_states
from slurm_gsp.slurm.fleet import (
    JOB_NAME,
    CampaignText,
    expand,
    head_of,
    parse_reservations,
    records,
)
from slurm_gsp.slurm.scontrol import parse_node

ENDED: Final = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "TIMEOUT",
})  # fmt: skip
"""States in which a job holds no node any more."""
_NODE_FAIL: Final = "NODE_FAIL"
_SUMMARY: Final = re.compile(r"^NodeName=(\S+) (?:.*? )?State=(\S+) (?:.*? )?Partitions=(\S+)", re.MULTILINE)
_GRES: Final = re.compile(r" Gres=(\S+) GresDrain=\S+ GresUsed=(\S+)")
_GPUS: Final = re.compile(r"(?:^|,)gpu(?::[^:,]+)?:([0-9]+)")
_NODE_LINE: Final = re.compile(r"^NodeName=(\S+) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Job:
    """One job as squeue shows it; ``end`` when it must end, or has ended."""

    id: str
    state: str
    user: str
    end: datetime | None = None
    nodes: tuple[str, ...] = ()
    comment: str = ""

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state in ENDED


@dataclass(frozen=True, slots=True)
class Seen:
    """One node of the campaign; ``jobs`` are those of others that hold it, ``failed`` those it cost.

    ``full``: all its CPUs or all its GPUs are allocated.
    """

    state: NodeState
    reservations: tuple[Reservation, ...] = ()
    jobs: tuple[Job, ...] = ()
    failed: tuple[Job, ...] = ()
    proof: Proof | None = None
    driver: str | None = None
    full: bool = False

    @property
    def name(self) -> str:
        """The node's name."""
        return self.state.name

    @property
    def states(self) -> frozenset[str]:
        """The node's state flags."""
        return self.state.states

    @property
    def out(self) -> bool:
        """Whether users cannot count on it, whoever took it out."""
        return not self.states.isdisjoint(OUT)

    @property
    def last_job(self) -> Job | None:
        """The job that has all of the node: where no other starts, its end leaves the node empty."""
        return self.jobs[0] if self.full and len(self.jobs) == 1 else None

    def reservation(self, name: str) -> Reservation | None:
        """The reservation of this name on the node."""
        return next((held for held in self.reservations if held.name == name), None)


@dataclass(frozen=True, slots=True)
class Look:
    """What Slurm showed at one moment.

    ``sizes`` is how many nodes each partition has, ``out`` which of them users cannot count on.
    """

    at: datetime
    nodes: Mapping[str, Seen]
    verifications: Mapping[str, tuple[Job, ...]] = field(default_factory=dict)
    """Our own jobs by their comment, oldest first."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    out: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def seen(self, name: str) -> Seen | None:
        """One node; None where Slurm has none of that name."""
        return self.nodes.get(name)


def parse_look(text: CampaignText, names: Collection[str], now: datetime) -> Look:
    """The look that four texts describe; SlurmError for any other text."""
    wanted = frozenset(names)
    held = parse_reservations(text.reservations, now)
    jobs, failed = _jobs_of(text.jobs, wanted)
    sizes, out = _partitions(text.nodes, _in_maintenance(held, now))
    nodes = {}
    for line in _lines_of(text.nodes, wanted):
        state = parse_node(line)
        published = {**read_published(state.comment), **read_published(state.extra)}
        nodes[state.name] = Seen(
            state=state,
            reservations=held.get(state.name, ()),
            jobs=tuple(jobs.get(state.name, ())),
            failed=tuple(failed.get(state.name, ())),
            proof=proof_in(published),
            driver=published.get(DRIVER_KEY) or None,
            full="ALLOCATED" in state.states or _no_gpu_left(line),
        )
    if not sizes:
        raise SlurmError(f"no node in what scontrol said: {text.nodes[:200]!r}")
    return Look(now, nodes, _verifications(text.verifications), sizes, out)


def _no_gpu_left(line: str) -> bool:
    """Whether Slurm has given all GPUs of this node away."""
    found = _GRES.search(head_of(line))
    if found is None:
        return False
    there, taken = (sum(map(int, _GPUS.findall(text))) for text in found.groups())
    return 0 < there <= taken


def _in_maintenance(held: Mapping[str, tuple[Reservation, ...]], now: datetime) -> frozenset[str]:
    """Nodes inside a MAINT reservation: their flag comes some seconds after it began."""
    return frozenset(
        name for name, spans in held.items() if any(one.maint and one.start <= now < one.end for one in spans)
    )


def _partitions(nodes: str, maintenance: frozenset[str]) -> tuple[dict[str, int], dict[str, frozenset[str]]]:
    sizes: dict[str, int] = defaultdict(int)
    out: dict[str, set[str]] = defaultdict(set)
    kinds: dict[str, tuple[bool, bool]] = {}
    for name, state, partitions in _SUMMARY.findall(nodes):
        if state not in kinds:
            flags = parse_states(state)
            kinds[state] = ("FUTURE" not in flags, not flags.isdisjoint(OUT))
        exists, is_out = kinds[state]
        for partition in partitions.split(",") if exists else ():
            sizes[partition] += 1
            if is_out or name in maintenance:
                out[partition].add(name)
    return dict(sizes), {partition: frozenset(names) for partition, names in out.items()}


def _lines_of(nodes: str, wanted: frozenset[str]) -> Iterable[str]:
    for record in records(nodes, "NodeName="):
        found = _NODE_LINE.match(record)
        if found and found[1] in wanted:
            yield record


def _jobs_of(text: str, wanted: frozenset[str]) -> tuple[dict[str, list[Job]], dict[str, list[Job]]]:
    holding: dict[str, list[Job]] = defaultdict(list)
    failed: dict[str, list[Job]] = defaultdict(list)
    for parts in _rows(text, 6):
        number, state, user, end, hosts, name = parts
        nodes = expand(hosts)
        if name == JOB_NAME or wanted.isdisjoint(nodes):
            continue
        job = Job(number, state, user, time_or_none(end), nodes)
        kept = failed if state == _NODE_FAIL else holding
        for node in wanted.intersection(nodes):
            kept[node].append(job)
    return holding, failed


def _verifications(text: str) -> dict[str, tuple[Job, ...]]:
    found: dict[str, list[Job]] = defaultdict(list)
    for number, state, user, end, hosts, comment in _rows(text, 6):
        found[comment].append(Job(number, state, user, time_or_none(end), expand(hosts), comment))
    return {key: tuple(sorted(jobs, key=lambda job: int(job.id))) for key, jobs in found.items()}


def _rows(text: str, fields: int) -> Iterable[list[str]]:
    for line in text.splitlines():
        if not line.strip():
            continue
        parts = line.strip().split("|", fields - 1)
        if len(parts) != fields:
            raise SlurmError(f"not a job as asked of squeue: {line[:200]!r}")
        yield parts

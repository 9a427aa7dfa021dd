"""The whole fleet in three reads, whatever its size: nodes, running jobs and reservations, as text.

Text and not JSON: every release gives it, and 10,000 nodes are 0.06 s and 5 MB. Times are asked for in UTC,
so that no change of the clocks makes one ambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Final

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

from slurm_gsp.campaign.model import NEVER, Reservation
from slurm_gsp.core.published import DRIVER_KEY, read_told
from slurm_gsp.slurm.ask import NOTHING, Run, asking, time_of, time_or_none
from slurm_gsp.slurm.client import NodeState, SlurmError
from slurm_gsp.slurm.scontrol import parse_node

JOB_NAME: Final = "gsp-verify"
"""The name of all verification jobs; their comment says which node and operation they are of."""
RECURRENCE_DAYS: Final = 60
"""How far ahead a reservation that recurs is followed."""

_HOLDING: Final = "RUNNING,SUSPENDED,COMPLETING,CONFIGURING,RESIZING,SIGNALING,STAGE_OUT,STOPPED"
"""States in which a job holds nodes; all known since 22.05."""
_JOB_FORM: Final = "%A|%T|%l|%e|%N"
_FREE_TEXT: Final = re.compile(r" (?:Reason|Comment|Extra)=")
_FEATURES: Final = re.compile(r" AvailableFeatures=(\S+)")
_GRES: Final = re.compile(r" Gres=(\S+)")
_SOCKETS: Final = re.compile(r"\([^()\s]*\)")
_RESERVATION: Final = re.compile(r"ReservationName=(.*?) StartTime=(\S+) EndTime=(\S+)")
_FIELD: Final = re.compile(r" ([A-Za-z]+)=(\S*)")
_DAY_FLAGS: Final = ("DAILY", "WEEKDAY", "WEEKEND", "WEEKLY")


@dataclass(frozen=True, slots=True)
class FleetText:
    """What Slurm said, as it said it; times in UTC."""

    nodes: str
    jobs: str
    reservations: str


@dataclass(frozen=True, slots=True)
class CampaignText:
    """The same for a campaign that runs: jobs with their users, and our own verification jobs."""

    nodes: str
    reservations: str
    jobs: str
    verifications: str


@dataclass(frozen=True, slots=True)
class SeenNode:
    """One node as the three reads show it; ``gres`` without sockets, ``busy_until`` None: no job on it."""

    state: NodeState
    features: tuple[str, ...]
    gres: tuple[str, ...]
    driver: str | None
    busy_until: datetime | None
    reservations: tuple[Reservation, ...]


def read_fleet(
    run: Run | None = None,
    *,
    scontrol: str = "/usr/bin/scontrol",
    squeue: str = "/usr/bin/squeue",
    conf: str | None = None,
    deadline_s: float = 60.0,
) -> FleetText:
    """Ask Slurm three times; nothing is changed. SlurmError where it does not answer."""
    ask = asking(run, conf, deadline_s)
    # jobs last: a job that starts in between is seen, and one that ends only leaves the node free sooner
    nodes = ask(scontrol, "-a", "-o", "show", "node")
    reservations = ask(scontrol, "-a", "-o", "show", "reservation")
    return FleetText(nodes, ask(squeue, "-h", "-a", "-t", _HOLDING, "-o", _JOB_FORM), reservations)


def read_campaign(
    run: Run | None = None,
    *,
    scontrol: str = "/usr/bin/scontrol",
    squeue: str = "/usr/bin/squeue",
    conf: str | None = None,
    deadline_s: float = 60.0,
) -> CampaignText:
    """Ask Slurm four times, whatever the size of the fleet and of the campaign; nothing is changed."""
    ask = asking(run, conf, deadline_s)
    # our own jobs before the nodes: what a job published before it ended is then seen with its end
    ours = ask(squeue, "-h", "-a", "-t", "all", "-n", JOB_NAME, "-o", "%A|%T|%u|%e|%N|%k")
    nodes = ask(scontrol, "-a", "-d", "-o", "show", "node")  # with -d: how many GPUs are taken
    reservations = ask(scontrol, "-a", "-o", "show", "reservation")
    others = ask(squeue, "-h", "-a", "-t", f"{_HOLDING},NODE_FAIL", "-o", "%A|%T|%u|%e|%N|%j")
    return CampaignText(nodes, reservations, others, ours)


def parse_fleet(text: FleetText, now: datetime) -> tuple[SeenNode, ...]:
    """The fleet that the three texts describe, in the order of Slurm; SlurmError for any other text."""
    busy = parse_jobs(text.jobs)
    held = parse_reservations(text.reservations, now)
    seen: dict[str, SeenNode] = {}
    for line in records(text.nodes, "NodeName="):
        state = parse_node(line)
        head = head_of(line)
        seen[state.name] = SeenNode(
            state=state,
            features=_listed(_FEATURES, head),
            gres=_listed(_GRES, _SOCKETS.sub("", head)),
            driver=published_driver(state),
            busy_until=busy.get(state.name),
            reservations=held.get(state.name, ()),
        )
    if not seen:
        raise SlurmError(f"no node in what scontrol said: {text.nodes[:200]!r}")
    return tuple(seen.values())


def head_of(line: str) -> str:
    """A node's line up to what people wrote into it, which may look like anything."""
    free = _FREE_TEXT.search(line)
    return line[: free.start()] if free else line


def parse_jobs(text: str) -> dict[str, datetime]:
    """When the last job on each node must have ended; NEVER where one has no time limit."""
    until: dict[str, datetime] = {}
    expanded: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        parts = line.strip().split("|")
        if len(parts) != 5:
            raise SlurmError(f"not a job as asked of squeue ({_JOB_FORM}): {line[:200]!r}")
        _, _, limit, end, hosts = parts
        moment = NEVER if limit == "UNLIMITED" or end in NOTHING else time_of(end)
        names = expanded.get(hosts)
        if names is None:
            names = expanded[hosts] = expand(hosts)
        for name in names:
            if name not in until or until[name] < moment:
                until[name] = moment
    return until


def parse_reservations(text: str, now: datetime) -> dict[str, tuple[Reservation, ...]]:
    """The reservations of each node that are not over, those that recur once for each time to come.

    Nodes with the same reservations share one tuple: the planner looks at it once.
    """
    held: dict[str, list[int]] = {}
    known: list[list[Reservation]] = []
    for line in records(text, "ReservationName="):
        found = _RESERVATION.match(line)
        if found is None:
            raise SlurmError(f"not a reservation as scontrol writes it: {line[:200]!r}")
        fields = dict(_FIELD.findall(line[found.end() :]))
        flags = frozenset(fields.get("Flags", "").split(","))
        spans = _spans(time_of(found[2]), time_of(found[3]), flags, now)
        for name in expand(fields.get("Nodes", "")) if spans else ():
            held.setdefault(name, []).append(len(known))
        known.append([Reservation(found[1], start, end, "MAINT" in flags) for start, end in spans])

    @cache
    def together(numbers: tuple[int, ...]) -> tuple[Reservation, ...]:
        return tuple(
            sorted((one for n in numbers for one in known[n]), key=lambda one: (one.start, one.name))
        )

    return {name: together(tuple(numbers)) for name, numbers in held.items()}


def expand(hosts: str) -> tuple[str, ...]:
    """The names in a hostlist."""
    if hosts in NOTHING:
        return ()
    if "[" not in hosts:
        return tuple(filter(None, hosts.split(",")))
    try:
        return tuple(NodeSet(hosts, resolver=RESOLVER_NOGROUP))
    except NodeSetException as error:
        raise SlurmError(f"not a hostlist: {hosts[:200]!r}: {error}") from error


def published_driver(state: NodeState) -> str | None:
    """The loaded driver that a node published since it booted; None where it published none."""
    told = read_told((state.extra, state.comment), time_or_none(state.boot_time))
    return (told.values.get(DRIVER_KEY) or None) if told is not None and told.current else None


def parse_topology(text: str) -> dict[str, str]:
    """The leaf switch or block of each node, from topology.conf; SlurmError for a hostlist that is none."""
    blocks: dict[str, str] = {}
    for line in text.replace("\\\n", "").splitlines():
        fields = {key.lower(): value for key, value in _CONF_FIELD.findall(line.partition("#")[0])}
        name = fields.get("switchname") or fields.get("blockname")
        if name:
            for node in expand(fields.get("nodes", "")):
                blocks[node] = name
    return blocks


_CONF_FIELD: Final = re.compile(r"(\w+)\s*=\s*(\S+)")


def records(text: str, first: str) -> Iterable[str]:
    """One record a line; what starts with a blank goes on with the line before it."""
    record = ""
    for line in text.split("\n"):
        if line.startswith(first):
            if record:
                yield record
            record = line.rstrip()
        elif record and line.startswith((" ", "\t")):
            record += " " + line.strip()
    if record:
        yield record


def _listed(form: re.Pattern[str], head: str) -> tuple[str, ...]:
    found = form.search(head)
    return () if found is None or found[1] in NOTHING else tuple(filter(None, found[1].split(",")))


def _spans(
    start: datetime, end: datetime, flags: frozenset[str], now: datetime
) -> Sequence[tuple[datetime, datetime]]:
    """This time and, where it recurs, the times to come; an hourly one counts as always there."""
    until = now + timedelta(days=RECURRENCE_DAYS)
    if "HOURLY" in flags:
        return [(start, max(end, until))]
    spans = [(start, end)] if end > now else []
    recurs = next((flag for flag in _DAY_FLAGS if flag in flags), None)
    if recurs is None:
        return spans
    step = timedelta(days=7 if recurs == "WEEKLY" else 1)
    length, start = end - start, start + step
    while start < until:
        weekend = start.weekday() >= 5
        if (recurs != "WEEKDAY" or not weekend) and (recurs != "WEEKEND" or weekend) and start + length > now:
            spans.append((start, start + length))
        start += step
    return spans

"""The records of a whole fleet, read lean: of each node only what an overview shows.

10,000 nodes are 10 MB, and parse_node takes several times as long for them as Slurm needs to tell them.
"""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.gres import expand_hostlist
from slurm_gsp.slurm.ask import NOTHING, time_of
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.scontrol import free_texts


class Line(NamedTuple):
    """One node, in Slurm's own words. A tuple: a frozen dataclass takes four times as long."""

    name: str
    state: str
    partitions: str
    features: str
    gres: str
    booted: str
    reason: str = ""
    user: str = ""
    comment: str = ""
    extra: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """One reservation; ``nodes`` () for more than anybody can list."""

    name: str
    start: datetime
    end: datetime
    maint: bool
    nodes: tuple[str, ...]


class Lines:
    """Takes the output of ``scontrol -o show node`` piece by piece, and gives each node once it is whole."""

    def __init__(self, take: Callable[[Line], object]) -> None:
        self._give = take
        self._decode = getincrementaldecoder("utf-8")("replace").decode
        self._rest = ""
        self._record = ""

    def feed(self, data: bytes) -> None:
        """The next piece. SlurmError for what is no node."""
        *whole, self._rest = (self._rest + self._decode(data)).split("\n")
        for line in whole:
            self._take(line)

    def end(self) -> None:
        """There is no more. SlurmError where there was no node."""
        self._take(self._rest + self._decode(b"", True))
        if not self._record:
            raise SlurmError("no node in what scontrol said")
        self._give(parse_line(self._record))

    def _take(self, line: str) -> None:
        """A Reason of several lines goes on in lines that start with a blank."""
        if line.startswith(_NAME):
            if self._record:
                self._give(parse_line(self._record))
            self._record = line
        elif line.startswith((" ", "\t")) and self._record:
            self._record += " " + line.strip()


_KEYS: Final = (" AvailableFeatures=", " Gres=", " State=", " Partitions=", " BootTime=")
"""In the order of all releases from 22.05 to 26.05."""


def parse_line(line: str) -> Line:
    """The node that one line describes. SlurmError for any other text."""
    values, at = [], 0
    for key in _KEYS:
        start = line.find(key, at) + len(key)
        at = line.find(" ", start)
        if start < len(key) or at < 0:
            return _parse_with_care(line)
        values.append(line[start:at])
    extra = line.find(_EXTRA, at)
    end = extra if extra >= 0 else len(line)
    text = line[end + len(_EXTRA) :].rstrip()
    if " " in text or _FREE.search(line, at, end):
        return _parse_with_care(line)
    features, gres, state, partitions, booted = values
    name = line[len(_NAME) : line.find(" ")]
    known = (name, state, partitions, _or_empty(features), _or_empty(gres), _or_empty(booted))
    return Line(*known, "", "", "", text.strip())


def _parse_with_care(line: str) -> Line:
    """One that holds texts of people: what looks like a key may be part of them."""
    found = _FREE_OR_EXTRA.search(line)
    at = found.start() if found is not None else len(line)
    head, tail = line[:at], line[at:].rstrip()
    if tail.startswith((_EXTRA, _COMMENT)) and _FREE_OR_EXTRA.search(tail, 1) is None:
        key, _, text = tail.partition("=")
        return _line(head, **{key.strip().lower(): text.strip()})
    texts = free_texts(tail)
    return _line(head, texts.reason, texts.user, texts.comment, texts.extra)


def _line(head: str, reason: str = "", user: str = "", comment: str = "", extra: str = "") -> Line:
    name, state = _value(head, _NAME), _value(head, " State=")
    if not name or not state:
        raise SlurmError(f"not a node as scontrol writes it: {head[:200]!r}")
    partitions, features = _value(head, " Partitions="), _value(head, " AvailableFeatures=")
    gres, booted = _value(head, " Gres="), _value(head, " BootTime=")
    return Line(name, state, partitions, features, gres, booted, reason, user, comment, extra)


_COMMENT: Final = " Comment="
_EXTRA: Final = " Extra="
_NAME: Final = "NodeName="
_FREE: Final = re.compile(r" (?:Reason|Comment|InstanceId|InstanceType|ReservationName)=")
"""The other free texts, and what may stand behind them."""
_FREE_OR_EXTRA: Final = re.compile(r" (?:Reason|Comment|Extra|InstanceId|InstanceType|ReservationName)=")


def _value(head: str, key: str) -> str:
    at = head.find(key)
    if at < 0:
        return ""
    at += len(key)
    end = head.find(" ", at)
    return _or_empty(head[at:end] if end >= 0 else head[at:])


def _or_empty(value: str) -> str:
    return "" if value in NOTHING else value


_RESERVATION: Final = re.compile(
    r"^ReservationName=(?P<name>.*?) StartTime=(?P<start>\S+) EndTime=(?P<end>\S+)(?P<rest>.*)", re.MULTILINE
)
_FLAGS: Final = re.compile(r" Flags=(\S*)")
_NODES: Final = re.compile(r" Nodes=(\S*)")


def parse_held(text: str) -> tuple[Held, ...]:
    """The reservations in the output of ``scontrol -o show reservation``."""
    found = []
    for item in _RESERVATION.finditer(text):
        flags, nodes = _FLAGS.search(item["rest"]), _NODES.search(item["rest"])
        maint = flags is not None and "MAINT" in flags[1].split(",")
        names = _names(nodes[1]) if nodes is not None else ()
        found.append(Held(item["name"], time_of(item["start"]), time_of(item["end"]), maint, names))
    return tuple(found)


def _names(hosts: str) -> tuple[str, ...]:
    try:
        return () if hosts in NOTHING else expand_hostlist(hosts)
    except ParseError:
        return ()

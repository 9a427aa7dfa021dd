"""One node: what its record in Slurm says of it. Called ten thousand times, so what can be is cached."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache, lru_cache
from typing import Final, NamedTuple

from slurm_gsp.core.operation import ESCALATED, FAILED, is_campaigns, parse_operation
from slurm_gsp.core.policy import OWN_RESERVATION
from slurm_gsp.core.published import (
    BOOTED_KEY,
    FAULTS_KEY,
    SEEN_KEY,
    VERDICT_KEY,
    is_of_boot,
    read_published,
    without_boot,
)
from slurm_gsp.core.reason import code_of, is_ours
from slurm_gsp.fleet.model import NO_ANSWER, NO_TUPLE, NOT_UP, OLD_TUPLE, SHOWN_KEYS, UNKNOWN, Node
from slurm_gsp.slurm.ask import time_or_none
from slurm_gsp.slurm.client import parse_states
from slurm_gsp.slurm.overview import Held, Line

DRAINED: Final = frozenset({"DOWN", "DRAIN", "ERROR", "FAIL", "INVALID_REG"})
"""States of which a Reason says why."""
OUT: Final = DRAINED | {"MAINTENANCE", "REBOOT_ISSUED", "REBOOT_REQUESTED"}
"""States in which somebody took a node from its users."""
DEAF: Final = frozenset({"NOT_RESPONDING", "UNKNOWN"})
OFF: Final = frozenset({"POWERED_DOWN", "POWERING_DOWN", "POWERING_UP", "REBOOT_ISSUED"})
"""States in which what a node said last says nothing of it now: Slurm has the boot time of its last boot."""
LOST: Final = ("Not responding", "reboot timed out", "ResumeTimeout reached")
"""In the Reason of a node that Slurm set DOWN since it did not hear of it; that it does not answer is not
always flagged as well."""
RESERVED: Final = "reserved"
_UTC_LENGTH: Final = len("2026-11-26T12:00:00Z")
_SOCKETS: Final = re.compile(r"\([^()\s]*\)")


class _Said(NamedTuple):
    verdict: str
    faults: tuple[str, ...]
    versions: tuple[str, ...]


_NOTHING: Final = _Said("", (), (UNKNOWN,) * len(SHOWN_KEYS))


class Judge:
    """Judges node after node; ``nodes`` are those that there are by now."""

    def __init__(self, reservations: Iterable[Held], at: datetime) -> None:
        self.nodes: list[Node] = []
        self._held = _held_now(reservations, at)
        self._at = at

    def take(self, line: Line) -> None:
        """The next one."""
        if _exists(line.state):
            self.nodes.append(judge(line, self._held, self._at))


def _held_now(reservations: Iterable[Held], at: datetime) -> dict[str, Held]:
    """Of each node the reservation of ours that it is in, else the MAINT one, else that of ours to come."""
    found: dict[str, tuple[int, Held]] = {}
    for held in reservations:
        ours, now = held.name.startswith(OWN_RESERVATION), held.start <= at < held.end
        if ours or (held.maint and now):
            rank = ours + 2 * now
            for name in held.nodes:
                if name not in found or found[name][0] < rank:
                    found[name] = rank, held
    return {name: held for name, (_, held) in found.items()}


def judge(line: Line, held: Mapping[str, Held], at: datetime) -> Node:
    """What this line says; ``held`` has the reservation of ours, or the MAINT one of others, of each node."""
    states = _states(line.state)
    silent, said = _heard(line, states)
    reservation = held.get(line.name)
    who, campaign, phase = _whose(line, states, reservation, at)
    return Node(
        line.name,
        line.partitions,
        kind_of(line.gres),
        silent,
        *said,
        line.state,
        who,
        _reason(line, states, None if phase == RESERVED else reservation) if who else "",
        line.user if who else "",
        campaign,
        phase,
    )


def _heard(line: Line, states: frozenset[str]) -> tuple[str, _Said]:
    """Why nothing is known of a node, or what it said of itself since it booted."""
    silent = NO_TUPLE
    for text in (line.extra, line.comment):
        if SEEN_KEY in text:
            shared, booted = without_boot(text)
            booted = booted or read_published(text).get(BOOTED_KEY, "")  # written anew by others, with blanks
            silent = "" if _same_boot(booted, line.booted) else OLD_TUPLE
            if not silent:
                break
    if silent != NO_TUPLE or kind_of(line.gres):
        silent = _away(line, states) or silent
    return silent, _NOTHING if silent else _said(shared)


def _away(line: Line, states: frozenset[str]) -> str:
    """Why a node cannot be what it said last; empty where Slurm hears of it."""
    if not states.isdisjoint(OFF):
        return NOT_UP
    lost = "DOWN" in states and any(text in line.reason for text in LOST)
    return "" if states.isdisjoint(DEAF) and not lost else NO_ANSWER


def _same_boot(published: str, booted: str) -> bool:
    """Most nodes name the same minute as Slurm does, which is told by the texts alone."""
    same_minute = len(published) == _UTC_LENGTH and published[-1] == "Z" and published[:16] == booted[:16]
    return same_minute or is_of_boot(published, _time(booted))


@lru_cache(maxsize=4096)
def _said(text: str) -> _Said:
    values = read_published(text)
    faults = tuple(filter(None, values.get(FAULTS_KEY, "").split(",")))
    versions = tuple(values.get(key, UNKNOWN) for key in SHOWN_KEYS)
    return _Said(values.get(VERDICT_KEY, "unknown"), faults, versions)


@cache
def kind_of(gres: str) -> str:
    """``gpu:h100:8``; empty for a node without GPUs."""
    entries = _SOCKETS.sub("", gres).split(",")
    return ",".join(sorted(entry for entry in entries if entry.partition(":")[0] == "gpu"))


@cache
def _exists(state: str) -> bool:
    """Whether there is hardware behind the name yet."""
    return "FUTURE" not in parse_states(state)


@cache
def _states(text: str) -> frozenset[str]:
    return parse_states(text)


@cache
def _time(text: str) -> datetime | None:
    return time_or_none(text)


def _whose(line: Line, states: frozenset[str], held: Held | None, at: datetime) -> tuple[str, str, str]:
    """Who took the node out ("" nobody), the campaign that it belongs to and how far that is."""
    campaign = campaign_of(held.name, line.name) if held is not None else ""
    reserved = RESERVED if campaign else ""
    if not states.isdisjoint(DRAINED):
        if is_campaigns(line.reason):
            return "campaign", campaign or _named(line.reason), _phase(line.reason)
        return ("us" if is_ours(line.reason) else "others"), campaign, reserved
    if states.isdisjoint(OUT):
        return "", campaign, reserved
    if not campaign or held is None or held.start > at or "MAINTENANCE" not in states:
        return "others", campaign, reserved
    booted = _time(line.booted)
    return "campaign", campaign, "verifying" if booted and booted > held.start else "waiting"


def campaign_of(reservation: str, node: str) -> str:
    """The campaign whose reservation of this node has this name; empty for a reservation of others."""
    if not reservation.startswith(OWN_RESERVATION):
        return ""
    return reservation.removeprefix(OWN_RESERVATION).removesuffix(f"_{node}")


def _named(reason: str) -> str:
    operation = parse_operation(reason)
    if operation is not None:
        return operation.campaign
    words = reason.split()
    return words[1] if code_of(reason) == ESCALATED and len(words) > 1 else UNKNOWN


def _phase(reason: str) -> str:
    code = code_of(reason)
    if code in {ESCALATED, FAILED}:
        return str(code)
    return "rolling back" if code == "rollback" else "realigning"


def _reason(line: Line, states: frozenset[str], held: Held | None) -> str:
    if not states.isdisjoint(DRAINED):
        return line.reason or "no Reason"
    if "MAINTENANCE" in states:
        return f"MAINT reservation {held.name}" if held is not None else "in a MAINT reservation"
    return line.reason or "a reboot through Slurm is under way"

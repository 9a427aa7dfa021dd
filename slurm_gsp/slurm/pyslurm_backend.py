"""Slurm through pyslurm: calls into libslurm in this process, where scontrol would be started for each.

pyslurm X.Y fits Slurm X.Y alone; with any other it can end the process, so ``choose.py`` makes sure before it
is imported. A call waits as long as libslurm does: MessageTimeout of slurm.conf, for each of the one to three
requests that it makes. What pyslurm cannot do (reboots), and what is about jobs, goes through ScontrolAdmin.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import import_module
from itertools import compress
from operator import not_
from typing import Any, Final

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

from slurm_gsp.slurm.admin import (
    Change,
    Drained,
    Rebooted,
    ScontrolAdmin,
    Span,
    Wanted,
    WrongState,
    check_change,
    check_reservation_name,
    check_wanted,
    minutes_of,
    one_by_one,
    others_reason,
    refined,
)
from slurm_gsp.slurm.client import (
    Features,
    Field,
    NodeState,
    SlurmError,
    check_annotation,
    check_node_name,
    check_reason,
    parse_states,
)

YEAR_S: Final = 365 * 24 * 3600
"""What Slurm makes of a reservation without end."""


def load_pyslurm(conf: str | None = None) -> Any:
    """The module, after ``choose.py`` found that it fits. ``conf`` is SLURM_CONF for it.

    libslurm reads its configuration as the module is loaded, and ends the process where there is none. It has
    to be that of the commands beside it, which do not get the SLURM_CONF of who calls us either.
    """
    os.environ.pop("SLURM_CONF", None)
    if conf:
        os.environ["SLURM_CONF"] = conf
    flags = sys.getdlopenflags()
    try:
        return import_module("pyslurm")
    finally:
        sys.setdlopenflags(flags)  # pyslurm leaves them as it needs them, for every extension after it


class PyslurmAdmin:
    """SlurmAdmin by pyslurm. ``module`` is pyslurm, ``others`` does what it cannot."""

    def __init__(self, module: Any, others: ScontrolAdmin, clock: Callable[[], float] = time.time) -> None:
        self._pyslurm = module
        self._others = others
        self._clock = clock

    def node(self, name: str) -> NodeState:
        """Read one node."""
        check_node_name(name)
        with self._asking(f"show node {name}"):
            found = self._pyslurm.Node.load(name)
            return _state(found, self._held([found]))

    def partition_nodes(self, partitions: Sequence[str]) -> tuple[NodeState, ...]:
        """Read every node of these partitions, each once; () for no partitions."""
        wanted = frozenset(partitions)
        if not wanted:
            return ()
        with self._asking("show node (all)"):
            found = [
                node
                for node in self._pyslurm.Nodes.load().values()
                if not wanted.isdisjoint(node.partitions or ())
            ]
            held = self._held(found)
            return tuple(_state(node, held) for node in found)

    def drain(self, name: str, reason: str) -> None:
        """Drain one node, whatever its state and Reason are."""
        check_reason(reason)  # pyslurm would drain without one
        self._drain(name, reason)

    def resume(self, name: str) -> None:
        """Return one node to service; no error if it is in service already."""
        check_node_name(name)
        try:
            self._update(name, "state=resume", state="RESUME")
        except WrongState:
            if self.node(name).drained:
                raise

    def drain_unless(self, name: str, reason: str, keep: Callable[[NodeState], bool]) -> NodeState:
        """Read one node and drain it only if ``keep`` of what was read is false; the state that was read."""
        check_reason(reason)
        seen = self.node(name)
        if not keep(seen):
            self._drain(name, reason)
        return seen

    def annotate(self, name: str, field: Field, text: str) -> None:
        """Put a text into Extra or Comment, in the place of the one that is there."""
        check_node_name(name)
        check_annotation(text)
        self._update(name, f"{field}={text}", **{field: text})

    def put_back(self, node: str, reason: str) -> None:
        """Drain one node as somebody else had drained it, with their Reason as it was."""
        self._drain(node, others_reason(reason))

    def reserve(self, name: str, node: str, span: Span, users: Sequence[str], *, ignore_jobs: bool) -> None:
        """Make a MAINT reservation of one node. Exists, Busy."""
        self._reserve(Wanted(name, node, span, tuple(users), ignore_jobs))

    def change_many(self, changes: Sequence[Change]) -> tuple[SlurmError | None, ...]:
        """Make many changes, each as the method for it would: there is no process to start for each here.

        Drains and reboots go through scontrol: many drains are one update there.
        """
        for change in changes:
            check_change(change)
        by_scontrol = [isinstance(change, Drained | Rebooted) for change in changes]
        others = iter(self._others.change_many([*compress(changes, by_scontrol)]))
        own = iter(one_by_one(self, [*compress(changes, map(not_, by_scontrol))]))
        return tuple(next(others if is_theirs else own) for is_theirs in by_scontrol)

    def move(self, name: str, span: Span, *, ignore_jobs: bool = False) -> None:
        """Give a reservation that has not begun another time, over jobs or not. NoReservation, Busy."""
        check_reservation_name(name)
        start, end = self._times(span)
        with self._asking(f"update reservationname={name} starttime={start} endtime={end}"):
            changes = self._pyslurm.Reservation(name)
            changes.start_time = start
            changes.end_time = end
            if ignore_jobs:
                changes.flags = self._flags(ignore_jobs)
            changes.modify()

    def hold(self, name: str, node: str | None = None) -> None:
        """Take the end away from a reservation; with ``node``, it is of that node alone. NoReservation."""
        check_reservation_name(name)
        if node is not None:
            check_node_name(node)
        with self._asking(f"update reservationname={name} for a year" + (f" nodes={node}" if node else "")):
            held = self._pyslurm.Reservation.load(name)
            held.end_time = held.start_time + YEAR_S
            if node is not None:
                held.nodes = node
            held.modify()

    def release(self, name: str) -> None:
        """Delete a reservation. NoReservation; Busy while a job runs in it."""
        check_reservation_name(name)
        with self._asking(f"delete reservationname={name}"):
            self._pyslurm.Reservation(name).delete()

    def reboot(self, node: str, reason: str) -> None:
        """Ask for a reboot that ends in DOWN, as soon as no job runs. WrongState where one is under way."""
        self._others.reboot(node, reason)

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch job; its id."""
        return self._others.submit(script, options)

    def cancel(self, job: str) -> None:
        """End a job; no error if it is over already."""
        self._others.cancel(job)

    def _drain(self, name: str, reason: str) -> None:
        check_node_name(name)
        self._update(name, f"state=drain reason={reason}", state="DRAIN", reason=reason)

    def _update(self, name: str, told: str, **changes: str) -> None:
        with self._asking(f"update nodename={name} {told}"):
            self._pyslurm.Node(name).modify(self._pyslurm.Node(**changes))

    def _reserve(self, one: Wanted) -> None:
        check_wanted(one)
        start, end = self._times(one.span)
        with self._asking(f"create reservation reservationname={one.name} nodes={one.node}"):
            self._pyslurm.Reservation(
                one.name,
                start_time=start,
                end_time=end,
                nodes=one.node,
                users=list(one.users),
                flags=self._flags(one.ignore_jobs),
            ).create()

    def _flags(self, ignore_jobs: bool) -> Any:
        known = self._pyslurm.ReservationFlags
        return known.MAINTENANCE | known.IGNORE_RUNNING_JOBS if ignore_jobs else known.MAINTENANCE

    def _times(self, span: Span) -> tuple[int, int]:
        """Start and end in Unix time, as scontrol counts them: whole minutes, and what is past is now."""
        begin, seconds = span
        start = max(int(begin.timestamp()), int(self._clock()))
        return start, start + (YEAR_S if seconds is None else minutes_of(seconds) * 60)

    def _held(self, nodes: Sequence[Any]) -> dict[str, str]:
        """Which reservation each node is in now, as scontrol names it; asked only where a node says so."""
        if all("RESERVED" not in node.state and "MAINT" not in node.state for node in nodes):
            return {}
        held: dict[str, str] = {}
        for one in self._pyslurm.Reservations.load().values():
            if one.is_active and one.nodes:
                with suppress(NodeSetException):
                    held.update(dict.fromkeys(NodeSet(one.nodes, resolver=RESOLVER_NOGROUP), one.name))
        return held

    @contextmanager
    def _asking(self, asked: str) -> Iterator[None]:
        """Translate what libslurm answers."""
        try:
            yield
        except self._pyslurm.PyslurmError as error:
            raise refined(f"pyslurm {asked}", str(error)) from error


def _state(node: Any, held: dict[str, str]) -> NodeState:
    reason = node.reason or ""
    stamped = bool(reason and node.reason_time)
    return NodeState(
        name=node.name,
        states=parse_states(node.state),
        reason=reason,
        reason_user=(node.reason_user or "") if stamped else "",
        reason_time=_time(node.reason_time) if stamped else "",
        partitions=tuple(node.partitions or ()),
        reservation=held.get(node.name, ""),
        comment=node.comment or "",
        extra=node.extra or "",
        boot_time=_time(node.boot_time),
        features=Features(tuple(node.available_features or ()), tuple(node.active_features or ())),
    )


def _time(seconds: int | None) -> str:
    """A time as scontrol writes it in UTC; empty where there is none."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}" if seconds else ""

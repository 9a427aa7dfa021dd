"""What a campaign changes in Slurm: reservations, drains, reboots and jobs, all by name.

One at a time, or many together: a wave may be hundreds of nodes that are reserved, drained and rebooted in
the same minute, and a scontrol for each change would take longer than the change.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeAlias, TypeVar

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

from slurm_gsp import process
from slurm_gsp.slurm.client import (
    ControllerAway,
    Denied,
    SlurmClient,
    SlurmError,
    SlurmMissing,
    SlurmTimeout,
    check_node_name,
    check_reason,
)
from slurm_gsp.slurm.scontrol import Converse, Scontrol, failed, kind_of

T = TypeVar("T")
Span: TypeAlias = tuple[datetime, int | None]
"""From when, and for how many seconds; None: without end."""
FOREVER: Final = "UNLIMITED"
"""As Slurm takes a duration without end; it makes a year of it."""


LANES: Final = 4
"""How many scontrol make changes at once: each waits for munge and slurmctld most of the time."""
EACH_S: Final = 0.1
"""What a change adds to the deadline of a scontrol that makes many; 2-3 ms is what it takes."""
FOLDED: Final = 50
"""Most nodes in one update: with names of 64 letters it still fits into the 4,096 bytes of a line that any
scontrol reads."""
AWAY: Final = (ControllerAway, Denied, SlurmMissing)
"""Errors after which it makes no sense to ask Slurm for more."""
CANNOT_BE_ASKED: Final = (*AWAY, SlurmTimeout)
"""Errors that are no answer; all others are about one thing. A time-out may be that of one command."""

_MARK: Final = "gsp-mark-"
"""A word that scontrol does not know. It says so on stderr, where its errors go, and reads on."""
_MARKED: Final = re.compile(rf"invalid keyword: {_MARK}(\d+)\n")
_CREATED: Final = re.compile(r"(?:^|scontrol: )Reservation created: (\S+)", re.MULTILINE)
"""After a prompt where scontrol was built without readline."""


class Busy(SlurmError):  # noqa: N818
    """Nodes run jobs, or jobs run in a reservation: later."""


class Overlap(Busy):
    """Another reservation has the node then."""


class Exists(SlurmError):  # noqa: N818
    """A reservation of that name is there already."""


class NoReservation(SlurmError):  # noqa: N818
    """There is no reservation of that name."""


class WrongState(SlurmError):  # noqa: N818
    """The node is in a state in which Slurm does not do this."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A MAINT reservation of one node that is to be made, for these users alone: ``reserve``."""

    name: str
    node: str
    span: Span
    users: tuple[str, ...]
    ignore_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """A reservation that is to have another time: ``move``."""

    name: str
    span: Span
    ignore_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """A reservation that is to have no end: ``hold``."""

    name: str
    node: str | None = None


@dataclass(frozen=True, slots=True)
class Released:
    """A reservation that is to be deleted: ``release``."""

    name: str


@dataclass(frozen=True, slots=True)
class Drained:
    """A node that is to be drained: ``drain``."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A node that is to be returned to service: ``resume``."""

    node: str


@dataclass(frozen=True, slots=True)
class Rebooted:
    """A node whose reboot is to be asked for: ``reboot``."""

    node: str
    reason: str


Change: TypeAlias = Wanted | Moved | Held | Released | Drained | Resumed | Rebooted
"""One change out of many; each is of a node or reservation of its own."""


class SlurmAdmin(SlurmClient, Protocol):
    """Slurm, as far as a campaign changes it; every call is bounded in time and raises SlurmError."""

    def reserve(self, name: str, node: str, span: Span, users: Sequence[str], *, ignore_jobs: bool) -> None:
        """Make a MAINT reservation of one node. Exists, Busy."""
        ...

    def change_many(self, changes: Sequence[Change]) -> tuple[SlurmError | None, ...]:
        """Make many changes, each as the method for it would: why it was not made, None where it was.

        Raises no SlurmError. They may be made in any order and at the same time. Once Slurm cannot be asked,
        the rest is not tried.
        """
        ...

    def move(self, name: str, span: Span, *, ignore_jobs: bool = False) -> None:
        """Give a reservation that has not begun another time, over jobs or not. NoReservation, Busy."""
        ...

    def hold(self, name: str, node: str | None = None) -> None:
        """Take the end away from a reservation; with ``node``, it is of that node alone. NoReservation."""
        ...

    def release(self, name: str) -> None:
        """Delete a reservation. NoReservation; Busy while a job runs in it."""
        ...

    def put_back(self, node: str, reason: str) -> None:
        """Drain one node as somebody else had drained it, with their Reason as it was."""
        ...

    def reboot(self, node: str, reason: str) -> None:
        """Ask for a reboot that ends in DOWN, as soon as no job runs. WrongState where one is under way."""
        ...

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch job; its id."""
        ...

    def cancel(self, job: str) -> None:
        """End a job; no error if it is over already."""
        ...


class Run(Protocol):
    """How ``process.run`` is called here."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> process.Finished: ...


class ScontrolAdmin(Scontrol):
    """SlurmAdmin by scontrol, and sbatch and scancel beside it. Times are told in UTC."""

    def __init__(
        self,
        run: Run = process.run,
        *,
        scontrol: str = "/usr/bin/scontrol",
        deadline_s: float = 30.0,
        conf: str | None = None,
        converse: Converse = process.converse,
    ) -> None:
        super().__init__(run, scontrol=scontrol, deadline_s=deadline_s, conf=conf, converse=converse)
        self._env = {**self._env, "TZ": "UTC0"}
        self._run_job = run

    def reserve(self, name: str, node: str, span: Span, users: Sequence[str], *, ignore_jobs: bool) -> None:
        """Make a MAINT reservation of one node. Exists, Busy."""
        self._change_reservation(*_words(Wanted(name, node, span, tuple(users), ignore_jobs)))

    def change_many(self, changes: Sequence[Change]) -> tuple[SlurmError | None, ...]:
        """Make many changes, each as the method for it would: why it was not made, None where it was.

        A few scontrol at once, each fed its share on stdin; drains with the same Reason are one command. What
        gets no clear answer there is asked again alone, and so are reboots from the start: in a line on stdin
        their Reason would keep its quotes.
        """
        if len(changes) < 2:
            return one_by_one(self, changes)
        answers: dict[int, SlurmError | None] = {}
        with ThreadPoolExecutor(LANES) as lanes:
            for found in lanes.map(self._feed, _shares(_commands(changes))):
                answers.update(found)
            alone = _shares([number for number in range(len(changes)) if number not in answers])
            asked = [[changes[number] for number in share] for share in alone]
            for numbers, share in zip(alone, lanes.map(partial(one_by_one, self), asked), strict=True):
                answers.update(zip(numbers, share, strict=True))
        return tuple(answers[number] for number in range(len(changes)))

    def _feed(self, commands: Sequence[_Command]) -> dict[int, SlurmError | None]:
        """Let one scontrol do them. A mark behind each command tells whose the error before it is.

        What is found of each change, by its number; none of those whose answer is not clear.
        """
        fed = [f"{_MARK}0"]  # what scontrol says at its start is of no command
        for number, command in enumerate(commands, start=1):
            fed += [command.line, f"{_MARK}{number}"]
        deadline_s = self._deadline_s + EACH_S * sum(len(command.changes) for command in commands)
        try:
            finished = self._run_job(
                (self._scontrol,), deadline_s=deadline_s, stdin="\n".join((*fed, "")), env=self._env
            )
        except process.ProcessError as error:
            asked = f"make {len(commands)} changes"
            away = isinstance(error, process.DeadlineExceeded) and kind_of(str(error)) is ControllerAway
            unmade = ControllerAway(f"{asked}: {error}") if away else failed(error, asked)
            return {number: unmade for command in commands for number in command.changes}
        said, rest = _by_mark(finished.stderr)
        created = set(_CREATED.findall(finished.stdout))
        answers: dict[int, SlurmError | None] = {}
        for number, command in enumerate(commands, start=1):
            told = said.get(number)
            if told is None:
                told = rest or f"no answer (exit status {finished.rc})"
            answers.update(command.answers(told, created))
        return answers

    def move(self, name: str, span: Span, *, ignore_jobs: bool = False) -> None:
        """Give a reservation that has not begun another time, over jobs or not. NoReservation, Busy."""
        self._change_reservation(*_words(Moved(name, span, ignore_jobs)))

    def hold(self, name: str, node: str | None = None) -> None:
        """Take the end away from a reservation; with ``node``, it is of that node alone. NoReservation."""
        self._change_reservation(*_words(Held(name, node)))

    def release(self, name: str) -> None:
        """Delete a reservation. NoReservation; Busy while a job runs in it."""
        self._change_reservation(*_words(Released(name)))

    def resume(self, name: str) -> None:
        """Return one node to service; no error if it is in service already."""
        try:
            super().resume(name)
        except SlurmError as error:
            if not isinstance(refined("resume", str(error)), WrongState) or self.node(name).drained:
                raise

    def put_back(self, node: str, reason: str) -> None:
        """Drain one node as somebody else had drained it, with their Reason as it was."""
        check_node_name(node)
        self._change("update", f"nodename={node}", "state=drain", f"reason={others_reason(reason)}")

    def reboot(self, node: str, reason: str) -> None:
        """Ask for a reboot that ends in DOWN, as soon as no job runs. WrongState where one is under way."""
        finished = self._ask(*_words(Rebooted(node, reason)))
        if finished.rc != 0 or finished.stderr.strip():  # a node that is skipped is told on stderr alone
            raise refined(f"reboot {node}", _said(finished))

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch job; its id."""
        finished = self._command("sbatch", "--parsable", *options, stdin=script)
        found = re.match(r"([0-9]+)(?:[;\s]|$)", finished.stdout)
        if finished.rc != 0 or found is None:
            raise refined("sbatch", _said(finished))
        return found[1]

    def cancel(self, job: str) -> None:
        """End a job; no error if it is over already."""
        if not re.fullmatch(r"[0-9]+", job):
            raise ValueError(f"not the id of one job: {job!r}")
        finished = self._command("scancel", job)
        said = _said(finished)
        if finished.rc != 0 and not re.search(r"Invalid job id|already complet", said):
            raise refined(f"scancel {job}", said)

    def _command(self, name: str, *words: str, stdin: str | None = None) -> process.Finished:
        """Run another of Slurm's commands, from the folder of scontrol."""
        argv = (str(Path(self._scontrol).with_name(name)), *words)
        try:
            return self._run_job(argv, deadline_s=self._deadline_s, stdin=stdin, env=self._env)
        except process.ProcessError as error:
            raise failed(error, f"do {name}") from error

    def _change_reservation(self, *words: str) -> None:
        finished = self._ask(*words)
        if finished.rc != 0:
            raise refined(" ".join(words), _said(finished))


def check_reservation_name(name: str) -> None:
    """Refuse what is not one plain reservation name: ValueError says why."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"not the name of a reservation: {name!r}")


_MEANINGS: Final[tuple[tuple[re.Pattern[str], type[SlurmError]], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"Duplicate reservation name|reservation name already|Reservation .* exists", Exists),
        (r"Requested reservation is invalid|Invalid reservation|reservation .* not found", NoReservation),
        (r"Reservation .* doesn't exist", NoReservation),
        (r"overlaps with another reservation", Overlap),
        (r"Requested nodes? (?:are|is) busy|Requested reservation is in use", Busy),
        (r"Invalid node state (?:specified|transition)|Skipping reboot|already started", WrongState),
        (r"Requested node configuration", WrongState),
        (r"Access denied", Denied),
        # what libslurm makes of no answer at all where a reservation is to be made
        (r"Unexpected message received", ControllerAway),
    )
)
"""What Slurm 22.05 to 26.05 answers to changes, and what it means here, besides what any answer may mean."""


def refined(asked: str, said: str) -> SlurmError:
    """The error that an answer of Slurm's is, whichever client passed it on.

    By the answer alone: a Reason in what was asked may hold the very words of another one.
    """
    own = next((kind for pattern, kind in _MEANINGS if pattern.search(said)), None)
    return (own or kind_of(said))(f"{asked}: {said}")


def others_reason(reason: str) -> str:
    """A Reason of somebody else's as it can be set again: on one line, and never empty."""
    return " ".join(reason.split()) or "drained before maintenance, without a Reason"


def minutes_of(seconds: int) -> int:
    """A duration as Slurm counts it: in whole minutes, rounded up."""
    return -(-seconds // 60)


def _said(finished: process.Finished) -> str:
    return _joined(f"{finished.stderr}\n{finished.stdout}") or f"no answer (exit status {finished.rc})"


def check_wanted(one: Wanted) -> None:
    """Refuse what is no plain name of a reservation, a node or a user: ValueError says why."""
    check_reservation_name(one.name)
    check_node_name(one.node)
    for user in one.users:
        if not re.fullmatch(r"[^\s'\"=,+-][^\s'\"=,]*", user):
            raise ValueError(f"not the name of a user: {user!r}")


def one_by_one(slurm: SlurmAdmin, changes: Sequence[Change]) -> tuple[SlurmError | None, ...]:
    """``change_many``, each by its own method."""
    return in_turn(partial(_alone, slurm, change) for change in changes)


def in_turn(calls: Iterable[Callable[[], None]]) -> tuple[SlurmError | None, ...]:
    """Do one after the other: why one was not done, None where it was.

    Once Slurm cannot be asked, the rest is not tried. One call may time out by itself; two mean all of Slurm.
    """
    answers: list[SlurmError | None] = []
    unasked: SlurmError | None = None
    timed_out = False
    for call in calls:
        answer = unasked
        if unasked is None:
            try:
                call()
            except SlurmError as error:
                answer = error
                if isinstance(error, AWAY) or (timed_out and isinstance(error, SlurmTimeout)):
                    unasked = error
                timed_out = timed_out or isinstance(error, SlurmTimeout)
        answers.append(answer)
    return tuple(answers)


def _alone(slurm: SlurmAdmin, change: Change) -> None:
    match change:
        case Wanted(name, node, span, users, ignore_jobs):
            slurm.reserve(name, node, span, users, ignore_jobs=ignore_jobs)
        case Moved(name, span, ignore_jobs):
            slurm.move(name, span, ignore_jobs=ignore_jobs)
        case Held(name, on):
            slurm.hold(name, on)
        case Released(name):
            slurm.release(name)
        case Drained(node, reason):
            slurm.drain(node, reason)
        case Resumed(node):
            slurm.resume(node)
        case Rebooted(node, reason):
            slurm.reboot(node, reason)


def check_change(change: Change) -> None:
    """Refuse what could be more than one change of this kind: ValueError says why."""
    _words(change)


def _words(change: Change) -> tuple[str, ...]:
    """What scontrol is told to make a change. Nothing but a Reason holds a blank, and nothing a quote."""
    match change:
        case Wanted():
            check_wanted(change)
            users = ",".join(change.users)
            made = ("create", "reservation", f"reservationname={change.name}", *_span(change.span))
            return (*made, f"nodes={change.node}", f"flags={_flags(change.ignore_jobs)}", f"users={users}")
        case Moved(name, span, ignore_jobs):
            check_reservation_name(name)
            flags = (f"flags={_flags(ignore_jobs)}",) if ignore_jobs else ()
            return ("update", f"reservationname={name}", *_span(span), *flags)
        case Held(name, on):
            check_reservation_name(name)
            if on is not None:
                check_node_name(on)
            nodes = () if on is None else (f"nodes={on}",)
            return ("update", f"reservationname={name}", f"duration={FOREVER}", *nodes)
        case Released(name):
            check_reservation_name(name)
            return ("delete", f"reservationname={name}")
        case Drained(node, reason):
            check_node_name(node)
            check_reason(reason)
            return ("update", f"nodename={node}", "state=drain", f"reason={reason}")
        case Resumed(node):
            check_node_name(node)
            return ("update", f"nodename={node}", "state=resume")
        case Rebooted(node, reason):
            check_node_name(node)
            check_reason(reason)
            return ("reboot", "ASAP", "nextstate=DOWN", f"reason={reason}", node)


def _flags(ignore_jobs: bool) -> str:
    return "MAINT,IGNORE_JOBS" if ignore_jobs else "MAINT"


@dataclass(frozen=True, slots=True)
class _Command:
    """A line for scontrol, and the numbers of the changes that it makes; ``creates``: the reservation."""

    line: str
    changes: tuple[int, ...]
    creates: str | None = None

    def answers(self, told: str, created: Collection[str]) -> dict[int, SlurmError | None]:
        """What became of its changes. Silence is success, but a reservation that is made is told."""
        done = not told if self.creates is None else self.creates in created
        error = None if done else refined(self.line, told or "no answer")
        clear = done or self.creates is not None or isinstance(error, CANNOT_BE_ASKED)
        return dict.fromkeys(self.changes, error) if clear else {}


def _commands(changes: Sequence[Change]) -> list[_Command]:
    """The lines that make these changes, as far as a line can."""
    commands = []
    drained: dict[str, list[tuple[int, str]]] = {}
    for number, change in enumerate(changes):
        words = _words(change)
        if isinstance(change, Rebooted):
            continue
        if isinstance(change, Drained):
            drained.setdefault(change.reason, []).append((number, change.node))
        else:
            creates = change.name if isinstance(change, Wanted) else None
            commands.append(_Command(_line(words), (number,), creates))
    for reason, nodes in drained.items():
        for first in range(0, len(nodes), FOLDED):
            numbers, names = zip(*nodes[first : first + FOLDED], strict=True)
            hosts = NodeSet.fromlist(names, resolver=RESOLVER_NOGROUP)
            words = ("update", f"nodename={hosts}", "state=drain", f"reason={reason}")
            commands.append(_Command(_line(words), numbers))
    return commands


def _shares(items: Sequence[T]) -> list[Sequence[T]]:
    """As many parts as there are lanes, in their order; none is empty."""
    size = -(-len(items) // LANES)
    return [items[first : first + size] for first in range(0, len(items), size)] if items else []


def _line(words: Sequence[str]) -> str:
    """Words as scontrol reads them on stdin."""
    return " ".join(word if " " not in word else '{}="{}"'.format(*word.split("=", 1)) for word in words)


def _by_mark(stderr: str) -> tuple[dict[int, str], str]:
    """What stands before each mark, and what stands behind the last one."""
    said: dict[int, str] = {}
    end = 0
    for mark in _MARKED.finditer(stderr):
        said[int(mark[1])] = _joined(stderr[end : mark.start()])
        end = mark.end()
    return said, _joined(stderr[end:])


def _joined(text: str) -> str:
    """Text on one line; of a long one the end, where what came of it is told."""
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())[-500:]


def _span(span: Span) -> tuple[str, str]:
    """``starttime=`` and ``duration=``; Slurm refuses a time that is past, so that is now."""
    start, seconds = span
    now = start <= datetime.now(UTC)
    begins = "now" if now else start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if seconds is None:
        return f"starttime={begins}", f"duration={FOREVER}"
    days, rest = divmod(minutes_of(seconds), 24 * 60)
    return f"starttime={begins}", f"duration={days}-{rest // 60:02d}:{rest % 60:02d}:00"

"""What a campaign changes in Slurm: reservations, drains, reboots and jobs, all by name.

One at a time, but for reservations: a campaign begins with one for each of its nodes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Protocol, TypeAlias

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

Span: TypeAlias = tuple[datetime, int | None]
"""From when, and for how many seconds; None: without end."""
FOREVER: Final = "UNLIMITED"
"""As Slurm takes a duration without end; it makes a year of it."""


LANES: Final = 4
"""How many scontrol make reservations at once: each waits for munge and slurmctld most of the time."""
EACH_S: Final = 0.1
"""What a reservation adds to the deadline of a scontrol that makes many; 2-3 ms is what it takes."""

_MARK: Final = "gsp-mark-"
"""A word that scontrol does not know. It says so on stderr, where its errors go, and reads on."""
_MARKED: Final = re.compile(rf"^.*invalid keyword: {_MARK}(\d+)\n", re.MULTILINE)
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
    """A MAINT reservation of one node that is to be made, for these users alone."""

    name: str
    node: str
    span: Span
    users: tuple[str, ...]
    ignore_jobs: bool = False


class SlurmAdmin(SlurmClient, Protocol):
    """Slurm, as far as a campaign changes it; every call is bounded in time and raises SlurmError."""

    def reserve(self, name: str, node: str, span: Span, users: Sequence[str], *, ignore_jobs: bool) -> None:
        """Make a MAINT reservation of one node. Exists, Busy."""
        ...

    def reserve_many(self, wanted: Sequence[Wanted]) -> tuple[SlurmError | None, ...]:
        """Make many, each as ``reserve`` would: why it was not made, None where it was. Raises no SlurmError.

        They may be made in any order and at the same time.
        """
        ...

    def move(self, name: str, span: Span) -> None:
        """Give a reservation that has not begun another time. NoReservation, Busy."""
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
        self._change_reservation(*_creation(Wanted(name, node, span, tuple(users), ignore_jobs)))

    def reserve_many(self, wanted: Sequence[Wanted]) -> tuple[SlurmError | None, ...]:
        """Make many, each as ``reserve`` would: why it was not made, None where it was. Raises no SlurmError.

        A few scontrol at once, each fed its share on stdin.
        """
        for one in wanted:
            check_wanted(one)
        if not wanted:
            return ()
        size = -(-len(wanted) // LANES)
        shares = [wanted[first : first + size] for first in range(0, len(wanted), size)]
        with ThreadPoolExecutor(len(shares)) as lanes:
            return tuple(answer for answers in lanes.map(self._make, shares) for answer in answers)

    def _make(self, wanted: Sequence[Wanted]) -> Sequence[SlurmError | None]:
        """Let one scontrol make them. A mark behind each command tells whose the error before it is."""
        commands = [" ".join(_creation(one)) for one in wanted]
        marked = (f"{command}\n{_MARK}{number}\n" for number, command in enumerate(commands))
        deadline_s = self._deadline_s + EACH_S * len(wanted)
        try:
            finished = self._run_job(
                (self._scontrol,), deadline_s=deadline_s, stdin="".join(marked), env=self._env
            )
        except process.ProcessError as error:
            asked = f"make {len(wanted)} reservations"
            away = isinstance(error, process.DeadlineExceeded) and kind_of(str(error)) is ControllerAway
            return [ControllerAway(f"{asked}: {error}") if away else failed(error, asked)] * len(wanted)
        made = set(_CREATED.findall(finished.stdout))
        said, rest = _by_mark(finished.stderr)
        rest = rest or f"no answer (exit status {finished.rc})"
        return [
            None if one.name in made else refined(f"{commands[number]}: {said.get(number) or rest}")
            for number, one in enumerate(wanted)
        ]

    def move(self, name: str, span: Span) -> None:
        """Give a reservation that has not begun another time. NoReservation, Busy."""
        check_reservation_name(name)
        self._change_reservation("update", f"reservationname={name}", *_span(span))

    def hold(self, name: str, node: str | None = None) -> None:
        """Take the end away from a reservation; with ``node``, it is of that node alone. NoReservation."""
        check_reservation_name(name)
        words = [f"reservationname={name}", f"duration={FOREVER}"]
        if node is not None:
            check_node_name(node)
            words.append(f"nodes={node}")
        self._change_reservation("update", *words)

    def release(self, name: str) -> None:
        """Delete a reservation. NoReservation; Busy while a job runs in it."""
        check_reservation_name(name)
        self._change_reservation("delete", f"reservationname={name}")

    def resume(self, name: str) -> None:
        """Return one node to service; no error if it is in service already."""
        try:
            super().resume(name)
        except SlurmError as error:
            if not isinstance(refined(str(error)), WrongState) or self.node(name).drained:
                raise

    def put_back(self, node: str, reason: str) -> None:
        """Drain one node as somebody else had drained it, with their Reason as it was."""
        check_node_name(node)
        self._change("update", f"nodename={node}", "state=drain", f"reason={others_reason(reason)}")

    def reboot(self, node: str, reason: str) -> None:
        """Ask for a reboot that ends in DOWN, as soon as no job runs. WrongState where one is under way."""
        check_node_name(node)
        check_reason(reason)
        finished = self._ask("reboot", "ASAP", "nextstate=DOWN", f"reason={reason}", node)
        if finished.rc != 0 or finished.stderr.strip():  # a node that is skipped is told on stderr alone
            raise refined(f"reboot {node}: {_said(finished)}")

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch job; its id."""
        finished = self._command("sbatch", "--parsable", *options, stdin=script)
        found = re.match(r"([0-9]+)(?:[;\s]|$)", finished.stdout)
        if finished.rc != 0 or found is None:
            raise refined(f"sbatch: {_said(finished)}")
        return found[1]

    def cancel(self, job: str) -> None:
        """End a job; no error if it is over already."""
        if not re.fullmatch(r"[0-9]+", job):
            raise ValueError(f"not the id of one job: {job!r}")
        finished = self._command("scancel", job)
        said = _said(finished)
        if finished.rc != 0 and not re.search(r"Invalid job id|already complet", said):
            raise refined(f"scancel {job}: {said}")

    def _command(self, name: str, *words: str, stdin: str | None = None) -> process.Finished:
        """Run another of Slurm's commands, from the folder of scontrol."""
        argv = (str(Path(self._scontrol).with_name(name)), *words)
        try:
            return self._run_job(argv, deadline_s=self._deadline_s, stdin=stdin, env=self._env)
        except process.CommandMissing as error:
            raise SlurmMissing(f"{name}: {error}") from error
        except process.DeadlineExceeded as error:
            raise SlurmTimeout(f"{name}: {error}") from error
        except process.ProcessError as error:
            raise SlurmError(f"{name}: {error}") from error

    def _change_reservation(self, *words: str) -> None:
        finished = self._ask(*words)
        if finished.rc != 0:
            raise refined(f"{' '.join(words)}: {_said(finished)}")


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


def refined(said: str) -> SlurmError:
    """The error that an answer of Slurm's is, whichever client passed it on."""
    own = next((kind for pattern, kind in _MEANINGS if pattern.search(said)), None)
    return (own or kind_of(said))(said)


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


def _creation(one: Wanted) -> tuple[str, ...]:
    """The words with which scontrol makes a reservation; none holds a blank or a quote."""
    check_wanted(one)
    return (
        "create",
        "reservation",
        f"reservationname={one.name}",
        *_span(one.span),
        f"nodes={one.node}",
        f"flags={'MAINT,IGNORE_JOBS' if one.ignore_jobs else 'MAINT'}",
        f"users={','.join(one.users)}",
    )


def _by_mark(stderr: str) -> tuple[dict[int, str], str]:
    """What stands before each mark, and what stands behind the last one."""
    said: dict[int, str] = {}
    end = 0
    for mark in _MARKED.finditer(stderr):
        said[int(mark[1])] = _joined(stderr[end : mark.start()])
        end = mark.end()
    return said, _joined(stderr[end:])


def _joined(text: str) -> str:
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())[:500]


def _span(span: Span) -> tuple[str, str]:
    """``starttime=`` and ``duration=``; Slurm refuses a time that is past, so that is now."""
    start, seconds = span
    now = start <= datetime.now(UTC)
    begins = "now" if now else start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if seconds is None:
        return f"starttime={begins}", f"duration={FOREVER}"
    days, rest = divmod(minutes_of(seconds), 24 * 60)
    return f"starttime={begins}", f"duration={days}-{rest // 60:02d}:{rest % 60:02d}:00"

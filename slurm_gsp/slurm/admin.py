"""What a campaign changes in Slurm: reservations, drains, reboots and jobs, all by name and one at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
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
from slurm_gsp.slurm.scontrol import Scontrol

Span: TypeAlias = tuple[datetime, int | None]
"""From when, and for how many seconds; None: without end."""
FOREVER: Final = "UNLIMITED"
"""As Slurm takes a duration without end; it makes a year of it."""


class Busy(SlurmError):  # noqa: N818
    """Nodes run jobs, or jobs run in a reservation: later."""


class Exists(SlurmError):  # noqa: N818
    """A reservation of that name is there already."""


class NoReservation(SlurmError):  # noqa: N818
    """There is no reservation of that name."""


class WrongState(SlurmError):  # noqa: N818
    """The node is in a state in which Slurm does not do this."""


class SlurmAdmin(SlurmClient, Protocol):
    """Slurm, as far as a campaign changes it; every call is bounded in time and raises SlurmError."""

    def reserve(self, name: str, node: str, span: Span, users: Sequence[str], *, ignore_jobs: bool) -> None:
        """Make a MAINT reservation of one node. Exists, Busy."""
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
    ) -> None:
        super().__init__(run, scontrol=scontrol, deadline_s=deadline_s, conf=conf)
        self._env = {**self._env, "TZ": "UTC0"}
        self._run_job = run

    def reserve(self, name: str, node: str, span: Span, users: Sequence[str], *, ignore_jobs: bool) -> None:
        """Make a MAINT reservation of one node. Exists, Busy."""
        check_reservation_name(name)
        check_node_name(node)
        flags = "MAINT,IGNORE_JOBS" if ignore_jobs else "MAINT"
        who = f"users={','.join(users)}"
        words = (f"reservationname={name}", *_span(span), f"nodes={node}", f"flags={flags}", who)
        self._change_reservation("create", "reservation", *words)

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
            if not isinstance(_refined(str(error)), WrongState) or self.node(name).drained:
                raise

    def put_back(self, node: str, reason: str) -> None:
        """Drain one node as somebody else had drained it, with their Reason as it was."""
        check_node_name(node)
        said = " ".join(reason.split()) or "drained before maintenance, without a Reason"
        self._change("update", f"nodename={node}", "state=drain", f"reason={said}")

    def reboot(self, node: str, reason: str) -> None:
        """Ask for a reboot that ends in DOWN, as soon as no job runs. WrongState where one is under way."""
        check_node_name(node)
        check_reason(reason)
        finished = self._ask("reboot", "ASAP", "nextstate=DOWN", f"reason={reason}", node)
        if finished.rc != 0 or finished.stderr.strip():  # a node that is skipped is told on stderr alone
            raise _refined(f"reboot {node}: {_said(finished)}")

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch job; its id."""
        finished = self._command("sbatch", "--parsable", *options, stdin=script)
        found = re.match(r"([0-9]+)(?:[;\s]|$)", finished.stdout)
        if finished.rc != 0 or found is None:
            raise _refined(f"sbatch: {_said(finished)}")
        return found[1]

    def cancel(self, job: str) -> None:
        """End a job; no error if it is over already."""
        if not re.fullmatch(r"[0-9]+", job):
            raise ValueError(f"not the id of one job: {job!r}")
        finished = self._command("scancel", job)
        said = _said(finished)
        if finished.rc != 0 and not re.search(r"Invalid job id|already complet", said):
            raise _refined(f"scancel {job}: {said}")

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
            raise _refined(f"{' '.join(words)}: {_said(finished)}")


def check_reservation_name(name: str) -> None:
    """Refuse what is not one plain reservation name: ValueError says why."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise ValueError(f"not the name of a reservation: {name!r}")


_MEANINGS: Final[tuple[tuple[re.Pattern[str], type[SlurmError]], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"Duplicate reservation name|reservation name already|Reservation .* exists", Exists),
        (r"Requested reservation is invalid|Invalid reservation|reservation .* not found", NoReservation),
        (r"Requested nodes? (?:are|is) busy|Requested reservation is in use", Busy),
        (r"Invalid node state specified|Skipping reboot|Requested node configuration", WrongState),
        (r"Invalid user id|permission denied|Access denied", Denied),
        (r"Unable to contact slurm controller|Communication connection failure", ControllerAway),
        (r"Connection refused|Zero Bytes were transmitted", ControllerAway),
        (r"timed out", SlurmTimeout),
    )
)
"""What scontrol and sbatch of Slurm 22.05 to 26.05 answer, and what it means here."""


def _refined(said: str) -> SlurmError:
    for pattern, kind in _MEANINGS:
        if pattern.search(said):
            return kind(said)
    return SlurmError(said)


def _said(finished: process.Finished) -> str:
    lines = [line.strip() for line in f"{finished.stderr}\n{finished.stdout}".splitlines()]
    return " / ".join(filter(None, lines))[:500] or f"no answer (exit status {finished.rc})"


def _span(span: Span) -> tuple[str, str]:
    """``starttime=`` and ``duration=``; Slurm refuses a time that is past, so that is now."""
    start, seconds = span
    now = start <= datetime.now(UTC)
    begins = "now" if now else start.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    if seconds is None:
        return f"starttime={begins}", f"duration={FOREVER}"
    days, rest = divmod(-(-seconds // 60), 24 * 60)
    return f"starttime={begins}", f"duration={days}-{rest // 60:02d}:{rest % 60:02d}:00"

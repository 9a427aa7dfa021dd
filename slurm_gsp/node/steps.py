"""Carrying steps out: one after the other, each in the log and, for a realignment, in the journal."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

from slurm_gsp import process
from slurm_gsp.hook.main import say
from slurm_gsp.node.failing import Failure, RefusedError, StepError
from slurm_gsp.node.host import Host
from slurm_gsp.node.journal import Journal, Places, State, save_journal

T = TypeVar("T")
_INTO_LOG: Final = 'exec >>"$1" 2>&1 </dev/null && exec /bin/sh -euc "$2" "$3"'
"""The shell opens the log by itself, so that it says what happened also where power was cut."""
_TAIL: Final = 1 << 16
_ERROR: Final = re.compile(r"E: |[Ee]rror[:! ]|dpkg: error")
"""How apt, dpkg, dnf, rpm, DKMS begin a line that says what is wrong; what follows is often mere advice."""
_ENV: Final = {"HOME": "/root"}


class StepFailedError(Exception):
    """A step ended the maintenance."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.what)
        self.failure = failure


class Record(Protocol):
    """Where it is kept how far a maintenance came."""

    def begin(self, number: int, name: str) -> None:
        """A step begins."""
        ...

    def end(self, ok: bool, seconds: float) -> None:
        """It ended."""
        ...

    def fail(self, failure: Failure) -> None:
        """It all ended here."""
        ...


@dataclass(frozen=True, slots=True)
class NoRecord:
    """For what needs no memory across a reboot."""

    def begin(self, number: int, name: str) -> None:
        """A step begins."""

    def end(self, ok: bool, seconds: float) -> None:
        """It ended."""

    def fail(self, failure: Failure) -> None:
        """It all ended here."""


class JournalRecord:
    """The journal, on disk before the step begins and after it ended."""

    def __init__(self, places: Places, journal: Journal) -> None:
        self._places = places
        self.journal = journal

    def begin(self, number: int, name: str) -> None:
        """A step begins."""
        self._save(self.journal.begin(number, name))

    def end(self, ok: bool, seconds: float) -> None:
        """It ended."""
        self._save(self.journal.end(ok, seconds))

    def fail(self, failure: Failure) -> None:
        """It all ended here."""
        self._save(replace(self.journal, state=State.FAILED, failed=failure.what))

    def done(self) -> None:
        """All steps ended well."""
        self._save(replace(self.journal, state=State.DONE))

    def _save(self, journal: Journal) -> None:
        self.journal = journal
        save_journal(self._places, journal)


@dataclass(frozen=True, slots=True)
class Log:
    """The log of one maintenance, and whoever looks on; a full disk costs the log, not the node."""

    path: Path
    tell: Callable[[str], None] = field(default=lambda _: None)

    def open(self) -> None:
        """Make its folder; what was there before stays."""
        try:
            self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            self.tell(f"no log: {error}")

    def write(self, text: str) -> None:
        """A line with the time, for the log and for who looks on."""
        self.keep(text)
        self.tell(text)

    def keep(self, text: str) -> None:
        """A line for the log alone."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        try:
            with self.path.open("a", encoding="utf-8", errors="replace") as file:
                file.write(f"{stamp} {text}\n")
        except OSError:
            return

    def size(self) -> int:
        """Bytes that stand in it."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def complaint(self, since: int) -> str:
        """The first line after that many bytes that calls itself an error, else the last one.

        With what follows a colon at its end.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(max(since, self.size() - _TAIL))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        first = next((number for number, line in enumerate(lines) if _ERROR.match(line)), len(lines) - 1)
        said = lines[first:]
        # rpm: "error: Failed dependencies:"; dnf: "Error:", "Problem: conflicting requests"
        told = 1 if not said or not said[0].endswith(":") else 3 if said[0] == "Error:" else 2
        return " ".join(said[:told])


def run_script(host: Host, log: Log, name: str, script: str, deadline_s: float) -> None:
    """Run one script to its end, its output into the log. StepError with what it complained of."""
    since = log.size()
    argv = ("/bin/sh", "-c", _INTO_LOG, "sh", str(log.path), script, f"slurm-gsp-{name}")
    try:
        done = host.run(argv, deadline_s=deadline_s, env=_ENV)
    except process.DeadlineExceeded as error:
        raise StepError(f"not done within {deadline_s:g} s") from error
    except process.ProcessError as error:
        raise StepError(str(error)) from error
    if done.rc != 0:
        said = log.complaint(since) or done.stderr.strip() or "it said nothing"
        raise StepError(f"{said} (exit status {done.rc})")


def step(record: Record, log: Log, number: int, name: str, work: Callable[[], T]) -> T:
    """Carry out one step. StepFailedError for whatever keeps it from its end, a fault of our own too."""
    began = time.monotonic()
    log.write(f"step {number} {name}")
    try:
        record.begin(number, name)
        outcome = work()
        record.end(True, time.monotonic() - began)
    except Exception as error:
        failure = Failure(number, name, _why(error, log))
        log.write(f"failed: {failure.what}")
        _try(lambda: record.end(False, time.monotonic() - began), log)
        _try(lambda: record.fail(failure), log)
        raise StepFailedError(failure) from error
    log.write(f"step {number} {name}: done after {time.monotonic() - began:.1f} s")
    return outcome


def _why(error: Exception, log: Log) -> str:
    if isinstance(error, RefusedError):
        for why in error.why[1:]:
            log.write(f"also: {why}")
        return error.why[0]
    if isinstance(error, StepError):
        return str(error)
    log.keep(traceback.format_exc())
    return f"{type(error).__name__}: {error}"


def _try(write: Callable[[], None], log: Log) -> None:
    """The journal may be what failed."""
    try:
        write()
    except (OSError, ValueError) as error:
        log.write(f"the journal could not be written: {error}")


def announce(log: Log, text: str) -> None:
    """A line for the log, for who looks on, and for syslog."""
    log.write(text)
    say(text)

"""Questions to Slurm whose answer is text: times in UTC, errors by what they mean."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol, TypeVar

from slurm_gsp import process
from slurm_gsp.slurm.client import ControllerAway, Denied, SlurmError, SlurmMissing, SlurmTimeout

NOTHING: Final = frozenset({"", "(null)", "N/A", "None", "NONE", "Unknown"})
"""Words with which Slurm says that there is no value."""

_LIMIT_BYTES: Final = 1 << 30
_ERROR: Final = re.compile(r"^slurm_\w+(?: error)?: (.*)", re.MULTILINE)


class Run(Protocol):
    """How ``process.run`` is called here."""

    def __call__(
        self, argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> process.Finished: ...


class Begin(Protocol):
    """How ``process.begin`` is called here."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        env: Mapping[str, str] | None = None,
        sink: process.Sink,
    ) -> Callable[[], process.Finished]: ...


def asking(run: Run | None, conf: str | None, deadline_s: float) -> Callable[..., str]:
    """A function that runs one of Slurm's commands and gives what it printed. SlurmError."""
    chosen = run or partial(process.run, limit_bytes=_LIMIT_BYTES)
    env = environment(conf)

    def ask(*argv: str) -> str:
        return checked(argv, lambda: chosen(argv, deadline_s=deadline_s, env=env)).stdout

    return ask


def environment(conf: str | None) -> dict[str, str]:
    """What Slurm's commands need, besides what every process gets."""
    return {"TZ": "UTC0", "SLURM_TIME_FORMAT": "standard", **({"SLURM_CONF": conf} if conf else {})}


T = TypeVar("T")


def translated(argv: Sequence[str], start: Callable[[], T]) -> T:
    """What starting or waiting for a command gives. SlurmError."""
    asked = " ".join(argv)
    try:
        return start()
    except process.CommandMissing as error:
        raise SlurmMissing(f"{asked}: {error}") from error
    except process.DeadlineExceeded as error:
        raise SlurmTimeout(f"{asked}: {error}") from error
    except process.ProcessError as error:
        raise SlurmError(f"{asked}: {error}") from error


def checked(argv: Sequence[str], start: Callable[[], process.Finished]) -> process.Finished:
    """One command that did what was asked. SlurmError."""
    done = translated(argv, start)
    if done.rc != 0 or _ERROR.search(done.stderr):
        raise _refused(" ".join(argv), done)
    return done


def time_or_none(text: str) -> datetime | None:
    """A time as Slurm writes it in UTC; None where it says that there is none."""
    return None if text in NOTHING else time_of(text)


def time_of(text: str) -> datetime:
    """A time as Slurm writes it in UTC."""
    try:
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    except ValueError as error:
        raise SlurmError(f"not a time as Slurm writes it: {text!r}") from error


def _refused(asked: str, done: process.Finished) -> SlurmError:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    said = " / ".join(lines)[:500]
    message = f"{asked}: {said or 'no answer'} (exit status {done.rc})"
    if re.search(r"Unable to contact|controller|Communication|Connection refused", said):
        return ControllerAway(message)
    if re.search(r"permission denied|Invalid user id|authentication", said, re.IGNORECASE):
        return Denied(message)
    return SlurmError(message)

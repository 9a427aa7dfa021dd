"""Questions to Slurm whose answer is text: times in UTC, errors by what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, Protocol, TypeVar

from slurm_gsp import process
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.scontrol import kind_of_failure, refusal, refused

NOTHING: Final = frozenset({"", "(null)", "N/A", "None", "NONE", "Unknown"})
"""Words with which Slurm says that there is no value."""

_LIMIT_BYTES: Final = 1 << 30


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
    try:
        return start()
    except process.ProcessError as error:
        raise kind_of_failure(error)(f"{' '.join(argv)}: {error}") from error


def checked(argv: Sequence[str], start: Callable[[], process.Finished]) -> process.Finished:
    """One command that did what was asked. SlurmError."""
    done = translated(argv, start)
    if refused(done):
        raise refusal(done, " ".join(argv))
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

"""One maintenance of a node at a time."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Final

from slurm_gsp.node.failing import StepError
from slurm_gsp.node.host import Host

MAINTENANCE: Final = "maintenance.lock"
STAGE: Final = "stage.lock"
EVERY_S: Final = 1.0


class BusyError(Exception):
    """Another maintenance of this node is at work."""


@contextmanager
def only_one(host: Host) -> Iterator[None]:
    """Held during a maintenance. BusyError: another one is at work."""
    with _opened(host, MAINTENANCE) as lock:
        if not _taken(lock):
            raise BusyError(f"another maintenance of {host.node} is at work; nothing done")
        yield


@contextmanager
def staging(host: Host, wait_s: float) -> Iterator[None]:
    """Held while packages are fetched or checked; StepError where another keeps it."""
    with _opened(host, STAGE) as lock:
        waited = 0.0
        while not _taken(lock):
            if waited >= wait_s:
                raise StepError("another process is staging packages")
            host.pause(EVERY_S)
            waited += EVERY_S
        yield


@contextmanager
def _opened(host: Host, name: str) -> Iterator[IO[str]]:
    host.folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with (host.folder / name).open("w") as lock:
        yield lock


def _taken(lock: IO[str]) -> bool:
    """Take the lock if it is free; it goes when the file is closed."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False

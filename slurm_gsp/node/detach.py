"""Going on in a session of one's own after the program that was started has ended."""

from __future__ import annotations

import os
from collections.abc import Callable

from slurm_gsp.collect.bounded import keep_only


class NotDetachedError(Exception):
    """The worker did not come up."""


def detach(work: Callable[[], None], new_session: Callable[[], None] = os.setsid) -> None:
    """Run ``work`` in a session of its own; comes back once it is there, so that the caller may end.

    slurmd of 26.05 ends the process group of RebootProgram as soon as that ends: whoever is still on his way
    into another session is ended with it.
    """
    reader, writer = os.pipe()
    if os.fork() == 0:
        _work(work, writer, new_session)
    os.close(writer)
    told = os.read(reader, 1)
    os.close(reader)
    if not told:
        raise NotDetachedError("the worker ended before it was detached")


def _work(work: Callable[[], None], writer: int, new_session: Callable[[], None]) -> None:
    try:
        new_session()
        os.chdir("/")
        os.umask(0o022)
        keep_only(writer)
        os.write(writer, b"1")
        os.close(writer)
        work()
    finally:
        os._exit(0)

"""Work that may hang in the driver, in a child with a deadline.

The child is left behind when it does not answer: ending a process in the middle of a driver call has
frozen GPUs, and one that is in uninterruptible sleep cannot be ended anyway. It has a session of its
own, so that slurmd's TERM and KILL of a slow hook's process group do not reach it either, and keeps nothing
of ours open: neither the lock, which would never be free again, nor the output that slurmd reads to its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable

_LIMIT = 4 << 20


class LeftBehind(Exception):  # noqa: N818 - named after what happened
    """The child did not answer in time and was left alone."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} did not answer in time")
        self.pid = pid


def in_child(work: Callable[[], object], deadline_s: float) -> object:
    """Run ``work`` in a forked child; its JSON-able result, None when it brought none. Raises LeftBehind."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(work, writer)
    os.close(writer)
    try:
        data = _read(reader, time.monotonic() + deadline_s)
    finally:
        os.close(reader)
    if data is None:
        raise LeftBehind(child)
    os.waitpid(child, 0)
    try:
        answer: object = json.loads(data)
    except ValueError:
        return None
    return answer


def _answer(work: Callable[[], object], writer: int) -> None:
    try:
        os.setsid()
        keep_only(writer)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        data = json.dumps(work()).encode()
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def keep_only(writer: int) -> None:
    """Close all that was inherited but ``writer``; the standard streams lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        descriptor = int(name)
        if descriptor in {nowhere, writer}:
            continue
        if descriptor <= 2:
            os.dup2(nowhere, descriptor)
            continue
        with contextlib.suppress(OSError):  # the one that listed them is closed already
            os.close(descriptor)


def _read(descriptor: int, until: float) -> bytes | None:
    """All bytes up to the end of file, None past the deadline."""
    data = b""
    while len(data) < _LIMIT:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(descriptor, 1 << 16)
        if not chunk:
            return data
        data += chunk
    return None

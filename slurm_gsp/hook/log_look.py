"""The lightest look: is there a new line of the driver in the kernel log? Built-in modules only.

A launcher cannot read /dev/kmsg itself. When nothing else is due, this answers for one interpreter start,
and the whole detector is imported only when a line may concern it.
"""

from __future__ import annotations

import errno
import os

DEVICE = "/dev/kmsg"
RUN = "/run/slurm-gsp"
CURSOR = "log-cursor"
DUE = "due"

WORDS = (
    b"nvrm",
    b"nvidia",
    b"nouveau",
    b"nova",
    b"xid",
    b"module",
    b"lockdown",
    b"pkcs#7",
    b"key was rejected",
    b"linux version",
)
"""A line with none of these concerns no rule."""

_RECORD = 1 << 16
_LIMIT = 64 << 20


def nothing_new(now: float, run: str = RUN, device: str = DEVICE) -> bool:
    """Whether only the log was due and it has no new line of the driver; then the next time is set.

    Any doubt (no cursor, no device, a cursor of another boot) is a no.
    """
    try:
        with open(f"{run}/{CURSOR}", encoding="ascii") as file:
            boot, seq, next_full, interval = file.read().split()
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            same_boot = file.read().strip() == boot
        if not same_boot or now >= float(next_full):
            return False
        data = read_device(device)
        if data is None or any(is_new and relevant(line) for is_new, line in records(data, int(seq))):
            return False
        due = min(float(next_full), now + float(interval))
        replace(f"{run}/{DUE}", f"{int(due)}\n")
    except (OSError, ValueError, ArithmeticError):
        return False
    return True


def records(data: bytes, after: int) -> list[tuple[bool, bytes]]:
    """Each record's line, and whether its sequence number is greater than ``after``. Raises ValueError."""
    lines = [line for line in data.split(b"\n") if line[:1].isdigit()]
    return [(int(line.split(b",", 2)[1]) > after, line) for line in lines if line.count(b",") > 1]


def relevant(line: bytes) -> bool:
    """Whether a line may concern a rule."""
    text = line.lower()
    return any(word in text for word in WORDS)


def read_device(device: str) -> bytes | None:
    """Every record of the ring buffer; one read gives one record, an overwritten one gives EPIPE."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    chunks, size = [], 0
    try:
        while size < _LIMIT:
            try:
                chunk = os.read(descriptor, _RECORD)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno == errno.EPIPE:
                    continue
                return None
            if not chunk:
                break
            chunks.append(chunk)
            size += len(chunk)
    finally:
        os.close(descriptor)
    return b"".join(chunks)


def replace(path: str, text: str) -> None:
    """Replace a small file in one step. Raises OSError."""
    fresh = f"{path}.{os.getpid()}"
    with open(fresh, "w", encoding="ascii") as file:
        file.write(text)
    os.replace(fresh, path)

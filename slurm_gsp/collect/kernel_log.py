"""The kernel log of this boot from /dev/kmsg, whole or from a sequence number on."""

from __future__ import annotations

from collections.abc import Iterable

from slurm_gsp.hook.log_look import DEVICE, read_device, relevant
from slurm_gsp.parse.kmsg import LogLine, parse_dev_kmsg


def read_kernel_log(device: str = DEVICE) -> str | None:
    """The log as ``dmesg`` prints it; None when the device cannot be read (then dmesg is asked)."""
    found = read_since(-1, device)
    return as_dmesg(found[0]) if found is not None else None


def read_since(after: int, device: str = DEVICE) -> tuple[tuple[LogLine, ...], int] | None:
    """Lines whose sequence number is greater than ``after``, and the last number seen."""
    data = read_device(device)
    return None if data is None else parse_dev_kmsg(data, after)


def concerns_driver(line: LogLine) -> bool:
    """Whether a line may concern the driver; a hook keeps only these between its runs."""
    return relevant(line.text.encode())


def as_dmesg(lines: Iterable[LogLine]) -> str:
    """Lines in dmesg's own form; continuation lines are indented."""
    return "".join(
        f"[{line.time or 0.0:12.6f}] {line.text.replace(chr(10), chr(10) + ' ' * 15)}\n" for line in lines
    )

"""``ldconfig -p``: what the dynamic loader's cache holds, in the order in which it would choose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# "\tlibcuda.so.1 (libc6,x86-64, hwcap: ..., OS ABI: Linux 3.2.0) => /usr/lib/x86_64-linux-gnu/libcuda.so.1"
_ENTRY: Final = re.compile(r"\s*(\S[^()]*?) \(([^()]*)\) => (\S.*)")
# The flag that glibc prints for a 64-bit library (elf/cache.c: print_entry); a plain "libc6" is 32-bit there.
_FLAG: Final = {"x86_64": "x86-64", "aarch64": "AArch64", "ppc64le": "64bit"}


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One library of the cache; ``flags`` such as ("libc6", "x86-64")."""

    soname: str
    path: str
    flags: tuple[str, ...]


def parse_ldconfig(text: str) -> tuple[CacheEntry, ...]:
    """The entries of ``ldconfig -p``, in cache order; the heading and anything else is skipped."""
    found = (_ENTRY.fullmatch(line.rstrip()) for line in text.splitlines())
    return tuple(CacheEntry(match[1], match[3], _flags(match[2])) for match in found if match)


def loader_paths(entries: Sequence[CacheEntry], soname: str, machine: str) -> tuple[str, ...]:
    """The paths, in cache order, that a 64-bit program on ``machine`` (``uname -m``) would take."""
    flag = _FLAG.get(machine)
    return tuple(entry.path for entry in entries if entry.soname == soname and flag in entry.flags)


def _flags(text: str) -> tuple[str, ...]:
    return tuple(flag.strip() for flag in text.split(",") if flag.strip())

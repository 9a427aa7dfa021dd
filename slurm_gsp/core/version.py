"""Driver versions and kernel releases as text: recognising, finding and ordering them.

A driver version is a string (``580.95.05``, ``550.163``), never a float. The shapes come from the tags of
NVIDIA's open-gpu-kernel-modules repository, 515.43.04 to 595.45.04.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias

# Branch (R300 on), a number of two or three digits, and often a third of two: 580.95.05, 550.163.01, 535.179.
_VERSION: Final = r"[3-9][0-9]{2}\.[0-9]{2,3}(?:\.[0-9]{2})?"
_WHOLE: Final = re.compile(_VERSION)
# What goes on with more digits is another thing's number, such as the kernel ABI in 5.14.0-427.18.1.el9.
_INSIDE: Final = re.compile(rf"(?<![0-9]){_VERSION}(?!\.?[0-9])")
# Digit runs are cut at 18 places: int() refuses very long ones, and no real number comes near.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_TOKEN: Final = re.compile(r"[0-9]{1,18}|[A-Za-z]+")

KernelKey: TypeAlias = tuple[tuple[int, int, str], ...]
_CANDIDATE, _END, _WORD, _DIGITS = range(4)


def parse_driver_version(text: str) -> str | None:
    """``text`` itself if it is exactly one driver version (``NNN.NN`` or ``NNN.NN.NN``), else None."""
    return text if _WHOLE.fullmatch(text) else None


def find_driver_version(text: str) -> str | None:
    """The first driver version inside a package version, NVML version or file name, else None.

    ``13.580.159.04`` gives 580.159.04, ``3:580.95.05-1.el9`` 580.95.05, ``12.4.1`` (CUDA's own) None.
    """
    found = _INSIDE.search(text)
    return found.group() if found else None


def branch(version: str) -> int:
    """The driver branch, 580 for ``580.95.05``; 0 for what does not start with a number."""
    found = _NUMBER.match(version)
    return int(found.group()) if found else 0


def version_key(version: str) -> tuple[int, ...]:
    """The numbers of a version, to order driver versions by; () when there are none."""
    return tuple(int(number) for number in _NUMBER.findall(version))


def kernel_sort_key(release: str) -> KernelKey:
    """Orders kernel releases as people do: 6.8.0-9 before 6.8.0-50, 6.8.0-rc1 before 6.8.0.

    Any two keys can be compared. A number sorts after a word at the same place (5.14.0-427.el9 before
    5.14.0-427.13.1.el9), a longer release after the one that it extends.
    """
    return (*(_kernel_token(part) for part in _TOKEN.findall(release)), (_END, 0, ""))


def _kernel_token(part: str) -> tuple[int, int, str]:
    if part[0].isdigit():
        return (_DIGITS, int(part), "")
    return (_CANDIDATE if part == "rc" else _WORD, 0, part)

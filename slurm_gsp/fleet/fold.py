"""Node names as hostlists that Slurm takes. NodeSet writes others too, and takes ten times as long."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]*")
_DIGITS: Final = "0123456789"
_MOST_DIGITS: Final = 15
_UNPADDED: Final = 0


def fold(names: Iterable[str]) -> str:
    """``gpu[01-16],login``: names that differ in the number at their end alone share brackets.

    One with something behind its number stays as it is: to Slurm ``n[1-2]-ib`` is no hostlist.
    """
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        before = name.rstrip(_DIGITS)
        families[before].append(name[len(before) :])
    folded: list[str] = []
    for before, digits in families.items():
        longest = max(map(len, digits))
        if min(map(len, digits)) > 0 and longest <= _MOST_DIGITS and _PLAIN.fullmatch(before):
            folded += [_bracketed(before, width, sorted(numbers)) for width, numbers in _by_width(digits)]
        else:
            folded += {before + number for number in digits}
    return ",".join(sorted(folded))


def _by_width(digits: list[str]) -> Iterator[tuple[int, set[int]]]:
    """Numbers that are written alike: filled with zeros to one width, or not filled at all."""
    widths = {len(text) for text in digits if text[0] == "0" and len(text) > 1}
    found: dict[int, set[int]] = defaultdict(set)
    for text in digits:
        found[len(text) if len(text) in widths else _UNPADDED].add(int(text))
    yield from found.items()


def _bracketed(before: str, width: int, numbers: list[int]) -> str:
    ranges = ",".join(
        f"{first:0{width}}" if first == last else f"{first:0{width}}-{last:0{width}}"
        for first, last in _ranges(numbers)
    )
    return f"{before}{ranges}" if len(numbers) == 1 else f"{before}[{ranges}]"


def _ranges(numbers: list[int]) -> Iterator[tuple[int, int]]:
    first = last = numbers[0]
    for number in numbers[1:]:
        if number != last + 1:
            yield first, last
            first = number
        last = number
    yield first, last

"""How many GPUs Slurm was told that a node has (gres.conf(5), slurm.conf(5)), and Slurm's hostlists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Final

from slurm_gsp.parse import ParseError

_MAX_NAMES: Final = 65_536
# The fixed part of a name, so that 65,536 names stay small.
_MAX_LITERAL: Final = 1024
_RANGE: Final = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_DEVICE: Final = re.compile(r"(?:.*/)?nvidia[0-9]+")
# A MIG profile in a GRES type: 1g.10gb, a30_2g.12gb, 1c.3g.40gb.
_MIG: Final = re.compile(r"[0-9]g\.[0-9]+gb", re.IGNORECASE)
_COUNT: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class _Promise:
    """What one line promises: device files, and a number for devices without a file."""

    files: frozenset[str]
    count: int


def gpu_count(gres_conf: str, node: str) -> int | None:
    """The number of NVIDIA GPUs that gres.conf promises for ``node``.

    None when the file does not say: no line for the node, AutoDetect alone, MIG instances alone, or an
    include. ParseError for a hostlist that cannot be read.
    """
    promises = []
    for fields in _lines(gres_conf):
        if "include" in fields:
            return None
        if fields.get("name", "").lower() == "gpu" and _is_for(fields, node):
            promises.append(_promise(fields))
    files = frozenset[str]().union(*(promise.files for promise in promises))
    return len(files) + sum(promise.count for promise in promises) or None


def configured_gpu_count(slurm_conf: str, node: str) -> int | None:
    """The number of GPUs in ``Gres=`` of the node's line in slurm.conf.

    None when no line names the node, when its line promises no GPU, when the file includes another, and
    for types that are no model: MIG instances are counted here too, and an untyped count may be of them.
    ParseError for a hostlist that cannot be read.
    """
    default, count = "", None
    for fields in _lines(slurm_conf):
        if "include" in fields:
            return None
        name = fields.get("nodename", "")
        if name.upper() == "DEFAULT":
            default = fields.get("gres", default)
        elif name and node in expand_hostlist(name):
            count = _gres_gpus(fields.get("gres", default))
    return count


def _gres_gpus(gres: str) -> int | None:
    """``gpu:h100:8(S:0-1),shard:64`` promises 8, ``gpu:1g.10gb:14`` and ``gpu:7`` no number of GPUs."""
    total = 0
    for item in re.sub(r"\([^)]*\)", "", gres).split(","):
        kind, *rest = item.split(":")
        if kind.lower() != "gpu":
            continue
        if len(rest) != 2 or _MIG.search(rest[0]) or not _COUNT.fullmatch(rest[1]):
            return None
        total += int(rest[1])
    return total or None


def expand_hostlist(text: str) -> tuple[str, ...]:
    """The names of a Slurm hostlist: ``n[01-03,7],login`` gives n01, n02, n03, n7, login.

    ParseError for brackets that do not match, for a range that is none, and for more than 65,536 names.
    """
    names: list[str] = []
    for item in _split(text):
        names.extend(_expand(item, _MAX_NAMES - len(names)))
    return tuple(names)


def _lines(text: str) -> Iterator[dict[str, str]]:
    """The lines as fields with lower-case names; a backslash continues a line, # starts a comment."""
    for line in text.replace("\\\n", " ").splitlines():
        words = line.partition("#")[0].split()
        fields = {name.lower(): value for name, _, value in (word.partition("=") for word in words)}
        if fields:
            yield fields


def _is_for(fields: dict[str, str], node: str) -> bool:
    return "nodename" not in fields or node in expand_hostlist(fields["nodename"])


def _promise(fields: dict[str, str]) -> _Promise:
    if "file" in fields:
        files = (file for file in expand_hostlist(fields["file"]) if _DEVICE.fullmatch(file))
        return _Promise(frozenset(files), 0)
    count = fields.get("count", "")
    return _Promise(frozenset(), int(count) if _COUNT.fullmatch(count) else 0)


def _split(text: str) -> Iterator[str]:
    """The items between the commas that are not inside brackets."""
    start = depth = 0
    for place, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if depth not in {0, 1}:
            raise ParseError(f"brackets do not match in {text[:80]!r}")
        if char == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    if depth:
        raise ParseError(f"brackets do not match in {text[:80]!r}")
    yield text[start:].strip()


def _expand(item: str, room: int) -> Iterator[str]:
    """All names of one item, at most ``room``."""
    if not item:
        return
    literals, choices, total = [], [], 1
    for index, part in enumerate(re.split(r"[][]", item)):
        if index % 2:
            choices.append(_numbers(part, room // total))
            total *= len(choices[-1])
        else:
            literals.append(part)
    if total > room:
        raise ParseError(f"more than {_MAX_NAMES} names")
    if sum(map(len, literals)) > _MAX_LITERAL:
        raise ParseError(f"name too long: {item[:80]!r}")
    for numbers in product(*choices):
        yield "".join(part for pair in zip(literals, (*numbers, ""), strict=True) for part in pair)


def _numbers(text: str, room: int) -> list[str]:
    """The numbers of one pair of brackets, as wide as the first of their range is written."""
    numbers: list[str] = []
    for part in text.split(","):
        found = _RANGE.fullmatch(part.strip())
        if found is None:
            raise ParseError(f"not a range of numbers: {part[:80]!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ParseError(f"range runs backwards: {part[:80]!r}")
        if len(numbers) + last - first + 1 > room:
            raise ParseError(f"more than {_MAX_NAMES} names")
        numbers.extend(f"{number:0{len(found[1])}}" for number in range(first, last + 1))
    return numbers

"""What a job asks of the driver and the manifest of its nodes, and whether a node has it. Pure.

Only what a job certainly demands of every node is judged; of everything else Slurm's own placement decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from slurm_gsp.core.published import DRIVER_KEY, MANIFEST_KEY, plain
from slurm_gsp.core.reading import Absent, Known, Reading

PREFIX: Final = "driver-"
_FEATURE: Final = re.compile(rf"{PREFIX}([0-9]+(?:\.[0-9]+)+)")
"""A feature of ours: the whole version. ``driver-580`` and ``driver-a100`` are a site's own."""
_CHOICE: Final = frozenset("|[]()*")
"""With one of these a constraint is more than a list of features that every node has to have."""
_CHOICE_OF_EXTRA: Final = frozenset("|()")
_LEAF: Final = re.compile(r"([^<>=!]+)(=|!=|<=?|>=?)([^<>=!]+)")
"""A comparison as Slurm's extra_constraints.c reads it; blanks are part of key and value."""
_NOUNS: Final[Mapping[str, str]] = {DRIVER_KEY: "driver", MANIFEST_KEY: "manifest"}
_SHOWN: Final = 64
"""Characters of a job's own words that are repeated to people."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What every node of a job has to have; ``key`` is DRIVER_KEY or MANIFEST_KEY."""

    key: str
    value: str


def demands_of(constraints: str, extra: str, *, features: bool) -> tuple[Demand, ...]:
    """What a job's ``--constraint`` and ``--extra`` certainly demand, each once.

    ``features``: whether features that look like ours are ours; else they may mean anything.
    """
    found = [*(_in_constraints(constraints) if features else ()), *_in_extra(extra)]
    return tuple(dict.fromkeys(found))


def refusal(demands: Sequence[Demand], has: Mapping[str, Reading[str]]) -> str:
    """Why a node is not what a job demands; empty: it is, or nobody can say that it is not."""
    for demand in demands:
        reading = has.get(demand.key)
        if isinstance(reading, Known | Absent):
            value = reading.value if isinstance(reading, Known) else ""
            if value != demand.value:
                asked = plain(demand.value)[:_SHOWN]
                return f"{_NOUNS[demand.key]} {plain(value)[:_SHOWN] or 'none'}, the job asks for {asked}"
    return ""


def feature_of(driver: str) -> str:
    """The feature of a node with this driver loaded; empty where none is, or its version is unusual."""
    feature = f"{PREFIX}{driver}"
    return feature if _FEATURE.fullmatch(feature) else ""


def with_feature(features: Sequence[str], ours: str) -> tuple[str, ...]:
    """A node's features with this one of ours alone, or none; all others stay, and in their order."""
    kept: list[str] = []
    for name in features:
        if not _FEATURE.fullmatch(name):
            kept.append(name)
        elif ours and ours not in kept:
            kept.append(ours)
    return tuple(kept if not ours or ours in kept else [*kept, ours])


def _in_constraints(text: str) -> list[Demand]:
    """Features that are joined by ``&``, or by ``,``, which Slurm takes for the same."""
    if not _CHOICE.isdisjoint(text):
        return []
    matches = (_FEATURE.fullmatch(name) for name in re.split("[&,]", text))
    return [Demand(DRIVER_KEY, match[1]) for match in matches if match]


def _in_extra(text: str) -> list[Demand]:
    """``key=value`` joined by ``&`` or ``,``, if all of it is of that kind; a free text demands nothing."""
    if not _CHOICE_OF_EXTRA.isdisjoint(text):
        return []
    leaves = [_LEAF.fullmatch(part) for part in re.split("[&,]", text)]
    if not all(leaves):
        return []
    return [Demand(leaf[1], leaf[3]) for leaf in leaves if leaf and leaf[2] == "=" and leaf[1] in _NOUNS]

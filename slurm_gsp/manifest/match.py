"""Which profile is for which node."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet

from slurm_gsp.manifest.model import Manifest, Matcher

_COUNT: Final = re.compile(r"[0-9]{1,9}")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node as Slurm describes it; ``gres`` as in ``gpu:h100:8``, without the sockets behind it."""

    name: str
    partitions: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    gres: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """A node that several profiles are for, these in the manifest's order."""

    node: str
    profiles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Every node once: with its one profile, with none, or with several. Sorted by name."""

    by_node: tuple[tuple[str, str], ...]
    unmatched: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()

    def profile_of(self, node: str) -> str | None:
        """The profile of a node; None for one without, or with several."""
        return dict(self.by_node).get(node)

    def nodes_of(self, profile: str) -> tuple[str, ...]:
        """The nodes that this profile alone is for."""
        return tuple(node for node, name in self.by_node if name == profile)


def assign(manifest: Manifest, nodes: Sequence[NodeFacts]) -> Assignment:
    """The profile of every node."""
    return assign_by({profile.name: profile.matcher for profile in manifest.profiles}, nodes)


def assign_by(matchers: Mapping[str, Matcher], nodes: Sequence[NodeFacts]) -> Assignment:
    """The profile of every node, from the matchers alone."""
    named = {name: matcher.names() for name, matcher in matchers.items()}
    by_node: list[tuple[str, str]] = []
    unmatched: list[str] = []
    overlaps: list[Overlap] = []
    for node in sorted(nodes, key=lambda node: node.name):
        fit = tuple(name for name, matcher in matchers.items() if _fits(matcher, named[name], node))
        if not fit:
            unmatched.append(node.name)
        elif len(fit) == 1:
            by_node.append((node.name, fit[0]))
        else:
            overlaps.append(Overlap(node.name, fit))
    return Assignment(tuple(by_node), tuple(unmatched), tuple(overlaps))


def folded(names: Iterable[str]) -> str:
    """Node names as one hostlist, for people: ``gpu[01-16],login1``."""
    listed = sorted(set(names))
    if not all(map(_PLAIN_NAME.fullmatch, listed)):  # NodeSet would expand what looks like a range
        return ",".join(listed)
    return str(NodeSet.fromlist(listed, resolver=RESOLVER_NOGROUP))


def has_gpus(node: NodeFacts) -> bool:
    """Whether Slurm knows GPUs on this node; one without needs no profile."""
    return any(name == "gpu" and count for name, _, count in map(_parts, node.gres))


def _fits(matcher: Matcher, named: frozenset[str], node: NodeFacts) -> bool:
    return (
        (not named or node.name in named)
        and (not matcher.partitions or not set(matcher.partitions).isdisjoint(node.partitions))
        and (not matcher.features or not set(matcher.features).isdisjoint(node.features))
        and (not matcher.gres or any(_has_gres(node.gres, wanted) for wanted in matcher.gres))
        and matcher != Matcher()
    )


def _has_gres(gres: Sequence[str], wanted: str) -> bool:
    """Whether the node has this GRES; where a number is wanted, exactly that many in all."""
    name, *rest = wanted.split(":")
    number = int(rest.pop()) if rest and _COUNT.fullmatch(rest[-1]) else None
    kind = rest[0] if rest else None
    found = [
        count
        for have_name, have_kind, count in map(_parts, gres)
        if have_name == name and kind in {None, have_kind}
    ]
    return sum(found) == number if number is not None else sum(found) > 0


def _parts(entry: str) -> tuple[str, str | None, int]:
    """``gpu:h100:8`` is (gpu, h100, 8), ``gpu:2`` (gpu, None, 2), ``gpu`` one of them."""
    name, *rest = entry.split(":")
    count = 1
    if rest and (found := re.fullmatch(r"([0-9]{1,9})([KMGTP]?)", rest[-1])):
        count = int(found[1]) * 1024 ** " KMGTP".index(found[2] or " ")
        rest.pop()
    return name, rest[0] if rest else None, count

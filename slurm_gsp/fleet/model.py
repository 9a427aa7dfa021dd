"""The values of an overview: one for each node, and one for the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple

from slurm_gsp.core.published import MANIFEST_KEY, VERSION_KEYS

SHOWN_KEYS: Final = (*VERSION_KEYS, MANIFEST_KEY)
"""What is compared between nodes and shown of them, in this order."""
UNKNOWN: Final = "?"
"""In the place of a value that the node could not read, or did not say."""

HEALTHY: Final = "consistent"
NO_TUPLE: Final = "nothing published"
OLD_TUPLE: Final = "published before it booted"
NO_ANSWER: Final = "does not answer Slurm"
NOT_UP: Final = "powered down or booting"


class Node(NamedTuple):
    """One GPU node. A tuple: a frozen dataclass takes four times as long, for each of 10,000.

    ``silent`` is why nothing is known of it, empty where it said what it is; then ``verdict``, ``faults``,
    ``versions`` (in the order of SHOWN_KEYS) are its own. ``kind`` is its GPUs as Slurm has them. ``out`` is
    who took it from its users: "us", "campaign", "others", or empty. ``campaign`` has it in hand, or has a
    reservation for it; ``phase`` says which. ``drift`` is what is not as the manifest pins it.
    """

    name: str
    partitions: str
    kind: str
    silent: str
    verdict: str
    faults: tuple[str, ...]
    versions: tuple[str, ...]
    state: str
    out: str = ""
    reason: str = ""
    user: str = ""
    campaign: str = ""
    phase: str = ""
    profile: str = ""
    drift: tuple[str, ...] = ()
    held: str = ""
    beside: str = ""

    @property
    def healthy(self) -> bool:
        """In service, and said to be consistent in this boot."""
        return not self.silent and not self.out and self.verdict == HEALTHY


@dataclass(frozen=True, slots=True)
class Group:
    """Nodes of which one thing is true."""

    what: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Versions:
    """One version tuple of one kind of node; ``odd``: where it differs from most of that kind."""

    kind: str
    values: Mapping[str, str]
    nodes: tuple[str, ...]
    odd: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ProfileView:
    """One profile of the manifest: who is as pinned, who is not and in what, who did not say."""

    profile: str
    driver: str
    right: tuple[str, ...]
    drift: tuple[Group, ...]
    silent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Drained:
    """Nodes that others took from their users, with their words."""

    reason: str
    user: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InCampaign:
    """Nodes of one campaign that are equally far, as Slurm shows it."""

    campaign: str
    phase: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FleetView:
    """The fleet at one moment. ``without_gpus``: nodes that are not counted. Groups have the largest first.

    ``manifest`` is what the nodes were compared with, empty for none; then ``profiles`` are empty too.
    """

    at: datetime
    nodes: tuple[Node, ...]
    without_gpus: int
    healthy: int
    verdicts: tuple[Group, ...]
    faults: tuple[Group, ...]
    silent: tuple[Group, ...]
    next_boot: tuple[Group, ...]
    versions: tuple[Versions, ...]
    campaigns: tuple[InCampaign, ...]
    ours: tuple[Group, ...]
    others: tuple[Drained, ...]
    manifest: str = ""
    profiles: tuple[ProfileView, ...] = ()
    unmatched: tuple[str, ...] = ()
    held: tuple[Group, ...] = ()
    beside: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True)
class Beside:
    """What others know of nodes, by name: texts that the overview only groups.

    ``held``: why a node stays on an older pin, from a ledger. ``found``: what was found out of band.
    """

    held: Mapping[str, str] = field(default_factory=dict)
    found: Mapping[str, str] = field(default_factory=dict)

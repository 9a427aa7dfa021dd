"""Nodes in, one FleetView out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from slurm_gsp.core.finding import FAULTS, Verdict
from slurm_gsp.core.published import DRIVER_KEY, NICS_KEY
from slurm_gsp.core.reason import code_of
from slurm_gsp.fleet.model import (
    NO_TUPLE,
    SHOWN_KEYS,
    UNKNOWN,
    Beside,
    Drained,
    FleetView,
    Group,
    InCampaign,
    Node,
    ProfileView,
    Versions,
)

NEXT_BOOT: Final = ("next-kernel", "fw-gone", "pkg-split", "reboot-pending")
"""Latent faults that a reboot may turn into another driver than now, or into none."""
_ORDER: Final = {verdict.value: number for number, verdict in enumerate(Verdict)}
_SEVERITY: Final = {code: number for number, code in enumerate(FAULTS)}


@dataclass(frozen=True, slots=True)
class Target:
    """What the nodes are compared with; ``pins`` has the keys that each profile pins, and their values."""

    manifest: str = ""
    pins: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    profile_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Filters:
    """Which nodes are looked at; empty: all."""

    partition: str = ""
    profile: str = ""
    code: str = ""

    def wants(self, node: Node) -> bool:
        """Whether this node is one of them."""
        return (
            (not self.partition or self.partition in node.partitions.split(","))
            and (not self.profile or node.profile == self.profile)
            and (not self.code or self.code in node.faults or self.code == self._drained_for(node))
        )

    @staticmethod
    def _drained_for(node: Node) -> str | None:
        return code_of(node.reason) if node.out == "us" else None


def fleet_view(
    judged: Iterable[Node],
    at: datetime,
    *,
    target: Target | None = None,
    filters: Filters | None = None,
    beside: Beside | None = None,
) -> FleetView:
    """The overview. Nodes without GPUs that said nothing are left out."""
    target, filters, beside = target or Target(), filters or Filters(), beside or Beside()
    wanted = [node for node in (_completed(node, target, beside) for node in judged) if filters.wants(node)]
    nodes = tuple(node for node in wanted if node.kind or node.silent != NO_TUPLE)
    told = [node for node in nodes if not node.silent]
    return FleetView(
        at=at,
        nodes=nodes,
        without_gpus=len(wanted) - len(nodes),
        healthy=sum(node.healthy for node in nodes),
        verdicts=_sorted(_by((node.verdict, node) for node in told), _ORDER),
        faults=_sorted(_by((code, node) for node in told for code in node.faults), _SEVERITY),
        silent=_largest(_by((node.silent, node) for node in nodes if node.silent)),
        next_boot=_sorted(
            _by((code, node) for node in told for code in node.faults if code in NEXT_BOOT), _SEVERITY
        ),
        versions=_versions(told),
        campaigns=_campaigns(nodes),
        ours=_largest(_by((code_of(node.reason) or "", node) for node in nodes if node.out == "us")),
        others=_drained(nodes),
        manifest=target.manifest,
        profiles=_profiles(nodes, target) if target.manifest else (),
        unmatched=tuple(node.name for node in nodes if not node.profile) if target.manifest else (),
        held=_largest(_by((node.held, node) for node in nodes if node.held)),
        beside=_largest(_by((node.beside, node) for node in nodes if node.beside)),
    )


def _completed(node: Node, target: Target, beside: Beside) -> Node:
    """The node with what others than Slurm know of it."""
    profile = target.profile_of.get(node.name, "")
    held, found = beside.held.get(node.name, ""), beside.found.get(node.name, "")
    if not profile and not held and not found:
        return node
    drift = _drift(node, target.pins[profile]) if profile and not node.silent else ()
    return node._replace(profile=profile, drift=drift, held=held, beside=found)


def _drift(node: Node, pins: Mapping[str, str]) -> tuple[str, ...]:
    """What is not as pinned: ``nvidia_driver 570.172.08, pinned 580.95.05``."""
    values = dict(zip(SHOWN_KEYS, node.versions, strict=True))
    return tuple(
        f"{key} {_shown(values[key])}, pinned {pinned}"
        for key, pinned in pins.items()
        if not _fits(key, values[key], pinned)
    )


def _fits(key: str, value: str, pinned: str) -> bool:
    """Firmware is pinned for one kind of NIC, which its first number tells; others may have their own."""
    if key != NICS_KEY:
        return value == pinned
    kind = pinned.partition(".")[0]
    alike = [version for version in value.split("+") if version.partition(".")[0] == kind]
    return bool(alike) and all(version == pinned for version in alike)


def _shown(value: str) -> str:
    return "not told" if value == UNKNOWN else value or "none"


def _by(pairs: Iterable[tuple[str, Node]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for what, node in pairs:
        groups[what].append(node.name)
    return groups


def _largest(groups: Mapping[str, Sequence[str]]) -> tuple[Group, ...]:
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Group(what, tuple(names)) for what, names in ordered)


def _sorted(groups: Mapping[str, Sequence[str]], order: Mapping[str, int]) -> tuple[Group, ...]:
    """In a known order; what a newer version of us may have published comes last."""
    ordered = sorted(groups.items(), key=lambda item: (order.get(item[0], len(order)), item[0]))
    return tuple(Group(what, tuple(names)) for what, names in ordered)


def _versions(told: Sequence[Node]) -> tuple[Versions, ...]:
    """Every version tuple of every kind of node; kinds with many nodes, and the commonest tuple, first."""
    kinds: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for node in told:
        kinds[node.kind][node.versions].append(node.name)
    found = []
    for kind, tuples in sorted(kinds.items(), key=lambda item: (-sum(map(len, item[1].values())), item[0])):
        ordered = sorted(tuples.items(), key=lambda item: (-len(item[1]), item[0]))
        most = ordered[0][0]
        for values, names in ordered:
            differs = zip(SHOWN_KEYS, values, most, strict=True)
            odd = tuple(key for key, mine, theirs in differs if mine != theirs)
            shown = dict(zip(SHOWN_KEYS, values, strict=True))
            found.append(Versions(kind, shown, tuple(names), odd))
    return tuple(found)


def _campaigns(nodes: Iterable[Node]) -> tuple[InCampaign, ...]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node in nodes:
        if node.campaign:
            groups[node.campaign, node.phase].append(node.name)
    return tuple(InCampaign(*key, tuple(names)) for key, names in sorted(groups.items()))


def _drained(nodes: Iterable[Node]) -> tuple[Drained, ...]:
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node in nodes:
        if node.out == "others":
            groups[node.reason, node.user].append(node.name)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return tuple(Drained(*key, tuple(names)) for key, names in ordered)


def _profiles(nodes: Sequence[Node], target: Target) -> tuple[ProfileView, ...]:
    found = []
    for profile, pins in target.pins.items():
        mine = [node for node in nodes if node.profile == profile]
        told = [node for node in mine if not node.silent]
        found.append(
            ProfileView(
                profile=profile,
                driver=pins[DRIVER_KEY],
                right=tuple(node.name for node in told if not node.drift),
                drift=_largest(_by((what, node) for node in told for what in node.drift)),
                silent=tuple(node.name for node in mine if node.silent),
            )
        )
    return tuple(found)

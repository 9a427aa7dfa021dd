"""The fleet as the planner sees it: what Slurm shows of each node, beside what the manifest pins for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Final

from slurm_gsp.campaign.model import FleetNode
from slurm_gsp.manifest.match import Assignment, NodeFacts
from slurm_gsp.manifest.model import Manifest
from slurm_gsp.slurm.fleet import SeenNode

IGNORED_FEATURES: Final = ("driver-*",)
"""Features that say what is installed: no hardware, so no variant."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Where blocks come from, and whether they are variants too.

    ``block_of`` (topology.conf) wins over ``block_feature``, a pattern for the feature that names the block.
    ``variant_by_block`` asks for a canary in every block: where a block is a rack or one supplier's delivery.
    """

    block_of: Mapping[str, str] = field(default_factory=dict)
    block_feature: str | None = None
    variant_by_block: bool = False
    ignored_features: tuple[str, ...] = IGNORED_FEATURES


def node_facts(seen: Sequence[SeenNode]) -> tuple[NodeFacts, ...]:
    """The nodes as a manifest's matchers ask about them."""
    return tuple(NodeFacts(node.state.name, node.state.partitions, node.features, node.gres) for node in seen)


def as_fleet(
    seen: Sequence[SeenNode], manifest: Manifest, assigned: Assignment, topology: Topology | None = None
) -> tuple[FleetNode, ...]:
    """The planner's nodes."""
    topology = topology or Topology()
    profiles = dict(assigned.by_node)
    pins = {profile.name: profile.driver for profile in manifest.profiles}
    ignored = topology.ignored_features + ((topology.block_feature,) if topology.block_feature else ())

    @cache
    def hardware(features: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(f for f in set(features) if not any(fnmatchcase(f, p) for p in ignored)))

    @cache
    def named_block(features: tuple[str, ...]) -> str | None:
        fit = sorted(f for f in features if fnmatchcase(f, topology.block_feature or ""))
        return fit[0] if fit else None

    fleet = []
    for node in seen:
        state = node.state
        profile = profiles.get(state.name)
        block = topology.block_of.get(state.name) or named_block(node.features)
        parts = [profile or "-", _gpus(node.gres), ",".join(hardware(node.features))]
        if topology.variant_by_block:
            parts.append(block or "")
        fleet.append(
            FleetNode(
                name=state.name,
                profile=profile,
                variant=" ".join(filter(None, parts)),
                partitions=state.partitions,
                block=block,
                states=state.states,
                reason=state.reason,
                reason_user=state.reason_user,
                reservations=node.reservations,
                driver=node.driver,
                pinned=pins[profile] if profile else None,
                busy_until=node.busy_until,
            )
        )
    return tuple(fleet)


def _gpus(gres: Sequence[str]) -> str:
    """GPU types and counts, as Slurm writes them."""
    return ",".join(sorted(one for one in gres if one.partition(":")[0] == "gpu"))

"""A node says what it found of itself in its own Slurm record: one read, and at most one update.

The health check uses this too, so only the standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from slurm_gsp.core.admission import with_feature
from slurm_gsp.core.published import DRIVER_KEY, Proof, merge_published, read_published
from slurm_gsp.slurm.client import Features, Field, NodeState, RecordClient

FIELDS: Final[Mapping[str, Field]] = {"extra": "extra", "comment": "comment"}
"""Where ``publish`` in ``[verify]`` sends it; with anything else nothing is told."""


def values_of(proof: Proof, loaded: str | None) -> dict[str, str]:
    """What is told of a proof: it, and the driver that is loaded; empty where none is."""
    return {DRIVER_KEY: loaded or "", **proof.published()}


def publish(  # noqa: PLR0913 - to whom, where and what
    client: RecordClient,
    node: str,
    where: str,
    values: Mapping[str, str],
    *,
    gone: Collection[str] = (),
    seen: NodeState | None = None,
    feature: str | None = None,
) -> bool:
    """Put these values into the node's record, and take the keys that are ``gone`` out of it.

    False: it says so already, or is not to be told. ``seen`` is the record where it was just read.
    ``feature`` is the one of ours that the node has, empty for none; None leaves its features alone.
    SlurmError where Slurm cannot be told; ValueError where the record has no room for them, or the site keeps
    something in it that cannot be written back.
    """
    field = FIELDS.get(where)
    if field is None:
        return False
    state = seen or client.node(node)
    before = state.extra if field == "extra" else state.comment
    told = read_published(before)
    features = None if feature is None else _changed(state.features, feature)
    says_so = told.keys().isdisjoint(gone) and all(told.get(key) == value for key, value in values.items())
    if says_so and features is None:
        return False
    text = merge_published(before, values, gone)
    if features is None:
        client.annotate(node, field, text)
    else:
        client.annotate(node, field, text, features)
    return True


def _changed(features: Features, ours: str) -> Features | None:
    """The features with this one of ours; None where nothing changes."""
    fresh = Features(with_feature(features.available, ours), with_feature(features.active, ours))
    return None if fresh == features else fresh

"""A node says what it found of itself in its own Slurm record: one read, and at most one update.

The health check uses this too, so only the standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from slurm_gsp.core.published import DRIVER_KEY, Proof, merge_published, read_published
from slurm_gsp.slurm.client import Field, SlurmClient

FIELDS: Final[Mapping[str, Field]] = {"extra": "extra", "comment": "comment"}
"""Where ``publish`` in ``[verify]`` sends it; with anything else nothing is told."""


def values_of(proof: Proof, loaded: str | None) -> dict[str, str]:
    """What is told of a proof: it, and the driver that is loaded; empty where none is."""
    return {DRIVER_KEY: loaded or "", **proof.published()}


def publish(client: SlurmClient, node: str, where: str, values: Mapping[str, str]) -> bool:
    """Put these values into the node's record; False: they are there already, or are not to be told.

    SlurmError where Slurm cannot be told; ValueError where the record has no room for them, or the site keeps
    something in it that cannot be written back.
    """
    field = FIELDS.get(where)
    if field is None:
        return False
    state = client.node(node)
    before = state.extra if field == "extra" else state.comment
    told = read_published(before)
    if all(told.get(key) == value for key, value in values.items()):
        return False
    client.annotate(node, field, merge_published(before, values))
    return True

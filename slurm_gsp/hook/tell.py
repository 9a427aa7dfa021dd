"""A node keeps its own record in Slurm true: one update when what it runs, or how it is, has changed.

A failure to tell costs nothing but the telling: it is tried again, and drains or refuses nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from slurm_gsp.config import Config
from slurm_gsp.core.admission import feature_of
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Diagnosis, Verdict
from slurm_gsp.core.published import BOOTED_KEY, DRIVER_KEY, TUPLE_KEYS, time_text
from slurm_gsp.core.version_tuple import version_tuple
from slurm_gsp.hook.memory import Memory, Places
from slurm_gsp.node.journal import Places as Journals
from slurm_gsp.node.journal import load_pin
from slurm_gsp.node.publish import FIELDS, publish
from slurm_gsp.slurm.client import NodeState, RecordClient

CHECK_S: Final = 86400.0
"""How often a record is read although nothing changed: slurmctld may have lost it, or others changed it."""
NO_PROOF: Final[Mapping[str, str]] = MappingProxyType({})


class Teller:
    """What this node tells of itself, within one run of the health check."""

    def __init__(self, config: Config, client: RecordClient, node: str, places: Places) -> None:
        self._config = config
        self._client = client
        self._node = node
        self._places = places

    @property
    def silent(self) -> bool:
        """Whether the configuration says that nothing is told."""
        return self._config.verify.publish not in FIELDS

    def values(self, past: Memory, evidence: Evidence, diagnosis: Diagnosis) -> dict[str, str]:
        """What a look says; nothing of a node without GPUs."""
        if diagnosis.verdict is Verdict.NO_GPU:
            return {}
        pinned = load_pin(Journals(self._places.lib)) if self._places.pin.exists() else None
        return version_tuple(evidence, diagnosis, pinned.target if pinned else "", past.boot_id)

    def plan(self, past: Memory, now: float, conf: int) -> None:
        """The first telling of a boot, and a look at the record after slurm.conf changed, are spread."""
        if past.next_tell and past.conf == conf:
            return
        past.conf = conf
        past.next_tell = past.next_check = _spread_out(now, self._config.verify.publish_spread_s)

    def at(self, past: Memory, values: Mapping[str, str]) -> float:
        """When Slurm is to be told, or asked, next."""
        return past.next_tell if values != past.told else max(past.next_tell, past.next_check)

    def send(  # noqa: PLR0913 - a look, and what is known of it
        self,
        past: Memory,
        values: Mapping[str, str],
        now: float,
        *,
        booted: datetime | None,
        seen: NodeState | None = None,
        proof: Mapping[str, str] = NO_PROOF,
    ) -> None:
        """One update, if the record does not say so already. SlurmError, ValueError."""
        when = {BOOTED_KEY: time_text(booted)} if booted is not None and values else {}
        ours = TUPLE_KEYS if values else frozenset()
        told = {**{key: value for key, value in proof.items() if key not in ours}, **values, **when}
        gone = TUPLE_KEYS - told.keys()
        # What could not be read counts as what is not there: it keeps new jobs away, and nothing else.
        kept = self._config.verify.feature
        feature = feature_of(values.get(DRIVER_KEY, "")) if kept else None
        where = self._config.verify.publish
        publish(self._client, self._node, where, told, gone=gone, seen=seen, feature=feature)
        past.told = dict(values)
        jitter = self._config.health.jitter
        # slurmctld forgets features, not Extra, whenever it reads slurm.conf
        check_s = min(CHECK_S, self._config.health.full_interval_s) if kept else CHECK_S
        past.next_check = now + check_s * random.uniform(1 - jitter, 1)  # noqa: S311 - no secret


def _spread_out(now: float, seconds: float) -> float:
    """A moment within so many seconds; whole, so that a look at that time is not one too early."""
    return float(math.floor(now + random.uniform(0, seconds)))  # noqa: S311 - no secret

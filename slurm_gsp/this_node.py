"""Who this node is, and what the configuration says of it."""

from __future__ import annotations

import os
import platform

from slurm_gsp.collect.collect import Expectation
from slurm_gsp.config import Config
from slurm_gsp.core.evidence import Pin
from slurm_gsp.core.reading import Known

INFORMATION_S = 3.0
"""Deadline of reading the driver's own information files, whose read enters the driver."""


def node_name() -> str:
    """Slurm's name for this node, which slurmd gives to every hook; else the host's short name."""
    return os.environ.get("SLURMD_NODENAME") or platform.node().partition(".")[0]


def expectation(config: Config, name: str) -> Expectation:
    """What a look at this node starts from."""
    expected = config.node.expected_gpus
    return Expectation(
        hostname=name,
        machine=platform.machine(),
        expected_gpus=None if expected is None else Known(expected, "configuration"),
        gres_files=config.node.gres_conf,
        pin=Pin(config.pin.driver, config.pin.flavour, "configuration"),
        information_s=INFORMATION_S,
    )

"""Who this node is, and what the configuration and its pin say of it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

from slurm_gsp.collect.collect import Expectation
from slurm_gsp.config import Config
from slurm_gsp.core.evidence import Pin
from slurm_gsp.core.reading import Known

if TYPE_CHECKING:  # most nodes never need it
    from slurm_gsp.core.pinned import Pinned

INFORMATION_S = 3.0
"""Deadline of reading the driver's own information files, whose read enters the driver."""
STATE: Final = Path("/var/lib/slurm-gsp")
"""Where the last realignment left its pin (node/journal.py)."""


def node_name() -> str:
    """Slurm's name for this node, which slurmd gives to every hook; else the host's short name."""
    return os.environ.get("SLURMD_NODENAME") or platform.node().partition(".")[0]


def expectation(config: Config, name: str, state: Path = STATE) -> Expectation:
    """What a look at this node starts from: its configuration, and for what that leaves open its pin."""
    pin = Pin(config.pin.driver, config.pin.flavour, "configuration")
    gpus, gpus_source = config.node.expected_gpus, "configuration"
    pinned = _pinned(state)
    if pinned is not None:
        source = f"{state}/pin.json"
        if config.pin.driver is None and config.pin.flavour is None:
            pin = Pin(pinned.driver, pinned.flavour, source)
        if gpus is None:
            gpus, gpus_source = pinned.gpus, source
    return Expectation(
        hostname=name,
        machine=platform.machine(),
        expected_gpus=None if gpus is None else Known(gpus, gpus_source),
        gres_files=config.node.gres_conf,
        pin=pin,
        information_s=INFORMATION_S,
    )


def _pinned(state: Path) -> Pinned | None:
    if not (state / "pin.json").exists():
        return None
    from slurm_gsp.node.journal import Places, load_pin  # noqa: PLC0415 - see above

    return load_pin(Places(state))

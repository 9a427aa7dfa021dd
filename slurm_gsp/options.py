"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from slurm_gsp.config import DEFAULT_PATH

NODE_CONFIG: Final = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(DEFAULT_PATH),
    show_default=True,
    help="Configuration file; defaults apply where it is missing.",
)
"""For commands that look at this node."""
CONFIG: Final = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(DEFAULT_PATH),
    envvar="SLURM_GSP_CONFIG",
    show_default=True,
    show_envvar=True,
    help="Configuration file; defaults apply where it is missing.",
)
"""For commands that look at the fleet: a rehearsal has a configuration of its own."""

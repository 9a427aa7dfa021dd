"""Options that several commands have."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

import click

from slurm_gsp.config import DEFAULT_PATH

_config: Final = partial(
    click.option,
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path(DEFAULT_PATH),
    show_default=True,
    help="Configuration file; defaults apply where it is missing.",
)
NODE_CONFIG: Final = _config()
"""For commands that look at this node."""
CONFIG: Final = _config(envvar="SLURM_GSP_CONFIG", show_envvar=True)
"""For commands that look at the fleet: a rehearsal has a configuration of its own."""

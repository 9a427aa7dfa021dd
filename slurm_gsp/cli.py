"""The command ``slurm-gsp``: each subcommand is loaded when it is called, for some need a lot."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Final

import click

from slurm_gsp import __version__

WHERE: Final = {
    "abort": "campaign_cli:abort",
    "approve": "campaign_cli:approve_command",
    "bmc": "bmc_cli:bmc",
    "check-config": "look_cli:check_config",
    "fleet": "fleet_cli:fleet",
    "history": "campaign_cli:history",
    "inspect": "look_cli:inspect_command",
    "lab": "lab.cli:lab",
    "lift": "campaign_cli:lift",
    "manifest": "manifest_cli:manifest",
    "pause": "campaign_cli:pause",
    "plan": "plan_cli:plan",
    "realign": "node_cli:realign_command",
    "record": "look_cli:record_command",
    "reload": "node_cli:reload_command",
    "resume": "campaign_cli:resume",
    "rollback": "campaign_cli:rollback",
    "run": "campaign_cli:run",
    "schedule": "campaign_cli:schedule",
    "stage": "node_cli:stage_command",
    "status": "campaign_cli:status",
    "step": "campaign_cli:step",
    "verify": "verify_cli:verify",
}
"""Where each subcommand is, below slurm_gsp."""


class Commands(MutableMapping[str, click.Command]):
    """The subcommands by name, each imported when it is asked for."""

    def __init__(self) -> None:
        self._added: dict[str, click.Command] = {}

    def __getitem__(self, name: str) -> click.Command:
        if name not in self._added:
            module, _, attribute = WHERE[name].partition(":")
            self[name] = getattr(import_module(f"slurm_gsp.{module}"), attribute)
        return self._added[name]

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._added[name] = command

    def __delitem__(self, name: str) -> None:
        del self._added[name]

    def __iter__(self) -> Iterator[str]:
        return iter(WHERE)

    def __len__(self) -> int:
        return len(WHERE)


@click.group(commands=Commands(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="slurm-gsp")
def main() -> None:
    """Keep the NVIDIA GPU nodes of a Slurm cluster on one driver version."""


if __name__ == "__main__":
    main()

"""The reboot itself."""

from __future__ import annotations

from slurm_gsp import process
from slurm_gsp.config import Config
from slurm_gsp.node.failing import StepError
from slurm_gsp.node.host import COMMAND_S, Host
from slurm_gsp.node.steps import Log, announce


def reboot(host: Host, config: Config, log: Log) -> None:
    """Reboot as the configuration says. StepError where that command fails."""
    announce(log, f"{host.node}: rebooting")
    try:
        done = host.run(config.realign.reboot, deadline_s=COMMAND_S)
    except process.ProcessError as error:
        raise StepError(str(error)) from error
    if done.rc != 0:
        raise StepError(f"{(done.stderr or done.stdout).strip()[-200:]} (exit status {done.rc})")

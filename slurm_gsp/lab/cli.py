"""`slurm-gsp lab`: start a lab, break its nodes, look at them, take it down."""

import subprocess
from pathlib import Path
from typing import Any

import click

from slurm_gsp.lab import faults, golden, releases
from slurm_gsp.lab.cluster import DEFAULT_DIR, VARIANTS, Lab, lacks
from slurm_gsp.lab.procs import LabError

_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_DIR,
    show_default=True,
    help="The lab's folder.",
)
_FREE_ARGUMENTS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


class _LabGroup(click.Group):
    """A group whose commands say a LabError in one line and exit 1."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except LabError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_LabGroup)
def lab() -> None:
    """A real Slurm with GPU nodes that aren't there: try, rehearse, test."""


@lab.command()
@_directory
@click.option("--nodes", type=click.IntRange(1, 40), default=4, show_default=True, help="How many nodes.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="A line for slurm.conf; repeatable."
)
@click.option(
    "--variants",
    default="h100",
    show_default=True,
    callback=lambda _context, _option, value: tuple(filter(None, value.split(","))),
    help=f"GPUs of the nodes, shared out in blocks: some of {','.join(VARIANTS)}.",
)
@click.option("--interval", type=click.IntRange(1), default=5, show_default=True, help="HealthCheckInterval.")
@click.option(
    "--hooks/--no-hooks", default=True, show_default=True, help="Run the health check, prolog and epilog."
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=golden.DEFAULT_CACHE,
    show_default=True,
    help="Where the installed driver packages and the suites are kept for the next time.",
)
@click.option(
    "--suite",
    type=click.Choice(releases.SUITES),
    callback=lambda _context, _option, value: value or releases.HOST,
    help="Run the Slurm of this Debian suite, not the host's; the first time, debootstrap fetches it.",
)
def up(directory: Path, **options: Any) -> None:
    """Start a cluster of virtual GPU nodes."""
    wrong = [line for line in options["settings"] if "=" not in line]
    if wrong:
        raise click.BadParameter(f"{wrong[0]!r} is not KEY=VALUE", param_hint="--set")
    unknown = [name for name in options["variants"] if name not in VARIANTS]
    if unknown or not options["variants"]:
        raise click.BadParameter(f"take some of {', '.join(VARIANTS)}", param_hint="--variants")
    started = Lab.up(directory, **options)
    nodes = len(started.nodes)
    click.echo(f"{nodes} nodes are up: n1 to n{nodes}, ports from {started.port}.")
    where = "" if directory == DEFAULT_DIR else f" --dir {directory}"
    use = f"slurm-gsp lab slurm{where} -- sinfo" if started.suite else f"export SLURM_CONF={started.conf}"
    click.echo(f"Use it:    {use}")
    click.echo(f"Break it:  slurm-gsp lab fault{where} n1 unattended-upgrade")
    click.echo(f"End it:    slurm-gsp lab down{where}")


@lab.command()
@_directory
@click.argument("node")
@click.argument("fault")
def fault(directory: Path, node: str, fault: str) -> None:
    """Break NODE in the way FAULT names (see `lab faults`), or `heal` it."""
    Lab.open(directory).fault(node, fault)
    click.echo(f"{node}: {faults.FAULTS[fault].description}")


@lab.command("faults")
def list_faults() -> None:
    """List the faults that a node can be given."""
    width = max(map(len, faults.FAULTS))
    for name, entry in faults.FAULTS.items():
        code = f" -> {entry.code}" if entry.code else ""
        click.echo(f"{name:{width}}  {entry.description}{code}")


@lab.command()
@_directory
def show(directory: Path) -> None:
    """Show reasons, node states and what each node's driver layers are."""
    opened = Lab.open(directory)
    click.echo(opened.slurm(["sinfo", "-R", "-o", "%60E %9u %19H %N"], check=False).stdout)
    for node in opened.nodes:
        try:
            layers = node.layers()
        except (LabError, OSError) as error:
            layers = {"not readable": str(error)}
        click.secho(f"{node.name}  {node.state}", bold=True)
        for layer, value in layers.items():
            click.echo(f"  {layer:15} {value}")


def _argv(command: tuple[str, ...]) -> list[str]:
    """A command's words without the `--` that may stand before them."""
    words = list(command[1:] if command[0] == "--" else command)
    if not words:
        raise click.UsageError("no command given")
    return words


@lab.command("exec", context_settings=_FREE_ARGUMENTS)
@_directory
@click.argument("node")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def execute(ctx: click.Context, directory: Path, node: str, command: tuple[str, ...]) -> None:
    """Run COMMAND as root inside NODE."""
    ctx.exit(subprocess.run(Lab.open(directory).node(node).command(_argv(command)), check=False).returncode)


@lab.command(context_settings=_FREE_ARGUMENTS)
@_directory
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def slurm(ctx: click.Context, directory: Path, command: tuple[str, ...]) -> None:
    """Run a Slurm COMMAND (sinfo, srun, scontrol, ...) against the lab."""
    opened = Lab.open(directory)
    argv = opened.slurm_command(_argv(command))
    ctx.exit(subprocess.run(argv, env=opened.environment, check=False).returncode)


@lab.command()
@_directory
@click.argument("node")
def reboot(directory: Path, node: str) -> None:
    """Reboot NODE as its power button does (Slurm did not ask for it)."""
    Lab.open(directory).node(node).reboot()
    click.echo(f"{node} has rebooted")


@lab.command()
@_directory
@click.argument("action", type=click.Choice(["stop", "start"]))
def ctld(directory: Path, action: str) -> None:
    """Stop or start slurmctld."""
    opened = Lab.open(directory)
    if action == "stop":
        opened.ctld_stop()
    else:
        opened.ctld_start()


@lab.command()
@_directory
def down(directory: Path) -> None:
    """Stop everything that the lab started, also what a crash left, and remove its folder."""
    Lab.open(directory).down()
    click.echo(f"{directory} is gone")


@lab.command()
@_directory
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    default=golden.DEFAULT_CACHE,
    show_default=True,
    help="Where the installed driver packages are kept for the next time.",
)
@click.option("--keep", is_flag=True, help="Leave the lab as it is at the end, to look around in it.")
def demo(directory: Path, cache: Path, keep: bool) -> None:
    """Show on a lab of its own what the hooks do: three nodes break, a job survives (under a minute)."""
    from slurm_gsp.lab import demo as acts  # noqa: PLC0415 - what it imports is needed here only

    acts.run(directory, cache=cache, keep=keep)


@lab.command()
@click.pass_context
def check(ctx: click.Context) -> None:
    """Say what this host lacks for a lab."""
    missing = lacks()
    for line in missing:
        click.echo(f"lacks {line}")
    if not missing:
        click.echo("nothing is missing")
    ctx.exit(1 if missing else 0)


if __name__ == "__main__":
    lab()

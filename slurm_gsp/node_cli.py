"""The commands ``slurm-gsp realign``, ``stage`` and ``reload``: the maintenance of this node by hand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from slurm_gsp.config import DEFAULT_PATH, Config, ConfigError, load_config
from slurm_gsp.core.operation import Kind
from slurm_gsp.node.failing import Failure, RefusedError, StepError
from slurm_gsp.node.host import Host, this_host
from slurm_gsp.node.in_use import check_unused, facts_of
from slurm_gsp.node.lock import BusyError, only_one
from slurm_gsp.node.plan import as_text
from slurm_gsp.node.realign import dry_run as plan_only
from slurm_gsp.node.realign import log_of, realign, reboot_realigned, stage
from slurm_gsp.node.reload import LOG, in_the_way, make_plan
from slurm_gsp.node.reload import reload as reload_driver
from slurm_gsp.node.steps import Log, StepFailedError
from slurm_gsp.node.target import Choice, Target, by_hand
from slurm_gsp.slurm.on_node import ScontrolOfNode, SlurmOfNode
from slurm_gsp.this_node import node_name


@dataclass(frozen=True, slots=True)
class Effects:
    """What the commands reach outside; tests hand in their own."""

    config: Callable[[], Config] = lambda: load_config(DEFAULT_PATH)
    host: Callable[[Config], Host] = lambda config: this_host(node_name(), config)
    client: Callable[[Config], SlurmOfNode] = lambda config: ScontrolOfNode(
        scontrol=config.slurm.scontrol,
        deadline_s=config.deadlines.slurm_s,
        conf=config.slurm.conf or os.environ.get("SLURM_CONF"),
    )


_profile = click.option(
    "--profile",
    metavar="NAME",
    help="Take this profile, whatever Slurm says this node is.",
)
_dry_run = click.option("--dry-run", is_flag=True, help="Print all steps with their scripts; change nothing.")


@click.command("realign")
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    help="Realign to this manifest, instead of the configured one.",
)
@click.option(
    "--to",
    "direction",
    type=click.Choice(["current", "previous"]),
    default="current",
    show_default=True,
    help="The manifest itself, or the one before it.",
)
@_profile
@_dry_run
@click.option("--reboot", "with_reboot", is_flag=True, help="Reboot at the end.")
@click.pass_context
def realign_command(context: click.Context, /, **values: Any) -> None:
    """Bring this node onto the pinned driver: packages, modules, firmware, all as one.

    Refused while Slurm has a job here, or could start one. What failed can be repeated. The modules that are
    loaded change with the next boot; without --reboot that is left to you.

    Exit code: 0, or 1 where something was refused, stands against it, or failed.
    """
    asked = _Realign(**values)
    with _refusals():
        here = _here(context)
        path = asked.manifest or Path(here.config.realign.manifest)
        kind = Kind.ROLLBACK if asked.direction == "previous" else Kind.REALIGN
        target = here.target(Choice(path, kind, asked.profile))
        if asked.dry_run:
            _show_plan(here, target)
        check_unused(here.client, here.host.node)
        with only_one(here.host):
            log = log_of(here.host, target.operation, click.echo)
            _end(realign(here.host, here.config, target, log), log)
            if not asked.with_reboot:
                click.echo("not rebooted: the new modules are loaded with the next boot")
            else:
                _end(reboot_realigned(here.host, here.config, log), log)


@click.command("stage")
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@_profile
@click.pass_context
def stage_command(context: click.Context, manifest: Path | None, profile: str | None) -> None:
    """Fetch the packages of MANIFEST ahead (default: the configured one), while jobs run.

    Nothing that is installed changes. A realignment to this manifest needs no repository afterwards.
    """
    with _refusals():
        here = _here(context)
        path = manifest or Path(here.config.realign.manifest)
        target = here.target(Choice(path, profile=profile))
        log = Log(here.host.logs / f"stage-{target.manifest}.log", click.echo)
        log.open()
        try:
            stage(here.host, here.config, target, log)
        except StepFailedError as error:
            _end(error.failure, log)
        click.echo(f"staged: {target.pinned.target}, profile {target.profile.name}")


@click.command("reload")
@_dry_run
@click.pass_context
def reload_command(context: click.Context, dry_run: bool) -> None:
    """Unload the driver and load it again, without a reboot.

    Refused while Slurm has a job here, or could start one, and while any process has the driver open.

    Exit code: 0 where what runs is consistent afterwards, else 1.
    """
    with _refusals():
        here = _here(context)
        if dry_run:
            why = in_the_way(here.host)
            click.echo(as_text(make_plan(here.host, here.config), why))
            sys.exit(1 if why else 0)
        check_unused(here.client, here.host.node)
        with only_one(here.host):
            log = Log(here.host.logs / LOG, click.echo)
            _end(reload_driver(here.host, here.config, make_plan(here.host, here.config), log), log)
        click.echo("reloaded")


@dataclass(frozen=True, slots=True)
class _Realign:
    """The command line of ``realign``, as given."""

    manifest: Path | None
    direction: str
    profile: str | None
    dry_run: bool
    with_reboot: bool


@dataclass(frozen=True, slots=True)
class _Here:
    """This node, its configuration and its Slurm."""

    config: Config
    host: Host
    client: SlurmOfNode

    def target(self, choice: Choice) -> Target:
        """What to realign to; Slurm is asked for this node only where no profile was named."""
        facts = None if choice.profile is not None else facts_of(self.client, self.host.node)
        return by_hand(choice, self.config, facts, owner_uid=self.host.owner_uid)


def _here(context: click.Context) -> _Here:
    os.umask(0o022)  # what is written here is read, and installed, by root alone
    effects = context.find_object(Effects) or Effects()
    config = effects.config()
    return _Here(config, effects.host(config), effects.client(config))


@contextmanager
def _refusals() -> Iterator[None]:
    """Whatever is refused ends with its reasons on stderr and exit code 1."""
    try:
        yield
    except RefusedError as error:
        _fail(error.why)
    except ConfigError as error:
        _fail(error.errors)
    except (BusyError, StepError, OSError) as error:
        _fail([str(error)])


def _show_plan(here: _Here, target: Target) -> NoReturn:
    plan, against = plan_only(here.host, here.config, target)
    click.echo(as_text(plan, against))
    sys.exit(1 if against else 0)


def _end(failure: Failure | None, log: Log) -> None:
    """Go on after success only."""
    if failure is not None:
        _fail([failure.what, f"the log: {log.path}; the same command repeats all of it"])


def _fail(why: Iterable[str]) -> NoReturn:
    for line in why:
        click.echo(line, err=True)
    sys.exit(1)

"""The command ``slurm-gsp fleet``."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from slurm_gsp import options
from slurm_gsp.config import Config, ConfigError, load_config
from slurm_gsp.fleet.errors import FleetError
from slurm_gsp.process import begin
from slurm_gsp.slurm.ask import Begin
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.reading import Reading

if TYPE_CHECKING:  # loaded while Slurm answers, or not at all
    from slurm_gsp.fleet.model import FleetView, Node
    from slurm_gsp.fleet.view import Filters, Target
    from slurm_gsp.manifest.model import Manifest
    from slurm_gsp.redfish.sweep import Read
    from slurm_gsp.slurm.overview import Line

WIDTH: Final = 120
"""Columns of what is not printed to a terminal, which has no width of its own."""
_CLEAR: Final = "\x1b[H\x1b[2J"


def _columns() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@dataclass(frozen=True, slots=True)
class Effects:
    """What the command reaches outside; ``columns`` None: no terminal, ``read`` None: the real BMCs."""

    begin: Begin = begin
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], None] = time.sleep
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    read: Read | None = None
    columns: Callable[[], int | None] = _columns


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, as given."""

    manifest: Path | None
    partition: str
    profile: str
    code: str
    as_json: bool
    as_csv: bool
    full: bool
    watch: float | None
    holds: bool
    bmc: bool
    config_path: Path


@click.command()
@click.option(
    "--manifest",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Compare every node with its profile of this manifest.",
)
@click.option("--partition", default="", metavar="NAME", help="Only nodes of this partition.")
@click.option("--profile", default="", metavar="NAME", help="Only nodes of this profile of the manifest.")
@click.option("--code", default="", metavar="CODE", help="Only nodes with this fault, e.g. next-kernel.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--csv", "as_csv", is_flag=True, help="Print one line for each node.")
@click.option("--full", is_flag=True, help="Show long lists of nodes whole, instead of their first lines.")
@click.option("--watch", type=click.FloatRange(min=1), metavar="SECONDS", help="Look again and again.")
@click.option("--holds", is_flag=True, help="Also ask the ledger which nodes are held on an older pin.")
@click.option("--bmc", is_flag=True, help="Also ask BMCs over Redfish what they list, against --manifest.")
@options.CONFIG
@click.pass_context
def fleet(context: click.Context, /, **given: object) -> None:
    """Who runs what, who is odd, who is silent, and who took which node out.

    Asks Slurm twice, whatever the size of the cluster, and changes nothing. A node that has not said what it
    runs since it booted is silent: it is never counted as healthy. Exit code: 0 the fleet was shown, however
    it is; 1 it was not, since Slurm, say, does not answer; 2 wrong usage.
    """
    effects = context.obj if isinstance(context.obj, Effects) else Effects()
    options = Options(**given)  # type: ignore[arg-type]
    _check(options)
    try:
        if options.watch is not None:
            _watch(options, effects, options.watch)
        else:
            with _no_collector() if context.obj is None else nullcontext():
                _print(_look(options, effects))
    except FleetError as error:
        for line in error.errors:
            click.echo(line, err=True)
        sys.exit(1)


@contextmanager
def _no_collector() -> Iterator[None]:
    """For a process that ends with it: to look for garbage among 10,000 nodes is a tenth of a look's work."""
    gc.disable()
    yield
    gc.freeze()


def _check(options: Options) -> None:
    if options.manifest is None and (options.profile or options.bmc):
        which = "--profile" if options.profile else "--bmc"
        raise click.UsageError(f"{which} needs --manifest, which says what is pinned")
    if options.as_json and options.as_csv:
        raise click.UsageError("--json or --csv, not both")
    if options.bmc and options.watch is not None:
        raise click.UsageError("--bmc or --watch, not both: BMCs are not to be asked again and again")
    if options.code:
        from slurm_gsp.core.finding import FAULTS  # noqa: PLC0415 - only where it is needed

        if options.code not in FAULTS:
            raise click.UsageError(f"there is no fault code {options.code}: one of {', '.join(FAULTS)}")


def _watch(options: Options, effects: Effects, seconds: float) -> None:
    """Look until somebody ends it. While Slurm is away the last look stays, and is said to be the last one.

    FleetError where the very first look shows nothing: that may be a mistake of the command line.
    """
    shown = ""
    try:
        while True:
            errors: tuple[str, ...] = ()
            try:
                shown = _look(options, effects)
            except FleetError as error:
                if not shown:
                    raise
                errors = error.errors
            if effects.columns() is not None:
                _print(_CLEAR + shown)
            elif not errors:
                _print(shown)
            for line in errors:
                click.echo(f"{effects.clock():%H:%M:%S} UTC, no new look: {line}", err=True)
            effects.sleep(seconds)
    except KeyboardInterrupt:
        return


def _look(options: Options, effects: Effects) -> str:
    """One look, as it is to be printed."""
    try:
        config = load_config(options.config_path)
        manifest, held = _prepared(options, config)
        slurm = config.slurm
        reading = Reading(effects.begin, scontrol=slurm.scontrol, conf=slurm.conf or None)
        # these while Slurm answers
        from slurm_gsp.fleet.judge import Judge  # noqa: PLC0415
        from slurm_gsp.fleet.model import Beside  # noqa: PLC0415
        from slurm_gsp.fleet.text import as_text  # noqa: PLC0415
        from slurm_gsp.fleet.view import Filters, Target, fleet_view  # noqa: PLC0415

        at = effects.clock()
        judge = Judge(reading.reservations(), at)
        target = Target()
        if manifest is None:
            reading.nodes(judge.take)
        else:
            from slurm_gsp.fleet.target import target_of  # noqa: PLC0415

            lines: list[Line] = []

            def take(line: Line) -> None:
                judge.take(line)
                lines.append(line)

            reading.nodes(take)
            target = target_of(manifest, lines)
    except ConfigError as error:
        raise FleetError(error.errors) from error
    except SlurmError as error:
        raise FleetError([str(error)]) from error
    filters = Filters(options.partition, options.profile, options.code)
    _check_names(filters, judge.nodes, target)
    show = partial(fleet_view, judge.nodes, at, target=target, filters=filters)
    view = show(beside=Beside(held))
    if manifest is not None and options.bmc:
        view = show(beside=Beside(held, _out_of_band(manifest, view, config, effects)))
    if options.as_json or options.as_csv:
        from slurm_gsp.fleet.export import as_csv, as_json  # noqa: PLC0415 - only where it is asked for

        return as_json(view) if options.as_json else as_csv(view)
    return as_text(view, effects.columns() or WIDTH, full=options.full)


def _check_names(filters: Filters, nodes: Iterable[Node], target: Target) -> None:
    """A name that is mistaken must not look like a fleet without nodes."""
    if filters.profile and filters.profile not in target.pins:
        names = ", ".join(target.pins)
        raise FleetError([f"manifest {target.manifest} has no profile {filters.profile}: {names}"])
    if filters.partition and not any(filters.partition in node.partitions.split(",") for node in nodes):
        raise FleetError([f"Slurm shows no node in a partition {filters.partition}"])


def _prepared(options: Options, config: Config) -> tuple[Manifest | None, Mapping[str, str]]:
    """What is compared with besides what Slurm shows: the manifest, and which nodes the ledger holds."""
    # each only where it is asked for: the second is a database library
    manifest, held = None, {}
    if options.manifest is not None:
        from slurm_gsp.fleet.target import load_manifest  # noqa: PLC0415

        manifest = load_manifest(options.manifest)
    if options.holds:
        from slurm_gsp.fleet.holds import held_nodes  # noqa: PLC0415

        held = held_nodes(config.campaign.ledger)
    return manifest, held


def _out_of_band(manifest: Manifest, view: FleetView, config: Config, effects: Effects) -> Mapping[str, str]:
    """What BMCs list. A warning first where nothing proves that they are the ones who answer."""
    from slurm_gsp.fleet.out_of_band import out_of_band  # noqa: PLC0415 - only where it is asked for

    if not config.redfish.verify:
        click.echo("[redfish] verify = false: nothing proves that these answers are the BMCs'", err=True)
    profile_of = {node.name: node.profile for node in view.nodes}
    return out_of_band(manifest, profile_of, config.redfish, effects.environ, effects.read)


def _print(text: str) -> None:
    click.echo(text, nl=False)  # flushes

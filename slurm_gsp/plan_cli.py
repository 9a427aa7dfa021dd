"""The command ``slurm-gsp plan``."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from pathlib import Path
from typing import Final, NoReturn, TypeVar
from zoneinfo import ZoneInfo

import click
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy.engine import make_url

from slurm_gsp import options
from slurm_gsp.campaign.fleet import Topology, as_fleet, node_facts
from slurm_gsp.campaign.ledger import Ledger, LedgerError
from slurm_gsp.campaign.model import (
    CHANGE_CLASSES,
    ChangeClass,
    FleetNode,
    Heading,
    Limits,
    Plan,
    PlanError,
    PlannedProfile,
    Wave,
    Window,
)
from slurm_gsp.campaign.plan import plan as make_plan
from slurm_gsp.campaign.planfile import dump_plan
from slurm_gsp.campaign.windows import parse_window, window_text
from slurm_gsp.config import ConfigError, load_config
from slurm_gsp.core.operation import DIGEST_LENGTH, reason_fits
from slurm_gsp.manifest.load import Loaded, load
from slurm_gsp.manifest.match import Assignment, assign, folded
from slurm_gsp.manifest.parse import ManifestError
from slurm_gsp.manifest.sign import FileError, SignatureError
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.fleet import expand, parse_fleet, parse_topology, read_fleet
from slurm_gsp.slurm.scontrol import Run

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
_BAR: Final = 48
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Effects:
    """What the command reaches outside; ``run`` None: the real processes."""

    run: Run | None = None
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, as given."""

    manifest: Path
    change_class: str
    out: Path | None
    force: bool
    as_json: bool
    campaign: str | None
    max_out: int | None
    max_percent: float | None
    per_block: int | None
    canary: int | None
    growth: float | None
    reserve: str | None
    window: tuple[str, ...]
    tz: str
    except_: tuple[str, ...]
    soak: str | None
    slot: str
    deadline: str | None
    topology: Path | None
    block_feature: str | None
    canary_per_block: bool
    nodes: str | None
    include_drained: str | None
    hold: bool
    allowed_signers: Path | None
    config_path: Path


@dataclass(slots=True)
class _Problems:
    """Mistakes on the command line, so that all are told at once."""

    found: list[str] = field(default_factory=list)

    def take(self, option: str, read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (ValueError, OSError, SlurmError) as error:
            self.found.append(f"{option}: {error}")
            return otherwise


@click.command("plan")
@click.argument("manifest", type=click.Path(path_type=Path))
@click.option(
    "--class",
    "change_class",
    type=click.Choice(sorted(CHANGE_CLASSES)),
    default="routine",
    show_default=True,
    help="Limits and number of approvals to start from; the options below change them one by one.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The plan file.  [default: CAMPAIGN.plan.json]")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan file instead; write it only to --out.")
@click.option("--campaign", metavar="NAME", help="Name of the campaign.  [default: the manifest's]")
@click.option("--max-out", type=int, metavar="N", help="Most nodes of a partition that may be out at once.")
@click.option(
    "--max-percent",
    type=float,
    metavar="P",
    help="The same in percent of the partition. One alone replaces both of the class.",
)
@click.option("--per-block", type=int, metavar="N", help="Most nodes of a topology block.")
@click.option("--canary", type=int, metavar="N", help="Canaries of each hardware variant.")
@click.option("--growth", type=float, metavar="F", help="Each wave is F times as large as the one before.")
@click.option(
    "--reserve",
    type=click.Choice(["all", "wave"]),
    help="All nodes when the plan is scheduled, or a wave in turn once it is open.  [default: the class's]",
)
@click.option(
    "--window", multiple=True, metavar="'DAYS FROM-TO'", help="e.g. 'Mon-Fri 20:00-06:00'; repeatable."
)
@click.option(
    "--except", "except_", multiple=True, metavar="YYYY-MM-DD", help="No slot on this day; repeatable."
)
@click.option(
    "--tz", default="UTC", show_default=True, help="Time zone of windows, days and what is printed."
)
@click.option("--soak", metavar="TIME", help="Between the last slot of a wave and the next wave, e.g. 90m.")
@click.option("--slot", default="30m", show_default=True, metavar="TIME", help="What one node is out for.")
@click.option("--deadline", metavar="WHEN", help="No slot ends later; ISO 8601, in --tz unless it says.")
@click.option("--topology", type=click.Path(path_type=Path), help="topology.conf: leaf switches are blocks.")
@click.option("--block-feature", metavar="GLOB", help="The feature that names a node's block, e.g. 'rack-*'.")
@click.option("--canary-per-block", is_flag=True, help="A block is a variant too: a canary in each.")
@click.option("--nodes", metavar="HOSTLIST", help="Plan these nodes alone, e.g. 'gpu[01-16]'.")
@click.option(
    "--include-drained",
    metavar="HOSTLIST",
    help="Also plan these although others drained them; they are put back as they were.",
)
@click.option("--hold", is_flag=True, help="Its nodes stay on MANIFEST until `slurm-gsp lift`.")
@click.option("--allowed-signers", type=click.Path(path_type=Path), help="Refuse an unsigned manifest.")
@options.CONFIG
@click.pass_context
def plan(context: click.Context, /, **given: object) -> None:
    """Plan how the fleet gets onto MANIFEST: a canary of every hardware variant, then waves.

    Asks Slurm three times and changes nothing there. Exit code: 0, or 1 when there is no plan (every
    reason is printed).
    """
    effects = context.obj if isinstance(context.obj, Effects) else Effects()
    _plan(Options(**given), effects)  # type: ignore[arg-type]


def _plan(options: Options, effects: Effects) -> None:
    problems = _Problems()
    limits, slot_s = _limits(options, problems)
    topology = _topology(options, problems)
    loaded = _manifest(options, problems)
    name = options.campaign or (loaded.manifest.name if loaded else "campaign")
    if not _NAME.fullmatch(name):
        problems.found.append(f"--campaign: {name!r} is not up to 40 letters, digits, '_', '.' and '-'")
    elif loaded is not None and not _names_fit(name, loaded):
        problems.found.append(
            f"--campaign: {name!r} and the manifest's name are too long together for a Reason"
        )
    asked = problems.take("--nodes", lambda: _names(options.nodes), None)
    taken = problems.take("--include-drained", lambda: _names(options.include_drained), None) or frozenset()
    out = options.out or (None if options.as_json else Path(f"{name}.plan.json"))
    if out is not None and out.exists() and not options.force:
        problems.found.append(f"--out: {out} is there already; --force writes over it")
    now = effects.clock().replace(microsecond=0)
    checked = make_plan((), limits, now, slot_s)  # what is wrong whatever the fleet is
    if isinstance(checked, PlanError):
        problems.found += checked.errors
    if problems.found or loaded is None:
        _fail(problems.found)
    fleet = _look(options, effects, loaded, topology, now)
    unknown = sorted(((asked or frozenset()) | taken) - {node.name for node in fleet})
    if unknown:
        _fail([f"Slurm knows no node {', '.join(unknown)}"])
    held = _held(options, loaded)
    fleet = tuple(
        replace(
            node,
            wanted=asked is None or node.name in asked,
            take=node.name in taken,
            held=held.get(node.name, ""),
        )
        for node in fleet
    )
    heading = replace(_heading(name, loaded, CHANGE_CLASSES[options.change_class]), hold=options.hold)
    made = make_plan(fleet, limits, now, slot_s, heading)
    if isinstance(made, PlanError):
        _fail(made.errors)
    none_of = not made.waves and any(node.why_not(now) is None for node in fleet)
    if options.as_json and not none_of:
        click.echo(dump_plan(made), nl=False)
    else:
        _print(made, ZoneInfo(limits.time_zone))
    if none_of:
        _fail(["no node can be placed within these limits: no plan is written"])
    if out is not None:
        _write(out, dump_plan(made), options.force)
        click.echo(f"{out}: written, {made.digest}", err=options.as_json)


def _held(options: Options, loaded: Loaded) -> dict[str, str]:
    """Which nodes stay on an older pin, by the ledger; without a ledger, none was ever rolled back."""
    url = load_config(options.config_path).campaign.ledger
    file = make_url(url).database if url.startswith("sqlite:") else None
    if file is not None and not Path(file).exists():
        return {}
    target = f"{loaded.manifest.name}@{loaded.source.digest[:DIGEST_LENGTH]}"
    try:
        with closing(Ledger(url, "plan")) as ledger:
            holds = ledger.holds()
    except LedgerError as error:
        click.echo(f"{error}\nwhich nodes are held on an older pin is not known", err=True)
        return {}
    return {
        hold.node: f"held at {hold.manifest} by {hold.campaign}; slurm-gsp lift {hold.node}"
        for hold in holds
        if hold.manifest != target
    }


def _names(hostlist: str | None) -> frozenset[str] | None:
    return None if hostlist is None else frozenset(expand(hostlist))


def _names_fit(campaign: str, loaded: Loaded) -> bool:
    manifests = (loaded.manifest, loaded.previous)
    return all(reason_fits(campaign, manifest.name) for manifest in manifests if manifest)


def _heading(name: str, loaded: Loaded, change_class: ChangeClass) -> Heading:
    before = {profile.name: profile.driver for profile in loaded.previous.profiles} if loaded.previous else {}
    return Heading(
        campaign=name,
        manifest=loaded.manifest.name,
        manifest_digest=loaded.source.digest,
        change_class=change_class.name,
        approvals=change_class.approvals,
        previous=loaded.previous.name if loaded.previous else None,
        previous_digest=loaded.previous_source.digest if loaded.previous_source else "",
        profiles=tuple(
            PlannedProfile(profile.name, profile.driver, profile.gpus, before.get(profile.name))
            for profile in loaded.manifest.profiles
        ),
    )


def _limits(options: Options, problems: _Problems) -> tuple[Limits, int]:
    preset = CHANGE_CLASSES[options.change_class].limits
    utc: tzinfo = UTC
    zone = problems.take("--tz", lambda: _zone(options.tz), utc)
    windows: list[Window] = []
    for text in options.window:
        windows += problems.take("--window", partial(lambda text: [parse_window(text)], text), [])
    exceptions: list[date] = []
    for text in options.except_:
        exceptions += problems.take("--except", partial(lambda text: [date.fromisoformat(text)], text), [])
    deadline = options.deadline
    limits = replace(
        preset,
        windows=tuple(windows),
        exceptions=tuple(sorted(exceptions)),
        time_zone=options.tz if zone is not utc else "UTC",
    )
    if deadline is not None:
        limits = replace(limits, deadline=problems.take("--deadline", lambda: _moment(deadline, zone), None))
    if options.soak is not None:
        soak = options.soak
        limits = replace(limits, soak_s=problems.take("--soak", lambda: _duration(soak), 0))
    if options.max_out is not None or options.max_percent is not None:
        limits = replace(limits, max_out_count=options.max_out, max_out_percent=options.max_percent)
    if options.per_block is not None:
        limits = replace(limits, per_block=options.per_block)
    if options.canary is not None:
        limits = replace(limits, canary_per_variant=options.canary)
    if options.growth is not None:
        limits = replace(limits, growth=options.growth)
    if options.reserve is not None:
        limits = replace(limits, ahead=options.reserve == "all")
    return limits, problems.take("--slot", lambda: _duration(options.slot), 1)


def _topology(options: Options, problems: _Problems) -> Topology:
    path = options.topology
    blocks: dict[str, str] = {}
    if path is not None:
        blocks = problems.take("--topology", lambda: parse_topology(path.read_text("utf-8")), {})
    if options.per_block is not None and path is None and options.block_feature is None:
        problems.found.append("--per-block: needs --topology or --block-feature to know the blocks")
    return Topology(blocks, options.block_feature, options.canary_per_block)


def _manifest(options: Options, problems: _Problems) -> Loaded | None:
    try:
        return load(options.manifest, options.allowed_signers)
    except ManifestError as error:
        problems.found += error.errors
    except (FileError, SignatureError) as error:
        problems.found.append(str(error))
    return None


def _look(
    options: Options, effects: Effects, loaded: Loaded, topology: Topology, now: datetime
) -> tuple[FleetNode, ...]:
    """The one look: three reads of Slurm, judged by the manifest."""
    try:
        slurm = load_config(options.config_path).slurm
        squeue = str(Path(slurm.scontrol).with_name("squeue"))
        text = read_fleet(effects.run, scontrol=slurm.scontrol, squeue=squeue, conf=slurm.conf or None)
        seen = parse_fleet(text, now)
    except ConfigError as error:
        _fail(error.errors)
    except SlurmError as error:
        _fail([str(error)])
    assigned: Assignment = assign(loaded.manifest, node_facts(seen))
    if assigned.overlaps:
        _fail([
            f"{options.manifest}: {item.node} fits the profiles {' and '.join(item.profiles)}; it may fit one"
            for item in assigned.overlaps
        ])
    return as_fleet(seen, loaded.manifest, assigned, topology)


def _print(made: Plan, zone: tzinfo) -> None:
    console = Console(highlight=False, emoji=False, markup=False)
    approvals = f"{made.heading.approvals} approval{'s'[: made.heading.approvals != 1]}"
    head = made.heading
    console.print(f"campaign {head.campaign}: {head.change_class} ({approvals}), manifest {head.manifest}")
    console.print(f"limits   {_limits_text(made.limits)}")
    console.print(f"slots    {_span(made.realign_s)} each; times in {made.limits.time_zone}")
    if made.waves:
        console.print()
        console.print(_wave_table(made, zone))
        console.print()
        console.print(_timeline(made, zone))
    else:
        console.print("\nno node is planned")
    if made.left_out:
        console.print()
        console.print(_left_out_table(made))
    if made.unknown_driver:
        console.print(
            f"\n{_nodes(len(made.unknown_driver))} planned without knowing the loaded driver, "
            f"which they have not published since they booted: {folded(made.unknown_driver)}"
        )


def _wave_table(made: Plan, zone: tzinfo) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("wave", "nodes", "from", "to", "at once"):
        table.add_column(heading, no_wrap=True)
    table.add_column("which")
    for wave in made.waves:
        first, last = _ends(wave, made.realign_s)
        table.add_row(
            _wave_name(wave), str(len(wave.slots)), _when(first, zone), _when(last, zone),
            str(_at_once(wave, made.realign_s)), _plain(folded(slot.node for slot in wave.slots)),
        )  # fmt: skip
    return table


def _timeline(made: Plan, zone: tzinfo) -> Table:
    """One bar for each wave, on one scale from the first slot to the last."""
    begin = min(_ends(wave, made.realign_s)[0] for wave in made.waves)
    end = max(_ends(wave, made.realign_s)[1] for wave in made.waves)
    scale = _BAR / max(1.0, (end - begin).total_seconds())
    table = Table(box=None, pad_edge=False, show_header=False)
    for wave in made.waves:
        cells = [" "] * _BAR
        for slot in wave.slots:
            from_s = (slot.start - begin).total_seconds()
            first = min(_BAR - 1, int(from_s * scale))
            last = min(_BAR, max(first + 1, int((from_s + made.realign_s) * scale)))
            cells[first:last] = "━" * (last - first)
        table.add_row(_wave_name(wave), Text("".join(cells)))
    left, right = _when(begin, zone), _when(end, zone)
    table.add_row("", f"{left}{right.rjust(_BAR - len(left))}")
    return table


def _left_out_table(made: Plan) -> Table:
    whys: dict[str, list[str]] = defaultdict(list)
    for item in made.left_out:
        whys[item.why].append(item.node)
    table = Table("left out", Column("nodes", no_wrap=True), "which", box=box.SIMPLE_HEAD, pad_edge=False)
    for why, nodes in sorted(whys.items(), key=lambda item: (-len(item[1]), item[0])):
        table.add_row(_plain(why), str(len(nodes)), _plain(folded(nodes)))
    return table


def _limits_text(limits: Limits) -> str:
    parts = []
    if limits.max_out_count is not None:
        parts.append(f"at most {limits.max_out_count} of a partition out")
    if limits.max_out_percent is not None:
        parts.append(f"at most {limits.max_out_percent:g} % of a partition out")
    if limits.per_block is not None:
        parts.append(f"at most {limits.per_block} of a block")
    parts.append(f"{limits.canary_per_variant} canary of a variant")
    parts.append(f"waves grow {limits.growth:g} times")
    parts.append(f"soak {_span(limits.soak_s)}")
    parts.append("all reserved ahead" if limits.ahead else "waves reserved in turn")
    parts += [window_text(window) for window in limits.windows]
    parts += [f"not on {day.isoformat()}" for day in limits.exceptions]
    if limits.deadline is not None:
        parts.append(f"done by {_when(limits.deadline, ZoneInfo(limits.time_zone))}")
    return ", ".join(parts)


def _ends(wave: Wave, realign_s: int) -> tuple[datetime, datetime]:
    starts = [slot.start for slot in wave.slots]
    return min(starts), max(starts) + timedelta(seconds=realign_s)


def _at_once(wave: Wave, realign_s: int) -> int:
    """Most slots of the wave that overlap."""
    starts = sorted(slot.start for slot in wave.slots)
    length, most, first = timedelta(seconds=realign_s), 0, 0
    for index, start in enumerate(starts):
        while starts[first] + length <= start:
            first += 1
        most = max(most, index - first + 1)
    return most


def _wave_name(wave: Wave) -> str:
    return wave.kind.value if wave.number == 0 else f"{wave.kind.value} {wave.number}"


def _nodes(count: int) -> str:
    return "1 node is" if count == 1 else f"{count} nodes are"


def _when(moment: datetime, zone: tzinfo) -> str:
    return moment.astimezone(zone).strftime("%Y-%m-%d %H:%M")


def _plain(text: str) -> Text:
    """Text of others, without what a terminal would act on."""
    return Text("".join(char if char.isprintable() else "?" for char in text), overflow="fold")


def _span(seconds: int) -> str:
    for unit in ("d", "h", "m"):
        if seconds >= _UNITS[unit] and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"


def _duration(text: str) -> int:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text.strip())
    if found is None:
        raise ValueError(f"not a time: {text!r}; write it like 90s, 30m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def _moment(text: str, zone: tzinfo) -> datetime:
    moment = datetime.fromisoformat(text)
    return (moment if moment.utcoffset() is not None else moment.replace(tzinfo=zone)).astimezone(UTC)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError(f"there is no {name!r}; write it like Europe/Berlin") from None


def _write(path: Path, text: str, force: bool) -> None:
    """The whole file or none of it."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).chmod(0o644)
            if force:
                Path(name).replace(path)
            else:
                path.hardlink_to(name)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        _fail([f"{path}: cannot be written: {error.strerror}"])


def _fail(errors: Sequence[str]) -> NoReturn:
    for error in errors:
        click.echo(error, err=True)
    sys.exit(1)

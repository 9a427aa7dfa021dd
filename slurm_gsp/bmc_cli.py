"""The command ``slurm-gsp bmc``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NoReturn

import click

from slurm_gsp import options
from slurm_gsp.campaign.fleet import node_facts
from slurm_gsp.config import Config, ConfigError, load_config
from slurm_gsp.manifest.match import NodeFacts, assign
from slurm_gsp.manifest.model import Manifest
from slurm_gsp.manifest.nodes import parse_nodes
from slurm_gsp.manifest.parse import ManifestError, parse
from slurm_gsp.manifest.sign import FileError, as_text, digest, read_file
from slurm_gsp.manifest_cli import nodes_text
from slurm_gsp.parse import ParseError
from slurm_gsp.redfish.judge import Compared, Verdict, compare
from slurm_gsp.redfish.report import as_object, print_report
from slurm_gsp.redfish.site import Site, SiteError, load_site
from slurm_gsp.redfish.sweep import LibraryMissingError, Read, sweep
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.fleet import expand, parse_fleet, read_fleet
from slurm_gsp.slurm.scontrol import Run

DIFFERS: Final = 1
UNKNOWN: Final = 3
NOT_ASKED: Final = 2
"""Exit codes; the last one is also click's for wrong usage."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What the command reaches outside; None: the real processes, the real BMCs."""

    run: Run | None = None
    read: Read | None = None
    clock: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class Options:
    """The command line, as given."""

    hostlist: str | None
    path: Path
    nodes_from: str | None
    as_json: bool
    config_path: Path


@click.command("bmc")
@click.argument("hostlist", required=False)
@click.option(
    "--manifest",
    "path",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The manifest whose [profile.NAME.bmc] tables are compared.",
)
@click.option(
    "--nodes-from",
    metavar="FILE|-",
    help="Take nodes from what `scontrol -a -o show node` said, instead of asking Slurm.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with all that BMCs list.")
@options.CONFIG
@click.pass_context
def bmc(context: click.Context, /, **given: object) -> None:
    """Ask BMCs over Redfish for their firmware, and compare it with what is pinned.

    Of the nodes in HOSTLIST, or of all whose profile pins such firmware. Reads only. Exit code: 0 all read
    and equal, 1 something differs or is missing, 3 nothing differs and something is not known; 2 nobody was
    asked.
    """
    _bmc(Options(**given), context.obj if isinstance(context.obj, Outside) else Outside())  # type: ignore[arg-type]


def _bmc(options: Options, outside: Outside) -> NoReturn:
    manifest, sha256 = _manifest(options.path)
    config, site = _site(options.config_path)
    if not site.access.verify:
        click.echo(
            "[redfish] verify = false: nothing proves that these answers, or whoever gets the password, "
            "are the BMCs'",
            err=True,
        )
    profiles = _select(manifest, _nodes(options.nodes_from, config, outside), options.hostlist)
    begun = outside.clock()
    try:
        compared = compare(manifest, profiles, sweep(profiles, site, outside.read))
    except LibraryMissingError as error:
        _fail([str(error)])
    seconds = outside.clock() - begun
    if options.as_json:
        head = {"manifest": manifest.name, "sha256": sha256, "certificates_verified": site.access.verify}
        click.echo(json.dumps({**head, "nodes": as_object(compared)}, indent=2))
    else:
        asked = f"{len(compared)} BMC{'s'[: len(compared) != 1]} in {seconds:.1f} s"
        print_report(f"manifest {manifest.name}: {asked}", compared)
    sys.exit(exit_code(compared))


def exit_code(compared: Iterable[Compared]) -> int:
    """One number for all: a difference before what is not known, and nothing compared is not known."""
    verdicts = {one.verdict for one in compared}
    if Verdict.DIFFERS in verdicts:
        return DIFFERS
    return 0 if Verdict.EQUAL in verdicts and Verdict.UNKNOWN not in verdicts else UNKNOWN


def _manifest(path: Path) -> tuple[Manifest, str]:
    try:
        data = read_file(path)
        return parse(as_text(data, str(path)), str(path)), digest(data)
    except ManifestError as error:
        _fail(error.errors)
    except FileError as error:
        _fail([str(error)])


def _site(path: Path) -> tuple[Config, Site]:
    try:
        config = load_config(path)
        return config, load_site(config.redfish, os.environ)
    except (ConfigError, SiteError) as error:
        _fail(error.errors)


def _nodes(source: str | None, config: Config, outside: Outside) -> Sequence[NodeFacts]:
    """The nodes as Slurm describes them; they say which profile each takes."""
    try:
        if source is not None:
            return parse_nodes(nodes_text(source))
        scontrol = config.slurm.scontrol
        squeue = str(Path(scontrol).with_name("squeue"))
        text = read_fleet(outside.run, scontrol=scontrol, squeue=squeue, conf=config.slurm.conf or None)
        return node_facts(parse_fleet(text, datetime.now(UTC)))
    except (SlurmError, FileError) as error:
        _fail([str(error)])
    except ParseError as error:
        _fail([f"{source}:{error}"])


def _select(manifest: Manifest, nodes: Sequence[NodeFacts], hostlist: str | None) -> Mapping[str, str]:
    """Which nodes to ask, each with its profile."""
    assignment = assign(manifest, nodes)
    if assignment.overlaps:
        _fail([f"{one.node} fits the profiles {' and '.join(one.profiles)}" for one in assignment.overlaps])
    profiles = dict(assignment.by_node)
    if hostlist is not None:
        try:
            names = expand(hostlist)
        except SlurmError as error:
            _fail([str(error)])
        bare = [name for name in names if name not in profiles]
        if bare or not names:
            _fail([f"{name}: Slurm knows no such node, or no profile is for it" for name in bare or ["''"]])
        return {name: profiles[name] for name in names}
    pinning = {profile.name for profile in manifest.profiles if profile.bmc}
    if not pinning:
        _fail([f"manifest {manifest.name} pins no firmware of BMCs; write [profile.NAME.bmc] tables"])
    chosen = {node: name for node, name in profiles.items() if name in pinning}
    if not chosen:
        _fail([f"no node takes a profile that pins firmware of its BMC: {', '.join(sorted(pinning))}"])
    return chosen


def _fail(errors: Iterable[str]) -> NoReturn:
    for error in errors:
        click.echo(error, err=True)
    sys.exit(NOT_ASKED)

"""The commands that look at one node: ``slurm-gsp inspect``, ``record`` and ``check-config``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from slurm_gsp import options
from slurm_gsp.collect.collect import collect
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import LiveRunner
from slurm_gsp.config import DEFAULT_PATH, Config, ConfigError, load_config
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.finding import EXIT_CODES
from slurm_gsp.parse import ParseError
from slurm_gsp.record import RecordingError, open_recording, record
from slurm_gsp.report import as_object, as_text
from slurm_gsp.this_node import expectation, node_name

CONFIG = Path(DEFAULT_PATH)


class Refused(click.ClickException):
    """Bad input; the exit code is none of a verdict's."""

    exit_code = 64


@click.command("inspect")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--recording",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Judge a recording made by `slurm-gsp record` instead of this node.",
)
@options.NODE_CONFIG
def inspect_command(as_json: bool, recording: Path | None, config_path: Path) -> None:
    """Judge this node: verdict, findings with their evidence, and the next step.

    Exit code: 0 consistent or no GPU, 1 latent, 2 mismatch, 3 elsewhere, 4 unknown;
    64 for a recording or a configuration that cannot be read.
    Changes nothing and asks Slurm nothing.
    """
    if recording is not None:
        try:
            evidence = collect(*open_recording(recording))
        except (RecordingError, ParseError) as error:
            raise Refused(str(error)) from None
    else:
        config = _load(config_path)
        evidence = collect(Root("/"), _runner(config), expectation(config, node_name()))
    diagnosis = diagnose(evidence)
    if as_json:
        click.echo(json.dumps(as_object(evidence, diagnosis), indent=2))
    else:
        click.echo(as_text(evidence, diagnosis))
    sys.exit(EXIT_CODES[diagnosis.verdict])


@click.command("record")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@options.NODE_CONFIG
def record_command(folder: Path, config_path: Path) -> None:
    """Write what the detector reads on this node to FOLDER: a support bundle and a test fixture in one."""
    config = _load(config_path)
    try:
        evidence = record(folder, "/", _runner(config), expectation(config, node_name()))
    except RecordingError as error:
        raise Refused(str(error)) from None
    click.echo(f"{folder}: recorded {evidence.hostname}, verdict {diagnose(evidence).verdict.value}")


@click.command("check-config")
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False), default=CONFIG)
def check_config(path: Path) -> None:
    """Check a configuration file and print every error with its place."""
    load = load_config
    try:
        load(path, must_exist=True, owner_uid=path.stat().st_uid if path != CONFIG else 0)
    except ConfigError as error:
        raise Refused("\n".join(error.errors)) from None
    click.echo(f"{path}: good")


def _load(path: Path) -> Config:
    try:
        return load_config(path)
    except ConfigError as error:
        raise Refused("\n".join(error.errors)) from None


def _runner(config: Config) -> LiveRunner:
    return LiveRunner(config.deadlines.command_s, config.deadlines.nvml_s)

"""The command ``slurm-gsp verify``."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import click

from slurm_gsp import options
from slurm_gsp.collect.collect import Expectation, collect
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import LiveRunner
from slurm_gsp.config import LEVELS, Config, ConfigError, load_config
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.evidence import Pin
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import Level, Proof, Result
from slurm_gsp.core.reading import Known, value_of
from slurm_gsp.core.verification import Check, proof_of
from slurm_gsp.manifest.load import load
from slurm_gsp.manifest.parse import ManifestError
from slurm_gsp.manifest.sign import FileError, SignatureError
from slurm_gsp.node.facts import Machine
from slurm_gsp.node.journal import Journal, Places, State, load_journal, load_pin
from slurm_gsp.node.pinned import pinned_of
from slurm_gsp.node.prove import booted_since, unfinished
from slurm_gsp.node.publish import FIELDS, publish, values_of
from slurm_gsp.node.verify import EXIT_CODES, Verifier
from slurm_gsp.slurm.client import RecordClient, SlurmError
from slurm_gsp.slurm.scontrol import Scontrol
from slurm_gsp.this_node import STATE, expectation, node_name

TRIES: Final = 4
PAUSE_S: Final = 15.0
"""A job has time: a controller that restarts is back within a minute."""


class Refused(click.ClickException):
    """Bad input; the exit code is none of a result's."""

    exit_code = 64


def live_machine(config: Config) -> Machine:
    """This machine."""
    limits = config.deadlines
    runner = LiveRunner(limits.command_s, limits.nvml_s)
    return Machine(Root("/"), runner, command_s=limits.command_s, nvml_s=limits.nvml_s)


def live_slurm(config: Config) -> RecordClient:
    """This cluster's Slurm."""
    conf = config.slurm.conf or os.environ.get("SLURM_CONF")
    return Scontrol(scontrol=config.slurm.scontrol, deadline_s=config.deadlines.slurm_s, conf=conf)


@dataclass(frozen=True, slots=True)
class Effects:
    """What the command reaches outside."""

    machine: Callable[[Config], Machine] = live_machine
    slurm: Callable[[Config], RecordClient] = live_slurm
    state: Path = STATE
    sleep: Callable[[float], None] = time.sleep
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be verified; ``named``: the pin was named on the command line."""

    level: Level
    operation: str | None
    pinned: Pinned | None
    named: bool


@dataclass(frozen=True, slots=True)
class Verified:
    """What came of it; ``loaded`` is the driver, ``published`` says where it was published, or why not."""

    node: str
    proof: Proof
    checks: tuple[Check, ...]
    loaded: str | None
    published: str = ""


@click.command("verify")
@click.option("--level", type=click.Choice(LEVELS), default="quick", show_default=True, help="How deep.")
@click.option(
    "--manifest",
    "manifest_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Verify against this manifest instead of what the node was last realigned to.",
)
@click.option("--profile", metavar="NAME", help="Its profile; needed where it has several.")
@click.option("--operation", metavar="KEY", help="What is proven.  [default: the last realignment]")
@click.option("--publish", "publish_it", is_flag=True, help="Tell Slurm, in this node's own record.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.NODE_CONFIG
@click.pass_context
def verify(  # noqa: PLR0913, PLR0917 - one for each option
    context: click.Context,
    level: str,
    manifest_path: Path | None,
    profile: str | None,
    operation: str | None,
    publish_it: bool,
    as_json: bool,
    config_path: Path,
) -> None:
    """Verify this node after maintenance: its driver, its hardware, a workload.

    Exit code: 0 pass, 1 fail, 3 unknown (something could not be checked, or the proof not be published); 64
    for bad input. Levels hardware and workload need the GPUs for themselves: run them in a job.
    """
    effects = context.find_object(Effects) or Effects()
    config = _config(config_path)
    pinned = _pinned(config, manifest_path, profile, effects.state)
    named = manifest_path is not None or profile is not None
    verified = _verify(Asked(Level(level), operation, pinned, named), config, effects)
    is_told = True
    if publish_it:
        told, is_told = _publish(verified, config, effects)
        verified = replace(verified, published=told)
    click.echo(json.dumps(as_object(verified), indent=2) if as_json else as_text(verified))
    code = EXIT_CODES[verified.proof.result]
    sys.exit(code if is_told else code or EXIT_CODES[Result.UNKNOWN])


def _config(path: Path) -> Config:
    try:
        return load_config(path)
    except ConfigError as error:
        raise Refused("\n".join(error.errors)) from None


def _pinned(config: Config, path: Path | None, profile: str | None, state: Path) -> Pinned | None:
    """The pin of the options, else of the node's last realignment; None: there is none."""
    if path is None and profile is None:
        return load_pin(Places(state))
    signers, revoked = (
        Path(name) if name else None for name in (config.realign.allowed_signers, config.realign.revoked)
    )
    try:
        loaded = load(path or Path(config.realign.manifest), signers, revoked=revoked)
    except ManifestError as error:
        raise Refused("\n".join(error.errors)) from None
    except (FileError, SignatureError) as error:
        raise Refused(str(error)) from None
    names = [each.name for each in loaded.manifest.profiles]
    if profile is None and len(names) > 1:
        raise Refused(f"--profile: {loaded.source.path} has several: {', '.join(names)}; name one")
    if profile not in {None, *names}:
        raise Refused(f"--profile: {loaded.source.path} has no {profile}; it has {', '.join(names)}")
    return pinned_of(loaded.manifest.name, loaded.source.digest, loaded.manifest.profile(profile or names[0]))


def _verify(asked: Asked, config: Config, effects: Effects) -> Verified:
    node, machine = node_name(), effects.machine(config)
    expect = expectation(config, node, effects.state)
    if asked.pinned is not None and asked.named:
        expect = _expecting(expect, asked.pinned)
    evidence = collect(machine.root, machine.runner, expect)
    diagnosis = diagnose(evidence)
    boot, job = value_of(evidence.boot_id) or "", effects.environment.get("SLURM_JOB_ID", "")
    loaded = value_of(evidence.loaded)
    last = load_journal(Places(effects.state))
    journal = last if last is not None and booted_since(last, boot) else None
    if why := _not_provable(asked.operation, last, boot):
        pin = asked.pinned.target if asked.pinned is not None else ""
        proof = Proof(asked.operation or "", asked.level, Result.UNKNOWN, boot, pin, why=why, job=job)
        return Verified(node, proof, (), loaded)
    if journal is not None and journal.state is not State.DONE:
        return Verified(node, unfinished(journal, boot, asked.level, job), (), loaded)
    checks = Verifier(evidence, asked.pinned, machine, config.verify).checks(asked.level, diagnosis)
    proof = proof_of(
        checks,
        diagnosis,
        level=asked.level,
        boot=boot,
        operation=asked.operation or (journal.operation if journal is not None else ""),
        pinned=asked.pinned,
        job=job,
    )
    return Verified(node, proof, checks, loaded)


def _expecting(expect: Expectation, pinned: Pinned) -> Expectation:
    """What the detector compares with, where a manifest was named on the command line."""
    pin = Pin(pinned.driver, pinned.flavour, pinned.target)
    return replace(expect, pin=pin, expected_gpus=Known(pinned.gpus, pinned.target))


def _not_provable(operation: str | None, last: Journal | None, boot: str) -> str:
    """Why this boot proves nothing of the operation that was asked for, whatever the node runs."""
    if operation is None or last is None:
        return ""
    if last.operation != operation:
        return f"the last realignment of this node is {last.operation}"
    return "" if booted_since(last, boot) else "this node has not rebooted since"


def _publish(verified: Verified, config: Config, effects: Effects) -> tuple[str, bool]:
    """Tell Slurm, a few times if it does not answer: what is said of it, and whether it knows."""
    where = config.verify.publish
    if where not in FIELDS:
        return f'not published: publish = "{where}"', False
    values = values_of(verified.proof, verified.loaded)
    why = ""
    for number in range(TRIES):
        if number:
            effects.sleep(PAUSE_S)
        try:
            changed = publish(effects.slurm(config), verified.node, where, values)
        except ValueError as error:
            return f"not published: {error}", False
        except SlurmError as error:
            why = str(error)
        else:
            return (f"published in {where}" if changed else f"{where} says so already"), True
    return f"not published: {why}", False


def as_object(verified: Verified) -> dict[str, object]:
    """The object that ``verify --json`` prints."""
    proof = verified.proof
    return {
        "node": verified.node,
        "level": proof.level.value,
        "result": proof.result.value,
        "operation": proof.operation,
        "boot": proof.boot,
        "pin": proof.pin,
        "codes": list(proof.codes),
        "why": proof.why,
        "job": proof.job,
        "checks": [
            {"name": check.name, "result": check.outcome.value, "told": check.told}
            for check in verified.checks
        ],
        "published": verified.published,
    }


def as_text(verified: Verified) -> str:
    """What ``verify`` prints."""
    proof = verified.proof
    against = f"against {proof.pin}" if proof.pin else "against nothing but itself"
    lines = [f"{verified.node}: {proof.result.value} (level {proof.level.value}, {against})"]
    lines += [f"  {check.outcome.value:<16}{check.name:<16}{check.told}" for check in verified.checks]
    if not verified.checks:
        lines.append(f"  {proof.why}")
    if proof.operation:
        lines.append(f"proves {proof.operation} on boot {proof.boot}")
    if verified.published:
        lines.append(verified.published)
    return "\n".join(lines)

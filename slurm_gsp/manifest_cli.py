"""The commands ``slurm-gsp manifest``."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from slurm_gsp.manifest.load import load
from slurm_gsp.manifest.match import NodeFacts, assign, folded, has_gpus
from slurm_gsp.manifest.model import Manifest
from slurm_gsp.manifest.nodes import parse_nodes
from slurm_gsp.manifest.parse import ManifestError, parse
from slurm_gsp.manifest.report import as_object
from slurm_gsp.manifest.report import as_text as shown
from slurm_gsp.manifest.sign import (
    FileError,
    SignatureError,
    SshKeygen,
    as_text,
    digest,
    read_file,
    require,
    sign,
)
from slurm_gsp.parse import ParseError

_file = click.argument("path", metavar="FILE", type=click.Path(path_type=Path))


@click.group()
def manifest() -> None:
    """The pin: which nodes should run which driver, packages and firmware.

    Exit code: 0, or 1 when something is wrong (every error is printed), 2 for wrong usage.
    """


@manifest.command()
@_file
@click.option(
    "--nodes-from",
    metavar="FILE|-",
    help="Check it against these nodes too: what `scontrol -a -o show node` says.",
)
def check(path: Path, nodes_from: str | None) -> None:
    """Check a manifest and the previous one, and print every error with its place."""
    errors: list[str] = []
    nodes: tuple[NodeFacts, ...] | None = None
    if nodes_from is not None:
        try:
            nodes = parse_nodes(nodes_text(nodes_from))
        except FileError as error:
            errors.append(str(error))
        except ParseError as error:
            errors.append(f"{nodes_from}:{error}")
    try:
        loaded = load(path, nodes=nodes)
    except ManifestError as error:
        _fail([*error.errors, *errors])
    except FileError as error:
        _fail([str(error), *errors])
    if errors:
        _fail(errors)
    profiles = len(loaded.manifest.profiles)
    click.echo(f"{path}: good: {profiles} profile{'s'[: profiles != 1]}, sha256 {loaded.source.digest}")
    if nodes is not None:
        _echo_nodes(loaded.manifest, nodes)


@manifest.command()
@_file
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(path: Path, as_json: bool) -> None:
    """Show what a manifest pins."""
    try:
        data = read_file(path)
        content = parse(as_text(data, str(path)), str(path))
    except ManifestError as error:
        _fail(error.errors)
    except FileError as error:
        _fail([str(error)])
    if as_json:
        click.echo(json.dumps(as_object(content, digest(data)), indent=2))
    else:
        click.echo(shown(content, digest(data)))


@manifest.command("sign")
@_file
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    help="OpenSSH private key, or the public key of one that ssh-agent holds.",
)
def sign_command(path: Path, key: Path) -> None:
    """Sign a good manifest: FILE.sig stands beside it then."""
    try:
        target = sign(path, key, keygen=SshKeygen(agent=os.environ.get("SSH_AUTH_SOCK")))
    except ManifestError as error:
        _fail([*error.errors, f"{path}: not signed"])
    except (FileError, SignatureError) as error:
        _fail([str(error)])
    click.echo(f"{target}: written")


@manifest.command("verify")
@_file
@click.option(
    "--allowed-signers",
    required=True,
    type=click.Path(path_type=Path),
    help="Who may sign: ALLOWED SIGNERS in ssh-keygen(1).",
)
@click.option("--revoked", type=click.Path(path_type=Path), help="Keys that may not: public keys, or a KRL.")
def verify_command(path: Path, allowed_signers: Path, revoked: Path | None) -> None:
    """Check who signed a manifest, and that it is as it was signed."""
    try:
        trusted = require(path, allowed_signers, revoked=revoked)
    except (FileError, SignatureError) as error:
        _fail([str(error)])
    signer = trusted.signer
    assert signer is not None
    told = f"signed by {signer.principal} with {signer.fingerprint}, sha256 {digest(trusted.data)}"
    click.echo(f"{path}: {told}")


def nodes_text(source: str) -> str:
    """What `scontrol show node` said, from a file or stdin; FileError where it cannot be read."""
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise FileError(f"{source}: cannot be read: {error.strerror}") from error
    return data.decode("utf-8", "replace")


def _echo_nodes(content: Manifest, nodes: Sequence[NodeFacts]) -> None:
    assignment = assign(content, nodes)
    for profile in content.profiles:
        names = assignment.nodes_of(profile.name)
        click.echo(f"  {profile.name}: {len(names)} node{'s'[: len(names) != 1]} {folded(names)}".rstrip())
    left = set(assignment.unmatched)
    bare = [node.name for node in nodes if node.name in left and not has_gpus(node)]
    if bare:
        click.echo(f"  no profile, no GPUs: {len(bare)} node{'s'[: len(bare) != 1]} {folded(bare)}")


def _fail(errors: Iterable[str]) -> NoReturn:
    for error in errors:
        click.echo(error, err=True)
    sys.exit(1)

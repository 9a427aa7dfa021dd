"""A manifest from its file, with the one before it, verified where signatures are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from slurm_gsp.manifest.match import NodeFacts
from slurm_gsp.manifest.model import Manifest
from slurm_gsp.manifest.parse import ManifestError, Unreadable, parse_with_previous
from slurm_gsp.manifest.sign import (
    FileError,
    SignatureError,
    Signer,
    SshKeygen,
    Trusted,
    as_text,
    digest,
    require,
)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a manifest came from: the digest of its bytes, and who signed them, if that was asked."""

    path: Path
    digest: str
    signer: Signer | None


@dataclass(frozen=True, slots=True)
class Loaded:
    """A manifest that may be obeyed, and the previous one, which a rollback installs; None for the first."""

    manifest: Manifest
    source: Source
    previous: Manifest | None = None
    previous_source: Source | None = None


def load(
    path: Path,
    allowed_signers: Path | None = None,
    *,
    nodes: Sequence[NodeFacts] | None = None,
    revoked: Path | None = None,
    keygen: SshKeygen | None = None,
) -> Loaded:
    """Load a manifest and the one before it, which is the file ``<previous>.toml`` beside it.

    With ``allowed_signers``, both must be signed. ManifestError with every mistake, or SignatureError.
    """
    sources: dict[str, Source] = {}

    def take(file: Path) -> tuple[str, Trusted]:
        trusted = require(file, allowed_signers, revoked=revoked, keygen=keygen)
        return as_text(trusted.data, str(file)), trusted

    def read(name: str) -> tuple[str, str]:
        beside = path.with_name(f"{name}.toml")
        try:
            text, trusted = take(beside)
        except (FileError, SignatureError) as error:
            raise Unreadable(f'{error}; put it right, or write previous = "none"') from error
        sources[name] = Source(beside, digest(trusted.data), trusted.signer)
        return str(beside), text

    try:
        text, trusted = take(path)
    except FileError as error:
        raise ManifestError([str(error)]) from error
    manifest, previous = parse_with_previous(text, str(path), read, nodes)
    source = Source(path, digest(trusted.data), trusted.signer)
    return Loaded(manifest, source, previous, sources[previous.name] if previous else None)

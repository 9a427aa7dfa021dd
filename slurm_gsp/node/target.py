"""What a node is to be brought onto: one profile of one manifest that may be obeyed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slurm_gsp.config import Config
from slurm_gsp.core.operation import DIGEST_LENGTH, Kind, Operation
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.manifest.load import Loaded, Source, load
from slurm_gsp.manifest.match import NodeFacts, assign
from slurm_gsp.manifest.model import Manifest, Profile
from slurm_gsp.manifest.parse import ManifestError
from slurm_gsp.manifest.sign import FileError, SignatureError
from slurm_gsp.node.failing import RefusedError
from slurm_gsp.node.pinned import pinned_of
from slurm_gsp.node.trusted import why_untrusted

BY_HAND: Final = "by-hand"
"""In the place of a campaign's name."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


@dataclass(frozen=True, slots=True)
class Target:
    """An operation with all that it needs; ``digest`` is the whole SHA-256 of the manifest."""

    operation: Operation
    manifest: str
    digest: str
    profile: Profile

    @property
    def pinned(self) -> Pinned:
        """The pin that it leaves."""
        return pinned_of(self.manifest, self.digest, self.profile)


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody asked for by hand."""

    manifest: Path
    kind: Kind = Kind.REALIGN
    profile: str | None = None


def of_operation(operation: Operation, config: Config, node: NodeFacts, *, owner_uid: int = 0) -> Target:
    """The target of a campaign's operation; RefusedError where it is not what the campaign planned."""
    configured = Path(config.realign.manifest)
    if not operation.manifest:  # somebody asked by hand, with a Reason
        back = operation.kind is Kind.ROLLBACK
        return _target(operation, _chosen(configured, config, owner_uid, back=back), node)
    if not _NAME.fullmatch(operation.manifest):
        raise RefusedError([f"{operation.manifest!r} is no name of a manifest"])
    path = configured.with_name(f"{operation.manifest}.toml")
    target = _target(operation, _chosen(path, config, owner_uid, back=False), node)
    if not target.digest.startswith(operation.digest):
        told = f"digest {target.digest[:DIGEST_LENGTH]}, planned {operation.digest}: {path}"
        raise RefusedError([f"manifest {operation.manifest} is another text than the campaign's: {told}"])
    if target.manifest != operation.manifest:
        raise RefusedError([f'{path} says name = "{target.manifest}", the campaign {operation.manifest}'])
    return target


def by_hand(choice: Choice, config: Config, node: NodeFacts | None, *, owner_uid: int = 0) -> Target:
    """The target that somebody named; ``node`` None: the profile was named too."""
    chosen = _chosen(choice.manifest, config, owner_uid, back=choice.kind is Kind.ROLLBACK)
    return _target(Operation(choice.kind, BY_HAND), chosen, node, choice.profile)


def _target(
    operation: Operation, chosen: tuple[Manifest, Source], node: NodeFacts | None, profile: str | None = None
) -> Target:
    manifest, source = chosen
    return Target(operation, manifest.name, source.digest, _profile(manifest, node, profile))


def _chosen(path: Path, config: Config, owner_uid: int, *, back: bool) -> tuple[Manifest, Source]:
    """The manifest to realign to, this one or the one before it, if root may obey it."""
    loaded = _load(path, config)
    manifest, source = _the_one_before(loaded) if back else (loaded.manifest, loaded.source)
    # without signatures, who can change the file decides what root installs
    if not config.realign.allowed_signers and (why := why_untrusted(source.path, owner_uid)):
        raise RefusedError([why])
    return manifest, source


def _load(path: Path, config: Config) -> Loaded:
    signers, revoked = config.realign.allowed_signers, config.realign.revoked
    try:
        return load(
            path,
            Path(signers) if signers else None,
            revoked=Path(revoked) if revoked else None,
        )
    except ManifestError as error:
        raise RefusedError(error.errors) from error
    except (FileError, SignatureError) as error:
        raise RefusedError([str(error)]) from error


def _the_one_before(loaded: Loaded) -> tuple[Manifest, Source]:
    if loaded.previous is None or loaded.previous_source is None:
        raise RefusedError([f"{loaded.manifest.name} is the first manifest: there is none before it"])
    return loaded.previous, loaded.previous_source


def _profile(manifest: Manifest, node: NodeFacts | None, name: str | None) -> Profile:
    names = ", ".join(profile.name for profile in manifest.profiles)
    if name is not None:
        try:
            return manifest.profile(name)
        except KeyError:
            raise RefusedError([f"{manifest.name} has no profile {name}; it has {names}"]) from None
    assert node is not None
    assignment = assign(manifest, [node])
    found = assignment.profile_of(node.name)
    if found is None:
        several = [overlap.profiles for overlap in assignment.overlaps]
        told = f"{' and '.join(several[0])} of {manifest.name} match" if several else ""
        none = f"no profile of {manifest.name} matches {node.name}; it has {names}"
        raise RefusedError([f"{told} {node.name}: a node takes one profile only" if several else none])
    return manifest.profile(found)

"""OpenSSH signatures over manifests: FILE.toml is signed into FILE.toml.sig.

A signature is made and judged by ``ssh-keygen -Y`` (OpenSSH 8.2 or newer). The manifest is read once, and its
bytes go to ssh-keygen on stdin: what was verified is what is parsed, whatever happens to the file meanwhile.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from slurm_gsp import process
from slurm_gsp.manifest.parse import parse

NAMESPACE: Final = "slurm-gsp-manifest"
PLAN_NAMESPACE: Final = "slurm-gsp-plan"
_OBJECTS: Final = {NAMESPACE: "manifests", PLAN_NAMESPACE: "plans"}
_COMMANDS: Final = {NAMESPACE: "slurm-gsp manifest sign", PLAN_NAMESPACE: "slurm-gsp approve"}
MAX_BYTES: Final = 1024 * 1024
DEADLINE_S: Final = 30.0
"""Long enough to touch a hardware key."""

_GOOD: Final = re.compile(r"^Good .* signature .*with \S+ key (\S+)\s*$", re.MULTILINE)


class SignatureError(Exception):
    """The manifest is not signed as it must be, or could not be signed; says why, and what to do."""


class FileError(Exception):
    """A file cannot be read, or be what it should; the message names it."""


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: the name in the allowed-signers file, and the fingerprint of the key."""

    principal: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Trusted:
    """The bytes of a manifest that may be obeyed; ``signer`` None where no signature is asked for."""

    data: bytes
    signer: Signer | None


class Run(Protocol):
    """How ``process.run`` is called here."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> process.Finished: ...


@dataclass(frozen=True, slots=True)
class SshKeygen:
    """The command ``ssh-keygen``; ``agent`` is the socket of ssh-agent, where keys may be."""

    run: Run = process.run
    find: Callable[[str], str | None] = process.find_command
    agent: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, *words: str, stdin: str) -> process.Finished:
        command = self.find("ssh-keygen")
        if command is None:
            raise SignatureError("ssh-keygen is not on this machine; install the OpenSSH client")
        # Nobody is there to type a passphrase: the answer is none, at once.
        env = {"SSH_ASKPASS": "/bin/false", "SSH_ASKPASS_REQUIRE": "force", **self.env}
        if self.agent:
            env["SSH_AUTH_SOCK"] = self.agent
        try:
            done = self.run((command, *words), deadline_s=DEADLINE_S, stdin=stdin, env=env)
        except process.ProcessError as error:
            raise SignatureError(f"ssh-keygen cannot be run: {error}") from error
        if re.search(r"(?:unknown|illegal|invalid) option", done.stderr):
            raise SignatureError("this ssh-keygen cannot sign or verify; OpenSSH 8.2 or newer is needed")
        return done


def digest(data: bytes) -> str:
    """The SHA-256 of a manifest's bytes, as small hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def read_file(path: Path) -> bytes:
    """The bytes of a manifest, read once; FileError when there is none to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise FileError(f"{path}: is not a regular file; put a file there")
        with os.fdopen(fd, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise FileError(f"{path}: there is no such file") from error
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else str(error)
        raise FileError(f"{path}: cannot be read: {told}") from error
    if len(data) > MAX_BYTES:
        raise FileError(f"{path}: is larger than {MAX_BYTES} bytes; that is no manifest")
    return data


def as_text(data: bytes, where: str) -> str:
    """The text of a manifest; FileError when it is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise FileError(f"{where}:{line}: not UTF-8 text; save the file as UTF-8") from error


def signature_path(path: Path) -> Path:
    """Where the signature of a manifest stands: beside it."""
    return path.with_name(path.name + ".sig")


def sign(path: Path, key: Path, *, keygen: SshKeygen | None = None) -> Path:
    """Sign a good manifest; the path of the signature, which replaces an older one.

    ``key`` is a private key, or the public one of a key that ssh-agent holds. ManifestError for a manifest
    that is not good by itself, SignatureError for a key that cannot be used.
    """
    text = as_text(read_file(path), str(path))
    parse(text, str(path))
    return sign_text(text, signature_path(path), key, NAMESPACE, keygen or SshKeygen())


def sign_text(text: str, target: Path, key: Path, namespace: str, keygen: SshKeygen) -> Path:
    """Sign a text for one purpose, the namespace; ``target``, where the signature then stands."""
    key = key.absolute()
    try:
        os.close(os.open(key, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise SignatureError(f"{key}: the key cannot be read: {error.strerror}") from error
    done = keygen("-Y", "sign", "-q", "-f", str(key), "-n", namespace, stdin=text)
    if done.rc != 0 or "BEGIN SSH SIGNATURE" not in done.stdout:
        raise SignatureError(_why_unsigned(key, done))
    try:
        _replace(target, done.stdout)
    except OSError as error:
        raise FileError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def verify(
    path: Path, allowed_signers: Path, *, revoked: Path | None = None, keygen: SshKeygen | None = None
) -> Signer:
    """Who signed the manifest; SignatureError unless an allowed signer did, this very text."""
    return _verify(path, read_file(path), allowed_signers, revoked, keygen or SshKeygen())


def require(
    path: Path,
    allowed_signers: Path | None,
    *,
    revoked: Path | None = None,
    keygen: SshKeygen | None = None,
) -> Trusted:
    """The bytes of a manifest that may be obeyed.

    With an allowed-signers file, these are exactly the bytes that were verified; SignatureError where that
    fails. Without one, no signature is asked for. ``revoked`` is a key revocation list, or public keys.
    """
    data = read_file(path)
    if allowed_signers is None:
        return Trusted(data, None)
    return Trusted(data, _verify(path, data, allowed_signers, revoked, keygen or SshKeygen()))


def _verify(
    path: Path, data: bytes, allowed_signers: Path, revoked: Path | None, keygen: SshKeygen
) -> Signer:
    signature = signature_path(path).absolute()
    if not signature.exists():
        raise SignatureError(
            f"{path}: is not signed: there is no {signature.name} beside it; slurm-gsp manifest sign makes it"
        )
    signed = Signed(str(path), as_text(data, str(path)), signature, NAMESPACE)
    return signer_of(signed, allowed_signers, revoked=revoked, keygen=keygen)


@dataclass(frozen=True, slots=True)
class Signed:
    """A text and the signature over it; ``what`` names the text in messages."""

    what: str
    text: str
    signature: Path
    namespace: str


def signer_of(
    signed: Signed, allowed_signers: Path, *, revoked: Path | None = None, keygen: SshKeygen | None = None
) -> Signer:
    """Who signed this very text for this purpose; SignatureError unless an allowed signer did."""
    keygen = keygen or SshKeygen()
    text, signature = signed.text, signed.signature
    _check_unwritable(allowed_signers)
    if revoked is not None:
        _check_unwritable(revoked)
    common = ("-n", signed.namespace, "-s", str(signature))
    checked = keygen("-Y", "check-novalidate", *common, stdin=text)
    if checked.rc != 0:
        raise SignatureError(f"{signed.what}: {_why_wrong(signed, checked)}")
    found = _GOOD.search(checked.stdout)
    fingerprint = found[1] if found else "of unknown fingerprint"
    allowed = str(allowed_signers.absolute())
    listed = keygen("-Y", "find-principals", "-s", str(signature), "-f", allowed, stdin=text)
    said = [listed.stderr]
    names = [line.strip() for line in listed.stdout.splitlines() if line.strip()] if listed.rc == 0 else []
    extra = ("-r", str(revoked.absolute())) if revoked is not None else ()
    for name in names:
        done = keygen("-Y", "verify", "-f", allowed, "-I", name, *common, *extra, stdin=text)
        good = _GOOD.search(done.stdout)
        if done.rc == 0 and good:
            return Signer(name, good[1])
        said.append(done.stderr)
        if extra and keygen("-Y", "verify", "-f", allowed, "-I", name, *common, stdin=text).rc == 0:
            said.append("revoked")  # ssh-keygen says nothing of it
    refused = _why_refused(fingerprint, allowed, names, " ".join(said), signed.namespace)
    raise SignatureError(f"{signed.what}: {refused}")


def _check_unwritable(path: Path) -> None:
    """Refuse a file that decides whom to trust when others than its owner can change it."""
    try:
        mode = path.stat().st_mode
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise SignatureError(f"{path}: cannot be read: {error.strerror}; no signer is allowed") from error
    if not stat.S_ISREG(mode):
        raise SignatureError(f"{path}: is not a regular file; no signer is allowed")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise SignatureError(f"{path}: others than its owner can write it; chmod go-w {path}")


def _why_unsigned(key: Path, done: process.Finished) -> str:
    if "incorrect passphrase" in done.stderr:
        return (
            f"{key}: the key has a passphrase; load it into ssh-agent (ssh-add {key}) "
            f"and give the public key: --key {key}.pub"
        )
    if "are too open" in done.stderr:
        return f"{key}: others can read the private key, so ssh-keygen does not use it; chmod 600 {key}"
    if "No private key found" in done.stderr:
        return f"{key}: its private key is neither beside it nor in ssh-agent; ssh-add it, or give it itself"
    if "load public key" in done.stderr or "invalid format" in done.stderr:
        return f"{key}: is no OpenSSH key; make one: ssh-keygen -t ed25519 -f KEY"
    return f"{key}: ssh-keygen did not sign: {_said(done)}"


def _why_wrong(signed: Signed, done: process.Finished) -> str:
    signature = signed.signature
    if "namespace" in done.stderr:
        return (
            f"{signature.name} was made for another purpose than {signed.namespace} (its namespace); "
            f"sign with {_COMMANDS[signed.namespace]}"
        )
    if "incorrect signature" in done.stderr:
        return "was altered after it was signed; restore it, or check the change and sign again"
    return f"{signature.name} is no signature that ssh-keygen can read: {_said(done)}; sign again"


def _why_refused(fingerprint: str, allowed: str, names: Sequence[str], said: str, namespace: str) -> str:
    key = f"the key {fingerprint} ({', '.join(names)})" if names else f"the key {fingerprint}"
    if "has expired" in said:
        return f"{key} has expired in {allowed} (valid-before); sign with a valid key"
    if "not yet valid" in said:
        return f"{key} is not valid yet in {allowed} (valid-after); sign with a valid key"
    if "not permitted for use" in said:
        return f'{key} may not sign {_OBJECTS[namespace]}: in {allowed}, its namespaces lack "{namespace}"'
    if "revoked" in said:
        return f"{key} is revoked; sign with another key"
    if names:
        return f"{key} was refused: {' '.join(said.split())}"
    return f"{key} is not in {allowed}; add it there if you trust it, or sign with a key that is"


def _said(done: process.Finished) -> str:
    return " / ".join(done.stderr.split("\n")).strip(" /\r")[:300] or f"exit status {done.rc}"


def _replace(target: Path, text: str) -> None:
    """Write a file as a whole or not at all."""
    fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(fd, 0o644)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise

"""Signatures: real keys and a real ssh-keygen; what it cannot be made to do is played by a fake."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from slurm_gsp import process
from slurm_gsp.manifest.load import Loaded, Source, load
from slurm_gsp.manifest.parse import ManifestError, parse
from slurm_gsp.manifest.sign import (
    FileError,
    SignatureError,
    Signer,
    SshKeygen,
    Trusted,
    digest,
    read_file,
    require,
    sign,
    verify,
)

SSH_KEYGEN = process.find_command("ssh-keygen")
signs = pytest.mark.skipif(SSH_KEYGEN is None, reason="ssh-keygen (OpenSSH client) is not on this machine")

TEXT = """\
name = "2026-11"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.x]
gres = ["gpu"]
driver = "570.195.03"
flavour = "open"
gpus = 8
fabric_manager = false
packages.apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }
"""


@dataclass(frozen=True)
class Site:
    """A folder with a manifest, a key, and the file of allowed signers."""

    folder: Path

    @property
    def manifest(self) -> Path:
        return self.folder / "2026-11.toml"

    @property
    def allowed(self) -> Path:
        return self.folder / "allowed"

    def key(self, name: str = "key", passphrase: str = "") -> Path:
        path = self.folder / name
        assert SSH_KEYGEN is not None
        command = [SSH_KEYGEN, "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)]
        subprocess.run(command, check=True, timeout=60)
        return path

    def allow(self, *lines: tuple[str, Path]) -> None:
        text = "".join(f"{who} {key.with_name(key.name + '.pub').read_text()}" for who, key in lines)
        self.allowed.write_text(text)
        self.allowed.chmod(0o644)

    def refused(self, revoked: Path | None = None) -> str:
        with pytest.raises(SignatureError) as caught:
            require(self.manifest, self.allowed, revoked=revoked)
        return str(caught.value).replace(f"{self.folder}/", "")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    found = Site(tmp_path)
    found.manifest.write_text(TEXT, encoding="utf-8")
    return found


def fingerprint(key: Path) -> str:
    assert SSH_KEYGEN is not None
    done = subprocess.run(
        [SSH_KEYGEN, "-lf", str(key)], check=True, timeout=60, capture_output=True, text=True
    )
    return done.stdout.split()[1]


@signs
def test_a_round_trip(site: Site) -> None:
    key = site.key()
    site.allow(("carol@example.org", site.key("other")), ("alice@example.org", key))
    assert sign(site.manifest, key) == site.folder / "2026-11.toml.sig"
    signer = Signer("alice@example.org", fingerprint(key))
    assert verify(site.manifest, site.allowed) == signer
    assert require(site.manifest, site.allowed) == Trusted(TEXT.encode(), signer)


@signs
@pytest.mark.parametrize(
    ("principals", "found"),
    [("alice,bob", "alice"), ("*@example.org", "*@example.org"), ("!bob,alice", "alice")],
)
def test_principals_of_every_form(site: Site, principals: str, found: str) -> None:
    key = site.key()
    site.allow((principals, key))
    sign(site.manifest, key)
    assert verify(site.manifest, site.allowed).principal == found


@signs
def test_signing_again_replaces_the_signature(site: Site) -> None:
    key = site.key()
    site.allow(("alice", key))
    sign(site.manifest, key)
    site.manifest.write_text(TEXT + "# more\n", encoding="utf-8")
    sign(site.manifest, key)
    assert verify(site.manifest, site.allowed).principal == "alice"
    assert sorted(path.name for path in site.folder.iterdir()) == [
        "2026-11.toml", "2026-11.toml.sig", "allowed", "key", "key.pub",
    ]  # fmt: skip


@signs
@pytest.mark.parametrize("at", [0, 10, len(TEXT) - 1])
def test_an_altered_byte(site: Site, at: int) -> None:
    key = site.key()
    site.allow(("alice", key))
    sign(site.manifest, key)
    data = bytearray(TEXT.encode())
    data[at] ^= 1
    site.manifest.write_bytes(bytes(data))
    assert site.refused() == (
        "2026-11.toml: was altered after it was signed; restore it, or check the change and sign again"
    )


@signs
def test_an_unsigned_manifest(site: Site) -> None:
    site.allow(("alice", site.key()))
    assert site.refused() == (
        "2026-11.toml: is not signed: there is no 2026-11.toml.sig beside it; "
        "slurm-gsp manifest sign makes it"
    )


@signs
def test_another_signer(site: Site) -> None:
    key = site.key()
    site.allow(("alice", site.key("other")))
    sign(site.manifest, key)
    assert site.refused() == (
        f"2026-11.toml: the key {fingerprint(key)} is not in allowed; "
        "add it there if you trust it, or sign with a key that is"
    )


@signs
@pytest.mark.parametrize(
    ("option", "told"),
    [
        ('valid-before="20200101"', " has expired in allowed (valid-before); sign with a valid key"),
        ('valid-after="20990101"', " is not valid yet in allowed (valid-after); sign with a valid key"),
        ('namespaces="file"',
         ' (alice) may not sign manifests: in allowed, its namespaces lack "slurm-gsp-manifest"'),
    ],
)  # fmt: skip
def test_a_signer_who_may_not(site: Site, option: str, told: str) -> None:
    key = site.key()
    site.allow((f"alice {option}", key))
    sign(site.manifest, key)
    assert site.refused() == f"2026-11.toml: the key {fingerprint(key)}{told}"


@signs
def test_a_signer_with_limits_that_hold(site: Site) -> None:
    key = site.key()
    site.allow(('alice namespaces="slurm-gsp-manifest",valid-before="20990101"', key))
    sign(site.manifest, key)
    assert verify(site.manifest, site.allowed).principal == "alice"


@signs
def test_a_revoked_key(site: Site) -> None:
    key = site.key()
    site.allow(("alice", key))
    sign(site.manifest, key)
    revoked = site.folder / "key.pub"
    told = f"2026-11.toml: the key {fingerprint(key)} (alice) is revoked; sign with another key"
    assert site.refused(revoked=revoked) == told
    krl = site.folder / "krl"
    assert SSH_KEYGEN is not None
    subprocess.run([SSH_KEYGEN, "-q", "-k", "-f", str(krl), str(revoked)], check=True, timeout=60)
    krl.chmod(0o644)
    assert site.refused(revoked=krl) == told
    other = site.key("other").with_name("other.pub")
    assert require(site.manifest, site.allowed, revoked=other).signer == Signer("alice", fingerprint(key))
    missing = site.refused(revoked=site.folder / "none")
    assert missing == "none: cannot be read: No such file or directory; no signer is allowed"


@signs
def test_a_signature_for_another_purpose(site: Site) -> None:
    key = site.key()
    site.allow(("alice", key))
    assert SSH_KEYGEN is not None
    command = [SSH_KEYGEN, "-q", "-Y", "sign", "-n", "file", "-f", str(key), str(site.manifest)]
    subprocess.run(command, check=True, timeout=60, capture_output=True)
    assert site.refused() == (
        "2026-11.toml: 2026-11.toml.sig was made for another purpose than slurm-gsp-manifest "
        "(its namespace); sign with slurm-gsp manifest sign"
    )


@signs
def test_what_is_no_signature(site: Site) -> None:
    site.allow(("alice", site.key()))
    (site.folder / "2026-11.toml.sig").write_text("hello\n")
    told = site.refused()
    assert told.startswith("2026-11.toml: 2026-11.toml.sig is no signature that ssh-keygen can read: ")


@signs
def test_a_missing_or_open_file_of_signers(site: Site) -> None:
    key = site.key()
    sign(site.manifest, key)
    assert site.refused() == "allowed: cannot be read: No such file or directory; no signer is allowed"
    site.allow(("alice", key))
    site.allowed.chmod(0o666)
    assert site.refused() == "allowed: others than its owner can write it; chmod go-w allowed"
    site.allowed.unlink()
    site.allowed.mkdir()
    assert site.refused() == "allowed: is not a regular file; no signer is allowed"


@signs
def test_an_empty_file_of_signers_allows_nobody(site: Site) -> None:
    sign(site.manifest, site.key())
    site.allow()
    assert "is not in allowed" in site.refused()


def test_no_signature_is_asked_for_without_a_file_of_signers(site: Site) -> None:
    assert require(site.manifest, None) == Trusted(TEXT.encode(), None)


@signs
def test_what_is_parsed_is_what_was_verified(site: Site) -> None:
    """The file is replaced while ssh-keygen works: the verified bytes are handed out, not the new ones."""
    key = site.key()
    site.allow(("alice", key))
    sign(site.manifest, key)

    def run(
        argv: Sequence[str],
        *,
        deadline_s: float,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> process.Finished:
        site.manifest.write_text("evil = true\n")
        return process.run(argv, deadline_s=deadline_s, stdin=stdin, env=env)

    loaded = load(site.manifest, site.allowed, keygen=SshKeygen(run=run))
    assert site.manifest.read_text() == "evil = true\n"
    signer = Signer("alice", fingerprint(key))
    source = Source(site.manifest, hashlib.sha256(TEXT.encode()).hexdigest(), signer)
    assert loaded == Loaded(parse(TEXT, ""), source)


# --- keys that cannot sign ----------------------------------------------------------------------------------


def unsigned(site: Site, key: Path, keygen: SshKeygen | None = None) -> str:
    with pytest.raises(SignatureError) as caught:
        sign(site.manifest, key, keygen=keygen)
    assert not (site.folder / "2026-11.toml.sig").exists()
    return str(caught.value).replace(f"{site.folder}/", "")


def test_a_key_that_is_not_there(site: Site) -> None:
    told = unsigned(site, site.folder / "key")
    assert told == "key: the key cannot be read: No such file or directory"


@signs
def test_a_key_with_a_passphrase(site: Site) -> None:
    assert unsigned(site, site.key(passphrase="secret")) == (
        "key: the key has a passphrase; load it into ssh-agent (ssh-add key) "
        "and give the public key: --key key.pub"
    )


@signs
def test_a_key_with_a_passphrase_in_the_agent(site: Site) -> None:
    agent, add = process.find_command("ssh-agent"), process.find_command("ssh-add")
    if agent is None or add is None:
        pytest.skip("ssh-agent (OpenSSH client) is not on this machine")
    key = site.key(passphrase="secret")
    site.allow(("alice", key))
    (site.folder / "ask").write_text("#!/bin/sh\necho secret\n")
    (site.folder / "ask").chmod(0o755)
    socket = str(site.folder / "agent")
    with subprocess.Popen([agent, "-D", "-a", socket], stdout=subprocess.DEVNULL) as running:
        try:
            for _ in range(200):
                if Path(socket).exists():
                    break
                time.sleep(0.05)
            ask = {"SSH_ASKPASS": str(site.folder / "ask"), "SSH_ASKPASS_REQUIRE": "force"}
            subprocess.run(
                [add, "-q", str(key)], check=True, timeout=60, env={**ask, "SSH_AUTH_SOCK": socket}
            )
            key.unlink()
            sign(site.manifest, key.with_name("key.pub"), keygen=SshKeygen(agent=socket))
        finally:
            running.terminate()
    assert verify(site.manifest, site.allowed).principal == "alice"


@signs
def test_a_private_key_that_others_can_read(site: Site) -> None:
    key = site.key()
    key.chmod(0o644)
    told = "key: others can read the private key, so ssh-keygen does not use it; chmod 600 key"
    assert unsigned(site, key) == told


@signs
def test_a_public_key_alone(site: Site) -> None:
    key = site.key()
    key.unlink()
    assert unsigned(site, site.folder / "key.pub") == (
        "key.pub: its private key is neither beside it nor in ssh-agent; ssh-add it, or give it itself"
    )


@signs
def test_what_is_no_key(site: Site) -> None:
    told = unsigned(site, site.manifest)
    assert told == "2026-11.toml: is no OpenSSH key; make one: ssh-keygen -t ed25519 -f KEY"


@signs
def test_a_bad_manifest_is_not_signed(site: Site) -> None:
    site.manifest.write_text(TEXT.replace("gpus = 8", "gpus = 0"))
    with pytest.raises(ManifestError):
        sign(site.manifest, site.key())
    assert not (site.folder / "2026-11.toml.sig").exists()


# --- ssh-keygen that is missing, old or stuck ---------------------------------------------------------------


def test_no_ssh_keygen(site: Site) -> None:
    (site.folder / "key").write_text("")
    keygen = SshKeygen(find=lambda _: None)
    told = "ssh-keygen is not on this machine; install the OpenSSH client"
    assert unsigned(site, site.folder / "key", keygen) == told
    (site.folder / "2026-11.toml.sig").write_text("")
    site.allowed.write_text("")
    with pytest.raises(SignatureError, match="ssh-keygen is not on this machine"):
        verify(site.manifest, site.allowed, keygen=keygen)


def test_an_old_ssh_keygen(site: Site) -> None:
    def run(argv: Sequence[str], **_: object) -> process.Finished:
        return process.Finished(tuple(argv), 1, "", "unknown option -- Y\nusage: ssh-keygen ...")

    (site.folder / "key").write_text("")
    told = unsigned(site, site.folder / "key", SshKeygen(run=run, find=lambda name: f"/usr/bin/{name}"))
    assert told == "this ssh-keygen cannot sign or verify; OpenSSH 8.2 or newer is needed"


def test_a_stuck_ssh_keygen(site: Site) -> None:
    def run(argv: Sequence[str], **_: object) -> process.Finished:
        raise process.DeadlineExceeded("no end after 30 s")

    (site.folder / "key").write_text("")
    told = unsigned(site, site.folder / "key", SshKeygen(run=run, find=lambda name: f"/usr/bin/{name}"))
    assert told == "ssh-keygen cannot be run: no end after 30 s"


def test_the_agent_is_handed_on(site: Site) -> None:
    seen: list[Mapping[str, str]] = []

    def run(argv: Sequence[str], *, env: Mapping[str, str], **_: object) -> process.Finished:
        seen.append(env)
        return process.Finished(tuple(argv), 0, "-----BEGIN SSH SIGNATURE-----\n", "")

    (site.folder / "key").write_text("")
    sign(
        site.manifest,
        site.folder / "key",
        keygen=SshKeygen(run=run, find=lambda name: f"/usr/bin/{name}", agent="/run/agent"),
    )
    assert seen[0]["SSH_AUTH_SOCK"] == "/run/agent"


# --- files and the one before -------------------------------------------------------------------------------


def test_the_digest() -> None:
    assert digest(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    fifo, huge = tmp_path / "fifo", tmp_path / "huge"
    os.mkfifo(fifo)
    huge.write_bytes(b"#" * (1024 * 1024 + 1))
    for path, told in (
        (tmp_path / "none", "there is no such file"),
        (tmp_path, "is not a regular file; put a file there"),
        (fifo, "is not a regular file; put a file there"),
        (huge, "is larger than 1048576 bytes; that is no manifest"),
    ):
        with pytest.raises(FileError) as caught:
            read_file(path)
        assert str(caught.value) == f"{path}: {told}"


def test_a_file_that_is_not_there_or_not_utf8(site: Site) -> None:
    with pytest.raises(ManifestError) as caught:
        load(site.folder / "none")
    assert caught.value.errors == (f"{site.folder}/none: there is no such file",)
    site.manifest.write_bytes(b"# ok\n# \xff\n")
    with pytest.raises(ManifestError) as caught:
        load(site.manifest)
    assert caught.value.errors == (f"{site.manifest}:2: not UTF-8 text; save the file as UTF-8",)


@signs
def test_the_previous_one_must_be_signed_too(site: Site) -> None:
    key = site.key()
    site.allow(("alice", key))
    text = TEXT.replace('"2026-11"', '"2026-12"').replace('"none"', '"2026-11"')
    later = site.folder / "2026-12.toml"
    later.write_text(text)
    sign(later, key)
    with pytest.raises(ManifestError) as caught:
        load(later, site.allowed)
    assert caught.value.errors == (
        f'{later}:2: previous: "2026-11" cannot be used: {site.manifest}: is not signed: there is no '
        "2026-11.toml.sig beside it; slurm-gsp manifest sign makes it; put it right, "
        'or write previous = "none"',
    )
    sign(site.manifest, key)
    signer = Signer("alice", fingerprint(key))
    assert load(later, site.allowed) == Loaded(
        parse(text, ""),
        Source(later, digest(text.encode()), signer),
        parse(TEXT, ""),
        Source(site.manifest, digest(TEXT.encode()), signer),
    )

"""The commands, and the page that describes them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from slurm_gsp import process
from slurm_gsp.cli import main

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "manifest.md").read_text(encoding="utf-8")
NODES = ROOT / "tests" / "unit" / "slurm" / "fixtures" / "24.11-all.txt"
SSH_KEYGEN = process.find_command("ssh-keygen")

GOOD = """\
name = "2026-11"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.h100]
gres = ["gpu:h100"]
driver = "570.195.03"
flavour = "open"
gpus = 8
fabric_manager = false
packages.apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }
"""
SHA = "sha256 [0-9a-f]{64}"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2026-11.toml").write_text(GOOD)
    bad = GOOD.replace("driver =", "drivr =").replace('"open"', '"closed"')
    (tmp_path / "bad.toml").write_text(bad.replace("fabric_manager = false\n", ""))
    return tmp_path


def run(*words: str, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["manifest", *words], input=given)


def test_a_good_manifest(folder: Path) -> None:
    done = run("check", "2026-11.toml")
    assert (done.exit_code, done.stderr) == (0, "")
    assert re.fullmatch(rf"2026-11\.toml: good: 1 profile, {SHA}\n", done.stdout)


@pytest.mark.parametrize("source", [str(NODES), "-"])
def test_a_good_manifest_with_its_nodes(folder: Path, source: str) -> None:
    more = "NodeName=login Gres=(null) State=IDLE\n"
    given = NODES.read_text() + more if source == "-" else None
    done = run("check", "2026-11.toml", "--nodes-from", source, given=given)
    assert (done.exit_code, done.stderr) == (0, "")
    expected = ["  h100: 4 nodes n[1-4]"]
    assert done.stdout.splitlines()[1:] == expected + ["  no profile, no GPUs: 1 node login"] * (
        source == "-"
    )


def test_every_error_is_printed(folder: Path) -> None:
    (folder / "nodes").write_text("nonsense\n")
    done = run("check", "bad.toml", "--nodes-from", "nodes")
    assert (done.exit_code, done.stdout) == (1, "")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [
        ["bad.toml:4", "[profile.h100] driver"],
        ["bad.toml:4", "[profile.h100] fabric_manager"],
        ["bad.toml:6", "[profile.h100] drivr"],
        ["bad.toml:7", "[profile.h100] flavour"],
        ["nodes:1", "not a node"],
    ]


def test_a_fleet_that_does_not_fit(folder: Path) -> None:
    (folder / "2026-11.toml").write_text(GOOD.replace("gpu:h100", "gpu:a100"))
    done = run("check", "2026-11.toml", "--nodes-from", str(NODES))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == (
        "2026-11.toml:4: [profile]: none matches n[1-4]; add a profile for them, or widen one\n"
    )


def test_files_that_are_not_there(folder: Path) -> None:
    for words, told in (
        (("check", "none"), "none: there is no such file\n"),
        (("show", "none"), "none: there is no such file\n"),
        (("sign", "none", "--key", "k"), "none: there is no such file\n"),
        (("verify", "none", "--allowed-signers", "a"), "none: there is no such file\n"),
        (("check", "2026-11.toml", "--nodes-from", "n"), "n: cannot be read: No such file or directory\n"),
    ):
        done = run(*words)
        assert (done.exit_code, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.parametrize(
    "words", [(), ("check",), ("sign", "x"), ("verify", "x"), ("show", "x", "--yaml"), ("frobnicate",)]
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2


def test_what_is_shown(folder: Path) -> None:
    done = run("show", "2026-11.toml")
    assert done.exit_code == 0
    text = re.sub(r"[0-9a-f]{64}", "...", done.stdout)
    assert text == (
        "manifest 2026-11\n"
        "  previous  none\n"
        "  created   2026-11-21 09:00:00+00:00\n"
        "  sha256    ...\n"
        "\n"
        "profile h100\n"
        "  gres             gpu:h100\n"
        "  driver           570.195.03 open\n"
        "  gpus             8, without fabric manager\n"
        "  apt              nvidia-dkms-570-open 570.195.03-0ubuntu1\n"
    )


def test_what_is_shown_as_json(folder: Path) -> None:
    found = json.loads(run("show", "--json", "2026-11.toml").stdout)
    assert re.fullmatch(r"[0-9a-f]{64}", found.pop("sha256"))
    nothing = dict.fromkeys((
        "vbios",
        "inforom",
        "cuda",
        "nic_firmware",
        "pcie_width",
        "pcie_generation",
        "topology",
        "nodes",
    ))
    assert found == {
        "name": "2026-11",
        "previous": None,
        "created": "2026-11-21T09:00:00+00:00",
        "notes": "",
        "profiles": {
            "h100": {
                **nothing,
                "partitions": [],
                "features": [],
                "gres": ["gpu:h100"],
                "driver": "570.195.03",
                "flavour": "open",
                "gpus": 8,
                "fabric_manager": False,
                "packages": {
                    "apt": {"nvidia-dkms-570-open": "570.195.03-0ubuntu1"},
                    "dnf": {},
                    "dnf_modules": [],
                    "zypper": {},
                },
                "images": {},
                "downloads": {},
                "bmc": {},
            }
        },
    }


def test_a_bad_manifest_is_neither_shown_nor_signed(folder: Path) -> None:
    (folder / "key").write_text("")
    for words, last in ((("show",), "bad.toml:7"), (("sign", "--key", "key"), "bad.toml: not signed")):
        done = run(*words, "bad.toml")
        assert (done.exit_code, done.stdout) == (1, "")
        assert done.stderr.splitlines()[-1].startswith(last)
        assert done.stderr.count("bad.toml:") >= 4


@pytest.mark.skipif(SSH_KEYGEN is None, reason="ssh-keygen (OpenSSH client) is not on this machine")
def test_signing_and_verifying(folder: Path) -> None:
    assert SSH_KEYGEN is not None
    subprocess.run([SSH_KEYGEN, "-q", "-t", "ed25519", "-N", "", "-f", "key"], check=True, timeout=60)
    limits = 'namespaces="slurm-gsp-manifest",valid-before="20991231"'
    (folder / "allowed").write_text(f"alice@example.org {limits} {(folder / 'key.pub').read_text()}")
    (folder / "allowed").chmod(0o644)
    verify = ("verify", "2026-11.toml", "--allowed-signers", "allowed")
    assert run(*verify).exit_code == 1
    done = run("sign", "2026-11.toml", "--key", "key")
    assert (done.exit_code, done.output) == (0, "2026-11.toml.sig: written\n")
    done = run(*verify)
    assert (done.exit_code, done.stderr) == (0, "")
    told = rf"2026-11\.toml: signed by alice@example\.org with SHA256:[A-Za-z0-9+/]+, {SHA}\n"
    assert re.fullmatch(told, done.stdout)
    done = run(*verify, "--revoked", "key.pub")
    assert (done.exit_code, done.stdout) == (1, "")
    (folder / "2026-11.toml").write_text(GOOD + "\n")
    done = run(*verify)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("2026-11.toml: was altered after it was signed")


# --- the page -----------------------------------------------------------------------------------------------


def said(command: str) -> str:
    """What the page shows below a command."""
    found = re.search(rf"^\$ {re.escape(command)}\n(.*?)^(?:\$|```)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, command
    return found[1]


def test_the_page_shows_what_the_commands_say(folder: Path) -> None:
    (folder / "nodes.txt").write_text(NODES.read_text())
    for words in ("check 2026-11.toml --nodes-from nodes.txt", "check bad.toml"):
        assert run(*words.split()).output == said(f"slurm-gsp manifest {words}")

"""Where BMCs are, and the password: what is taken and what is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from slurm_gsp.config import Redfish
from slurm_gsp.redfish.site import Access, Site, SiteError, load_site, read_overrides

ENVIRON = {"BMC_PASSWORD": "correct horse"}
CONFIG = Redfish(address="https://{node}-bmc", user="reader", password_env="BMC_PASSWORD")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "slurm-gsp"
    place.mkdir(mode=0o755)
    return place


def write(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)


def refused(config: Redfish, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(SiteError) as caught:
        load_site(config, ENVIRON if environ is None else environ, owner_uid=os.getuid())
    return caught.value.errors


def overrides_refused(folder: Path, text: str) -> list[str]:
    path = write(folder / "bmcs.toml", text)
    with pytest.raises(SiteError) as caught:
        read_overrides(path, os.getuid())
    return [line.replace(path, "F") for line in caught.value.errors]


def test_the_site_as_configured(folder: Path, ca_file: str) -> None:
    path = write(
        folder / "bmcs.toml", '"gpu[2-3]" = "https://{node}.oob:8443/"\nlogin1 = "https://10.0.0.1"\n'
    )
    config = replace(
        CONFIG, overrides=path, auth="basic", ca_file=ca_file, verify=False, concurrency=4, deadline_s=5.0,
        total_s=50.0,
    )  # fmt: skip
    site = load_site(config, ENVIRON, owner_uid=os.getuid())
    expected = {
        "gpu2": "https://{node}.oob:8443/",
        "gpu3": "https://{node}.oob:8443/",
        "login1": "https://10.0.0.1",
    }
    access = Access("reader", "correct horse", "basic", ca_file, False)
    assert site == Site(access, "https://{node}-bmc", expected, 4, 5.0, 50.0)
    addresses = {node: site.address(node) for node in ("gpu1", "gpu2", "login1")}
    assert addresses == {
        "gpu1": "https://gpu1-bmc",
        "gpu2": "https://gpu2.oob:8443",
        "login1": "https://10.0.0.1",
    }


def test_the_password_is_never_shown() -> None:
    assert "horse" not in repr(load_site(CONFIG, ENVIRON))


def test_all_that_is_missing_is_told_at_once(folder: Path) -> None:
    assert refused(Redfish(ca_file="/nowhere/ca.pem")) == (
        '[redfish] address: is missing; say where BMCs are: address = "https://{node}-bmc"',
        "[redfish] user: is missing; name a user of the BMCs who may read and nothing else",
        "[redfish] password_file: is missing; write the password into a file that only you can read",
        "[redfish] ca_file: /nowhere/ca.pem: No such file or directory",
    )


def test_a_ca_file_that_is_none(folder: Path) -> None:
    path = write(folder / "ca.pem", "hello")
    assert refused(replace(CONFIG, ca_file=path)) == (f"[redfish] ca_file: {path}: no certificate in it",)


# --- the password -------------------------------------------------------------------------------------------


def in_file(path: str) -> Redfish:
    return replace(CONFIG, password_env="", password_file=path)


@pytest.mark.parametrize("mode", [0o600, 0o400])
@pytest.mark.parametrize("text", ["päss wörd\n", "päss wörd"])
def test_a_password_in_a_file(folder: Path, mode: int, text: str) -> None:
    path = write(folder / "password", text, mode)
    assert load_site(in_file(path), {}).access.password == "päss wörd"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o611])
def test_a_password_that_others_can_reach(folder: Path, mode: int) -> None:
    path = write(folder / "password", "x", mode)
    told = f"{path}: others can reach the password (mode {mode:04o}); chmod 600 {path}"
    assert refused(in_file(path)) == (told,)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a file away")
def test_a_password_of_somebody_else(folder: Path) -> None:
    path = write(folder / "password", "x")
    os.chown(path, 12345, -1)
    assert refused(in_file(path)) == (f"{path}: belongs to uid 12345, not to you (0); chown 0 {path}",)


@pytest.mark.parametrize("text", ["", "\n", "one\ntwo\n", "x" * 5000])
def test_a_file_that_holds_no_password(folder: Path, text: str) -> None:
    path = write(folder / "password", text)
    assert refused(in_file(path)) == (f"{path}: must hold the password on one line, and nothing else",)


def test_files_that_are_none(folder: Path) -> None:
    assert refused(in_file(f"{folder}/none")) == (
        f"{folder}/none: cannot be read: No such file or directory",
    )
    write(folder / "password", "x")
    (folder / "link").symlink_to(folder / "password")
    assert refused(in_file(f"{folder}/link")) == (
        f"{folder}/link: cannot be read: Too many levels of symbolic links",
    )
    os.mkfifo(folder / "pipe", 0o600)
    assert refused(in_file(f"{folder}/pipe")) == (f"{folder}/pipe: is not a regular file; put a file there",)
    (folder / "bytes").write_bytes(b"\xff\n")
    (folder / "bytes").chmod(0o600)
    assert refused(in_file(f"{folder}/bytes")) == (f"{folder}/bytes: not UTF-8 text",)


def test_a_password_in_the_environment() -> None:
    assert load_site(CONFIG, ENVIRON).access.password == "correct horse"
    told = "[redfish] password_env: BMC_PASSWORD is not set in the environment"
    assert refused(CONFIG, {}) == refused(CONFIG, {"BMC_PASSWORD": ""}) == (told,)
    both = replace(CONFIG, password_file="/x")
    assert refused(both) == ("[redfish] password_file: password_env is set too; take one of them",)


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('n1 = "http://10.0.0.1"', 'F:1: n1: "http://10.0.0.1" is not an https address without a path; '
                                   'write it like "https://10.1.0.17"'),
        ('n1 = "https://root:calvin@10.0.0.1"', "F:1: n1: holds a user or a password; "
                                                "give them as user and password_file of [redfish]"),
        ("\nn1 = 1", "F:2: n1: must be a string, not the number 1; "
                     'put it in quotes: n1 = "https://10.1.0.17"'),
        ('"n[1-2]" = "https://bmc"', "F:1: n[1-2]: is one address for 2 nodes; put {node} into it, "
                                     "or give each its own"),
        ('"n[1-" = "https://bmc"', "F:1: n[1-: is not a hostlist: brackets do not match in 'n[1-'"),
        ('n1 = "https://a"\n"n[1-2]" = "https://{node}"', "F:2: n[1-2]: n1 has an address already; "
                                                         "give each node one"),
        ("n1 = https://a", 'F:1: not TOML: Invalid value (at line 1, column 6); write "NODES" = "https://..."'),
    ],
    ids=lambda value: value[:30],
)  # fmt: skip
def test_an_address_that_is_refused(folder: Path, text: str, told: str) -> None:
    assert overrides_refused(folder, text) == [told]


def test_addresses_that_others_could_change(folder: Path) -> None:
    path = write(folder / "bmcs.toml", 'n1 = "https://a"\n', 0o666)
    assert refused(replace(CONFIG, overrides=path)) == (
        f"{path}: others than its owner can write it (mode 0666); chmod go-w {path}",
    )
    assert refused(replace(CONFIG, overrides=f"{folder}/none")) == (
        f"{folder}/none: cannot be read: No such file or directory",
    )
    (folder / "bmcs.toml").chmod(0o644)
    (folder / "bmcs.toml").write_bytes(b"\xff")
    assert refused(replace(CONFIG, overrides=path)) == (f"{path}: not UTF-8 text; save the file as UTF-8",)

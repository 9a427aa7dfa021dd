"""Whether modules that are built on the node will be taken under Secure Boot."""

from dataclasses import replace

import pytest
from fake_host import make_host

from slurm_gsp.node.secure_boot import why_unsigned
from slurm_gsp.process import CommandMissing


def keys(host, *paths):
    for path in paths:
        file = host.state.state.parent / "root" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")


UBUNTUS = ("/var/lib/shim-signed/mok/MOK.priv", "/var/lib/shim-signed/mok/MOK.der")
DKMS = ("/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub")


def test_no_key(tmp_path):
    assert why_unsigned(make_host(tmp_path)) == "DKMS has no signing key"


def test_half_a_key_is_none(tmp_path):
    host = make_host(tmp_path)
    keys(host, DKMS[0])
    assert why_unsigned(host) == "DKMS has no signing key"


@pytest.mark.parametrize("pair", [UBUNTUS, DKMS])
@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("{} is already enrolled\n", True),
        ("SKIP: {} is already in the built-in trusted keyring\n", True),
        ("SKIP: {} is already in db\n", True),
        ("{} is not enrolled\n", False),
        ("SKIP: {} is already in the enrollment request\n", False),
        ("EFI variables are not supported on this system\n", False),
    ],
)
def test_the_firmware_has_to_know_it(tmp_path, pair, said, good):
    host = make_host(tmp_path)
    keys(host, *pair)
    host.run.outputs["mokutil"] = said.format(pair[1])
    assert why_unsigned(host) == ("" if good else f"the key of DKMS is not enrolled: {pair[1]}")
    assert host.run.scripts["mokutil"] == f"--test-key {pair[1]}"


def test_a_key_of_the_site(tmp_path):
    host = make_host(tmp_path)
    keys(host, "/etc/mok/k.pem", "/etc/mok/c.der", "/etc/dkms/framework.conf.d/site.conf")
    conf = tmp_path / "root/etc/dkms/framework.conf.d/site.conf"
    conf.write_text('mok_signing_key="/etc/mok/k.pem"\n# x\nmok_certificate = /etc/mok/c.der\n')
    host.run.outputs["mokutil"] = "/etc/mok/c.der is already enrolled\n"
    assert why_unsigned(host) == ""
    assert host.run.scripts["mokutil"] == "--test-key /etc/mok/c.der"


def test_without_mokutil_nobody_can_tell(tmp_path):
    host = make_host(tmp_path)
    keys(host, *DKMS)
    assert "without mokutil nobody can tell" in why_unsigned(replace(host, find=lambda _: None))
    host.run.answers["mokutil"] = CommandMissing("gone")
    assert "is not enrolled" in why_unsigned(host)

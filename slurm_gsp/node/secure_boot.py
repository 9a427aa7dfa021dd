"""Whether a kernel under Secure Boot will take modules that are built here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from slurm_gsp import process
from slurm_gsp.core.reading import Known, value_of
from slurm_gsp.node.host import COMMAND_S, Host

DKMS_CONF: Final = "/etc/dkms/framework.conf"
_KEYS: Final = (
    ("/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub"),
    ("/var/lib/shim-signed/mok/MOK.priv", "/var/lib/shim-signed/mok/MOK.der"),
)
"""Where DKMS keeps its own key, and where Ubuntu keeps one for it."""
_SETTING: Final = re.compile(r"^\s*(mok_signing_key|mok_certificate)\s*=\s*[\"']?([^\"'\s]+)", re.MULTILINE)
_TRUSTED: Final = re.compile(r"is already enrolled|is already in db|trusted keyring")


def why_unsigned(host: Host) -> str:
    """Why modules built here would be refused; empty where DKMS has a key that the firmware trusts."""
    there = [pair for pair in _candidates(host) if all(map(host.root.exists, pair))]
    if not there:
        return "DKMS has no signing key"
    mokutil = host.find("mokutil")
    if mokutil is None:
        return f"without mokutil nobody can tell whether {there[0][1]} is enrolled"
    if any(_is_trusted(host, mokutil, certificate) for _, certificate in there):
        return ""
    return f"the key of DKMS is not enrolled: {there[0][1]}"


def _candidates(host: Host) -> Iterator[tuple[str, str]]:
    names = host.root.list(f"{DKMS_CONF}.d")
    more = names.value if isinstance(names, Known) else ()
    for path in (*(f"{DKMS_CONF}.d/{name}" for name in reversed(more)), DKMS_CONF):
        settings = dict(_SETTING.findall(value_of(host.root.read(path)) or ""))
        if len(settings) == 2:
            yield settings["mok_signing_key"], settings["mok_certificate"]
    yield from _KEYS


def _is_trusted(host: Host, mokutil: str, certificate: str) -> bool:
    try:
        done = host.run((mokutil, "--test-key", certificate), deadline_s=COMMAND_S)
    except process.ProcessError:
        return False
    return _TRUSTED.search(done.stdout + done.stderr) is not None

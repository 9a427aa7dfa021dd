"""Over TLS against the emulators of sushy-tools: its programs as they are, and 200 BMCs in one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from fault_bmc import INVENTORY, Bmc, Certificate, hangs, tree
from sushy_bmcs import PASSWORD, USER, emulated, write_auth

from slurm_gsp.cli import main
from slurm_gsp.core.reading import Known, Unknown
from slurm_gsp.manifest.model import FirmwarePin
from slurm_gsp.redfish.judge import Verdict, judge, overall
from slurm_gsp.redfish.site import Access, Site
from slurm_gsp.redfish.sweep import library_reader, sweep

VERSIONS = {
    "HGX_FW_BMC_0": "HGX-22.10-1-rc80",
    **{f"HGX_FW_GPU_SXM_{n}": "96.00.89.00.01" for n in range(1, 5)},
}
PINS = [FirmwarePin("HGX_FW_BMC_0", "HGX-22.10-1-rc80"), FirmwarePin("HGX_FW_GPU_SXM_*", "96.00.89.00.01")]


@pytest.fixture
def access(ca_file: str) -> Access:
    return Access(USER, PASSWORD, "basic", ca_file)


@contextmanager
def program(name: str, *words: str, log: Path, certificate: Certificate) -> Iterator[str]:
    """One of sushy-tools' programs, as it is; the address that it serves."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    argv = [
        str(Path(sys.executable).with_name(name)), "-i", "127.0.0.1", "-p", str(port), "--ssl-certificate",
        certificate.cert, "--ssl-key", certificate.key, *words,
    ]  # fmt: skip
    with log.open("w") as file, subprocess.Popen(argv, stdout=file, stderr=file) as child:
        try:
            wait_for(lambda: listens(port), child, log)
            yield f"https://127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait(30)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(ready: Callable[[], bool], child: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 60
    while not ready():
        assert child.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.05)


def test_the_emulator_as_it_is(certificate: Certificate, access: Access, tmp_path: Path) -> None:
    """It links to a FirmwareInventory that it does not serve: unknown, never equal."""
    write_auth(tmp_path / "auth")
    (tmp_path / "config").write_text(
        f'SUSHY_EMULATOR_AUTH_FILE = "{tmp_path}/auth"\nSUSHY_EMULATOR_STATE_DIR = "{tmp_path}"\n'
    )
    words = ("--fake", "--config", str(tmp_path / "config"))
    with program("sushy-emulator", *words, log=tmp_path / "log", certificate=certificate) as address:
        answer = library_reader(access)(address, 20)
        assert answer == Unknown(address, f"{INVENTORY}: HTTP 404, is not there")
        assert overall(judge(PINS, answer)) is Verdict.UNKNOWN
        told = "/redfish/v1/UpdateService: HTTP 401, user and password are not accepted"
        assert library_reader(replace(access, password="wrong"))(address, 20) == Unknown(address, told)
        told = "the login: user and password are not accepted"
        assert library_reader(replace(access, auth="session"))(address, 20) == Unknown(address, told)
        refused = library_reader(replace(access, ca_file=""))(address, 20)
        assert isinstance(refused, Unknown) and "certificate is not accepted" in refused.why


def test_the_static_emulator_with_a_tree_of_files(
    certificate: Certificate, access: Access, tmp_path: Path
) -> None:
    """Each resource is a file of the tree; answers end their connection."""
    for path, resource in tree(**VERSIONS).items():
        folder = tmp_path / "tree" / path.removeprefix("/redfish/v1").strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "index.json").write_text(json.dumps(resource))
    words = ("-m", str(tmp_path / "tree"))
    with program("sushy-static", *words, log=tmp_path / "log", certificate=certificate) as address:
        answer = library_reader(access)(address, 20)
        assert isinstance(answer, Known)
        found = {one.id: one.version for one in answer.value.components}
        assert found == {name: Known(text, f"{INVENTORY}/{name}") for name, text in VERSIONS.items()}
        assert overall(judge(PINS, answer)) is Verdict.EQUAL
        (tmp_path / "tree/UpdateService/FirmwareInventory/HGX_FW_GPU_SXM_2/index.json").unlink()
        answer = library_reader(access)(address, 20)
        assert overall(judge(PINS, answer)) is Verdict.UNKNOWN


# --- 200 BMCs -----------------------------------------------------------------------------------------------

NODES = [f"gpu{number:03}" for number in range(1, 201)]
HOSTS = [f"127.0.1.{number}" for number in range(1, 201)]
DELAY_S = 0.02


@pytest.fixture(scope="module")
def addresses(certificate: Certificate, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """200 BMCs, each answer of which takes 20 ms; gpu007 and gpu123 have another firmware."""
    versions = {
        "*": VERSIONS,
        "127.0.1.7": {**VERSIONS, "HGX_FW_BMC_0": "HGX-22.10-1-rc79"},
        "127.0.1.123": {**VERSIONS, "HGX_FW_GPU_SXM_3": "96.00.70.00.01"},
    }
    with emulated(HOSTS, versions, certificate, tmp_path_factory.mktemp("bmcs"), DELAY_S) as found:
        yield dict(zip(NODES, found, strict=True))


def site(access: Access, addresses: dict[str, str], concurrency: int, deadline_s: float = 60.0) -> Site:
    return Site(access, "", addresses, concurrency, deadline_s, total_s=120)


def odd(nodes: dict[str, Verdict]) -> dict[str, Verdict]:
    return {node: verdict for node, verdict in nodes.items() if verdict is not Verdict.EQUAL}


def test_200_at_once_are_faster_than_one_after_the_other(access: Access, addresses: dict[str, str]) -> None:
    begun = time.monotonic()
    few = sweep(NODES[:10], site(access, addresses, 1))
    each = (time.monotonic() - begun) / 10
    begun = time.monotonic()
    found = sweep(NODES, site(access, addresses, 32))
    together = (time.monotonic() - begun) / 200
    print(f"one by one {each * 1000:.0f} ms each, 32 at once {together * 1000:.0f} ms each")
    assert list(found) == NODES
    assert {node: found[node] for node in few} == few
    verdicts = {node: overall(judge(PINS, answer)) for node, answer in found.items()}
    assert odd(verdicts) == {"gpu007": Verdict.DIFFERS, "gpu123": Verdict.DIFFERS}
    assert together < each / 2


def test_hanging_bmcs_hold_nobody(
    access: Access, addresses: dict[str, str], certificate: Certificate
) -> None:
    with Bmc(certificate) as bad:
        bad.acts["/redfish/v1/"] = hangs
        hung = NODES[:80:10]
        mixed = {**addresses, **dict.fromkeys(hung, bad.address)}
        found = sweep(NODES[:80], site(access, mixed, 16, deadline_s=8))
        assert list(found) == NODES[:80]
        unknown = [node for node, answer in found.items() if isinstance(answer, Unknown)]
        assert unknown == hung
        assert found[hung[0]] == Unknown(bad.address, "/redfish/v1/: took longer than 8 s")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: a configuration must be root's")
def test_the_command(
    access: Access, addresses: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o755)
    files = {
        "bmcs.toml": "".join(f'{node} = "{address}"\n' for node, address in addresses.items()),
        "password": PASSWORD,
        "nodes.txt": "".join(f"NodeName={node} State=IDLE\n" for node in NODES),
        "config.toml": f"""
[redfish]
overrides = "{tmp_path}/bmcs.toml"
user = "{USER}"
password_file = "{tmp_path}/password"
auth = "basic"
ca_file = "{access.ca_file}"
""",
        "m.toml": """
name = "m"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.h100]
nodes = "gpu[001-200]"
driver = "570.195.03"
flavour = "open"
gpus = 4
fabric_manager = false
packages.apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }
[profile.h100.bmc]
"HGX_FW_BMC_0" = "HGX-22.10-1-rc80"
"HGX_FW_GPU_SXM_*" = "96.00.89.00.01"
""",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    monkeypatch.chdir(tmp_path)
    words = [
        "bmc",
        "gpu[001-040,123]",
        "--manifest",
        "m.toml",
        "--config",
        "config.toml",
        "--nodes-from",
        "nodes.txt",
    ]
    done = CliRunner().invoke(main, words, catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (1, "")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip(" ─")]
    assert lines[1:] == [
        "verdict nodes which",
        "as pinned 39 gpu[001-006,008-040]",
        "differs 2 gpu[007,123]",
        "component pinned found nodes which",
        "HGX_FW_BMC_0 HGX-22.10-1-rc80 HGX-22.10-1-rc79 1 gpu007",
        "as pinned 40 gpu[001-006,008-040,123]",
        "HGX_FW_GPU_SXM_3 96.00.89.00.01 96.00.70.00.01 1 gpu123",
        "as pinned 40 gpu[001-040]",
    ]

"""The library and the guard below it, over TLS on loopback, against a BMC that misbehaves."""

from __future__ import annotations

import gzip
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
import trustme
from conftest import written
from fault_bmc import (
    INVENTORY,
    PASSWORD,
    SESSIONS,
    TOKEN,
    Act,
    Bmc,
    Handler,
    breaks_off,
    drips,
    drips_headers,
    hangs,
    pours,
    says,
    tree,
)

from slurm_gsp.core.reading import Known, Unknown
from slurm_gsp.redfish import guard
from slurm_gsp.redfish.model import Answer, Component, Inventory
from slurm_gsp.redfish.site import Access
from slurm_gsp.redfish.sweep import library_reader

SERVICE = "/redfish/v1/UpdateService"


@pytest.fixture
def access(ca_file: str) -> Access:
    return Access("reader", PASSWORD, "session", ca_file)


def read(bmc: Bmc, access: Access, seconds: float = 10.0) -> Answer:
    return library_reader(access)(bmc.address, seconds)


def why(answer: Answer) -> str:
    assert isinstance(answer, Unknown)
    return answer.why


def test_an_inventory_with_a_session_that_is_closed(bmc: Bmc, access: Access) -> None:
    answer = read(bmc, access)
    expected = tuple(
        Component(
            id=name,
            name=f"Firmware of {name}",
            version=Known(version, f"{INVENTORY}/{name}"),
            updateable=True,
            health="OK",
            state="Enabled",
        )
        for name, version in (("BMC_0", "24.10-1"), ("GPU_1", "96.00.89"), ("GPU_2", "96.00.89"))
    )
    assert answer == Known(Inventory(expected), bmc.address)
    assert bmc.asked == [
        "GET /redfish/v1/",
        f"POST {SESSIONS}",
        f"GET {SERVICE}",
        f"GET {INVENTORY}",
        *(f"GET {INVENTORY}/{name}" for name in ("BMC_0", "GPU_1", "GPU_2")),
        f"DELETE {SESSIONS}/1",
    ]
    assert bmc.sessions == set()


def test_one_connection_for_all_requests(bmc: Bmc, access: Access) -> None:
    accepted = []
    accept = bmc._server.get_request
    bmc._server.get_request = lambda: (accepted.append(1), accept())[1]
    read(bmc, access)
    assert (len(bmc.asked), len(accepted)) == (8, 1)


def test_an_inventory_in_one_answer(bmc: Bmc, access: Access) -> None:
    bmc.resources["/redfish/v1/"]["ProtocolFeaturesSupported"] = {
        "ExpandQuery": {"NoLinks": True, "Levels": True}
    }
    members = [bmc.resources[f"{INVENTORY}/{name}"] for name in ("BMC_0", "GPU_1")]
    bmc.resources[f"{INVENTORY}?$expand=.($levels=1)"] = {"Members": members}
    answer = read(bmc, access)
    assert isinstance(answer, Known)
    assert [component.id for component in answer.value.components] == ["BMC_0", "GPU_1"]
    assert len(bmc.asked) == 5


def test_basic_authentication(bmc: Bmc, access: Access) -> None:
    bmc.sessions.add(None)  # type: ignore[arg-type]  # no token needed
    answer = read(bmc, replace(access, auth="basic"))
    assert isinstance(answer, Known)
    assert {headers["Authorization"] for headers in bmc.headers} == {"Basic cmVhZGVyOmNvcnJlY3QgaG9yc2U="}
    assert {asked.split()[0] for asked in bmc.asked} == {"GET"}


FAULTS: list[tuple[str, Act, str]] = [
    ("/redfish/v1/", says(404, b"{}"), "/redfish/v1/: HTTP 404"),
    ("/redfish/v1/", says(503, b"{}"), "/redfish/v1/: HTTP 503"),
    ("/redfish/v1/", says(200, b"<html>Login</html>"), "/redfish/v1/: is no JSON"),
    ("/redfish/v1/", says(200, b"[]"), "/redfish/v1/: is no object: '[]'"),
    ("/redfish/v1/", says(200, b'"x"'), "/redfish/v1/: is no object: '\"x\"'"),
    ("/redfish/v1/", says(200, b'{"Links": {"Sessions": 1}}'),
     "/redfish/v1/: the answer cannot be understood (TypeError)"),
    ("/redfish/v1/", says(200, b"{}"), "the BMC has no UpdateService"),
    ("/redfish/v1/", says(200, b'{"UpdateService": null}'), "the BMC has no UpdateService"),
    ("/redfish/v1/", says(200, b"[" * 100_000), "/redfish/v1/: is no JSON"),
    ("/redfish/v1/", says(200, b'{"UpdateService": {"@odata.id": "https://elsewhere/x"}}'),
     "UpdateService has no Redfish path: 'https://elsewhere/x'"),
    ("/redfish/v1/", says(200, b'{"UpdateService": {"@odata.id": "@elsewhere/"}}'),
     "UpdateService has no Redfish path: '@elsewhere/'"),
    ("/redfish/v1/", says(200, b'{"Links": {"Sessions": {"@odata.id": "@127.0.0.2/"}}}'),
     "the login: sends us elsewhere, to https://"),
    ("/redfish/v1/", says(200, b'{"Links": {"Sessions": {"@odata.id": "/redfish/v1/Systems/1/Reset"}}}'),
     "the login: POST /redfish/v1/Systems/1/Reset is more than reading: not sent"),
    (SESSIONS, says(401, b"{}"), "the login: user and password are not accepted"),
    (SESSIONS, says(404, b"nothing"), 'the login: HTTP 404, no session; try auth = "basic" in [redfish]'),
    (SESSIONS, says(500, b""), 'the login: HTTP 500, no session; try auth = "basic" in [redfish]'),
    (SESSIONS, says(204, b""), "the login: the answer cannot be understood (KeyError)"),
    (SESSIONS, says(200, b"{}", {"Location": f"{SESSIONS}/1"}),
     'the login: answered without a session; try auth = "basic" in [redfish]'),
    (SESSIONS, hangs, "the login: took longer than 0.6 s"),
    (SERVICE, says(401, b"{}"), f"{SERVICE}: HTTP 401, user and password are not accepted"),
    (SERVICE, says(403, b"{}"), f"{SERVICE}: HTTP 403, this user may not read it"),
    (SERVICE, says(200, b""), f"{SERVICE}: is no JSON: ''"),
    (SERVICE, says(200, b"{}"), "the BMC lists no firmware"),
    (SERVICE, says(302, b"", {"Location": "https://127.0.0.2/x"}),
     f"{SERVICE}: sends us elsewhere, to https://127.0.0.2/x: not followed"),
    (SERVICE, says(302, b"", {"Location": "http://127.0.0.1/x"}),
     f"{SERVICE}: http://127.0.0.1/x is no https address"),
    (SERVICE, says(302, b"", {"Location": SERVICE}),
     f"{SERVICE}: the connection failed (TooManyRedirects)"),
    (SERVICE, hangs, f"{SERVICE}: took longer than 0.6 s"),
    (SERVICE, drips, f"{SERVICE}: took longer than 0.6 s"),
    (SERVICE, drips_headers, f"{SERVICE}: took longer than 0.6 s"),
    (SERVICE, breaks_off, f"{SERVICE}: the connection failed (IncompleteRead)"),
    (SERVICE, says(200, b"{}", {"Content-Length": "x"}), f"{SERVICE}: took longer than 0.6 s"),
    (INVENTORY, says(404, b"{}"), f"{INVENTORY}: HTTP 404, is not there"),
    (INVENTORY, says(200, b'{"Members": {}}'), f"{INVENTORY}: has no list of members"),
    (INVENTORY, says(200, b'{"Members": [1]}'), f"{INVENTORY}: lists what is no component"),
    (INVENTORY, says(200, b'{"Members": [{}]}'), f"{INVENTORY}: a component has no Redfish path: 'None'"),
    (f"{INVENTORY}/GPU_2", hangs, f"{INVENTORY}/GPU_2: took longer than 0.6 s"),
    (f"{INVENTORY}/GPU_2", breaks_off, f"{INVENTORY}/GPU_2: the connection failed (IncompleteRead)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "act", "told"), FAULTS, ids=lambda value: value[:50] if isinstance(value, str) else ""
)
def test_a_bmc_that_cannot_be_read_is_unknown(
    bmc: Bmc, access: Access, path: str, act: Act, told: str
) -> None:
    bmc.acts[path] = act
    begun = time.monotonic()
    answer = read(bmc, access, 0.6 if "took longer" in told else 10.0)
    assert why(answer).startswith(told)
    assert time.monotonic() - begun < 4
    assert bmc.sessions == set()


def test_an_answer_without_end_is_cut(bmc: Bmc, access: Access) -> None:
    bmc.acts[SERVICE] = pours
    assert why(read(bmc, access, 30)) == f"{SERVICE}: an answer is larger than {guard.MAX_BYTES} bytes"


def test_a_small_answer_that_unpacks_to_a_huge_one_is_cut(bmc: Bmc, access: Access) -> None:
    packed = gzip.compress(b" " * (guard.MAX_BYTES * 4))
    bmc.acts[SERVICE] = says(200, packed, {"Content-Encoding": "gzip"})
    assert why(read(bmc, access)) == f"{SERVICE}: an answer is larger than {guard.MAX_BYTES} bytes"


def test_a_redirect_within_the_bmc_is_followed(bmc: Bmc, access: Access) -> None:
    bmc.acts[SERVICE] = says(308, b"", {"Location": f"{SERVICE}/"})
    bmc.resources[f"{SERVICE}/"] = bmc.resources[SERVICE]
    assert isinstance(read(bmc, access), Known)


def test_a_root_that_wants_a_login_is_read_again_after_it(bmc: Bmc, access: Access) -> None:
    def asks_first(handler: object) -> None:
        if bmc.sessions:
            handler.answer(200, bmc.resources["/redfish/v1/"])  # type: ignore[attr-defined]
        else:
            handler.answer(401, {})  # type: ignore[attr-defined]

    bmc.acts["/redfish/v1/"] = asks_first
    assert isinstance(read(bmc, access), Known)


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (says(404, b"{}"), f"{INVENTORY}/GPU_1: HTTP 404, is not there"),
        (says(500, b""), f"{INVENTORY}/GPU_1: HTTP 500"),
        (says(200, b'{"Version": '), f"{INVENTORY}/GPU_1: is no JSON: '{{\"Version\":'"),
    ],
)
def test_a_component_that_cannot_be_read_is_unknown_alone(
    bmc: Bmc, access: Access, act: Act, told: str
) -> None:
    bmc.acts[f"{INVENTORY}/GPU_1"] = act
    answer = read(bmc, access)
    assert isinstance(answer, Known)
    versions = {one.id: one.version for one in answer.value.components}
    assert versions["GPU_1"] == Unknown(f"{INVENTORY}/GPU_1", told)
    assert isinstance(versions["GPU_2"], Known)


def test_the_session_is_closed_although_the_time_is_over(bmc: Bmc, access: Access) -> None:
    bmc.acts[f"{INVENTORY}/GPU_1"] = hangs
    assert "took longer" in why(read(bmc, access, 0.6))
    assert (bmc.asked[-1], bmc.sessions) == (f"DELETE {SESSIONS}/1", set())


def test_a_logout_that_would_delete_something_else_is_not_sent(bmc: Bmc, access: Access) -> None:
    def logs_in(handler: Handler) -> None:
        bmc.sessions.add(TOKEN)
        handler.answer(201, {}, {"X-Auth-Token": TOKEN, "Location": "/redfish/v1/AccountService/Accounts/1"})

    bmc.acts[SESSIONS] = logs_in
    assert isinstance(read(bmc, access), Known)
    assert {asked.split()[0] for asked in bmc.asked} == {"GET", "POST"}


@pytest.mark.parametrize("method", ["PATCH", "PUT", "HEAD", "OPTIONS", "POST", "DELETE"])
def test_the_guard_sends_nothing_but_reads(bmc: Bmc, ca_file: str, method: str) -> None:
    with requests.Session() as session:
        budget = guard.Budget(5)
        session.mount("https://", guard.Guard(bmc.address, guard.tls_context(ca_file, verify=True), budget))
        with pytest.raises(guard.RefusedError, match=f"{method} {SERVICE} is more than reading: not sent"):
            session.request(method, f"{bmc.address}{SERVICE}")
    assert bmc.asked == []


# --- whom to believe ----------------------------------------------------------------------------------------


def test_certificates_that_do_not_fit(ca: trustme.CA, ca_file: str, access: Access, tmp_path: Path) -> None:
    past = datetime.now(UTC) - timedelta(days=1)
    cases: dict[str, tuple[trustme.LeafCert, str]] = {
        "other": (trustme.CA().issue_cert("127.0.0.1"), "unable to get local issuer certificate"),
        "name": (ca.issue_cert("bmc.example.org"), "IP address mismatch"),
        "expired": (ca.issue_cert("127.0.0.1", not_after=past), "certificate has expired"),
    }
    for name, (leaf, told) in cases.items():
        (tmp_path / name).mkdir()
        with Bmc(written(leaf, tmp_path / name)) as bmc:
            said = why(read(bmc, access))
            assert said.startswith(f"/redfish/v1/: its certificate is not accepted: {told}")
            assert bmc.asked == []
            assert isinstance(read(bmc, replace(access, verify=False)), Known)


def test_without_a_ca_file_the_host_decides(bmc: Bmc, access: Access) -> None:
    assert "not accepted: unable to get" in why(read(bmc, replace(access, ca_file="")))


def test_what_the_environment_says_is_not_obeyed(
    bmc: Bmc, access: Access, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither its proxies, nor its certificates, nor the passwords in .netrc."""
    (tmp_path / "netrc").write_text("default login other password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none"))
    assert isinstance(read(bmc, access), Known)
    assert not [headers for headers in bmc.headers if "Authorization" in headers]


# --- the network --------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_nobody_listens(access: Access) -> None:
    answer = library_reader(access)(f"https://127.0.0.1:{free_port()}", 5)
    assert why(answer) == "/redfish/v1/: nothing listens there"


@pytest.mark.parametrize("address", ["https://127.0.0.1:99999", "https://[::1", "http://127.0.0.1"])
def test_an_address_that_is_none(access: Access, address: str) -> None:
    assert why(library_reader(access)(address, 5)) == f"{address} is no https address"


def served(talk: Callable[[socket.socket], None], access: Access, seconds: float) -> str:
    """What is said of a peer that accepts one connection and talks like this."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            peer, _ = listener.accept()
            with peer:
                talk(peer)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            return why(library_reader(access)(f"https://127.0.0.1:{listener.getsockname()[1]}", seconds))
        finally:
            thread.join()


def test_no_tls(access: Access) -> None:
    said = served(lambda peer: peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"), access, 5)
    assert said in {
        "/redfish/v1/: no TLS connection: WRONG_VERSION_NUMBER",
        "/redfish/v1/: no TLS connection: RECORD_LAYER_FAILURE",
        "/redfish/v1/: the connection failed: Connection reset by peer",
    }


def test_a_peer_that_never_shakes_hands(access: Access) -> None:
    begun = time.monotonic()
    said = served(lambda peer: time.sleep(1.0), access, 0.5)
    assert said == "/redfish/v1/: took longer than 0.5 s"
    assert time.monotonic() - begun < 3


# --- secrets ------------------------------------------------------------------------------------------------


def test_neither_password_nor_token_is_logged_or_told(
    bmc: Bmc, access: Access, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = []
    with caplog.at_level(logging.DEBUG):
        answers.append(read(bmc, access))
        answers.append(read(bmc, replace(access, password="wrong horse")))
        bmc.acts[SERVICE] = says(200, b"no JSON")
        answers.append(read(bmc, access))
    told = f"{caplog.text}{capfd.readouterr()}{answers}{access}"
    assert not [secret for secret in (PASSWORD, "wrong horse", TOKEN) if secret in told]


def test_a_large_inventory(bmc: Bmc, access: Access) -> None:
    bmc.resources = tree(**{f"PART_{number}": "1" for number in range(1025)})
    members = [bmc.resources[f"{INVENTORY}/PART_{number}"] for number in range(1025)]
    bmc.resources[INVENTORY] = {"Members": members}
    assert why(read(bmc, access)) == f"{INVENTORY}: lists more than 1024 components"
    bmc.resources[INVENTORY] = {"Members": members[:1024]}
    answer = read(bmc, access)
    assert isinstance(answer, Known) and len(answer.value.components) == 1024
    assert json.dumps(bmc.resources[INVENTORY])

"""A BMC that misbehaves on demand: sessions as Redfish has them, over TLS, on a loopback address."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INVENTORY = "/redfish/v1/UpdateService/FirmwareInventory"
SESSIONS = "/redfish/v1/SessionService/Sessions"
PASSWORD = "correct horse"
TOKEN = "0123456789abcdef"


@dataclass(frozen=True)
class Certificate:
    cert: str
    key: str


def tree(**versions: Any) -> dict[str, Any]:
    """The resources of a BMC that lists these components with these versions."""
    resources: dict[str, Any] = {
        "/redfish/v1/": {
            "Id": "RootService",
            "Links": {"Sessions": {"@odata.id": SESSIONS}},
            "UpdateService": {"@odata.id": "/redfish/v1/UpdateService"},
        },
        "/redfish/v1/UpdateService": {"Id": "UpdateService", "FirmwareInventory": {"@odata.id": INVENTORY}},
        INVENTORY: {"Members": [{"@odata.id": f"{INVENTORY}/{name}"} for name in versions]},
    }
    for name, version in versions.items():
        resources[f"{INVENTORY}/{name}"] = {
            "@odata.id": f"{INVENTORY}/{name}",
            "Id": name,
            "Name": f"Firmware of {name}",
            "Version": version,
            "Updateable": True,
            "Status": {"Health": "OK", "State": "Enabled"},
        }
    return resources


Act = Callable[["Handler"], None]


class Bmc:
    """One BMC: ``resources`` by path, and ``acts`` that answer a path instead."""

    def __init__(self, certificate: Certificate, host: str = "127.0.0.1") -> None:
        self.resources = tree(BMC_0="24.10-1", GPU_1="96.00.89", GPU_2="96.00.89")
        self.acts: dict[str, Act] = {}
        self.asked: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.sessions: set[str] = set()
        self.delay_s = 0.0
        self.over = threading.Event()
        self._server = _Server((host, 0), Handler)
        self._server.bmc = self
        self._server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._server.context.load_cert_chain(certificate.cert, certificate.key)
        self.address = f"https://{host}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Bmc:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    bmc: Bmc
    context: ssl.SSLContext

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.context.wrap_socket(request, server_side=True) as wrapped:
                super().finish_request(wrapped, client_address)
        except OSError:  # the client went away, or does not trust us
            pass

    def handle_error(self, *_: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        self.note()
        bmc, path = self.server.bmc, self.path
        time.sleep(bmc.delay_s)
        if path in bmc.acts:
            bmc.acts[path](self)
        elif path != "/redfish/v1/" and self.headers.get("X-Auth-Token") not in bmc.sessions:
            self.answer(401, {"error": "log in"})
        elif path in bmc.resources:
            self.answer(200, bmc.resources[path])
        else:
            self.answer(404, {"error": "not there"})

    def do_POST(self) -> None:
        self.note()
        bmc = self.server.bmc
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path in bmc.acts:
            bmc.acts[self.path](self)
        elif self.path != SESSIONS:
            self.answer(404, {})
        elif given != {"UserName": "reader", "Password": PASSWORD}:
            self.answer(401, {"error": "no"})
        else:
            bmc.sessions.add(TOKEN)
            self.answer(201, {}, {"X-Auth-Token": TOKEN, "Location": f"{SESSIONS}/1"})

    def do_DELETE(self) -> None:
        self.note()
        self.server.bmc.sessions.discard(self.headers.get("X-Auth-Token", ""))
        self.answer(204, None)

    def note(self) -> None:
        self.server.bmc.asked.append(f"{self.command} {self.path}")
        self.server.bmc.headers.append(dict(self.headers))

    def answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        body = b"" if value is None else json.dumps(value).encode()
        self.raw(status, body, headers)

    def raw(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def says(status: int, body: bytes, headers: dict[str, str] | None = None) -> Act:
    """Answers with these bytes."""
    return lambda handler: handler.raw(status, body, headers)


def hangs(handler: Handler) -> None:
    """Never answers."""
    handler.server.bmc.over.wait(60)


def drips(handler: Handler) -> None:
    """Sends its answer a byte at a time, for ever."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while not handler.server.bmc.over.wait(0.05):
        handler.wfile.write(b" ")
        handler.wfile.flush()


def drips_headers(handler: Handler) -> None:
    """The same before the first header ends."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.bmc.over.wait(0.05):
        handler.wfile.write(b"a")
        handler.wfile.flush()


def pours(handler: Handler) -> None:
    """Sends more than anybody wants."""
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    while not handler.server.bmc.over.is_set():
        handler.wfile.write(b" " * 65536)


def breaks_off(handler: Handler) -> None:
    """Ends the connection in the middle of its answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"Members": [')
    handler.wfile.flush()
    handler.close_connection = True

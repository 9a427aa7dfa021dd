"""sushy-tools' emulator on many loopback addresses at once, with the one resource that it links to and lacks.

The service root, UpdateService, errors and basic authentication are the emulator's own code (its WSGI
application, with its fake driver); FirmwareInventory and its members, and the delay before each answer, are
added here. Run as a program, it takes a JSON file and prints the addresses that it serves.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bcrypt
from fault_bmc import INVENTORY, Certificate

USER = "reader"
PASSWORD = "correct horse"


def serve(settings: Mapping[str, Any]) -> None:
    import flask  # noqa: PLC0415  (these only in the program)
    from sushy_tools.emulator.main import app  # noqa: PLC0415
    from werkzeug.serving import make_server  # noqa: PLC0415

    app.configure(
        extra_config={
            "SUSHY_EMULATOR_FAKE_DRIVER": True,
            "SUSHY_EMULATOR_AUTH_FILE": settings["auth_file"],
            "SUSHY_EMULATOR_STATE_DIR": settings["folder"],
        }
    )
    inventory = flask.Blueprint("FirmwareInventory", __name__)
    versions = settings["versions"]

    def listed() -> Mapping[str, str]:
        found: Mapping[str, str] = versions.get(flask.request.host.partition(":")[0], versions["*"])
        return found

    @inventory.before_app_request
    def wait() -> None:
        time.sleep(settings["delay_s"])

    @inventory.route(INVENTORY)
    def collection() -> object:
        return {"Members": [{"@odata.id": f"{INVENTORY}/{name}"} for name in listed()]}

    @inventory.route(f"{INVENTORY}/<name>")
    def member(name: str) -> object:
        return {"Id": name, "Name": name, "Version": listed()[name], "Updateable": True}

    app.register_blueprint(inventory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(settings["cert"], settings["key"])
    for host in settings["hosts"]:
        listener = socket.create_server((
            host,
            0,
        ))  # by itself it would ask for the host's name, which takes time
        server = make_server(host, 0, app, threaded=True, ssl_context=context, fd=listener.fileno())
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(f"https://{host}:{server.port}", flush=True)
    print("ready", flush=True)
    sys.stdin.read()  # until whoever started us is gone


@contextmanager
def emulated(
    hosts: list[str],
    versions: Mapping[str, Mapping[str, str]],
    certificate: Certificate,
    folder: Path,
    delay_s: float = 0.0,
) -> Iterator[list[str]]:
    """The addresses of emulated BMCs, while they run. ``versions`` is by host, "*" for all others."""
    write_auth(folder / "auth")
    settings = {
        "hosts": hosts,
        "versions": versions,
        "delay_s": delay_s,
        "cert": certificate.cert,
        "key": certificate.key,
        "auth_file": str(folder / "auth"),
        "folder": str(folder),
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    argv = [sys.executable, __file__, str(folder / "settings.json")]
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONWARNINGS"}
    pipe = subprocess.PIPE
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment) as child,
    ):
        assert child.stdout is not None and child.stdin is not None
        try:
            said = [line.strip() for line in iter(child.stdout.readline, "ready\n") if line]
            assert len(said) == len(hosts), (folder / "log").read_text()
            yield said
        finally:
            child.stdin.close()
            child.wait(30)


def write_auth(path: Path) -> None:
    path.write_text(f"{USER}:{bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()}\n")


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text()))

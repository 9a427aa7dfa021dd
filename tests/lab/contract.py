"""Slurms that the contract tests run on: the lab's, and one that is started from any installation."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from slurm_gsp import process
from slurm_gsp.lab.cluster import Lab
from slurm_gsp.slurm.choose import Place

NODES = ("n1", "n2", "n3")
NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
WAIT_S = 2
"""MessageTimeout: how long libslurm looks for a controller that is away."""


class Ground(Protocol):
    """A Slurm with three nodes, of which anything may be asked."""

    place: Place

    def run(self, argv: Sequence[str], **options: object) -> process.Finished:
        """``process.run``, where the commands of this Slurm are."""
        ...

    def converse(self, argv: Sequence[str], **options: object) -> process.Finished:
        """``process.converse`` there."""
        ...

    def nobody(self) -> Ground:
        """The same, for a user who may nothing."""
        ...

    def stop_controller(self) -> None: ...

    def start_controller(self) -> None: ...


def scontrol(ground: Ground, *words: str, check: bool = True) -> str:
    """What scontrol prints; times in UTC."""
    done = ground.run(
        (ground.place.scontrol, *words),
        deadline_s=20,
        env={"TZ": "UTC0", "SLURM_CONF": str(ground.place.conf)},
    )
    assert not check or done.rc == 0, done
    return done.stdout


def wait_for(what: Callable[[], object], told: str, seconds: float = 30) -> None:
    """Wait until it is so."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, f"waited {seconds:g} s in vain: {told}"
        time.sleep(0.1)


class LabGround:
    """The lab's Slurm: the host's own, or that of a suite."""

    def __init__(self, lab: Lab, before: Sequence[str] = ()) -> None:
        self.lab = lab
        self.before = before
        self.place = Place(conf=str(lab.conf))

    def run(self, argv: Sequence[str], **options: object) -> process.Finished:
        return self._start(process.run, argv, options)

    def converse(self, argv: Sequence[str], **options: object) -> process.Finished:
        return self._start(process.converse, argv, options)

    def _start(self, start: Callable[..., process.Finished], argv: Sequence[str], options: dict[str, object]):
        program, *words = argv
        command = self.lab.slurm_command([*self.before, Path(program).name, *words])
        env = {"PATH": self.lab.environment["PATH"], **(options.pop("env", None) or {})}
        return start(command, env=env, **options)

    def nobody(self) -> LabGround:
        return LabGround(self.lab, AS_NOBODY)

    def stop_controller(self) -> None:
        self.lab.ctld_stop()

    def start_controller(self) -> None:
        self.lab.ctld_start()


@contextmanager
def lab_ground(suite: str) -> Iterator[LabGround]:
    with _folder() as folder:
        settings = [f"MessageTimeout={WAIT_S}", "ResumeTimeout=30"]
        with Lab.up(folder / "l", nodes=len(NODES), hooks=False, settings=settings, suite=suite) as running:
            yield LabGround(running)


class OwnGround:
    """A Slurm on this host's loopback, from the installation below a prefix."""

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.prefix = prefix
        self.folder = folder
        self.before: Sequence[str] = ()
        self.place = Place(str(prefix / "bin/scontrol"), str(folder / "slurm.conf"))
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def set_up(self) -> None:
        """Write what the daemons read."""
        folder = self.folder
        for name in ("state", "spool", "log"):
            (folder / name).mkdir()
        port = _free_ports(2 + len(NODES))
        (folder / "slurm.conf").write_text(_conf(folder, port))
        release = tuple(map(int, re.findall(r"\d+", self._version())[:2]))
        plugin = "disabled" if release >= (23, 11) else "cgroup/v1"
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")
        key = folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))

    def _version(self) -> str:
        return self.run((self.place.scontrol, "--version"), deadline_s=10, env=self._env).stdout

    @property
    def _env(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.place.conf)}

    def start(self) -> None:
        files = [
            f"--{name}={self.folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")
        ]
        key = f"--key-file={self.folder}/munge.key"
        munged = shutil.which("munged", path="/usr/sbin:/usr/bin:/usr/local/sbin")
        assert munged is not None, "munged is not installed"
        self._spawn("munged", munged, "--foreground", "--force", key, *files)
        wait_for((self.folder / "munge.socket").exists, "munged")
        self.start_controller()
        for name in NODES:
            self._spawn(name, str(self.prefix / "sbin/slurmd"), "-D", "-N", name)
        names = ("show", "node")
        wait_for(lambda: scontrol(self, "-o", *names).count(" State=IDLE ") == len(NODES), "the nodes", 60)

    def stop(self) -> None:
        for name in reversed(self._running):
            self._end(name)

    def run(self, argv: Sequence[str], **options: object) -> process.Finished:
        return process.run([*self.before, *argv], **options)

    def converse(self, argv: Sequence[str], **options: object) -> process.Finished:
        return process.converse([*self.before, *argv], **options)

    def nobody(self) -> OwnGround:
        user = OwnGround(self.prefix, self.folder)
        user.before = ("/usr/bin/env", *AS_NOBODY)
        return user

    def stop_controller(self) -> None:
        self._end("slurmctld")

    def start_controller(self) -> None:
        self._spawn("slurmctld", str(self.prefix / "sbin/slurmctld"), "-D")
        wait_for(lambda: "is UP" in scontrol(self, "ping", check=False), "slurmctld")

    def _spawn(self, name: str, *argv: str) -> None:
        with (self.folder / f"log/{name}.out").open("ab") as log:
            self._running[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **self._env}
            )

    def _end(self, name: str) -> None:
        running = self._running[name]
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
            running.wait(30)


@contextmanager
def own_ground(prefix: Path) -> Iterator[OwnGround]:
    with _folder() as folder:
        ground = OwnGround(prefix, folder)
        try:
            ground.set_up()
            ground.start()
            yield ground
        finally:
            ground.stop()


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that users can read, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="gsp-contract-", dir="/var/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    for first in range(17000, 17900, 20):
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports from 17000 on")


def _conf(folder: Path, port: int) -> str:
    host = socket.gethostname().split(".")[0]
    nodes = "".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 2 + number} "
        "CPUs=4 RealMemory=100\n"
        for number, name in enumerate(NODES)
    )
    return f"""\
ClusterName=contract
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={port + 1}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=1
MessageTimeout={WAIT_S}
ResumeTimeout=30
RebootProgram=/bin/true
{nodes}PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

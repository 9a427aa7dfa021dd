"""A lab: munged, slurmctld and virtual GPU nodes in one folder, and what one can do with them."""

import dataclasses
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slurm_gsp.lab import driver, golden, init, procs, rehearsal, releases, suite
from slurm_gsp.lab.procs import LabError, tool

DEFAULT_DIR = Path("/var/tmp/slurm-gsp-lab")  # noqa: S108 - root's own folder in it, refused where it is another's
INSTALLED_AT = suite.INSTALLED_AT
GPUS = ("0000:06:00.0", "0000:07:00.0")
VARIANTS: dict[str, dict[str, Any]] = {
    "h100": {},
    "a100": {
        "device": "0x20b2",
        "model": "NVIDIA A100-SXM4-80GB",
        "chip": "ga100",
        "image": "gsp_tu10x.bin",
        "vbios": "92.00.45.00.03",
    },
    "l40s": {"device": "0x26b9", "model": "NVIDIA L40S", "chip": "ad10x", "vbios": "95.02.66.00.02"},
}
"""The GPUs that a node can have, by their name in Gres; each differs from the first by these values."""
MARKER = "lab.json"
_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_FIRST_PORT, _LAST_PORT, _BLOCK = 18000, 18999, 100
_NEEDS = {
    "munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "scontrol": "slurm-client",
    "unshare": "util-linux", "nsenter": "util-linux", "gcc": "gcc", "dpkg-deb": "dpkg", "apt-get": "apt",
    "chroot": "coreutils", "ldconfig": "libc-bin", "gpg": "gpg", "gpg-agent": "gpg-agent",
}  # fmt: skip


def lacks() -> list[str]:
    """What this host lacks for a lab, in plain words; empty where a lab can run."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root: a node is made of mounts and namespaces")
    for program, package in _NEEDS.items():
        if procs.find_tool(program) is None:
            missing.append(f"{program} (Debian package {package})")
    if not missing and not _may_unshare():
        missing.append("the right to make mount and PID namespaces (in a container: --privileged)")
    if not any("overlay" in line.split() for line in Path("/proc/filesystems").read_text().splitlines()):
        missing.append("overlayfs in the kernel (modprobe overlay)")
    return missing


def _may_unshare() -> bool:
    command = [tool("unshare"), "--mount", "--uts", "--pid", "--fork", tool("true")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def slurm_version() -> tuple[int, int]:
    """The release of the host's own Slurm."""
    text = subprocess.run([tool("slurmctld"), "-V"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"(\d+)\.(\d+)", text)
    if match is None:
        raise LabError(f"slurmctld -V says {text!r}: no version in it")
    return int(match[1]), int(match[2])


class Node:
    """One virtual node, seen from the host."""

    def __init__(self, lab: "Lab", name: str) -> None:
        self.lab = lab
        self.name = name
        self.folder = lab.directory / "nodes" / name

    @property
    def pid(self) -> int:
        """The node's PID 1, as the host numbers it."""
        pid = procs.recorded(self.lab.directory / "pids" / f"{self.name}.init")
        if pid is None:
            raise LabError(f"{self.name} is not running")
        return pid

    @property
    def root(self) -> Path:
        """The node's root folder; absolute symlinks below it lead astray, relative ones do not."""
        return Path(f"/proc/{self.pid}/root")

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def read(self, path: str) -> str:
        return self.path(path).read_text()

    def write(self, path: str, text: str | bytes) -> None:
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    @property
    def boot_id(self) -> str:
        return self.read(str(init.BOOT_ID)).strip()

    @property
    def release(self) -> str:
        return self.read(str(init.OSRELEASE)).strip()

    @property
    def hardware(self) -> driver.Hardware:
        return driver.Hardware.from_json((self.folder / "lab/hardware.json").read_text())

    @hardware.setter
    def hardware(self, value: driver.Hardware) -> None:
        (self.folder / "lab/hardware.json").write_text(value.to_json())

    def command(self, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> list[str]:
        """The command line that runs `argv` inside the node, with a login's environment."""
        variables = {**golden.ENVIRONMENT, "TERM": os.environ.get("TERM", "dumb"), **(env or {})}
        enter = [tool("nsenter"), "-t", str(self.pid), "--mount", "--uts", "--pid", "--root", "--wd"]
        return [*enter, "/usr/bin/env", "-i", *(f"{k}={v}" for k, v in variables.items()), *map(str, argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the node as root and return what it said."""
        return _run(self.command(argv, env), check=check, timeout=timeout, stdin=stdin)

    def popen(self, argv: Sequence[str | Path], **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(self.command(argv), text=True, **options)

    def log_kernel(self, text: str, level: int = 3) -> None:
        """Append a record to the node's kernel log."""
        records = self.read(str(init.KMSG)).splitlines()
        sequence, microseconds = (int(value) for value in records[-1].split(",")[1:3]) if records else (-1, 0)
        with self.path(str(init.KMSG)).open("a") as log:
            log.write(driver.kmsg_record(sequence + 1, microseconds + 1000, level, text))

    @property
    def boots(self) -> int:
        file = self.folder / "lab/boots"
        return int(file.read_text()) if file.exists() else 0

    def reboot(self, *, quiet: bool = False, wait: bool = True) -> None:
        """Reboot as the power button does; quiet: so that Slurm does not see that it booted."""
        boots = self.boots
        os.kill(self.pid, signal.SIGUSR2 if quiet else signal.SIGINT)
        if wait:
            self.lab.wait_for(lambda: self.boots > boots, 30, f"{self.name} back from its reboot")

    def renew(self) -> None:
        """Throw the node away and put a new one in its place."""
        self.lab._stop_node(self.name)
        self.lab._start_node(self.name)
        self.lab.wait_for(lambda: self.boots > 0, 30, f"{self.name} booted")

    @property
    def state(self) -> str:
        """The node's state words as scontrol prints them, e.g. IDLE+DRAIN."""
        return self._slurm_field("State")

    @property
    def reason(self) -> str:
        match = re.search(r"^ *Reason=(.*?)(?: \[\S+@\S+\])?$", self._show(), re.MULTILINE)
        return match[1] if match else ""

    def _slurm_field(self, name: str) -> str:
        match = re.search(rf"\b{name}=(\S*)", self._show())
        return match[1] if match else ""

    def _show(self) -> str:
        return self.lab.slurm(["scontrol", "show", "node", self.name]).stdout

    def layers(self) -> dict[str, str]:
        """What each layer of the driver is at now: read from the files, judged by nobody."""

        def first(path: str) -> str:
            try:
                return self.read(path).strip()
            except OSError:
                return "-"

        def library(name: str) -> str:
            """What the loader's cache gives; the version is in the name behind the link."""
            pattern = rf"{name}\.so\.1 .*=> (\S+)"
            match = re.search(pattern, self.run(["ldconfig", "-p"], check=False).stdout)
            target = (
                self.path(match[1]).readlink().name if match and self.path(match[1]).is_symlink() else "-"
            )
            return target.removeprefix(f"{name}.so.")

        def running(bus: str) -> str:
            match = re.search(r"GPU Firmware:\s*(\S+)", first(f"/proc/driver/nvidia/gpus/{bus}/information"))
            return match[1] if match else "-"

        buses = sorted(path.name for path in self.path("/sys/bus/pci/devices").iterdir())
        on_disk = driver.modules_on_disk(self.root, self.release)
        images = sorted({path.parent.name for path in self.path("/lib/firmware/nvidia").glob("*/gsp_*.bin")})
        return {
            "kernel": self.release,
            "loaded": first("/sys/module/nvidia/version"),
            "module on disk": on_disk["nvidia"].version if "nvidia" in on_disk else "-",
            "GSP running": " ".join(running(bus) for bus in buses) or "-",
            "GSP images": " ".join(images) or "-",
            "libnvidia-ml": library("libnvidia-ml"),
            "libcuda": library("libcuda"),
        }


class Lab:
    """A running lab in one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        values = json.loads((directory / MARKER).read_text())
        self.port: int = values["port"]
        self.node_names: list[str] = values["nodes"]
        self.hooks: bool = values["hooks"]
        self.interval: int = values["interval"]
        self.settings: list[str] = values["settings"]
        self.suite: str = values.get("suite", releases.HOST)
        self.variants: list[str] = values.get("variants", [])
        self.lower = Path(values.get("lower", "/"))

    @classmethod
    def open(cls, directory: Path = DEFAULT_DIR) -> "Lab":
        """The lab that `up` left in this folder."""
        directory = directory.resolve()
        if not (directory / MARKER).is_file():
            raise LabError(f"there is no lab in {directory}: start one with `slurm-gsp lab up`")
        return cls(directory)

    @classmethod
    def up(  # noqa: PLR0913 - keywords with defaults, one for each option of `lab up`
        cls,
        directory: Path = DEFAULT_DIR,
        *,
        nodes: int = 4,
        settings: Sequence[str] = (),
        interval: int = 5,
        hooks: bool = True,
        cache: Path = golden.DEFAULT_CACHE,
        suite: str = releases.HOST,
        variants: Sequence[str] = ("h100",),
    ) -> "Lab":
        """Start a lab and wait until its nodes have registered; a suite brings its own Slurm.

        With several ``variants`` (keys of VARIANTS), the nodes are shared out among them in blocks.
        """
        directory = directory.resolve()
        missing = lacks()
        if missing:
            raise LabError("the lab needs and does not find: " + "; ".join(missing))
        _check_directory(directory)
        if hooks and not (_REPOSITORY / "healthcheck").exists():
            raise LabError(f"no hooks in {_REPOSITORY}: use a checkout of the project, or --no-hooks")
        lower = _lower(cache.resolve(), suite, hooks=hooks)
        layer = golden.ensure(cache.resolve(), lower)
        with _free_port() as port:
            directory.mkdir(parents=True, exist_ok=True)
            values = {
                "port": port,
                "nodes": [f"n{i}" for i in range(1, nodes + 1)],
                "hooks": hooks,
                "interval": interval,
                "settings": list(settings),
                "suite": suite,
                "lower": str(lower),
                "variants": [variants[i * len(variants) // nodes] for i in range(nodes)],
            }
            (directory / MARKER).write_text(json.dumps(values, indent=1))
            lab = cls(directory)
            try:
                for folder in (
                    "pids",
                    "state",
                    "cluster/etc",
                    "cluster/run",
                    "cluster/log",
                    "cluster/shared",
                    "cluster/manifests",
                ):
                    (directory / folder).mkdir(parents=True)
                shutil.copytree(layer, directory / "golden", symlinks=True)
                lab._start()
            except BaseException:
                lab.down()
                raise
        return lab

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def conf(self) -> Path:
        return self.directory / "cluster/etc/slurm.conf"

    @property
    def shared(self) -> Path:
        """A folder that the host and all nodes see at the same path."""
        return self.directory / "cluster/shared"

    @property
    def manifests(self) -> Path:
        """What every node shows, read-only, as /etc/slurm-gsp/manifests."""
        return self.directory / "cluster/manifests"

    @property
    def environment(self) -> dict[str, str]:
        own = {"PATH": golden.PATH} if self.suite else {}
        return {**os.environ, **own, "SLURM_CONF": str(self.conf)}

    @property
    def release(self) -> releases.Release:
        """What is known of the Slurm that runs here."""
        return releases.of_suite(self.suite) if self.suite else releases.fitting(slurm_version())

    @property
    def nodes(self) -> list[Node]:
        return [Node(self, name) for name in self.node_names]

    def node(self, name: str) -> Node:
        if name not in self.node_names:
            raise LabError(f"there is no node {name}: the lab has {', '.join(self.node_names)}")
        return Node(self, name)

    def fault(self, node: str, name: str) -> None:
        """Break a node in a named way (see faults.py), or `heal` it."""
        from slurm_gsp.lab import faults  # noqa: PLC0415 - faults.py needs this module

        faults.inject(self.node(node), name)

    def slurm(
        self, argv: Sequence[str | Path], *, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a Slurm command of the lab's release against this lab's cluster."""
        return _run(self.slurm_command(argv), check=check, timeout=timeout, stdin=stdin, env=self.environment)

    def slurm_command(self, argv: Sequence[str | Path]) -> list[str]:
        """The command line of a Slurm program: the host's, or in the control machine that of the suite."""
        program, *arguments = map(str, argv)
        if not self.suite:
            return [tool(program), *arguments]
        pid = procs.recorded(self.directory / "pids/control")
        if pid is None:
            raise LabError("the lab's control machine is not running")
        return [tool("nsenter"), "-t", str(pid), "--mount", "--root", "--wd", program, *arguments]

    def wait_for(self, predicate: Callable[[], bool], timeout: float = 30, what: str = "") -> None:
        """Wait until the predicate holds; LabError past the deadline."""
        if not procs.wait_until(predicate, timeout):
            raise LabError(f"waited {timeout:g} s in vain for {what or 'a condition'}")

    def ctld_start(self) -> None:
        """Start slurmctld and wait until it answers."""
        record = self.directory / "pids/slurmctld"
        log = self.directory / "cluster/log/slurmctld.out"
        if procs.recorded(record) is None:
            procs.spawn(self.slurm_command(["slurmctld", "-D"]), record, log, self.environment)

        def answers() -> bool:
            if procs.gone(record):
                raise LabError(f"slurmctld ended at once; it said:\n{log.read_text()[-2000:]}")
            return "is UP" in self.slurm(["scontrol", "ping"], check=False).stdout

        self.wait_for(answers, 20, "slurmctld (its log: cluster/log/slurmctld.log)")

    def ctld_stop(self) -> None:
        """Stop slurmctld; jobs and slurmds run on."""
        procs.end(self.directory / "pids/slurmctld")

    def down(self) -> None:
        """Stop everything that this lab started, wherever it was left, and remove its folder."""
        for name in self.node_names:
            self._stop_node(name)
        for name in ("slurmctld", "munged", "control"):
            procs.end(self.directory / "pids" / name)
        _unmount_below(self.directory)
        shutil.rmtree(self.directory)

    def _start(self) -> None:
        (self.directory / "cluster").chmod(0o755)
        (self.directory / "state").chmod(0o700)
        self._write_conf()
        rehearsal.prepare(self.manifests, self.site, self.conf, self.by_variant())
        for name in self.node_names:
            self._start_node(name)
        if self.suite:
            self._start_control()
        self._start_munged()
        self.ctld_start()
        self.wait_for(self._registered, 60, "the nodes to register (logs: cluster/log/)")

    def _registered(self) -> bool:
        for node in self.nodes:
            console = self.directory / f"cluster/log/{node.name}.console"
            if procs.gone(self.directory / "pids" / node.name):
                raise LabError(f"{node.name} did not come up; its console says:\n{console.read_text()}")
        states = self.slurm(["sinfo", "-h", "-N", "-o", "%T"], check=False).stdout.split()
        return len(states) == len(self.node_names) and not any(
            re.search(r"\*$|unk|down|future", state) for state in states
        )

    def _start_control(self) -> None:
        """Start the machine of the suite in which slurmctld, munged and the clients run."""
        ready = self.directory / "control.ready"
        hosts = [socket.gethostname(), *self.node_names]
        module = [sys.executable, "-m", "slurm_gsp.lab.control"]
        command: list[str | Path] = [tool("unshare"), "--mount", *module, self.lower, self.directory, ready]
        log = self.directory / "cluster/log/control.out"
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        procs.spawn([*command, *hosts], self.directory / "pids/control", log, environment)
        self.wait_for(ready.exists, 10, "the control machine (its log: cluster/log/control.out)")

    def _start_munged(self) -> None:
        cluster = self.directory / "cluster"
        key = self.directory / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        options = {
            "key-file": key,
            "socket": cluster / "run/munge.sock",
            "pid-file": self.directory / "munged.pid",
            "log-file": cluster / "log/munged.log",
            "seed-file": self.directory / "munged.seed",
            "num-threads": 4,
        }
        argv = ["munged", "--foreground", "--force", *(f"--{k}={v}" for k, v in options.items())]
        record = self.directory / "pids/munged"
        procs.spawn(self.slurm_command(argv), record, cluster / "log/munged.out", self.environment)
        self.wait_for((cluster / "run/munge.sock").exists, 10, "munged (its log: cluster/log/munged.out)")

    def by_variant(self) -> dict[str, list[str]]:
        """The nodes of each variant that there is."""
        found: dict[str, list[str]] = {}
        for name in self.node_names:
            found.setdefault(self.variant(name), []).append(name)
        return found

    @property
    def site(self) -> Path:
        """The admin's side of campaigns: a folder with config.toml, and the ledger later."""
        return self.directory / "cluster/site"

    def variant(self, node: str) -> str:
        """Which GPUs a node has."""
        return self.variants[self.node_names.index(node)] if self.variants else "h100"

    def _write_conf(self) -> None:
        etc = self.conf.parent
        etc.joinpath("slurm.conf").write_text(slurm_conf(self))
        gres = [
            f"NodeName={','.join(nodes)} Name=gpu Type={variant} File=/dev/nvidia[0-1]\n"
            for variant, nodes in self.by_variant().items()
        ]
        etc.joinpath("gres.conf").write_text("AutoDetect=off\n" + "".join(gres))
        etc.joinpath("cgroup.conf").write_text(f"CgroupPlugin={self.release.cgroup_plugin}\n")

    def _start_node(self, name: str) -> None:
        node = Node(self, name)
        for folder in ("mnt", "lab"):
            (node.folder / folder).mkdir(parents=True, exist_ok=True)
        node.hardware = new_hardware(name, self.variant(name))
        cluster = self.directory / "cluster"
        binds = [
            *([str(path), str(path), "ro"] for path in self._host_folders()),
            [str(_REPOSITORY), INSTALLED_AT, "ro"],
            *([[str(self.lower) + suite.VENV, f"{INSTALLED_AT}/.venv", "ro"]] if self._own_venv() else []),
            [str(cluster), str(cluster), "rw"],
            [str(cluster / "etc"), "/etc/slurm", "ro"],
            [str(self.manifests), "/etc/slurm-gsp/manifests", "ro"],
        ]
        settings = init.Settings(
            name=name,
            folder=str(node.folder),
            golden=str(self.directory / "golden"),
            lower=str(self.lower),
            size="128m",
            binds=binds,
            hosts=[socket.gethostname(), *self.node_names],
            slurmd="/usr/sbin/slurmd" if self.suite else tool("slurmd"),
            gpus=len(GPUS),
        )
        file = node.folder / "settings.json"
        file.write_text(json.dumps(dataclasses.asdict(settings), indent=1))
        pids = self.directory / "pids"
        python: list[str | Path] = [sys.executable, "-m", "slurm_gsp.lab.init", file, pids / f"{name}.init"]
        command: list[str | Path] = [
            tool("unshare"),
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            *python,
        ]
        environment = {**os.environ, "PYTHONPATH": str(_REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        procs.spawn(command, pids / name, cluster / f"log/{name}.console", environment)

    def _host_folders(self) -> list[Path]:
        """What a node shows of the host besides its root: the checkout's interpreter, where it can run."""
        return [] if self.suite else _unreachable(_REPOSITORY)

    def _own_venv(self) -> bool:
        """Whether the nodes show the suite's own environment in the place of the checkout's."""
        return bool(self.suite) and (_REPOSITORY / ".venv").is_dir()

    def _stop_node(self, name: str) -> None:
        """Cut a node's power: its namespaces, and with them its mounts, end with its PID 1."""
        pids = self.directory / "pids"
        for record in (pids / f"{name}.init", pids / name):
            pid = procs.recorded(record)
            if pid is not None:
                procs.send(pid, signal.SIGKILL)
                self.wait_for(partial(procs.gone, record), 15, f"{name} to end")
                procs.reap(pid)
            record.unlink(missing_ok=True)
        (self.directory / "nodes" / name / "lab/boots").unlink(missing_ok=True)


def _lower(cache: Path, name: str, *, hooks: bool) -> Path:
    """The root that the nodes are an overlay of."""
    if name == releases.HOST:
        return Path("/")
    if hooks and not (_REPOSITORY / ".venv").is_dir():
        raise LabError(f"no .venv in {_REPOSITORY} to show the suite's own in its place: `make setup` first")
    return suite.ensure(cache, name)


def new_hardware(name: str, variant: str = "h100") -> driver.Hardware:
    """Two GPUs that always have the same UUIDs in a node of this name."""
    return driver.Hardware(
        gpus=tuple(
            driver.Gpu(
                bus=bus, uuid=f"GPU-{uuid.uuid5(uuid.NAMESPACE_DNS, f'{name}.{bus}')}", **VARIANTS[variant]
            )
            for bus in GPUS
        )
    )


def slurm_conf(lab: Lab) -> str:
    """The cluster's configuration; a --set line replaces the line of the same key."""
    cluster = lab.directory / "cluster"
    values = {
        "ClusterName": "lab",
        "SlurmctldHost": f"{socket.gethostname().split('.')[0]}(127.0.0.1)",
        "SlurmctldPort": lab.port,
        "SlurmdPort": lab.port + 1,
        "SrunPortRange": f"{lab.port + 50}-{lab.port + _BLOCK - 1}",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={cluster}/run/munge.sock,cred_expire=10",  # a requeued job waits as long as this
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "StateSaveLocation": lab.directory / "state",
        "SlurmdSpoolDir": "/var/spool/slurmd",
        "SlurmctldPidFile": lab.directory / "slurmctld.pid",
        "SlurmdPidFile": "/run/slurmd.pid",
        "SlurmctldLogFile": cluster / "log/slurmctld.log",
        "SlurmdLogFile": cluster / "log/slurmd-%n.log",
        "SlurmctldDebug": "verbose",
        "SlurmdDebug": "verbose",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core",
        "SchedulerType": "sched/backfill",
        "SchedulerParameters": "bf_interval=5,nohold_on_prolog_fail",
        "SlurmdParameters": "config_overrides",
        "ReturnToService": 1,
        "SlurmctldTimeout": 60,
        "SlurmdTimeout": 60,
        "ResumeTimeout": 60,
        "MessageTimeout": 10,
        "RebootProgram": "/usr/sbin/reboot",
        "GresTypes": "gpu",
        "MpiDefault": "none",
    }
    if lab.hooks:
        values |= {
            "HealthCheckProgram": f"{INSTALLED_AT}/healthcheck",
            "HealthCheckInterval": lab.interval,
            "HealthCheckNodeState": "ANY,CYCLE",
            "Prolog": f"{INSTALLED_AT}/prolog",
            "Epilog": f"{INSTALLED_AT}/epilog",
            "PrologFlags": "Alloc",
            "RebootProgram": f"{INSTALLED_AT}/slurm-gsp-reboot",
        }
    asked = {line.split("=", 1)[0].lower() for line in lab.settings}
    lines = [f"{key}={value}" for key, value in values.items() if key.lower() not in asked]
    for variant, nodes in lab.by_variant().items():
        first, last = (lab.node_names.index(name) + 1 for name in (nodes[0], nodes[-1]))
        lines.append(
            f"NodeName=n[{first}-{last}] NodeHostname=n[{first}-{last}] NodeAddr=127.0.0.1 "
            f"Port=[{lab.port + 9 + first}-{lab.port + 9 + last}] CPUs=4 RealMemory=2000 "
            f"Gres=gpu:{variant}:{len(GPUS)} State=UNKNOWN"
        )
    lines += [
        "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
        *lab.settings,
    ]
    return "\n".join(lines) + "\n"


def _run(
    command: Sequence[str],
    *,
    check: bool,
    timeout: float,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with a deadline; on failure say what it said."""
    try:
        done = subprocess.run(
            command,
            input=stdin or "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=env,
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(command[-6:])}: not done after {timeout:g} s") from error
    if check and done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise LabError(f"{' '.join(command[-6:])}: exit code {done.returncode}: {output}")
    return done


def _check_directory(directory: Path) -> None:
    """Refuse a folder that is in use, too deep for a socket's name, or hidden inside a node."""
    if (directory / MARKER).exists():
        raise LabError(f"{directory} holds a lab already: `slurm-gsp lab down --dir {directory}` first")
    if directory.exists() and any(directory.iterdir()):
        raise LabError(f"{directory} is not empty and not a lab")
    if len(str(directory)) > 80:
        raise LabError(f"{directory} is too long a name: a UNIX socket's path ends at 107 characters")
    if any(directory.is_relative_to(top) for top in ("/proc", "/sys", "/dev", "/run", "/var/run")):
        raise LabError(f"{directory} lies in a folder that every node replaces by its own")


@contextmanager
def _free_port() -> Iterator[int]:
    """The first of a block of ports that nobody listens on; held against other labs while this one starts."""
    for port in range(_FIRST_PORT, _LAST_PORT, _BLOCK):
        with socket.socket(socket.AF_UNIX) as claim:
            try:
                claim.bind(f"\0slurm-gsp-lab-{port}")
            except OSError:
                continue
            if all(_is_free(number) for number in range(port, port + 50)):
                yield port
                return
    raise LabError(f"no {_BLOCK} free ports together between {_FIRST_PORT} and {_LAST_PORT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _unreachable(repository: Path) -> list[Path]:
    """Folders that programs in the node need and that do not lie on the host's root file system."""
    root = Path("/").stat().st_dev
    wanted = {repository, Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()}
    hidden = ("/tmp", "/run", "/dev")  # noqa: S108 - each node has its own
    return sorted(
        path
        for path in wanted
        if path.stat().st_dev != root or any(path.is_relative_to(folder) for folder in hidden)
    )


def _unmount_below(directory: Path) -> None:
    """Take away mounts below a folder, deepest first; there are none unless something went very wrong."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if Path(p).is_relative_to(directory)), reverse=True):
        subprocess.run([tool("umount"), "--lazy", point], check=False)

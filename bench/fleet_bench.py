"""How long `slurm-gsp fleet` takes beside the one read that it cannot do without, on a real slurmctld.

    .venv/bin/python bench/fleet_bench.py [--nodes 1000 10000] [--pairs 15]      # root; minutes

The slurmctld holds that many nodes. None has a slurmd, but each was registered once by a real one, so that it
is idle and has a boot time, and its Extra has what a node publishes. Each run of the command is paired with
one of `scontrol -o show node > /dev/null`, one after the other; the ratio is the median over the pairs. Each
pair waits (up to 20 s) until nothing else runs on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from slurm_gsp.core import published
from slurm_gsp.lab import releases
from slurm_gsp.lab.cluster import slurm_version
from slurm_gsp.lab.procs import tool
from slurm_gsp.process import DEFAULT_ENV

FIRST_PORT = 16500
AT_ONCE = 2
"""Registrations at a time; each needs a port of its own."""
TUPLES = (
    (90, "580.95.05", "5.15.0-161-generic", "96.00.A5.00.01", "consistent", ""),
    (4, "580.95.05", "5.15.0-163-generic", "96.00.A5.00.01", "consistent", ""),
    (2, "580.95.05", "5.15.0-161-generic", "96.00.89.00.01", "consistent", ""),
    (1, "570.172.08", "5.15.0-161-generic", "96.00.A5.00.01", "latent", "drift"),
    (1, "580.95.05", "5.15.0-161-generic", "96.00.A5.00.01", "latent", "next-kernel"),
    (0.5, "580.95.05", "5.15.0-161-generic", "96.00.A5.00.01", "mismatch", "umd-skew,pkg-split"),
)
"""Weight, driver, kernel, VBIOS, verdict, faults."""
NOT_TOLD, OF_AN_OLDER_BOOT = 0.01, 0.005
DRAINED = ((0.01, "fan 3 of 6 is slow"), (0.005, "RMA 4711"), (0.005, "gsp:umd-skew kmd=580.95.05"))
"""Shares of all nodes."""
RESERVED = 20
"""Nodes that a campaign has reservations for."""


class Cluster:
    """One slurmctld and its munged, in a folder of their own."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.names = [f"gpu{number:05d}" for number in range(1, nodes + 1)]
        self.host = socket.gethostname().partition(".")[0]
        self.conf = folder / "slurm.conf"
        self.config = folder / "config.toml"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Registered nodes, with what they publish; everything ends with it."""
        with ExitStack() as stack:
            munge = ["--key-file", "munge.key", "--socket", "munge.sock", "--pid-file", "munged.pid"]
            munge += ["--log-file", "munged.log", "--seed-file", "munged.seed"]
            words = [str(self.folder / word) if "." in word else word for word in munge]
            (self.folder / "munge.key").write_bytes(os.urandom(1024))
            (self.folder / "munge.key").chmod(0o600)
            stack.enter_context(ended([tool("munged"), "--foreground", "--force", *words]))
            many = f"gpu[{self.names[0][3:]}-{self.names[-1][3:]}]"
            self._write(self.folder, f"NodeName={many} NodeHostname={self.host} Port={FIRST_PORT + 1}")
            self.config.write_text(f'[slurm]\nconf = "{self.conf}"\n')
            stack.enter_context(ended([tool("slurmctld"), "-D", "-f", str(self.conf)]))
            while self.scontrol("ping", check=False).find(" is UP") < 0:
                time.sleep(0.2)
            self._register(self.names)
            chance = random.Random(1)
            self.scontrol(stdin="".join(f"{line}\n" for line in self._updates(chance)))
            yield

    def scontrol(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        argv = [tool("scontrol"), *words]
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=check, env=self.environment
        )
        if check and "error" in done.stderr + done.stdout:
            raise SystemExit(f"{' '.join(argv)}: {done.stderr}{done.stdout[-500:]}")
        return done.stdout

    @property
    def environment(self) -> dict[str, str]:
        return {**DEFAULT_ENV, "SLURM_CONF": str(self.conf), "SLURM_GSP_CONFIG": str(self.config)}

    def _write(self, folder: Path, nodes: str) -> None:
        folder.mkdir(exist_ok=True)
        gpus = "CPUs=96 RealMemory=1000 Feature=ib,rev2 Gres=gpu:h100:8 State=UNKNOWN"
        values = {
            "ClusterName": "big", "SlurmctldHost": f"{self.host}(127.0.0.1)", "SlurmctldPort": FIRST_PORT,
            "SlurmdPort": FIRST_PORT + 1, "SlurmUser": "root", "SlurmdUser": "root",
            "AuthType": "auth/munge", "AuthInfo": f"socket={self.folder}/munge.sock",
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "StateSaveLocation": self.folder / "state", "SlurmdSpoolDir": f"{folder}/spool",
            "SlurmctldPidFile": self.folder / "slurmctld.pid", "SlurmdPidFile": f"{folder}/slurmd.pid",
            "SlurmctldLogFile": self.folder / "slurmctld.log", "SlurmdLogFile": f"{folder}/slurmd.log",
            "ProctrackType": "proctrack/linuxproc", "TaskPlugin": "task/none", "MpiDefault": "none",
            "SelectType": "select/cons_tres", "SelectTypeParameters": "CR_Core",
            "SlurmdParameters": "config_overrides", "DebugFlags": "NO_CONF_HASH", "SlurmdTimeout": 0,
            "MessageTimeout": 60, "ReturnToService": 2, "GresTypes": "gpu",
        }  # fmt: skip
        lines = [f"{key}={value}" for key, value in values.items()]
        lines += [f"{nodes} NodeAddr=127.0.0.1 {gpus}", "PartitionName=main Nodes=ALL Default=YES State=UP"]
        (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
        for number in range(8):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"Name=gpu Type=h100 File={folder}/gpu[0-7]\n")
        plugin = releases.fitting(slurm_version()).cgroup_plugin
        (folder / "cgroup.conf").write_text(f"CgroupPlugin={plugin}\n")

    def _register(self, names: Sequence[str]) -> None:
        """Start one slurmd after the other until slurmctld has heard of every node.

        Each with a configuration of its own node alone, and in a time namespace of its own, so that no two
        nodes seem to have booted at the same time.
        """
        ahead, running = deque(enumerate(names)), deque[tuple[float, subprocess.Popen[bytes]]]()
        while ahead or running:
            if ahead and len(running) < AT_ONCE:
                number, name = ahead.popleft()
                folder, port = self.folder / f"slurmd{number % AT_ONCE}", FIRST_PORT + 1 + number % AT_ONCE
                self._write(folder, f"NodeName={name} NodeHostname={self.host} Port={port}")
                (folder / "spool").mkdir(exist_ok=True)
                ago = random.Random(name).randrange(86400, 60 * 86400)
                argv = [tool("unshare"), "--time", "--boottime", str(ago), tool("slurmd"), "-D"]
                process = subprocess.Popen(
                    [*argv, "-N", name, "-f", str(folder / "slurm.conf")],
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=DEFAULT_ENV,
                )  # fmt: skip
                running.append((time.monotonic() + 0.035, process))
                continue
            until, process = running.popleft()
            time.sleep(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()
        time.sleep(10)  # slurmctld misses those that it asks for soon after its own start
        heard = self._booted()
        unheard = [name for name in self.names if name not in heard]
        if unheard:
            print(f"once more: {len(unheard)}", file=sys.stderr)
            self._register(unheard)

    def _booted(self) -> dict[str, datetime]:
        """When each node booted that slurmctld has heard of and has not missed since."""
        found = {}
        for line in self.scontrol("-o", "show", "node").splitlines():
            values = dict(word.split("=", 1) for word in line.split() if "=" in word)
            if values["State"] == "IDLE" and values["BootTime"] != "None":
                found[values["NodeName"]] = datetime.fromisoformat(values["BootTime"]).astimezone()
        return found

    def _updates(self, chance: random.Random) -> Iterator[str]:
        """What nodes, the health check, admins and a campaign tell Slurm."""
        for number, (name, booted) in enumerate(self._booted().items()):
            told = chance.random()
            if told >= NOT_TOLD:
                shift = timedelta(days=40) if told < NOT_TOLD + OF_AN_OLDER_BOOT else timedelta(seconds=3)
                text = json.dumps(tuple_of(chance, number, booted - shift), separators=(",", ":"))
                yield f"update nodename={name} extra={text}"
            drawn = chance.random()
            for share, reason in DRAINED:
                if drawn < share:
                    yield f'update nodename={name} state=drain reason="{reason}"'
                    break
                drawn -= share
        for name in chance.sample(self.names, RESERVED):
            when = "starttime=now+1hour duration=30 flags=MAINT,IGNORE_JOBS users=root"
            yield f"create reservation reservationname=gsp_2026-11_{name} nodes={name} {when}"


def tuple_of(chance: random.Random, number: int, booted: datetime) -> dict[str, str]:
    """What one node publishes, beside what the site keeps of it."""
    choice = chance.choices(TUPLES, [row[0] for row in TUPLES])[0]
    _, driver, kernel, vbios, verdict, faults = choice
    return {
        "rack": f"r{number // 16:03d}",
        published.DRIVER_KEY: driver,
        published.FLAVOUR_KEY: "open",
        published.GSP_KEY: driver,
        published.UMD_KEY: "570.172.08+580.95.05" if "umd-skew" in faults else driver,
        published.FABRIC_KEY: driver,
        published.VBIOS_KEY: vbios,
        published.NICS_KEY: "28.39.3004",
        published.KERNEL_KEY: kernel,
        published.MANIFEST_KEY: "2026-10@0123456789ab",
        published.VERDICT_KEY: verdict,
        published.FAULTS_KEY: faults,
        published.SEEN_KEY: f"{chance.getrandbits(32):08x}-4b5f-863e-0769-9574f2a5c1d0",
        published.BOOTED_KEY: published.time_text(booted),
    }


@contextmanager
def ended(argv: Sequence[str]) -> Iterator[None]:
    """A program that runs in the meantime."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=DEFAULT_ENV
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def timed(argv: Sequence[str], environment: dict[str, str]) -> float:
    """Seconds of one run."""
    begun = time.monotonic()
    child = os.posix_spawn(
        argv[0], list(argv), environment,
        file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)],
    )  # fmt: skip
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(argv)}: exit status {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - begun


def wait_until_idle(seconds: float = 20.0) -> bool:
    """Wait until nothing else has kept the cores busy for a moment; False where that does not come."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        before = processor_ticks()
        time.sleep(0.3)
        busy, idle = (after - then for after, then in zip(processor_ticks(), before, strict=True))
        if busy <= 0.05 * (busy + idle):
            return True
    return False


def processor_ticks() -> tuple[int, int]:
    """Busy and idle ones of all cores."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], ticks[3] + ticks[4]


def memory(argv: Sequence[str], environment: dict[str, str]) -> float:
    """The most memory (MB) that one run, or what it started, had. From a bare interpreter, since a process
    counts what the one that started it had as its own."""
    program = (
        "import resource, subprocess, sys; "
        "subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, *argv],
        stdout=subprocess.PIPE, text=True, check=True, env=environment,
    )  # fmt: skip
    return int(done.stdout) / 1024


def measure(cluster: Cluster, pairs: int) -> None:
    """One line for each form of the output."""
    base = [tool("scontrol"), "-o", "show", "node"]
    command = str(Path(sys.executable).with_name("slurm-gsp"))
    for options in ([], ["--json"], ["--csv"]):
        argv = [command, "fleet", *options]
        timed(argv, cluster.environment)
        rows, idle = [], 0
        for _ in range(pairs):
            idle += wait_until_idle()
            rows.append((timed(base, cluster.environment), timed(argv, cluster.environment)))
        ratios = [mine / theirs for theirs, mine in rows]
        theirs, mine = (1000 * statistics.median(column) for column in zip(*rows, strict=True))
        said = f"{mine:5.0f} ms, scontrol {theirs:4.0f} ms: {statistics.median(ratios):.2f}"
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        most = f"{memory(argv, cluster.environment):.0f} MB"
        print(
            f"{len(cluster.names):6} nodes  fleet {' '.join(options):7} {said} {spread}, {most}", flush=True
        )
        print(f"              {idle} of {pairs} pairs began on an idle machine", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--wait", action="store_true", help="then wait for Enter before it is all ended")
    asked = parser.parse_args()
    for nodes in asked.nodes:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "state").mkdir()
            cluster = Cluster(Path(folder), nodes)
            begun = time.monotonic()
            with cluster.running():
                print(f"{nodes:6} nodes  stand after {time.monotonic() - begun:.0f} s", flush=True)
                measure(cluster, asked.pairs)
                if asked.wait:
                    input(f"SLURM_CONF={cluster.conf} SLURM_GSP_CONFIG={cluster.config} ")


if __name__ == "__main__":
    main()

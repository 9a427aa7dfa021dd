"""A thousand reservations and a thousand drains, beside a scontrol that reads the same commands from stdin.

    .venv/bin/python bench/reserve_bench.py [--reservations 1000] [--rounds 5] [--slurm /usr]

Root. Starts munged and a slurmctld without a slurmd on loopback, in a folder of its own. In each round every
way makes the same reservations, or drains the same nodes, which is undone in between; ratios are of the wall
times of one round.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ClusterShell.NodeSet import NodeSet

from slurm_gsp import process
from slurm_gsp.campaign.model import Heading, Limits, Plan, PlannedProfile, Slot, Wave, WaveKind
from slurm_gsp.campaign.planfile import dump_plan, seal
from slurm_gsp.slurm.admin import Drained, SlurmAdmin, Wanted
from slurm_gsp.slurm.choose import Place, admin, choose

SLOT_S = 1800
REASON = "gsp:realign c1 to=2026-11@0123456789ab try=1 id=0123abcd"
CONF = """\
ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdTimeout=0
GresTypes=gpu
NodeName=n[00001-{nodes:05d}] NodeAddr=127.0.0.1 CPUs=96 RealMemory=1000000 Gres=gpu:h100:8 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Bench:
    """A slurmctld with many nodes and nothing else."""

    def __init__(self, folder: Path, prefix: Path, nodes: int) -> None:
        self.folder = folder
        self.prefix = prefix
        self.place = Place(str(prefix / "bin/scontrol"), str(folder / "slurm.conf"))
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "TZ": "UTC0"}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        host = socket.gethostname().split(".")[0]
        conf = CONF.format(host=host, port=port, folder=folder, nodes=nodes)
        (folder / "slurm.conf").write_text(conf)
        (folder / "state").mkdir()

    def daemons(self) -> list[list[str]]:
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        munged = shutil.which("munged", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "/usr/sbin/munged"
        files = [
            f"--{name}={self.folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")
        ]
        return [
            [munged, "--foreground", "--force", f"--key-file={key}", "--num-threads=4", *files],
            [str(self.prefix / "sbin/slurmctld"), "-D"],
        ]

    def feed(self, commands: str) -> str:
        """Let one scontrol read commands from stdin, as a person would."""
        done = subprocess.run(
            [self.place.scontrol],
            input=commands,
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
        return done.stdout

    def reservations(self) -> set[str]:
        shown = process.run(
            (self.place.scontrol, "-o", "show", "reservation"), deadline_s=60, env=self.environment
        ).stdout
        return {
            line.split()[0].removeprefix("ReservationName=")
            for line in shown.splitlines()
            if line.startswith("ReservationName=")
        }

    def drained(self) -> int:
        shown = process.run((self.place.scontrol, "-o", "show", "node"), deadline_s=60, env=self.environment)
        return sum(f" Reason={REASON} [" in line and "DRAIN" in line for line in shown.stdout.splitlines())

    def undrain(self, names: Sequence[str]) -> None:
        self.feed(f"update nodename={NodeSet.fromlist(names)} state=undrain\n")
        assert not self.drained()

    def clear(self) -> None:
        self.feed("".join(f"delete reservationname={name}\n" for name in sorted(self.reservations())))
        assert not self.reservations()


@contextmanager
def running(prefix: Path, nodes: int) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="gsp-bench-", dir="/var/tmp") as name:
        bench = Bench(Path(name), prefix, nodes)
        started: list[subprocess.Popen[bytes]] = []
        try:
            for argv in bench.daemons():
                log = (bench.folder / f"{Path(argv[0]).name}.out").open("wb")
                started.append(
                    subprocess.Popen(
                        argv, env=bench.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
                )
                time.sleep(1)
            for _ in range(100):
                ping = process.run((bench.place.scontrol, "ping"), deadline_s=30, env=bench.environment)
                if "is UP" in ping.stdout:
                    break
                time.sleep(0.2)
            yield bench
        finally:
            for child in reversed(started):
                child.send_signal(signal.SIGTERM)
                child.wait(60)


def made_plan(names: Sequence[str], campaign: str, start: datetime) -> Plan:
    """A plan with one slot for each node, all at the same time; as `schedule` takes it."""
    head = Heading(campaign, "2026-11", "ab" * 32, "standard", 0, "2026-10", "cd" * 32, (
        PlannedProfile("h100", "570.195.03", 8, "570.172.08"),
    ))  # fmt: skip
    slots = tuple(Slot(name, "h100", start, "h100") for name in names)
    return seal(Plan(head, datetime.now(UTC), SLOT_S, Limits(), (Wave(0, WaveKind.CANARY, slots),), ()))


def timed(what: Callable[[], object]) -> float:
    before = time.perf_counter()
    what()
    return time.perf_counter() - before


def commands(names: Sequence[str], start: datetime) -> str:
    """What a person would have scontrol read."""
    return "".join(
        f"create reservation reservationname=gsp_c_{name} starttime={start:%Y-%m-%dT%H:%M:%S} "
        f"duration=0-00:30:00 nodes={name} flags=MAINT users=root\n"
        for name in names
    )


def schedule(bench: Bench, names: Sequence[str], campaign: str, start: datetime, backend: str) -> float:
    """The whole command, from the start of its interpreter."""
    folder = bench.folder / campaign
    folder.mkdir(mode=0o700)
    plan = folder / "c.plan.json"
    plan.write_text(dump_plan(made_plan(names, campaign, start)))
    config = folder / "config.toml"
    config.write_text(
        f'[slurm]\nscontrol = "{bench.place.scontrol}"\nconf = "{bench.place.conf}"\nbackend = "{backend}"\n'
        f'[campaign]\nledger = "sqlite:///{folder}/ledger.db"\n'
    )
    config.chmod(0o600)
    argv = [sys.executable, "-m", "slurm_gsp.cli", "schedule", str(plan), "--config", str(config)]

    def call() -> None:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-500:] + done.stderr

    return timed(call)


def many(slurm: SlurmAdmin, names: Sequence[str], start: datetime) -> float:
    """The client alone, in a process that runs already."""
    wanted = [Wanted(f"gsp_c_{name}", name, (start, SLOT_S), ("root",)) for name in names]

    def call() -> None:
        assert set(slurm.change_many(wanted)) == {None}

    return timed(call)


def drains(
    bench: Bench, names: Sequence[str], rounds: int, backends: Sequence[str]
) -> dict[str, list[float]]:
    """A wave of nodes that are drained with one Reason; the first way is the base."""
    lines = "".join(f'update nodename={name} state=drain reason="{REASON}"\n' for name in names)
    wanted = [Drained(name, REASON) for name in names]
    clients = {backend: admin(backend, bench.place) for backend in backends}
    ways: dict[str, Callable[[], object]] = {
        "scontrol, commands on stdin": lambda: bench.feed(lines),
        "a scontrol for each node": lambda: [clients["scontrol"].drain(name, REASON) for name in names],
    }
    for backend, client in clients.items():
        ways[f"change_many by {backend}"] = lambda client=client: client.change_many(wanted)
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways)[:: 1 if number % 2 == 0 else -1]:
            took[way].append(timed(ways[way]))
            assert bench.drained() == len(names), way
            bench.undrain(names)
    return took


def tell(took: dict[str, list[float]]) -> None:
    """The times of each way, as a multiple of the first one's in the same round."""
    base = next(iter(took.values()))
    print(f"{'':36}{'median s':>9}  ratio (lowest to highest)")
    for way, seconds in took.items():
        ratios = sorted(mine / theirs for mine, theirs in zip(seconds, base, strict=True))
        told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{way:36}{statistics.median(seconds):9.2f}  {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--reservations", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slurm", type=Path, default=Path("/usr"), help="prefix of the Slurm to start")
    asked = parser.parse_args()
    start = (datetime.now(UTC) + timedelta(days=30)).replace(microsecond=0)
    names = [f"n{number:05d}" for number in range(1, asked.reservations + 1)]
    with running(asked.slurm, asked.nodes) as bench:
        ways: dict[str, Callable[[int], float]] = {
            "scontrol, commands on stdin": lambda _: timed(lambda: bench.feed(commands(names, start)))
        }
        backends = ["scontrol"]
        fits = choose("auto", bench.place)
        if fits.backend == "pyslurm":
            backends.append("pyslurm")
        for backend in backends:
            client = admin(backend, bench.place)
            ways[f"change_many by {backend}"] = lambda _, client=client: many(client, names, start)
            ways[f"slurm-gsp schedule by {backend}"] = lambda number, backend=backend: schedule(
                bench, names, f"{backend[0]}{number}", start, backend
            )
        took: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(asked.rounds):
            order = list(ways)[:: 1 if number % 2 == 0 else -1]
            for way in order:
                took[way].append(ways[way](number))
                assert len(bench.reservations()) == asked.reservations, way
                bench.clear()
        drained = drains(bench, names, asked.rounds, backends)
        version = process.run(
            (bench.place.scontrol, "--version"), deadline_s=30, env=bench.environment
        ).stdout
    print(f"{version.strip()}, {asked.nodes} nodes, {asked.reservations} reservations, {asked.rounds} rounds")
    print(f"pyslurm: {fits.why}")
    tell(took)
    print(f"{asked.reservations} drains")
    tell(drained)


if __name__ == "__main__":
    main()

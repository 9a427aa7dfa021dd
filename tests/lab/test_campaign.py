"""Campaigns on a real Slurm of twelve nodes of three variants, with real apt and dpkg; what goes wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from campaigns import (
    NEW,
    OLD,
    Watched,
    loaded,
    phases,
    plan,
    record,
    reservations,
    site,
    site_text,
    when,
)

from slurm_gsp.campaign.planfile import dump_plan
from slurm_gsp.campaign.state import Phase, State, Status
from slurm_gsp.lab import packages, rehearsal
from slurm_gsp.lab.cluster import Lab, Node
from slurm_gsp.lab.faults import FAULTS

pytestmark = pytest.mark.lab

Borrow = Callable[[Lab, str], Node]
ROOT = Path(__file__).parents[2]
COMMAND = ROOT / ".venv/bin/slurm-gsp"
USER = 65534
JOB = """#!/bin/sh
# What a user's job sees of the node that it was given, and whether anybody ended it.
echo "$SLURMD_NODENAME start $(date +%s.%N) $(cat /sys/module/nvidia/version 2>&1)" >>{log}
trap 'echo "$SLURMD_NODENAME killed" >>{log}; exit 1' TERM
sleep {seconds}
echo "$SLURMD_NODENAME end $(date +%s.%N)" >>{log}
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Lab]:
    """Twelve nodes: n1 to n4 with H100, n5 to n8 with A100, n9 to n12 with L40S.

    In a folder that ordinary users may enter: they submit jobs.
    """
    folder = Path(tempfile.mkdtemp(prefix="gsp-", dir="/var/tmp"))
    folder.chmod(0o755)
    with Lab.up(
        folder / "l",
        nodes=12,
        variants=("h100", "a100", "l40s"),
        interval=3,
        settings=["ResumeTimeout=25", "OverTimeLimit=UNLIMITED"],
    ) as running:
        yield running
    folder.rmdir()


@pytest.fixture
def lend(fleet: Lab, borrow: Borrow) -> Iterator[Callable[..., list[Node]]]:
    """Borrow nodes of it; they are restored at the test's end, and no reservation is left."""

    def take(*names: str) -> list[Node]:
        return [borrow(fleet, name) for name in names]

    yield take
    for name in re.findall(r"ReservationName=(gsp_\S+)", reservations(fleet)):
        fleet.slurm(["scontrol", "delete", f"reservationname={name}"])


def as_user(lab: Lab, argv: list[str], stdin: str = "") -> str:
    """Run a Slurm command as an ordinary user."""
    user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    command = [*user, *lab.slurm_command(argv)]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=True, env=lab.environment, cwd="/"
    ).stdout.strip()


class Users(threading.Thread):
    """Keeps the queue filled with short GPU jobs of an ordinary user."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        self.log = lab.shared / "jobs.log"
        self.log.touch()
        self.log.chmod(0o666)
        self.over = threading.Event()

    def run(self) -> None:
        script = JOB.format(log=self.log, seconds=4)
        while not self.over.is_set():
            waiting = self.lab.slurm(["squeue", "-h", "-t", "PENDING", "-o", "%A"], check=False).stdout
            for _ in range(6 - len(waiting.split())):
                as_user(self.lab, ["sbatch", "--gres=gpu:2", "--time=1", "--output=/dev/null"], script)
            self.over.wait(1)

    def __enter__(self) -> Users:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(30)
        self.lab.slurm(["scancel", f"--user={USER}", "--state=PENDING"], check=False)
        self.lab.wait_for(lambda: not self.lab.slurm(["squeue", "-h"]).stdout.strip(), 60, "jobs to end")

    def lines(self, word: str) -> list[list[str]]:
        return [line.split() for line in self.log.read_text().splitlines() if f" {word}" in line]


def test_twelve_nodes_of_three_variants_under_load(
    fleet: Lab, lend: Callable[..., list[Node]], tmp_path: Path
) -> None:
    """Through the commands of the README: plan, schedule, run. Jobs run all the time."""
    nodes = lend(*fleet.node_names)
    config = tmp_path / "config.toml"
    text = site_text(fleet, tmp_path)
    config.write_text(text)
    out: list[int] = []
    over = threading.Event()

    def count_out() -> None:
        while not over.is_set():
            states = fleet.slurm(["sinfo", "-h", "-N", "-o", "%T"], check=False).stdout.split()
            out.append(sum(bool(re.search(r"drain|down|maint|boot|\*", state)) for state in states))
            over.wait(0.3)

    def command(*words: str) -> str:
        done = subprocess.run(
            [COMMAND, *words, "--config", config], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    counter = threading.Thread(target=count_out, daemon=True)
    counter.start()
    with Users(fleet) as users:
        fleet.wait_for(lambda: len(users.lines("start")) > 5, 30, "jobs to run")
        command(
            "plan", str(fleet.manifests / f"{rehearsal.NEW}.toml"), "--class", "standard", "--max-out", "3",
            "--slot", "30s", "--soak", "5s", "--campaign", "c1",
        )  # fmt: skip
        command("schedule", "c1.plan.json")
        assert "nothing to do" in command("schedule", "c1.plan.json")
        said = command("run", "c1")
    over.set()
    counter.join()
    assert "campaign done" in said
    status = subprocess.run(
        [COMMAND, "status", "c1", "--config", config], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r"canary +3 +3 returned", status)
    assert re.search(r"wave 1 +3 +3 returned", status) and re.search(r"wave 2 +6 +6 returned", status)
    assert {loaded(node) for node in nodes} == {NEW}
    assert {node.state for node in nodes} == {"IDLE"} and reservations(fleet) == ""
    assert max(out) <= 3, out
    assert users.lines("killed") == []
    started, ended = users.lines("start"), users.lines("end")
    assert len(started) == len(ended) > 40
    taken, given_back = (
        {match[2]: match[1] for match in re.finditer(rf"(\S+)  (n\d+): {step}", said)}
        for step in ("reserved -> taken", "verifying -> returning")
    )
    assert len(taken) == len(given_back) == 12
    for node, _, moment, version in started:
        clock = time.strftime("%H:%M:%S", time.localtime(float(moment)))
        assert clock <= taken[node] or clock >= given_back[node], (node, clock, taken, given_back)
        assert version == (OLD if clock <= taken[node] else NEW), (node, clock, version)


def test_a_pin_that_fails_on_one_variant(fleet: Lab, lend: Callable[..., list[Node]], tmp_path: Path) -> None:
    nodes = {node.name: node for node in lend("n1", "n2", "n5", "n6", "n9", "n10")}
    for name in ("n9", "n10"):
        nodes[name].hardware = nodes[name].hardware.with_gpu(1, fails_with=NEW)
    watched = Watched(fleet, site(fleet, tmp_path), plan(fleet, [["n1", "n5", "n9"], ["n2", "n6", "n10"]]))
    state = watched.run()
    assert phases(state) == {
        "n1": "returned", "n5": "returned", "n9": "rolled-back",
        "n2": "skipped", "n6": "skipped", "n10": "skipped",
    }  # fmt: skip
    assert state.status is Status.HALTED and state.why.startswith("n9: realign: verification failed")
    assert "gpu-lost" in state.why
    assert [loaded(nodes[name]) for name in ("n1", "n5", "n9", "n2", "n6", "n10")] == [
        NEW,
        NEW,
        OLD,
        OLD,
        OLD,
        OLD,
    ]
    assert {node.state for node in nodes.values()} == {"IDLE"}
    assert reservations(fleet) == ""
    assert [nodes[name].boots for name in ("n2", "n6", "n10")] == [1, 1, 1]
    ledger = site(fleet, tmp_path).ledger()
    assert [(hold.node, hold.manifest.partition("@")[0]) for hold in ledger.holds()] == [
        ("n9", rehearsal.OLD)
    ]


def test_a_wave_is_reserved_when_it_opens_and_goes_when_its_jobs_end(
    fleet: Lab, lend: Callable[..., list[Node]], tmp_path: Path
) -> None:
    """n2 takes a long job while the canary is realigned; it ends early, and n2 goes long before its limit."""
    lend("n1", "n2")
    job: list[str] = []
    ended: list[str] = []
    held: list[str] = []

    def look(state: State) -> None:
        text = reservations(fleet)
        held.append(" ".join(name for name in ("n1", "n2") if f"gsp_c1_{name} " in text))
        if not job and held[-1] == "n1":
            command = ["sbatch", "--parsable", "--nodelist=n2", "--time=600", "--output=/dev/null"]
            job.append(fleet.slurm([*command, "--wrap", "sleep 600"]).stdout.strip())
        if phases(state)["n2"] == "reserved" and "MIXED" in fleet.node("n2").state and not ended:
            fleet.slurm(["scancel", *job])
            ended.append(job[0])

    waves = plan(fleet, [["n1"], ["n2"]], ahead=False)
    begun = time.monotonic()
    state = Watched(fleet, site(fleet, tmp_path), waves, each_tick=look).run()
    assert phases(state) == {"n1": "returned", "n2": "returned"} and ended
    assert time.monotonic() - begun < 300, "it waited for the end of a job that was over"
    order = list(dict.fromkeys(held))
    assert order.index("n1") < order.index("n2") and "n1 n2" not in order
    assert reservations(fleet) == ""


def test_four_nodes_each_with_its_own_misfortune(
    fleet: Lab, lend: Callable[..., list[Node]], tmp_path: Path
) -> None:
    """One never comes back, one loses its repository, one its disk, one its power between two steps."""
    lost, poor, full, cut = lend("n1", "n2", "n3", "n4")
    FAULTS["never-returns"].inject(lost)
    FAULTS["repository-down"].inject(poor)
    FAULTS["disk-full"].inject(full)

    cut.write(packages.HOLD, "")  # the installation waits in the middle of a package

    def cut_power() -> None:
        fleet.wait_for(lambda: cut.exists(packages.HELD), 40, "n4 to install")
        cut.reboot()

    watched = Watched(fleet, site(fleet, tmp_path), plan(fleet, [["n1", "n2", "n3", "n4"]]))
    watched.each_tick = when(Phase.REALIGNING, "n4", cut_power)
    state = watched.run()
    assert watched.each_tick.done
    assert state.status is Status.HALTED
    assert record(state, "n1").phase is Phase.ESCALATED
    assert record(state, "n1").why == "not back 1 min after its reboot was asked for"
    assert lost.reason.startswith("gsp:escalated c1 not back") and "DRAIN" in lost.state
    assert record(state, "n2").phase is Phase.ROLLED_BACK, watched.told
    assert "step=" in record(state, "n2").failures[0]
    assert loaded(poor) == OLD and poor.state == "IDLE"
    assert record(state, "n3").phase in {Phase.ROLLED_BACK, Phase.ESCALATED}
    assert loaded(full) == OLD
    assert record(state, "n4").phase is Phase.RETURNED and record(state, "n4").operation.attempt == 2
    assert loaded(cut) == NEW and cut.state == "IDLE"


def test_four_nodes_and_the_hands_of_others(
    fleet: Lab, lend: Callable[..., list[Node]], tmp_path: Path
) -> None:
    """One is drained by its admin, one loses its reservation, one has a job that stays; Slurm is away."""
    theirs, bare, busy, plain = lend("n5", "n6", "n7", "n8")
    job = as_user(
        fleet,
        ["sbatch", "--parsable", "--nodelist=n7", "--gres=gpu:1", "--time=1", "--output=/dev/null"],
        "#!/bin/sh\nsleep 300\n",
    )
    fleet.wait_for(lambda: busy.state == "MIXED", 20, "the job to run")

    def admin_drains() -> None:
        fleet.slurm(["scontrol", "update", "nodename=n5", "state=drain", "reason=fan"])

    def reservation_goes() -> None:
        fleet.slurm(["scontrol", "delete", "reservationname=gsp_c1_n6"])

    def away() -> None:
        fleet.ctld_stop()
        threading.Timer(15, fleet.ctld_start).start()

    acts = [
        when(Phase.REALIGNING, "n5", admin_drains),
        when(Phase.VERIFYING, "n6", reservation_goes),
        when(Phase.REALIGNING, "n8", away),
    ]

    def each(state: State) -> None:
        for act in acts:
            act(state)

    watched = Watched(fleet, site(fleet, tmp_path), plan(fleet, [["n5", "n6", "n8"], ["n7"]]))
    watched.each_tick = each
    state = watched.run(300)
    assert all(act.done for act in acts)
    assert phases(state) == {"n5": "skipped", "n6": "returned", "n8": "returned", "n7": "skipped"}
    assert state.status is Status.DONE
    assert "drained by others: fan" in record(state, "n5").why
    assert theirs.reason.startswith("fan")
    assert f"runs job {job} of " in record(state, "n7").why and record(state, "n7").why.endswith(
        "past its slot"
    )
    assert fleet.slurm(["squeue", "-h", "-j", job, "-o", "%T"]).stdout.strip() == "RUNNING"
    assert [loaded(node) for node in (bare, plain, busy)] == [NEW, NEW, OLD]
    assert any(line.startswith("Slurm: ") for line in watched.told)
    assert "n6: verifying -> rebooted: its reservation was deleted by hand" in watched.told
    assert re.findall(r"ReservationName=(\S+)", reservations(fleet)) == ["gsp_c1_n5"]


def test_a_controller_that_is_killed_at_every_record(
    fleet: Lab, lend: Callable[..., list[Node]], tmp_path: Path
) -> None:
    """No controller of this campaign lives for longer than six records of its ledger."""
    nodes = {node.name: node for node in lend("n9", "n10", "n11")}
    nodes["n11"].hardware = nodes["n11"].hardware.with_gpu(1, fails_with=NEW)
    watched = Watched(fleet, site(fleet, tmp_path), plan(fleet, [["n9"], ["n10", "n11"]]))
    program = [
        sys.executable,
        str(Path(__file__).with_name("mortal.py")),
        str(fleet.directory),
        str(tmp_path),
    ]
    (tmp_path / "plan.json").write_text(dump_plan(watched.plan))
    deaths = 0
    until = time.monotonic() + 240
    while time.monotonic() < until:
        done = subprocess.run([*program, str(7 + deaths % 3), str(deaths % 2)], check=False)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL
        deaths += 1
    state = watched.site.ledger().state("c1")
    assert phases(state) == {"n9": "returned", "n10": "returned", "n11": "rolled-back"}
    assert state.status is Status.HALTED
    assert [loaded(nodes[name]) for name in ("n9", "n10", "n11")] == [NEW, NEW, OLD]
    assert [nodes[name].boots for name in ("n9", "n10", "n11")] == [2, 2, 3], "no node was rebooted twice"
    assert {node.state for node in nodes.values()} == {"IDLE"} and reservations(fleet) == ""
    assert deaths > 15


def test_two_controllers_at_once(fleet: Lab, tmp_path: Path) -> None:
    watched = Watched(fleet, site(fleet, tmp_path), plan(fleet, [["n12"]]))
    config = tmp_path / "config.toml"
    config.write_text(site_text(fleet, tmp_path))
    with closing(watched.site.ledger()) as ledger:
        watched.schedule(ledger)
        with ledger.lead("c1", 60):
            done = subprocess.run(
                [COMMAND, "run", "c1", "--config", config], capture_output=True, text=True, check=False
            )
            assert done.returncode == 3
            assert re.match(rf"c1 is worked on by \S+ \(process \S+:{os.getpid()}:\d+\) since ", done.stderr)
        done = subprocess.run(
            [COMMAND, "abort", "c1", "--config", config], capture_output=True, text=True, check=True
        )
        assert "nobody runs it: slurm-gsp run c1 carries that out" in done.stdout
        done = subprocess.run(
            [COMMAND, "run", "c1", "--config", config], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and "aborted by" in done.stdout
    assert reservations(fleet) == ""

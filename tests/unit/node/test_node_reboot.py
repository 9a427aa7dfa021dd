"""RebootProgram: whose name, which Reason, and which way each thing that goes wrong ends."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import NEWER, fetches, make_config, make_host, profile, target, write_manifest

from slurm_gsp.config import Config
from slurm_gsp.core.operation import Kind, Operation
from slurm_gsp.node.detach import NotDetachedError, detach
from slurm_gsp.node.lock import only_one
from slurm_gsp.node.reboot import Worker, asked_for, configuration, node_name
from slurm_gsp.process import CommandMissing
from slurm_gsp.slurm.client import ControllerAway
from slurm_gsp.slurm.scontrol import parse_node

ROOT = Path(__file__).parents[3]
REASON = "gsp:realign c1 to=2026-11@0123456789ab try=1"
OF = target(profile(NEWER))
RECORD = (
    "NodeName=n1 State=DOWN+DRAIN+REBOOT_ISSUED Gres=gpu:h100:4 Partitions=main "
    "Reason={} [root@2026-11-25T21:00:00]"
)


class Slurm:
    """A controller that is away for so many calls."""

    def __init__(self, reason, away=0):
        self.reason = reason
        self.away = away
        self.calls = []

    def _call(self, name):
        self.calls.append(name)
        self.away -= 1
        if self.away >= 0:
            raise ControllerAway("away")

    def record(self, name):
        self._call("record")
        return RECORD.format(self.reason)

    def jobs(self, name):
        raise AssertionError("nobody asks for jobs here")

    def drain_unless(self, name, reason, keep):
        self._call("drain")
        state = parse_node(self.record(name))
        if not keep(state):
            self.reason = reason
        return state


@pytest.fixture
def host(tmp_path):
    return make_host(tmp_path)


@pytest.fixture
def asked(host, tmp_path):
    """The Reason that asks for a realignment to a manifest that is there."""
    operation = Operation(Kind.REALIGN, "c1", "2026-11", write_manifest(make_config(tmp_path), OF))
    staged = replace(OF, digest=operation.digest)
    host.run.answers["fetch"] = fetches(make_config(tmp_path), staged)
    return f"{operation.reason} : reboot issued"


def work(host, tmp_path, slurm, **changes):
    clock = iter(range(0, 10_000, 10)).__next__
    worker = Worker(host, make_config(tmp_path), slurm, clock=clock)
    replace(worker, **changes).run()
    return host.run.steps


# --- whose name --------------------------------------------------------------------------------------------


def process(proc, pid, parent, *words):
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "stat").write_text(f"{pid} (x y) S {parent} 1\n")
    (folder / "cmdline").write_text("\0".join(words) + "\0")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("/usr/sbin/slurmd", "-D", "-N", "gpu07", "-b"), "gpu07"),
        (("slurmd", "-Ngpu07"), "gpu07"),
        (("/usr/sbin/slurmd", "-D"), None),
        (("/usr/sbin/slurmd", "-N"), None),
        (("/usr/sbin/slurmd-wrapper", "-N", "gpu07"), None),
    ],
)
def test_the_slurmd_above_us_knows_our_name(tmp_path, words, name):
    process(tmp_path, 1, 0, "init")
    process(tmp_path, 10, 1, *words)
    process(tmp_path, 11, 10, "sh", "-c", "/opt/slurm-gsp/slurm-gsp-reboot")
    process(tmp_path, 12, 11, "/bin/sh", "/opt/slurm-gsp/slurm-gsp-reboot")
    process(tmp_path, 13, 12, "python3", "-N", "wrong")
    assert node_name({}, tmp_path, 13) == (name or os.uname().nodename.partition(".")[0])


def test_what_slurm_tells_comes_first(tmp_path):
    process(tmp_path, 10, 1, "slurmd", "-N", "gpu07")
    process(tmp_path, 11, 10, "sh")
    assert node_name({"SLURM_NODE_NAME": "a", "SLURMD_NODENAME": "b"}, tmp_path, 11) == "a"
    assert node_name({"SLURMD_NODENAME": "b"}, tmp_path, 11) == "b"
    assert node_name({"SLURM_NODE_NAME": ""}, tmp_path, 11) == "gpu07"


# --- which Reason ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "operation"),
    [
        (REASON, Operation(Kind.REALIGN, "c1", "2026-11", "0123456789ab")),
        (f"{REASON} : reboot issued", Operation(Kind.REALIGN, "c1", "2026-11", "0123456789ab")),
        ("gsp:rollback c1", Operation(Kind.ROLLBACK, "c1")),
        # 24.11 leaves the Reason of an operation that is over on the node, and a later plain reboot finds it
        (f"{REASON} : reboot issued : reboot complete", None),
        (f"{REASON} : reboot issued : reboot timed out", None),
        ("gsp:umd-skew kmd=1 umd=2 : reboot issued", None),
        ("gsp:realign-failed step=1 x : reboot issued", None),
        ("fan", None),
        ("", None),
    ],
)
def test_what_a_reason_asks_for(reason, operation):
    assert asked_for(parse_node(RECORD.format(reason))) == operation


def test_a_reason_on_a_node_that_was_in_service_asks_for_nothing():
    """Its drain was lifted before any reboot, and 24.11 keeps it: `scontrol reboot` alone finds it."""
    record = RECORD.format(f"{REASON} : reboot issued").replace("DOWN+DRAIN+", "DOWN+")
    assert asked_for(parse_node(record)) is None


# --- what is done ------------------------------------------------------------------------------------------


def test_a_realignment_and_then_the_reboot(host, tmp_path, asked):
    slurm = Slurm(asked)
    steps = work(host, tmp_path, slurm)
    assert (steps[0], steps[-2:]) == ("preflight", ["hold", "reboot"])
    assert slurm.calls == ["record"]
    assert (host.logs / "realign-c1-realign-1.log").exists()


@pytest.mark.parametrize("reason", ["fan : reboot issued", f"{REASON} : reboot issued : reboot complete", ""])
def test_any_other_reason_is_a_plain_reboot(host, tmp_path, reason):
    assert work(host, tmp_path, Slurm(reason)) == ["reboot"]
    assert not host.logs.exists() and not host.state.journal.exists()


def test_slurm_is_asked_for_a_while(host, tmp_path, asked):
    waits = []
    slurm = Slurm(asked, away=3)
    steps = work(replace(host, pause=waits.append), tmp_path, slurm)
    assert (steps[0], steps[-1]) == ("preflight", "reboot")
    assert (slurm.calls, waits) == (["record"] * 4, [5.0] * 3)


def test_then_it_is_a_plain_reboot(host, tmp_path, asked):
    slurm = Slurm(asked, away=999)
    assert work(host, tmp_path, slurm) == ["reboot"]
    assert 5 < len(slurm.calls) < 10


def test_a_failed_step_does_not_reboot_and_says_so(host, tmp_path, asked):
    host.run.answers["install"] = 1
    slurm = Slurm(asked)
    assert work(host, tmp_path, slurm)[-1] == "install"
    assert slurm.reason == "gsp:realign-failed step=7 install: it said nothing (exit status 1)"


@pytest.mark.parametrize(("away", "told"), [(2, True), (999, False)])
def test_the_reason_is_set_as_soon_as_slurm_is_there(host, tmp_path, asked, away, told):
    slurm = Slurm(asked)
    host.run.answers["install"] = lambda _: setattr(slurm, "away", away) or 1
    assert work(host, tmp_path, slurm)[-1] == "install"
    assert slurm.reason.startswith("gsp:realign-failed step=7" if told else asked)


def test_somebody_elses_reason_stays(host, tmp_path, asked):
    slurm = Slurm(asked)
    host.run.answers["install"] = lambda _: setattr(slurm, "reason", "do not touch") or 1
    work(host, tmp_path, slurm)
    assert slurm.reason == "do not touch"


def test_what_is_refused_before_the_first_step(host, tmp_path):
    slurm = Slurm(f"{REASON} : reboot issued")
    assert work(host, tmp_path, slurm) == []
    assert slurm.reason.startswith(f"gsp:realign-failed step=1 preflight: {tmp_path}"[:110])


def test_our_own_fault_is_no_reboot_either(host, tmp_path, asked):
    class Odd(Slurm):
        def record(self, name):
            return f" {super().record(name)}"  # one of the two readers takes this for a node

    slurm = Odd(asked)
    assert work(host, tmp_path, slurm) == []
    assert slurm.reason.startswith("gsp:realign-failed step=1 preflight: ParseError: 1: not a node: ")


def test_a_mistake_in_the_configuration(host, tmp_path, asked):
    slurm = Slurm(asked)
    assert work(host, tmp_path, slurm, mistake="config.toml:3: no such key") == []
    assert slurm.reason == "gsp:realign-failed step=1 preflight: config.toml:3: no such key"
    assert work(host, tmp_path, Slurm("fan"), mistake="config.toml:3: no such key") == ["reboot"]


def test_a_fault_before_anybody_asked_for_a_realignment_is_a_plain_reboot(host, tmp_path):
    class Odd(Slurm):
        def record(self, name):
            return "no node at all"

    assert work(host, tmp_path, Odd("")) == ["reboot"]


def test_the_second_worker_leaves(host, tmp_path):
    with only_one(host):
        assert work(host, tmp_path, Slurm("fan")) == []


def test_no_place_for_a_lock_is_a_plain_reboot(host, tmp_path, asked):
    host.folder.write_text("a file")
    assert work(host, tmp_path, Slurm(asked)) == ["reboot"]


def test_a_reboot_that_fails_after_a_realignment_is_told(host, tmp_path, asked):
    host.run.answers["reboot"] = CommandMissing("/usr/sbin/reboot: none")
    slurm = Slurm(asked)
    work(host, tmp_path, slurm)
    assert slurm.reason == "gsp:realign-failed step=13 reboot: /usr/sbin/reboot: none"
    work(host, tmp_path, Slurm("fan"))


def test_a_configuration_that_cannot_be_read_is_the_defaults_and_a_mistake(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("[realign]\nno_such_key = 1\n")
    path.chmod(0o666)
    config, mistake = configuration(str(path))
    assert config == Config() and mistake.startswith(str(path))
    assert configuration(str(tmp_path / "none.toml")) == (Config(), "")


# --- detached ----------------------------------------------------------------------------------------------


def test_the_worker_outlives_the_group_that_started_it(tmp_path):
    """26.05 ends the process group of RebootProgram as soon as that has ended."""
    program = (
        "import sys, time, os; from pathlib import Path; from slurm_gsp.node.detach import detach\n"
        "def work():\n    time.sleep(0.5)\n"
        f"    Path({str(tmp_path / 'done')!r}).write_text(f'{{os.getsid(0)}} {{os.getpid()}}')\n"
        "detach(work); print('back')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, process_group=0, cwd=ROOT
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.read() == "back\n"  # and the worker holds no end of the pipe
        assert starter.wait(10) == 0
        with pytest.raises(ProcessLookupError):
            os.killpg(starter.pid, signal.SIGKILL)
    for _ in range(100):
        if (tmp_path / "done").exists():
            break
        time.sleep(0.05)
    session, pid = (tmp_path / "done").read_text().split()
    assert session == pid


def test_a_worker_that_does_not_come_up_is_told():
    def fail():
        raise OSError("no session")

    with pytest.raises(NotDetachedError):
        detach(lambda: None, fail)


# --- the launcher ------------------------------------------------------------------------------------------

UNSHARE = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c"]


def launch(tmp_path, folder=ROOT, before="", after=""):
    """Run the launcher where reboot only leaves a note, with what 26.05 gives it."""
    note = tmp_path / "rebooted"
    fake = tmp_path / "reboot"
    fake.write_text(f"#!/bin/sh\necho yes >>{note}\n")
    fake.chmod(0o755)
    script = f"""
        mount -t tmpfs tmpfs /run && touch {tmp_path}/empty || exit 99
        [ -e /usr/sbin/reboot ] || exit 98
        mount --bind {fake} /usr/sbin/reboot || exit 97
        {before}
        /usr/bin/env -i SLURM_NODE_NAME=n1 PWD=/ {folder}/slurm-gsp-reboot </dev/null
        code=$?
        {after}
        exit $code
    """
    done = subprocess.run([*UNSHARE, script], capture_output=True, text=True, check=False, timeout=60)
    return done, note


def may_unshare():
    can = os.geteuid() == 0 and os.path.exists("/usr/bin/unshare") and os.path.exists("/usr/sbin/reboot")
    return can and subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0


needs_root = pytest.mark.skipif(not may_unshare(), reason="needs root, mount namespaces and /usr/sbin/reboot")


@needs_root
def test_without_an_interpreter_the_node_is_rebooted(tmp_path):
    launcher = tmp_path / "opt/slurm-gsp-reboot"
    launcher.parent.mkdir()
    text = (ROOT / "slurm-gsp-reboot").read_text().replace("/usr/bin/python3", "/nowhere/python3")
    launcher.write_text(text)
    launcher.chmod(0o755)
    (tmp_path / "opt/slurm_gsp/node").mkdir(parents=True)
    done, note = launch(tmp_path, launcher.parent)
    assert (done.returncode, note.read_text()) == (0, "yes\n"), done.stderr
    assert "the Python half did not start" in done.stderr


@needs_root
def test_a_half_removed_package_is_a_reboot_too(tmp_path):
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt/slurm-gsp-reboot").write_bytes((ROOT / "slurm-gsp-reboot").read_bytes())
    (tmp_path / "opt/slurm-gsp-reboot").chmod(0o755)
    done, note = launch(tmp_path, tmp_path / "opt")
    assert (done.returncode, note.exists()) == (0, True), done.stderr


@needs_root
def test_with_one_it_comes_back_at_once(tmp_path):
    """The lock is taken, so that its worker says so and leaves."""
    lock = "mkdir /run/slurm-gsp && exec 9>/run/slurm-gsp/maintenance.lock && flock 9 || exit 96"
    took = "read -r began _ </proc/uptime"
    told = "read -r ended _ </proc/uptime; echo $began $ended; sleep 2"
    done, note = launch(tmp_path, before=f"{lock}; {took}", after=told)
    began, ended = map(float, done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert ended - began < 2
    assert not note.exists()

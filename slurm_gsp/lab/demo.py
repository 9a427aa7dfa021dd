"""`slurm-gsp lab demo`: what the hooks do on a real Slurm, and a campaign after it, in under three minutes.

Nothing is staged: the health checks and the prolog that act are those that Slurm starts. Each command that
is shown is the one that was run (`slurm-gsp lab` by the functions behind it), so a reader can repeat it.
"""

import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ClusterShell.NodeSet import NodeSet
from rich.console import Console
from rich.markup import escape

from slurm_gsp.lab import faults, golden, packages, rehearsal
from slurm_gsp.lab.cluster import DEFAULT_DIR, INSTALLED_AT, Lab
from slurm_gsp.lab.procs import LabError

INTERVAL = 10
"""HealthCheckInterval, in seconds: long enough that a job is turned away by the prolog in between."""
CRED_EXPIRE = 5
"""Slurm starts a requeued job once its old credential has run out: by default 120 s."""
SCHEDULER = "bf_interval=5,sched_interval=5,nohold_on_prolog_fail"
"""Look for startable jobs every 5 s instead of every 60 s; a job that a prolog turned away is not held."""
WIDTH = 100
_SETTLED_S = 2.0
_REASONS = "%8N %60E %19H"
_NODES = "%8N %10T %14G %E"
_JOB = "JobID:8,State:12,RestartCnt:14,NodeList:10,Reason:12"
_INSPECT = (f"{INSTALLED_AT}/.venv/bin/slurm-gsp", "inspect")


def run(directory: Path, *, cache: Path = golden.DEFAULT_CACHE, keep: bool = False) -> None:
    """Show it; the lab is gone at the end, also after a failure or Ctrl-C. LabError: not as promised."""
    screen = Screen()
    began = time.monotonic()
    with _ended_by_signals():
        screen.title("slurm-gsp: a Slurm of four GPU nodes that are not there, three of which will break")
        socket = directory.resolve() / "cluster/run/munge.sock"
        settings = [
            f"AuthInfo=socket={socket},cred_expire={CRED_EXPIRE}",
            f"SchedulerParameters={SCHEDULER}",
        ]
        asked = [word for setting in settings for word in ("--set", setting)]
        screen.command("slurm-gsp", "lab", "up", *_where(directory), "--interval", str(INTERVAL), *asked)
        with screen.waiting("Slurm to start (the first time, driver packages are built as well)"):
            lab = Lab.up(directory, interval=INTERVAL, settings=settings, cache=cache)
        try:
            Demo(lab, screen).play()
        finally:
            if not keep:
                screen.title("The end")
                screen.command("slurm-gsp", "lab", "down", *_where(directory))
                with _undisturbed(), screen.waiting("the lab to be gone"):
                    lab.down()
        told = f"still there; `slurm-gsp lab down{_shown(directory)}` ends it" if keep else "gone"
        screen.say(f"Done in {time.monotonic() - began:.0f} s. The lab is {told}.")


class Demo:
    """The acts, in order; each checks that Slurm did what the text promises."""

    def __init__(self, lab: Lab, screen: "Screen") -> None:
        self._lab = lab
        self._screen = screen

    def play(self) -> None:
        """All of it."""
        self._healthy()
        self._health_check()
        number = self._prolog()
        self._explain()
        self._screen.say(
            f"n1 and n2 were drained by the health check, n3 by the prolog of job {number},"
            " which Slurm put back into the queue and ran on n4."
        )
        self._campaign()

    def _healthy(self) -> None:
        self._screen.title("1  Four healthy nodes, each with two H100 and driver 570.172.08")
        self._screen.say("The hooks stand in slurm.conf, as on any cluster:")
        conf = shlex.quote(str(self._lab.conf))
        self._screen.command(f"grep -E '^(HealthCheck|Prolog|Epilog|SchedulerP)' {conf}", raw=True)
        lines = self._lab.conf.read_text().splitlines()
        hooks = [line for line in lines if re.match("HealthCheck|Prolog|Epilog|SchedulerP", line)]
        self._screen.output("\n".join(hooks))
        self._screen.command(f"export SLURM_CONF={conf}", raw=True)
        self._slurm("sinfo", "-N", "-o", _NODES)
        for node in self._lab.nodes:
            _promise(node.state == "IDLE", f"{node.name} is {node.state}, not IDLE")
        said = self._inspect("n4")
        _promise(said.startswith("n4: consistent"), f"n4 is not consistent: {said.splitlines()[0]}")

    def _health_check(self) -> None:
        self._screen.title("2  Two upgrades go wrong, and Slurm's own health check sees it")
        promised = {"n1": "interrupted-upgrade", "n2": "unattended-upgrade"}
        began = time.monotonic()
        for name, fault in promised.items():
            self._break(name, fault)
        with self._screen.waiting(f"Slurm to run HealthCheckProgram (every {INTERVAL} s)"):
            for name in promised:
                self._drained(name, "gsp:umd-skew ", INTERVAL * 3)
        took = time.monotonic() - began
        self._slurm("sinfo", "-R", "-o", _REASONS)
        self._screen.say(f"Both drained {took:.0f} s after the first one broke; nobody ran a hook by hand.")

    def _prolog(self) -> str:
        self._screen.title("3  n3 loses its driver between two checks, and a GPU job is on its way to it")
        self._slurm("scontrol", "update", "nodename=n4", "weight=100")
        self._slurm("scontrol", "setdebug", "debug")
        log = self._lab.directory / "cluster/log/slurmctld.log"
        with self._screen.waiting("the next health check of n3 to pass, so that only the prolog can notice"):
            self._next_check("n3", log)
        self._break("n3", "module-unloaded")
        output = self._lab.shared / "job.out"
        job = ["sbatch", "--parsable", "--gres=gpu:1", f"--output={output}", "--wrap", "hostname"]
        number = self._slurm(*job).strip()
        with self._screen.waiting(f"job {number} to reach n3, whose prolog looks before it starts"):
            self._drained("n3", "gsp:kmd-unloaded ", INTERVAL - _SETTLED_S)
            self._lab.wait_for(
                lambda: "JobState=PENDING" in self._job(number), 20, f"job {number} in the queue"
            )
        self._queue(number)
        with self._screen.waiting("Slurm to start the requeued job"):
            self._lab.wait_for(lambda: "JobState=COMPLETED" in self._job(number), 60, f"job {number} to end")
        self._queue(number)
        shown = self._job(number)
        ran = re.search(r"\bNodeList=(\S+)", shown)
        _promise("Restarts=1 " in shown, f"job {number} was not turned away once: {shown}")
        _promise(ran is not None and ran[1] == "n4", f"job {number} did not run on n4: {shown}")
        self._screen.command("cat", str(output))
        said = output.read_text()
        self._screen.output(said)
        _promise(said.split() == ["n4"], f"the job says it ran on {said!r}, not on n4")
        return number

    def _explain(self) -> None:
        self._screen.title("4  What an admin sees")
        self._slurm("sinfo", "-R", "-o", _REASONS)
        for name, lines in (("n2", 2), ("n3", 2), ("n1", None)):
            said = self._inspect(name, lines)
            _promise(said.startswith(f"{name}: mismatch"), f"{name} is not a mismatch: {said}")

    def _campaign(self) -> None:
        self._screen.title("5  A campaign takes all four nodes onto one driver, 570.195.03")
        site = str(self._lab.site / "config.toml")
        self._screen.say(
            "What is to run is one file, which names the one before it; the admin's side is another:"
        )
        self._gsp("manifest", "check", str(self._lab.manifests / f"{rehearsal.NEW}.toml"))
        self._screen.say("Two canaries, then the rest; the slots are this short for a demo only.")
        plan = ("plan", str(self._lab.manifests / f"{rehearsal.NEW}.toml"), "--class", "standard")
        limits = ("--max-out", "2", "--canary", "2", "--slot", "20s", "--soak", "5s")
        file = str(self._lab.site / f"{rehearsal.NEW}.plan.json")
        self._gsp(*plan, *limits, "--out", file, "--config", site)
        self._gsp("schedule", file, "--config", site)
        with self._screen.waiting("the campaign: drain, realign, reboot, verify, give back, node by node"):
            said = self._gsp("run", rehearsal.NEW, "--quiet", "--config", site)
        _promise(f"campaign {rehearsal.NEW}: done" in said, f"the campaign was not done: {said}")
        self._gsp("history", "n1", "--config", site)
        self._slurm("sinfo", "-N", "-o", _NODES)
        for node in self._lab.nodes:
            _promise(node.state == "IDLE", f"{node.name} is {node.state}, not IDLE")
            loaded = node.read("/sys/module/nvidia/version").strip()
            _promise(loaded == packages.UPDATE, f"{node.name} runs {loaded}")

    def _gsp(self, *words: str) -> str:
        """Run a command of ours, as its user does, with the command and its answer shown."""
        self._screen.command("slurm-gsp", *words)
        argv = [sys.executable, "-m", "slurm_gsp.cli", *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        self._screen.output(done.stdout)
        _promise(done.returncode == 0, f"slurm-gsp {words[0]} failed: {done.stderr.strip()}")
        return done.stdout

    def _slurm(self, *argv: str) -> str:
        """Run a Slurm command, with the command and its answer shown."""
        self._screen.command(*argv)
        said = self._lab.slurm(argv).stdout
        self._screen.output(said)
        return said

    def _queue(self, number: str) -> None:
        self._slurm("squeue", "--states=all", f"--jobs={number}", "-O", _JOB)

    def _job(self, number: str) -> str:
        return self._lab.slurm(["scontrol", "-o", "show", "job", number]).stdout

    def _break(self, name: str, fault: str) -> None:
        self._screen.command("slurm-gsp", "lab", "fault", *_where(self._lab.directory), name, fault)
        self._lab.fault(name, fault)
        self._screen.output(f"{name}: {faults.FAULTS[fault].description}")

    def _inspect(self, name: str, lines: int | None = 12) -> str:
        """What `inspect` says on a node, in full or its first lines."""
        head = "" if lines is None else f" | head -n {lines}"
        words = ["slurm-gsp", "lab", "exec", *_where(self._lab.directory), name, *_INSPECT]
        self._screen.command(shlex.join(words) + head, raw=True)
        said = self._lab.node(name).run(_INSPECT, check=False).stdout
        self._screen.output("\n".join(said.splitlines()[:lines]))
        return said

    def _drained(self, name: str, prefix: str, patience: float) -> None:
        node = self._lab.node(name)
        what = f"Slurm to show {name} drained with a Reason that starts with {prefix!r}"
        self._lab.wait_for(lambda: node.reason.startswith(prefix), patience, what)
        _promise("DRAIN" in node.state, f"{name} has the Reason and is {node.state}, not drained")

    def _next_check(self, name: str, log: Path) -> None:
        """Wait for a health check that Slurm starts from now on, and give it the time to end."""
        seen = log.stat().st_size

        def started() -> bool:
            with log.open(errors="replace") as lines:
                lines.seek(seen)
                asked = re.findall(r"Spawning health check agent for (\S+)", lines.read())
            return any(name in NodeSet(nodes) for nodes in asked)

        self._lab.wait_for(started, INTERVAL * 3, f"a health check of {name} in {log.name}")
        time.sleep(_SETTLED_S)


class Screen:
    """Where it is told: a terminal, or a log without one."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or _console()

    def title(self, text: str) -> None:
        """Start of an act."""
        self._console.print(f"\n[bold cyan]{escape(text)}[/]", highlight=False)

    def say(self, text: str) -> None:
        """A sentence."""
        self._console.print(text, markup=False, emoji=False, highlight=False)

    def command(self, *words: str, raw: bool = False) -> None:
        """The command that is run next, as one would type it."""
        line = " ".join(words) if raw else shlex.join(words)
        line = escape(line.replace(" --set ", " \\\n    --set "))
        self._console.print(f"[bold green]$[/] [bold]{line}[/]", emoji=False, highlight=False, soft_wrap=True)

    def output(self, text: str) -> None:
        """What a command answered, unchanged."""
        for line in text.rstrip().splitlines():
            self._console.print(
                f"  {line}".rstrip(), markup=False, emoji=False, highlight=False, soft_wrap=True
            )

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """A moving sign on a terminal; in a log one line before, which says what is waited for."""
        began = time.monotonic()
        if self._console.is_terminal:
            with self._console.status(f"[dim]waiting for {escape(what)}[/]"):
                yield
        else:
            self.say(f"... waiting for {what}")
            yield
        self._console.print(f"[dim]    {time.monotonic() - began:.1f} s[/]", highlight=False)


def _console() -> Console:
    """At most WIDTH columns; a log, which has no width of its own, gets WIDTH."""
    console = Console()
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    return console


def _promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise LabError(f"not as promised: {otherwise}")


def _where(directory: Path) -> Sequence[str]:
    """The option that a command for this lab needs."""
    return () if directory.resolve() == DEFAULT_DIR else ("--dir", str(directory))


def _shown(directory: Path) -> str:
    return "".join(f" {word}" for word in _where(directory))


@contextmanager
def _handling(handler: Callable[..., object] | signal.Handlers, *numbers: signal.Signals) -> Iterator[None]:
    before = [signal.signal(number, handler) for number in numbers]
    try:
        yield
    finally:
        for number, old in zip(numbers, before, strict=True):
            signal.signal(number, old)


def _ended_by_signals() -> AbstractContextManager[None]:
    """TERM and HUP end the demo as Ctrl-C does: through every `finally`."""
    return _handling(lambda number, _: sys.exit(128 + number), signal.SIGTERM, signal.SIGHUP)


def _undisturbed() -> AbstractContextManager[None]:
    """A second Ctrl-C must not leave half a lab."""
    return _handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

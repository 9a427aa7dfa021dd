"""What the hooks do once a launcher could not answer by itself.

On our own fault a hook fails open: the job starts, the event is logged and counted by the launcher.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from slurm_gsp.collect.collect import Level, collect
from slurm_gsp.collect.kernel_log import as_dmesg, concerns_driver, read_since
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import LiveRunner, Output
from slurm_gsp.config import DEFAULT_PATH, Config, Deadlines, load_config
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Basis, Diagnosis, Finding, Verdict
from slurm_gsp.core.policy import (
    APART,
    Limits,
    SlurmView,
    Standing,
    breaker_trips,
    climbed,
    confirmed,
    count_runs,
    decide_drain,
    drained_by_hooks,
    draining,
    may_resume,
    retry_after,
)
from slurm_gsp.core.reading import Reading, Unknown
from slurm_gsp.core.reason import code_of, format_reason
from slurm_gsp.hook import memory as store
from slurm_gsp.hook.log_look import CURSOR, DUE
from slurm_gsp.hook.memory import Memory, Places
from slurm_gsp.hook.watch import Watch
from slurm_gsp.slurm.client import NodeState, RecordClient, SlurmError
from slurm_gsp.slurm.scontrol import Scontrol
from slurm_gsp.this_node import INFORMATION_S, expectation, node_name

if TYPE_CHECKING:  # only a full look needs it
    from slurm_gsp.hook.tell import Teller

FINE, FINDING, OWN_FAULT = 0, 10, 70
ASKED = "asked"
"""Why the prolog starts us: not for the node's health, but for what the job asks for."""

_LOG_KEPT = 64 << 10
_RETURN_S = 10.0
"""One resumed in the second in which it registers is taken for one that rebooted unexpectedly (22.05)."""
"""Characters of driver-related log lines kept between runs; the newest win."""
_DAEMON_NOTICE = 3 << 3 | 5


class HookTimeoutError(Exception):
    """The hook as a whole ran out of time."""


def main(arguments: Sequence[str]) -> int:
    """Run one hook; every fault of our own becomes exit code 70 and one line on stderr."""
    hook, why, *options = arguments
    try:
        config = load_config(DEFAULT_PATH)
        _start_clock(config.deadlines.run_s)
        host = Host(node_name(), LiveLook(config, node_name()))
        if hook == "healthcheck":
            return HealthCheck(config, _client(config), host, report_only="--report-only" in options).run(why)
        code = FINE if why == ASKED else Gate(config, _client(config), host, hook).run(why)
        if hook == "prolog" and code == FINE:
            _admit(config, host)
        return code
    except Exception as error:
        print(f"slurm-gsp {hook}: {type(error).__name__}: {error}", file=sys.stderr)
        return OWN_FAULT


def _start_clock(seconds: float) -> None:
    def ring(_signal: int, _frame: object) -> None:
        raise HookTimeoutError(f"not done within {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _client(config: Config) -> RecordClient:
    return Scontrol(**_scontrol(config))


class _Scontrol(TypedDict):
    scontrol: str
    deadline_s: float
    conf: str | None


def _scontrol(config: Config) -> _Scontrol:
    return {
        "scontrol": config.slurm.scontrol,
        "deadline_s": config.deadlines.slurm_s,
        "conf": config.slurm.conf or os.environ.get("SLURM_CONF"),
    }


def _admit(config: Config, host: Host) -> None:
    """A job that asks for a driver or a manifest starts where that is."""
    if not {"SLURM_JOB_CONSTRAINTS", "SLURM_JOB_EXTRA"} & os.environ.keys():
        return
    # few jobs ask for one
    from slurm_gsp.hook.admit import Admission  # noqa: PLC0415
    from slurm_gsp.slurm.jobs import ScontrolJobs  # noqa: PLC0415

    jobs = ScontrolJobs(**_scontrol(config))
    Admission(config, jobs, host.node, host.places, say, Root("/")).admit(os.environ)


def view_of(state: NodeState) -> SlurmView:
    """What ownership rests on."""
    return SlurmView(state.drained, state.rebooting, state.in_maintenance, state.reservation, state.reason)


def say(text: str, device: str = "/dev/log") -> None:
    """One line to syslog; a node without one loses nothing but the line.

    Not through libc: its syslog() waits for a journal that takes no more, past any alarm.
    """
    stamp = time.strftime("%b %e %H:%M:%S")
    line = f"<{_DAEMON_NOTICE}>{stamp} slurm-gsp[{os.getpid()}]: {text}"
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.setblocking(False)
        log.connect(device)
        log.send(line.encode("utf-8", "replace"))


def uptime() -> float:
    """Seconds since boot, a clock that nobody sets."""
    return float(Path("/proc/uptime").read_text("ascii").split()[0])


def boot_id() -> str:
    """The id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()


def boot_time() -> datetime | None:
    """When this boot began, by this node's clock; None where the kernel does not say."""
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
        seconds = next(int(line.split()[1]) for line in lines if line.startswith("btime "))
        return datetime.fromtimestamp(seconds, UTC)
    except (OSError, ValueError, LookupError, StopIteration, OverflowError):
        return None


class HookRunner(LiveRunner):
    """A live runner with a memory: the log is read on from its last line, no probe joins a hung one."""

    def __init__(self, config: Config, past: Memory) -> None:
        limits = config.deadlines
        super().__init__(limits.command_s, limits.nvml_s, commands_s=_for_commands(limits))
        self._past = past
        self._special["kmsg"] = self._new_kmsg
        self._special["nvml"] = self._one_nvml

    def _new_kmsg(self) -> Output | None:
        found = read_since(self._past.log_seq)
        if found is None:
            return self._kmsg()
        lines, self._past.log_seq = found
        text = self._past.log_text + as_dmesg(line for line in lines if concerns_driver(line))
        cut = max(0, len(text) - _LOG_KEPT)
        self._past.log_text = text[text.find("\n", cut) + 1 :] if cut else text
        return Output(("dmesg",), 0, self._past.log_text, "")

    def _one_nvml(self) -> Output | None:
        if still_runs(self._past.probe):
            return Output(("nvml",), None, '{"init": "timeout"}', "")
        try:
            return self._nvml()
        finally:
            self._past.probe = identity(self.probe_pid) if self.probe_pid is not None else None


class HookRoot(Root):
    """The live root with a memory: where a reader hangs in the driver, no second one joins it."""

    def __init__(self, past: Memory) -> None:
        super().__init__("/")
        self._past = past

    def read_all(self, paths: Iterable[str], deadline_s: float) -> dict[str, Reading[str]]:
        """As Root.read_all."""
        if still_runs(self._past.reader):
            return {path: Unknown(path, "an earlier reader still hangs in it") for path in paths}
        self._past.reader = None
        return super().read_all(paths, deadline_s)

    def note_left_behind(self, pid: int) -> None:
        """Remember it."""
        self._past.reader = identity(pid)


def identity(pid: int) -> tuple[int, int] | None:
    """A process's number and start time, which name it for ever; None when it ended, reaped or not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        return None if fields[0] in {"Z", "X"} else (pid, int(fields[19]))
    except (OSError, ValueError, IndexError):
        return None


def still_runs(process: tuple[int, int] | None) -> bool:
    """Whether this very process is still there."""
    return process is not None and identity(process[0]) == process


def _for_commands(limits: Deadlines) -> float:
    """What the NVML probe, the driver's own files and two calls to Slurm leave for all other commands."""
    left = limits.run_s - limits.nvml_s - INFORMATION_S - 2 * limits.slurm_s
    return max(left, limits.command_s)


class LiveLook:
    """A look at this machine, with what the hook remembers."""

    def __init__(self, config: Config, node: str) -> None:
        self._config = config
        self._node = node

    def __call__(self, past: Memory, level: Level) -> tuple[Evidence, Diagnosis]:
        """Read and judge; ``past`` learns how far the log was read and which probe is left behind."""
        runner = HookRunner(self._config, past)
        evidence = collect(HookRoot(past), runner, expectation(self._config, self._node), level)
        return evidence, diagnose(evidence)


@dataclass(frozen=True, slots=True)
class Host:
    """What a hook needs of the machine: Slurm's name for it, a look at it, a place to remember, clocks."""

    node: str
    look: Callable[[Memory, Level], tuple[Evidence, Diagnosis]]
    places: Places = store.PLACES
    uptime: Callable[[], float] = uptime
    boot_id: Callable[[], str] = boot_id
    booted: Callable[[], datetime | None] = boot_time
    sleep: Callable[[float], None] = time.sleep


class HealthCheck:
    """The HealthCheckProgram: look, remember, and tell Slurm only when something changed."""

    def __init__(self, config: Config, client: RecordClient, host: Host, *, report_only: bool) -> None:
        self._config = config
        self._client = client
        self._host = host
        self._places = host.places
        self._report_only = report_only
        self._node = host.node
        self._limits = Limits(config.health.log_runs, config.health.hung_runs)
        self._began = 0.0
        self._seen: NodeState | None = None
        """The node's record, where this run has read it."""
        self._away = False
        """Whether Slurm was asked in vain in this run."""

    def run(self, why: str) -> int:
        """One run under the lock; an overlapping run has nothing to add."""
        self._places.run.mkdir(mode=0o755, parents=True, exist_ok=True)
        with self._places.lock(self._node).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("the previous health check still runs; nothing done")
                return FINE
            return self._locked(why)

    def _locked(self, why: str) -> int:
        current = self._host.boot_id()
        past = store.load(current, self._places.state(self._node))
        first = past is None
        past = past or Memory(current)
        now, started_at = self._host.uptime(), time.time()
        self._began = now
        self._doubt_record(past, now)
        full_is_near = 0 < past.next_full - now <= 2 * self._config.health.full_interval_s
        only_log = why == "due" and full_is_near and past.verdict in _QUIET
        evidence, diagnosis = self._look(past, Level.CHEAP if only_log else Level.FULL)
        if only_log and (diagnosis.findings or diagnosis.verdict is Verdict.UNKNOWN):
            only_log = False
            evidence, diagnosis = self._look(past, Level.FULL)
        past.next_log = now + self._spread(self._config.health.log_interval_s)
        if only_log:
            self._remember(past, evidence, started_at, healthy=True)
            return FINE
        past.next_full = now + self._spread(self._config.health.full_interval_s)
        return self._judge(past, evidence, diagnosis, started_at, first=first)

    def _doubt_record(self, past: Memory, now: float) -> None:
        """The prolog met a job that Slurm had placed here by a record that is not true: tell it anew, now."""
        stale = self._places.stale(self._node)
        if stale.exists():
            past.told, past.next_tell, past.next_full = {"": ""}, now, 0.0
            _try("stale", lambda: stale.unlink(missing_ok=True))

    def _look(self, past: Memory, level: Level) -> tuple[Evidence, Diagnosis]:
        """A look; one that ran out of time is remembered too, for the processes that it left behind."""
        try:
            return self._host.look(past, level)
        except HookTimeoutError:
            _try("state", lambda: store.save(past, self._places.state(self._node)))
            raise

    def _judge(
        self, past: Memory, evidence: Evidence, diagnosis: Diagnosis, started_at: float, *, first: bool
    ) -> int:
        candidates = draining(diagnosis, self._config.drain.drains)
        past.runs = count_runs(diagnosis, past.runs)
        fault = confirmed(candidates, past.runs, self._limits)
        if first or past.verdict != diagnosis.verdict.value:
            say(f"{self._node}: {diagnosis.verdict.value}, remedy {diagnosis.remedy.value}")
        past.verdict = diagnosis.verdict.value
        try:
            if fault is not None:
                self._broken(past, fault)
            else:
                past.standing, past.reason, past.failed = Standing.NONE, "", 0
                if diagnosis.verdict is Verdict.CONSISTENT:
                    self._whole(past, first=first)
            if not self._report_only:
                self._tell(
                    past, evidence, diagnosis, first=first, certain=fault is not None or not candidates
                )
        finally:
            if first:
                past.began = self._host.uptime()
            self._remember(past, evidence, started_at, healthy=not candidates)
        if fault is None and candidates:
            worst = candidates[0]
            say(f"{format_reason(worst)}: run {past.runs[worst.code]} of {self._limits.needed(worst.basis)}")
        if fault is None:
            return FINE
        print(f"{format_reason(fault)} ({fault.summary}; remedy {diagnosis.remedy.value})")
        return FINDING

    def _broken(self, past: Memory, fault: Finding) -> None:
        """A confirmed fault: drain once, keep what is somebody else's, try again what did not arrive."""
        reason = format_reason(fault)
        known = past.standing == Standing.OURS and _says(past.reason, fault)
        if known:
            return
        past.reason = reason
        if self._report_only:
            past.standing = Standing.NONE
            return
        ladder = self._places.ladder
        climb = climbed(store.load_ladder(ladder), fault.code, past.boot_id)
        _try("ladder", lambda: store.save_ladder(climb, ladder))
        now = self._host.uptime()
        seldom = past.standing in {Standing.FOREIGN, Standing.BREAKER} or past.failed
        if seldom and now < past.next_ask:
            return
        interval = self._config.health.retry_interval_s
        if past.failed:
            self._host.sleep(random.uniform(0, APART * interval))  # noqa: S311 - no secret
        past.standing, told = self._drain(reason)
        past.failed = past.failed + 1 if self._away else 0
        chance = random.random()  # noqa: S311 - no secret
        wait = retry_after(interval, past.failed, chance) if self._away else self._spread(interval)
        past.next_ask = now + wait
        if past.standing is Standing.OURS:
            drained = self._places.drained(self._node)
            _try("drained", lambda: store.save_drained(past.boot_id, reason, drained))
        say(f"{reason}: {told}")

    def _drain(self, reason: str) -> tuple[Standing, str]:
        answer: list[tuple[Standing, str]] = []

        def keep(state: NodeState) -> bool:
            self._seen = state
            decision = decide_drain(view_of(state), reason)
            answer[:] = [(decision.standing, decision.why)]
            if decision.write and not state.drained and self._breaker(state):
                share = self._config.health.breaker_share
                answer[:] = [(Standing.BREAKER, f"not drained: over {share:.0%} of its partition is, by us")]
                return True
            return not decision.write

        try:
            self._client.drain_unless(self._node, reason, keep)
        except SlurmError as error:
            self._away = True
            return Standing.PENDING, f"not drained, will try again: {error}"
        return answer[0]

    def _breaker(self, state: NodeState) -> bool:
        nodes = self._client.partition_nodes(state.partitions)
        groups = [[view_of(node) for node in nodes if name in node.partitions] for name in state.partitions]
        return breaker_trips(groups, self._config.health.breaker_share)

    def _whole(self, past: Memory, *, first: bool) -> None:
        """Consistent. A drain of ours stays until an admin, or the configuration, lifts it."""
        _try("ladder", lambda: store.save_ladder({}, self._places.ladder))
        drained = self._places.drained(self._node)
        if store.drained_in(drained) in {None, past.boot_id} or self._report_only:
            return
        if not self._config.health.resume:
            return
        if first or self._host.uptime() < past.began + _RETURN_S:
            self._look_within(past, _RETURN_S)
            return
        try:
            state = self._seen = self._client.node(self._node)
            if may_resume(view_of(state)):
                self._client.resume(self._node)
                say(f"resumed: consistent on a new boot, was {state.reason!r}")
            elif drained_by_hooks(view_of(state)):
                self._ask_again(past, "a reboot or a reservation is under way")
                return
        except SlurmError as error:
            self._ask_again(past, str(error))
            return
        _try("drained", lambda: drained.unlink(missing_ok=True))

    def _ask_again(self, past: Memory, why: str) -> None:
        """Only a full look resumes."""
        self._look_within(past, self._config.health.retry_interval_s)
        say(f"not resumed, will try again: {why}")

    def _look_within(self, past: Memory, seconds: float) -> None:
        """The next full look is brought forward."""
        past.next_full = min(past.next_full, self._host.uptime() + self._spread(seconds))

    def _tell(
        self, past: Memory, evidence: Evidence, diagnosis: Diagnosis, *, first: bool, certain: bool
    ) -> None:
        """Keep the node's own record true, and prove a realignment where that is due."""
        # a look at the log alone never needs it
        from slurm_gsp.hook.tell import Teller  # noqa: PLC0415

        teller = Teller(self._config, self._client, self._node, self._places)
        values = teller.values(past, evidence, diagnosis)
        teller.plan(past, self._host.uptime(), self._conf_time())
        if self._places.journal.exists():
            self._prove(past, evidence, diagnosis, teller, values)
        # slurmd waits for the first look of a boot before it registers; a lead has to repeat
        if not teller.silent and (values or past.told):
            self._publish(past, teller, values, may=certain and not first and not past.failed)

    def _publish(self, past: Memory, teller: Teller, values: Mapping[str, str], *, may: bool) -> None:
        """One update where something has changed; else, or when that has to wait, nothing."""
        now = self._host.uptime()
        due = teller.at(past, values)
        if now < due or not may or not self._has_time():
            past.next_full = min(past.next_full, max(due, now))
            return
        try:
            teller.send(past, values, now, booted=self._host.booted(), seen=self._seen)
        except (SlurmError, ValueError) as error:
            past.next_tell = now + self._spread(self._config.health.retry_interval_s)
            past.next_full = min(past.next_full, past.next_tell)
            say(f"not published, will try again: {error}")

    def _has_time(self) -> bool:
        """Whether this run has time left for a read and an update."""
        limits = self._config.deadlines
        return self._host.uptime() - self._began + 2 * limits.slurm_s <= limits.run_s

    def _prove(
        self,
        past: Memory,
        evidence: Evidence,
        diagnosis: Diagnosis,
        teller: Teller,
        values: Mapping[str, str],
    ) -> None:
        """After the reboot of a realignment, tell Slurm what this look proves of it."""
        # most nodes never need them
        from slurm_gsp.node.journal import Places as Journals  # noqa: PLC0415
        from slurm_gsp.node.prove import SOON_S, give_proof  # noqa: PLC0415

        if past.standing == Standing.PENDING:  # Slurm was just asked in vain
            self._look_within(past, SOON_S)
            return

        def tell(proof: Mapping[str, str]) -> None:
            now, booted = self._host.uptime(), self._host.booted()
            teller.send(past, values, now, booted=booted, seen=self._seen, proof=proof)

        places = Journals(self._places.lib)
        given = give_proof(
            places,
            past.boot_id,
            evidence,
            diagnosis,
            tell,
            doubted=past.doubted,
            uptime=self._host.uptime(),
        )
        if given is None:
            return
        past.doubted = given.doubtful
        if given.again_s is not None:
            self._look_within(past, given.again_s)
        say(str(given))

    def _confs(self) -> list[str]:
        """Where slurm.conf may be."""
        beside = (f"{path.rpartition('/')[0]}/slurm.conf" for path in self._config.node.gres_conf)
        return [*beside, *filter(None, [self._config.slurm.conf])]

    def _conf_time(self) -> int:
        """When slurm.conf, or what we are to tell, was changed last; 0 where there is neither."""
        times = [0]
        for path in [*self._confs(), os.fspath(DEFAULT_PATH)]:
            with contextlib.suppress(OSError):
                times.append(os.stat(path).st_mtime_ns)
        return max(times)

    def _remember(self, past: Memory, evidence: Evidence, started_at: float, *, healthy: bool) -> None:
        """The time of the next look last: a run that is cut off before it is made again."""
        run = self._places.run
        store.save(past, self._places.state(self._node))
        slurms = (*self._config.node.gres_conf, *self._confs())
        ours = (os.fspath(DEFAULT_PATH), os.fspath(self._places.journal), os.fspath(self._places.pin))
        watch = Watch(evidence, (*ours, *slurms), started_at)
        watch.write(
            run, healthy=healthy, all_jobs=self._config.prolog.all_jobs, following=self._config.health.next
        )
        log_interval = self._spread(self._config.health.log_interval_s)
        past_log = f"{past.boot_id} {past.log_seq} {past.next_full:.0f} {log_interval:.0f}\n"
        store.write_text(run / CURSOR, past_log)
        store.write_text(run / DUE, f"{min(past.next_full, past.next_log):.0f}\n")

    def _spread(self, seconds: float) -> float:
        """An interval with its jitter: a thousand nodes started together must not look together for ever."""
        jitter = self._config.health.jitter
        return seconds * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311 - no secret


_QUIET = {Verdict.CONSISTENT, Verdict.LATENT, Verdict.NO_GPU, Verdict.UNKNOWN}


class Gate:
    """Prolog and epilog: a cheap look; Slurm is asked only when the node is broken."""

    def __init__(self, config: Config, client: RecordClient, host: Host, hook: str) -> None:
        self._config = config
        self._client = client
        self._host = host
        self._hook = hook

    def run(self, why: str) -> int:
        """Pass, or set our Reason and refuse."""
        current = self._host.boot_id()
        past = store.load(current, self._host.places.state(self._host.node)) or Memory(current)
        if past.standing == Standing.BREAKER:
            say(f"{self._hook}: passed although {past.reason}: too much of the partition is drained by us")
            return FINE
        reason = self._proven(past, known=past.reason if why == "bad" else "")
        return FINDING if reason and self._refuse(reason, current) else FINE

    def _proven(self, past: Memory, known: str) -> str:
        """The Reason of what this look proves alone, or of what the health check had proven and still holds.

        A lead that has to repeat is the health check's. What it had proven is looked at again: it may have
        been repaired since, and a reset of a GPU moves nothing that is watched.
        """
        _, diagnosis = self._host.look(past, Level.FULL if known else Level.CHEAP)
        for finding in draining(diagnosis, self._config.drain.drains):
            if _says(known, finding):
                return known
            if finding.basis is Basis.STATE:
                return format_reason(finding)
        return ""

    def _refuse(self, reason: str, boot: str) -> bool:
        """Tell Slurm why before it drains the node for our exit code; False where that is not ours to do."""
        node = self._host.node
        try:
            state = self._client.drain_unless(
                node, reason, lambda state: not decide_drain(view_of(state), reason).write
            )
        except SlurmError as error:
            say(f"{self._hook} refused: {reason}; the Reason was not set: {error}")
        else:
            decision = decide_drain(view_of(state), reason)
            if decision.standing is Standing.FOREIGN and not state.drained:
                say(f"{self._hook} passed although {reason}: {decision.why}")
                return False
            if decision.standing is Standing.OURS:
                drained = self._host.places.drained(node)
                _try("drained", lambda: store.save_drained(boot, reason, drained))
            say(f"{self._hook} refused: {reason} ({decision.why})")
        if self._hook == "prolog":
            print(f"print slurm-gsp: {node} cannot run GPU jobs now ({reason}); the job is requeued")
        print(f"slurm-gsp {self._hook}: {reason}", file=sys.stderr)
        return True


def _says(reason: str, finding: Finding) -> bool:
    """Whether a Reason tells this finding. Counts of lines and of stuck processes change: the code tells."""
    if finding.basis is Basis.STATE:
        return reason == format_reason(finding)
    return code_of(reason) == finding.code


def _try(what: str, write: Callable[[], None]) -> None:
    """A full disk must not keep a node from being drained."""
    try:
        write()
    except OSError as error:
        say(f"{what} not written: {error}")

"""The realignment of this node: plan it, carry it out, reboot. What failed can be repeated from the start."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from slurm_gsp.config import Config
from slurm_gsp.core.operation import Operation
from slurm_gsp.core.reading import value_of
from slurm_gsp.hook.memory import load_ladder, save_ladder
from slurm_gsp.node import preflight
from slurm_gsp.node.failing import Failure, RefusedError, StepError
from slurm_gsp.node.holders import holders_in_time, named, of_jobs, of_others
from slurm_gsp.node.host import Host
from slurm_gsp.node.journal import Journal, load_journal, save_pin
from slurm_gsp.node.lock import staging
from slurm_gsp.node.next_boot import faults_on_disk
from slurm_gsp.node.plan import (
    PIN,
    PREFLIGHT,
    REBOOT,
    REBOOT_NUMBER,
    Plan,
    PlannedStep,
    Render,
    plan_realign,
    plan_stage,
    strays_of,
)
from slurm_gsp.node.power import reboot
from slurm_gsp.node.render import Scripts
from slurm_gsp.node.situation import Situation, read_situation
from slurm_gsp.node.staging import check_again, finish, make_folder, write_status
from slurm_gsp.node.steps import (
    JournalRecord,
    Log,
    NoRecord,
    StepFailedError,
    announce,
    run_script,
    step,
)
from slurm_gsp.node.target import Target

LOOK_EVERY_S: Final = 1.0


def log_of(host: Host, operation: Operation, tell: Callable[[str], None] = lambda _: None) -> Log:
    """The log of this operation; a second run of it goes on in the same file."""
    name = f"realign-{operation.campaign}-{operation.kind.value}-{operation.attempt}.log"
    return Log(host.logs / name, tell)


def dry_run(host: Host, config: Config, target: Target) -> tuple[Plan, tuple[str, ...]]:
    """The plan that a real run would carry out, and what stands against it now. Nothing is changed."""
    now = read_situation(host, config, target)
    against = preflight.against(preflight.REALIGN, now, target, config)
    if not now.family:
        raise RefusedError(against)
    return plan_realign(now, target, config, _render(host, config, now)), against


def realign(host: Host, config: Config, target: Target, log: Log) -> Failure | None:
    """Carry the realignment out, up to the reboot. None: the node is on its pin and waits for that."""
    before = (value_of(host.root.read("/sys/module/nvidia/version")) or "").strip()
    journal = Journal(target.operation.key, host.boot_id(), target.pinned, before=before)
    record = JournalRecord(host.state, journal)
    log.open()
    announce(log, f"{host.node}: {target.operation.key} to {target.pinned.target}, log {log.path}")
    try:
        plan, now = step(record, log, 1, PREFLIGHT, partial(_preflight, host, config, target, log))
        actions = _Actions(host, config, target, log, now)
        for planned in plan.steps[1:]:
            if planned.name == PIN:
                step(record, log, planned.number, PIN, partial(_pin, host, target, record))
            elif planned.name != REBOOT:
                step(record, log, planned.number, planned.name, partial(actions.carry_out, planned))
    except StepFailedError as error:
        announce(log, f"{host.node}: {target.operation.key} failed, not rebooted: {error.failure.what}")
        return error.failure
    announce(log, f"{host.node}: {target.operation.key}: on {target.pinned.target} with the next boot")
    return None


def reboot_realigned(host: Host, config: Config, log: Log) -> Failure | None:
    """The last step; the journal says already that all before it is done."""
    try:
        reboot(host, config, log)
    except StepError as error:
        failure = Failure(REBOOT_NUMBER, REBOOT, str(error))
        announce(log, f"{host.node}: {failure.what}")
        journal = load_journal(host.state)
        if journal is not None:
            JournalRecord(host.state, journal).fail(failure)
        return failure
    return None


def stage(host: Host, config: Config, target: Target, log: Log) -> Plan:
    """Fetch the packages ahead; nothing that is installed changes. RefusedError, or StepFailedError."""
    now = read_situation(host, config, target)
    against = preflight.against(preflight.STAGE, now, target, config)
    if against:
        raise RefusedError(against)
    plan = plan_stage(now, target, config, _render(host, config, now))
    actions = _Actions(host, config, target, log, now)
    for planned in plan.steps:
        step(NoRecord(), log, planned.number, planned.name, partial(actions.carry_out, planned))
    return plan


def note_tried(host: Host, remedy: str) -> None:
    """Let the ladder of remedies know what was tried on the faults that are there."""
    ladder = load_ladder(host.ladder)
    climbed = {
        code: (boot, tried if remedy in tried else (*tried, remedy)) for code, (boot, tried) in ladder.items()
    }
    save_ladder(climbed, host.ladder)


def _render(host: Host, config: Config, now: Situation) -> Render:
    return Scripts(now.family, Path(config.realign.templates), owner_uid=host.owner_uid).render


def _preflight(host: Host, config: Config, target: Target, log: Log) -> tuple[Plan, Situation]:
    """Wait for other package managers, look, judge, and plan from that very look."""
    _wait_for_package_manager(host, config.realign.lock_wait_s)
    now = read_situation(host, config, target)
    against = preflight.against(preflight.REALIGN, now, target, config)
    if against:
        raise RefusedError(against)
    plan = plan_realign(now, target, config, _render(host, config, now))
    for line in (plan.title, *plan.notes):
        log.write(line)
    _Actions(host, config, target, log, now).carry_out(plan.steps[0])
    return plan, now


def _wait_for_package_manager(host: Host, seconds: float) -> None:
    waited = 0.0
    while waited < seconds:
        output = host.runner.run("transaction")
        if output is None or not output.stdout.strip():
            return
        host.pause(LOOK_EVERY_S)
        waited += LOOK_EVERY_S


def _pin(host: Host, target: Target, record: JournalRecord) -> None:
    """From here on a boot finds a finished realignment."""
    save_pin(host.state, target.pinned)
    note_tried(host, "realign")
    record.done()


class _Actions:
    """What each step does."""

    def __init__(self, host: Host, config: Config, target: Target, log: Log, now: Situation) -> None:
        self._host = host
        self._config = config
        self._target = target
        self._log = log
        self._now = now
        self._special: dict[str, Callable[[PlannedStep], None]] = {
            "holders": self._holders,
            "fetch": self._fetch,
            "purge": self._purge,
            "check": self._check,
        }

    def carry_out(self, planned: PlannedStep) -> None:
        """Do one step. StepError where it does not do what it is there for."""
        self._special.get(planned.name, self._script)(planned)

    def _script(self, planned: PlannedStep) -> None:
        if planned.idle or not planned.script:
            if planned.idle:
                self._log.write(f"nothing to do: {planned.idle}")
            return
        run_script(self._host, self._log, planned.name, planned.script, self._config.realign.step_s)

    def _holders(self, _planned: PlannedStep) -> None:
        holders = holders_in_time(self._host.proc, self._host.proc_s)
        if holders is None:
            self._log.write(
                "left to the reboot, a process is stuck in the driver: nobody can tell who has it open"
            )
            return
        if jobs := of_jobs(holders):
            raise StepError(f"a job has the driver open: {named(jobs)}")
        if others := of_others(holders):
            self._log.write(f"left to the reboot, the driver is open in {named(others)}")

    def _fetch(self, planned: PlannedStep) -> None:
        """Again only what is missing or no longer what it was."""
        if not planned.script:
            self._script(planned)
            return
        now, target = self._now, self._target
        with staging(self._host, self._config.realign.lock_wait_s):
            make_folder(self._host, now.folder)
            if planned.idle and check_again(now.folder):
                self._log.write(f"nothing to do: {planned.idle}")
                return
            write_status(self._host, now.folder, strays_of(now, target))
            run_script(self._host, self._log, "fetch", planned.script, self._config.realign.step_s)
            number = finish(now.folder, target.profile.downloads, now.pinned, now.family)
        self._log.write(f"{number} packages in {now.folder}")

    def _purge(self, planned: PlannedStep) -> None:
        """dpkg waits for nobody, and since the preflight a timer may have started another package manager."""
        if not planned.idle:
            _wait_for_package_manager(self._host, self._config.realign.lock_wait_s)
        self._script(planned)

    def _check(self, _planned: PlannedStep) -> None:
        faults = faults_on_disk(self._host, self._config, self._target.profile, self._now.kernel or "")
        for fault in faults[1:]:
            self._log.write(f"also: {fault}")
        if faults:
            raise StepError(faults[0])

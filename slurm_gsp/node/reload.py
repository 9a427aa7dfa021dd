"""The reload of the driver without a reboot: only on a node that nobody uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from slurm_gsp.collect.collect import collect
from slurm_gsp.config import Config
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Diagnosis, Verdict
from slurm_gsp.core.reading import value_of
from slurm_gsp.node.failing import Failure, RefusedError, StepError
from slurm_gsp.node.holders import Holder, holders_in_time, named, of_others
from slurm_gsp.node.host import Host
from slurm_gsp.node.packages import family_of
from slurm_gsp.node.plan import Plan, plan_reload
from slurm_gsp.node.realign import note_tried
from slurm_gsp.node.render import COMMON, Scripts
from slurm_gsp.node.situation import OS_RELEASE
from slurm_gsp.node.steps import Log, NoRecord, StepFailedError, announce, run_script, step
from slurm_gsp.this_node import expectation

LOG: Final = "reload.log"
_BACK: Final = ("load", "start-services")
"""What puts a node back that the reload had to leave in the middle."""


def make_plan(host: Host, config: Config) -> Plan:
    """All that a reload would do now."""
    evidence = _look(host, config)
    modules = value_of(evidence.modules) or ()
    nvml = value_of(evidence.nvml)
    persistence = nvml is not None and any(gpu.persistence for gpu in nvml.gpus)
    release = next(filter(None, (value_of(host.root.read(path)) for path in OS_RELEASE)), "")
    scripts = Scripts(family_of(release) or COMMON, Path(config.realign.templates), owner_uid=host.owner_uid)
    return plan_reload(host.node, [name for name, _ in modules], scripts.render, persistence=persistence)


def in_the_way(host: Host) -> tuple[str, ...]:
    """What keeps the driver from being unloaded, services left out that are stopped first."""
    return _open_in(host, of_others)


def reload(host: Host, config: Config, plan: Plan, log: Log) -> Failure | None:
    """Carry the reload out. None: the driver was loaded anew and the node is consistent."""
    log.open()
    announce(log, plan.title)
    done = []
    try:
        for planned in plan.steps:
            work = {
                "preflight": partial(_preflight, host),
                "holders": partial(_holders, host),
                "look": partial(_consistent, host, config, log),
            }.get(planned.name, partial(_script, host, config, log, planned.name, planned.script))
            step(NoRecord(), log, planned.number, planned.name, work)
            done.append(planned.name)
    except StepFailedError as error:
        if "preflight" in done and not set(_BACK) <= set(done):
            _put_back(host, config, plan, log)
        announce(log, f"{host.node}: reload failed: {error.failure.what}")
        return error.failure
    announce(log, f"{host.node}: the driver was reloaded, and what runs is consistent")
    return None


def _preflight(host: Host) -> None:
    if not host.is_root:
        raise RefusedError(["root is needed"])
    if why := in_the_way(host):
        raise RefusedError(why)


def _holders(host: Host) -> None:
    """Once more, the services are stopped now."""
    if why := _open_in(host, tuple):
        raise StepError(why[0])


def _open_in(host: Host, those: Callable[[Sequence[Holder]], Sequence[Holder]]) -> tuple[str, ...]:
    found = holders_in_time(host.proc, host.proc_s)
    if found is None:
        return ("a process is stuck in the driver: nobody can tell who has it open",)
    holders = those(found)
    return (f"the driver is open in {named(holders)}: end it first",) if holders else ()


def _script(host: Host, config: Config, log: Log, name: str, script: str) -> None:
    run_script(host, log, name, script, config.realign.step_s)


def _put_back(host: Host, config: Config, plan: Plan, log: Log) -> None:
    """Load what was unloaded and start what was stopped; what fails is told."""
    for planned in plan.steps:
        if planned.name in _BACK:
            try:
                _script(host, config, log, planned.name, planned.script)
            except StepError as error:
                log.write(f"not put back, {planned.name}: {error}")


def _look(host: Host, config: Config) -> Evidence:
    return collect(host.root, host.runner, expectation(config, host.node, host.state.state))


def _consistent(host: Host, config: Config, log: Log) -> None:
    """The detector's word on it."""
    note_tried(host, "reload")
    diagnosis = diagnose(_look(host, config))
    for line in _findings(diagnosis):
        log.write(line)
    if diagnosis.verdict not in {Verdict.CONSISTENT, Verdict.LATENT}:
        codes = ", ".join(finding.code for finding in diagnosis.findings)
        raise StepError(
            f"{diagnosis.verdict.value}{f': {codes}' if codes else ''}; remedy {diagnosis.remedy.value}"
        )


def _findings(diagnosis: Diagnosis) -> list[str]:
    return [f"{finding.code}: {finding.summary}" for finding in diagnosis.findings]

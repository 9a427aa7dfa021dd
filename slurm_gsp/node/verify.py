"""One verification: the detector's look, then what the level asks for, each judged by the pure half.

Deeper programs are started only while nothing failed: on a broken driver they prove nothing, and may hang.
"""

from __future__ import annotations

from typing import Final

from slurm_gsp.config import Verify
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.finding import Diagnosis
from slurm_gsp.core.hardware import Smoke, dcgm_check, hardware_checks, nccl_check, smoke_check
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import Level, Result
from slurm_gsp.core.reading import Absent, Reading, Unknown
from slurm_gsp.core.verification import (
    Check,
    Outcome,
    expected_gpus,
    not_applicable,
    quick_checks,
    result_of,
    unknown,
)
from slurm_gsp.core.view import View
from slurm_gsp.node.facts import Machine, read_facts, run_dcgm, run_nccl, run_smoke

EXIT_CODES: Final = {Result.PASS: 0, Result.FAIL: 1, Result.UNKNOWN: 3, Result.UNFINISHED: 3}
_NOT_STARTED: Final = "not started: something failed before"


class Verifier:
    """One node while it is verified."""

    def __init__(self, evidence: Evidence, pinned: Pinned | None, machine: Machine, config: Verify) -> None:
        self._evidence = evidence
        self._view = View(evidence)
        self._pinned = pinned
        self._machine = machine
        self._config = config

    def checks(self, level: Level, diagnosis: Diagnosis) -> tuple[Check, ...]:
        """All checks of this level, those of the levels below it first."""
        checks = quick_checks(self._evidence, diagnosis, self._pinned)
        if level is Level.QUICK or all(check.outcome is Outcome.NOT_APPLICABLE for check in checks):
            return checks
        if self._view.hung:
            return (*checks, unknown("hardware", "not started: NVML does not answer"))
        checks += self._hardware(may_start=result_of(checks) is not Result.FAIL)
        if level is Level.WORKLOAD:
            checks += self._workload(may_start=result_of(checks) is not Result.FAIL)
        return checks

    def _hardware(self, *, may_start: bool) -> tuple[Check, ...]:
        facts = read_facts(self._machine, self._evidence, self._pinned)
        dcgm = self._dcgm(1, may_start=may_start)
        smoke = self._smoke(may_start=may_start)
        return (
            *hardware_checks(self._evidence, self._pinned, facts, smoke),
            dcgm,
            smoke_check(self._evidence, self._pinned, facts.boards, smoke),
        )

    def _workload(self, *, may_start: bool) -> tuple[Check, ...]:
        return self._dcgm(3, may_start=may_start), self._nccl(may_start=may_start)

    def _dcgm(self, level: int, *, may_start: bool) -> Check:
        if self._config.dcgm == "off":
            return not_applicable(f"dcgm-{level}", 'dcgm = "off"')
        if not may_start:
            return unknown(f"dcgm-{level}", _NOT_STARTED)
        return dcgm_check(level, run_dcgm(self._machine, level), required=self._config.dcgm == "required")

    def _smoke(self, *, may_start: bool) -> Reading[Smoke]:
        if not self._config.smoke:
            return Absent("smoke = false")
        return run_smoke(self._machine) if may_start else Unknown("smoke", _NOT_STARTED)

    def _nccl(self, *, may_start: bool) -> Check:
        if not self._config.nccl:
            return not_applicable("nccl", "nccl is not set")
        if not may_start:
            return unknown("nccl", _NOT_STARTED)
        listed = len(self._view.nvml.gpus) if self._view.nvml is not None else 0
        gpus = expected_gpus(self._view, self._pinned) or listed
        return nccl_check(run_nccl(self._machine, self._config.nccl, gpus), self._config.nccl_min_gbs)

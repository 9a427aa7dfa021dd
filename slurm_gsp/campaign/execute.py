"""Effects done to Slurm. Each may be done twice: what is there already is not made again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from slurm_gsp.campaign.state import (
    Cancel,
    Drain,
    Effect,
    Hold,
    PutBack,
    Reboot,
    Release,
    Reserve,
    Resume,
    Terms,
    Verify,
    job_comment,
)
from slurm_gsp.slurm.admin import Exists, NoReservation, SlurmAdmin, Wanted
from slurm_gsp.slurm.client import ControllerAway, Denied, SlurmError, SlurmMissing, SlurmTimeout
from slurm_gsp.slurm.fleet import JOB_NAME

CANNOT_BE_ASKED: Final = (ControllerAway, Denied, SlurmMissing, SlurmTimeout)
"""Errors after which it makes no sense to ask Slurm for more; all others are answers about one node."""

_SCRIPT = """#!/bin/sh
# Verification by slurm-gsp, inside the maintenance reservation of this node.
unset SLURM_CONF
umask 022
mkdir -p /var/log/slurm-gsp
exec {command} verify --level {level} --operation {operation} --publish \\
    >>"/var/log/slurm-gsp/verify-$SLURM_JOB_ID.log" 2>&1
"""


@dataclass(frozen=True, slots=True)
class Executor:
    """Does effects. ``users`` may use the reservations; ``command`` is slurm-gsp on the nodes."""

    slurm: SlurmAdmin
    terms: Terms
    users: Sequence[str] = ("root",)
    command: str = "/opt/slurm-gsp/.venv/bin/slurm-gsp"

    def perform(self, effect: Effect) -> None:
        """Do it; SlurmError where Slurm does not."""
        name = self.terms.reservation(effect.node)
        match effect:
            case Reserve():
                self._reserve(effect)
            case Hold():
                self.slurm.hold(name)
            case Release():
                self._release(name)
            case Drain(node, reason):
                self.slurm.drain(node, reason)
            case PutBack(node, reason):
                self.slurm.put_back(node, reason)
            case Resume(node):
                self.slurm.resume(node)
            case Reboot(node, reason):
                self.slurm.reboot(node, reason)
            case Verify():
                self._verify(effect, name)
            case Cancel():
                self.slurm.cancel(effect.job)

    def reserve_many(self, effects: Sequence[Reserve]) -> tuple[SlurmError | None, ...]:
        """Do them all, each as ``perform`` would; what Slurm said where it did not. Raises no SlurmError."""
        wanted = [self._wanted(effect) for effect in effects]
        answers: list[SlurmError | None] = []
        unasked: SlurmError | None = None
        for one, effect, answer in zip(wanted, effects, self.slurm.reserve_many(wanted), strict=True):
            if not isinstance(answer, Exists):
                answers.append(answer)
                continue
            if unasked is None:
                try:
                    self._anew(effect, one)
                except CANNOT_BE_ASKED as error:
                    unasked = error
                except SlurmError as error:
                    answers.append(error)
                    continue
            answers.append(unasked)
        return tuple(answers)

    def _wanted(self, effect: Reserve) -> Wanted:
        """Without end: for a node in our hands, on which nothing but our own job can run."""
        in_hand = effect.seconds is None
        return Wanted(
            name=self.terms.reservation(effect.node),
            node=effect.node,
            span=(effect.start, effect.seconds),
            users=tuple(self.users),
            ignore_jobs=self.terms.ignore_jobs or effect.beside_jobs or in_hand,
        )

    def _reserve(self, effect: Reserve) -> None:
        one = self._wanted(effect)
        try:
            self._make(one)
        except Exists:
            self._anew(effect, one)

    def _anew(self, effect: Reserve, one: Wanted) -> None:
        """Bring the reservation that is there already to what is wanted."""
        if effect.seconds is None:
            self.slurm.hold(one.name, one.node)
            return
        try:
            self.slurm.move(one.name, one.span)
        except CANNOT_BE_ASKED:
            raise
        except SlurmError:  # it has begun, and what has begun cannot be moved
            self._release(one.name)
            self._make(one)

    def _make(self, one: Wanted) -> None:
        self.slurm.reserve(one.name, one.node, one.span, one.users, ignore_jobs=one.ignore_jobs)

    def _release(self, name: str) -> None:
        try:
            self.slurm.release(name)
        except NoReservation:
            return

    def _verify(self, effect: Verify, name: str) -> None:
        minutes = -(-self.terms.verify_s // 60)
        options = [
            f"--job-name={JOB_NAME}",
            f"--comment={job_comment(effect.node, effect.operation)}",
            f"--reservation={name}",
            f"--partition={effect.partition}",
            f"--nodelist={effect.node}",
            "--nodes=1",
            "--exclusive",
            *([f"--gres=gpu:{effect.gpus}"] if effect.gpus else []),
            f"--time={minutes}",
            "--no-requeue",
            "--export=PATH,LC_ALL",
            "--chdir=/",
            "--output=/dev/null",
        ]
        script = _SCRIPT.format(
            command=shlex.quote(self.command), level=effect.level.value, operation=effect.operation
        )
        self.slurm.submit(script, options)

"""Effects done to Slurm. Each may be done twice: what is there already is not made again."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

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
    Shift,
    Terms,
    Verify,
    job_comment,
)
from slurm_gsp.slurm.admin import (
    AWAY,
    CANNOT_BE_ASKED,
    Change,
    Drained,
    Exists,
    Held,
    Moved,
    NoReservation,
    Rebooted,
    Released,
    Resumed,
    SlurmAdmin,
    Wanted,
    in_turn,
)
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.fleet import JOB_NAME

Answers: TypeAlias = list[SlurmError | None]
"""Of each effect why it was not done; None: it was."""

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

    def perform_many(self, effects: Sequence[Effect]) -> Answers:
        """Do effects on a node each: why one was not done, None where it was. Raises no SlurmError.

        Once Slurm cannot be asked, the rest is not tried.
        """
        ways: tuple[tuple[tuple[type, ...], Callable[[Sequence[Any]], Answers]], ...] = (
            ((Reserve,), self._reserve),
            ((Shift, Hold, Release, Drain, Resume, Reboot), self._change),
            ((PutBack, Verify, Cancel), self._alone),
        )
        answers: Answers = [None] * len(effects)
        unasked: SlurmError | None = None
        for kinds, way in ways:
            numbers = [number for number, effect in enumerate(effects) if isinstance(effect, kinds)]
            found = [unasked] * len(numbers) if unasked else way([effects[number] for number in numbers])
            unasked = unasked or next((one for one in found if isinstance(one, AWAY)), None)
            for number, answer in zip(numbers, found, strict=True):
                answers[number] = answer
        return answers

    def _change(self, effects: Sequence[Effect]) -> Answers:
        """What one line of a scontrol does."""
        return self._changed([self._as_change(effect) for effect in effects])

    def _changed(self, changes: Sequence[Change]) -> Answers:
        """What became of changes; a reservation that is gone already is as good as deleted."""
        return [
            None if isinstance(change, Released) and isinstance(answer, NoReservation) else answer
            for change, answer in zip(changes, self.slurm.change_many(changes), strict=True)
        ]

    def _as_change(self, effect: Effect) -> Change:
        match effect:
            case Shift(node, start, seconds):
                return Moved(self.terms.reservation(node), (start, seconds), ignore_jobs=True)
            case Hold(node):
                return Held(self.terms.reservation(node))
            case Release(node):
                return Released(self.terms.reservation(node))
            case Drain(node, reason):
                return Drained(node, reason)
            case Resume(node):
                return Resumed(node)
            case Reboot(node, reason):
                return Rebooted(node, reason)
        raise TypeError(f"no change of one line: {effect}")

    def _alone(self, effects: Sequence[PutBack | Verify | Cancel]) -> Answers:
        """Effects that need a command of their own, or words that no line of scontrol can hold."""
        return list(in_turn(partial(self._command, effect) for effect in effects))

    def _command(self, effect: PutBack | Verify | Cancel) -> None:
        match effect:
            case PutBack(node, reason):
                self.slurm.put_back(node, reason)
            case Verify():
                self._verify(effect, self.terms.reservation(effect.node))
            case Cancel(_, job):
                self.slurm.cancel(job)

    def _reserve(self, effects: Sequence[Reserve]) -> Answers:
        """Make reservations; one that is there already is brought to what is wanted."""
        wanted = [self._wanted(effect) for effect in effects]
        answers = self._changed(wanted)
        there = [number for number, answer in enumerate(answers) if isinstance(answer, Exists)]
        self._redo(answers, there, [_put_right(wanted[number]) for number in there])
        # one that has begun cannot be moved; Slurm says so in many words
        begun = [
            number for number in there if wanted[number].span[1] is not None and _refused(answers[number])
        ]
        self._redo(answers, begun, [Released(wanted[number].name) for number in begun])
        gone = [number for number in begun if not _refused(answers[number])]
        self._redo(answers, gone, [wanted[number] for number in gone])
        return answers

    def _redo(self, answers: Answers, numbers: Sequence[int], changes: Sequence[Change]) -> None:
        """Other changes for some of the effects: their answers are these from now on."""
        for number, answer in zip(numbers, self._changed(changes), strict=True):
            answers[number] = answer

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


def _put_right(one: Wanted) -> Change:
    """What brings a reservation that is there already to what is wanted."""
    return Held(one.name, one.node) if one.span[1] is None else Moved(one.name, one.span)


def _refused(answer: SlurmError | None) -> bool:
    """Whether Slurm said no to this one thing."""
    return answer is not None and not isinstance(answer, CANNOT_BE_ASKED)

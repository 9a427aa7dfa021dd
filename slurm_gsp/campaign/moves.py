"""The next move of one node of a running campaign, by its phase. Pure.

Two rules stand above all others. A node goes back to its users by the deletion of its reservation, and that
comes after its verification, never before. And a Reason of somebody else is never written over: a node that
others drain on the way is theirs from then on.

The controller may die at any point. So what is going to be done is a phase of its own, which is in the
ledger before the first effect; the handler of that phase does what is not seen done yet, and every effect may
be done twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from slurm_gsp.campaign.bounds import NOT_IN_SERVICE, Bounds, opening
from slurm_gsp.campaign.look import Look, Seen
from slurm_gsp.campaign.model import NOT_ON, Reservation
from slurm_gsp.campaign.state import (
    REFUSED,
    UNTOUCHED,
    Cancel,
    Drain,
    Effect,
    Found,
    Hold,
    Move,
    NodeRecord,
    Phase,
    PutBack,
    Reboot,
    Release,
    Reserve,
    Resume,
    Shift,
    State,
    Status,
    Terms,
    Verify,
    job_comment,
    operation_in,
)
from slurm_gsp.core.operation import ESCALATED, FAILED, Kind, Operation, is_campaigns, parse_operation
from slurm_gsp.core.policy import SLURMS_OWN_REASONS
from slurm_gsp.core.published import Level, Proof, Result
from slurm_gsp.core.reason import MAX_LENGTH, code_of, is_ours

NEVER_REINSTALL: Final = frozenset({"vbios", "sb-refused", "gpu-missing", "nouveau"})
"""Fault codes that no version of the driver answers."""
SETTLE_S: Final = 5
"""Seconds to leave a node alone that has come back. One that is resumed, or asked to reboot again, in the
very second of its return is taken for one that rebooted unexpectedly (22.05)."""
_REBOOTING: Final = frozenset({"REBOOT_ISSUED", "REBOOT_REQUESTED"})
_LOST: Final = frozenset({"NODE_FAIL", "TIMEOUT"})
"""Ends of a verification job that are an answer although it gave none."""
_SLURMS_DRAINS: Final = (
    "Duplicate jobid", "Epilog error", "Job env setup error", "Kill task failed", "Prolog error",
    "Prolog/Epilog failure", "batch job complete failure",
)  # fmt: skip
"""Reasons that Slurm (22.05 to 26.05) gives by itself where a job went wrong on a node."""
_SLURMS_INVALID: Final = (
    "CoreSpec differ", "Could not unpack gres", "Low ", "Reported active features", "gpu type (", "gpu:",
    "gres/",
)  # fmt: skip
"""The same where a node registers with less than slurm.conf says: fewer GPUs, say. They replace any other."""
_LEVELS: Final = (Level.QUICK, Level.HARDWARE, Level.WORKLOAD)
_REBOOTS: Final = "a reboot through Slurm is under way"
_FULL: Final = "as many nodes are out as may be"
_BY_HAND: Final = "its reservation was deleted by hand"


class Mover:
    """The moves that follow from one look."""

    def __init__(self, terms: Terms, state: State, look: Look, bounds: Bounds) -> None:
        self._terms = terms
        self._state = state
        self._look = look
        self._bounds = bounds
        self._now = look.at
        self._halted = state.status is Status.HALTED
        self._paused = state.status is Status.PAUSED

    def moves(self, record: NodeRecord) -> Iterator[Move]:
        """What to do about one node: phases on paper alone, until one has effects, to be seen first."""
        seen = self._look.seen(record.node)
        if seen is None:
            if not record.ended:
                unproven = "; it is not verified" if record.touched else ""
                yield self._skip(record, f"Slurm knows no such node any more{unproven}")
            return
        for _ in Phase:
            move = _HANDLERS[record.phase](self, record, seen)
            if move is None:
                return
            yield move
            if move.effects:
                return
            record = move.record

    def loose(self, record: NodeRecord) -> bool:
        """Whether something of ours is left at a node that has ended, and Slurm may yet let it go."""
        seen = self._look.seen(record.node)
        if seen is None or self._late(record, self._terms.return_s):
            return False
        if record.phase is Phase.ESCALATED:
            return bool(self._release(record, seen)) and self._theirs(record, seen) is None
        return record.phase is Phase.SKIPPED and self._skipped(record, seen) is not None

    # -- before anything is touched ------------------------------------------------------------------------

    def _planned(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Its time is known: reserve it, no earlier than the jobs on it must have ended."""
        if self._halted:
            return self._skip(record, self._stopped())
        if not self._may_reserve(record, seen):
            return None
        for held in self._others_reservations(record, seen):
            if held.ours:
                return self._skip(record, f"reserved by another campaign: {held.name}")
        keep = self._keep(record, seen)
        if keep is not None:
            return keep
        new = seen.reservation(self._terms.reservation(record.node)) is None
        in_turn = new and not self._terms.plan.limits.ahead  # so it is what it waits for that says when
        planned = start = self._now if in_turn else record.start
        if not self._terms.ignore_jobs:
            ends = [job.end for job in seen.jobs]
            if None in ends:
                return self._skip(record, f"{_jobs_text(seen)}, without a time limit")
            start = max([start, *(end for end in ends if end is not None)])
        later = opening(self._bounds.openings, start)
        why = f"{_jobs_text(seen)} until " if start > planned else ""
        if later is not None and self._bounds.near(later) and not self._bounds.room(record, seen):
            later, why = self._bounds.next_opening(self._bounds.a_slot_on), f"{_FULL}, and "
        if later is None:
            return self._skip(record, f"{why}no window is left before the deadline")
        reserve = Reserve(record.node, later, self._terms.plan.realign_s)
        told = "" if record.why.startswith(REFUSED) else record.why
        return Move(record.to(Phase.RESERVED, self._now, told, start=later), (reserve,))

    def _keep(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Let no job start behind the one that has all of a node, if that is worth it."""
        begins = self._bounds.keep(record, seen)
        if begins is None:
            return None
        reserve = Reserve(record.node, begins, self._terms.plan.realign_s, beside_jobs=True)
        return Move(record.to(Phase.RESERVED, self._now, _last_one(seen), start=begins), (reserve,))

    def _may_reserve(self, record: NodeRecord, seen: Seen) -> bool:
        """Whether its wave is open, where each is reserved then; one that is there already is only moved."""
        held = seen.reservation(self._terms.reservation(record.node))
        if held is not None or self._terms.plan.limits.ahead:
            return True
        return record.node in self._bounds.turns and not self._paused

    def _reserved(self, record: NodeRecord, seen: Seen) -> Move | None:
        held = seen.reservation(self._terms.reservation(record.node))
        if self._halted:
            return self._skip(record, self._stopped())
        if held is None:
            return self._gone(record)
        if record.wave != self._bounds.open_wave:
            later = record.start + self._bounds.slip
            slips = bool(self._bounds.slip)
            return self._postpone(record, later, "the wave before is not over") if slips else None
        theirs = self._theirs(record, seen)
        if not self._bounds.near(held.start):
            return self._soon(record, held, seen) if theirs is None else None
        if theirs is not None:
            return self._let_go(record, seen, theirs)
        if self._paused:  # a pause may be long, and each time is written down
            return self._postpone(record, self._bounds.a_slot_on, "paused")
        if self._overlaps(held, seen):
            begun = held.start <= self._now  # nobody was there: it is made anew
            shift = None if begun else self._shift(record, seen)
            return shift or self._postpone(record, self._now, _jobs_text(seen))
        if not self._bounds.room(record, seen):
            return self._postpone(record, self._bounds.a_slot_on, _FULL)
        if held.start > self._now:
            return None
        if _holds_up(seen):  # for longer, it may be, than its reservation lasts
            return Move(record.to(Phase.WAITING, self._now, _holds_up(seen)), (Hold(record.node),))
        return self._take(record, seen)

    def _overlaps(self, held: Reservation, seen: Seen) -> bool:
        """Whether a job may run on behind the begin of the node's reservation; not one past its limit."""
        if self._terms.ignore_jobs:
            return False
        begins = max(held.start, self._now) + self._bounds.lead
        return any(job.end is not None and job.end > begins for job in seen.jobs)

    def _soon(self, record: NodeRecord, held: Reservation, seen: Seen) -> Move | None:
        """A reserved node whose time is not near. It is moved on long before that: a look may come late."""
        if not seen.jobs:
            return self._early(record, seen) or self._no_room(record, held, seen)
        kept = self._overlaps(held, seen)
        return None if kept and not self._bounds.half_gone(held.start) else self._shift(record, seen)

    def _shift(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Keep a reserved node free behind its last job, if that is worth it. The ledger has it first."""
        begins = self._bounds.keep(record, seen)
        if begins is None:
            return None
        if record.start != begins:
            return Move(replace(record, start=begins, why=_last_one(seen)))
        return Move(record, (Shift(record.node, begins, self._terms.plan.realign_s),))

    def _no_room(self, record: NodeRecord, held: Reservation, seen: Seen) -> Move | None:
        """An idle node in its turn for which there is no room yet: put off before its reservation is near."""
        if self._paused or self._terms.plan.limits.ahead or not self._bounds.half_gone(held.start):
            return None
        if self._bounds.room(record, seen):
            return None
        return self._postpone(record, self._bounds.a_slot_on, _FULL)

    def _early(self, record: NodeRecord, seen: Seen) -> Move | None:
        """A node whose jobs ended early goes now: its reservation keeps all but short ones away already."""
        soon = self._bounds.next_opening(self._now)
        if self._paused or _holds_up(seen) or soon is None or soon > self._now + 2 * self._bounds.lead:
            return None
        if soon >= record.start or not self._bounds.room(record, seen):
            return None
        return Move(record.to(Phase.PLANNED, self._now, "idle before its slot", start=soon))

    def _waiting(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Its slot has begun, and a job runs on."""
        if self._halted:
            return self._skip(record, self._stopped())
        if not self._release(record, seen):
            return self._skip(record, _BY_HAND)
        theirs = self._theirs(record, seen)
        if theirs is not None:
            return self._let_go(record, seen, theirs)
        waits = _holds_up(seen)
        if waits:
            late = self._now >= record.start + timedelta(seconds=self._terms.wait_s)
            return self._skip(record, f"{waits} past its slot") if late else None
        if self._paused or not self._bounds.room(record, seen):
            why = "paused" if self._paused else _FULL
            return self._postpone(record, self._bounds.a_slot_on, why)
        return self._take(record, seen)

    def _gone(self, record: NodeRecord) -> Move:
        """What the end of its reservation means for a node that is not drained yet."""
        if self._now < record.start + timedelta(seconds=self._terms.plan.realign_s):
            return self._skip(record, _BY_HAND)
        return self._postpone(record, self._now, "its slot went by while nobody was there")

    def _postpone(self, record: NodeRecord, start: datetime, why: str) -> Move:
        """Another time for a node that is not touched yet."""
        later = self._bounds.next_opening(start)
        if later is None:
            return self._skip(record, f"{why}, and no window is left before the deadline")
        return Move(record.to(Phase.PLANNED, self._now, why, start=later))

    def _take(self, record: NodeRecord, seen: Seen) -> Move:
        """It is ours from here on, as it was found."""
        if not self._bounds.fits(record):
            return self._postpone(record, self._now, "its window is over")
        operation = self._terms.operation(Kind.REALIGN, 1)
        drained = bool(seen.states & NOT_IN_SERVICE)
        found = Found(drained, seen.state.reason if drained else "")
        return Move(record.to(Phase.TAKEN, self._now, operation=operation, found=found, before=seen.driver))

    # -- from the drain to the proof -----------------------------------------------------------------------

    def _taken(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Hold its reservation until it is proven, and drain it."""
        operation = _operation_of(record)
        if seen.states & NOT_IN_SERVICE and parse_operation(seen.state.reason) == operation:
            return Move(record.to(Phase.DRAINED, self._now))
        if self._halted:
            return self._skip(record, self._stopped())
        theirs = self._unfit(record, seen) or self._theirs(record, seen)
        if theirs is not None:
            return self._let_go(record, seen, theirs)
        if not self._release(record, seen):
            return self._gone(record)
        if not self._bounds.fits(record):  # it was taken long ago, by a controller that went away
            return self._postpone(record, self._now, "its window is over")
        return Move(record, (Hold(record.node), Drain(record.node, operation.reason)))

    def _drained(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Drained for this operation; its reboot is to be asked for once no job is left."""
        operation = _operation_of(record)
        lifted = not seen.states & NOT_IN_SERVICE
        if lifted and record.touched and _booted(seen) >= record.since:  # it came back by itself
            return Move(record.to(Phase.REBOOTED, self._now))
        if _was_asked(operation, seen):  # before a restart of ours
            return Move(record.to(Phase.ASKED, self._now, touched=True, boot=""))
        theirs = self._theirs(record, seen)
        if theirs is not None:
            return self._let_go(record, seen, theirs)
        if self._halted and not record.touched:
            return self._skip(record, self._stopped())
        blocked = _no_reboot(seen)
        if blocked is not None:  # a reboot for an operation before this one, say
            return self._blocked(record, seen, blocked)
        guard = self._guard(record, seen)
        if record.touched:
            if guard or lifted or parse_operation(seen.state.reason) != operation:
                return Move(record, (Drain(record.node, operation.reason), *guard))
            if self._late(record, self._terms.return_s) and record.why.startswith(REFUSED):
                return self._escalate(record, seen, f"not rebooted: {record.why}")
            reboot = Reboot(record.node, operation.reason)
            asked = record.to(Phase.ASKED, self._now, boot="")
            return Move(asked, (*self._cancel(record), reboot))
        if guard or lifted:
            return self._skip(record, "its drain was lifted by hand" if lifted else _BY_HAND)
        if seen.jobs:
            late = self._late(record, self._terms.wait_s)
            return self._skip(record, f"{_jobs_text(seen)} past its slot") if late else None
        return Move(replace(record, touched=True))  # in the ledger before its reboot is asked for

    def _blocked(self, record: NodeRecord, seen: Seen, why: str) -> Move | None:
        """Wait until Slurm has done with it, but not for ever."""
        if not self._late(record, self._terms.return_s):
            return None
        told = f"{why}, for {self._terms.return_s // 60} min"
        return self._escalate(record, seen, told) if record.touched else self._skip(record, told)

    def _asked(self, record: NodeRecord, seen: Seen) -> Move | None:
        """From the request for a reboot until the node is back."""
        operation = _operation_of(record)
        if not seen.states & _REBOOTING:
            if code_of(seen.state.reason) == FAILED:
                return self._failed(record, seen, seen.state.reason.removeprefix("gsp:"))
            theirs = self._theirs(record, seen)
            if theirs is not None:
                return self._let_go(record, seen, theirs)
            answered = seen.proof is not None and seen.proof.operation == operation.key
            if answered or "reboot complete" in seen.state.reason or _booted(seen) >= record.since:
                return Move(record.to(Phase.REBOOTED, self._now))
        guard = self._guard(record, seen)
        if guard:
            return Move(record, guard)
        if self._late(record, self._terms.return_s):
            minutes = self._terms.return_s // 60
            said = f": {seen.state.reason}" if by_slurm(seen) else ""
            return self._escalate(
                record, seen, f"not back {minutes} min after its reboot was asked for{said}"
            )
        if "REBOOT_ISSUED" in seen.states and record.phase is Phase.ASKED:
            return Move(replace(record, phase=Phase.REALIGNING))
        return None

    def _rebooted(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Back, and not proven yet."""
        operation = _operation_of(record)
        if seen.states & _REBOOTING:
            return self._blocked(record, seen, _REBOOTS)
        theirs = self._theirs(record, seen)
        if theirs is not None:
            return self._let_go(record, seen, theirs)
        if code_of(seen.state.reason) == FAILED:
            return self._failed(record, seen, seen.state.reason.removeprefix("gsp:"))
        broken = self._broken(record, seen)
        if broken is not None:
            return broken
        guard = self._guard(record, seen)
        if guard:
            return Move(record, (Drain(record.node, operation.reason), *guard))
        if not self._late(record, SETTLE_S):
            return None
        proof = seen.proof
        if proof is None or proof.operation != operation.key:
            if not self._late(record, self._terms.proof_s):
                return None
            minutes = self._terms.proof_s // 60
            return self._escalate(record, seen, f"unproven: no word from it {minutes} min after its return")
        before = record.before if proof.before is None else proof.before or "none"
        record = replace(record, before=before)
        if proof.result is not Result.PASS or proof.pin != operation.target:
            return self._not_proven(record, seen, proof)
        if self._terms.level is Level.QUICK:
            return self._give_back(record)
        return Move(record.to(Phase.VERIFYING, self._now, boot=proof.boot), (Resume(record.node),))

    def _verifying(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Resumed inside its reservation, where nobody but the verification job can reach it."""
        operation = _operation_of(record)
        theirs = self._theirs(record, seen)
        if theirs is not None:
            return self._let_go(record, seen, theirs)
        broken = self._broken(record, seen)
        if broken is not None:
            return broken
        guard = self._guard(record, seen)
        if guard:  # users can reach it: out first, then behind a reservation again
            effects = (Drain(record.node, operation.reason), *guard)
            return Move(record.to(Phase.REBOOTED, self._now, _BY_HAND), effects)
        if not seen.states & NOT_IN_SERVICE:
            return self._answer(record, seen)
        if seen.state.reason.startswith(SLURMS_OWN_REASONS):
            return self._failed(record, seen, f"lost in verification: {seen.state.reason}")
        if self._late(record, 2 * self._terms.verify_s):
            return self._escalate(record, seen, "unproven: it cannot be resumed")
        return Move(record, (Resume(record.node),))

    def _answer(self, record: NodeRecord, seen: Seen) -> Move | None:
        """What the verification job has come to; its reservation cannot be deleted before it has ended."""
        operation = _operation_of(record)
        jobs = self._look.verifications.get(job_comment(record.node, operation.key), ())
        overdue = self._late(record, 2 * self._terms.verify_s)
        if any(not job.ended for job in jobs):
            told = "unproven: its verification job did not end"
            return self._escalate(record, seen, told) if overdue else None
        proof = seen.proof
        if proof is not None and self._is_answer(proof, operation):
            if proof.boot != record.boot:
                return self._failed(record, seen, "it booted again while it was verified")
            if proof.result is not Result.PASS or proof.pin != operation.target:
                return self._not_proven(record, seen, proof)
            return self._give_back(record)
        if jobs:
            told = f"verification job {jobs[-1].id} ended {jobs[-1].state.lower()}"
            if jobs[-1].state in _LOST:
                return self._failed(record, seen, told)
            return self._escalate(record, seen, f"unproven: {told}, without an answer")
        if overdue and record.why:  # it was asked for, and nothing came of it
            return self._escalate(record, seen, f"unproven: {record.why}")
        if "NOT_RESPONDING" in seen.states:  # it was resumed a moment ago
            return None
        partition = next(iter(seen.state.partitions), "")
        gpus = self._terms.gpus(record.profile)
        verify = Verify(record.node, operation.key, self._terms.level, partition, gpus)
        return Move(replace(record, why="its verification job was submitted"), (verify,))

    def _is_answer(self, proof: Proof, operation: Operation) -> bool:
        deep = _LEVELS.index(proof.level) >= _LEVELS.index(self._terms.level)
        return proof.operation == operation.key and bool(proof.job) and deep

    def _broken(self, record: NodeRecord, seen: Seen) -> Move | None:
        """What follows where its health check, or Slurm by itself, has drained the node since its reboot."""
        reason = seen.state.reason
        if not seen.states & NOT_IN_SERVICE:
            return None
        if is_ours(reason) and not is_campaigns(reason):
            return self._failed(
                record, seen, f"drained by its health check: {reason}", [code_of(reason) or ""]
            )
        return self._failed(record, seen, f"drained by Slurm: {reason}") if by_slurm(seen) else None

    def _not_proven(self, record: NodeRecord, seen: Seen, proof: Proof) -> Move:
        operation = _operation_of(record)
        why = proof.why or ",".join(proof.codes) or "no cause told"
        if proof.result is Result.UNKNOWN:
            return self._escalate(record, seen, f"unproven: {why}")
        if proof.result is Result.PASS:
            told = f"unproven: it was verified against {proof.pin or 'no pin'}"
            return self._escalate(record, seen, told)
        if proof.result is Result.FAIL:
            return self._failed(record, seen, f"verification failed: {why}", proof.codes)
        if operation.attempt < self._terms.attempts:
            again = replace(operation, attempt=operation.attempt + 1)
            return self._again(record, again, "a boot cut it off")
        return self._failed(record, seen, f"cut off by a boot {operation.attempt} times")

    # -- the ends ------------------------------------------------------------------------------------------

    def _give_back(self, record: NodeRecord) -> Move:
        return Move(record.to(Phase.RETURNING, self._now))

    def _returning(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Proven. Somebody else's drain is put back as it was; the deleted reservation is the return."""
        broken = self._broken(record, seen)
        if broken is not None and seen.state.reason != record.put_back:
            return broken
        out = bool(seen.states & NOT_IN_SERVICE)
        by_us = out and parse_operation(seen.state.reason) == _operation_of(record)
        effects: list[Effect] = []
        if record.put_back is not None:
            if by_us or not out:
                effects.append(PutBack(record.node, record.put_back))
        elif by_us:
            effects.append(Resume(record.node))
        effects += self._release(record, seen)
        if effects:
            return Move(record, tuple(effects))
        back = _operation_of(record).kind is Kind.ROLLBACK
        why = f"stays drained: {_reason_text(seen)}" if out else ""
        return Move(record.to(Phase.ROLLED_BACK if back else Phase.RETURNED, self._now, why))

    def _failed(self, record: NodeRecord, seen: Seen, why: str, codes: Sequence[str] = ()) -> Move:
        """One operation did not succeed: back to the pin before, unless that cannot be the answer."""
        operation = _operation_of(record)
        record = replace(record, failures=(*record.failures, f"{operation.kind.value}: {why}"))
        no_answer = sorted(NEVER_REINSTALL.intersection(codes))
        if no_answer:
            return self._escalate(record, seen, f"{why}; no driver answers {', '.join(no_answer)}")
        if operation.kind is Kind.ROLLBACK:
            return self._escalate(record, seen, f"failed on both pins: {why}")
        if not self._terms.can_roll_back(record.profile):
            return self._escalate(record, seen, f"{why}; there is no pin before this one")
        return self._again(record, self._terms.operation(Kind.ROLLBACK, 1), why)

    def _again(self, record: NodeRecord, operation: Operation, why: str) -> Move:
        return Move(record.to(Phase.DRAINED, self._now, why, operation=operation))

    def _escalate(self, record: NodeRecord, seen: Seen, why: str) -> Move:
        """A person's, from now on. Its drain comes first: nothing keeps users off it but that, in the end."""
        if record.put_back is not None:
            why += f"; it was drained before: {record.put_back}"
        given_up = record.to(Phase.ESCALATED, self._now, why)
        theirs = self._theirs(record, seen) is not None
        return Move(given_up, () if theirs else (Drain(record.node, self._escalation(given_up)),))

    def _escalation(self, record: NodeRecord) -> str:
        return f"gsp:{ESCALATED} {self._terms.plan.campaign} {_plain(record.why)}"[:MAX_LENGTH].rstrip()

    def _escalated(self, record: NodeRecord, seen: Seen) -> Move | None:
        """Drained with our Reason, then its reservation goes, and nothing more.

        A late time-out of a reboot lifts the drain on some releases, so it is looked at until then.
        """
        release = self._release(record, seen)
        if not release or self._theirs(record, seen) is not None:
            return None
        text = self._escalation(record)
        if "DRAIN" not in seen.states or not seen.state.reason.startswith(text):
            return Move(record, (Drain(record.node, text),))
        return None if seen.states & _REBOOTING else Move(record, (*self._cancel(record), *release))

    def _skipped(self, record: NodeRecord, seen: Seen) -> Move | None:
        """As it was found, where nothing on it has changed; else it stays behind its reservation."""
        if record.touched:
            return None
        effects: list[Effect] = []
        asked = parse_operation(seen.state.reason)
        if seen.states & NOT_IN_SERVICE and asked is not None and asked == record.operation:
            found = record.found
            effects.append(PutBack(record.node, found.reason) if found.drained else Resume(record.node))
        effects += self._release(record, seen)
        return Move(record, tuple(effects)) if effects else None

    def _nothing(self, record: NodeRecord, seen: Seen) -> None:
        del record, seen

    def _skip(self, record: NodeRecord, why: str) -> Move:
        return Move(record.to(Phase.SKIPPED, self._now, why))

    def _let_go(self, record: NodeRecord, seen: Seen, why: str) -> Move:
        """Leave a node whose drain is somebody else's."""
        if not record.touched:
            return self._skip(record, why)
        stays = "; its reservation stays" if self._release(record, seen) else ""
        return self._skip(record, f"{why}; it is not verified{stays}")

    # -- what is seen --------------------------------------------------------------------------------------

    def _stopped(self) -> str:
        return f"the campaign was halted: {self._state.why}"

    def _release(self, record: NodeRecord, seen: Seen) -> tuple[Effect, ...]:
        """The effect that deletes the node's reservation; none where there is none."""
        there = seen.reservation(self._terms.reservation(record.node)) is not None
        return (Release(record.node),) if there else ()

    def _guard(self, record: NodeRecord, seen: Seen) -> tuple[Effect, ...]:
        """The effects that bring back a reservation that was deleted under a node in our hands."""
        if self._release(record, seen):
            return ()
        return (Reserve(record.node, self._now, None),)

    def _late(self, record: NodeRecord, seconds: int) -> bool:
        """Whether the node has been in its phase for as long as that."""
        return self._now >= record.since + timedelta(seconds=seconds)

    def _cancel(self, record: NodeRecord) -> tuple[Effect, ...]:
        """The effects that end verification jobs of ours which nobody waits for any more."""
        return tuple(
            Cancel(record.node, job.id)
            for comment, jobs in self._look.verifications.items()
            if comment.endswith(f" {record.node}") and self._terms.asked(operation_in(comment))
            for job in jobs
            if not job.ended
        )

    def _others_reservations(self, record: NodeRecord, seen: Seen) -> Iterator[Reservation]:
        own = self._terms.reservation(record.node)
        return (held for held in seen.reservations if held.name != own)

    def _unfit(self, record: NodeRecord, seen: Seen) -> str | None:
        """Why a node that is not drained yet is not taken, as the planner would say (model.py)."""
        for held in self._others_reservations(record, seen):
            if held.maint and held.start <= self._now < held.end:
                return f"in the reservation {held.name}"
        if code_of(seen.state.reason) == ESCALATED and seen.states & NOT_IN_SERVICE and not record.take:
            return f"given up by a campaign: {seen.state.reason}"
        if seen.proof is not None and self._terms.asked(seen.proof.operation):
            return "it has an answer to this very plan already: plan again"
        return _no_reboot(seen)

    def _theirs(self, record: NodeRecord, seen: Seen) -> str | None:
        """Whose the node is, if it is out by somebody else's decision and was not asked for so."""
        untouched = record.phase in UNTOUCHED
        unfit = self._unfit(record, seen) if untouched else None
        if unfit is not None:
            return unfit
        if record.phase is Phase.VERIFYING and seen.states & _REBOOTING:
            return _REBOOTS
        reason = seen.state.reason
        if not seen.states & NOT_IN_SERVICE:
            return None
        if record.take and (untouched or reason == record.found.reason):
            return None
        if is_ours(reason):
            known = untouched or reason == record.found.reason
            others = not known and self._terms.is_anothers(reason)
            return f"in the hands of another campaign: {reason}" if others else None
        if record.touched and (by_slurm(seen) or reason.startswith(SLURMS_OWN_REASONS)):
            return None
        if reason.startswith(SLURMS_OWN_REASONS):
            return f"down: {reason}"
        return f"drained by others: {_reason_text(seen)}"


_HANDLERS: Final = {
    Phase.PLANNED: Mover._planned,
    Phase.RESERVED: Mover._reserved,
    Phase.WAITING: Mover._waiting,
    Phase.TAKEN: Mover._taken,
    Phase.DRAINED: Mover._drained,
    Phase.ASKED: Mover._asked,
    Phase.REALIGNING: Mover._asked,
    Phase.REBOOTED: Mover._rebooted,
    Phase.VERIFYING: Mover._verifying,
    Phase.RETURNING: Mover._returning,
    Phase.RETURNED: Mover._nothing,
    Phase.ROLLED_BACK: Mover._nothing,
    Phase.ESCALATED: Mover._escalated,
    Phase.SKIPPED: Mover._skipped,
}


def _operation_of(record: NodeRecord) -> Operation:
    assert record.operation is not None, f"{record.node} is {record.phase.value} without an operation"
    return record.operation


def _was_asked(operation: Operation, seen: Seen) -> bool:
    """Whether the reboot of this operation was asked for already, however far it has come."""
    reason = seen.state.reason
    if seen.proof is not None and seen.proof.operation == operation.key:
        return True
    rebooting = bool(seen.states & _REBOOTING)
    return parse_operation(reason) == operation and (rebooting or "reboot issued" in reason)


def _booted(seen: Seen) -> datetime:
    """When the node booted, as Slurm has it; long ago where it does not say."""
    try:
        return datetime.fromisoformat(seen.state.boot_time).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _no_reboot(seen: Seen) -> str | None:
    """Why Slurm would refuse to reboot the node."""
    if seen.states & _REBOOTING:
        return _REBOOTS
    return "switched off to save power" if seen.states & NOT_ON else None


def by_slurm(seen: Seen) -> bool:
    """Whether the node's Reason is Slurm's own word on it, and no person's."""
    reason = seen.state.reason
    invalid = "INVALID_REG" in seen.states and reason.startswith(_SLURMS_INVALID)
    return invalid or reason.startswith(_SLURMS_DRAINS)


def _holds_up(seen: Seen) -> str:
    """What a node whose slot has begun still waits for; empty: nothing."""
    if seen.jobs:
        return _jobs_text(seen)
    return "does not respond" if "NOT_RESPONDING" in seen.states else ""


def _jobs_text(seen: Seen) -> str:
    more = f" and {len(seen.jobs) - 1} more" if len(seen.jobs) > 1 else ""
    return f"runs job {seen.jobs[0].id} of {seen.jobs[0].user}{more}" if seen.jobs else "is busy"


def _last_one(seen: Seen) -> str:
    return f"{_jobs_text(seen)}, its last one"


def _reason_text(seen: Seen) -> str:
    who = f" ({seen.state.reason_user})" if seen.state.reason_user else ""
    return f"{seen.state.reason or 'no Reason'}{who}"


def _plain(text: str) -> str:
    return "".join(char if " " <= char <= "~" and char not in "\"'\\" else "-" for char in text)

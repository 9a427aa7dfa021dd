"""A Slurm that obeys at once, for campaigns of hours in milliseconds: reservations, drains, reboots, jobs.

It behaves as 22.05 to 26.05 were seen to (docs/releases.md); the lab's tests run campaigns on the real one.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from slurm_gsp.campaign.look import ENDED, Job, Look, Seen
from slurm_gsp.campaign.model import Reservation
from slurm_gsp.core.operation import Kind, parse_operation
from slurm_gsp.core.published import Level, Proof, Result
from slurm_gsp.slurm.admin import Busy, Exists, NoReservation, WrongState, one_by_one
from slurm_gsp.slurm.client import ControllerAway, NodeState

REALIGN_S, BOOT_S, PROOF_S, VERIFY_S, RESUME_TIMEOUT_S = 120, 60, 20, 90, 600


@dataclass
class Behaviour:
    """What a node does when it is asked to realign."""

    quick: Result = Result.PASS
    hardware: Result = Result.PASS
    codes: tuple[str, ...] = ()
    step_fails: str = ""
    returns: bool = True
    cut_off: int = 0
    """How many boots cut a realignment off."""
    rollback: Behaviour | None = None
    """How it does on the pin before; None: as well as can be."""


@dataclass
class Node:
    """One node."""

    name: str
    variant: str = "h100"
    flags: set[str] = field(default_factory=set)
    reason: str = ""
    user: str = "root"
    rebooting: datetime | None = None
    operation: str = ""
    boot: int = 0
    booted: datetime | None = None
    proof: Proof | None = None
    due: tuple[datetime, str, Result] | None = None
    """The quick proof that its health check will publish, and when."""
    driver: str = "570.172.08"
    before: str = ""
    verified: bool = True
    behaviour: Behaviour = field(default_factory=Behaviour)
    history: list[str] = field(default_factory=list)


class ModelSlurm:
    """Slurm as the executor and the look see it."""

    def __init__(self, nodes: Collection[Node], now: datetime) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.now = now
        self.held: dict[str, tuple[str, datetime, datetime, bool]] = {}
        self.ignores: dict[str, bool] = {}
        """Of each reservation whether it was made over jobs; that stays with it."""
        self.jobs: list[Job] = []
        self.away = False
        self.wrong: list[str] = []
        """What must never happen, and did."""
        self.most_out = 0
        self.next_job = 1
        self.users = 0
        """User jobs that were started."""

    # -- SlurmAdmin ----------------------------------------------------------------------------------------

    def reserve(self, name, node, span, users, *, ignore_jobs):
        self._up()
        if name in self.held:
            raise Exists(name)
        start = max(span[0], self.now)
        if not ignore_jobs and any(job.end and job.end > start for job in self._running(node)):
            raise Busy(f"{node}: Requested nodes are busy")
        self.held[name] = (node, start, self._end(start, span[1]), True)
        self.ignores[name] = ignore_jobs

    def change_many(self, changes):
        return one_by_one(self, changes)

    def move(self, name, span, *, ignore_jobs=False):
        self._up()
        node, start, *_ = self._reservation(name)
        if start <= self.now:
            raise WrongState(f"{name}: it has begun")
        self.ignores[name] = ignore_jobs or self.ignores.get(name, False)
        late = [job for job in self._running(node) if job.end and job.end > max(span[0], self.now)]
        if late and not self.ignores[name]:
            raise Busy(f"{node}: Requested nodes are busy")
        self.held[name] = (node, max(span[0], self.now), self._end(span[0], span[1]), True)

    def hold(self, name, node=None):
        self._up()
        on, start, *_ = self._reservation(name)
        self.held[name] = (node or on, start, start + timedelta(days=365), True)

    def release(self, name):
        self._up()
        node, *_ = self._reservation(name)
        if any(job.comment for job in self._running(node)):
            raise Busy(f"{name}: Requested reservation is in use")
        record = self.nodes[node]
        if not record.verified and not record.flags & {"DRAIN", "DOWN"}:
            self.wrong.append(f"{node} was given back unverified")
        del self.held[name]

    def drain(self, name, reason):
        self._up()
        self._set_reason(self.nodes[name], reason)
        self.nodes[name].flags.add("DRAIN")

    put_back = drain

    def resume(self, name):
        self._up()
        node = self.nodes[name]
        if not node.reason.startswith("gsp:") and node.flags & {"DRAIN", "DOWN"}:
            self.wrong.append(f"{name}: the drain of others was lifted: {node.reason}")
        node.flags -= {"DRAIN", "DOWN"}
        node.reason = ""

    def reboot(self, name, reason):
        self._up()
        node = self.nodes[name]
        if node.rebooting is not None:
            raise WrongState(f"Skipping reboot of nodes {name} due to current node state.")
        self._set_reason(node, reason + " : reboot issued")
        node.flags |= {"DRAIN", "DOWN", "REBOOT_ISSUED"}
        node.rebooting = self.now
        node.history.append(reason)

    def submit(self, script, options):
        self._up()
        said = dict(option.lstrip("-").split("=", 1) for option in options if "=" in option)
        node = self.nodes[said["nodelist"]]
        number = str(self.next_job)
        self.next_job += 1
        operation = re.search(r"--operation (\S+)", script)[1]
        result = self._doing(node).hardware
        self.jobs.append(
            Job(
                number,
                "RUNNING",
                "root",
                self.now + timedelta(seconds=VERIFY_S),
                (node.name,),
                said["comment"],
            )
        )
        self._verdict = {**getattr(self, "_verdict", {}), number: (node.name, operation, result)}
        return number

    def cancel(self, job):
        self._up()
        for index, one in enumerate(self.jobs):
            if one.id == job and one.state not in ENDED:
                if not one.comment:
                    self.wrong.append(f"job {job} of a user was ended")
                self.jobs[index] = replace(one, state="CANCELLED", end=self.now)

    def _set_reason(self, node, reason):
        if (
            node.flags & {"DRAIN", "DOWN"}
            and not node.reason.startswith("gsp:")
            and node.reason not in {"", reason}
            and not getattr(node, "asked_for", False)
        ):
            self.wrong.append(f"{node.name}: the Reason of others was written over: {node.reason}")
        node.reason = reason

    def _reservation(self, name):
        if name not in self.held:
            raise NoReservation(name)
        return self.held[name]

    def _end(self, start, seconds):
        return start + timedelta(seconds=seconds if seconds is not None else 365 * 86400)

    def _up(self):
        if self.away:
            raise ControllerAway("Unable to contact slurm controller")

    def _running(self, node):
        return [job for job in self.jobs if node in job.nodes and job.state not in ENDED]

    def _doing(self, node):
        operation = parse_operation(node.history[-1]) if node.history else None
        if operation and operation.kind is Kind.ROLLBACK:
            return node.behaviour.rollback or Behaviour()
        return node.behaviour

    # -- time ----------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in steps that see every change."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            self.now = min(end, self.now + timedelta(seconds=5))
            self._step()

    def _step(self) -> None:
        for name, (_, _, end, _) in list(self.held.items()):
            if end <= self.now:
                del self.held[name]
        for index, job in enumerate(self.jobs):
            if job.state == "RUNNING" and job.end and job.end <= self.now:
                self.jobs[index] = replace(job, state="COMPLETED")
                if job.comment:
                    self._publish(job)
        for node in self.nodes.values():
            if node.rebooting is not None:
                self._boot(node)
            if node.due is not None and node.due[0] <= self.now:
                self._prove(node, node.due[1], Level.QUICK, node.due[2])
                node.due = None
        out = [node for node in self.nodes.values() if node.flags or self._reserved(node.name)]
        self.most_out = max(self.most_out, len(out))

    def _publish(self, job: Job) -> None:
        name, operation, result = self._verdict[job.id]
        node = self.nodes[name]
        node.verified = result is Result.PASS
        self._prove(node, operation, Level.HARDWARE, result, job.id)
        if result is not Result.PASS:
            self.jobs[self.jobs.index(replace(job, state="COMPLETED"))] = replace(job, state="FAILED")

    def _prove(self, node, operation, level, result, job=""):
        codes = self._doing(node).codes
        target = parse_operation(node.history[-1]).target
        before = None if job else node.before
        boot = f"boot-{node.boot}"
        node.proof = Proof(operation, level, result, boot, target, codes, "as told", job, before)

    def _boot(self, node: Node) -> None:
        doing = self._doing(node)
        took = self.now - node.rebooting
        operation = parse_operation(node.history[-1])
        if doing.step_fails and took >= timedelta(seconds=REALIGN_S):
            node.reason = f"gsp:realign-failed {doing.step_fails}"
        if doing.step_fails or not doing.returns:
            if took >= timedelta(seconds=RESUME_TIMEOUT_S):
                node.flags -= {"REBOOT_ISSUED", "DRAIN"}  # as 22.05 does
                node.reason += " : reboot timed out"
                node.rebooting = None
            return
        node.verified = False
        if took < timedelta(seconds=REALIGN_S + BOOT_S):
            return
        node.boot += 1
        node.booted = self.now
        node.flags -= {"REBOOT_ISSUED", "DRAIN"}
        node.rebooting = None
        if node.reason.startswith("gsp:"):
            node.reason += " : reboot complete"
        result = doing.quick
        node.before = node.driver
        if doing.cut_off:
            doing.cut_off -= 1
            result = Result.UNFINISHED
        elif operation.kind is Kind.REALIGN:
            node.driver = "570.195.03"
        else:
            node.driver = "570.172.08"
        node.due = (self.now + timedelta(seconds=PROOF_S), operation.key, result)

    def _reserved(self, node: str) -> bool:
        return any(name == node and start <= self.now < end for name, start, end, _ in self.held.values())

    # -- users ---------------------------------------------------------------------------------------------

    def users_submit(self, seconds: int, nodes: Collection[str] | None = None) -> None:
        """A job starts on every node that Slurm would give to a user now."""
        for node in self.nodes.values():
            if nodes is not None and node.name not in nodes:
                continue
            until = self.now + timedelta(seconds=seconds)
            soon = any(
                name == node.name and start < until and end > self.now
                for name, start, end, _ in self.held.values()
            )
            if node.flags or soon or self._running(node.name):
                continue
            if not node.verified:
                self.wrong.append(f"a user's job started on {node.name}, which is not verified")
            self.users += 1
            self.jobs.append(Job(str(self.next_job), "RUNNING", "alice", until, (node.name,)))
            self.next_job += 1

    # -- the look ------------------------------------------------------------------------------------------

    def look(self, names: Collection[str]) -> Look:
        """What four reads would show."""
        self._up()
        seen = {}
        for name in names:
            if name in self.nodes:
                seen[name] = self._seen(self.nodes[name])
        verifications: dict[str, list[Job]] = {}
        for job in self.jobs:
            if job.comment:
                verifications.setdefault(job.comment, []).append(job)
        out = frozenset(
            node.name
            for node in self.nodes.values()
            if node.flags & {"DRAIN", "DOWN"} or self._reserved(node.name)
        )
        return Look(
            self.now,
            seen,
            {key: tuple(jobs) for key, jobs in verifications.items()},
            {"gpu": len(self.nodes)},
            {"gpu": out},
        )

    def _seen(self, node: Node) -> Seen:
        states = set(node.flags)
        running = self._running(node.name)
        if "DOWN" not in states:
            states.add("ALLOCATED" if running else "IDLE")
        if self._reserved(node.name):
            states |= {"MAINTENANCE", "RESERVED"}
        held = tuple(
            Reservation(name, start, end, maint)
            for name, (on, start, end, maint) in sorted(self.held.items())
            if on == node.name
        )
        booted = node.booted.strftime("%Y-%m-%dT%H:%M:%S") if node.booted else "2026-01-01T00:00:00"
        state = NodeState(
            name=node.name, states=frozenset(states), reason=node.reason, reason_user=node.user,
            reason_time="", partitions=("gpu",), reservation="", comment="", extra="", boot_time=booted,
        )  # fmt: skip
        failed = tuple(job for job in self.jobs if job.state == "NODE_FAIL" and node.name in job.nodes)
        users = tuple(job for job in running if not job.comment)
        return Seen(state, held, users, failed, node.proof, node.driver, full=bool(running))

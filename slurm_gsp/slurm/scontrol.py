"""Slurm through its own command, ``scontrol``: any release, and nothing else is needed on the node."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from slurm_gsp import process
from slurm_gsp.slurm.client import (
    ControllerAway,
    Denied,
    Features,
    Field,
    NodeState,
    SlurmError,
    SlurmMissing,
    SlurmTimeout,
    UnknownNode,
    check_annotation,
    check_features,
    check_node_name,
    check_reason,
    parse_states,
)


class Run(Protocol):
    """How ``process.run`` is called here."""

    def __call__(
        self, argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> process.Finished: ...


class Converse(Protocol):
    """How ``process.converse`` is called here."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        opening: str,
        reply: process.Reply,
        env: Mapping[str, str] | None = None,
    ) -> process.Finished: ...


class Scontrol:
    """SlurmClient by scontrol; ``conf`` is SLURM_CONF for it, needed where slurm.conf is in no usual place.

    Only ``drain_unless`` holds a conversation. ``deadline_s`` bounds each call as a whole.
    """

    def __init__(
        self,
        run: Run = process.run,
        *,
        scontrol: str = "/usr/bin/scontrol",
        deadline_s: float = 10.0,
        conf: str | None = None,
        converse: Converse = process.converse,
    ) -> None:
        self._run = run
        self._converse = converse
        self._scontrol = scontrol
        self._deadline_s = deadline_s
        self._env = {"SLURM_CONF": conf} if conf else {}

    def node(self, name: str) -> NodeState:
        """Read one node."""
        return parse_node(self.record(name))

    def record(self, name: str) -> str:
        """One node as scontrol writes it, on one line."""
        check_node_name(name)
        return _one_line(self._ask("-o", "show", "node", name), name, f"show node {name}")

    def partition_nodes(self, partitions: Sequence[str]) -> tuple[NodeState, ...]:
        """Read every node of these partitions, each once, in one request; () for no partitions.

        All nodes are asked for (hidden ones too) and the others left out here: 10,000 nodes are 5 MB and
        0.06 s as this text, and sinfo, which could select, says neither all flags nor whose drain it is.
        A partition that Slurm does not know has no nodes.
        """
        wanted = frozenset(partitions)
        if not wanted:
            return ()
        finished = self._ask("-a", "-o", "show", "node")
        if refused(finished):
            raise refusal(finished, f"{self._scontrol} show node (all)")
        nodes = []
        for line in _node_lines(finished.stdout):
            inside = _PARTITIONS.search(line)
            if inside and not wanted.isdisjoint(inside[1].split(",")):
                nodes.append(parse_node(line))
        return tuple(nodes)

    def drain(self, name: str, reason: str) -> None:
        """Drain one node, whatever its state and Reason are."""
        check_node_name(name)
        check_reason(reason)
        self._change("update", f"nodename={name}", "state=drain", f"reason={reason}")

    def resume(self, name: str) -> None:
        """Return one node to service; no error if it is in service already."""
        check_node_name(name)
        self._change("update", f"nodename={name}", "state=resume")

    def drain_unless(self, name: str, reason: str, keep: Callable[[NodeState], bool]) -> NodeState:
        """Read one node and drain it only if ``keep`` of what was read is false; the state that was read.

        One scontrol process does both, under one deadline: it is given ``show node`` on its stdin, its answer
        is judged, and it is given the update, or ``quit``. That is one start and one read of slurm.conf
        instead of two on the failing path of a hook, and leaves a few milliseconds between looking and
        writing (Slurm has no conditional update, so never none). scontrol's output goes to a pseudo-terminal:
        to a pipe it hands out its answer only where it was built with readline.
        """
        check_node_name(name)
        check_reason(reason)
        asked = f"drain {name} unless it is somebody else's"
        seen: NodeState | None = None

        def reply(stdout: str, stderr: str) -> str | None:
            nonlocal seen
            line = _complete_line(stdout, name)
            if line is not None:
                seen = parse_node(line)
                return "quit\n" if keep(seen) else f'update nodename={name} state=drain reason="{reason}"\n'
            over = _NOT_FOUND.search(stdout) or _FAILED.search(stderr) or stdout.count(f"\n{_PROMPT}") > 0
            return "quit\n" if over else None

        try:
            finished = self._converse(
                (self._scontrol, "-o"),
                deadline_s=self._deadline_s,
                opening=f"show node {name}\n",
                reply=reply,
                env=self._env,
            )
        except process.ProcessError as error:
            raise failed(error, asked) from error
        if seen is None or refused(finished):
            raise refusal(finished, f"{self._scontrol} {asked}")
        return seen

    def annotate(self, name: str, field: Field, text: str, features: Features | None = None) -> None:
        """Put a text into Extra or Comment, in the place of the one that is there; so with features."""
        check_node_name(name)
        check_annotation(text)
        words = ["update", f"nodename={name}", f"{field}={text}"]
        if features is not None:
            check_features(features)
            words += [
                f"availablefeatures={','.join(features.available)}",
                f"activefeatures={','.join(features.active)}",
            ]
        self._change(*words)

    def _ask(self, *words: str) -> process.Finished:
        try:
            return self._run((self._scontrol, *words), deadline_s=self._deadline_s, env=self._env)
        except process.ProcessError as error:
            raise failed(error, " ".join(word for word in words if word[0] != "-")) from error

    def _change(self, *words: str) -> None:
        finished = self._ask(*words)
        if refused(finished):
            raise refusal(finished, " ".join((self._scontrol, *words)))


def parse_node(line: str) -> NodeState:
    """The node that one line of ``scontrol -o show node`` describes.

    Values are not quoted there, and Reason, Comment and Extra may hold blanks and what looks like keys. All
    releases write them last, so what stands before them is read first, and the Reason ends at its own stamp.
    """
    tail_at = _TAIL.search(line)
    head, tail = (line, "") if tail_at is None else (line[: tail_at.start()], line[tail_at.start() :])
    keys: dict[str, str] = {}
    for match in _PAIR.finditer(head):
        keys.setdefault(match[1], match[2])
    if not keys.get("NodeName") or not keys.get("State"):
        raise SlurmError(f"not a node as scontrol writes it: {line[:200]!r}")
    texts = free_texts(tail)
    return NodeState(
        name=keys["NodeName"],
        states=parse_states(keys["State"]),
        reason=texts.reason,
        reason_user=texts.user,
        reason_time=texts.when,
        partitions=_names(keys.get("Partitions")),
        reservation=texts.reservation,
        comment=texts.comment,
        extra=texts.extra,
        boot_time=_text(keys.get("BootTime", "")),
        features=Features(_names(keys.get("AvailableFeatures")), _names(keys.get("ActiveFeatures"))),
    )


@dataclass(frozen=True, slots=True)
class FreeTexts:
    """What people and programs wrote into a node's record; ``user`` and ``when`` are the Reason's."""

    reason: str
    user: str
    when: str
    comment: str
    extra: str
    reservation: str


def free_texts(tail: str) -> FreeTexts:
    """The free texts at the end of a node's line, from the first one on."""
    reason, user, when = "", "", ""
    stamped = _STAMPED_REASON.search(tail)
    if stamped:
        reason, user, when = stamped.groups()
        tail = tail[: stamped.start()] + tail[stamped.end() :]
    keys: dict[str, str] = {}
    for match in _TAIL_PAIR.finditer(tail):
        keys.setdefault(match[1], match[2].strip())
    return FreeTexts(
        reason=_text(reason or keys.get("Reason", "")),
        user=user,
        when=when,
        comment=_text(keys.get("Comment", "")),
        extra=_text(keys.get("Extra", "")),
        reservation=_text(keys.get("ReservationName", "")),
    )


_FREE: Final = r"Reason|Comment|Extra|InstanceId|InstanceType|ReservationName"
"""The keys whose values are free text, and the ones that may follow them."""
_TAIL: Final = re.compile(rf" (?:{_FREE})=")
_TAIL_PAIR: Final = re.compile(rf" ({_FREE})=(.*?)(?= (?:{_FREE})=|$)", re.DOTALL)
_STAMPED_REASON: Final = re.compile(
    rf" Reason=(.*?) \[([^\s@\[\]]+)@([^\s\[\]]+)\]\s*(?= (?:{_FREE})=|$)", re.DOTALL
)
_PAIR: Final = re.compile(r"(?:^| )([A-Za-z][A-Za-z_]*)=(\S*)")
_PARTITIONS: Final = re.compile(r" Partitions=(\S+)")

_PROMPT: Final = "scontrol: "
_NOT_FOUND: Final = re.compile(r"^Node \S+ not found", re.MULTILINE)
_FAILED: Final = re.compile(r"^slurm_\w+(?: error)?:", re.MULTILINE)
"""How Slurm's commands report what libslurm answered, from 22.05 to 26.05 (which forgets a blank in one)."""

_MEANINGS: Final[tuple[tuple[str, type[SlurmError]], ...]] = (
    (r"Invalid node name|Node \S+ (?:not found|does not exist)", UnknownNode),
    (r"Invalid user id|Permission denied", Denied),
    # munged of this machine is away; libslurm calls that an authentication error too
    (r"Munge encode failed", ControllerAway),
    (r"authentication (?:error|credential|failure|of user)", Denied),
    (r"timed out", SlurmTimeout),
    (r"Unable to contact slurm controller|Unable to establish control|standby", ControllerAway),
    (r"Communication (?:connection|shutdown) failure|Connection refused", ControllerAway),
    # slurmctld ended before it answered
    (r"Zero Bytes were transmitted|Connection reset by peer|Unexpected missing socket", ControllerAway),
    # with the quote: slurmctld cannot resolve the ids of users and groups either, and then it is not away
    (r'Unable to resolve "|DNS SRV lookup failed|Could not establish a configuration source', ControllerAway),
)
"""What the answers of Slurm 22.05 to 26.05 (its slurm_errno.c, and the clients' own) mean here."""


def _node_lines(stdout: str) -> list[str]:
    """The lines of a listing; a Reason of several lines goes on in lines that start with a blank."""
    lines: list[str] = []
    for line in stdout.splitlines():
        if line.startswith("NodeName="):
            lines.append(line.rstrip())
        elif lines and line.startswith(" "):
            lines[-1] += " " + line.strip()
    return lines


def _one_line(finished: process.Finished, name: str, asked: str) -> str:
    lines = [line for line in _node_lines(finished.stdout) if line.startswith(f"NodeName={name} ")]
    if finished.rc != 0 or len(lines) != 1:
        raise refusal(finished, f"{finished.argv[0]} {asked}")
    return lines[0]


def _complete_line(stdout: str, name: str) -> str | None:
    """The node's line, once all of it is there."""
    match = re.search(rf"^NodeName={re.escape(name)} .*\n", stdout, re.MULTILINE)
    return None if match is None else match[0].strip()


def _text(value: str) -> str:
    return "" if value in {"(null)", "N/A", "n/a", "None"} else value


def _names(value: str | None) -> tuple[str, ...]:
    return tuple(filter(None, _text(value or "").split(",")))


def refused(finished: process.Finished) -> bool:
    """Whether Slurm did not do what was asked; a mere warning on stderr does not say so."""
    return finished.rc != 0 or _FAILED.search(finished.stderr) is not None


def refusal(finished: process.Finished, asked: str) -> SlurmError:
    """The error that a refusal is, whichever of Slurm's commands passed it on."""
    answer = _answer(finished)
    return kind_of(answer)(f"{asked}: {answer or 'no answer'} (exit status {finished.rc})")


def kind_of(answer: str) -> type[SlurmError]:
    """What an answer of Slurm means, whichever client passed it on; SlurmError: nothing that is known."""
    found = (kind for pattern, kind in _MEANINGS if re.search(pattern, answer, re.IGNORECASE))
    return next(found, SlurmError)


def failed(error: process.ProcessError, asked: str) -> SlurmError:
    """A command of Slurm's that did not run to its end."""
    return kind_of_failure(error)(f"asked Slurm to {asked}: {error}")


def kind_of_failure(error: process.ProcessError) -> type[SlurmError]:
    """What it means that a command of Slurm's did not run to its end."""
    kinds = {process.CommandMissing: SlurmMissing, process.DeadlineExceeded: SlurmTimeout}
    return kinds.get(type(error), SlurmError)


def _answer(finished: process.Finished) -> str:
    """What Slurm said, on one line: stderr, else what is on stdout and no node, prompt or echo.

    Of a long answer the end: what was tried is told first, time after time, and last what came of it.
    """
    said = finished.stderr.strip()
    if not said:
        lines = finished.stdout.splitlines()
        said = "\n".join(line for line in lines if not line.startswith(("NodeName=", _PROMPT)))
    return " / ".join(line.strip() for line in said.splitlines() if line.strip())[-500:]

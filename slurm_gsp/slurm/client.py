"""What the hooks ask of Slurm, and how they read its answer, whichever backend gives it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias

MAX_REASON: Final = 120
"""Longest Reason that we write: one line of a terminal, and short of what any release cuts."""

_SYMBOLS: Final = {
    "*": "NOT_RESPONDING",
    "~": "POWERED_DOWN",
    "#": "POWERING_UP",
    "!": "POWER_DOWN",
    "%": "POWERING_DOWN",
    "$": "MAINTENANCE",
    "@": "REBOOT_REQUESTED",
    "^": "REBOOT_ISSUED",
    "-": "PLANNED",
}
"""The one-character suffixes of sinfo(1), section NODE STATE CODES."""

_WORDS: Final = {
    "alloc": ("ALLOCATED",),
    "block": ("BLOCKED",),
    "blocked": ("BLOCKED",),
    "boot": ("REBOOT_ISSUED",),
    "comp": ("COMPLETING",),
    "completing": ("COMPLETING",),
    "drain": ("DRAIN",),
    "drained": ("IDLE", "DRAIN"),
    "draining": ("ALLOCATED", "DRAIN"),
    "drng": ("ALLOCATED", "DRAIN"),
    "fail": ("FAIL",),
    "failg": ("ALLOCATED", "FAIL"),
    "failing": ("ALLOCATED", "FAIL"),
    "futr": ("FUTURE",),
    "inval": ("INVALID_REG",),
    "maint": ("MAINTENANCE",),
    "mix": ("MIXED",),
    "no_respond": ("NOT_RESPONDING",),
    "npc": ("PERFCTRS",),
    "plnd": ("PLANNED",),
    "pow_dn": ("POWERING_DOWN",),
    "pow_up": ("POWERING_UP",),
    "reboot": ("REBOOT_ISSUED",),
    "resv": ("RESERVED",),
    "unk": ("UNKNOWN",),
}
"""Words of sinfo (compact and long) that are not the flag names of scontrol."""


class SlurmError(Exception):
    """A request to Slurm that was not done; the message says what was asked and what Slurm answered."""


class ControllerAway(SlurmError):  # noqa: N818
    """slurmctld, or munge on the way to it, cannot be reached: try again later."""


class Denied(SlurmError):  # noqa: N818
    """Slurm refused: this user may not do that."""


class UnknownNode(SlurmError):  # noqa: N818
    """Slurm has no node of that name."""


class SlurmTimeout(SlurmError):  # noqa: N818
    """No answer in time; a change that was asked for may still have been made."""


class SlurmMissing(SlurmError):  # noqa: N818
    """The Slurm command is not on this machine."""


@dataclass(frozen=True, slots=True)
class Features:
    """A node's features, in their order."""

    available: tuple[str, ...] = ()
    active: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeState:
    """One node as slurmctld describes it; texts that Slurm does not give are empty.

    A Reason means something only while the node is ``drained``: some releases leave it on an idle node.
    ``features`` only a RecordClient reads.
    """

    name: str
    states: frozenset[str]
    reason: str
    reason_user: str
    reason_time: str
    partitions: tuple[str, ...]
    reservation: str
    comment: str
    extra: str
    boot_time: str
    features: Features = Features()

    @property
    def drained(self) -> bool:
        """Whether the node takes no jobs by somebody's decision (it may still run some)."""
        return bool(self.states & {"DRAIN", "DOWN", "FAIL", "ERROR"})

    @property
    def rebooting(self) -> bool:
        """Whether a reboot through Slurm was asked for or is under way."""
        return bool(self.states & {"REBOOT_REQUESTED", "REBOOT_ISSUED"})

    @property
    def in_maintenance(self) -> bool:
        """Whether the node is inside an active MAINT reservation."""
        return "MAINTENANCE" in self.states


Field: TypeAlias = Literal["extra", "comment"]
"""The fields of a node's record that anybody may write texts into."""


class SlurmClient(Protocol):
    """Slurm, as far as this product needs it; every call is bounded in time and raises SlurmError."""

    def node(self, name: str) -> NodeState:
        """Read one node."""
        ...

    def partition_nodes(self, partitions: Sequence[str]) -> tuple[NodeState, ...]:
        """Read every node of these partitions, each once, in one request."""
        ...

    def drain(self, name: str, reason: str) -> None:
        """Drain one node, whatever its state and Reason are."""
        ...

    def resume(self, name: str) -> None:
        """Return one node to service."""
        ...

    def drain_unless(self, name: str, reason: str, keep: Callable[[NodeState], bool]) -> NodeState:
        """Read one node and drain it only if ``keep`` of what was read is false; the state that was read."""
        ...

    def annotate(self, name: str, field: Field, text: str) -> None:
        """Put a text into this field of the node's record, in the place of the one that is there."""
        ...


class RecordClient(SlurmClient, Protocol):
    """Slurm, as a node needs it that keeps its own record."""

    def annotate(self, name: str, field: Field, text: str, features: Features | None = None) -> None:
        """As SlurmClient; with ``features``, these take the place of the node's in the same update."""
        ...


def parse_states(text: str) -> frozenset[str]:
    """The flags of a state text of scontrol (``IDLE*+DRAIN``) or sinfo (``drained*``, ``plnd``), spelt alike.

    ``DRAINED`` and ``DRAINING`` become their base and ``DRAIN``. A word that is not known is kept as it is,
    in capitals: a new release may bring one.
    """
    states: set[str] = set()
    for part in text.strip().split("+"):
        word = part.strip()
        while word and word[-1] in _SYMBOLS:
            states.add(_SYMBOLS[word[-1]])
            word = word[:-1].rstrip()
        if word:
            states.update(_WORDS.get(word.lower(), (word.upper(),)))
    return frozenset(states)


def check_reason(text: str) -> None:
    """Refuse a Reason that Slurm would cut, split or store differently: ValueError says why."""
    if not text.strip() or text != text.strip():
        raise ValueError(f"a Reason needs text, without blanks around it: {text!r}")
    if len(text) > MAX_REASON:
        raise ValueError(f"a Reason has at most {MAX_REASON} characters, this one {len(text)}: {text!r}")
    if not re.fullmatch(r"[ -~]*", text):
        raise ValueError(f"a Reason is one line of printable ASCII: {text!r}")
    if '"' in text or "\\" in text:
        raise ValueError(f"a Reason has no double quote or backslash: {text!r}")


def check_annotation(text: str) -> None:
    """Refuse a text that Slurm would split or store differently: ValueError says why."""
    if not re.fullmatch(r"[ -~]+", text) or text != text.strip():
        raise ValueError(f"an annotation is one line of printable ASCII, without blanks around it: {text!r}")


def check_features(features: Features) -> None:
    """Refuse a feature that Slurm would split: ValueError says why."""
    for name in (*features.available, *features.active):
        if not re.fullmatch(r"[!-+\--~]+", name):
            raise ValueError(f"not the name of one feature: {name!r}")


def check_node_name(name: str) -> None:
    """Refuse what is not one plain node name (a hostlist, an option, ALL): ValueError says why."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name) or name.upper() == "ALL":
        raise ValueError(f"not the name of one node: {name!r}")

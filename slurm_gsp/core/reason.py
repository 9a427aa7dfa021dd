"""The Reason that ``sinfo -R`` shows, and who owns one."""

from __future__ import annotations

from slurm_gsp.core.finding import Finding

PREFIX = "gsp:"
OWN_PREFIXES = (PREFIX,)
"""Older prefixes of ours stay in this tuple for ever: a renamed reason strands the nodes drained under it."""

MAX_LENGTH = 120


def format_reason(finding: Finding) -> str:
    """``gsp:<code> <facts>``: one line of printable ASCII, at most 120 characters, cut between facts."""
    text = PREFIX + finding.code
    for name, value in finding.facts:
        fact = f" {name}={_plain(value)}"
        if len(text) + len(fact) > MAX_LENGTH:
            break
        text += fact
    return text


def is_ours(reason: str) -> bool:
    """Whether a node's Reason was set by slurm-gsp; Slurm appends to it, so the prefix decides."""
    return reason.startswith(OWN_PREFIXES)


def code_of(reason: str) -> str | None:
    """The fault code of a Reason of ours."""
    for prefix in OWN_PREFIXES:
        if reason.startswith(prefix):
            return reason.removeprefix(prefix).split(" ", 1)[0]
    return None


def _plain(value: str) -> str:
    """Printable ASCII without quotes, backslashes and spaces: scontrol passes it through unchanged."""
    kept = (char if "!" <= char <= "~" and char not in "\"'\\" else "-" for char in value)
    return "".join(kept)

"""What a node says of itself in its own Slurm record (Extra or Comment), and how it is read back.

Flat JSON with string values, as ``--extra`` of sbatch can ask for them. What the site keeps there stays: keys
of others are kept, and a text that is no JSON object keeps its place before ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

DRIVER_KEY: Final = "nvidia_driver"
"""The loaded driver."""
MAX_LENGTH: Final = 2048
"""Longest text that we write into a node's record: slurmctld keeps and sends all of them."""
MAX_WHY: Final = 160

_MARK: Final = "gsp:{"


class Level(StrEnum):
    """How deep a verification goes; each holds the ones before it."""

    QUICK = "quick"
    HARDWARE = "hardware"
    WORKLOAD = "workload"


class Result(StrEnum):
    """How a verification ended.

    ``unknown``: something that is needed could not be checked (DCGM cannot run, say), which is no verdict on
    the GPU. ``unfinished``: the node booted in the middle of a realignment: there is nothing to verify yet.
    """

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"
    UNKNOWN = "unknown"
    UNFINISHED = "unfinished"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a node found of itself after an operation (Operation.key), on the boot with this id.

    ``pin`` is ``<manifest>@<12 digits>``; ``codes`` are fault codes of the detector; ``job`` is the Slurm job
    in which it was found, empty for the health check; ``before`` the driver that was loaded before
    the operation, None from one who does not know.
    """

    operation: str
    level: Level
    result: Result
    boot: str
    pin: str = ""
    codes: tuple[str, ...] = ()
    why: str = ""
    job: str = ""
    before: str | None = None

    def published(self) -> dict[str, str]:
        """The keys and values that carry it."""
        return {
            "gsp_operation": self.operation,
            "gsp_proof": f"{self.level.value}:{self.result.value}",
            "gsp_boot": self.boot,
            "gsp_pin": self.pin,
            "gsp_codes": ",".join(self.codes),
            "gsp_why": _plain(self.why)[:MAX_WHY],
            "gsp_job": self.job,
            **({"gsp_before": self.before} if self.before is not None else {}),
        }


def proof_in(values: Mapping[str, str]) -> Proof | None:
    """The proof that a node published; None where there is none, or one that is not ours to understand."""
    level, _, result = values.get("gsp_proof", "").partition(":")
    try:
        return Proof(
            operation=values["gsp_operation"],
            level=Level(level),
            result=Result(result),
            boot=values["gsp_boot"],
            pin=values.get("gsp_pin", ""),
            codes=tuple(filter(None, values.get("gsp_codes", "").split(","))),
            why=values.get("gsp_why", ""),
            job=values.get("gsp_job", ""),
            before=values.get("gsp_before"),
        )
    except (KeyError, ValueError):
        return None


def read_published(text: str) -> dict[str, str]:
    """The values with string keys and values in a node's Extra or Comment; {} where nobody put any there."""
    _, values = _split(text)
    return {key: value for key, value in values.items() if isinstance(value, str)}


def merge_published(text: str, updates: Mapping[str, str]) -> str:
    """The text with these values; all else in it stays. ValueError: it would be too long."""
    before, values = _split(text)
    merged = json.dumps({**values, **updates}, separators=(",", ":"))
    whole = f"{before} gsp:{merged}" if before else merged
    if len(whole) > MAX_LENGTH:
        raise ValueError(
            f"{len(whole)} characters, more than the {MAX_LENGTH} that are written into a record"
        )
    return whole


def _split(text: str) -> tuple[str, dict[str, object]]:
    """The site's own text, and the object behind it; a text that is one JSON object is no site's text."""
    text = text.strip()
    whole = _object(text)
    if whole is not None:
        return "", whole
    at = text.rfind(_MARK)
    if at >= 0 and (at == 0 or text[at - 1] == " "):
        ours = _object(text[at + len(_MARK) - 1 :])
        if ours is not None:
            return text[:at].rstrip(), ours
    return text, {}


def _object(text: str) -> dict[str, object] | None:
    if not text.startswith("{"):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _plain(text: str) -> str:
    """Printable ASCII on one line, without what scontrol or a shell would take for syntax."""
    return "".join(char if " " <= char <= "~" and char not in "\"'\\`$" else "-" for char in text)

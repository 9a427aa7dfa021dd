"""What a node says of itself in its own Slurm record (Extra or Comment), and how it is read back.

Flat JSON with string values, as ``--extra`` of sbatch can ask for them. What the site keeps there stays: keys
of others are kept, and a text that is no JSON object keeps its place before ours.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

DRIVER_KEY: Final = "nvidia_driver"
"""The loaded driver."""
FLAVOUR_KEY: Final = "nvidia_flavour"
GSP_KEY: Final = "nvidia_gsp"
UMD_KEY: Final = "nvidia_umd"
VBIOS_KEY: Final = "nvidia_vbios"
FABRIC_KEY: Final = "nvidia_fabric"
KERNEL_KEY: Final = "gsp_kernel"
NICS_KEY: Final = "gsp_nics"
MANIFEST_KEY: Final = "gsp_manifest"
VERDICT_KEY: Final = "gsp_verdict"
FAULTS_KEY: Final = "gsp_faults"
SEEN_KEY: Final = "gsp_seen"
"""The id of the boot in which all of these were read."""
BOOTED_KEY: Final = "gsp_booted"
"""When that boot began: Slurm knows boots by their time alone."""
VERSION_KEYS: Final = (
    DRIVER_KEY, FLAVOUR_KEY, GSP_KEY, UMD_KEY, FABRIC_KEY, VBIOS_KEY, NICS_KEY, KERNEL_KEY,
)  # fmt: skip
"""The version tuple. Empty: looked at, and there is none. A key that is not there could not be read. Several
versions are joined by ``+``."""
TUPLE_KEYS: Final = frozenset({
    *VERSION_KEYS, MANIFEST_KEY, VERDICT_KEY, FAULTS_KEY, SEEN_KEY, BOOTED_KEY,
})  # fmt: skip
"""All that the health check publishes of a look; what the last one could not read is taken out."""
SAME_BOOT: Final = timedelta(seconds=120)
"""Slurm counts a node's boot time by its own clock, anew at each registration; no GPU node boots so fast."""
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
            "gsp_why": plain(self.why)[:MAX_WHY],
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


def merge_published(text: str, updates: Mapping[str, str], gone: Collection[str] = ()) -> str:
    """The text with these values, without the keys that are ``gone``; all else in it stays.

    ValueError: it would be too long.
    """
    before, values = _split(text)
    kept = {key: value for key, value in values.items() if key not in gone}
    merged = json.dumps({**kept, **updates}, separators=(",", ":"))
    whole = f"{before} gsp:{merged}" if before else merged
    if len(whole) > MAX_LENGTH:
        raise ValueError(
            f"{len(whole)} characters, more than the {MAX_LENGTH} that are written into a record"
        )
    return whole


@dataclass(frozen=True, slots=True)
class Told:
    """What a node published of a look; ``current``: in the boot that Slurm knows the node to be in."""

    values: Mapping[str, str]
    current: bool


def read_told(texts: Iterable[str], booted: datetime | None) -> Told | None:
    """What a node published of its last look in one of these texts; None: nothing.

    A site that publishes elsewhere now leaves the old text behind: what is current wins. ``booted`` is the
    node's boot time as Slurm has it.
    """
    found = None
    for text in texts:
        if SEEN_KEY in text:
            values = read_published(text)
            if is_of_boot(values.get(BOOTED_KEY, ""), booted):
                return Told(values, current=True)
            found = found or Told(values, current=False)
    return found


def is_of_boot(published: str, booted: datetime | None) -> bool:
    """Whether a published time of a boot is that of the boot that began then."""
    try:
        return booted is not None and abs(datetime.fromisoformat(published) - booted) <= SAME_BOOT
    except (ValueError, TypeError):
        return False


_BOOTED: Final = f'"{BOOTED_KEY}":"'
_OF_ONE_NODE: Final = tuple(f'"{key}":"' for key in (SEEN_KEY, "gsp_boot", "gsp_job"))


def without_boot(text: str) -> tuple[str, str]:
    """The text without the values that no two nodes share, and the published time of the boot.

    Thousands of nodes that run the same then have the same text, which has to be read but once.
    """
    booted = ""
    at = text.find(_BOOTED)
    if at >= 0:
        at += len(_BOOTED)
        end = text.find('"', at)
        booted, text = text[at:end], text[:at] + text[end:]
    for mark in _OF_ONE_NODE:
        at = text.find(mark)
        if at >= 0:
            at += len(mark)
            text = text[:at] + text[text.find('"', at) :]
    return text, booted


def time_text(moment: datetime) -> str:
    """A time as it is published."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


def plain(text: str) -> str:
    """Printable ASCII on one line, without what scontrol or a shell would take for syntax."""
    return "".join(char if " " <= char <= "~" and char not in "\"'\\`$" else "-" for char in text)

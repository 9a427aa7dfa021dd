"""The kernel log: its lines, and what the NVIDIA driver and the module loader said in them.

The wordings are those of NVIDIA's open-gpu-kernel-modules (tags 515.43.04 to 595.45.04) and of Linux
(drivers/base/firmware_loader, kernel/module, security/lockdown), unless a comment names another source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

from slurm_gsp.parse.modinfo import NVRM_ID

_MAX_TEXT: Final = 300
# A record of the kernel has at most some 1,000 bytes; the cut bounds what a hostile log costs.
_MAX_ROW: Final = 2048
# How far a message that is spread over several lines may reach: other drivers' lines lie in between.
_REACH: Final = 24
# A "Linux version" line later than this is not a kernel's first word.
_BOOT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record; ``time`` in seconds since boot where the stamp says so, ``text`` may hold newlines."""

    time: float | None
    text: str


@dataclass(frozen=True, slots=True)
class LogEvent:
    """Something the driver or the module loader reported.

    ``line`` is the index of the LogLine where it starts, ``text`` the message on one line of at most 300
    characters, ``gpu`` a PCI bus id such as 0000:06:00.0, ``values`` what the kind is about (see _rules).
    """

    kind: str
    line: int
    text: str
    gpu: str | None = None
    values: tuple[str, ...] = ()


# dmesg: "[   26.768273] text", "[Sat Nov 21 20:27:09 2026] text"; with -r "<6>[ ... ]", with -x
# "kern  :warn  : [ ... ]", with --time-format=iso "2026-11-21T20:27:09,768273+00:00 text".
# journalctl -k: "Nov 21 20:27:09 host kernel: text".
_PREFIX: Final = re.compile(r"(?:<[0-9]{1,4}>|[a-z0-9]{2,8} *:[a-z]{2,8} *: ?)")
_STAMP: Final = re.compile(
    r"\[ *(?:([0-9]{1,12}\.[0-9]{1,9})|[A-Z][a-z]{2} [^][]{1,40})\](?:\[ *[TC][0-9]+\])? ?"
)
_CALENDAR: Final = re.compile(
    r"(?:[0-9]{4}-[0-9]{2}-[0-9]{2}T\S{8,24}|[A-Z][a-z]{2} [ 0-9][0-9] [0-9:]{8}) (?:\S+ kernel: )?"
)
# A record of /dev/kmsg: "priority,sequence,microseconds,flags[,...];text" (Linux, ABI/testing/dev-kmsg).
_RECORD: Final = re.compile(rb"[0-9]{1,10},([0-9]{1,19}),([0-9]{1,18}),[^;\n]{0,200};(.*)")
_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")


def parse_dmesg(text: str) -> tuple[LogLine, ...]:
    """The records of a kernel log as ``dmesg`` prints it, of the last boot in it.

    An indented line without a stamp continues the record before it, and is joined to it with a newline.
    """
    records: list[tuple[float | None, list[str]]] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        stamped, time, rest = _stamp(line)
        if not stamped and line[0].isspace() and records:
            records[-1][1].append(rest)
        else:
            records.append((time, [rest]))
    return _last_boot([LogLine(time, "\n".join(parts)) for time, parts in records])


def parse_dev_kmsg(data: bytes, after: int) -> tuple[tuple[LogLine, ...], int]:
    """Records read from /dev/kmsg with a sequence number above ``after``, and the last number seen.

    Their dictionaries are dropped. A last record without its newline is left for the next read.
    """
    lines: list[LogLine] = []
    last = after
    for raw in data.split(b"\n")[:-1]:
        found = _RECORD.match(raw)
        if found is None:
            continue
        last = max(last, int(found[1]))
        if int(found[1]) > after:
            lines.append(LogLine(int(found[2]) / 1e6, _unescape(found[3])))
    return tuple(lines), last


def read_events(lines: Sequence[LogLine]) -> tuple[LogEvent, ...]:
    """What happened, in the order of the log. Lines that no rule knows give nothing."""
    rows = [_Row(index, row[:_MAX_ROW]) for index, line in enumerate(lines) for row in line.text.split("\n")]
    # Rows of a message that was reported where it starts: the same kind is not reported again inside it.
    told: set[tuple[str, int]] = set()
    return tuple(
        event
        for place, row in enumerate(rows)
        if _WORTH_A_LOOK.search(row.text)
        for event in _events_at(rows, place, told)
    )


def _stamp(line: str) -> tuple[bool, float | None, str]:
    """(has a stamp, its seconds, the text after it)."""
    prefix = _PREFIX.match(line)
    rest = line[prefix.end() :] if prefix else line
    calendar = _CALENDAR.match(rest)
    rest = rest[calendar.end() :] if calendar else rest
    stamp = _STAMP.match(rest)
    if stamp:
        return True, float(stamp[1]) if stamp[1] else None, rest[stamp.end() :].strip()
    # A word, a colon and a word is also how an ordinary message may start: a prefix counts with a stamp only.
    return (True, None, rest.strip()) if calendar else (False, None, line.strip())


def _last_boot(lines: list[LogLine]) -> tuple[LogLine, ...]:
    start = 0
    for index, line in enumerate(lines):
        if line.text.startswith("Linux version ") and (line.time is None or line.time < _BOOT_SECONDS):
            before = lines[index - 1].time if index else None
            if line.time is None or before is None or line.time < before:
                start = index
    return tuple(lines[start:])


def _unescape(raw: bytes) -> str:
    text = _ESCAPE.sub(lambda found: bytes([int(found[1], 16)]), raw).decode("utf-8", "replace")
    return "\n".join(part.strip() for part in text.split("\n"))


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of a record; ``line`` is the record's index."""

    line: int
    text: str


_Match: TypeAlias = re.Match[str]
_Values: TypeAlias = Callable[[_Match], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class _Rule:
    """``pattern`` is searched in a row; with ``more``, rows that it matches are joined to the row first."""

    kind: str
    pattern: re.Pattern[str]
    values: _Values
    more: re.Pattern[str] | None = None
    head: re.Pattern[str] | None = None


def _groups(match: _Match) -> tuple[str, ...]:
    return tuple(group or "" for group in match.groups())


def _none(_match: _Match) -> tuple[str, ...]:
    return ()


def _rule(kind: str, pattern: str, values: _Values = _none, more: str = "", head: str = "") -> _Rule:
    return _Rule(
        kind,
        re.compile(pattern, re.IGNORECASE),
        values,
        re.compile(rf"\s*NVRM:?\s*(?:{more})", re.IGNORECASE) if more else None,
        re.compile(head, re.IGNORECASE) if head else None,
    )


def _loaded(match: _Match) -> tuple[str, ...]:
    return (match[2], "open" if match[1] else "proprietary")


_VERSION: Final = r"([0-9]{3}\.[0-9]{2,3}(?:\.[0-9]{2,3})?)"
# How the messages about an unusable GPU start, and how their further lines do.
_GPU_HEAD: Final = r"The NVIDIA v?GPU [0-9a-f]{4,8}:|The NVIDIA .{1,80} GPU installed in this system is"
_GPU_MORE: Final = (
    r"\(PCI ID|installed in this|fallen off|open nvidia|nvidia\.ko|System Processor|requires use"
    r"|kernel modules|supported through|NVIDIA [0-9.]+ driver release|NVIDIA open kernel"
)
_IMAGE: Final = rf"nvidia/{_VERSION}/(gsp(?!_log)[a-z0-9_]{{0,40}}\.bin)(?:\.(?:xz|gz|zst))?"


@cache
def _rules() -> tuple[_Rule, ...]:
    """The rules, compiled when a first row needs them: the hook mostly reads a log without any such row."""
    return (
        # (version, "open" | "proprietary")
        _Rule("module-loaded", re.compile(rf"loading {NVRM_ID.pattern}"), _loaded),
        # (version, image, error). gsp_log_*.bin is left out: the driver does without it.
        _rule("fw-load-failed", rf"firmware load for {_IMAGE} failed with error (-?[0-9]{{1,6}})", _groups),
        _rule("fw-load-failed", rf"loading \S{{0,200}}{_IMAGE} failed with error (-?[0-9]{{1,6}})", _groups),
        _rule("no-fw-image", r"RmFetchGspRmImages: No firmware image found"),
        # (A, B) of RmInitAdapter failed! (A:B:source line)
        _rule(
            "init-failed",
            r"RmInitAdapter failed! \((0x[0-9a-f]{1,8}):(0x[0-9a-f]{1,8})(?::[0-9]{1,9})?\)",
            _groups,
        ),
        # (got, expected)
        _rule(
            "fw-version-refused",
            r"image version mismatch: got version ([0-9.]{1,40}), expected version ([0-9.]{1,40})",
            _groups,
        ),
        # (client, module), in the wording from 575.51.02 on and in the older one
        _rule(
            "api-mismatch",
            rf"API mismatch: the client (?:'.*' \(pid [0-9]+\) )?has the version {_VERSION}, but "
            rf"this kernel module has the version {_VERSION}",
            _groups,
            more=r"has the version|the version|this kernel module has",
            head=r"API mismatch: the client",
        ),
        # (module, version, module, version)
        _rule(
            "module-split",
            r"Version mismatch: (nvidia[a-z-]{0,20})\.ko\(([0-9.]{1,40})\) "
            r"(nvidia[a-z-]{0,20})\.ko\(([0-9.]{1,40})\)",
            _groups,
        ),
        # (fabric manager, driver): nv-fabricmanager's words, in the system log (gpu-operator#544)
        _rule(
            "fabric-mismatch",
            rf"fabric manager NVIDIA GPU driver interface version {_VERSION} "
            rf"don.t match with driver version {_VERSION}",
            _groups,
        ),
        # Said by the proprietary module alone, so its wording is not in the open source.
        _rule(
            "needs-open",
            r"requires use of the NVIDIA open kernel modules",
            more=_GPU_MORE,
            head=_GPU_HEAD + "|requires use of the",
        ),
        _rule(
            "needs-proprietary",
            r"is not supported by open nvidia\.ko",
            more=_GPU_MORE,
            head=_GPU_HEAD,
        ),
        _rule(
            "unsupported-gpu",
            r"is not supported by the NVIDIA ([0-9.]{1,40}) driver release",
            _groups,
            more=_GPU_MORE,
            head=_GPU_HEAD,
        ),
        # The text of the legacy list is in the proprietary module alone.
        _rule(
            "unsupported-gpu",
            r"installed in this system is supported through the NVIDIA [0-9.x]{1,20} Legacy drivers",
            more=_GPU_MORE,
            head=_GPU_HEAD,
        ),
        _rule("unsupported-gpu", r"NVRM: ignoring the legacy GPU "),
        # (number,)
        _rule("xid", r"\bXid \(PCI:[^()]{1,60}\): ([0-9]{1,5})\b", _groups),
        _rule(
            "gpu-lost",
            r"GPU .{0,100}has fallen off the bus",
            more=_GPU_MORE,
            head=_GPU_HEAD + "|GPU has fallen",
        ),
        _rule("wpr2", r"unexpected WPR2 already up"),
        # FWSEC runs from the board's own firmware. Its failure while the driver unloads harms nobody.
        _rule(
            "vbios",
            r"(?:failed to|too few|insufficient|cannot) (?!.*driver unload).{0,100}\bFWSEC\b"
            r"|\bFWSEC (?:timed out|not ready|failed)|failed to .{0,60}VBIOS image|VBIOS boot failed"
            r"|failed VBIOS image preparation",
        ),
        # (module or "",)
        _rule(
            "signature-refused",
            r"(?:([\w-]{1,60}): )?loading of (?:unsigned module|module with [a-z ]{1,40}) is rejected",
            _groups,
        ),
        _rule(
            "signature-refused",
            r"Lockdown: (?:[^:]{1,60}: )?(?:loading of )?"
            r"(?:unsigned (?:kernel )?module(?: loading)?|module with [a-z ]{1,40}) is restricted()",
            _groups,
        ),
        # modprobe and systemd-modules-load print the loader's error and the module's name
        _rule(
            "signature-refused",
            r"(?:['\"]([\w-]{1,60})['\"]: )?(?:Key was rejected by service|Required key not available)",
            _groups,
        ),
        _rule(
            "signature-tainted", r"(?:([\w-]{1,60}): )?module verification failed: .*tainting kernel", _groups
        ),
    )


# Most of a log is other drivers' business: one cheap look spares those rows all the rules.
_WORTH_A_LOOK: Final = re.compile(r"nv|xid|gpu|wpr2|vbios|fwsec|module|key ", re.IGNORECASE)


def _events_at(rows: Sequence[_Row], place: int, told: set[tuple[str, int]]) -> Iterator[LogEvent]:
    row = rows[place]
    for rule in _rules():
        if (rule.kind, place) in told or (rule.head and not rule.head.search(row.text)):
            continue
        places = _message(rows, place, rule.more) if rule.more else (place,)
        match = rule.pattern.search(_sentence([rows[part].text for part in places]))
        if match:
            told.update((rule.kind, part) for part in places)
            raw = " ".join(rows[part].text for part in places)
            yield LogEvent(rule.kind, row.line, _one_line(raw), _gpu(raw), rule.values(match))


def _message(rows: Sequence[_Row], place: int, more: re.Pattern[str]) -> tuple[int, ...]:
    """The places of the row and of the rows soon after it that continue its message."""
    places = [place]
    for later in range(place + 1, min(place + 1 + _REACH, len(rows))):
        if _ANEW.search(rows[later].text):
            break
        if more.match(rows[later].text):
            places.append(later)
    return tuple(places)


_ANEW: Final = re.compile(rf"API mismatch: the client|{_GPU_HEAD}", re.IGNORECASE)
_TAG: Final = re.compile(r"^\s*NVRM:?\s*")


def _sentence(parts: Sequence[str]) -> str:
    """The parts of a message as one sentence, without the tag that each further line starts with."""
    return " ".join(" ".join((parts[0], *(_TAG.sub("", part, count=1) for part in parts[1:]))).split())


def _one_line(text: str) -> str:
    plain = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(plain.split())[:_MAX_TEXT]


_BUS_ID: Final = re.compile(
    r"(?<![0-9A-Za-z:.-])(?:PCI:)?([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})(?:\.([0-7]))?(?![0-9a-f])(?!:[0-9a-f]{2})",
    re.IGNORECASE,
)


def _gpu(text: str) -> str | None:
    """The first PCI bus id in a message, as sysfs spells it: 0000:06:00.0."""
    found = _BUS_ID.search(text)
    if found is None:
        return None
    domain = int(found[1], 16)
    return f"{domain:04x}:{found[2]}:{found[3]}.{found[4] or '0'}".lower()

"""Maintenance windows: from the clock on the wall to spans of time, through changes of the clocks."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from slurm_gsp.campaign.model import Limits, Window

Span = tuple[int, int]
"""Seconds since the epoch: from, and up to but not including."""

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_S: Final = 86400
_MINUTES: Final = 24 * 60
_FORM: Final = re.compile(r"(?:(?P<days>[A-Za-z,\-]+)\s+)?(?P<from>\d\d?:\d\d)-(?P<to>\d\d?:\d\d)")


def parse_window(text: str) -> Window:
    """``Mon-Fri 20:00-06:00``, ``Sat,Sun 00:00-24:00``, ``22:00-04:00`` (daily); ValueError says why not."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ValueError(f"not a window: {text!r}; write it like 'Mon-Fri 20:00-06:00'")
    opens, closes = _minute(form["from"], text), _minute(form["to"], text)
    if opens == _MINUTES:
        raise ValueError(f"a window opens between 00:00 and 23:59: {text!r}")
    days = form["days"]
    return Window(frozenset(range(7)) if days is None else _days(days, text), opens, closes)


def window_text(window: Window) -> str:
    """A window as ``parse_window`` reads it."""
    days = sorted(window.days)
    runs: list[list[int]] = []
    for day in days:
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    named = [
        _DAYS[run[0]].title() if len(run) == 1 else f"{_DAYS[run[0]].title()}-{_DAYS[run[-1]].title()}"
        for run in runs
    ]
    return f"{','.join(named)} {_clock(window.opens)}-{_clock(window.closes)}"


def open_spans(limits: Limits, begin: int, end: int) -> tuple[Span, ...]:
    """When slots may lie between ``begin`` and ``end``: apart, in order, the days of exceptions cut out.

    A time of day that a change of the clocks skips or repeats counts so that the window is the shorter one.
    """
    if end <= begin:
        return ()
    zone = ZoneInfo(limits.time_zone)
    spans: list[Span] = []
    if limits.windows:
        day = datetime.fromtimestamp(begin, zone).date() - timedelta(days=1)
        last = datetime.fromtimestamp(end, zone).date()
        while day <= last:
            for window in limits.windows:
                if day.weekday() in window.days:
                    closes = window.closes + (_MINUTES if window.overnight else 0)
                    spans.append((_latest(day, window.opens, zone), _earliest(day, closes, zone)))
            day += timedelta(days=1)
    else:
        spans.append((begin, end))
    closed = [(_earliest(day, 0, zone), _latest(day, _MINUTES, zone)) for day in limits.exceptions]
    clipped = [(max(start, begin), min(stop, end)) for start, stop in _union(spans)]
    return tuple(span for span in _without(clipped, _union(closed)) if span[0] < span[1])


class Openings:
    """The spans of a plan, asked for one slot after another."""

    def __init__(self, spans: Sequence[Span], length: int, grid: int) -> None:
        self._spans = [
            (start, stop)
            for start, stop in ((-(-start // grid) * grid, stop) for start, stop in spans)
            if stop - start >= length
        ]
        self._starts = [start for start, _ in self._spans]
        self._length = length

    def next_start(self, moment: int) -> int | None:
        """The first moment, this one or later, at which a slot may start; None: there is none any more."""
        at = bisect_right(self._starts, moment) - 1
        if at >= 0 and moment + self._length <= self._spans[at][1]:
            return moment
        return self._starts[at + 1] if at + 1 < len(self._starts) else None


def longest(spans: Iterable[Span]) -> int:
    """Seconds of the longest span; 0 for none."""
    return max((stop - start for start, stop in spans), default=0)


def _minute(text: str, whole: str) -> int:
    hours, minutes = (int(part) for part in text.split(":"))
    if minutes > 59 or hours * 60 + minutes > _MINUTES:
        raise ValueError(f"no time of day: {text!r} in {whole!r}")
    return hours * 60 + minutes


def _days(text: str, whole: str) -> frozenset[int]:
    days: set[int] = set()
    for part in text.lower().split(","):
        names = part.split("-")
        if part == "daily":
            days.update(range(7))
        elif len(names) <= 2 and all(name in _DAYS for name in names):
            first, last = _DAYS.index(names[0]), _DAYS.index(names[-1])
            days.update((first + step) % 7 for step in range((last - first) % 7 + 1))
        else:
            raise ValueError(
                f"no day of the week: {part!r} in {whole!r}; use Mon, Tue, Wed, Thu, Fri, Sat, Sun"
            )
    return frozenset(days)


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _readings(day: date, minutes: int, zone: ZoneInfo) -> tuple[int, int]:
    """Both moments at which the clock may show this: they differ where it is set."""
    wall = datetime.combine(day + timedelta(days=minutes // _MINUTES), time()) + timedelta(
        minutes=minutes % _MINUTES
    )
    first, second = (int(wall.replace(tzinfo=zone, fold=fold).timestamp()) for fold in (0, 1))
    return first, second


def _latest(day: date, minutes: int, zone: ZoneInfo) -> int:
    return max(_readings(day, minutes, zone))


def _earliest(day: date, minutes: int, zone: ZoneInfo) -> int:
    return min(_readings(day, minutes, zone))


def _union(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, stop in sorted(spans):
        if stop <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _without(spans: Iterable[Span], holes: Sequence[Span]) -> list[Span]:
    left: list[Span] = []
    for start, stop in spans:
        at = start
        for hole_start, hole_stop in holes:
            if hole_stop <= at or hole_start >= stop:
                continue
            left.append((at, hole_start))
            at = hole_stop
        left.append((at, stop))
    return [span for span in left if span[0] < span[1]]


def at(moment: int) -> datetime:
    """Seconds since the epoch as a time."""
    return datetime.fromtimestamp(moment, UTC)

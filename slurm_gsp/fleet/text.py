"""The overview for people. Plain text: a library that draws tables takes longer to load than this takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Final, NamedTuple

from slurm_gsp.core.published import (
    DRIVER_KEY,
    FABRIC_KEY,
    FLAVOUR_KEY,
    GSP_KEY,
    KERNEL_KEY,
    MANIFEST_KEY,
    NICS_KEY,
    UMD_KEY,
    VBIOS_KEY,
)
from slurm_gsp.fleet.fold import fold
from slurm_gsp.fleet.model import FleetView, Group, Versions

LABELS: Final = {
    DRIVER_KEY: "driver", FLAVOUR_KEY: "flavour", GSP_KEY: "GSP", UMD_KEY: "userspace",
    FABRIC_KEY: "fabric manager", VBIOS_KEY: "VBIOS", NICS_KEY: "NIC firmware", KERNEL_KEY: "kernel",
    MANIFEST_KEY: "manifest",
}  # fmt: skip
_BREAKS: Final = {
    "next-kernel": "the kernel that boots next has no nvidia module that fits",
    "fw-gone": "the GSP image of the loaded driver is gone or bad",
    "pkg-split": "two driver versions, or half-installed driver packages",
    "reboot-pending": "another module than the loaded one is on disk",
}
_CUT: Final = " ..."
_GAP: Final = 3
_NARROWEST: Final = 24
_FOR_NODES: Final = 44
"""Columns that a list of nodes gets before any other column is folded."""
_LINES: Final = 3
"""Of one list of nodes: all of it would fill screens where half of a large fleet differs from the other."""


def as_text(view: FleetView, width: int, *, full: bool = False) -> str:
    """All of it, in lines of at most ``width`` columns where that can be; long lists cut unless ``full``."""
    tables = _tables(view)
    most = None if full else _LINES
    lines = [
        *_heading(view),
        *(line for table in tables if table.rows for line in _drawn(table, width, most)),
    ]
    if any(line.endswith(_CUT) for line in lines):
        lines += ["", f"Lists that end in {_CUT.strip()} are cut: --full shows them whole."]
    return "\n".join(lines) + "\n"


class _Table(NamedTuple):
    """The last column of each row is a list of nodes."""

    heading: Sequence[str]
    rows: Sequence[Sequence[str]]


def _heading(view: FleetView) -> Iterator[str]:
    left_out = f"; {view.without_gpus} without GPUs left out" if view.without_gpus else ""
    yield f"{len(view.nodes)} GPU nodes at {view.at:%Y-%m-%d %H:%M:%S} UTC{left_out}"
    yield f"{view.healthy} healthy and in service, {_total(view.silent)} silent"


def _tables(view: FleetView) -> Iterator[_Table]:
    verdicts = [(group.what, *_counted(group.nodes)) for group in view.verdicts]
    if view.silent:
        verdicts.append(("silent", *_counted(name for group in view.silent for name in group.nodes)))
    yield _Table(("verdict", "nodes", "which"), verdicts)
    yield _groups("code", view.faults)
    yield _groups("silent, because", view.silent)
    broken = [(group.what, _BREAKS[group.what], *_counted(group.nodes)) for group in view.next_boot]
    yield _Table(("breaks at the next reboot", "", "nodes", "which"), broken)
    yield _versions(view.versions)
    yield _Table((f"against {view.manifest}", "", "nodes", "which"), [*_profiles(view)])
    campaigns = [(one.campaign, one.phase, *_counted(one.nodes)) for one in view.campaigns]
    yield _Table(("campaign", "phase", "nodes", "which"), campaigns)
    yield _groups("held", view.held)
    yield _groups("drained by the health check", view.ours)
    others = [(one.reason, one.user, *_counted(one.nodes)) for one in view.others]
    yield _Table(("out by others", "user", "nodes", "which"), others)
    yield _groups("out of band", view.beside)


def _groups(heading: str, groups: Sequence[Group]) -> _Table:
    return _Table((heading, "nodes", "which"), [(group.what, *_counted(group.nodes)) for group in groups])


def _versions(versions: Sequence[Versions]) -> _Table:
    """Of each kind the commonest tuple in full, and of the others what differs."""
    rows = []
    for one in versions:
        keys = one.odd or one.values
        told = ", ".join(f"{LABELS[key]} {one.values[key] or 'none'}" for key in keys)
        rows.append((one.kind if not one.odd else "  odd", told, *_counted(one.nodes)))
    return _Table((f"{len(versions)} version tuple{'s'[: len(versions) != 1]}", "", "nodes", "which"), rows)


def _profiles(view: FleetView) -> Iterator[Sequence[str]]:
    for profile in view.profiles:
        yield profile.profile, f"as pinned: {profile.driver}", *_counted(profile.right)
        for group in profile.drift:
            key, _, rest = group.what.partition(" ")
            yield "", f"{LABELS[key]} {rest}", *_counted(group.nodes)
        if profile.silent:
            yield "", "silent", *_counted(profile.silent)
    if view.unmatched:
        yield "(no profile)", "", *_counted(view.unmatched)


def _total(groups: Iterable[Group]) -> int:
    return sum(len(group.nodes) for group in groups)


def _counted(names: Iterable[str]) -> tuple[str, str]:
    listed = list(names)
    return str(len(listed)), fold(listed)


def _drawn(table: _Table, width: int, most: int | None) -> Iterator[str]:
    """The last column is folded, and the widest of those before it where there is no room."""
    cells = [[plain(cell) for cell in row] for row in (table.heading, *table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.heading) - 1)]
    widest = widths.index(max(widths))
    for_nodes = min(_FOR_NODES, max(len(row[-1]) for row in cells))
    room = width - for_nodes - _GAP * len(widths) - sum(widths) + widths[widest]
    widths[widest] = min(widths[widest], max(_NARROWEST, room))
    last = max(_NARROWEST, width - sum(widths) - _GAP * len(widths))
    yield ""
    drawn = [[*map(_folded, row, widths), _cut(_folded(row[-1], last, most), last, most)] for row in cells]
    for number, parts in enumerate(drawn):
        for line in zip_longest(*parts, fillvalue=""):
            yield (" " * _GAP).join(map(str.ljust, line, (*widths, 0))).rstrip()
        if number == 0:
            longest = max(len(text) for row in drawn for text in row[-1])
            yield "─" * (sum(widths) + _GAP * len(widths) + longest)


def _folded(text: str, width: int, most: int | None = None) -> list[str]:
    """Lines of at most this width, cut behind a comma or at a blank; of ``most`` lines and a rest."""
    lines: list[str] = []
    while len(text) > width and (most is None or len(lines) < most):
        at = max(text.rfind(",", 0, width) + 1, text.rfind(" ", 0, width + 1))
        at = at if at > 0 else width
        lines.append(text[:at].rstrip())
        text = text[at:].lstrip()
    return [*lines, text]


def _cut(lines: list[str], width: int, most: int | None) -> list[str]:
    """At most so many of them; what Slurm would not take for a list says that it is none."""
    if most is None or len(lines) <= most:
        return lines
    last = lines[most - 1]
    at = last.rfind(",", 0, width - len(_CUT)) + 1
    return [*lines[: most - 1], last[: at or width - len(_CUT)] + _CUT]


def plain(text: str) -> str:
    """Text of others, without what a terminal would act on."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)

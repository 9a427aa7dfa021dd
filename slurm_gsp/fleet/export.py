"""The overview for programs: one JSON object, or one CSV line for each node.

Most of 10,000 nodes differ in their name alone. What is behind the name is written once for all of them: else
the writing takes as long as the reading.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from slurm_gsp.fleet.fold import fold
from slurm_gsp.fleet.model import SHOWN_KEYS, FleetView, Group, Node
from slurm_gsp.fleet.text import plain

CSV_COLUMNS: Final = (
    "node", "partitions", "gpus", "state", "healthy", "silent", "verdict", "faults", *SHOWN_KEYS, "out",
    "reason", "user", "campaign", "phase", "profile", "drift", "held", "out_of_band",
)  # fmt: skip
_FORMULA: Final = ("=", "+", "-", "@")
_ALIKE: Final = 4096
"""How many different nodes are remembered."""
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def as_json(view: FleetView) -> str:
    """All groups with their nodes, and every node with what it says of itself."""
    each = ",".join([
        f'{{"node":{_encode(node.name)},{_members_behind_name(node[1:])}}}' for node in view.nodes
    ])
    return f'{{{_members(_fleet_object(view))},"each":[{each}]}}\n'


@lru_cache(_ALIKE)
def _members_behind_name(values: tuple[Any, ...]) -> str:
    return _members(_object_behind_name(Node("", *values)))


def _members(found: dict[str, Any]) -> str:
    """What is between the braces of a JSON object."""
    return _encode(found)[1:-1]


def _fleet_object(view: FleetView) -> dict[str, Any]:
    return {
        "at": view.at.isoformat(),
        "nodes": len(view.nodes),
        "left_out": view.without_gpus,
        "healthy": view.healthy,
        "verdicts": _groups(view.verdicts),
        "faults": _groups(view.faults),
        "silent": _groups(view.silent),
        "breaks_at_next_reboot": _groups(view.next_boot),
        "versions": [
            {"gpus": one.kind, "values": one.values, "odd": list(one.odd), **_named(one.nodes)}
            for one in view.versions
        ],
        "manifest": view.manifest,
        "profiles": [
            {
                "profile": one.profile,
                "driver": one.driver,
                "right": _named(one.right),
                "drift": _groups(one.drift),
                "silent": _named(one.silent),
            }
            for one in view.profiles
        ],
        "unmatched": _named(view.unmatched),
        "campaigns": [
            {"campaign": one.campaign, "phase": one.phase, **_named(one.nodes)} for one in view.campaigns
        ],
        "held": _groups(view.held),
        "drained_by_health_check": _groups(view.ours),
        "out_by_others": [
            {"reason": one.reason, "user": one.user, **_named(one.nodes)} for one in view.others
        ],
        "out_of_band": _groups(view.beside),
    }


def as_csv(view: FleetView) -> str:
    """One line for each node. What a spreadsheet would take for a formula gets an apostrophe before it, and
    what a terminal would act on is a question mark."""
    sheet = io.StringIO()
    sheet.write(_line(CSV_COLUMNS))
    write_name = csv.writer(sheet, lineterminator=",").writerow
    for node in view.nodes:
        write_name([_safe(node.name)])
        sheet.write(_line_behind_name(node[1:]))
    return sheet.getvalue()


@lru_cache(_ALIKE)
def _line_behind_name(values: tuple[Any, ...]) -> str:
    return _line([_safe(cell) for cell in _cells_behind_name(Node("", *values))])


def _line(cells: Sequence[str]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def _cells_behind_name(node: Node) -> tuple[str, ...]:
    return (
        node.partitions, node.kind, node.state, "yes" if node.healthy else "no", node.silent, node.verdict,
        ",".join(node.faults), *node.versions, node.out, node.reason, node.user, node.campaign, node.phase,
        node.profile, "; ".join(node.drift), node.held, node.beside,
    )  # fmt: skip


@lru_cache(_ALIKE)
def _safe(cell: str) -> str:
    cell = plain(cell)
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _object_behind_name(node: Node) -> dict[str, Any]:
    return {
        "partitions": node.partitions.split(",") if node.partitions else [],
        "gpus": node.kind,
        "state": node.state,
        "healthy": node.healthy,
        "silent": node.silent,
        "verdict": node.verdict,
        "faults": list(node.faults),
        "versions": dict(zip(SHOWN_KEYS, node.versions, strict=True)),
        "out": node.out,
        "reason": node.reason,
        "user": node.user,
        "campaign": node.campaign,
        "phase": node.phase,
        "profile": node.profile,
        "drift": list(node.drift),
        "held": node.held,
        "out_of_band": node.beside,
    }


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [{"what": group.what, **_named(group.nodes)} for group in groups]


def _named(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "which": fold(names)}

"""The overview for programs: one JSON object, or one CSV line for each node."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
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


def as_json(view: FleetView) -> str:
    """All groups with their nodes, and every node with what it says of itself."""
    return json.dumps(as_object(view), separators=(",", ":")) + "\n"


def as_object(view: FleetView) -> dict[str, Any]:
    """The object that ``fleet --json`` prints."""
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
        "each": [_node_object(node) for node in view.nodes],
    }


def as_csv(view: FleetView) -> str:
    """One line for each node. What a spreadsheet would take for a formula gets an apostrophe before it, and
    what a terminal would act on is a question mark."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for node in view.nodes:
        writer.writerow([_safe(cell) for cell in _cells(node)])
    return sheet.getvalue()


def _cells(node: Node) -> tuple[str, ...]:
    return (
        node.name, node.partitions, node.kind, node.state, "yes" if node.healthy else "no", node.silent,
        node.verdict, ",".join(node.faults), *node.versions, node.out, node.reason, node.user, node.campaign,
        node.phase, node.profile, "; ".join(node.drift), node.held, node.beside,
    )  # fmt: skip


@lru_cache(maxsize=1 << 16)
def _safe(cell: str) -> str:
    cell = plain(cell)
    return f"'{cell}" if cell.startswith(_FORMULA) else cell


def _node_object(node: Node) -> dict[str, Any]:
    return {
        "node": node.name,
        "partitions": node.partitions.split(",") if node.partitions else [],
        "gpus": node.kind,
        "state": node.state,
        "healthy": node.healthy,
        "silent": node.silent,
        "verdict": node.verdict,
        "faults": list(node.faults),
        "versions": _versions(node.versions),
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


@lru_cache(maxsize=1 << 16)
def _versions(values: tuple[str, ...]) -> Mapping[str, str]:
    return dict(zip(SHOWN_KEYS, values, strict=True))


def _groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [{"what": group.what, **_named(group.nodes)} for group in groups]


def _named(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "which": fold(names)}

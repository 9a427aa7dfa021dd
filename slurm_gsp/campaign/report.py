"""A campaign for people and as JSON: how it stands, what it changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from slurm_gsp.campaign.ledger import CampaignRow, Lease
from slurm_gsp.campaign.model import Plan
from slurm_gsp.campaign.state import NodeRecord, Phase, State
from slurm_gsp.manifest.match import folded

WIDTH: Final = 120
"""Columns of what is not printed to a terminal, which has no width of its own."""


def print_campaigns(rows: Sequence[tuple[CampaignRow, State]]) -> None:
    """All campaigns, a line each."""
    table = Table(
        "campaign", "status", "manifest", "nodes", "since", "by", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for row, state in rows:
        counts = Counter(record.phase.value for record in state.nodes)
        table.add_row(
            row.name, state.status.value, row.plan.heading.manifest, _counted(counts), _when(row.created),
            row.created_by,
        )  # fmt: skip
    _console().print(table if rows else "no campaign yet: slurm-gsp plan, slurm-gsp schedule")


def print_status(row: CampaignRow, state: State, lease: Lease | None) -> None:
    """One campaign by wave, and every node of which there is something to tell."""
    console = _console()
    head = row.plan.heading
    told = f": {state.why}" if state.why else ""
    console.print(_text(f"campaign {row.name}: {state.status.value}{told}"), soft_wrap=True)
    console.print(f"manifest {head.manifest}, before it {head.previous or 'none'}; class {head.change_class}")
    if lease is not None:
        console.print(f"worked on by {lease.who} (process {lease.owner})")
    console.print(_waves(row.plan, state))
    troubled = [record for record in state.nodes if record.why or record.failures]
    if troubled:
        table = Table("node", "phase", "why", box=box.SIMPLE_HEAD, pad_edge=False)
        for record in troubled:
            table.add_row(record.node, record.phase.value, _text(_why(record)))
        console.print(table)


def print_changes(changes: Sequence[tuple[CampaignRow, NodeRecord]]) -> None:
    """What campaigns changed on nodes."""
    table = Table(
        "since", "node", "campaign", "ended", "from", "to", "why", "by", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for row, record in changes:
        table.add_row(
            _when(record.since), record.node, row.name, record.phase.value, record.before or "?",
            reached(row.plan, record), _text(_why(record) or f"manifest {row.plan.heading.manifest}"),
            row.created_by,
        )  # fmt: skip
    _console().print(table)


def reached(plan: Plan, record: NodeRecord) -> str:
    """The driver that was proven on the node in the end; "?" where that is not known."""
    profile = next((one for one in plan.heading.profiles if one.name == record.profile), None)
    if profile is None or record.phase not in {Phase.RETURNED, Phase.ROLLED_BACK}:
        return "?" if record.touched else "unchanged"
    return profile.driver if record.phase is Phase.RETURNED else profile.previous_driver or "?"


def as_object(row: CampaignRow, state: State) -> dict[str, object]:
    """One campaign as JSON."""
    return {
        "campaign": row.name,
        "status": state.status.value,
        "why": state.why,
        "manifest": row.plan.heading.manifest,
        "previous": row.plan.heading.previous,
        "digest": row.plan.digest,
        "approved_by": list(row.approved_by),
        "created": row.created.isoformat(),
        "created_by": row.created_by,
        "gates": [{"wave": gate.wave, "state": gate.state.value, "told": gate.told} for gate in state.gates],
        "nodes": [_node_object(row.plan, record) for record in state.nodes],
    }


def plain(text: str) -> str:
    """Text of others, without what a terminal would act on."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _node_object(plan: Plan, record: NodeRecord) -> dict[str, object]:
    return {
        "node": record.node,
        "wave": record.wave,
        "phase": record.phase.value,
        "since": record.since.isoformat(),
        "start": record.start.isoformat(),
        "variant": record.variant,
        "from": record.before,
        "to": reached(plan, record),
        "failures": list(record.failures),
        "why": record.why,
    }


def _waves(plan: Plan, state: State) -> Table:
    table = Table("wave", "nodes", "phase", "gate", Column("which"), box=box.SIMPLE_HEAD, pad_edge=False)
    gates = {gate.wave: gate for gate in state.gates}
    for wave in plan.waves:
        records = [record for record in state.nodes if record.wave == wave.number]
        gate = gates.get(wave.number)
        table.add_row(
            "canary" if wave.number == 0 else f"wave {wave.number}",
            str(len(records)),
            _counted(Counter(record.phase.value for record in records)),
            gate.state.value if gate else "-",
            folded(record.node for record in records),
        )
    return table


def _why(record: NodeRecord) -> str:
    """The last word on it; where there is none, what failed on the way."""
    return record.why or "; ".join(record.failures)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def _when(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"


def _console() -> Console:
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    return console


def _text(text: str) -> Text:
    return Text(plain(text), overflow="fold")

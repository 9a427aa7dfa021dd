"""What BMCs list against what is pinned, for people and as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from slurm_gsp.core.reading import Known, Unknown, value_of
from slurm_gsp.manifest.match import folded
from slurm_gsp.redfish.judge import Compared, Finding, Verdict
from slurm_gsp.redfish.model import Component

WIDTH: Final = 120
"""Columns of what is not printed to a terminal, which has no width of its own."""
_WORDS: Final = {
    Verdict.EQUAL: "as pinned",
    Verdict.DIFFERS: "differs",
    Verdict.UNKNOWN: "unknown",
    None: "nothing pinned",
}


def print_report(heading: str, compared: Sequence[Compared]) -> None:
    """Nodes by verdict, who is the odd one of each component that differs, and what is not known."""
    console = Console(highlight=False, emoji=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH
    console.print(_text(heading), soft_wrap=True)
    console.print(_verdicts(compared))
    for table in (_differences(compared), _unknowns(compared)):
        if table.row_count:
            console.print(table)


def as_object(compared: Sequence[Compared]) -> dict[str, object]:
    """Every node with all that its BMC lists."""
    return {one.node: _node(one) for one in compared}


def _verdicts(compared: Sequence[Compared]) -> Table:
    table = Table("verdict", "nodes", "which", box=box.SIMPLE_HEAD, pad_edge=False)
    for verdict, word in _WORDS.items():
        nodes = [one.node for one in compared if one.verdict is verdict]
        if nodes:
            table.add_row(word, str(len(nodes)), folded(nodes))
    return table


def _differences(compared: Sequence[Compared]) -> Table:
    """Each component that differs anywhere, with all versions that were found of it, the rarest first."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    odd: set[tuple[str, str]] = set()
    for one in compared:
        for finding in one.findings:
            if finding.verdict is Verdict.UNKNOWN:
                continue
            groups[finding.component, finding.pinned][_found(finding)].append(one.node)
            if finding.verdict is not Verdict.EQUAL:
                odd.add((finding.component, finding.pinned))
    columns = ("component", "pinned", "found", "nodes", Column("which"))
    table = Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False)
    for key in sorted(odd):
        shown = key
        for found, nodes in sorted(groups[key].items(), key=lambda item: len(item[1])):
            table.add_row(*map(_text, (*shown, found)), str(len(set(nodes))), folded(nodes))
            shown = ("", "")
    return table


def _found(finding: Finding) -> str:
    if finding.verdict is Verdict.EQUAL:
        return "as pinned"
    return finding.found if finding.found is not None else f"missing: {finding.why}"


def _unknowns(compared: Sequence[Compared]) -> Table:
    whys: dict[str, list[str]] = defaultdict(list)
    for one in compared:
        for why in _whys(one):
            whys[why].append(one.node)
    table = Table("not known, because", "nodes", "which", box=box.SIMPLE_HEAD, pad_edge=False)
    for why, nodes in sorted(whys.items(), key=lambda item: (-len(item[1]), item[0])):
        table.add_row(_text(why), str(len(nodes)), folded(nodes))
    return table


def _whys(one: Compared) -> Iterable[str]:
    """Why something is not known of this node: the whole BMC once, or each component."""
    if isinstance(one.answer, Unknown):
        return [one.answer.why]
    return [
        f"{finding.component}: {finding.why}"
        for finding in one.findings
        if finding.verdict is Verdict.UNKNOWN
    ]


def _node(one: Compared) -> dict[str, object]:
    answer = one.answer
    return {
        "profile": one.profile,
        "address": answer.source,
        "verdict": one.verdict.value if one.verdict else None,
        "why": answer.why if isinstance(answer, Unknown) else None,
        "findings": [
            {
                "component": finding.component,
                "pinned": finding.pinned,
                "found": finding.found,
                "verdict": finding.verdict.value,
                "why": finding.why or None,
            }
            for finding in one.findings
        ],
        "components": list(map(_component, answer.value.components)) if isinstance(answer, Known) else None,
    }


def _component(component: Component) -> dict[str, object]:
    version = component.version
    return {
        "id": component.id,
        "name": component.name,
        "version": value_of(version),
        "why": version.why if isinstance(version, Unknown) else None,
        "updateable": component.updateable,
        "health": component.health,
        "state": component.state,
    }


def _text(text: str) -> Text:
    """Text of others, without what a terminal would act on."""
    return Text("".join(char if char.isprintable() else "?" for char in text), overflow="fold")

"""The nodes of a fleet from the text of ``scontrol -o show node``."""

from __future__ import annotations

import re
from typing import Final

from slurm_gsp.manifest.match import NodeFacts
from slurm_gsp.parse import ParseError
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.scontrol import parse_node

_FREE_TEXT: Final = re.compile(r" (?:Reason|Comment|Extra)=")
"""All releases write these last; what follows may look like anything."""
_FEATURES: Final = re.compile(r" AvailableFeatures=(\S+)")
_GRES: Final = re.compile(r" Gres=(\S+)")


def parse_nodes(text: str) -> tuple[NodeFacts, ...]:
    """The nodes that the text describes, with one line for each (``-o``) or several.

    Features are the available ones: the active ones may change with a reboot. ParseError for a text without
    nodes, for a line that is none, and for a node that is there twice.
    """
    records: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("NodeName="):
            records.append((number, line.rstrip()))
        elif line.startswith((" ", "\t")) and records:
            records[-1] = (records[-1][0], f"{records[-1][1]} {line.strip()}")
        elif line.strip():
            raise ParseError(
                f"{number}: not a node: {line.strip()[:60]!r}; give what `scontrol -o show node` says"
            )
    if not records:
        raise ParseError("1: no node in it; give what `scontrol -o show node` says")
    nodes: dict[str, NodeFacts] = {}
    for number, record in records:
        node = _node(number, record)
        if node.name in nodes:
            raise ParseError(f"{number}: node {node.name} is there twice; give each node once")
        nodes[node.name] = node
    return tuple(nodes.values())


def _node(number: int, record: str) -> NodeFacts:
    try:
        state = parse_node(record)
    except SlurmError as error:
        raise ParseError(f"{number}: {error}") from error
    free = _FREE_TEXT.search(record)
    head = record[: free.start()] if free else record
    return NodeFacts(state.name, state.partitions, _list(_FEATURES, head), _gres(head))


def _list(form: re.Pattern[str], head: str) -> tuple[str, ...]:
    found = form.search(head)
    return tuple(filter(None, found[1].split(","))) if found and found[1] not in {"(null)", "N/A"} else ()


def _gres(head: str) -> tuple[str, ...]:
    """``gpu:h100:4(S:0),gpu:h100:4(S:1,3)`` without the sockets."""
    return _list(_GRES, re.sub(r"(?<=\w)\([^()\s]*\)", "", head))

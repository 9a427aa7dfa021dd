"""``nvidia-smi topo -m``: how GPUs and NICs hang together, as values that can be compared."""

from __future__ import annotations

import re
from typing import Final

from slurm_gsp.parse import ParseError

_ESCAPE: Final = re.compile(r"\x1b\[[0-9;]*m")
_NAME: Final = re.compile(r"(?:GPU|NIC)[0-9]+|mlx[A-Za-z0-9_]+")
_LINK: Final = re.compile(r"X|NV[0-9]+|SYS|NODE|PHB|PXB|PIX|PSB")


def parse_topology(text: str) -> dict[tuple[str, str], str]:
    """(device, device) -> link. Affinities are left out: their columns differ between driver branches.

    The pin may be indented or have blanks for tabs. ParseError: it is no such matrix.
    """
    links: dict[tuple[str, str], str] = {}
    columns: list[str] = []
    for line in _ESCAPE.sub("", text).splitlines():
        words = line.split()
        if not columns:
            columns = _header(words)
        elif words and _NAME.fullmatch(words[0]) and len(words) > len(columns):
            cells = words[1 : len(columns) + 1]
            if not all(map(_LINK.fullmatch, cells)):
                raise ParseError(f"not a row of nvidia-smi topo -m: {line.strip()[:80]!r}")
            links |= {(words[0], column): cell for column, cell in zip(columns, cells, strict=True)}
    if not links or any(link != "X" for (one, other), link in links.items() if one == other):
        raise ParseError("not the matrix of nvidia-smi topo -m")
    return links


def _header(words: list[str]) -> list[str]:
    """The devices at the head of the columns, of a line that names nothing else before them."""
    names: list[str] = []
    for word in words:
        if not _NAME.fullmatch(word):
            break
        names.append(word)
    return names

"""``dkms status`` in both of its forms: up to 2.8.5 with commas, from 2.8.6 with a slash."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from slurm_gsp.parse import ParseError

# Built and installed modules name a kernel and an architecture, "added" and "broken" ones need not.
#   nvidia, 510.47.03, 5.4.0-109-generic, x86_64: installed
#   nvidia/510.47.03, 5.15.0-27-generic, x86_64: installed (WARNING! Diff between built and installed module!)
#   nvidia/580.95.05, 5.14.0-503.el9.x86_64, x86_64: installed-weak from 5.14.0-427.el9.x86_64
#   nvidia/580.95.05: added
_NAME: Final = r"(?P<module>[\w.+-]+)(?:/|, ?)(?P<version>[^\s,:/]+)"
_KERNEL: Final = r"(?:, ?(?P<kernel>[^\s,:]+)(?:, ?(?P<arch>[^\s,:]+))?)?"
_STATE: Final = r": ?(?P<state>added|built|broken|installed-weak|installed)(?P<note>[ (].*)?"
_LINE: Final = re.compile(_NAME + _KERNEL + _STATE)


@dataclass(frozen=True, slots=True)
class DkmsEntry:
    """One module in DKMS's tree; ``note`` is what follows the state, such as a warning in brackets."""

    module: str
    version: str
    kernel: str | None
    arch: str | None
    state: str
    note: str


def parse_dkms(text: str) -> tuple[DkmsEntry, ...]:
    """The modules that DKMS lists, () for an empty list.

    Lines of another form are skipped, unless no line at all is of the known form: then ParseError.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    entries = tuple(entry for entry in map(_entry, lines) if entry)
    if lines and not entries:
        raise ParseError(f"not dkms status: {lines[0][:80]!r}")
    return entries


def _entry(line: str) -> DkmsEntry | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    note = (match["note"] or "").strip()
    return DkmsEntry(match["module"], match["version"], match["kernel"], match["arch"], match["state"], note)

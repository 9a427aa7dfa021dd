"""How a maintenance of a node ends before its end."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from slurm_gsp.core.operation import FAILED
from slurm_gsp.core.reason import MAX_LENGTH, PREFIX

_UNPRINTABLE: Final = re.compile(r"[^ -~]|[\"\\]")


class RefusedError(Exception):
    """Nothing was changed, and nothing will be; ``why`` has one line for each reason."""

    def __init__(self, why: Iterable[str]) -> None:
        self.why: tuple[str, ...] = tuple(why)
        super().__init__("\n".join(self.why))


class StepError(Exception):
    """A step did not do what it is there for; says why, and what to do where that is known."""


@dataclass(frozen=True, slots=True)
class Failure:
    """The step that failed, and why. It can be repeated from the start."""

    number: int
    name: str
    why: str

    @property
    def what(self) -> str:
        """In one line, for people."""
        return f"step={self.number} {self.name}: {self.why}"

    @property
    def reason(self) -> str:
        """The Reason of the node: one line of printable ASCII that Slurm stores as it is."""
        text = _UNPRINTABLE.sub("-", f"{PREFIX}{FAILED} {' '.join(self.what.split())}")
        return text[:MAX_LENGTH].rstrip()

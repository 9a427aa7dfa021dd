"""What a node remembers of a realignment across its reboot: the journal of the last one, and the pin it left.

Both lie below /var/lib/slurm-gsp. The health check reads them, so only the standard library is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from slurm_gsp.core.pinned import Pinned

STATE: Final = Path("/var/lib/slurm-gsp")
JOURNAL: Final = "realign.json"
PIN: Final = "pin.json"


class State(StrEnum):
    """How far a realignment is; a node that boots with ``running`` was cut off in the middle of it."""

    RUNNING = "running"
    FAILED = "failed"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Step:
    """One step that was begun: its number from 1, whether it succeeded (None: never ended), and how long."""

    number: int
    name: str
    ok: bool | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Journal:
    """One realignment. ``operation`` is Operation.key, ``boot`` the id of the boot in which it ran.

    ``before`` is the driver that was loaded then, empty where none was. ``proven`` is the boot in which the
    health check published its proof; empty: not yet.
    """

    operation: str
    boot: str
    pinned: Pinned
    state: State = State.RUNNING
    steps: tuple[Step, ...] = ()
    failed: str = ""
    proven: str = ""
    before: str = ""

    def begin(self, number: int, name: str) -> Journal:
        """A step begins."""
        return replace(self, steps=(*self.steps, Step(number, name)))

    def end(self, ok: bool, seconds: float) -> Journal:
        """The last step that was begun ended."""
        *before, last = self.steps
        return replace(self, steps=(*before, replace(last, ok=ok, seconds=round(seconds, 3))))


@dataclass(frozen=True, slots=True)
class Places:
    """Where both lie; tests have their own folder."""

    state: Path = field(default=STATE)

    @property
    def journal(self) -> Path:
        return self.state / JOURNAL

    @property
    def pin(self) -> Path:
        return self.state / PIN


def load_journal(places: Places) -> Journal | None:
    """The last realignment; None where there was none, or where the file cannot be understood."""
    data = _load(places.journal)
    try:
        pinned = _pinned(data["pinned"])
        steps = tuple(Step(**step) for step in data["steps"])
        return Journal(**{**data, "pinned": pinned, "steps": steps, "state": State(data["state"])})
    except (KeyError, TypeError, ValueError):
        return None


def save_journal(places: Places, journal: Journal) -> None:
    """Write it so that a power cut leaves the old one or the new one."""
    _save(places.journal, asdict(journal))


def load_pin(places: Places) -> Pinned | None:
    """What the last finished realignment pinned this node to; None where there was none."""
    try:
        return _pinned(_load(places.pin))
    except (KeyError, TypeError, ValueError):
        return None


def save_pin(places: Places, pinned: Pinned) -> None:
    """As the journal."""
    _save(places.pin, asdict(pinned))


def _pinned(data: dict[str, Any]) -> Pinned:
    return Pinned(**{**data, "images": tuple((name, digest) for name, digest in data["images"])})


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _save(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise

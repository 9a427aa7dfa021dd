"""What a hook remembers: /run for this boot, /var/lib for the node's history. Written whole, by rename."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Places:
    """Where a hook remembers. What Slurm knows is kept by node: one host may run several slurmd."""

    run: Path = Path("/run/slurm-gsp")
    lib: Path = Path("/var/lib/slurm-gsp")

    def state(self, node: str) -> Path:
        """The health check's memory of this boot."""
        return self.run / f"state-{_file_name(node)}.json"

    def lock(self, node: str) -> Path:
        """Held by the health check that runs."""
        return self.run / f"lock-{_file_name(node)}"

    def stale(self, node: str) -> Path:
        """There while a job was met that Slurm had placed here by a record that is not true."""
        return self.run / f"stale-{_file_name(node)}"

    def drained(self, node: str) -> Path:
        """Our drain, remembered over a reboot."""
        return self.lib / f"drained-{_file_name(node)}.json"

    @property
    def journal(self) -> Path:
        """The last realignment of this node (node/journal.py)."""
        return self.lib / "realign.json"

    @property
    def pin(self) -> Path:
        """What it pinned the node to."""
        return self.lib / "pin.json"

    @property
    def ladder(self) -> Path:
        """Faults and the remedies tried."""
        return self.lib / "ladder.json"


PLACES = Places()


@dataclass(slots=True)
class Memory:
    """The memory of this boot. Times are uptimes in seconds; ``reason`` is of a proven fault.

    ``probe`` and ``reader`` are (pid, start time) of processes that hang in the driver and were left alone.
    ``began`` is when this boot's first look ended: slurmd registers after it. ``failed``: how often in a row
    Slurm was asked in vain for a drain.
    ``doubted``: one look after a realignment proved nothing good, and the next one is to say it too.
    ``told`` is what Slurm was told last, not before ``next_tell``; at ``next_check`` it is compared with what
    Slurm says. ``conf`` is the time of slurm.conf then.
    """

    boot_id: str
    verdict: str = "unknown"
    reason: str = ""
    standing: str = "none"
    runs: dict[str, int] = field(default_factory=dict)
    log_seq: int = -1
    log_text: str = ""
    next_full: float = 0.0
    next_log: float = 0.0
    next_ask: float = 0.0
    probe: tuple[int, int] | None = None
    reader: tuple[int, int] | None = None
    began: float = 0.0
    failed: int = 0
    doubted: bool = False
    told: dict[str, str] = field(default_factory=dict)
    next_tell: float = 0.0
    next_check: float = 0.0
    conf: int = 0
    version: int = _VERSION


def load(boot_id: str, path: Path) -> Memory | None:
    """The memory of this boot; None on the first run, after a reboot, or when it cannot be used."""
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["version"] != _VERSION or data["boot_id"] != boot_id:
            return None
        return Memory(
            boot_id=boot_id,
            verdict=str(data["verdict"]),
            reason=str(data["reason"]),
            standing=str(data["standing"]),
            runs={str(code): int(count) for code, count in data["runs"].items()},
            log_seq=int(data["log_seq"]),
            log_text=str(data["log_text"]),
            next_full=float(data["next_full"]),
            next_log=float(data["next_log"]),
            next_ask=float(data["next_ask"]),
            probe=_process(data["probe"]),
            reader=_process(data["reader"]),
            began=float(data.get("began", 0)),
            failed=int(data.get("failed", 0)),
            doubted=bool(data.get("doubted")),
            told={str(key): str(value) for key, value in data.get("told", {}).items()},
            next_tell=float(data.get("next_tell", 0)),
            next_check=float(data.get("next_check", 0)),
            conf=int(data.get("conf", 0)),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None


def _process(value: list[int] | None) -> tuple[int, int] | None:
    return None if value is None else (int(value[0]), int(value[1]))


def save(memory: Memory, path: Path) -> None:
    """Write the memory. Raises OSError."""
    write_text(path, json.dumps(asdict(memory)))


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step, so that a reader sees the old or the new one. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{unique()}")
    try:
        fresh.write_text(text, "utf-8")
        fresh.replace(path)
    except BaseException:  # the alarm too
        fresh.unlink(missing_ok=True)
        raise


def unique() -> str:
    """A part of a file name that no other run has, in no other PID namespace either."""
    return f"{os.getpid()}.{time.monotonic_ns()}"


Ladder = dict[str, tuple[str, tuple[str, ...]]]


def load_ladder(path: Path) -> Ladder:
    """Faults of this node since it was last consistent: code -> (boot id, remedies tried)."""
    try:
        data = json.loads(path.read_text("utf-8"))
        return {str(code): (str(item["boot"]), tuple(map(str, item["tried"]))) for code, item in data.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def save_ladder(ladder: Ladder, path: Path) -> None:
    """Write the ladder; an empty one is removed. Raises OSError."""
    if not ladder:
        path.unlink(missing_ok=True)
        return
    data = {code: {"boot": boot, "tried": list(tried)} for code, (boot, tried) in ladder.items()}
    write_text(path, json.dumps(data, indent=1))


def drained_in(path: Path) -> str | None:
    """The boot in which the health check drained this node, None if it did not."""
    try:
        return str(json.loads(path.read_text("utf-8"))["boot_id"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def save_drained(boot_id: str, reason: str, path: Path) -> None:
    """Remember our drain over a reboot. Raises OSError."""
    write_text(path, json.dumps({"boot_id": boot_id, "reason": reason}))


def _file_name(node: str) -> str:
    return node.replace("/", "_")

"""Nodes as scontrol tells them, and what nodes publish."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from slurm_gsp.core import published
from slurm_gsp.fleet.judge import Judge
from slurm_gsp.fleet.model import Node
from slurm_gsp.slurm.overview import Held, Line

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
BOOTED = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
PLAIN = {
    published.DRIVER_KEY: "580.95.05",
    published.FLAVOUR_KEY: "open",
    published.GSP_KEY: "580.95.05",
    published.UMD_KEY: "580.95.05",
    published.FABRIC_KEY: "",
    published.VBIOS_KEY: "96.00.A5.00.01",
    published.NICS_KEY: "28.39.3004",
    published.KERNEL_KEY: "5.15.0-161-generic",
    published.MANIFEST_KEY: "2026-10@0123456789ab",
    published.VERDICT_KEY: "consistent",
    published.FAULTS_KEY: "",
    published.SEEN_KEY: "boot-1",
    published.BOOTED_KEY: published.time_text(BOOTED),
}


def told(*, verdict: str = "consistent", faults: str = "", **changes: str) -> str:
    """The text in Extra; ``nvidia_driver="..."`` and so on change a value of the plain one."""
    values = {**PLAIN, published.VERDICT_KEY: verdict, published.FAULTS_KEY: faults, **changes}
    return json.dumps(values, separators=(",", ":"))


def line(name: str = "n1", state: str = "IDLE", extra: str | None = None, **changes: str) -> Line:
    """A node in service that says that it is consistent."""
    plain = Line(name, state, "main", "ib", "gpu:h100:8(S:0-1)", f"{BOOTED:%Y-%m-%dT%H:%M:%S}")
    return plain._replace(extra=told() if extra is None else extra, **changes)


def judged(*lines: Line, held: Iterable[Held] = ()) -> list[Node]:
    judge = Judge(held, NOW)
    for one in lines:
        judge.take(one)
    return judge.nodes


def scontrol_text(*lines: Line) -> str:
    """The same nodes as ``scontrol -o show node`` writes them."""
    return "".join(
        f"NodeName={one.name} AvailableFeatures={one.features or '(null)'} Gres={one.gres or '(null)'} "
        f"State={one.state} ThreadsPerCore=1 Partitions={one.partitions}  BootTime={one.booted or 'None'} "
        "CfgTRES=cpu=8"
        + (f" Reason={one.reason} [{one.user or 'root'}@2026-11-26T08:00:00]" if one.reason else "")
        + (f" Comment={one.comment}" if one.comment else "")
        + (f" Extra={one.extra}" if one.extra else "")
        + "\n"
        for one in lines
    )

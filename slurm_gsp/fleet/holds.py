"""Which nodes a ledger keeps on an older pin."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from slurm_gsp.campaign.ledger import Ledger, LedgerError
from slurm_gsp.fleet.errors import FleetError


def held_nodes(url: str) -> dict[str, str]:
    """Why each of them is held; nothing where there is no ledger. FleetError."""
    file = make_url(url).database if url.startswith("sqlite:") else None
    if file is not None and not Path(file).exists():
        return {}
    try:
        with closing(Ledger(url, "fleet")) as ledger:
            return {hold.node: f"at {hold.manifest} by {hold.campaign}" for hold in ledger.holds()}
    except LedgerError as error:
        raise FleetError([str(error)]) from error

"""What one BMC lists, or why it could not be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from slurm_gsp.core.reading import Known, Reading, Unknown


@dataclass(frozen=True, slots=True)
class Component:
    """One entry of the firmware inventory; None: the BMC does not say.

    ``id`` is the last part of its address, which Redfish makes unique. A version is absent where the entry
    has none, and unknown where the entry could not be read.
    """

    id: str
    name: str | None
    version: Reading[str]
    updateable: bool | None = None
    health: str | None = None
    state: str | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """The whole inventory of one BMC, in its order; entries that could not be read are among them."""

    components: tuple[Component, ...]


Answer: TypeAlias = Known[Inventory] | Unknown
"""One BMC: what it lists, or why that is not known. A BMC without an inventory is not known either."""

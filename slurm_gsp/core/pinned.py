"""What a node is to run: one profile of one manifest, kept on the node and compared by a verification."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pinned:
    """The whole tuple that a node is to run: one profile of one manifest. None: that member is not pinned.

    ``digest`` has the first 12 digits of the manifest's SHA-256; ``images`` are (file name, SHA-256).
    """

    manifest: str
    digest: str
    profile: str
    driver: str
    flavour: str
    gpus: int
    fabric_manager: bool
    vbios: str | None = None
    inforom: str | None = None
    cuda: str | None = None
    nic_firmware: str | None = None
    pcie_width: int | None = None
    pcie_generation: int | None = None
    topology: str | None = None
    images: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> str:
        """As an operation names it: ``2026-11@0123456789ab``."""
        return f"{self.manifest}@{self.digest}"

"""What a profile pins, as a node keeps it across the reboot."""

from __future__ import annotations

from slurm_gsp.core.operation import DIGEST_LENGTH
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.manifest.model import Profile


def pinned_of(manifest_name: str, digest: str, profile: Profile) -> Pinned:
    """The pin of a profile; ``digest`` is the SHA-256 of the manifest's bytes, whole or its first digits."""
    hardware = profile.hardware
    return Pinned(
        manifest=manifest_name,
        digest=digest[:DIGEST_LENGTH],
        profile=profile.name,
        driver=profile.driver,
        flavour=profile.flavour,
        gpus=profile.gpus,
        fabric_manager=profile.fabric_manager,
        vbios=hardware.vbios,
        inforom=hardware.inforom,
        cuda=hardware.cuda,
        nic_firmware=hardware.nic_firmware,
        pcie_width=hardware.pcie_width,
        pcie_generation=hardware.pcie_generation,
        topology=hardware.topology,
        images=tuple((image.name, image.sha256) for image in profile.images),
    )

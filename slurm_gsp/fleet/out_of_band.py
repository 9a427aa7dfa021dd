"""What BMCs list of the nodes' firmware, against the manifest: asked only where that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from slurm_gsp.config import Redfish
from slurm_gsp.fleet.errors import FleetError
from slurm_gsp.manifest.model import Manifest
from slurm_gsp.redfish.judge import Compared, Finding, Verdict, compare
from slurm_gsp.redfish.site import SiteError, load_site
from slurm_gsp.redfish.sweep import LibraryMissingError, Read, sweep

_DIFFERENT: Final = frozenset({Verdict.DIFFERS, Verdict.MISSING})


def out_of_band(
    manifest: Manifest,
    profile_of: Mapping[str, str],
    config: Redfish,
    environ: Mapping[str, str],
    read: Read | None = None,
) -> dict[str, str]:
    """What the BMC of each of these nodes says, where its profile pins firmware. FleetError."""
    pinning = {profile.name for profile in manifest.profiles if profile.bmc}
    if not pinning:
        raise FleetError([
            f"manifest {manifest.name} pins no firmware of BMCs; write [profile.NAME.bmc] tables"
        ])
    chosen = {node: profile for node, profile in profile_of.items() if profile in pinning}
    try:
        answers = sweep(chosen, load_site(config, environ), read)
    except SiteError as error:
        raise FleetError(error.errors) from error
    except LibraryMissingError as error:
        raise FleetError([str(error)]) from error
    return {one.node: _told(one) for one in compare(manifest, chosen, answers)}


def _told(one: Compared) -> str:
    """What differs and what is not known; never nothing: a BMC that was not asked is another thing."""
    told = [_difference(finding) for finding in one.findings if finding.verdict in _DIFFERENT]
    whys = dict.fromkeys(finding.why for finding in one.findings if finding.verdict is Verdict.UNKNOWN)
    told += [f"not known: {', '.join(whys)}"] if whys else []
    return "; ".join(told) or "as pinned"


def _difference(finding: Finding) -> str:
    return f"{finding.component} {finding.found or finding.why}, pinned {finding.pinned}"

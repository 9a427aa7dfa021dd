"""What a maintenance starts from: one look at the node and at what stands in its way. Nothing here judges."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from slurm_gsp import process
from slurm_gsp.collect.collect import collect
from slurm_gsp.collect.runner import Output, Runner
from slurm_gsp.config import Config
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.reading import Known, value_of
from slurm_gsp.manifest.model import PinnedPackage
from slurm_gsp.node import packages as pkg
from slurm_gsp.node.host import Host
from slurm_gsp.node.secure_boot import why_unsigned
from slurm_gsp.node.staging import is_staged, staging_folder
from slurm_gsp.node.target import Target
from slurm_gsp.parse.packages import Package
from slurm_gsp.this_node import expectation

OS_RELEASE: Final = ("/etc/os-release", "/usr/lib/os-release")
_PRETTY: Final = re.compile(r"^PRETTY_NAME=[\"']?([^\"'\n]*)", re.MULTILINE)
_VERIFY: Final = {
    pkg.DEBIAN: ("dpkg", "-V"),
    pkg.RHEL: ("rpm", "-V", "--nodeps"),
    pkg.SUSE: ("rpm", "-V", "--nodeps"),
}


@dataclass(frozen=True, slots=True)
class Situation:
    """One node before its realignment.

    ``kernel`` is the one that boots next, None where nothing tells. ``altered``: files of pinned packages
    that are not as shipped. ``unsigned``: why Secure Boot would refuse modules built here, if it would.
    """

    node: str
    distribution: str
    family: str
    is_root: bool
    evidence: Evidence
    kernel: str | None
    headers: bool
    altered: tuple[str, ...]
    unsigned: str
    staged: bool
    folder: Path
    free_mb: tuple[tuple[str, int], ...]
    pinned: tuple[PinnedPackage, ...]

    @property
    def packages(self) -> tuple[Package, ...]:
        """The package database; () where it could not be read, which preflight refuses."""
        return value_of(self.evidence.packages) or ()


class WithoutDriver:
    """A runner that leaves the driver alone: what is on disk is what counts, and NVML may hang."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, command: str) -> Output | None:
        """The output of the command with this id."""
        return None if command == "nvml" else self._runner.run(command)


def read_situation(host: Host, config: Config, target: Target) -> Situation:
    """Look at the node; what cannot be read is left to preflight."""
    texts = [value_of(host.root.read(path)) for path in OS_RELEASE]
    release = next(filter(None, texts), "")
    family = pkg.family_of(release) or ""
    pretty = _PRETTY.search(release)
    evidence = collect(
        host.root, WithoutDriver(host.runner), expectation(config, host.node, host.state.state)
    )
    kernel = value_of(evidence.next_kernel) or value_of(evidence.kernel)
    pinned = pkg.wanted(target.profile, family) if family else ()
    folder = staging_folder(config, target)
    return Situation(
        node=host.node,
        distribution=pretty[1] if pretty else "unknown",
        family=family,
        is_root=host.is_root,
        evidence=evidence,
        kernel=kernel,
        headers=kernel is not None and host.root.exists(f"/lib/modules/{kernel}/build"),
        altered=_altered(host, config, evidence, family, pinned),
        unsigned=why_unsigned(host) if pkg.uses_dkms(pinned) else "",
        staged=is_staged(folder, pinned),
        folder=folder,
        free_mb=tuple((str(path), host.free_mb(path)) for path in (Path("/"), folder)),
        pinned=pinned,
    )


def _altered(
    host: Host, config: Config, evidence: Evidence, family: str, pinned: tuple[PinnedPackage, ...]
) -> tuple[str, ...]:
    """Asked only where all else is as pinned: what is installed anew anyway needs no comparison."""
    if not isinstance(evidence.packages, Known) or not family:
        return ()
    if pkg.differences(evidence.packages.value, pinned, family):
        return ()
    command, *options = _VERIFY[family]
    path = host.find(command)
    if path is None:
        return (f"{command} is not there to compare files",)
    try:
        done = host.run((path, *options, *(pin.name for pin in pinned)), deadline_s=config.realign.step_s)
    except process.ProcessError as error:
        return (str(error),)
    return pkg.altered_files(done.stdout)

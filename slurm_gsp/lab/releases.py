"""The Slurm releases that the lab can start, and in what they differ: only what was seen here."""

from dataclasses import dataclass

HOST = ""
"""In the place of a suite's name: the Slurm that the host has installed."""


@dataclass(frozen=True)
class Release:
    """One release of Slurm, as the lab sets it up and as it behaves."""

    slurm: str
    suite: str
    """The Debian suite that brings it; HOST for the first row, Debian 12's own."""
    since: tuple[int, int]
    """From which release on a host's own Slurm is set up by this row."""
    cgroup_plugin: str
    """The plugin of cgroup.conf that leaves the host's cgroups alone."""
    resume_clears_reason: bool
    """Whether state=resume of a drained node takes its Reason away; else it stands on the IDLE node."""
    asap_reboot_keeps_drain: bool
    """Whether a drained node is still drained after `scontrol reboot ASAP` without a nextstate."""
    shows_reservation: bool
    """Whether `scontrol show node` names the reservation that a node is in."""
    json: bool
    """Whether scontrol has --json."""
    extra_constraints: bool
    """Whether jobs have --extra, and SchedulerParameters=extra_constraints filters nodes by it."""
    reboot_environment: frozenset[str]
    """The variables that RebootProgram gets (slurmd is started with PATH, HOME and LANG by the lab)."""


_SLURMD_OWN = frozenset({"PATH", "HOME", "LANG", "SLURM_CONF"})
RELEASES = (
    Release(
        "22.05",
        HOST,
        since=(0, 0),
        cgroup_plugin="cgroup/v1",
        resume_clears_reason=True,
        asap_reboot_keeps_drain=False,
        shows_reservation=False,
        json=False,
        extra_constraints=False,
        reboot_environment=_SLURMD_OWN,
    ),
    Release(
        "24.11",
        "trixie",
        since=(23, 11),
        cgroup_plugin="disabled",
        resume_clears_reason=False,
        asap_reboot_keeps_drain=True,
        shows_reservation=True,
        json=True,
        extra_constraints=True,
        reboot_environment=_SLURMD_OWN,
    ),
    Release(
        "26.05",
        "forky",
        since=(26, 5),
        cgroup_plugin="disabled",
        resume_clears_reason=True,
        asap_reboot_keeps_drain=True,
        shows_reservation=True,
        json=True,
        extra_constraints=True,
        reboot_environment=frozenset({"SLURM_NODE_NAME"}),
    ),
)
SUITES = tuple(release.suite for release in RELEASES if release.suite != HOST)


def of_suite(suite: str) -> Release:
    return next(release for release in RELEASES if release.suite == suite)


def fitting(version: tuple[int, int]) -> Release:
    """The newest row that is not newer than this version of Slurm."""
    return max((row for row in RELEASES if row.since <= version), key=lambda row: row.since)

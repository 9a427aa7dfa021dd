"""What a hook does about a diagnosis: every branch, whole values."""

import pytest

from slurm_gsp.core.finding import FAULTS, Basis, Clue, Diagnosis, Finding, Remedy, Verdict, severity
from slurm_gsp.core.policy import (
    Decision,
    Limits,
    SlurmView,
    Standing,
    breaker_trips,
    climbed,
    confirmed,
    count_runs,
    decide_drain,
    draining,
    may_resume,
    retry_after,
)

LIMITS = Limits(log_runs=3, hung_runs=2)
REASON = "gsp:umd-skew kmd=1 umd=2"
CAMPAIGNS = (
    "gsp:realign c1 to=2026-11@0123456789ab try=1 : reboot issued : reboot complete",
    "gsp:rollback c1",
    "gsp:realign-failed step=3 install",
    "gsp:escalated c1 failed on both pins",
)


def finding(code, basis=Basis.STATE, urgent=False):
    return Finding(code, "summary", (Clue("text", "source"),), Remedy.REALIGN, (), basis, urgent)


def diagnosis(*findings):
    found = tuple(sorted(findings, key=severity))
    verdict = found[0].fault.verdict if found else Verdict.CONSISTENT
    return Diagnosis(verdict, Remedy.REALIGN if found else Remedy.NONE, found, ())


def by_default(code):
    return FAULTS[code].drains


def node(drained=False, rebooting=False, in_maintenance=False, reservation="", reason=""):
    return SlurmView(drained, rebooting, in_maintenance, reservation, reason)


@pytest.mark.parametrize(
    ("found", "codes"),
    [
        ([], []),
        ([finding("umd-skew")], ["umd-skew"]),
        ([finding("pkg-split")], []),
        ([finding("fw-gone")], []),
        ([finding("fw-gone", urgent=True)], ["fw-gone"]),
        ([finding("drift"), finding("gsp-timeout"), finding("umd-skew")], ["umd-skew", "gsp-timeout"]),
    ],
)
def test_draining(found, codes):
    assert [item.code for item in draining(diagnosis(*found), by_default)] == codes


def test_draining_is_the_configurations_to_say():
    found = diagnosis(finding("umd-skew"), finding("drift"))
    assert [item.code for item in draining(found, lambda code: code == "drift")] == ["drift"]
    assert draining(found, lambda code: False) == []


def test_unknown_drains_nothing():
    unknown = Diagnosis(Verdict.UNKNOWN, Remedy.NONE, (), ())
    assert draining(unknown, lambda code: True) == []


def test_count_runs_starts_anew_once_a_fault_is_gone():
    first = count_runs(diagnosis(finding("umd-skew"), finding("drift")), {})
    second = count_runs(diagnosis(finding("umd-skew")), first)
    third = count_runs(diagnosis(finding("umd-skew"), finding("drift")), second)
    assert [first, second, third] == [
        {"umd-skew": 1, "drift": 1},
        {"umd-skew": 2},
        {"umd-skew": 3, "drift": 1},
    ]


@pytest.mark.parametrize(("basis", "needed"), [(Basis.STATE, 1), (Basis.LOG, 3), (Basis.PROBE, 2)])
def test_limits(basis, needed):
    assert LIMITS.needed(basis) == needed


@pytest.mark.parametrize(
    ("found", "runs", "code"),
    [
        ([], {}, None),
        ([finding("umd-skew")], {"umd-skew": 1}, "umd-skew"),
        ([finding("umd-skew")], {}, None),
        ([finding("gsp-timeout", Basis.LOG)], {"gsp-timeout": 2}, None),
        ([finding("gsp-timeout", Basis.LOG)], {"gsp-timeout": 3}, "gsp-timeout"),
        ([finding("driver-hung", Basis.PROBE)], {"driver-hung": 1}, None),
        ([finding("driver-hung", Basis.PROBE)], {"driver-hung": 2}, "driver-hung"),
        (
            [finding("vbios", Basis.LOG), finding("umd-skew")],
            {"vbios": 1, "umd-skew": 1},
            "umd-skew",
        ),
        (
            [finding("vbios", Basis.LOG), finding("umd-skew")],
            {"vbios": 3, "umd-skew": 3},
            "vbios",
        ),
    ],
)
def test_confirmed(found, runs, code):
    confirmed_finding = confirmed(found, runs, LIMITS)
    assert (confirmed_finding.code if confirmed_finding else None) == code


@pytest.mark.parametrize(
    ("view", "decision"),
    [
        pytest.param(node(), Decision(True, Standing.OURS, "in service"), id="in service"),
        pytest.param(
            node(reason="bad disk"), Decision(True, Standing.OURS, "in service"), id="a Reason alone"
        ),
        pytest.param(node(reason=REASON), Decision(True, Standing.OURS, "in service"), id="our old Reason"),
        pytest.param(
            node(drained=True, reason=REASON),
            Decision(False, Standing.OURS, "already drained with this Reason"),
            id="drained by us, the same",
        ),
        pytest.param(
            node(drained=True, reason="gsp:fw-missing kmd=1"),
            Decision(True, Standing.OURS, "our own Reason changed from 'gsp:fw-missing kmd=1'"),
            id="drained by us, for another fault",
        ),
        pytest.param(
            node(drained=True, reason="bad disk"),
            Decision(False, Standing.FOREIGN, "drained or down for another reason: 'bad disk'"),
            id="drained by an admin",
        ),
        pytest.param(
            node(drained=True, reason=""),
            Decision(False, Standing.FOREIGN, "drained or down for another reason: ''"),
            id="drained without a Reason",
        ),
        pytest.param(
            node(drained=True, reason="Not responding"),
            Decision(False, Standing.PENDING, "down by Slurm itself: 'Not responding'"),
            id="down by Slurm",
        ),
        pytest.param(
            node(drained=True, reason="Node unexpectedly rebooted"),
            Decision(False, Standing.PENDING, "down by Slurm itself: 'Node unexpectedly rebooted'"),
            id="rebooted by somebody",
        ),
        pytest.param(
            node(rebooting=True),
            Decision(False, Standing.FOREIGN, "a reboot through Slurm is under way"),
            id="rebooting",
        ),
        pytest.param(
            node(drained=True, rebooting=True, reason=REASON),
            Decision(False, Standing.FOREIGN, "a reboot through Slurm is under way"),
            id="rebooting, even for us",
        ),
        *(
            pytest.param(
                node(drained=True, reason=reason, in_maintenance=True, reservation="gsp_c1_n1"),
                Decision(False, Standing.FOREIGN, f"in the hands of a campaign: {reason!r}"),
                id=reason,
            )
            for reason in CAMPAIGNS
        ),
        pytest.param(
            node(drained=False, reason=CAMPAIGNS[0], in_maintenance=True, reservation="gsp_c1_n1"),
            Decision(True, Standing.OURS, "in service"),
            id="resumed inside our own maintenance",
        ),
        pytest.param(
            node(in_maintenance=True, reservation="upgrade"),
            Decision(False, Standing.FOREIGN, "inside the MAINT reservation upgrade"),
            id="in others' maintenance",
        ),
        pytest.param(
            node(in_maintenance=True),
            Decision(False, Standing.FOREIGN, "inside the MAINT reservation of others"),
            id="in a maintenance without a name",
        ),
        pytest.param(
            node(in_maintenance=True, reservation="gsp_c1"),
            Decision(True, Standing.OURS, "in service"),
            id="in our own maintenance",
        ),
        pytest.param(
            node(reservation="course"),
            Decision(True, Standing.OURS, "in service"),
            id="an ordinary reservation protects nobody",
        ),
    ],
)  # fmt: skip
def test_decide_drain(view, decision):
    assert decide_drain(view, REASON) == decision


@pytest.mark.parametrize(
    ("view", "may"),
    [
        (node(drained=True, reason=REASON), True),
        (node(drained=True, reason=f"{REASON} : reboot issued : reboot complete"), True),
        (node(drained=False, reason=REASON), False),
        (node(drained=True, reason="bad disk"), False),
        (node(drained=True, reason=""), False),
        (node(drained=True, reason=REASON, rebooting=True), False),
        (node(drained=True, reason=REASON, in_maintenance=True, reservation="gsp_c1"), False),
        (node(drained=True, reason=REASON, in_maintenance=True, reservation="upgrade"), False),
        *((node(drained=True, reason=reason), False) for reason in CAMPAIGNS),
    ],
)
def test_may_resume(view, may):
    assert may_resume(view) is may


OURS, OTHERS, UP = (
    node(drained=True, reason=REASON),
    node(drained=True, reason="bad disk"),
    node(reason=REASON),
)


@pytest.mark.parametrize(
    ("partitions", "share", "trips"),
    [
        ([], 0.25, False),
        ([[]], 0.25, False),
        ([[UP] * 4], 0.25, False),
        ([[OURS, *[UP] * 4]], 0.25, False),
        ([[OURS, *[UP] * 3]], 0.25, False),
        ([[UP]], 0.25, False),
        ([[OURS, UP]], 0.5, False),
        ([[OURS, OURS, UP]], 0.5, True),
        ([[OURS, OURS, *[UP] * 2]], 0.25, True),
        ([[OTHERS] * 4], 0.25, False),
        ([[UP] * 10, [OURS, OURS, UP]], 0.25, True),
        ([[OURS]], 1.0, False),
        ([[OURS]], 0.0, True),
    ],
)
def test_breaker(partitions, share, trips):
    assert breaker_trips(partitions, share) is trips


@pytest.mark.parametrize("reason", CAMPAIGNS)
def test_the_breaker_does_not_count_what_campaigns_drained(reason):
    """They keep their own limits; a wave of half a small partition would else blind its health checks."""
    assert not breaker_trips([[node(drained=True, reason=reason)] * 4], 0.5)


def test_a_drain_that_failed_is_tried_later_each_time():
    assert [retry_after(300, failed, 1.0) for failed in range(1, 7)] == [300, 600, 1200, 2400, 2400, 2400]
    assert retry_after(300, 4, 0.0) == 0


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"x": ("b1", ())}),
        ({"x": ("b1", ())}, {"x": ("b1", ())}),
        ({"x": ("b0", ())}, {"x": ("b1", ("reboot",))}),
        ({"x": ("b0", ("reboot",))}, {"x": ("b1", ("reboot",))}),
        ({"x": ("b0", ("realign",))}, {"x": ("b1", ("realign", "reboot"))}),
        ({"y": ("b0", ("reload",))}, {"x": ("b1", ()), "y": ("b0", ("reload",))}),
    ],
)
def test_climbed(before, after):
    assert climbed(before, "x", "b1") == after

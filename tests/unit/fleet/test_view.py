"""The fleet as groups."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fleet_lines import BOOTED, LATER, NOW, judged, line, told

from slurm_gsp.core.finding import FAULTS, Verdict
from slurm_gsp.fleet.model import (
    NO_ANSWER,
    NO_TUPLE,
    OLD_TUPLE,
    Beside,
    Drained,
    FleetView,
    Group,
    InCampaign,
    ProfileView,
)
from slurm_gsp.fleet.view import NEXT_BOOT, Filters, Target, fleet_view
from slurm_gsp.slurm.overview import Held

AGO = NOW - timedelta(hours=1)
SKEW = told(verdict="mismatch", faults="umd-skew,pkg-split", nvidia_umd="570.172.08+580.95.05")
NEXT = told(verdict="latent", faults="next-kernel")


def view(*lines, held=(), **options) -> FleetView:
    return fleet_view(judged(*lines, held=held), NOW, **options)


def groups(*pairs: tuple[str, str]) -> tuple[Group, ...]:
    return tuple(Group(what, tuple(names.split())) for what, names in pairs)


MIXED = judged(
    line("n1"),
    line("n2"),
    line("n3", extra=NEXT),
    line("n4", "IDLE+DRAIN", SKEW, reason="gsp:umd-skew kmd=1", user="root"),
    line("n5", extra=""),
    line("n6", "DOWN*", reason="Not responding", user="slurm"),
    line("n7", "IDLE+DRAIN", reason="fan", user="ann"),
    line("n8", "IDLE+DRAIN", reason="fan", user="ann"),
    line("n9", extra=told(gsp_booted="2026-01-01T00:00:00Z")),
    line("cpu1", gres="", extra=""),
    line("cpu2", "DOWN*", gres="", extra="", reason="Not responding"),
    line("new1", "FUTURE", extra=""),
)


def test_a_mixed_fleet() -> None:
    found = fleet_view(MIXED, NOW)
    assert [node.name for node in found.nodes] == [f"n{number}" for number in range(1, 10)]
    assert (found.without_gpus, found.healthy) == (2, 2)
    assert found.verdicts == groups(("consistent", "n1 n2 n7 n8"), ("latent", "n3"), ("mismatch", "n4"))
    assert found.faults == groups(("umd-skew", "n4"), ("next-kernel", "n3"), ("pkg-split", "n4"))
    assert found.next_boot == groups(("next-kernel", "n3"), ("pkg-split", "n4"))
    assert found.silent == groups((NO_ANSWER, "n6"), (NO_TUPLE, "n5"), (OLD_TUPLE, "n9"))
    assert found.ours == groups(("umd-skew", "n4"))
    assert found.others == (
        Drained("fan", "ann", ("n7", "n8")),
        Drained("Not responding", "slurm", ("n6",)),
    )
    assert (found.profiles, found.unmatched, found.held, found.beside, found.campaigns) == ((),) * 5


def test_every_node_is_told_or_silent() -> None:
    found = fleet_view(MIXED, NOW)
    told_of = [name for group in (*found.verdicts, *found.silent) for name in group.nodes]
    assert sorted(told_of) == sorted(node.name for node in found.nodes)


def test_no_node_with_gpus() -> None:
    found = view(line("cpu1", gres="", extra=""))
    assert (found.nodes, found.without_gpus, found.healthy, found.verdicts) == ((), 1, 0, ())


def test_a_node_that_slurm_knows_no_gpus_of_counts_once_it_has_told() -> None:
    assert [node.name for node in view(line("n1", gres="")).nodes] == ["n1"]


def test_what_a_reboot_breaks_is_latent_and_every_latent_fault_was_thought_of() -> None:
    latent = {code for code, fault in FAULTS.items() if fault.verdict is Verdict.LATENT}
    assert latent == {*NEXT_BOOT, "umd-missing", "drift", "gsp-off"}


def test_versions_by_kind_of_node_the_commonest_first() -> None:
    old = told(nvidia_driver="570.172.08", nvidia_gsp="570.172.08")
    found = view(
        line("n1", extra=old),
        line("n2"),
        line("n3", extra=told(gsp_seen="another", gsp_booted=f"{BOOTED:%Y-%m-%dT%H:%M:%SZ}")),
        line("a1", gres="gpu:a100:4"),
        line("n4", extra=""),
    ).versions
    assert [(one.kind, one.nodes, one.odd) for one in found] == [
        ("gpu:h100:8", ("n2", "n3"), ()),
        ("gpu:h100:8", ("n1",), ("nvidia_driver", "nvidia_gsp")),
        ("gpu:a100:4", ("a1",), ()),
    ]
    assert found[1].values["nvidia_driver"] == "570.172.08"


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        (Filters(partition="b"), "n2 n3"),
        (Filters(code="pkg-split"), "n3"),
        (Filters(code="umd-skew"), "n3 n4"),
        (Filters(partition="a", code="pkg-split"), ""),
        (Filters(profile="h100"), "n1"),
    ],
)
def test_filters(filters: Filters, names: str) -> None:
    """A node that is silent and that we drained for a fault is one with that fault."""
    found = view(
        line("n1", partitions="a,bb"),
        line("n2", partitions="a,b"),
        line("n3", partitions="b", extra=SKEW),
        line("n4", "DOWN*+DRAIN", partitions="a", reason="gsp:umd-skew kmd=1"),
        line("cpu1", partitions="b", gres="", extra=""),
        target=Target("m", {"h100": {"nvidia_driver": "1"}}, {"n1": "h100"}),
        filters=filters,
    )
    assert [node.name for node in found.nodes] == names.split()
    assert found.without_gpus == (filters == Filters(partition="b"))


def test_campaigns() -> None:
    realign = "gsp:realign c1 to=2026-11@0123456789ab try=1"
    found = view(
        line("n1"),
        line("n2", "IDLE+DRAIN", reason=realign),
        line("n3", "IDLE+MAINTENANCE+RESERVED"),
        line("n4", "IDLE+DRAIN", reason="gsp:escalated c0 vbios"),
        held=[
            Held("gsp_c1_n1", LATER, LATER, True, ("n1",)),
            Held("gsp_c1_n3", BOOTED - timedelta(hours=1), LATER, True, ("n3",)),
        ],
    )
    assert found.campaigns == (
        InCampaign("c0", "escalated", ("n4",)),
        InCampaign("c1", "realigning", ("n2",)),
        InCampaign("c1", "reserved", ("n1",)),
        InCampaign("c1", "verifying", ("n3",)),
    )
    assert (found.healthy, found.ours, found.others) == (1, (), ())


@pytest.mark.parametrize("order", [1, -1])
def test_of_several_reservations_the_one_that_a_node_is_in_counts(order: int) -> None:
    ours_now = Held("gsp_c1_n1", AGO, LATER, True, ("n1",))
    ours_later = [Held(f"gsp_c2_{name}", LATER, LATER, True, (name,)) for name in ("n1", "n2", "n3")]
    others = Held("power", AGO, LATER, True, ("n1", "n2"))
    over = Held("past", AGO - timedelta(hours=2), AGO, True, ("n3",))
    no_maint = Held("course", AGO, LATER, False, ("n3",))
    held = [ours_now, *ours_later, others, over, no_maint][::order]
    found = view(*(line(name, "IDLE+MAINTENANCE") for name in ("n1", "n2", "n3")), held=held)
    assert [(node.out, node.campaign, node.reason) for node in found.nodes] == [
        ("campaign", "c1", "MAINT reservation gsp_c1_n1"),
        ("others", "", "MAINT reservation power"),
        ("others", "c2", "in a MAINT reservation"),
    ]


def test_drift_by_profile() -> None:
    pins = {
        "h100": {"nvidia_driver": "580.95.05", "nvidia_vbios": "96.00.A5.00.01", "gsp_nics": "28.39.3004"},
        "a100": {"nvidia_driver": "570.172.08"},
    }
    target = Target("2026-11", pins, dict.fromkeys(("n1", "n2", "n3", "n4", "n5", "n6"), "h100"))
    found = view(
        line("n1", extra=told(gsp_nics="20.1.1+28.39.3004")),
        line("n2", extra=told(nvidia_driver="570.172.08")),
        line("n3", extra=told(nvidia_driver="", gsp_nics="28.38.1002+28.39.3004")),
        line("n4", extra=told().replace('"nvidia_vbios":"96.00.A5.00.01",', "")),
        line("n5", extra=""),
        line("n6", "IDLE+DRAIN", reason="fan"),
        line("x1"),
        target=target,
    )
    assert found.profiles == (
        ProfileView(
            "h100",
            "580.95.05",
            ("n1", "n6"),
            groups(
                ("gsp_nics 28.38.1002+28.39.3004, pinned 28.39.3004", "n3"),
                ("nvidia_driver 570.172.08, pinned 580.95.05", "n2"),
                ("nvidia_driver none, pinned 580.95.05", "n3"),
                ("nvidia_vbios not told, pinned 96.00.A5.00.01", "n4"),
            ),
            ("n5",),
        ),
        ProfileView("a100", "570.172.08", (), (), ()),
    )
    assert found.unmatched == ("x1",)


def test_what_others_than_slurm_know() -> None:
    beside = Beside({"n1": "at 2026-10 by c1"}, {"n1": "BMC_0 1, pinned 2", "n2": "as pinned"})
    found = view(line("n1"), line("n2"), line("n3"), beside=beside)
    assert found.held == groups(("at 2026-10 by c1", "n1"))
    assert found.beside == groups(("BMC_0 1, pinned 2", "n1"), ("as pinned", "n2"))

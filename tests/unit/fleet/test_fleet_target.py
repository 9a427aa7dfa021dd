"""What a manifest pins for each node, as nodes publish it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fleet_lines import line

from slurm_gsp.campaign.fleet import node_facts
from slurm_gsp.fleet.errors import FleetError
from slurm_gsp.fleet.target import load_manifest, pins_of, target_of
from slurm_gsp.manifest.match import NodeFacts, assign
from slurm_gsp.manifest.model import Hardware, Manifest, Matcher, Packages, Profile
from slurm_gsp.slurm.fleet import FleetText, parse_fleet
from slurm_gsp.slurm.overview import parse_line

NOW = datetime(2026, 11, 26, tzinfo=UTC)
RECORDED = Path(__file__).parents[1] / "campaign/recorded/22.05.8/nodes.txt"
PROFILE = Profile("h100", Matcher(gres=("gpu:h100:8",)), "580.95.05", "open", 8, False, Packages())


def manifest(*profiles: Profile) -> Manifest:
    return Manifest("2026-11", None, NOW, profiles)


def test_every_node_gets_its_profile() -> None:
    old = replace(PROFILE, name="old", matcher=Matcher(nodes="old[1-2]"), driver="570.172.08")
    target = target_of(
        manifest(PROFILE, old), [line("n1"), line("old2", gres="gpu:a100:4"), line("x", gres="")]
    )
    assert target.manifest == "2026-11"
    assert target.profile_of == {"n1": "h100", "old2": "old"}
    assert target.pins == {
        "h100": {"nvidia_driver": "580.95.05", "nvidia_flavour": "open"},
        "old": {"nvidia_driver": "570.172.08", "nvidia_flavour": "open"},
    }


def test_what_is_pinned_beside_the_driver() -> None:
    hardware = Hardware(vbios="96.00.a5.00.01", nic_firmware="28.39.3004")
    assert pins_of(replace(PROFILE, fabric_manager=True, hardware=hardware)) == {
        "nvidia_driver": "580.95.05",
        "nvidia_flavour": "open",
        "nvidia_fabric": "580.95.05",
        "nvidia_vbios": "96.00.A5.00.01",
        "gsp_nics": "28.39.3004",
    }


def test_two_profiles_for_one_node_are_an_error() -> None:
    with pytest.raises(FleetError, match="n1 fits the profiles h100 and again of 2026-11"):
        target_of(manifest(PROFILE, replace(PROFILE, name="again")), [line("n1")])


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text("name = 7\n")
    with pytest.raises(FleetError) as caught:
        load_manifest(tmp_path / "m.toml")
    assert len(caught.value.errors) > 1
    assert all(str(tmp_path) in error for error in caught.value.errors)


def test_recorded_nodes_take_the_profiles_that_the_planner_gives_them() -> None:
    text = RECORDED.read_text()
    lines = [parse_line(one) for one in text.splitlines()]
    planner: tuple[NodeFacts, ...] = node_facts(parse_fleet(FleetText(text, "", ""), NOW))
    for matcher in (Matcher(gres=("gpu:h100",)), Matcher(features=("ib",)), Matcher(partitions=("debug",))):
        one = manifest(replace(PROFILE, matcher=matcher))
        expected = dict(assign(one, planner).by_node)
        assert expected
        assert target_of(one, lines).profile_of == expected

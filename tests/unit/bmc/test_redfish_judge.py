"""Pins against inventories."""

from __future__ import annotations

import ast
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slurm_gsp.core.reading import Absent, Known, Reading, Unknown
from slurm_gsp.manifest.model import FirmwarePin, Manifest, Matcher, Packages, Profile
from slurm_gsp.redfish.judge import Compared, Finding, Verdict, compare, judge, overall
from slurm_gsp.redfish.model import Answer, Component, Inventory

PACKAGE = Path(__file__).parents[3] / "slurm_gsp/redfish"
EQUAL, DIFFERS, MISSING, UNKNOWN = Verdict


def known(value: str) -> Known[str]:
    return Known(value, "x")


def inventory(state: str | None = None, **versions: Reading[str] | str) -> Answer:
    return Known(
        Inventory(
            tuple(
                Component(name, None, known(value) if isinstance(value, str) else value, state=state)
                for name, value in versions.items()
            )
        ),
        "https://bmc",
    )


BMC = FirmwarePin("BMC_0", "24.10-1")
GPUS = FirmwarePin("GPU_*", "96")


def test_equal() -> None:
    assert judge([BMC], inventory(BMC_0="24.10-1", PSU="1")) == (
        Finding("BMC_0", "24.10-1", EQUAL, "24.10-1"),
    )


@pytest.mark.parametrize("found", ["24.10", "24.10-10", "v24.10-1", "24.10-1 (A)"])
def test_another_version_differs_however_near_it_is(found: str) -> None:
    assert judge([BMC], inventory(BMC_0=found)) == (Finding("BMC_0", "24.10-1", DIFFERS, found),)


def test_a_pattern_is_for_each_that_it_covers() -> None:
    found = judge([GPUS], inventory(GPU_1="96", GPU_2="95", GPU_3=Absent("x"), XGPU_4="1"))
    assert [(one.component, one.verdict, one.found) for one in found] == [
        ("GPU_1", EQUAL, "96"),
        ("GPU_2", DIFFERS, "95"),
        ("GPU_3", UNKNOWN, None),
    ]


@pytest.mark.parametrize("pin", [BMC, GPUS])
def test_a_pin_that_matches_nothing_is_missing(pin: FirmwarePin) -> None:
    why = "the BMC lists no such component"
    assert judge([pin], inventory(PSU="1")) == (Finding(pin.component, pin.version, MISSING, None, why),)


def test_capitals_count() -> None:
    assert judge([BMC], inventory(bmc_0="24.10-1"))[0].verdict is MISSING


def test_what_is_listed_as_absent_is_missing() -> None:
    (finding,) = judge([BMC], inventory("Absent", BMC_0="24.10-1"))
    assert finding == Finding("BMC_0", "24.10-1", MISSING, None, "is listed as absent")


def test_what_is_being_updated_is_unknown() -> None:
    (finding,) = judge([BMC], inventory("Updating", BMC_0="24.10-1"))
    assert finding == Finding("BMC_0", "24.10-1", UNKNOWN, "24.10-1", "is being updated")


def test_no_version_and_no_answer_are_unknown() -> None:
    found = judge([BMC, GPUS], inventory(BMC_0=Absent("x"), GPU_1=Unknown("x", "HTTP 404")))
    assert [(one.verdict, one.why) for one in found] == [
        (UNKNOWN, "the BMC names no version"),
        (UNKNOWN, "HTTP 404"),
    ]


def test_a_bmc_that_could_not_be_read_is_unknown_for_every_pin() -> None:
    found = judge([BMC, GPUS], Unknown("https://bmc", "nothing listens there"))
    assert found == (
        Finding("BMC_0", "24.10-1", UNKNOWN, None, "nothing listens there"),
        Finding("GPU_*", "96", UNKNOWN, None, "nothing listens there"),
    )


def test_a_component_must_satisfy_every_pin_that_covers_it() -> None:
    two = [FirmwarePin("GPU_?", "96"), FirmwarePin("*_1", "95")]
    assert {one.verdict for one in judge(two, inventory(GPU_1="96"))} == {EQUAL, DIFFERS}
    same = [GPUS, FirmwarePin("GPU_1", "96")]
    assert judge(same, inventory(GPU_1="96")) == (Finding("GPU_1", "96", EQUAL, "96"),)


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        ([EQUAL, EQUAL], EQUAL),
        ([EQUAL, UNKNOWN], UNKNOWN),
        ([EQUAL, UNKNOWN, DIFFERS], DIFFERS),
        ([UNKNOWN, MISSING], DIFFERS),
        ([], UNKNOWN),
    ],
)
def test_all_in_all(seen: list[Verdict], verdict: Verdict) -> None:
    assert overall(Finding("x", "1", one) for one in seen) is verdict


def test_nodes_are_compared_with_their_own_profile() -> None:
    bare = Profile("old", Matcher(), "570.195.03", "open", 8, False, Packages())
    pinned = Profile("new", Matcher(), "570.195.03", "open", 8, False, Packages(), bmc=(BMC,))
    manifest = Manifest("m", None, datetime(2026, 11, 21, tzinfo=UTC), (bare, pinned))
    answer = inventory(BMC_0="24.10-1")
    compared = compare(manifest, {"a": "new", "b": "old"}, {"b": answer, "a": answer})
    assert compared == (
        Compared("b", "old", answer, ()),
        Compared("a", "new", answer, (Finding("BMC_0", "24.10-1", EQUAL, "24.10-1"),)),
    )
    assert [one.verdict for one in compared] == [None, EQUAL]


@pytest.mark.parametrize("name", ["model", "judge", "read"])
def test_what_judges_reaches_nothing_and_knows_no_library(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    assert imported.isdisjoint({"os", "io", "time", "socket", "threading", "pathlib", "random", "ssl"})
    foreign = {one for one in imported if one.partition(".")[0] not in sys.stdlib_module_names}
    assert all(one.startswith("slurm_gsp.") for one in foreign)
    assert foreign.isdisjoint({f"slurm_gsp.redfish.{edge}" for edge in ("client", "guard", "site", "sweep")})

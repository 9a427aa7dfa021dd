"""One node: when it is silent, whose it is, and that nothing doubtful is healthy."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from fleet_lines import BOOTED, LATER, NOW, PLAIN, line, told
from fleet_lines import judged as nodes_of

from slurm_gsp.core import published
from slurm_gsp.fleet.judge import judge, kind_of
from slurm_gsp.fleet.model import NO_ANSWER, NO_TUPLE, NOT_UP, OLD_TUPLE, SHOWN_KEYS, Node
from slurm_gsp.slurm.overview import Held

MAINT = Held("fixing", NOW - timedelta(hours=1), LATER, True, ("n1",))
BEFORE_BOOT = BOOTED - timedelta(hours=1)
NAMED = "gsp_2026-11_n1"


def judged(*, held: Held | None = None, **changes: str) -> Node:
    return judge(line(**changes), {"n1": held} if held else {}, NOW)


def boot(delta: timedelta) -> str:
    return published.time_text(BOOTED + delta)


def test_a_node_that_says_so_in_this_boot_is_healthy() -> None:
    node = judged()
    assert node == Node(
        "n1", "main", "gpu:h100:8", "", "consistent", (), tuple(PLAIN[key] for key in SHOWN_KEYS), "IDLE"
    )
    assert node.healthy


IN_SERVICE = (
    "MIXED", "ALLOCATED", "IDLE+PLANNED", "COMPLETING", "IDLE+DYNAMIC_NORM", "IDLE+DYNAMIC_FUTURE",
    "IDLE+CLOUD", "IDLE+RESERVED", "IDLE+POWER_DOWN",
)  # fmt: skip


@pytest.mark.parametrize("state", IN_SERVICE)
def test_states_in_service(state: str) -> None:
    assert judged(state=state).healthy


@pytest.mark.parametrize(
    ("silent", "changes"),
    [
        (NO_TUPLE, {"extra": ""}),
        (NO_TUPLE, {"extra": '{"rack":"7"}', "comment": "hello"}),
        (NO_TUPLE, {"extra": '{"nvidia_driver":"580.95.05"}'}),
        (OLD_TUPLE, {"extra": told(gsp_booted=boot(timedelta(seconds=-121)))}),
        (OLD_TUPLE, {"extra": told(gsp_booted=boot(timedelta(days=1)))}),
        (OLD_TUPLE, {"extra": told(gsp_booted="yesterday")}),
        (OLD_TUPLE, {"extra": told(gsp_booted="")}),
        (OLD_TUPLE, {"extra": told().replace(',"gsp_booted"', ',"other"')}),
        (OLD_TUPLE, {"booted": ""}),
        (NO_ANSWER, {"state": "IDLE*"}),
        (NO_ANSWER, {"state": "IDLE+NOT_RESPONDING"}),
        (NO_ANSWER, {"state": "DOWN*+DRAIN", "reason": "fan"}),
        (NO_ANSWER, {"state": "UNKNOWN"}),
        (NO_ANSWER, {"state": "DOWN", "reason": "Not responding"}),
        (NO_ANSWER, {"state": "DOWN", "reason": "gsp:realign c1 : reboot issued : reboot timed out"}),
        (NO_ANSWER, {"state": "DOWN+CLOUD", "reason": "ResumeTimeout reached"}),
        (NOT_UP, {"state": "IDLE+CLOUD+POWERED_DOWN"}),
        (NOT_UP, {"state": "MIXED#"}),
        (NOT_UP, {"state": "IDLE%"}),
        (NOT_UP, {"state": "DOWN*+DRAIN+REBOOT_ISSUED", "reason": "gsp:realign c1 : reboot issued"}),
        (NOT_UP, {"state": "IDLE^"}),
        (NO_ANSWER, {"state": "DOWN*", "extra": ""}),
    ],
)
def test_silent_nodes(silent: str, changes: dict[str, str]) -> None:
    node = judged(**changes)
    assert (node.silent, node.healthy, node.verdict, node.faults) == (silent, False, "", ())
    assert set(node.versions) == {"?"}


@pytest.mark.parametrize("seconds", [-120, -3, 0, 119])
def test_slurm_and_the_node_count_one_boot_a_little_differently(seconds: int) -> None:
    assert judged(extra=told(gsp_booted=boot(timedelta(seconds=seconds)))).healthy


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "IDLE+DRAIN", "reason": "fan"},
        {"state": "DOWN", "reason": "Node unexpectedly rebooted"},
        {"state": "IDLE+FAIL"},
        {"state": "ERROR"},
        {"state": "IDLE+INVALID_REG", "reason": "gres/gpu count reported lower"},
        {"state": "IDLE+MAINTENANCE+RESERVED"},
        {"state": "MIXED+REBOOT_REQUESTED"},
        {"state": "DRAINING"},
        {"extra": told(verdict="latent", faults="drift")},
        {"extra": told(verdict="unknown")},
        {"extra": told().replace('"gsp_verdict":"consistent",', "")},
        {"extra": told()[:-1]},
        {"extra": "x" + told()},
    ],
)
def test_nodes_that_are_not_healthy(changes: dict[str, str]) -> None:
    assert not judged(**changes).healthy


def test_a_site_may_write_its_json_anew() -> None:
    spaced = json.dumps({"rack": 7, **PLAIN}, indent=None)
    assert '"gsp_booted": "' in spaced
    assert judged(extra=spaced).healthy
    assert judged(extra=spaced.replace(PLAIN["gsp_booted"], "2026-11-01T00:00:00Z")).silent == OLD_TUPLE


def test_the_text_of_the_site_may_stand_before() -> None:
    assert judged(extra="rack 7 gsp:" + told()).healthy


def test_comment_counts_as_well_and_what_is_of_this_boot_wins() -> None:
    old = told(nvidia_driver="1", gsp_booted=boot(timedelta(days=-3)))
    assert judged(extra="", comment=told()).healthy
    assert judged(extra=old, comment=told()).versions[0] == "580.95.05"
    assert judged(extra=told(), comment=old).versions[0] == "580.95.05"
    assert judged(extra=old, comment=old).silent == OLD_TUPLE


def test_values_that_were_not_read_are_not_values() -> None:
    node = judged(extra=told(nvidia_gsp="").replace('"nvidia_vbios":"96.00.A5.00.01",', ""))
    said = dict(zip(SHOWN_KEYS, node.versions, strict=True))
    assert (said["nvidia_gsp"], said["nvidia_vbios"]) == ("", "?")


def test_nodes_of_one_text_but_for_the_boot_are_read_as_one_and_yet_apart() -> None:
    later = BOOTED + timedelta(days=2)
    extra = told(gsp_booted=published.time_text(later), gsp_seen="boot-2")
    assert judged(extra=extra).silent == OLD_TUPLE
    assert judged(extra=extra, booted=f"{later:%Y-%m-%dT%H:%M:%S}").healthy


@pytest.mark.parametrize(
    ("gres", "kind"),
    [
        ("gpu:h100:8(S:0-1)", "gpu:h100:8"),
        ("gpu:h100:8(S:0,1),gpu:a100:1", "gpu:a100:1,gpu:h100:8"),
        ("gpu:8", "gpu:8"),
        ("gpu", "gpu"),
        ("gpu:1g.10gb:7,nvme:1", "gpu:1g.10gb:7"),
        ("gpumem:80", ""),
        ("", ""),
    ],
)
def test_kinds_of_nodes(gres: str, kind: str) -> None:
    assert kind_of(gres) == kind


def test_only_future_nodes_do_not_exist() -> None:
    states = ("FUTURE", "FUTURE*", "FUTR", "IDLE+DYNAMIC_FUTURE", "IDLE+CLOUD", "UNKNOWN")
    assert [node.state for node in nodes_of(*(line(state=state) for state in states))] == list(states[3:])


REALIGN = "gsp:realign 2026-11 to=2026-11@0123456789ab try=1 id=01234567"


@pytest.mark.parametrize(
    ("changes", "held", "whose"),
    [
        ({}, None, ("", "", "")),
        ({"reason": "left behind"}, None, ("", "", "")),
        ({}, Held(NAMED, LATER, LATER, True, ("n1",)), ("", "2026-11", "reserved")),
        ({"state": "IDLE+DRAIN", "reason": "gsp:umd-skew kmd=1"}, None, ("us", "", "")),
        (
            {"state": "IDLE+DRAIN", "reason": "gsp:umd-skew kmd=1"},
            Held(NAMED, LATER, LATER, True, ("n1",)),
            ("us", "2026-11", "reserved"),
        ),
        ({"state": "IDLE+DRAIN", "reason": "fan"}, None, ("others", "", "")),
        ({"state": "DOWN", "reason": ""}, None, ("others", "", "")),
        ({"state": "IDLE+DRAIN", "reason": REALIGN}, None, ("campaign", "2026-11", "realigning")),
        (
            {"state": "DOWN+DRAIN+REBOOT_ISSUED", "reason": f"{REALIGN} : reboot issued"},
            None,
            ("campaign", "2026-11", "realigning"),
        ),
        (
            {"state": "IDLE+DRAIN", "reason": REALIGN.replace("realign", "rollback")},
            None,
            ("campaign", "2026-11", "rolling back"),
        ),
        (
            {"state": "IDLE+DRAIN", "reason": "gsp:escalated 2026-11 vbios"},
            None,
            ("campaign", "2026-11", "escalated"),
        ),
        (
            {"state": "IDLE+DRAIN", "reason": "gsp:realign-failed step=3 apt"},
            Held(NAMED, BEFORE_BOOT, LATER, True, ("n1",)),
            ("campaign", "2026-11", "realign-failed"),
        ),
        (
            {"state": "IDLE+DRAIN", "reason": "gsp:realign-failed step=3 apt"},
            None,
            ("campaign", "?", "realign-failed"),
        ),
        (
            {"state": "IDLE+MAINTENANCE+RESERVED"},
            Held(NAMED, BEFORE_BOOT, LATER, True, ("n1",)),
            ("campaign", "2026-11", "verifying"),
        ),
        (
            {"state": "ALLOCATED+MAINTENANCE"},
            Held(NAMED, BOOTED + timedelta(hours=1), LATER, True, ("n1",)),
            ("campaign", "2026-11", "waiting"),
        ),
        ({"state": "IDLE+MAINTENANCE"}, MAINT, ("others", "", "")),
        ({"state": "IDLE+MAINTENANCE"}, None, ("others", "", "")),
        (
            {"state": "IDLE+MAINTENANCE"},
            Held(NAMED, LATER, LATER, True, ("n1",)),
            ("others", "2026-11", "reserved"),
        ),
        (
            {"state": "MIXED+REBOOT_REQUESTED"},
            Held(NAMED, LATER, LATER, True, ("n1",)),
            ("others", "2026-11", "reserved"),
        ),
    ],
)
def test_whose_a_node_is(changes: dict[str, str], held: Held | None, whose: tuple[str, str, str]) -> None:
    node = judged(held=held, **changes)
    assert (node.out, node.campaign, node.phase) == whose


@pytest.mark.parametrize(
    ("changes", "held", "reason"),
    [
        ({"state": "IDLE+DRAIN", "reason": "fan", "user": "ann"}, None, ("fan", "ann")),
        ({"state": "DOWN"}, None, ("no Reason", "")),
        ({"state": "IDLE+MAINTENANCE"}, MAINT, ("MAINT reservation fixing", "")),
        ({"state": "IDLE+MAINTENANCE"}, None, ("in a MAINT reservation", "")),
        ({"state": "MIXED+REBOOT_REQUESTED"}, None, ("a reboot through Slurm is under way", "")),
        ({"reason": "left behind", "user": "ann"}, None, ("", "")),
    ],
)
def test_why_a_node_is_out(changes: dict[str, str], held: Held | None, reason: tuple[str, str]) -> None:
    node = judged(held=held, **changes)
    assert (node.reason, node.user) == reason

"""The planner: whole plans of small fleets, all that is wrong at once, and what holds for every plan."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from bench.plan_bench import NOW as BENCH_NOW
from bench.plan_bench import as_nodes, fleet_text
from slurm_gsp.campaign.model import (
    CHANGE_CLASSES,
    NEVER,
    FleetNode,
    Heading,
    Limits,
    Plan,
    PlanError,
    Reservation,
    Slot,
    WaveKind,
    Window,
)
from slurm_gsp.campaign.plan import plan
from slurm_gsp.campaign.windows import Openings, open_spans, parse_window
from slurm_gsp.slurm.fleet import parse_fleet

NOW = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)  # a Monday
SLOT = 1800
FREE = Limits(max_out_percent=None, soak_s=3600)
DRAINED = frozenset({"IDLE", "DRAIN"})


def after(minutes: float) -> datetime:
    return NOW + timedelta(minutes=minutes)


def node(name: str, variant: str = "a", **fields: object) -> FleetNode:
    values = {"profile": "p", "variant": variant, "partitions": ("gpu",), "pinned": "580.95.05", **fields}
    return FleetNode(name=name, **values)


def nodes(count: int, variant: str = "a", **fields: object) -> list[FleetNode]:
    return [node(f"{variant}{number}", variant, **fields) for number in range(1, count + 1)]


def made(fleet, limits=FREE, now=NOW, slot=SLOT) -> Plan:
    result = plan(fleet, limits, now, slot)
    assert isinstance(result, Plan), result
    return result


def shape(result: Plan) -> list[dict[int, str]]:
    """Each wave as minutes from now -> nodes."""
    waves = []
    for wave in result.waves:
        found: dict[int, list[str]] = {}
        for slot in wave.slots:
            found.setdefault(int((slot.start - NOW).total_seconds() // 60), []).append(slot.node)
        waves.append({minute: " ".join(names) for minute, names in found.items()})
    return waves


def whys(result: Plan) -> dict[str, str]:
    return {item.node: item.why for item in result.left_out}


def test_twelve_nodes_of_three_variants():
    fleet = nodes(4, "a") + nodes(4, "b") + nodes(4, "c")
    assert shape(made(fleet, replace(FREE, max_out_count=3))) == [
        {0: "a1 b1 c1"},
        {90: "a2 a3 a4"},
        {180: "b2 b3 b4", 210: "c2 c3 c4"},
    ]
    assert [wave.kind for wave in made(fleet).waves] == [WaveKind.CANARY, WaveKind.WAVE, WaveKind.WAVE]
    assert [wave.number for wave in made(fleet).waves] == [0, 1, 2]


PLANS = {
    "waves grow": (
        nodes(9),
        FREE,
        [{0: "a1"}, {90: "a2"}, {180: "a3 a4"}, {270: "a5 a6 a7 a8"}, {360: "a9"}],
    ),
    "two canaries of each, as far as there are so many": (
        nodes(3, "a") + nodes(1, "b"),
        replace(FREE, canary_per_variant=2),
        [{0: "a1 a2 b1"}, {90: "a3"}],
    ),
    "no growth": (nodes(3), replace(FREE, growth=1.0, soak_s=0), [{0: "a1"}, {30: "a2"}, {60: "a3"}]),
    "n2 goes before n10": (
        [node("n10"), node("n2")],
        replace(FREE, soak_s=0),
        [{0: "n2"}, {30: "n10"}],
    ),
    "those whose jobs end first go first, and not before": (
        [node(name, busy_until=after(end)) for name, end in (("n1", 500), ("n2", 20.5), ("n3", 600))],
        FREE,
        [{21: "n2"}, {500: "n1"}, {600: "n3"}],
    ),
    "a job whose end is past": ([node("n1", busy_until=after(-5))], FREE, [{0: "n1"}]),
    "the drain of others counts": (
        [*nodes(4), node("x", states=DRAINED, reason="fan"), node("y", states=frozenset({"DOWN"}))],
        replace(FREE, max_out_count=3, growth=9.0),
        [{0: "a1"}, {90: "a2"}, {180: "a3", 210: "a4"}],
    ),
    "what we drained goes first, and takes nobody else out": (
        [*nodes(3), *(node(name, states=DRAINED, reason="gsp:gsp-skew") for name in ("z8", "z9"))],
        replace(FREE, max_out_count=1, growth=9.0),
        [{0: "z8"}, {90: "z9"}, {180: "a1", 210: "a2", 240: "a3"}],
    ),
    "a node in two partitions counts in both": (
        [
            node("n1", partitions=("p", "q")),
            node("n2", partitions=("p",)),
            node("n3", partitions=("q",)),
            node("n4", partitions=("r",)),
        ],
        replace(FREE, max_out_count=1, canary_per_variant=4),
        [{0: "n1 n4", 30: "n2 n3"}],
    ),
    "a percentage is rounded down, and is one node at least": (
        [node(f"s{n}", partitions=("small",)) for n in range(3)]
        + [node(f"t{n:02}", partitions=("large",)) for n in range(29)],
        replace(FREE, max_out_percent=10.0, canary_per_variant=6),
        None,
    ),
    "a block gives up one at a time, and others go meanwhile": (
        [node("n1", block="s1"), node("n2", block="s1"), node("n3", block="s2"), node("n4")],
        replace(FREE, per_block=1, canary_per_variant=4),
        [{0: "n1 n3 n4", 30: "n2"}],
    ),
    "inside the window": (
        nodes(3),
        replace(FREE, windows=(parse_window("Mon-Fri 10:00-11:00"),), growth=5.0),
        [{60: "a1"}, {60 + 1440: "a2"}, {60 + 2 * 1440: "a3"}],
    ),
    "a reservation of others later on is kept clear": (
        [node("n1", reservations=(Reservation("course", after(20), after(100)),))],
        FREE,
        [{100: "n1"}],
    ),
    "a MAINT reservation that a slot would run into counts from before": (
        [node("n1"), node("n2", reservations=(Reservation("m", after(20), after(100), True),))],
        replace(FREE, max_out_count=1, canary_per_variant=2),
        [{100: "n1", 130: "n2"}],
    ),
    "a MAINT reservation that ends where a slot starts, and starts where one ends": (
        [node("n1"), node("n2", reservations=(Reservation("m", after(30), after(40), True),))],
        replace(FREE, max_out_count=1, canary_per_variant=2),
        [{0: "n1", 40: "n2"}],
    ),
    "a MAINT reservation later on counts as out": (
        [node("n1"), node("n2", reservations=(Reservation("m", after(50), after(100), True),))],
        replace(FREE, max_out_count=1, canary_per_variant=2, growth=1.0),
        [{0: "n1", 100: "n2"}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANS)
def test_whole_plans(name):
    fleet, limits, wanted = PLANS[name]
    result = made(fleet, limits)
    if wanted is None:
        assert len(result.waves[0].slots) == 6
        first = Counter(slot.node[0] for slot in result.waves[0].slots if slot.start == NOW)
        assert first == {"s": 1, "t": 2}
    else:
        assert shape(result) == wanted


LEFT_OUT = {
    "already right: 580.95.05": node("n", driver="580.95.05"),
    "no profile of the manifest matches it": node("n", profile=None, pinned=None),
    "drained by others: fan (root)": node("n", states=DRAINED, reason="fan", reason_user="root"),
    "drained by others: no Reason": node("n", states=DRAINED),
    "down: psu": node("n", states=frozenset({"DOWN"}), reason="psu"),
    "down: gsp:x": node("n", states=frozenset({"DOWN", "DRAIN"}), reason="gsp:x"),
    "not_responding: no Reason": node("n", states=frozenset({"IDLE", "NOT_RESPONDING"})),
    "a reboot through Slurm is under way": node("n", states=frozenset({"MIXED", "REBOOT_REQUESTED"})),
    "in a MAINT reservation": node("n", states=frozenset({"IDLE", "MAINTENANCE"})),
    "in the reservation course": node("n", reservations=(Reservation("course", after(-1), after(9)),)),
    "reserved by another campaign: gsp_c1_n": node(
        "n", reservations=(Reservation("gsp_c1_n", after(900), after(930), True),)
    ),
    "switched off to save power": node("n", states=frozenset({"IDLE", "POWERED_DOWN"})),
    "there is no such node yet (state FUTURE)": node("n", states=frozenset({"FUTURE"})),
    "runs a job that has no time limit": node("n", busy_until=NEVER),
}


@pytest.mark.parametrize("why", LEFT_OUT)
def test_who_is_no_candidate_and_why(why):
    result = made([LEFT_OUT[why], node("other")])
    assert whys(result) == {"n": why}
    assert [slot.node for wave in result.waves for slot in wave.slots] == ["other"]


def test_a_node_that_we_drained_is_planned_even_if_its_driver_is_right():
    assert shape(made([node("n", driver="580.95.05", states=DRAINED, reason="gsp:gsp-skew")])) == [{0: "n"}]


def test_a_power_saving_node_is_available_and_a_future_one_is_not_counted():
    fleet = [
        *nodes(1),
        node("f", states=frozenset({"FUTURE"})),
        node("o", states=frozenset({"IDLE", "POWERED_DOWN"})),
    ]
    assert shape(made(fleet, replace(FREE, max_out_count=1))) == [{0: "a1"}]


def test_who_finds_no_room_and_why():
    fleet = [
        *nodes(2, "a", partitions=("p",)),
        node("x", states=DRAINED, partitions=("p",)),
        *nodes(2, "b", partitions=("q",), busy_until=after(600)),
        *nodes(4, "c", partitions=("r",)),
        node("d1", "d", busy_until=after(100)),
    ]
    limits = replace(FREE, max_out_count=1, soak_s=0, deadline=after(220), growth=1.0)
    result = made(fleet, limits)
    late = "its last job may run until 2026-11-16 19:00 UTC: too late for the deadline 2026-11-16 12:40 UTC"
    assert shape(result) == [{0: "c1", 100: "d1"}, {130: "c2", 160: "c3"}, {190: "c4"}]
    assert whys(result) == {
        "a1": "partition p: 1 of at most 1 nodes are out already",
        "a2": "partition p: 1 of at most 1 nodes are out already",
        "b1": late,
        "b2": late,
        "x": "drained by others: no Reason",
    }
    assert whys(made(nodes(3), replace(FREE, deadline=after(125)))) == {
        "a3": "within the limits its turn comes after the deadline 2026-11-16 11:05 UTC",
    }


def test_what_stands_in_the_way_is_counted_without_our_own_slots():
    fleet = [
        *nodes(1),
        *(node(name, states=DRAINED) for name in "xy"),
        node("z", states=DRAINED, reason="gsp:x"),
    ]
    result = made(fleet, replace(FREE, max_out_count=2))
    assert shape(result) == [{0: "z"}]
    assert whys(result)["a1"] == "partition gpu: 2 of at most 2 nodes are out already"


def test_a_variant_without_canary_is_left_out_and_holds_up_nobody():
    late = Window(frozenset({0}), 9 * 60, 10 * 60)
    fleet = [*nodes(2, "a"), node("b1", "b", busy_until=after(45)), node("b2", "b", busy_until=after(4000))]
    result = made(fleet, replace(FREE, windows=(late,), soak_s=0, deadline=after(5000)))
    assert shape(result) == [{0: "a1"}, {30: "a2"}]
    assert whys(result) == {
        "b1": "no canary of its variant 'b' could be placed before the deadline 2026-11-19 20:20 UTC",
        "b2": "no canary of its variant 'b' could be placed before the deadline 2026-11-19 20:20 UTC",
    }


def test_nodes_that_were_not_asked_for_are_left_out():
    fleet = [node("n1"), node("n2", wanted=False), node("n3", wanted=False, states=DRAINED, reason="fan")]
    assert whys(made(fleet)) == {"n2": "not asked for", "n3": "not asked for"}


def test_a_node_that_others_drained_is_taken_where_it_was_asked_for():
    fleet = [node("n1", states=DRAINED, reason="fan", take=True, block="r1"), node("n2", reason="left over")]
    slots = {slot.node: slot for slot in made(fleet).slots}
    assert slots["n1"] == Slot("n1", "a", NOW, "p", "r1", take=True)
    assert not slots["n2"].take


def test_held_and_given_up_nodes_wait_for_a_person():
    given_up = "gsp:escalated c1 vbios"
    fleet = [
        node("n1", held="held at 2026-10: rolled back by c1"),
        node("n2", states=DRAINED, reason=given_up),
        node("n3", states=DRAINED, reason=given_up, take=True),
        node("n4", states=DRAINED, reason="gsp:realign-failed step=2 disk"),
        node("n5", states=frozenset({"DOWN"}), reason="gsp:realign c1 to=m@0 try=1 : reboot timed out"),
    ]
    result = made(fleet)
    assert whys(result) == {
        "n1": "held at 2026-10: rolled back by c1",
        "n2": f"given up by a campaign: {given_up}",
    }
    assert {slot.node: slot.take for slot in result.slots} == {"n3": False, "n4": False, "n5": False}


def test_the_heading_and_the_unknown_drivers_are_in_the_plan():
    fleet = [node("n1"), node("n2", driver="570.1"), node("n3", driver="580.95.05")]
    heading = Heading("c1", "2026-11", "sha256:00", "standard", 0)
    result = plan(fleet, FREE, NOW, SLOT, heading)
    assert isinstance(result, Plan)
    assert (result.campaign, result.heading, result.made, result.realign_s) == ("c1", heading, NOW, SLOT)
    assert result.unknown_driver == ("n1",)
    assert result.digest.startswith("sha256:")


def test_nothing_to_do_is_a_plan():
    assert made([]).waves == ()
    assert made([node("n", driver="580.95.05")]).waves == ()


def test_slots_start_on_whole_minutes():
    assert made(nodes(1), now=NOW + timedelta(seconds=1)).waves[0].slots[0].start == after(1)


NAIVE = datetime(2026, 11, 16, 9, 0)


def test_everything_that_is_wrong_is_told_at_once():
    limits = Limits(
        max_out_count=0, max_out_percent=0.0, per_block=0, canary_per_variant=0, growth=0.5, soak_s=-1,
        deadline=NAIVE, windows=(Window(frozenset({7}), 0, 1500),), time_zone="Mars/Olympus",
    )  # fmt: skip
    fleet = [
        node("n1", busy_until=NAIVE),
        node("n1", reservations=(Reservation("r", NAIVE, after(1)),)),
    ]
    assert plan(fleet, limits, NAIVE, 0) == PlanError((
        "now: 2026-11-16 09:00:00 has no time zone",
        "deadline: 2026-11-16 09:00:00 has no time zone",
        "busy_until of n1: 2026-11-16 09:00:00 has no time zone",
        "reservation r: 2026-11-16 09:00:00 has no time zone",
        "realign_s: a slot of 0 s is none",
        "max_out_count: with 0 nodes out at most, none can ever go; at least 1",
        "max_out_percent: 0.0 is not above 0 and up to 100",
        "per_block: with 0 nodes of a block at most, none can ever go; at least 1",
        "canary_per_variant: 0 is less than 1",
        "growth: waves cannot grow by 0.5; at least 1",
        "soak_s: -1 is less than 0",
        "windows: [7] are not days of the week, Monday 0 to Sunday 6",
        "windows: 0 to 1500 are not minutes of a day",
        "time_zone: there is no 'Mars/Olympus'; write it like Europe/Berlin",
        "n1 is there twice",
    ))


@pytest.mark.parametrize(
    ("limits", "error"),
    [
        (
            replace(FREE, windows=(parse_window("Mon 10:00-10:20"), parse_window("Tue 10:00-10:29"))),
            "windows: none is ever long enough: a slot takes 1800 s, the longest 1740 s",
        ),
        (
            replace(FREE, windows=(parse_window("Fri 10:00-12:00"),), deadline=after(1440)),
            "deadline: no window is open long enough for one slot before it",
        ),
        (
            replace(FREE, deadline=after(29)),
            "deadline: 2026-11-16T09:29:00+00:00 leaves no time for one slot of 1800 s from now on",
        ),
        (
            replace(FREE, deadline=after(60), exceptions=(date(2026, 11, 16),)),
            "exceptions: no time for one slot is left between them",
        ),
        (replace(FREE, growth=float("nan")), "growth: waves cannot grow by nan; at least 1"),
        (
            replace(FREE, max_out_percent=float("nan")),
            "max_out_percent: nan is not above 0 and up to 100",
        ),
    ],
)  # fmt: skip
def test_limits_that_no_slot_can_keep(limits, error):
    assert plan(nodes(1), limits, NOW, SLOT) == PlanError((error,))


@pytest.mark.parametrize(
    ("name", "percent", "growth", "soak", "ahead", "approvals"),
    [
        ("emergency", 25.0, 4.0, 600, True, 1),
        ("routine", 10.0, 2.0, 3600, False, 2),
        ("standard", 5.0, 2.0, 1800, True, 0),
    ],
)
def test_change_classes(name, percent, growth, soak, ahead, approvals):
    kind = CHANGE_CLASSES[name]
    assert (kind.name, kind.approvals) == (name, approvals)
    assert kind.limits == Limits(max_out_percent=percent, growth=growth, soak_s=soak, ahead=ahead)


def test_an_emergency_ends_first_and_a_standard_change_last():
    fleet = nodes(100)
    last = {
        name: max(slot.start for wave in made(fleet, kind.limits).waves for slot in wave.slots)
        for name, kind in CHANGE_CLASSES.items()
    }
    assert last["emergency"] < last["routine"] < last["standard"]


# every plan -----------------------------------------------------------------------------------------------

STATES = st.sampled_from([
    (frozenset({"IDLE"}), ""), (frozenset({"IDLE"}), ""), (frozenset({"MIXED"}), ""),
    (frozenset({"ALLOCATED"}), "gsp:left-over"), (DRAINED, "gsp:gsp-skew"), (DRAINED, "fan"),
    (frozenset({"DOWN"}), "psu"), (frozenset({"DOWN", "DRAIN"}), "gsp:x"),
    (frozenset({"IDLE", "MAINTENANCE"}), ""),
    (frozenset({"IDLE", "REBOOT_REQUESTED"}), ""), (frozenset({"FUTURE"}), ""),
])  # fmt: skip
MINUTES = st.one_of(st.integers(-60, 300), st.integers(0, 6000)).map(lambda minutes: minutes + 0.25)


@st.composite
def reservations(draw):
    start = draw(st.one_of(st.integers(-50, 120), st.integers(-100, 2000)))
    end = start + draw(st.integers(1, 600))
    name = draw(st.sampled_from(["course", "maint", "gsp_c9_n"]))
    return Reservation(name, after(start), after(end), draw(st.booleans()))


@st.composite
def fleets(draw):
    fleet = []
    for number in range(draw(st.integers(1, 24))):
        states, reason = draw(STATES)
        fleet.append(
            node(
                f"n{number}",
                draw(st.sampled_from(["a", "a", "b", "c"])),
                profile=draw(st.sampled_from(["p", "p", "p", "p", None])),
                partitions=tuple(draw(st.lists(st.sampled_from("xyz"), max_size=3))),
                block=draw(st.sampled_from([None, "s1", "s2", "s3"])),
                states=states,
                reason=reason,
                reservations=tuple(draw(st.lists(reservations(), max_size=2))) if draw(st.booleans()) else (),
                driver=draw(st.sampled_from([None, None, "570.1", "580.95.05"])),
                busy_until=draw(st.one_of(st.none(), MINUTES.map(after), st.just(NEVER)))
                if draw(st.booleans())
                else None,
            )
        )
    return fleet


WINDOWS = st.lists(
    st.sampled_from(
        ["Mon-Fri 20:00-06:00", "Sat,Sun 00:00-24:00", "10:00-12:15", "Tue 23:30-00:45"]
    ).map(parse_window),
    max_size=2,
).map(tuple)  # fmt: skip
LIMITS = st.builds(
    Limits,
    max_out_count=st.one_of(st.none(), st.integers(1, 6)),
    max_out_percent=st.one_of(st.none(), st.floats(1, 100)),
    per_block=st.one_of(st.none(), st.integers(1, 3)),
    canary_per_variant=st.integers(1, 3),
    growth=st.floats(1, 5),
    soak_s=st.integers(0, 20000),
    deadline=st.one_of(st.none(), st.integers(200, 20000).map(after)),
    windows=WINDOWS,
    time_zone=st.sampled_from(["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe"]),
    exceptions=st.lists(st.sampled_from([date(2026, 11, 17), date(2026, 11, 21)]), max_size=2).map(tuple),
)
LENGTHS = st.integers(1, 5000)


def test_properties_of_every_plan():
    kinds = Counter()

    @settings(max_examples=400, deadline=None)
    @given(fleets(), LIMITS, LENGTHS, st.randoms(use_true_random=False))
    def check(fleet, limits, length, chance):
        result = plan(fleet, limits, NOW, length)
        assume(isinstance(result, Plan))
        kinds["slots"] += sum(len(wave.slots) for wave in result.waves)
        kinds["waves"] += len(result.waves) > 2
        check_every_node_once(result, fleet)
        check_slots(result, fleet, limits, length)
        check_waves(result, fleet, limits, length)
        check_limits(result, fleet, limits, length)
        shuffled = [
            replace(
                one,
                partitions=tuple(chance.sample(one.partitions, len(one.partitions))),
                reservations=tuple(chance.sample(one.reservations, len(one.reservations))),
            )
            for one in chance.sample(fleet, len(fleet))
        ]
        assert plan(shuffled, limits, NOW, length) == result

    check()
    assert kinds["slots"] > 300 and kinds["waves"] > 20


def check_every_node_once(result, fleet):
    planned = [slot.node for wave in result.waves for slot in wave.slots]
    left_out = [item.node for item in result.left_out]
    assert Counter(planned + left_out) == Counter(one.name for one in fleet)
    assert all(item.why for item in result.left_out)


def check_slots(result, fleet, limits, length):
    """Nothing of others, never before a job must end, inside windows by the clock on the wall."""
    by_name = {one.name: one for one in fleet}
    zone = ZoneInfo(limits.time_zone)
    for slot in (slot for wave in result.waves for slot in wave.slots):
        of, start, end = by_name[slot.node], slot.start, slot.start + timedelta(seconds=length)
        assert start >= NOW and (of.busy_until is None or start >= of.busy_until)
        assert of.profile is not None and of.variant == slot.variant
        assert not of.out or (of.states == DRAINED and of.reason.startswith("gsp:"))
        assert not any(held.start < end and start < held.end for held in of.reservations)
        assert limits.deadline is None or end <= limits.deadline
        # every quarter of an hour of the slot, and its last second
        moments = [start + timedelta(seconds=at) for at in (*range(0, length, 900), length - 1)]
        for local in (moment.astimezone(zone) for moment in moments):
            assert local.date() not in limits.exceptions
            assert not limits.windows or any(is_open(window, local) for window in limits.windows)


def is_open(window, local):
    minute = local.hour * 60 + local.minute
    today, yesterday = local.weekday(), (local.weekday() - 1) % 7
    if not window.overnight:
        return today in window.days and window.opens <= minute < window.closes
    return (today in window.days and minute >= window.opens) or (
        yesterday in window.days and minute < window.closes
    )


def check_waves(result, fleet, limits, length):
    """The canary covers every variant and comes first; waves are apart by the soak and grow no faster."""
    eligible = Counter(one.variant for one in fleet if one.why_not(NOW) is None)
    planned = {slot.variant for wave in result.waves for slot in wave.slots}
    canaries = Counter(slot.variant for wave in result.waves[:1] for slot in wave.slots)
    for variant in planned:
        assert canaries[variant] == min(eligible[variant], limits.canary_per_variant)
    size = float(canaries.total())
    for before, wave in zip(result.waves, result.waves[1:], strict=False):
        assert wave.kind is WaveKind.WAVE and wave.number == before.number + 1
        end = max(slot.start for slot in before.slots) + timedelta(seconds=length + limits.soak_s)
        assert min(slot.start for slot in wave.slots) >= end
        assert 0 < len(wave.slots) <= size + 1
        size *= limits.growth


def check_limits(result, fleet, limits, length):
    """Counted anew, without any of the planner's means: at each moment at which a count can rise."""
    span = timedelta(seconds=length)
    starts = {slot.node: slot.start for wave in result.waves for slot in wave.slots}

    def is_out(one, moment):
        start = starts.get(one.name)
        if start is not None and start <= moment < start + span:
            return True
        if one.out and (start is None or moment < start):
            return True
        return any(held.maint and held.start <= moment < held.end for held in one.reservations)

    groups = [("partition", name, lambda one, name=name: name in one.partitions) for name in "xyz"]
    groups += [("block", name, lambda one, name=name: one.block == name) for name in ("s1", "s2", "s3")]
    for kind, _, inside in groups:
        members = [one for one in fleet if one.exists and inside(one)]
        most = limits.per_block if kind == "block" else limits.most_out(len(members))
        taken = [one for one in members if one.name in starts and not one.out]
        if most is None or not taken:
            continue
        moments = {starts[one.name] for one in members if one.name in starts}
        moments |= {held.start for one in members for held in one.reservations}
        for moment in moments:
            # where others alone are too many, nobody may be out by this plan
            if any(starts[one.name] <= moment < starts[one.name] + span for one in taken):
                assert sum(is_out(one, moment) for one in members) <= most


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4))
def test_everybody_gets_a_slot_where_nothing_stands_against_it(count, most, variants):
    fleet = [node(f"n{n}", "abcd"[n % variants], busy_until=after(n * 7 % 90)) for n in range(count)]
    result = made(fleet, replace(FREE, max_out_count=most))
    assert result.left_out == ()
    event(f"{len(result.waves)} waves")


# windows --------------------------------------------------------------------------------------------------


def opened(window: str, zone: str, day: datetime, days: int = 1, **fields: object) -> list[str]:
    """Spans in UTC within some days."""
    limits = Limits(windows=(parse_window(window),), time_zone=zone, **fields)
    begin = int(day.replace(tzinfo=ZoneInfo(zone)).timestamp())
    spans = open_spans(limits, begin, begin + days * 86400)
    return ["-".join(datetime.fromtimestamp(at, UTC).strftime("%d.%H:%M") for at in span) for span in spans]


@pytest.mark.parametrize(
    ("window", "zone", "day", "wanted"),
    [
        ("20:00-06:00", "UTC", datetime(2026, 11, 16, 12), ["16.20:00-17.06:00"]),
        ("Mon 20:00-06:00", "UTC", datetime(2026, 11, 17), ["17.00:00-17.06:00"]),
        ("Sat,Sun 00:00-24:00", "UTC", datetime(2026, 11, 21), ["21.00:00-22.00:00"]),
        ("Mon-Fri 20:00-06:00", "Europe/Berlin", datetime(2026, 11, 16, 12), ["16.19:00-17.05:00"]),
        # clocks forward: 02:00 to 03:00 is skipped on 2026-03-29; the night is nine hours
        ("Sat 20:00-06:00", "Europe/Berlin", datetime(2026, 3, 28, 12), ["28.19:00-29.04:00"]),
        ("Sun 02:30-05:00", "Europe/Berlin", datetime(2026, 3, 29), ["29.01:30-29.03:00"]),
        # clocks back: 02:00 to 03:00 is there twice on 2026-10-25; eleven hours, or the shorter reading
        ("Sat 20:00-06:00", "Europe/Berlin", datetime(2026, 10, 24, 12), ["24.18:00-25.05:00"]),
        ("Sun 02:30-05:00", "Europe/Berlin", datetime(2026, 10, 25), ["25.01:30-25.04:00"]),
        ("Sat 22:00-02:30", "Europe/Berlin", datetime(2026, 10, 24, 12), ["24.20:00-25.00:30"]),
    ],
)  # fmt: skip
def test_windows_by_the_clock_on_the_wall(window, zone, day, wanted):
    assert opened(window, zone, day) == wanted


def test_exceptions_are_cut_out_with_the_nights_that_touch_them():
    closed = {"exceptions": (date(2026, 11, 17),)}
    wanted = ["16.20:00-17.00:00", "18.00:00-18.06:00", "18.20:00-19.00:00"]
    assert opened("20:00-06:00", "UTC", datetime(2026, 11, 16, 12), days=2.5, **closed) == wanted
    limits = Limits(**closed)
    begin = int(datetime(2026, 11, 16, tzinfo=UTC).timestamp())
    assert open_spans(limits, begin, begin + 3 * 86400) == (
        (begin, begin + 86400),
        (begin + 2 * 86400, begin + 3 * 86400),
    )


def test_the_next_start():
    openings = Openings([(0, 100), (250, 400)], 60, 60)
    assert [openings.next_start(moment) for moment in (0, 40, 60, 300, 340, 360)] == [
        0,
        40,
        300,
        300,
        340,
        None,
    ]


# speed ----------------------------------------------------------------------------------------------------


def test_ten_thousand_nodes_with_twenty_thousand_jobs():
    """bench/plan_bench.py says 0.2 s; the bound leaves room for a slow and busy machine."""
    fleet = as_nodes(parse_fleet(fleet_text(10_000, 20_000), BENCH_NOW))
    before = time.process_time()
    result = plan(fleet, Limits(max_out_percent=10.0, per_block=4), BENCH_NOW, SLOT)
    assert time.process_time() - before < 2.0
    assert isinstance(result, Plan)
    assert sum(len(wave.slots) for wave in result.waves) + len(result.left_out) == 10_000
    assert sum(len(wave.slots) for wave in result.waves) > 9_000


# the page -------------------------------------------------------------------------------------------------


def test_the_page_says_what_the_classes_are():
    page = (Path(__file__).parents[3] / "docs/planning.md").read_text()
    rows = dict(
        re.findall(r"^\| ([a-z][^|]*?) \| [^|]*\| ([^|]* \| [^|]* \| [^|]*?) \|$", page, re.MULTILINE)
    )
    kinds = [CHANGE_CLASSES[name] for name in rows["limit"].split(" | ")]
    each = [kind.limits for kind in kinds]
    assert rows["nodes of a partition out, percent"] == " | ".join(f"{one.max_out_percent:g}" for one in each)
    assert rows["the same as a number"] == " | ".join(str(one.max_out_count).lower() for one in each)
    assert rows["nodes of a topology block out"] == " | ".join(str(one.per_block).lower() for one in each)
    assert rows["growth of waves"] == " | ".join(f"{one.growth:g}" for one in each)
    assert rows["soak"] == " | ".join({3600: "1h", 1800: "30m", 600: "10m"}[one.soak_s] for one in each)
    assert rows["approvals that the plan asks for"] == " | ".join(str(kind.approvals) for kind in kinds)

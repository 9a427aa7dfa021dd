"""The plan file: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm_gsp.campaign.model import Heading, LeftOut, Limits, Plan, PlannedProfile, Slot, Wave, WaveKind
from slurm_gsp.campaign.planfile import PlanFileError, digest_of, dump_plan, load_plan, seal
from slurm_gsp.campaign.windows import parse_window, window_text

NOW = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)
PLAN = seal(
    Plan(
        heading=Heading(
            campaign="c1",
            manifest="2026-11",
            manifest_digest="sha256:00",
            change_class="routine",
            approvals=2,
            previous="2026-10",
            previous_digest="sha256:11",
            profiles=(PlannedProfile("h", "580.95.05", 8, "570.1"),),
        ),
        made=NOW,
        realign_s=1800,
        limits=Limits(
            deadline=NOW + timedelta(days=3),
            windows=(parse_window("Mon-Fri 20:00-06:00"),),
            exceptions=(date(2026, 12, 24),),
        ),
        waves=(
            Wave(0, WaveKind.CANARY, (Slot("n1", "h100", NOW, "h"),)),
            Wave(
                1,
                WaveKind.WAVE,
                (Slot("n2", "h100", NOW, "h", "rack1"), Slot("n10", "h100", NOW, "h", None, True)),
            ),
        ),
        left_out=(LeftOut("n3", "drained by others: „Lüfter“ (root)"),),
        unknown_driver=("n1",),
    )
)

TEXT = """{
 "approvals": 2,
 "campaign": "c1",
 "change_class": "routine",
 "digest": "%s",
 "format": "slurm-gsp plan 2",
 "left_out": [
  {"node": "n3", "why": "drained by others: \\u201eL\\u00fcfter\\u201c (root)"}
 ],
 "limits": {"ahead": true, "canary_per_variant": 1, "deadline": "2026-11-19T09:00:00Z", %s},
 "made": "2026-11-16T09:00:00Z",
 "manifest": "2026-11",
 "manifest_digest": "sha256:00",
 "previous": "2026-10",
 "previous_digest": "sha256:11",
 "profiles": [{"driver": "580.95.05", "gpus": 8, "name": "h", "previous_driver": "570.1"}],
 "realign_s": 1800,
 "unknown_driver": ["n1"],
 "waves": [
  {"kind": "canary", "number": 0, "slots": [
    {"node": "n1", "profile": "h", "start": "2026-11-16T09:00:00Z", "variant": "h100"}
  ]},
  {"kind": "wave", "number": 1, "slots": [
    {"block": "rack1", "node": "n2", "profile": "h", "start": "2026-11-16T09:00:00Z", "variant": "h100"},
    {"node": "n10", "profile": "h", "start": "2026-11-16T09:00:00Z", "take": true, "variant": "h100"}
  ]}
 ]
}
"""
LIMITS = (
    '"exceptions": ["2026-12-24"], "growth": 2.0, '
    '"max_out_count": null, "max_out_percent": 10.0, "per_block": null, "soak_s": 3600, '
    '"time_zone": "UTC", "windows": ["Mon-Fri 20:00-06:00"]'
)


def test_the_file_as_a_whole():
    assert dump_plan(PLAN) == TEXT % (PLAN.digest, LIMITS)
    assert load_plan(dump_plan(PLAN)) == PLAN


def test_the_layout_does_not_matter_but_the_content_does():
    data = json.loads(dump_plan(PLAN))
    assert load_plan(json.dumps(dict(reversed(data.items())), indent=7)) == PLAN


def test_an_altered_plan_is_refused():
    altered = dump_plan(PLAN).replace('"node": "n2"', '"node": "n4"')
    with pytest.raises(
        PlanFileError, match=r"^the plan was altered after it was made: it says sha256:\w+, its"
    ):
        load_plan(altered)
    with pytest.raises(ValueError, match="changed after it was made"):
        dump_plan(replace(PLAN, realign_s=0))


def forged(**changes: object) -> str:
    """A plan that was altered by somebody who knows how digests work."""
    data = json.loads(dump_plan(PLAN))
    del data["digest"]
    for key, value in changes.items():
        data[key] = value
    return json.dumps({**data, "digest": digest_of(data)})


SLOTS = [{"node": "n3", "profile": "h", "start": "2026-11-16T09:00:00Z", "variant": "h100"}]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "not a plan file: Expecting value"),
        ("[" * 100000, "not a plan file: "),
        ("[]", "its format is None, wanted 'slurm-gsp plan 2'"),
        ('{"format": "slurm-gsp plan 9"}', "its format is 'slurm-gsp plan 9'"),
        ('{"format": 1, "format": 2}', "not a plan file: a key is there twice"),
        ('{"format": NaN}', "not a plan file: NaN is no number"),
        (forged(extra=1), "ValueError: it holds what no plan holds"),
        (forged(approvals=True), "TypeError: True is no int"),
        (forged(realign_s="1800"), "TypeError: '1800' is no int"),
        (forged(made="2026-11-16T09:00:00"), "'2026-11-16T09:00:00' has no time zone"),
        (forged(made="soon"), "ValueError: "),
        (forged(waves={}), "TypeError: {} is no list"),
        (forged(waves=[{"kind": "x", "number": 0, "slots": []}]), "'x' is not a valid WaveKind"),
        (forged(waves=[{"kind": "wave", "number": 0, "slots": SLOTS}]), "ValueError: a node is in it twice"),
        (forged(limits={}), "KeyError: 'deadline'"),
    ],
)
def test_what_is_no_plan_is_refused(text, error):
    with pytest.raises(PlanFileError) as caught:
        load_plan(text)
    assert error in str(caught.value)


TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2090, 1, 1), timezones=st.just(UTC))


def clock(minutes: int) -> str:
    return f"{minutes // 60}:{minutes % 60:02}"


WINDOWS = st.builds(
    lambda days, opens, closes: parse_window(f"{','.join(days)} {clock(opens)}-{clock(closes)}"),
    st.lists(st.sampled_from(["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]), min_size=1),
    st.integers(0, 1439),
    st.integers(0, 1440),
)  # fmt: skip
NAMES = st.lists(TEXTS, unique=True, max_size=8)


@st.composite
def plans(draw):
    names = draw(NAMES)
    slots = tuple(Slot(name, draw(TEXTS), draw(TIMES)) for name in names[1:])
    wave = Wave(draw(st.integers(0, 9)), draw(st.sampled_from(WaveKind)), slots)
    limits = Limits(
        max_out_percent=draw(st.one_of(st.none(), st.floats(0.1, 100))),
        growth=draw(st.floats(1, 10)),
        deadline=draw(st.one_of(st.none(), TIMES)),
        windows=tuple(draw(st.lists(WINDOWS, max_size=3))),
        exceptions=tuple(draw(st.lists(st.dates(), max_size=2))),
    )
    left_out = tuple(LeftOut(name, draw(TEXTS)) for name in names[:1])
    return seal(
        replace(
            PLAN,
            heading=replace(PLAN.heading, campaign=draw(TEXTS)),
            made=draw(TIMES),
            limits=limits,
            waves=(wave,),
            left_out=left_out,
        )
    )


@settings(deadline=None)
@given(plans())
def test_what_is_written_is_what_is_read(plan):
    assert load_plan(dump_plan(plan)) == plan


@settings(deadline=None)
@given(plans(), st.data())
def test_no_changed_character_goes_unseen(plan, data):
    text = dump_plan(plan)
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.characters(min_codepoint=32, max_codepoint=126)) + text[at + 1 :]
    with suppress(PlanFileError):
        assert load_plan(changed) == plan  # a blank more or less between two values


@given(WINDOWS)
def test_windows_as_text(window):
    assert parse_window(window_text(window)) == window


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "not a window: ''; write it like 'Mon-Fri 20:00-06:00'"),
        ("Mon-Fri", "not a window: 'Mon-Fri'"),
        ("Mo 20:00-06:00", "no day of the week: 'mo' in 'Mo 20:00-06:00'"),
        ("Mon-Tue-Wed 20:00-06:00", "no day of the week: 'mon-tue-wed'"),
        ("20:60-06:00", "no time of day: '20:60'"),
        ("20:00-24:01", "no time of day: '24:01'"),
        ("24:00-06:00", "a window opens between 00:00 and 23:59"),
    ],
)
def test_what_is_no_window(text, error):
    with pytest.raises(ValueError) as caught:
        parse_window(text)
    assert error in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("daily 22:00-4:00", "Mon-Sun 22:00-04:00"),
        ("fri-mon 00:00-24:00", "Mon,Fri-Sun 00:00-24:00"),
        (" 22:00-04:00 ", "Mon-Sun 22:00-04:00"),
    ],
)
def test_how_windows_may_be_written(text, wanted):
    assert window_text(parse_window(text)) == wanted

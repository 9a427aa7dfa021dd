"""A node's record: what the site keeps there stays, ours is replaced or taken out, an old look shows."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.core.published import (
    BOOTED_KEY,
    MAX_LENGTH,
    SAME_BOOT,
    SEEN_KEY,
    TUPLE_KEYS,
    Told,
    is_of_boot,
    merge_published,
    read_published,
    read_told,
    time_text,
)

BOOTED = datetime(2026, 11, 21, 22, 0, 0, tzinfo=UTC)
VALUES = {"nvidia_driver": "580.95.05", SEEN_KEY: "boot-1", BOOTED_KEY: time_text(BOOTED)}

words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
ours = st.dictionaries(st.sampled_from(sorted(TUPLE_KEYS)), words)
theirs = st.dictionaries(
    words.filter(lambda key: key not in TUPLE_KEYS),
    st.one_of(words, st.integers(), st.booleans(), st.none(), st.dictionaries(words, words, max_size=2)),
    max_size=5,
)


@given(theirs, ours, ours)
def test_the_sites_object_stays_and_ours_is_replaced(site, before, after):
    text = json.dumps({**site, **before})
    merged = merge_published(text, after, TUPLE_KEYS - after.keys())
    assert json.loads(merged) == {**site, **after}


@given(words, ours, ours)
def test_the_sites_words_stay_before_ours(site, before, after):
    if read_published(site):
        return
    text = merge_published(site, before)
    merged = merge_published(text, after, TUPLE_KEYS - after.keys())
    assert read_published(merged) == after
    if site.strip() and not site.strip().startswith("{"):
        assert merged.startswith(site.strip())


@given(st.text(max_size=200))
def test_any_text_can_be_read(text):
    assert isinstance(read_published(text), dict)
    assert read_told([text], BOOTED) is None or SEEN_KEY in text


def test_what_is_gone_is_taken_out():
    text = merge_published(
        '{"rack": "7", "nvidia_driver": "1.2.3"}', {"nvidia_umd": "1.2.3"}, {"nvidia_driver"}
    )
    assert json.loads(text) == {"rack": "7", "nvidia_umd": "1.2.3"}


def test_a_record_has_an_end():
    with pytest.raises(ValueError, match=f"more than the {MAX_LENGTH}"):
        merge_published("x" * MAX_LENGTH, VALUES)


@pytest.mark.parametrize(
    ("apart", "current"),
    [
        (timedelta(), True),
        (SAME_BOOT, True),
        (-SAME_BOOT, True),
        (2 * SAME_BOOT, False),
        (-2 * SAME_BOOT, False),
    ],
)
def test_slurms_boot_time_tells_whether_a_look_is_of_this_boot(apart, current):
    assert is_of_boot(VALUES[BOOTED_KEY], BOOTED + apart) is current
    assert read_told([json.dumps(VALUES)], BOOTED + apart) == Told(VALUES, current)


@pytest.mark.parametrize("text", ["", "soon", "2026-11-21T22:00:00"], ids=["none", "a word", "no zone"])
def test_without_a_boot_time_a_look_is_old(text):
    assert not is_of_boot(text, BOOTED)


def test_a_node_that_slurm_has_not_seen_boot_has_said_nothing_new():
    assert read_told([json.dumps(VALUES)], None) == Told(VALUES, current=False)


def test_a_field_that_is_published_into_no_more_does_not_count():
    old = json.dumps({**VALUES, "nvidia_driver": "570.172.08", BOOTED_KEY: "2026-11-01T00:00:00Z"})
    fresh = f"rack 7 gsp:{json.dumps(VALUES)}"
    assert read_told([old, fresh], BOOTED) == read_told([fresh, old], BOOTED) == Told(VALUES, current=True)
    assert read_told(["", "rack 7", '{"nvidia_driver":"1.2.3"}'], BOOTED) is None

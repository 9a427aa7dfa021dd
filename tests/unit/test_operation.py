"""What travels between a campaign and a node: the Reason there, the published values back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.core.operation import Kind, Operation, is_campaigns, parse_operation, reason_fits
from slurm_gsp.core.published import (
    MAX_LENGTH,
    Level,
    Proof,
    Result,
    merge_published,
    proof_in,
    read_published,
)
from slurm_gsp.slurm.client import check_reason

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}", fullmatch=True)
HEX = st.text("0123456789abcdef", min_size=12, max_size=12)


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    manifest = draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,20}", fullmatch=True))
    plan = draw(st.one_of(st.just(""), st.text("0123456789abcdef", min_size=8, max_size=8)))
    return Operation(
        draw(st.sampled_from(Kind)), draw(NAMES), manifest, draw(HEX), draw(st.integers(1, 99)), plan
    )


@given(operations(), st.sampled_from(["", " : reboot issued", " : reboot issued : reboot complete"]))
def test_a_reason_is_read_as_it_was_written_whatever_slurm_appends(operation, appended):
    assert parse_operation(operation.reason + appended) == operation
    assert is_campaigns(operation.reason + appended)
    if reason_fits(operation.campaign, operation.manifest):
        check_reason(operation.reason)


def test_a_reason_as_a_whole():
    operation = Operation(Kind.ROLLBACK, "2026-11", "2026-10", "0123456789ab", 2, "cafe0123")
    assert operation.reason == "gsp:rollback 2026-11 to=2026-10@0123456789ab try=2 id=cafe0123"
    assert operation.key == "2026-11/rollback/2/cafe0123"
    assert operation.target == "2026-10@0123456789ab"


def test_by_hand_the_kind_and_a_name_are_enough():
    assert parse_operation("gsp:realign fix") == Operation(Kind.REALIGN, "fix")
    assert parse_operation("gsp:realign fix : reboot issued") == Operation(Kind.REALIGN, "fix")
    assert Operation(Kind.REALIGN, "fix").key == "fix/realign/1"


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "fan",
        "gsp:realign",
        "gsp:realigned c1",
        "gsp:umd-skew kmd=1",
        "gsp:realign-failed step=1 x",
        "xgsp:realign c1",
    ],
)
def test_what_asks_for_no_operation(reason):
    assert parse_operation(reason) is None


def test_a_target_that_is_cut_is_no_target():
    """A Reason that somebody shortened must not pass for one without a target."""
    assert parse_operation("gsp:realign c1 to=2026-11@0123") is None


@pytest.mark.parametrize(
    ("reason", "campaigns"),
    [
        ("gsp:realign c1 to=m@0123456789ab try=1", True),
        ("gsp:rollback c1", True),
        ("gsp:realign-failed step=3 install", True),
        ("gsp:escalated c1 vbios", True),
        ("gsp:umd-skew kmd=1 umd=2", False),
        ("gsp:fw-missing", False),
        ("fan", False),
        ("", False),
    ],
)
def test_whose_hands_a_node_is_in(reason, campaigns):
    assert is_campaigns(reason) is campaigns


def test_names_that_are_too_long_together():
    assert reason_fits("c" * 34, "m" * 34) and not reason_fits("c" * 36, "m" * 36)


PROOF = Proof(
    "c1/realign/1/cafe0123",
    Level.HARDWARE,
    Result.FAIL,
    "boot",
    "m@0",
    ("umd-skew", "drift"),
    "two\nlines",
    "7",
)


def test_a_proof_comes_back_from_a_record():
    text = merge_published("", PROOF.published())
    assert proof_in(read_published(text)) == Proof(**{
        **{name: getattr(PROOF, name) for name in PROOF.__slots__},
        "why": "two-lines",
    })


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"gsp_proof": "quick:pass"},
        {"gsp_proof": "quick", "gsp_operation": "o", "gsp_boot": "b"},
        {"gsp_proof": "deep:pass", "gsp_operation": "o", "gsp_boot": "b"},
        {"gsp_proof": "quick:maybe", "gsp_operation": "o", "gsp_boot": "b"},
    ],
)
def test_what_is_no_proof(values):
    assert proof_in(values) is None


SITES = {
    "nothing": ("", '{"a":"1"}'),
    "an object of the site": ('{"rack":{"x":1},"a":"0"}', '{"rack":{"x":1},"a":"1"}'),
    "words of the site": ("rack 7, ask Bob", 'rack 7, ask Bob gsp:{"a":"1"}'),
    "words, and ours behind them": ('rack 7 gsp:{"a":"0","b":"2"}', 'rack 7 gsp:{"a":"1","b":"2"}'),
    "an object that is broken": ('{"rack": ', '{"rack": gsp:{"a":"1"}'),
    "a list": ("[1, 2]", '[1, 2] gsp:{"a":"1"}'),
    "words that look like ours": ("agsp:{}", 'agsp:{} gsp:{"a":"1"}'),
}


@pytest.mark.parametrize(("before", "after"), SITES.values(), ids=SITES)
def test_what_the_site_keeps_stays(before, after):
    assert merge_published(before, {"a": "1"}) == after
    assert read_published(after)["a"] == "1"


@given(st.text(max_size=200), st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4))
def test_merging_keeps_any_text_and_is_read_back(text, values):
    merged = merge_published(text, values)
    found = read_published(merged)
    assert all(found[key] == value for key, value in values.items())
    assert merge_published(merged, values) == merged
    site = text.strip()
    try:
        is_object = isinstance(json.loads(site), dict) and site.startswith("{")
    except ValueError:
        is_object = False
    if values and not is_object and " gsp:{" not in f" {site}":
        assert merged.startswith(site)


def test_a_record_that_would_be_too_long_is_refused():
    with pytest.raises(ValueError, match=f"more than the {MAX_LENGTH}"):
        merge_published("x" * MAX_LENGTH, {"a": "1"})

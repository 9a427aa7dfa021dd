"""The Reason and who owns one; the repair ladder."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.core.finding import FAULTS, Clue, Finding, Remedy
from slurm_gsp.core.ladder import climb
from slurm_gsp.core.reason import MAX_LENGTH, code_of, format_reason, is_ours

LADDER = [Remedy.RELOAD, Remedy.REBOOT, Remedy.REALIGN, Remedy.ROLLBACK, Remedy.ESCALATE]


def finding(*facts, code="umd-skew"):
    return Finding(code, "summary", (Clue("text", "source"),), Remedy.REALIGN, facts)


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ((), "gsp:umd-skew"),
        ((("kmd", "580.65.06"), ("umd", "580.95.05")), "gsp:umd-skew kmd=580.65.06 umd=580.95.05"),
        ((("why", "a b\nc\"d\\e'f"),), "gsp:umd-skew why=a-b-c-d-e-f"),
        ((("why", "café\x00\t\u202e"),), "gsp:umd-skew why=caf----"),
        ((("why", ""),), "gsp:umd-skew why="),
        ((("long", "x" * 200),), "gsp:umd-skew"),
        ((("a", "1"), ("long", "x" * 200), ("b", "2")), "gsp:umd-skew a=1"),
    ],
)
def test_reason(facts, reason):
    assert format_reason(finding(*facts)) == reason


def test_reason_may_be_as_long_as_slurm_shows():
    room = MAX_LENGTH - len("gsp:umd-skew a=")
    assert len(format_reason(finding(("a", "x" * room)))) == MAX_LENGTH
    assert format_reason(finding(("a", "x" * (room + 1)))) == "gsp:umd-skew"


@given(
    st.sampled_from(sorted(FAULTS)),
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.text(max_size=80)), max_size=8),
)
def test_any_reason_is_one_line_of_printable_ascii(code, facts):
    reason = format_reason(finding(*facts, code=code))
    assert reason.startswith(f"gsp:{code}")
    assert len(reason) <= 120
    assert all(" " <= char <= "~" and char not in "\"'\\" for char in reason)
    assert code_of(reason) == code and is_ours(reason)


@pytest.mark.parametrize("code", sorted(FAULTS))
def test_default_sinfo_shows_the_whole_code(code):
    assert len(f"gsp:{code}") <= 20


@pytest.mark.parametrize(
    ("reason", "ours", "code"),
    [
        ("gsp:umd-skew kmd=1 umd=2", True, "umd-skew"),
        ("gsp:umd-skew", True, "umd-skew"),
        ("gsp:realign c1 : reboot issued : reboot complete", True, "realign"),
        ("gsp:", True, ""),
        ("", False, None),
        ("none", False, None),
        ("Not responding", False, None),
        ("bad disk, see gsp:umd-skew", False, None),
        (" gsp:umd-skew", False, None),
        ("GSP:umd-skew", False, None),
        ("gsp driver mismatch", False, None),
    ],
)
def test_whose_reason_it_is(reason, ours, code):
    assert (is_ours(reason), code_of(reason)) == (ours, code)


@pytest.mark.parametrize(
    ("asked", "tried", "remedy"),
    [
        (Remedy.RELOAD, [], Remedy.RELOAD),
        (Remedy.RELOAD, ["reload"], Remedy.REBOOT),
        (Remedy.RELOAD, ["reboot"], Remedy.REALIGN),
        (Remedy.RELOAD, ["reload", "reboot"], Remedy.REALIGN),
        (Remedy.RELOAD, ["reload", "reboot", "realign"], Remedy.ROLLBACK),
        (Remedy.REBOOT, [], Remedy.REBOOT),
        (Remedy.REBOOT, ["reload"], Remedy.REBOOT),
        (Remedy.REBOOT, ["reboot"], Remedy.REALIGN),
        (Remedy.REALIGN, ["reload", "reboot"], Remedy.REALIGN),
        (Remedy.REALIGN, ["realign"], Remedy.ROLLBACK),
        (Remedy.REALIGN, ["realign", "rollback"], Remedy.ESCALATE),
        (Remedy.REALIGN, ["rollback"], Remedy.ESCALATE),
        (Remedy.ROLLBACK, [], Remedy.ROLLBACK),
        (Remedy.ESCALATE, ["realign", "rollback"], Remedy.ESCALATE),
        (Remedy.REALIGN, ["escalate"], Remedy.ESCALATE),
        (Remedy.REALIGN, ["prayer", ""], Remedy.REALIGN),
        (Remedy.NONE, ["reload", "realign"], Remedy.NONE),
        (Remedy.ROUTE_SIGNING, ["reload", "realign"], Remedy.ROUTE_SIGNING),
        (Remedy.ROUTE_GPU_MISSING, ["rollback"], Remedy.ROUTE_GPU_MISSING),
    ],
)
def test_ladder(asked, tried, remedy):
    assert climb(asked, tried) is remedy


@given(st.sampled_from(LADDER), st.sets(st.sampled_from([remedy.value for remedy in LADDER])))
def test_ladder_never_steps_down_and_never_asks_twice(asked, tried):
    remedy = climb(asked, tried)
    assert LADDER.index(remedy) >= LADDER.index(asked)
    assert remedy is Remedy.ESCALATE or remedy.value not in tried


def test_ladder_ends_in_an_escalation():
    tried, asked = [], []
    while not asked or asked[-1] is not Remedy.ESCALATE:
        asked.append(climb(Remedy.RELOAD, tried))
        tried.append(asked[-1].value)
    assert asked == LADDER

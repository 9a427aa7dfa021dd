"""How states are read, and what we may write, whichever backend is used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.slurm.client import NodeState, check_node_name, check_reason, parse_states


def node(states: str, reason: str = "") -> NodeState:
    return NodeState(
        name="n1",
        states=parse_states(states),
        reason=reason,
        reason_user="",
        reason_time="",
        partitions=(),
        reservation="",
        comment="",
        extra="",
        boot_time="",
    )


NOTHING, DRAINED, REBOOTING, MAINTENANCE = "", "drained", "rebooting", "in_maintenance"

STATES = [
    # scontrol show node
    ("IDLE", "IDLE", NOTHING),
    ("MIXED+PLANNED", "MIXED PLANNED", NOTHING),
    ("ALLOCATED", "ALLOCATED", NOTHING),
    ("IDLE*", "IDLE NOT_RESPONDING", NOTHING),
    ("IDLE+DRAIN", "IDLE DRAIN", DRAINED),
    ("IDLE*+DRAIN", "IDLE NOT_RESPONDING DRAIN", DRAINED),
    ("MIXED+DRAIN", "MIXED DRAIN", DRAINED),
    ("IDLE+DRAIN+NOT_RESPONDING", "IDLE DRAIN NOT_RESPONDING", DRAINED),
    ("DOWN", "DOWN", DRAINED),
    ("DOWN*", "DOWN NOT_RESPONDING", DRAINED),
    ("DOWN+DRAIN+INVALID_REG", "DOWN DRAIN INVALID_REG", DRAINED),
    ("ERROR", "ERROR", DRAINED),
    ("IDLE+FAIL", "IDLE FAIL", DRAINED),
    ("UNKNOWN*", "UNKNOWN NOT_RESPONDING", NOTHING),
    ("FUTURE", "FUTURE", NOTHING),
    ("IDLE+CLOUD+POWERED_DOWN", "IDLE CLOUD POWERED_DOWN", NOTHING),
    ("IDLE+CLOUD+POWERING_UP", "IDLE CLOUD POWERING_UP", NOTHING),
    ("MIXED+COMPLETING", "MIXED COMPLETING", NOTHING),
    ("IDLE+DRAIN+REBOOT_REQUESTED", "IDLE DRAIN REBOOT_REQUESTED", f"{DRAINED} {REBOOTING}"),
    ("IDLE+REBOOT_REQUESTED", "IDLE REBOOT_REQUESTED", REBOOTING),
    ("DOWN+DRAIN+REBOOT_ISSUED", "DOWN DRAIN REBOOT_ISSUED", f"{DRAINED} {REBOOTING}"),
    ("IDLE+MAINTENANCE+RESERVED", "IDLE MAINTENANCE RESERVED", MAINTENANCE),
    ("IDLE+RESERVED", "IDLE RESERVED", NOTHING),
    (
        "DOWN+DRAIN+MAINTENANCE+REBOOT_ISSUED+RESERVED",
        "DOWN DRAIN MAINTENANCE REBOOT_ISSUED RESERVED",
        f"{DRAINED} {REBOOTING} {MAINTENANCE}",
    ),
    ("IDLE+DRAIN+A_NEW_FLAG", "IDLE DRAIN A_NEW_FLAG", DRAINED),
    # scontrol of older releases
    ("REBOOT^", "REBOOT_ISSUED", REBOOTING),
    ("IDLE@", "IDLE REBOOT_REQUESTED", REBOOTING),
    ("MAINT", "MAINTENANCE", MAINTENANCE),
    # sinfo, long (%T) and compact (%t), and StateComplete
    ("idle", "IDLE", NOTHING),
    ("idle~", "IDLE POWERED_DOWN", NOTHING),
    ("allocated+drain", "ALLOCATED DRAIN", DRAINED),
    ("drained", "IDLE DRAIN", DRAINED),
    ("drained*", "IDLE DRAIN NOT_RESPONDING", DRAINED),
    ("draining", "ALLOCATED DRAIN", DRAINED),
    ("draining@", "ALLOCATED DRAIN REBOOT_REQUESTED", f"{DRAINED} {REBOOTING}"),
    ("drng", "ALLOCATED DRAIN", DRAINED),
    ("drain", "DRAIN", DRAINED),
    ("drain*", "DRAIN NOT_RESPONDING", DRAINED),
    ("down$", "DOWN MAINTENANCE", f"{DRAINED} {MAINTENANCE}"),
    ("down*$", "DOWN NOT_RESPONDING MAINTENANCE", f"{DRAINED} {MAINTENANCE}"),
    ("fail", "FAIL", DRAINED),
    ("failing", "ALLOCATED FAIL", DRAINED),
    ("failg", "ALLOCATED FAIL", DRAINED),
    ("reboot^", "REBOOT_ISSUED", REBOOTING),
    ("reboot", "REBOOT_ISSUED", REBOOTING),
    ("boot^", "REBOOT_ISSUED", REBOOTING),
    ("maint", "MAINTENANCE", MAINTENANCE),
    ("plnd", "PLANNED", NOTHING),
    ("planned", "PLANNED", NOTHING),
    ("mix-", "MIXED PLANNED", NOTHING),
    ("mixed-", "MIXED PLANNED", NOTHING),
    ("alloc", "ALLOCATED", NOTHING),
    ("comp", "COMPLETING", NOTHING),
    ("resv", "RESERVED", NOTHING),
    ("inval", "INVALID_REG", NOTHING),
    ("unk*", "UNKNOWN NOT_RESPONDING", NOTHING),
    (
        "down+drain+maintenance+reboot_issued+reserved",
        "DOWN DRAIN MAINTENANCE REBOOT_ISSUED RESERVED",
        f"{DRAINED} {REBOOTING} {MAINTENANCE}",
    ),
    ("", "", NOTHING),
]


@pytest.mark.parametrize(("text", "flags", "properties"), STATES, ids=[row[0] or "empty" for row in STATES])
def test_a_state_text(text: str, flags: str, properties: str) -> None:
    state = node(text)
    assert state.states == frozenset(flags.split())
    held = [name for name in (DRAINED, REBOOTING, MAINTENANCE) if getattr(state, name)]
    assert held == properties.split()


def test_a_reason_on_a_node_in_service_means_nothing() -> None:
    assert not node("IDLE", reason="gsp:umd-skew kmd=1 umd=2").drained


@given(st.text())
def test_any_state_text_is_read(text: str) -> None:
    assert all(flag and flag == flag.strip() for flag in parse_states(text))


@pytest.mark.parametrize(
    "text", ["gsp:umd-skew kmd=580.65.06 umd=580.95.05", "x", "it's = [a] #;$(id)", "x" * 120]
)
def test_a_reason_that_slurm_keeps(text: str) -> None:
    check_reason(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs text"),
        ("  ", "needs text"),
        (" x", "without blanks around it"),
        ("x\n", "without blanks around it"),
        ("x" * 121, "at most 120 characters, this one 121"),
        ("a\nb", "one line of printable ASCII"),
        ("a\tb", "one line of printable ASCII"),
        ("a\x1b[0m", "one line of printable ASCII"),
        ("caf\N{LATIN SMALL LETTER E WITH ACUTE}", "one line of printable ASCII"),
        ('a"b', "no double quote or backslash"),
        ("a\\b", "no double quote or backslash"),
    ],
)
def test_a_reason_that_slurm_would_change(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        check_reason(text)


@pytest.mark.parametrize("name", ["n1", "gpu-a.example.org", "9to5", "r1_n2"])
def test_the_name_of_a_node(name: str) -> None:
    check_node_name(name)


@pytest.mark.parametrize(
    "name", ["", "n[1-4]", "n1,n2", "ALL", "all", "-n", "n1 n2", "n1\n", 'n"1', "n1;quit"]
)
def test_what_is_not_one_node(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of one node"):
        check_node_name(name)

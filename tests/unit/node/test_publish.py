"""What a node puts into its own record: merged, once, and only where something changed."""

import json
from dataclasses import dataclass, field, replace

import pytest

from slurm_gsp.core.published import Level, Proof, Result, proof_in, read_published
from slurm_gsp.node.publish import publish, values_of
from slurm_gsp.slurm.client import ControllerAway, NodeState

PROOF = Proof("c1/realign/1", Level.QUICK, Result.PASS, "boot-2", "2026-11@0123456789ab")
VALUES = values_of(PROOF, "570.195.03")


EMPTY = NodeState("n1", frozenset({"IDLE"}), "", "", "", (), "", "", "", "")


@dataclass
class FakeSlurm:
    """One node's record, and what was asked of it."""

    state: NodeState = EMPTY
    away: bool = False
    calls: list[str] = field(default_factory=list)

    def node(self, name):
        assert name == "n1"
        self.calls.append("node")
        if self.away:
            raise ControllerAway("no answer")
        return self.state

    def annotate(self, name, field, text):
        self.calls.append(f"annotate {field}")
        self.state = replace(self.state, **{field: text})


def test_values():
    assert VALUES == {
        "nvidia_driver": "570.195.03",
        "gsp_operation": "c1/realign/1",
        "gsp_proof": "quick:pass",
        "gsp_boot": "boot-2",
        "gsp_pin": "2026-11@0123456789ab",
        "gsp_codes": "",
        "gsp_why": "",
        "gsp_job": "",
    }
    assert values_of(PROOF, None)["nvidia_driver"] == ""


@pytest.mark.parametrize("where", ["extra", "comment"])
def test_once_and_not_again(where):
    slurm = FakeSlurm()
    assert [publish(slurm, "n1", where, VALUES) for _ in range(3)] == [True, False, False]
    assert slurm.calls == ["node", f"annotate {where}", "node", "node"]
    assert proof_in(read_published(getattr(slurm.state, where))) == PROOF


def test_a_change_is_told():
    slurm = FakeSlurm()
    publish(slurm, "n1", "extra", VALUES)
    worse = replace(PROOF, result=Result.FAIL, codes=("umd-skew", "drift"))
    assert publish(slurm, "n1", "extra", values_of(worse, "570.195.03"))
    assert proof_in(read_published(slurm.state.extra)) == worse


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        ('{"rack": "7", "power": {"feed": 2}}', {"rack": "7", "power": {"feed": 2}}),
        ("", {}),
    ],
)
def test_what_the_site_keeps_in_json_stays(before, kept):
    slurm = FakeSlurm(replace(EMPTY, extra=before))
    publish(slurm, "n1", "extra", VALUES)
    assert json.loads(slurm.state.extra) == {**kept, **VALUES}


def test_what_the_site_keeps_in_words_stays_before_ours():
    slurm = FakeSlurm(replace(EMPTY, comment="rack 7 = left [x]"))
    publish(slurm, "n1", "comment", VALUES)
    publish(slurm, "n1", "comment", {**VALUES, "gsp_boot": "boot-3"})
    words, _, ours = slurm.state.comment.partition(" gsp:")
    assert (words, json.loads(ours)["gsp_boot"]) == ("rack 7 = left [x]", "boot-3")


def test_nothing_is_told_where_it_is_switched_off():
    slurm = FakeSlurm()
    assert (publish(slurm, "n1", "off", VALUES), slurm.calls) == (False, [])


def test_a_record_without_room_is_left():
    slurm = FakeSlurm(replace(EMPTY, extra="x" * 2000))
    with pytest.raises(ValueError, match="more than the 2048"):
        publish(slurm, "n1", "extra", VALUES)
    assert slurm.calls == ["node"]


def test_a_controller_that_is_away_is_the_callers_to_handle():
    with pytest.raises(ControllerAway):
        publish(FakeSlurm(away=True), "n1", "extra", VALUES)

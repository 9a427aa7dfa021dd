"""What a look at this node starts from: its configuration first, then its pin."""

import pytest

from slurm_gsp.config import Config, Node, Pin
from slurm_gsp.core.evidence import Pin as Wanted
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.reading import Known
from slurm_gsp.node import journal as journals
from slurm_gsp.this_node import STATE, expectation, node_name

PINNED = Pinned("2026-11", "0123456789ab", "h100", "570.195.03", "open", 8, False)


@pytest.fixture
def state(tmp_path):
    journals.save_pin(journals.Places(tmp_path), PINNED)
    return tmp_path


def looked_for(config, state):
    found = expectation(config, "n1", state)
    return found.pin, found.expected_gpus


def test_without_a_pin_the_configuration_says_it_all(tmp_path):
    config = Config(node=Node(expected_gpus=4), pin=Pin(driver="580.95.05"))
    assert looked_for(Config(), tmp_path) == (Wanted(None, None, "configuration"), None)
    assert looked_for(config, tmp_path) == (
        Wanted("580.95.05", None, "configuration"),
        Known(4, "configuration"),
    )


def test_the_pin_fills_what_the_configuration_leaves_open(state):
    source = f"{state}/pin.json"
    assert looked_for(Config(), state) == (Wanted("570.195.03", "open", source), Known(8, source))


def test_the_configuration_wins(state):
    config = Config(node=Node(expected_gpus=4), pin=Pin(flavour="proprietary"))
    assert looked_for(config, state) == (
        Wanted(None, "proprietary", "configuration"),
        Known(4, "configuration"),
    )


@pytest.mark.parametrize("text", ["", "[]", '{"driver": "570"}'])
def test_a_damaged_pin_is_none(state, text):
    (state / "pin.json").write_text(text)
    assert looked_for(Config(), state) == (Wanted(None, None, "configuration"), None)


def test_the_pin_is_where_a_realignment_leaves_it():
    assert STATE == journals.STATE


def test_slurmds_name_of_this_node(monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "gpu01")
    assert node_name() == "gpu01"

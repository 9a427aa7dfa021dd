"""Folded node lists against ClusterShell's."""

from __future__ import annotations

import re

import pytest
from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.fleet.fold import fold
from slurm_gsp.parse.gres import expand_hostlist

names = st.from_regex(
    r"(gpu|n|rack1-gpu|a\.b-|)[0-9]{1,4}(-ib|\.example|)", fullmatch=True
) | st.sampled_from([
    "login",
    "r1n2",
    "r01n02",
    "n1b2c3",
    "n12345678901234567890",
    "x-1.y",
    "0",
    "00",
    "n0",
    "n00",
])


def nodeset(text: str) -> set[str]:
    return set(NodeSet(text, resolver=RESOLVER_NOGROUP))


@given(st.sets(names))
def test_expanded_it_is_the_same_nodes(given_names: set[str]) -> None:
    folded = fold(given_names)
    assert nodeset(folded) == given_names
    assert set(expand_hostlist(folded)) == given_names
    assert not re.search(r"\][^,]", folded)


@given(st.sets(st.integers(0, 300)), st.sampled_from(["gpu{}", "gpu{:03}", "r1-gpu{:04}"]))
def test_of_one_kind_of_name_it_is_what_clustershell_writes(numbers: set[int], form: str) -> None:
    listed = [form.format(number) for number in numbers]
    assert fold(listed) == str(NodeSet.fromlist(listed, resolver=RESOLVER_NOGROUP))


@pytest.mark.parametrize(
    ("given_names", "folded"),
    [
        ([], ""),
        (["n1"], "n1"),
        (["n3", "n1", "n2", "n2"], "n[1-3]"),
        (["n9", "n10", "n11"], "n[9-11]"),
        (["n09", "n10", "n11"], "n[09-11]"),
        (["n1", "n01"], "n01,n1"),
        (["n1-ib", "n2-ib"], "n1-ib,n2-ib"),
        (["login", "gpu1", "gpu3"], "gpu[1,3],login"),
        (["r1n1", "r1n2", "r2n1"], "r1n[1-2],r2n1"),
    ],
)
def test_examples(given_names: list[str], folded: str) -> None:
    assert fold(given_names) == folded

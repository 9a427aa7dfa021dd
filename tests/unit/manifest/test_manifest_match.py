"""Which profile is for which node, and the nodes in scontrol's text."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.manifest.match import Assignment, NodeFacts, Overlap, assign, assign_by, folded, has_gpus
from slurm_gsp.manifest.model import Manifest, Matcher, Packages, Profile
from slurm_gsp.manifest.nodes import parse_nodes
from slurm_gsp.parse import ParseError

RECORDED = sorted((Path(__file__).parents[1] / "slurm" / "fixtures").glob("*-all.txt"))
NODE = NodeFacts("gpu07", ("gpu", "long"), ("h100", "ib"), ("gpu:h100:4", "gpu:h100:4", "shard:64"))

MATCHES = [
    (Matcher(), False),
    (Matcher(nodes="gpu[01-16]"), True),
    (Matcher(nodes="gpu[1-16]"), False),
    (Matcher(nodes="other,gpu07"), True),
    (Matcher(partitions=("viz", "long")), True),
    (Matcher(partitions=("viz",)), False),
    (Matcher(features=("h100",)), True),
    (Matcher(features=("h1",)), False),
    (Matcher(gres=("gpu",)), True),
    (Matcher(gres=("gpu:h100",)), True),
    (Matcher(gres=("gpu:h100:8",)), True),
    (Matcher(gres=("gpu:8",)), True),
    (Matcher(gres=("gpu:4",)), False),
    (Matcher(gres=("gpu:a100",)), False),
    (Matcher(gres=("gpu:a100", "shard")), True),
    (Matcher(gres=("mps",)), False),
    (Matcher(nodes="gpu[01-16]", features=("ib",), gres=("gpu:h100",), partitions=("gpu",)), True),
    (Matcher(nodes="gpu[01-16]", features=("roce",)), False),
]


@pytest.mark.parametrize(("matcher", "fits"), MATCHES)
def test_a_matcher(matcher: Matcher, fits: bool) -> None:
    found = assign_by({"x": matcher}, (NODE,))
    assert found == (Assignment((("gpu07", "x"),)) if fits else Assignment((), ("gpu07",)))


def manifest(**matchers: Matcher) -> Manifest:
    profiles = tuple(
        Profile(name, matcher, "570.195.03", "open", 8, False, Packages())
        for name, matcher in matchers.items()
    )
    return Manifest("m", None, datetime(2026, 11, 21, tzinfo=UTC), profiles)


def test_a_fleet() -> None:
    nodes = (
        NodeFacts("n3", gres=("gpu:2",)),
        NodeFacts("n2", partitions=("b",)),
        NodeFacts("n1", partitions=("a", "b")),
        NodeFacts("n0", partitions=("a",)),
    )
    found = assign(manifest(y=Matcher(partitions=("b",)), x=Matcher(partitions=("a",))), nodes)
    assert found == Assignment((("n0", "x"), ("n2", "y")), ("n3",), (Overlap("n1", ("y", "x")),))
    assert [found.profile_of(name) for name in ("n0", "n1", "n3")] == ["x", None, None]
    assert found.nodes_of("y") == ("n2",)


NAMES = st.sampled_from(["n1", "n2", "n10", "m1"])
FACTS = st.builds(
    NodeFacts,
    NAMES,
    st.lists(st.sampled_from("ab"), max_size=2).map(tuple),
    st.lists(st.sampled_from("fg"), max_size=2).map(tuple),
    st.lists(st.sampled_from(["gpu:2", "gpu:h100:8", "gpu", "shard:1K"]), max_size=2).map(tuple),
)
MATCHERS = st.builds(
    Matcher,
    st.sampled_from(["", "n[1-5]", "m1,n10"]),
    st.lists(st.sampled_from("ab"), max_size=2, unique=True).map(tuple),
    st.lists(st.sampled_from("fg"), max_size=1).map(tuple),
    st.lists(st.sampled_from(["gpu", "gpu:h100", "gpu:2"]), max_size=1).map(tuple),
)


@given(st.lists(FACTS, unique_by=lambda node: node.name), st.lists(MATCHERS, max_size=3), st.randoms())
def test_every_node_is_there_once_whatever_the_order(nodes, matchers, chance) -> None:
    profiles = {f"p{index}": matcher for index, matcher in enumerate(matchers)}
    found = assign_by(profiles, nodes)
    names = [*(name for name, _ in found.by_node), *found.unmatched, *(one.node for one in found.overlaps)]
    assert sorted(names) == sorted(node.name for node in nodes)
    chance.shuffle(nodes)
    assert assign_by(profiles, nodes) == found


def test_ten_thousand_nodes() -> None:
    nodes = [NodeFacts(f"gpu{number:05}", ("gpu",), (), ("gpu:h100:8",)) for number in range(10_000)]
    found = assign(manifest(x=Matcher(nodes="gpu[00000-09999]", gres=("gpu:h100:8",))), nodes)
    assert len(found.by_node) == 10_000
    assert folded(found.nodes_of("x")) == "gpu[00000-09999]"


def test_names_are_folded_and_never_unfolded() -> None:
    assert folded(["n2", "n1", "n1", "login"]) == "login,n[1-2]"
    assert folded(["n[1-999999999999]", "@all"]) == "@all,n[1-999999999999]"
    assert folded([]) == ""


@pytest.mark.parametrize(
    ("gres", "has"), [((), False), (("shard:8",), False), (("gpu:0",), False), (("gpu",), True)]
)
def test_a_node_with_gpus(gres: tuple[str, ...], has: bool) -> None:
    assert has_gpus(NodeFacts("n", gres=gres)) is has


# --- scontrol's text ----------------------------------------------------------------------------------------

LINE = (
    "NodeName=n1 Arch=x86_64 AvailableFeatures=h100,ib ActiveFeatures=ib "
    "Gres=gpu:h100:4(S:0),gpu:h100:4(S:1,3) OS=Linux 6.1.0 #1 SMP State=IDLE Partitions=gpu,long  "
    "Reason=x Gres=no:1 [root@2026-01-02T03:04:05] "
    "Comment=AvailableFeatures=no\n"
)


def test_a_node_is_read() -> None:
    expected = NodeFacts("n1", ("gpu", "long"), ("h100", "ib"), ("gpu:h100:4", "gpu:h100:4"))
    assert parse_nodes(LINE) == (expected,)
    assert parse_nodes(LINE.replace(" State=", "\n   State=").replace(" Gres=gpu", "\n   Gres=gpu")) == (
        expected,
    )


def test_a_node_without_anything() -> None:
    text = "NodeName=n1 AvailableFeatures=(null) ActiveFeatures=(null) Gres=(null) State=IDLE\n"
    assert parse_nodes(text) == (NodeFacts("n1"),)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_every_recorded_release_is_read(path: Path) -> None:
    found = parse_nodes(path.read_text(encoding="utf-8"))
    assert found == tuple(NodeFacts(f"n{n}", ("main",), (), ("gpu:h100:8",)) for n in range(1, 5))


def test_there_are_recorded_releases() -> None:
    assert len(RECORDED) >= 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1: no node in it; give what `scontrol -o show node` says"),
        ("\nn1\n", "2: not a node: 'n1'; give what `scontrol -o show node` says"),
        ("NodeName=n1 Arch=x\n", "1: not a node as scontrol writes it: 'NodeName=n1 Arch=x'"),
        (
            "NodeName=n1 State=IDLE\nNodeName=n1 State=DOWN\n",
            "2: node n1 is there twice; give each node once",
        ),
    ],
)
def test_what_are_no_nodes(text: str, told: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse_nodes(text)
    assert str(caught.value) == told


@given(
    st.text()
    | st.lists(st.sampled_from([LINE, "NodeName=", "a", " ", "\n", "Gres=", "(", "State=IDLE"])).map("".join)
)
def test_any_text_is_nodes_or_a_parse_error(text: str) -> None:
    try:
        assert parse_nodes(text)
    except ParseError as error:
        assert str(error)

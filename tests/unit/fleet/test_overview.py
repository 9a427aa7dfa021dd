"""The lean reading of nodes against the careful one, on recorded nodes and on odd ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from fleet_lines import line, scontrol_text
from hypothesis import example, given
from hypothesis import strategies as st

from slurm_gsp import process
from slurm_gsp.slurm.client import ControllerAway, SlurmError, parse_states
from slurm_gsp.slurm.overview import Held, Lines, parse_held, parse_line
from slurm_gsp.slurm.reading import Reading
from slurm_gsp.slurm.scontrol import parse_node

UNIT = Path(__file__).parents[1]
RECORDED = [
    *sorted(path for path in (UNIT / "slurm/fixtures").glob("*.txt") if "-error-" not in path.name),
    UNIT / "campaign/recorded/22.05.8/nodes.txt",
]
WORDS = ["Not", "responding", "a=b", "State=DOWN", "Extra=", "Extra={}", "Comment=c", "Reason=r", "[x]",
         "[root@2026-01-02T03:04:05]", "BootTime=None", "InstanceId=i",
         "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
         "gsp:{", '{"gsp_seen":"b"}', "\N{SNOWMAN}", "NodeName=n9", "\x1b[31m"]  # fmt: skip
texts = st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)


def agree(text: str) -> None:
    lean, careful = parse_line(text), parse_node(text)
    assert lean.name == careful.name
    assert parse_states(lean.state) == careful.states
    assert tuple(filter(None, lean.partitions.split(","))) == careful.partitions
    assert lean.booted == careful.boot_time
    assert (lean.reason, lean.user) == (careful.reason, careful.reason_user)
    assert (lean.comment, lean.extra) == (careful.comment, careful.extra)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_recorded_nodes_are_read_alike(path: Path) -> None:
    found = [text for text in path.read_text().split("\n") if text]
    assert found
    for text in found:
        agree(text)


def test_all_releases_were_recorded() -> None:
    assert {path.name[:5] for path in RECORDED} >= {"22.05", "24.11", "26.05"}


@given(
    reason=texts, comment=texts, extra=texts, last=st.sampled_from(["", " InstanceId=i-1 InstanceType=p5 "])
)
def test_odd_texts_of_people_are_read_alike(reason: str, comment: str, extra: str, last: str) -> None:
    plain = line(reason=reason, user="root", comment=comment, extra=extra)
    agree(scontrol_text(plain).rstrip("\n") + last)


@given(extra=st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"])))
@example(extra=" Comment=")
def test_odd_texts_in_extra_are_read_alike(extra: str) -> None:
    if extra.strip() not in {"None", "NONE", "N/A", "n/a", "Unknown", "(null)"}:
        agree(scontrol_text(line(extra=extra)).rstrip("\n"))


@pytest.mark.parametrize("order", [" State=IDLE Gres=gpu:1 Partitions=p", " Partitions=p State=IDLE"])
def test_keys_in_another_order_or_missing_are_read_alike(order: str) -> None:
    agree(f"NodeName=n1 Arch=x{order} BootTime=None Extra=x")


def test_what_a_plain_line_says() -> None:
    plain = line("n7", "MIXED+PLANNED", partitions="a,b", features="", gres="")
    assert parse_line(scontrol_text(plain).rstrip("\n")) == plain


@pytest.mark.parametrize("text", ["", "NodeName=n1", "NodeName= State=IDLE", "Node n1 not found"])
def test_what_is_no_node_is_refused(text: str) -> None:
    with pytest.raises(SlurmError):
        parse_line(text)


def fed(data: bytes, size: int) -> list[str]:
    found: list[str] = []
    lines = Lines(lambda one: found.append(f"{one.name} {one.reason}"))
    for start in range(0, len(data), size):
        lines.feed(data[start : start + size])
    lines.end()
    return found


def test_nodes_are_given_while_there_is_more_to_come() -> None:
    found: list[str] = []
    lines = Lines(lambda one: found.append(one.name))
    lines.feed(scontrol_text(line("n1"), line("n2"), line("n3")).encode() + b"NodeName=n4")
    assert found == ["n1", "n2"]  # n3 might have a Reason of several lines


@pytest.mark.parametrize("size", [1, 7, 65536])
def test_it_does_not_matter_how_the_text_comes_in_pieces(size: int) -> None:
    reason = "caf\N{LATIN SMALL LETTER E WITH ACUTE} [2]\N{SNOWMAN}"
    text = scontrol_text(
        line("n1", "DOWN", reason=reason, user="ann"), line("n2"), line("n3", "DRAIN", reason="x")
    )
    assert fed(text.encode(), size) == [f"n1 {reason}", "n2 ", "n3 x"]
    assert fed(text.rstrip("\n").encode(), size)[-1] == "n3 x"


def test_a_reason_of_several_lines_belongs_to_its_node() -> None:
    head, tail = scontrol_text(line("n1", "DOWN", extra=""), line("n2")).split("\n", 1)
    text = f"{head} Reason=one [root@2026-11-26T08:00:00]\n    two\n{tail}"
    assert fed(text.encode(), 11) == ["n1 one [root@2026-11-26T08:00:00] two", "n2 "]


def test_bytes_that_are_no_text_do_not_end_the_look() -> None:
    assert fed(scontrol_text(line("n1", "DOWN", reason="a@b")).encode().replace(b"@b", b"\xff"), 9) == [
        "n1 a\ufffd"
    ]


@pytest.mark.parametrize("data", [b"", b"\n", b"No nodes in the system\n"])
def test_no_node_at_all_is_no_answer(data: bytes) -> None:
    with pytest.raises(SlurmError, match="no node"):
        fed(data, 3)


RESERVATIONS = """\
ReservationName=gsp_c1_n1 StartTime=2026-11-26T11:00:00 EndTime=2027-11-26T11:00:00 Duration=365-00:00:00 \
Nodes=n1 NodeCnt=1 Features=(null) PartitionName=(null) Flags=MAINT,IGNORE_JOBS,SPEC_NODES State=ACTIVE
ReservationName=two words StartTime=2026-11-26T11:00:00 EndTime=2026-11-26T13:00:00 Duration=02:00:00 \
Nodes=n[2-3],x1 NodeCnt=3 Flags=SPEC_NODES State=ACTIVE Comment=Flags=MAINT Nodes=n9
ReservationName=lic StartTime=2026-11-26T11:00:00 EndTime=2026-11-26T13:00:00 Duration=02:00:00 \
Nodes=(null) NodeCnt=0 Flags=ANY_NODES State=ACTIVE
ReservationName=huge StartTime=2026-11-26T11:00:00 EndTime=2026-11-26T13:00:00 Nodes=n[1-999999] Flags=MAINT
"""


def test_reservations() -> None:
    start, end = datetime(2026, 11, 26, 11, tzinfo=UTC), datetime(2026, 11, 26, 13, tzinfo=UTC)
    assert parse_held(RESERVATIONS) == (
        Held("gsp_c1_n1", start, datetime(2027, 11, 26, 11, tzinfo=UTC), True, ("n1",)),
        Held("two words", start, end, False, ("n2", "n3", "x1")),
        Held("lic", start, end, False, ()),
        Held("huge", start, end, True, ()),
    )
    assert parse_held("No reservations in the system\n") == ()


class Started:
    """Stands for the processes; each answer is stdout, or what scontrol says when it fails."""

    def __init__(self, node: str | process.Finished, reservation: str | process.Finished = "") -> None:
        self.answers: dict[str, str | process.Finished] = {"node": node, "reservation": reservation}
        self.log: list[str] = []
        self.env: dict[str, str] = {}

    def __call__(self, argv, *, deadline_s, env=None, sink):
        self.log.append("start " + " ".join(argv))
        self.env = dict(env)
        answer = self.answers[argv[-1]]

        def wait() -> process.Finished:
            self.log.append(f"end {argv[-1]}")
            if isinstance(answer, process.Finished):
                return answer
            sink(answer.encode())
            return process.Finished(tuple(argv), 0, "", "")

        return wait


def test_two_reads_at_once_in_utc() -> None:
    slurm = Started(scontrol_text(line("n1"), line("n2")), RESERVATIONS)
    reading = Reading(slurm, scontrol="/opt/scontrol", conf="/etc/c")
    held, names = reading.reservations(), []
    reading.nodes(lambda one: names.append(one.name))
    assert slurm.log == [
        "start /opt/scontrol -a -o show node",
        "start /opt/scontrol -a -o show reservation",
        "end reservation",
        "end node",
    ]
    assert slurm.env == {"TZ": "UTC0", "SLURM_TIME_FORMAT": "standard", "SLURM_CONF": "/etc/c"}
    assert (names, len(held)) == (["n1", "n2"], 4)


AWAY = process.Finished(("x",), 1, "", "slurm_load_node error: Unable to contact slurm controller\n")


@pytest.mark.parametrize("node", ["", AWAY, scontrol_text(line("n1"))])
def test_both_reads_are_waited_for_where_the_first_fails(node: str | process.Finished) -> None:
    slurm = Started(node, AWAY)
    with pytest.raises(ControllerAway):
        Reading(slurm).reservations()
    assert slurm.log[2:] == ["end reservation", "end node"]


def test_no_nodes_are_no_answer() -> None:
    reading = Reading(Started(AWAY))
    assert reading.reservations() == ()
    with pytest.raises(ControllerAway):
        reading.nodes(print)


def test_a_command_begun_ends_when_it_is_waited_for() -> None:
    pieces: list[bytes] = []
    wait = process.begin(
        ["/bin/sh", "-c", "echo one; echo two >&2; exit 3"], deadline_s=10, sink=pieces.append
    )
    done = wait()
    assert (b"".join(pieces), done.stdout, done.stderr, done.rc) == (b"one\n", "", "two\n", 3)

"""The scontrol client over what real scontrols wrote (Slurm 22.05.8, 24.11.5, 26.05.5: fixtures/).

Fixtures named <release>-<state>.txt are stdout; <release>-error-<case>.txt hold exit status and both outputs.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp import process
from slurm_gsp.process import CommandMissing, DeadlineExceeded, Finished, ProcessError
from slurm_gsp.slurm.client import (
    ControllerAway,
    Denied,
    Features,
    Field,
    NodeState,
    SlurmClient,
    SlurmError,
    SlurmMissing,
    SlurmTimeout,
    UnknownNode,
)
from slurm_gsp.slurm.scontrol import Scontrol, parse_node

FIXTURES = Path(__file__).parent / "fixtures"
RELEASES = ("22.05", "24.11", "26.05")
SCONTROL = "/usr/bin/scontrol"
REASON = "gsp:umd-skew kmd=1 umd=2"


def text(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text(encoding="utf-8")


def error(name: str) -> Finished:
    status, _, rest = text(name).partition("\n--- stdout\n")
    stdout, _, stderr = rest.partition("--- stderr\n")
    return Finished((SCONTROL,), int(status.removeprefix("rc ")), stdout, stderr)


def ok(stdout: str = "") -> Finished:
    return Finished((SCONTROL,), 0, stdout, "")


@dataclass
class FakeRun:
    """Answers each call with the next of its answers, and remembers what it was called with."""

    answers: list[Finished | ProcessError]
    calls: list[tuple[tuple[str, ...], float, dict[str, str]]] = field(default_factory=list)

    def __call__(
        self, argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> Finished:
        self.calls.append((tuple(argv), deadline_s, dict(env or {})))
        answer = self.answers.pop(0)
        if isinstance(answer, ProcessError):
            raise answer
        return replace(answer, argv=tuple(argv))


@dataclass
class FakeConverse:
    """Hands its output to the judge a piece at a time, as a terminal would; remembers the answers."""

    finished: Finished
    heard: list[str] = field(default_factory=list)

    def __call__(
        self,
        argv: Sequence[str],
        *,
        deadline_s: float,
        opening: str,
        reply: process.Reply,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        self.heard = [" ".join(argv), opening]
        for end in range(1, len(self.finished.stdout) + 1):
            answer = reply(self.finished.stdout[:end], "")
            if answer is not None:
                self.heard.append(answer)
                return self.finished
        answer = reply(self.finished.stdout, self.finished.stderr)
        if answer is None:
            raise DeadlineExceeded("no answer")
        self.heard.append(answer)
        return self.finished


def client(*answers: Finished | ProcessError) -> Scontrol:
    return Scontrol(FakeRun(list(answers)))


def test_it_is_a_slurm_client() -> None:
    one: SlurmClient = Scontrol()
    assert one


# --- reading ------------------------------------------------------------------------------------------------

BOOTED = "2026-11-21T21:33:28"
ODD_REASON = 'disk failed = see "t/12" today, admin Partitions=none State=IDLE'
ODD_COMMENT = "rack 7 = left [x]"
ODD_EXTRA = '{"nvidia_driver":"580.95.05","note":"a = b State=DOWN"}'
PLAIN = NodeState(
    name="n1",
    states=frozenset({"IDLE"}),
    reason="",
    reason_user="",
    reason_time="",
    partitions=("main",),
    reservation="",
    comment="",
    extra="",
    boot_time=BOOTED,
)


def read(name: str) -> NodeState:
    """A recorded node, without the times, which differ from recording to recording."""
    state = parse_node(text(name).strip())
    assert state.boot_time[:11] == BOOTED[:11]
    assert not state.reason_time or len(state.reason_time) == len(BOOTED)
    return replace(state, boot_time=BOOTED, reason_time=state.reason_time[:10])


@pytest.mark.parametrize("release", RELEASES)
def test_a_recorded_node(release: str) -> None:
    kept = release == "24.11"  # this release leaves the Reason on a node that was resumed
    by_root = replace(PLAIN, reason_user="root", reason_time="2026-11-21")
    odd = replace(by_root, name="n2", reason=ODD_REASON, comment=ODD_COMMENT, extra=ODD_EXTRA)
    inside = "" if release == "22.05" else "maint_n4"  # 22.05 does not name the reservation
    assert read(f"{release}-idle") == PLAIN
    assert read(f"{release}-drained") == replace(odd, states=frozenset({"IDLE", "DRAIN"}))
    assert read(f"{release}-resumed") == (
        odd if kept else replace(PLAIN, name="n2", comment=ODD_COMMENT, extra=ODD_EXTRA)
    )
    assert read(f"{release}-down") == replace(by_root, name="n3", states=frozenset({"DOWN"}), reason=REASON)
    assert read(f"{release}-reboot_requested") == replace(
        by_root,
        name="n4",
        states=frozenset({"IDLE", "DRAIN", "REBOOT_REQUESTED"}),
        reason="gsp:realign c1",
    )
    assert read(f"{release}-reboot_issued") == replace(
        by_root,
        name="n4",
        states=frozenset({"DOWN", "DRAIN", "MAINTENANCE", "REBOOT_ISSUED", "RESERVED"}),
        reason="gsp:realign c1 : reboot issued",
        reservation=inside,
    )
    assert read(f"{release}-reboot_complete") == replace(
        by_root,
        name="n4",
        states=frozenset({"DOWN", "MAINTENANCE", "RESERVED"}),
        reason="gsp:realign c1 : reboot issued : reboot complete",
        reservation=inside,
    )


HEAD = "NodeName=n1 Arch=x86_64 OS=Linux 6.1.0 #1 SMP Mon Jan 1  State=DOWN*+DRAIN ThreadsPerCore=1"

LINES = [
    ("no tail", "", {}),
    (
        "what looks like a key in a Reason",
        " Reason=a Comment=b Extra=c [root@2026-01-02T03:04:05]",
        {"reason": "a Comment=b Extra=c", "reason_user": "root", "reason_time": "2026-01-02T03:04:05"},
    ),
    (
        "what looks like a stamp in a Reason",
        " Reason=was [bob@2025-01-01T00:00:00] before [root@2026-01-02T03:04:05] Comment=c",
        {
            "reason": "was [bob@2025-01-01T00:00:00] before",
            "reason_user": "root",
            "reason_time": "2026-01-02T03:04:05",
            "comment": "c",
        },
    ),
    ("a Reason without a stamp", " Reason=Not responding", {"reason": "Not responding"}),
    (
        "a Reason without a stamp, not last",
        " Reason=a = b Comment=c d",
        {"reason": "a = b", "comment": "c d"},
    ),
    (
        "a Reason after others",
        " Comment=c d ReservationName=r1 Reason=x [9999@Unknown]",
        {
            "reason": "x",
            "reason_user": "9999",
            "reason_time": "Unknown",
            "comment": "c d",
            "reservation": "r1",
        },
    ),
    ("nothing said", " Reason=(null) Comment=(null) Extra=", {}),
    ("several partitions", " Partitions=main,gpu,long ", {"partitions": ("main", "gpu", "long")}),
    ("no boot time", " BootTime=None SlurmdStartTime=None", {}),
    ("cloud instance", " Comment=c InstanceId=i-1 InstanceType=p5 ", {"comment": "c"}),
]


@pytest.mark.parametrize(("tail", "changes"), [row[1:] for row in LINES], ids=[row[0] for row in LINES])
def test_a_line(tail: str, changes: dict[str, Any]) -> None:
    states = frozenset({"DOWN", "NOT_RESPONDING", "DRAIN"})
    expected = replace(PLAIN, states=states, partitions=(), boot_time="")
    assert parse_node(HEAD + tail) == replace(expected, **changes)


@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126)).map(str.strip).filter(bool))
def test_what_we_write_as_a_reason_is_read_back(reason: str) -> None:
    state = parse_node(f"{HEAD} Reason={reason} [root@2026-01-02T03:04:05] Comment=c")
    assert (state.reason if reason not in {"N/A", "n/a", "None", "(null)"} else reason) == reason


@pytest.mark.parametrize("line", ["", "Node n1 not found", "NodeName=n1 Arch=x", "State=IDLE"])
def test_a_line_that_is_no_node(line: str) -> None:
    with pytest.raises(SlurmError, match="not a node as scontrol writes it"):
        parse_node(line)


def test_node_is_one_bounded_call() -> None:
    run = FakeRun([ok(text("24.11-drained"))])
    state = Scontrol(run, scontrol="/opt/scontrol", deadline_s=3.0, conf="/c/slurm.conf").node("n2")
    assert (state.name, state.drained) == ("n2", True)
    assert run.calls == [
        (("/opt/scontrol", "-o", "show", "node", "n2"), 3.0, {"SLURM_CONF": "/c/slurm.conf"})
    ]


def test_the_answer_is_about_the_node_that_was_asked_for() -> None:
    with pytest.raises(SlurmError, match=r"show node n9: no answer \(exit status 0\)"):
        client(ok(text("24.11-drained"))).node("n9")


@pytest.mark.parametrize("release", RELEASES)
def test_the_nodes_of_partitions_are_one_call(release: str) -> None:
    run = FakeRun([ok(text(f"{release}-all"))])
    states = Scontrol(run).partition_nodes(["gpu", "main"])
    assert [(state.name, state.drained) for state in states] == [
        ("n1", True),
        ("n2", False),
        ("n3", True),
        ("n4", True),
    ]
    assert [call[0] for call in run.calls] == [(SCONTROL, "-a", "-o", "show", "node")]


def test_the_nodes_of_other_partitions_are_left_out() -> None:
    lines = [
        "NodeName=a State=IDLE Partitions=main,gpu ",
        "NodeName=b State=IDLE Partitions=maintenance ",
        "NodeName=c State=IDLE ",
        "NodeName=d State=DOWN Partitions=gpu  Reason=line one [root@2026-01-02T03:04:05]",
        "          line two",
    ]
    states = client(ok("\n".join(lines) + "\n")).partition_nodes(["main", "gpu"])
    assert [state.name for state in states] == ["a", "d"]


def test_the_nodes_of_no_partition_are_not_asked_for() -> None:
    assert client().partition_nodes([]) == ()


# --- writing ------------------------------------------------------------------------------------------------


def test_drain_and_resume_are_one_call_each() -> None:
    run = FakeRun([ok(), ok()])
    one = Scontrol(run)
    one.drain("n1", "gsp:x y = z")
    one.resume("n1")
    assert [call[0] for call in run.calls] == [
        (SCONTROL, "update", "nodename=n1", "state=drain", "reason=gsp:x y = z"),
        (SCONTROL, "update", "nodename=n1", "state=resume"),
    ]


@pytest.mark.parametrize(("name", "reason"), [("n[1-9]", "x"), ("ALL", "x"), ("n1", 'a"b'), ("n1", "")])
def test_nothing_is_asked_with_a_name_or_reason_that_is_refused(name: str, reason: str) -> None:
    converse = FakeConverse(ok())
    one = Scontrol(FakeRun([]), converse=converse)
    with pytest.raises(ValueError):
        one.drain(name, reason)
    with pytest.raises(ValueError):
        one.drain_unless(name, reason, lambda state: False)
    assert converse.heard == []


@pytest.mark.parametrize("field", ["extra", "comment"])
@pytest.mark.parametrize(
    "text", ['{"nvidia_driver":"580.95.05","note":"a = b $(id) \'x\'"}', "rack 7 gsp:{}"]
)
def test_annotate_puts_one_argument(field: Field, text: str) -> None:
    run = FakeRun([ok()])
    Scontrol(run, conf="/etc/slurm.conf").annotate("n1", field, text)
    argv = (SCONTROL, "update", "nodename=n1", f"{field}={text}")
    assert run.calls == [(argv, 10.0, {"SLURM_CONF": "/etc/slurm.conf"})]


def test_features_come_in_the_same_update() -> None:
    run = FakeRun([ok(), ok()])
    for features in (Features(("ib", "driver-580.95.05"), ("ib",)), Features()):
        Scontrol(run).annotate("n1", "extra", "{}", features)
    assert [call[0][3:] for call in run.calls] == [
        ("extra={}", "availablefeatures=ib,driver-580.95.05", "activefeatures=ib"),
        ("extra={}", "availablefeatures=", "activefeatures="),
    ]


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a\nb"])
def test_a_feature_that_slurm_would_split_is_refused(name: str) -> None:
    run = FakeRun([])
    with pytest.raises(ValueError, match="not the name of one feature"):
        Scontrol(run).annotate("n1", "extra", "{}", Features((name,), ()))
    assert run.calls == []


def test_features_are_read() -> None:
    line = "NodeName=n1 AvailableFeatures={available} ActiveFeatures={active} Gres=gpu:h100:2 State=IDLE"
    for available, active, expected in (
        ("ib,driver-580.95.05", "ib", Features(("ib", "driver-580.95.05"), ("ib",))),
        ("(null)", "", Features()),
    ):
        shown = line.format(available=available, active=active)
        assert parse_node(shown).features == expected


@pytest.mark.parametrize(
    "text", ["", " ", "a\nb", "a\tb", " a", "a ", "caf\N{LATIN SMALL LETTER E WITH ACUTE}", "\x1b[0m"]
)
def test_annotate_refuses_what_slurm_would_change(text: str) -> None:
    run = FakeRun([])
    with pytest.raises(ValueError, match="an annotation is one line of printable ASCII"):
        Scontrol(run).annotate("n1", "extra", text)
    assert run.calls == []


def test_annotate_says_when_it_was_refused() -> None:
    with pytest.raises(Denied, match="Invalid user id"):
        client(error("24.11-error-unpriv")).annotate("n1", "extra", "{}")


# --- look, then drain ---------------------------------------------------------------------------------------


def conversation(release: str, node: str, after: str = "") -> str:
    """What scontrol writes to a terminal: its prompt, the echo, the answer, and so on."""
    return f"scontrol: show node {node[-2:]}\n{text(f'{release}-{node[:-3]}')}scontrol: {after}"


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("prompts", [True, False])
def test_drain_unless_drains(release: str, newline: str, prompts: bool) -> None:
    said = conversation(release, "idle-n1") if prompts else text(f"{release}-idle")
    converse = FakeConverse(ok(said.replace("\n", newline)))
    seen: list[NodeState] = []

    def keep(state: NodeState) -> bool:
        seen.append(state)
        return False

    state = Scontrol(converse=converse).drain_unless("n1", REASON, keep)
    assert converse.heard == [
        f"{SCONTROL} -o",
        "show node n1\n",
        f'update nodename=n1 state=drain reason="{REASON}"\n',
    ]
    assert seen == [state]
    assert (state.name, state.drained) == ("n1", False)


@pytest.mark.parametrize("release", RELEASES)
def test_drain_unless_keeps(release: str) -> None:
    converse = FakeConverse(ok(conversation(release, "drained-n2", "quit\n")))
    state = Scontrol(converse=converse).drain_unless("n2", REASON, lambda state: state.drained)
    assert converse.heard == [f"{SCONTROL} -o", "show node n2\n", "quit\n"]
    assert state.reason == ODD_REASON


def test_drain_unless_says_when_the_drain_was_refused() -> None:
    refused = replace(
        ok(conversation("24.11", "idle-n1")), rc=1, stderr="slurm_update error: Invalid user id\n"
    )
    with pytest.raises(Denied) as caught:
        Scontrol(converse=FakeConverse(refused)).drain_unless("n1", REASON, lambda state: False)
    asked = f"{SCONTROL} drain n1 unless it is somebody else's"
    assert str(caught.value) == f"{asked}: slurm_update error: Invalid user id (exit status 1)"


@pytest.mark.parametrize(
    ("finished", "kind"),
    [
        (Finished((SCONTROL,), 1, "scontrol: show node n1\nNode n1 not found\n", ""), UnknownNode),
        (error("22.05-error-away"), ControllerAway),
        (error("26.05-error-ctldstop"), SlurmTimeout),
        (Finished((SCONTROL,), 0, "scontrol: show node n1\nWhat?\nscontrol: ", ""), SlurmError),
    ],
)
def test_drain_unless_gives_up_without_a_node(finished: Finished, kind: type[SlurmError]) -> None:
    converse = FakeConverse(finished)
    with pytest.raises(SlurmError) as caught:
        Scontrol(converse=converse).drain_unless("n1", REASON, lambda state: False)
    assert type(caught.value) is kind
    assert converse.heard[-1] == "quit\n"


def test_drain_unless_waits_on_through_a_mere_warning() -> None:
    warned = Finished((SCONTROL,), 0, "", "scontrol: error: s_p_parse_file: retrying in 1sec up to 60sec\n")
    with pytest.raises(SlurmTimeout):
        Scontrol(converse=FakeConverse(warned)).drain_unless("n1", REASON, lambda state: False)


FAKE_SCONTROL = """#!/bin/sh
[ "$*" = -o ] || exit 9
while read -r line; do
    echo "$line" >> {log}
    case $line in
    "show node n1") cat {answer};;
    quit) exit 0;;
    esac
done
"""


@pytest.mark.parametrize("keep", [True, False])
def test_drain_unless_with_a_real_process(tmp_path: Path, keep: bool) -> None:
    log, answer, script = (tmp_path / name for name in ("log", "answer", "scontrol"))
    answer.write_text(text("26.05-idle"))
    script.write_text(FAKE_SCONTROL.format(log=log, answer=answer))
    script.chmod(stat.S_IRWXU)
    state = Scontrol(scontrol=str(script)).drain_unless("n1", REASON, lambda state: keep)
    assert state.name == "n1"
    last = "quit" if keep else f'update nodename=n1 state=drain reason="{REASON}"'
    assert log.read_text().splitlines() == ["show node n1", last]


# --- errors -------------------------------------------------------------------------------------------------

ERRORS = [
    ("unknown", UnknownNode, "Node n9 not found"),
    ("unknown_update", UnknownNode, "slurm_update error: Invalid node name specified"),
    ("unpriv", Denied, "slurm_update error: Invalid user id"),
    ("ctldstop", SlurmTimeout, "slurm_load_node error: Socket timed out on send/recv operation"),
    ("ctldstop_update", SlurmTimeout, "slurm_update error: Socket timed out on send/recv operation"),
    (
        "away",
        ControllerAway,
        "slurm_load_node error: Unable to contact slurm controller (connect failure)",
    ),
    (
        "away_update",
        ControllerAway,
        "slurm_update error: Unable to contact slurm controller (connect failure)",
    ),
    (
        "nomunge",
        ControllerAway,
        "slurm_load_node error: Unable to contact slurm controller (connect failure)",
    ),
    ("noreason", SlurmError, "You must specify a reason when DOWNING or DRAINING a node. Request denied"),
]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(("case", "kind", "answer"), ERRORS, ids=[row[0] for row in ERRORS])
def test_a_recorded_error(release: str, case: str, kind: type[SlurmError], answer: str) -> None:
    recorded = error(f"{release}-error-{case}")
    with pytest.raises(SlurmError) as caught:
        client(recorded).resume("n9")
    assert type(caught.value) is kind
    asked = f"{SCONTROL} update nodename=n9 state=resume"
    assert str(caught.value) == f"{asked}: {answer} (exit status 1)"
    with pytest.raises(kind):
        client(recorded).node("n9")
    with pytest.raises(kind):
        client(recorded).partition_nodes(["main"])


@pytest.mark.parametrize("release", RELEASES)
def test_resuming_a_node_in_service_is_an_error_as_slurm_says_it(release: str) -> None:
    with pytest.raises(SlurmError, match=r"Invalid node state (specified|transition)") as caught:
        client(error(f"{release}-error-resume_idle")).resume("n2")
    assert type(caught.value) is SlurmError


@pytest.mark.parametrize(
    ("stderr", "kind"),
    [
        ("slurm_update error: Access/permission denied", Denied),
        ("slurm_update error: Permission denied", Denied),
        ("slurm_load_node error: Protocol authentication error", Denied),
        ("slurm_load_node error: Authentication credential expired", Denied),
        ("slurm_load_node error: Rejecting authentication of user nobody or group nobody", Denied),
        ("slurm_load_node error: Unable to contact slurm controller (send failure)", ControllerAway),
        ("slurm_load_node error: Zero Bytes were transmitted or received", ControllerAway),
        ("slurm_load_node error: Connection reset by peer", ControllerAway),
        ("scontrol: error: Unable to establish control machine address", ControllerAway),
        ("slurm_load_node error: Slurm backup controller in standby mode", ControllerAway),
        ("scontrol: fatal: Could not establish a configuration source", ControllerAway),
        ("scontrol: error: resolve_ctls_from_dns_srv: DNS SRV lookup failed", ControllerAway),
        ("slurm_load_node error: Connection timed out reading", SlurmTimeout),
        ("slurm_load_node error: Incompatible versions of client and server code", SlurmError),
        ("sbatch: error: Batch job submission failed: Unable to resolve user ID to user name", SlurmError),
        ("", SlurmError),
    ],
)
def test_an_error_by_its_text(stderr: str, kind: type[SlurmError]) -> None:
    with pytest.raises(SlurmError) as caught:
        client(Finished((SCONTROL,), 1, "", stderr)).node("n1")
    assert type(caught.value) is kind


def test_an_error_that_was_reported_with_exit_status_0_is_one() -> None:
    with pytest.raises(Denied):
        client(Finished((SCONTROL,), 0, "", "slurm_update error: Access/permission denied\n")).resume("n1")


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (CommandMissing("/usr/bin/scontrol: No such file or directory"), SlurmMissing),
        (DeadlineExceeded("/usr/bin/scontrol: no end after 10 s"), SlurmTimeout),
        (ProcessError("/usr/bin/scontrol: cannot start: Too many open files"), SlurmError),
    ],
)
def test_a_process_that_fails_is_an_error_of_slurm(problem: ProcessError, kind: type[SlurmError]) -> None:
    with pytest.raises(SlurmError) as caught:
        client(problem).node("n1")
    assert type(caught.value) is kind
    assert str(caught.value) == f"asked Slurm to show node n1: {problem}"

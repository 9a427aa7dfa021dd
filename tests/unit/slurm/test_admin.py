"""What a campaign changes through scontrol, sbatch, scancel: the words sent, the answers that come back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from slurm_gsp import process
from slurm_gsp.slurm.admin import (
    EACH_S,
    FOLDED,
    LANES,
    Busy,
    Drained,
    Exists,
    Held,
    Moved,
    NoReservation,
    Overlap,
    Rebooted,
    Released,
    Resumed,
    ScontrolAdmin,
    Wanted,
    WrongState,
    in_turn,
)
from slurm_gsp.slurm.client import (
    ControllerAway,
    Denied,
    SlurmError,
    SlurmMissing,
    SlurmTimeout,
    UnknownNode,
)

LATER = datetime(2126, 11, 16, 9, 0, 30, tzinfo=UTC)


class Commands:
    """Answers in turn, and remembers what was asked."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.stdin: list[str | None] = []
        self.env: dict[str, str] = {}

    def __call__(self, argv, *, deadline_s, stdin=None, env=None):
        self.asked.append(" ".join(argv))
        self.stdin.append(stdin)
        self.env = dict(env or {})
        rc, out, err = self.answers.pop(0) if self.answers else (0, "", "")
        return process.Finished(tuple(argv), rc, out, err)


def admin(*answers: tuple[int, str, str], conf: str | None = None) -> tuple[ScontrolAdmin, Commands]:
    commands = Commands(*answers)
    return ScontrolAdmin(commands, scontrol="/opt/bin/scontrol", conf=conf), commands


SPAN = (LATER, 5430)
WORDS = {
    "reserve": (
        lambda slurm: slurm.reserve("gsp_c1_n1", "n1", SPAN, ["root", "maint"], ignore_jobs=False),
        "create reservation reservationname=gsp_c1_n1 starttime=2126-11-16T09:00:30 duration=0-01:31:00 "
        "nodes=n1 flags=MAINT users=root,maint",
    ),
    "reserve over jobs, without end, from now": (
        lambda slurm: slurm.reserve("gsp_c1_n1", "n1", (datetime.now(UTC), None), ["root"], ignore_jobs=True),
        "create reservation reservationname=gsp_c1_n1 starttime=now duration=UNLIMITED nodes=n1 "
        "flags=MAINT,IGNORE_JOBS users=root",
    ),
    "move": (
        lambda slurm: slurm.move("gsp_c1_n1", (LATER + timedelta(days=1), 2 * 86400)),
        "update reservationname=gsp_c1_n1 starttime=2126-11-17T09:00:30 duration=2-00:00:00",
    ),
    "hold": (lambda slurm: slurm.hold("gsp_c1_n1"), "update reservationname=gsp_c1_n1 duration=UNLIMITED"),
    "hold, of one node alone": (
        lambda slurm: slurm.hold("gsp_c1_n1", "n1"),
        "update reservationname=gsp_c1_n1 duration=UNLIMITED nodes=n1",
    ),
    "release": (lambda slurm: slurm.release("gsp_c1_n1"), "delete reservationname=gsp_c1_n1"),
    "reboot": (
        lambda slurm: slurm.reboot("n1", "gsp:realign c1"),
        "reboot ASAP nextstate=DOWN reason=gsp:realign c1 n1",
    ),
    "put back": (
        lambda slurm: slurm.put_back("n1", 'the "big"\nfan'),
        'update nodename=n1 state=drain reason=the "big" fan',
    ),
    "put back without a Reason": (
        lambda slurm: slurm.put_back("n1", ""),
        "update nodename=n1 state=drain reason=drained before maintenance, without a Reason",
    ),
}


@pytest.mark.parametrize(("call", "words"), WORDS.values(), ids=WORDS)
def test_what_is_sent(call, words):
    slurm, commands = admin(conf="/etc/s.conf")
    call(slurm)
    assert commands.asked == [f"/opt/bin/scontrol {words}"]
    assert commands.env == {"SLURM_CONF": "/etc/s.conf", "TZ": "UTC0"}


ANSWERS = {
    "Error creating the reservation: Duplicate reservation name": Exists,
    "Error creating the reservation: Requested nodes are busy": Busy,
    "delete_reservation reservationname=x: Requested reservation is in use": Busy,
    "Error updating the reservation: Requested reservation is invalid": NoReservation,
    "slurm_update error: Invalid user id": Denied,
    "Error creating the reservation: Access/permission denied": Denied,
    "slurm_load_node error: Unable to contact slurm controller (connect failure)": ControllerAway,
    "Error: Socket timed out on send/recv operation": SlurmTimeout,
    "Error creating the reservation: Requested reservation overlaps with another reservation": Overlap,
    "Error creating the reservation: Invalid node name specified": UnknownNode,
    "Error creating the reservation: Unexpected message received": ControllerAway,
    "Error updating the reservation: Reservation already started": WrongState,
    "Error: something new": SlurmError,
}


@pytest.mark.parametrize(("answer", "kind"), ANSWERS.items(), ids=ANSWERS)
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_an_answer_means(answer, kind, stream):
    slurm, _ = admin((1, answer, "") if stream == "stdout" else (1, "", answer))
    with pytest.raises(SlurmError) as caught:
        slurm.release("gsp_c1_n1")
    assert type(caught.value) is kind and answer in str(caught.value)


def test_a_node_that_a_reboot_skips_is_no_success():
    """26.05 says so on stderr alone, with exit status 0."""
    slurm, _ = admin((0, "", "scontrol: error: Skipping reboot of nodes n1 due to current node state."))
    with pytest.raises(WrongState, match="Skipping reboot"):
        slurm.reboot("n1", "gsp:realign c1")


def node_line(state: str) -> str:
    return f"NodeName=n1 State={state} Partitions=main BootTime=None\n"


@pytest.mark.parametrize("said", ["Invalid node state specified", "Invalid node state transition"])
def test_resuming_a_node_in_service_is_no_error(said):
    slurm, commands = admin((1, "", f"slurm_update error: {said}"), (0, node_line("IDLE"), ""))
    slurm.resume("n1")
    assert len(commands.asked) == 2


def test_resuming_a_node_that_stays_down_is_one():
    slurm, _ = admin((1, "", "slurm_update error: Invalid node state specified"), (0, node_line("DOWN"), ""))
    with pytest.raises(SlurmError, match="Invalid node state"):
        slurm.resume("n1")


def test_a_job_is_submitted_on_stdin():
    slurm, commands = admin((0, "4711;cluster\n", ""))
    assert slurm.submit("#!/bin/sh\ntrue\n", ["--nodes=1"]) == "4711"
    assert commands.asked == ["/opt/bin/sbatch --parsable --nodes=1"] and commands.stdin == [
        "#!/bin/sh\ntrue\n"
    ]


def test_a_job_that_is_refused():
    refusal = "sbatch: error: Batch job submission failed: Access denied to requested reservation"
    slurm, _ = admin((1, "", refusal))
    with pytest.raises(Denied, match="Access denied to requested reservation"):
        slurm.submit("#!/bin/sh\n", [])


@pytest.mark.parametrize("said", ["Invalid job id specified", "Job/step already completing or completed"])
def test_a_job_is_ended_where_it_is_not_over_yet(said):
    slurm, commands = admin((0, "", ""), (1, "", f"scancel: error: Kill job error on job id 7: {said}"))
    slurm.cancel("7")
    slurm.cancel("7")
    assert commands.asked == ["/opt/bin/scancel 7"] * 2
    slurm, _ = admin((1, "", "scancel: error: Kill job error on job id 7: Access/permission denied"))
    with pytest.raises(Denied):
        slurm.cancel("7")
    with pytest.raises(ValueError, match="not the id of one job: '--me'"):
        slurm.cancel("--me")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (process.CommandMissing("x"), SlurmMissing),
        (process.DeadlineExceeded("x"), SlurmTimeout),
        (process.ProcessError("x"), SlurmError),
    ],
)
def test_a_command_that_does_not_run(error, kind):
    def run(argv, **_):
        raise error

    slurm = ScontrolAdmin(run)
    for call in (lambda: slurm.release("gsp_c1_n1"), lambda: slurm.submit("", [])):
        with pytest.raises(SlurmError) as caught:
            call()
        assert type(caught.value) is kind


@pytest.mark.parametrize("name", ["", "a b", "-x", "a,b", "a\nb"])
def test_what_is_no_name_of_a_reservation(name):
    slurm, commands = admin()
    for call in (slurm.hold, slurm.release):
        with pytest.raises(ValueError, match="not the name of a reservation"):
            call(name)
    assert commands.asked == []


# -- many at once --------------------------------------------------------------------------------------------


def wanted(*names: str) -> list[Wanted]:
    return [Wanted(name, f"n{number}", SPAN, ("root",)) for number, name in enumerate(names)]


class Fed:
    """A scontrol that reads commands: what it made is told on stdout, errors and marks on stderr."""

    def __init__(self, errors: dict[str, str], *, readline: bool = True, ends_at: int | None = None) -> None:
        self.errors, self.readline, self.ends_at = errors, readline, ends_at
        self.fed: list[str] = []
        self.deadlines: list[float] = []

    def __call__(self, argv, *, deadline_s, stdin=None, env=None):
        assert argv == ("/opt/bin/scontrol",) and env["TZ"] == "UTC0"
        self.deadlines.append(deadline_s)
        self.fed.append(stdin)
        out, err = "", "scontrol: warning: something at its start\n"
        for number, line in enumerate(stdin.splitlines()):
            if number == self.ends_at:
                return process.Finished(argv, 1, out, err + "scontrol: fatal: no more\n")
            out += f"scontrol: {line}\n" if self.readline else "scontrol: "
            if not line.startswith("create "):
                err += f"invalid keyword: {line}\n"
                continue
            name = line.split()[2].removeprefix("reservationname=")
            if name in self.errors:
                err += f"Error creating the reservation: {self.errors[name]}\n"
            else:
                out += f"Reservation created: {name}\n"
        return process.Finished(argv, 1, out, err)


@pytest.mark.parametrize("readline", [True, False])
def test_of_many_each_has_its_own_answer(readline):
    fed = Fed({"b": "Duplicate reservation name", "d": "Requested nodes are busy"}, readline=readline)
    slurm = ScontrolAdmin(fed, scontrol="/opt/bin/scontrol", deadline_s=30)
    answers = slurm.change_many(wanted(*"abcdefgh"))
    assert [type(answer) for answer in answers[:5]] == [type(None), Exists, type(None), Busy, type(None)]
    assert str(answers[1]).startswith("create reservation reservationname=b ")
    assert str(answers[1]).endswith(": Error creating the reservation: Duplicate reservation name")
    assert len(fed.fed) == LANES and fed.deadlines == [30 + 8 / LANES * EACH_S] * LANES


def test_many_are_fed_what_single_ones_are_asked():
    fed = Fed({})
    many = wanted("a", "b", "c")
    ScontrolAdmin(fed, scontrol="/opt/bin/scontrol").change_many(many)
    slurm, commands = admin()
    for one in many:
        slurm.reserve(one.name, one.node, one.span, one.users, ignore_jobs=one.ignore_jobs)
    lines = [line for text in fed.fed for line in text.splitlines() if "gsp-mark-" not in line]
    assert sorted(f"/opt/bin/scontrol {line}" for line in lines) == sorted(commands.asked)


def test_a_scontrol_that_ends_early_leaves_the_rest_unmade():
    fed = Fed({}, ends_at=2)
    slurm = ScontrolAdmin(fed, scontrol="/opt/bin/scontrol")
    assert slurm.change_many(wanted(*"abcd")) == (None,) * LANES  # one each
    answers = slurm.change_many(wanted(*"abcdefgh"))
    assert [answer is None for answer in answers] == [True, False] * LANES
    assert "no more" in str(answers[1])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (process.CommandMissing("x"), SlurmMissing),
        (process.DeadlineExceeded("no end after 30 s"), SlurmTimeout),
        (process.DeadlineExceeded("it had said: Unable to contact slurm controller"), ControllerAway),
    ],
)
def test_many_that_are_not_answered(error, kind):
    def run(argv, **_):
        raise error

    answers = ScontrolAdmin(run).change_many(wanted("a", "b", "c"))
    assert [type(answer) for answer in answers] == [kind] * 3


REASON = "gsp:realign c1 to=2026-11@0123456789ab try=1 id=0123abcd"
OTHERS = {
    "hold": (Held("r1"), "update reservationname=r1 duration=UNLIMITED"),
    "move": (
        Moved("r1", SPAN),
        "update reservationname=r1 starttime=2126-11-16T09:00:30 duration=0-01:31:00",
    ),
    "release": (Released("r1"), "delete reservationname=r1"),
    "resume": (Resumed("n1"), "update nodename=n1 state=resume"),
}


class Silent(Fed):
    """A scontrol that says nothing of a change that it makes, and asked alone has an answer of its own."""

    def __init__(self, refuses: dict[str, str], alone: str = "") -> None:
        super().__init__({})
        self.refuses, self.alone = refuses, alone
        self.single: list[str] = []

    def __call__(self, argv, *, deadline_s, stdin=None, env=None):
        if stdin is None:
            self.single.append(" ".join(argv[1:]))
            return process.Finished(argv, 1 if self.alone else 0, "", self.alone)
        self.fed.append(stdin)
        err = "scontrol: warning: something at its start\n"
        for line in stdin.splitlines():
            if line.startswith("gsp-mark-"):
                err += f"invalid keyword: {line}\n"
            err += "".join(f"{said}\n" for what, said in self.refuses.items() if what in line)
        return process.Finished(argv, 0, "", err)

    def lines(self) -> list[str]:
        return [line for text in self.fed for line in text.splitlines() if "gsp-mark-" not in line]


@pytest.mark.parametrize(("change", "line"), OTHERS.values(), ids=OTHERS)
def test_a_change_among_many_is_one_line(change, line):
    silent = Silent({})
    slurm = ScontrolAdmin(silent, scontrol="/opt/bin/scontrol")
    assert slurm.change_many([change, Released("r9")]) == (None, None)
    assert silent.lines() == [line, "delete reservationname=r9"] and silent.single == []
    assert slurm.change_many([change]) == (None,), "alone as ever, and not on stdin"
    assert silent.single == [line.replace('"', "")]


def test_reboots_are_not_fed():
    """In a line on stdin, scontrol (22.05 to 26.05) leaves the quotes in the Reason of a reboot."""
    silent = Silent({})
    slurm = ScontrolAdmin(silent, scontrol="/opt/bin/scontrol")
    assert slurm.change_many([Rebooted(f"n{number}", REASON) for number in range(1, 10)]) == (None,) * 9
    assert silent.fed == []
    assert sorted(silent.single) == [
        f"reboot ASAP nextstate=DOWN reason={REASON} n{number}" for number in range(1, 10)
    ]


def test_drains_with_the_same_reason_are_one_command():
    silent = Silent({})
    slurm = ScontrolAdmin(silent, scontrol="/opt/bin/scontrol")
    nodes = [f"n{number:03d}" for number in range(1, FOLDED + 11)]
    changes = [*(Drained(node, REASON) for node in nodes), Drained("x1", "fan two")]
    assert set(slurm.change_many(changes)) == {None}
    assert silent.lines() == [
        f'update nodename=n[001-{FOLDED:03d}] state=drain reason="{REASON}"',
        f'update nodename=n[{FOLDED + 1:03d}-{FOLDED + 10:03d}] state=drain reason="{REASON}"',
        'update nodename=x1 state=drain reason="fan two"',
    ]


def test_the_longest_line_is_one_that_every_scontrol_reads():
    silent = Silent({})
    nodes = [f"{number:02d}-{'x' * 61}{'abcdefghij'[number % 10]}" for number in range(FOLDED)]
    ScontrolAdmin(silent).change_many([Drained(node, "r" * 120) for node in nodes])
    assert len(silent.lines()) == 1 and len(silent.lines()[0]) < 4096


def test_what_is_not_clear_among_many_is_asked_alone():
    """Of a drain of several nodes nobody says which one was refused; others are made all the same."""
    silent = Silent({"n[1-3]": "slurm_update error: Invalid node name specified"})
    slurm = ScontrolAdmin(silent, scontrol="/opt/bin/scontrol")
    changes = [*(Drained(f"n{number}", "fan") for number in (1, 2, 3)), Released("r1")]
    assert slurm.change_many(changes) == (None,) * 4
    assert silent.single == [f"update nodename=n{number} state=drain reason=fan" for number in (1, 2, 3)]
    again = Silent({"r1": "some new words"}, alone="slurm_delete: Requested reservation is in use")
    slurm = ScontrolAdmin(again, scontrol="/opt/bin/scontrol")
    answers = slurm.change_many([Released("r1"), Released("r2")])
    assert isinstance(answers[0], Busy) and answers[1] is None
    assert again.single == ["delete reservationname=r1"]


def test_the_words_of_a_reason_are_no_answer():
    """A campaign's own Reason tells what Slurm had said before."""
    reason = "gsp:escalated c1 not rebooted: Unable to contact slurm controller"
    again = Silent({"n1": "something new"}, alone="slurm_update error: Invalid node name specified")
    slurm = ScontrolAdmin(again, scontrol="/opt/bin/scontrol")
    answers = slurm.change_many([Drained("n1", reason), Resumed("n2")])
    assert type(answers[0]) is UnknownNode and answers[1] is None
    assert reason in again.single[0]


def test_of_a_long_answer_the_end_counts():
    tried = "slurmctld: error: get_addr_info: getaddrinfo() failed\n" * 40
    slurm, _ = admin((1, "", f"{tried}slurm_update error: Unable to contact slurm controller\n"))
    with pytest.raises(ControllerAway):
        slurm.release("r1")


def test_one_time_out_stops_no_other_command_and_two_do():
    asked: list[str] = []

    def call(name: str, error: SlurmError | None) -> None:
        asked.append(name)
        if error is not None:
            raise error

    slow = SlurmTimeout("no end after 30 s")
    errors = {"a": None, "b": slow, "c": Busy("busy"), "d": None, "e": slow, "f": None}
    answers = in_turn(partial(call, name, error) for name, error in errors.items())
    assert [type(answer) for answer in answers] == [
        type(None), SlurmTimeout, Busy, type(None), SlurmTimeout, SlurmTimeout,
    ]  # fmt: skip
    assert asked == ["a", "b", "c", "d", "e"]


def test_nothing_is_asked_alone_once_slurm_cannot_be_asked():
    away = Silent({"n": "slurm_update error: Unable to contact slurm controller (connect failure)"})
    answers = ScontrolAdmin(away).change_many([Drained("n1", "fan"), Drained("n2", "fan"), Resumed("n3")])
    assert [type(answer) for answer in answers] == [ControllerAway] * 3 and away.single == []


@pytest.mark.parametrize(
    "bad",
    [
        Held("r 1"),
        Moved("r1 nodes=ALL", SPAN),
        Released("a,b"),
        Drained("n[1-2]", "fan"),
        Drained("n1", 'fan" state=resume'),
        Drained("n1", ""),
        Resumed("ALL"),
        Rebooted("n1", "fan\nquit"),
        Wanted("r 1", "n1", SPAN, ("root",)),
        Wanted("r1", "n[1-2]", SPAN, ("root",)),
        Wanted("r1", "n1", SPAN, ("root nodes=ALL",)),
        Wanted("r1", "n1", SPAN, ("-root",)),
        Wanted("r1", "n1", SPAN, ("a\nquit",)),
    ],
)
def test_what_could_be_another_command_is_not_fed(bad):
    fed = Fed({})
    with pytest.raises(ValueError, match=r"not the name of|Reason"):
        ScontrolAdmin(fed).change_many([*wanted("a"), bad])
    assert fed.fed == []

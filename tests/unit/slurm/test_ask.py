"""The reads of a whole fleet where Slurm does not answer them, over what real clients said.

fixtures/refusals.json holds stderr, line by line, of Slurm 22.05.8, 24.11.5 and 26.05.5, by what was wrong
and by command; each of them ended with exit status 1 and nothing on stdout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from slurm_gsp.process import DeadlineExceeded, Finished
from slurm_gsp.slurm.ask import asking
from slurm_gsp.slurm.client import ControllerAway, Denied, SlurmError, SlurmTimeout
from slurm_gsp.slurm.fleet import read_campaign, read_fleet
from slurm_gsp.slurm.reading import Reading
from slurm_gsp.slurm.scontrol import Scontrol

REFUSALS: Final = json.loads((Path(__file__).parent / "fixtures/refusals.json").read_text())
KINDS: Final[dict[str, type[SlurmError]]] = {
    "no configuration": ControllerAway,
    "slurm.conf is missing": SlurmError,
    "slurm.conf cannot be read": Denied,
    "slurm.conf has a mistake": SlurmError,
    "slurmctld is not running": ControllerAway,
    "the name of slurmctld does not resolve": ControllerAway,
    "slurmctld hangs": SlurmTimeout,
    "slurmctld is killed meanwhile": ControllerAway,
    "the connection is closed at once": ControllerAway,
    "something else answers": SlurmError,
    "munged is not running": ControllerAway,
    "munged died": ControllerAway,
    "munge's socket is closed to this user": Denied,
    "another munge key": Denied,
    "munged of slurmctld is not running": Denied,  # not to be told from another key
    "PrivateData": Denied,
}
HANGS_UP: Final = {
    ("another munge key", "22.05"),
    ("munged of slurmctld is not running", "22.05"),
}
"""Where slurmctld just closes the connection, as one does that ends; later releases say what they miss."""


def answers() -> Iterator[Any]:
    for case, releases in REFUSALS.items():
        for release, commands in releases.items():
            kind = ControllerAway if (case, release) in HANGS_UP else KINDS[case]
            for command, lines in commands.items():
                yield pytest.param(command, lines, kind, id=f"{release} {command}: {case}")


class Refusing:
    """Stands for the processes: one command is refused, all others say nothing."""

    def __init__(self, command: str, stderr: str) -> None:
        self._words = command.split()
        self._stderr = stderr

    def __call__(
        self, argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None
    ) -> Finished:
        asked = [Path(argv[0]).name, *argv[1:]]
        here = asked[0] == self._words[0] and set(self._words) <= set(asked)
        return Finished(tuple(argv), 1 if here else 0, "", self._stderr if here else "")

    def begin(self, argv: Sequence[str], *, sink: object, **how: Any) -> Callable[[], Finished]:
        return lambda: self(argv, **how)


def refused(call: Callable[[], object]) -> SlurmError:
    with pytest.raises(SlurmError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize(("command", "lines", "kind"), list(answers()))
def test_what_an_answer_of_a_real_client_means(
    command: str, lines: list[str], kind: type[SlurmError]
) -> None:
    run = Refusing(command, "\n".join(lines) + "\n")
    error = refused(lambda: asking(run, None, 60.0)(*f"/usr/bin/{command}".split()))
    assert type(error) is kind
    assert str(error).startswith(f"/usr/bin/{command}: ")
    assert str(error).endswith(f"{lines[-1]} (exit status 1)")
    assert len(str(error)) < 600


@pytest.mark.parametrize("command", ["scontrol show node", "squeue"])
@pytest.mark.parametrize("release", ["22.05", "24.11", "26.05"])
@pytest.mark.parametrize("case", sorted(KINDS.keys() - {"PrivateData"}))
def test_every_read_of_a_fleet_means_the_same(case: str, release: str, command: str) -> None:
    run = Refusing(command, "\n".join(REFUSALS[case][release][command]) + "\n")
    reads: list[Callable[[], object]] = [lambda: read_fleet(run), lambda: read_campaign(run)]
    if command != "squeue":
        reading = Reading(run.begin)
        assert reading.reservations() == ()
        reads += [lambda: reading.nodes(print), lambda: Scontrol(run).node("n1")]
    kind = ControllerAway if (case, release) in HANGS_UP else KINDS[case]
    assert {type(refused(read)) for read in reads} == {kind}


def test_an_error_that_was_reported_with_exit_status_0_is_one() -> None:
    """So does 26.05 write one of them: without a blank."""
    said = "slurm_load_ctl_conf error:Protocol authentication error\n"
    error = refused(
        lambda: asking(lambda argv, **_: Finished(tuple(argv), 0, "x", said), None, 60.0)("/bin/scontrol")
    )
    assert type(error) is Denied


def test_a_mere_warning_is_no_refusal() -> None:
    warning = (
        "squeue: error: Ignoring obsolete FastSchedule=1 option. Please remove from your configuration.\n"
    )
    ask = asking(lambda argv, **_: Finished(tuple(argv), 0, "1\n", warning), None, 60.0)
    assert ask("/usr/bin/squeue") == "1\n"


def test_a_command_that_did_not_end_is_named() -> None:
    def run(argv: Sequence[str], **_: object) -> Finished:
        raise DeadlineExceeded("no end after 60 s")

    error = refused(lambda: asking(run, None, 60.0)("/usr/bin/squeue", "-h"))
    assert (type(error), str(error)) == (SlurmTimeout, "/usr/bin/squeue -h: no end after 60 s")

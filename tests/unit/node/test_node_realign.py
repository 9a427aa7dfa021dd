# ruff: noqa: E501 - one case a line
"""A whole realignment with a shell that only listens: order, journal, what ends it, how it goes on then."""

import errno
from dataclasses import replace
from typing import ClassVar

import pytest
from fake_host import (
    APT,
    BOOT,
    NEWER,
    Runner,
    V,
    digests,
    fetches,
    make_config,
    make_host,
    profile,
    stuck,
    target,
)

from slurm_gsp.hook.memory import load_ladder, save_ladder
from slurm_gsp.node.failing import Failure, RefusedError
from slurm_gsp.node.host import Host
from slurm_gsp.node.journal import Places, State, load_journal, load_pin
from slurm_gsp.node.realign import dry_run, log_of, realign, reboot_realigned, stage
from slurm_gsp.node.situation import read_situation
from slurm_gsp.node.staging import finish, staging_folder
from slurm_gsp.node.steps import Log, NoRecord, StepFailedError, run_script, step
from slurm_gsp.process import CommandMissing, DeadlineExceeded

OF = target(profile(NEWER))
STEPS = ["preflight", "fetch", "holders", "stop-services", "unload", "purge", "install", "build", "check",
         "initramfs", "hold", "pin"]  # fmt: skip
SCRIPTS = [name for name in STEPS if name not in {"holders", "check", "pin"}]


class Killed(BaseException):
    """The power went."""


@pytest.fixture
def host(tmp_path):
    made = make_host(tmp_path)
    made.run.answers["fetch"] = fetches(make_config(tmp_path), OF)
    return made


def run(host, tmp_path, of=OF, **config):
    return realign(host, make_config(tmp_path, **config), of, log_of(host, of.operation))


def test_all_steps_in_order_and_the_pin(host, tmp_path):
    assert run(host, tmp_path) is None
    assert host.run.steps == SCRIPTS
    journal = load_journal(host.state)
    assert (journal.operation, journal.boot, journal.state) == ("c1/realign/1", BOOT, State.DONE)
    assert [(one.number, one.name, one.ok) for one in journal.steps] == [
        (number, name, True) for number, name in enumerate(STEPS, start=1)
    ]
    assert load_pin(host.state) == journal.pinned == OF.pinned
    log = (host.logs / "realign-c1-realign-1.log").read_text()
    assert "differs: nvidia-utils-580 is 580.95.05-0ubuntu1, pinned is 580.95.05-0ubuntu2" in log
    assert "step 12 pin: done" in log


def test_the_pin_that_it_left_is_what_the_next_look_compares_with(host, tmp_path):
    run(host, tmp_path)
    pin = read_situation(host, make_config(tmp_path), OF).evidence.pin
    assert (pin.driver, pin.source) == (V, f"{host.state.state}/pin.json")


def test_what_is_printed_is_what_is_run(host, tmp_path):
    config = make_config(tmp_path)
    plan, against = dry_run(host, config, OF)
    assert (against, host.run.steps) == ((), [])
    assert not host.logs.exists() and not host.state.journal.exists()
    run(host, tmp_path)
    assert {step.name: step.script for step in plan.steps if step.script} == {
        name: script for name, script in host.run.scripts.items() if name in STEPS
    }


def test_nothing_to_do_touches_no_package(tmp_path):
    host = make_host(tmp_path)
    assert run(host, tmp_path, target()) is None
    assert host.run.steps == ["stop-services", "unload", "build", "initramfs", "hold"]
    assert host.run.scripts["dpkg"] == "-V " + " ".join(pin.name for pin in APT)


def test_a_file_that_was_copied_over_makes_work(tmp_path):
    host = make_host(tmp_path)
    host.run.outputs["dpkg"] = "??5??????   /usr/lib/firmware/nvidia/580.95.05/gsp_ga10x.bin\n"
    host.run.answers["fetch"] = fetches(make_config(tmp_path), target())
    assert run(host, tmp_path, target()) is None
    assert host.run.steps == SCRIPTS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_that_fails_ends_it(host, tmp_path, name):
    host.run.answers[name] = 3
    host.run.outputs[name] = "reading...\nE: out of luck\n\n"
    number = STEPS.index(name) + 1
    failure = run(host, tmp_path)
    assert failure == Failure(number, name, "E: out of luck (exit status 3)")
    assert failure.reason == f"gsp:realign-failed step={number} {name}: E: out of luck (exit status 3)"
    journal = load_journal(host.state)
    assert (journal.state, journal.failed, journal.steps[-1].ok) == (State.FAILED, failure.what, False)
    assert load_pin(host.state) is None
    assert host.run.ran[-1] == name
    # and once that is repaired, the same again
    host.run.answers.pop(name)
    host.run.answers["fetch"] = fetches(make_config(tmp_path), OF)
    host.run.ran.clear()
    assert run(host, tmp_path) is None
    assert load_journal(host.state).state is State.DONE
    assert set(SCRIPTS) - set(host.run.ran) <= {"preflight", "fetch"}  # those that are staged by then


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_power_cut_in_any_step_is_finished_by_the_next_run(host, tmp_path, name):
    host.run.answers[name] = Killed()
    with pytest.raises(Killed):
        run(host, tmp_path)
    cut = load_journal(host.state)
    assert (cut.state, cut.steps[-1].name, cut.steps[-1].ok) == (State.RUNNING, name, None)
    assert load_pin(host.state) is None
    host.run.answers.pop(name)
    host.run.answers["fetch"] = fetches(make_config(tmp_path), OF)
    assert run(host, tmp_path) is None
    journal = load_journal(host.state)
    assert (journal.state, [one.name for one in journal.steps]) == (State.DONE, STEPS)


class Cutting(Places):
    """A place whose disk loses its power at the n-th write: a step is written when it begins and ends."""

    last: ClassVar[int]
    writes: ClassVar[int]

    @property
    def journal(self):
        Cutting.writes += 1
        if Cutting.writes == Cutting.last:
            raise Killed
        return super().journal


@pytest.mark.parametrize("number", range(1, len(STEPS)))
def test_a_power_cut_between_two_steps(host, tmp_path, number):
    """Between the end of one and the beginning of the next."""
    Cutting.writes, Cutting.last = 0, 2 * number + 1
    with pytest.raises(Killed):
        run(replace(host, state=Cutting(host.state.state)), tmp_path)
    cut = load_journal(host.state)
    assert (cut.state, cut.steps[-1].number, cut.steps[-1].ok) == (State.RUNNING, number, True)
    assert run(host, tmp_path) is None
    assert load_journal(host.state).state is State.DONE


def test_our_own_fault_ends_it_too(host, tmp_path):
    host.run.answers["unload"] = ZeroDivisionError("ours")
    assert run(host, tmp_path) == Failure(5, "unload", "ZeroDivisionError: ours")
    assert "Traceback" in (host.logs / "realign-c1-realign-1.log").read_text()


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (DeadlineExceeded("sh: no end"), "not done within 1800 s"),
        (CommandMissing("/bin/sh: none"), "/bin/sh: none"),
    ],
)
def test_a_script_that_does_not_end(host, tmp_path, error, why):
    host.run.answers["install"] = error
    assert run(host, tmp_path) == Failure(7, "install", why)


def test_a_full_disk_at_the_very_start(host, tmp_path):
    host.state.state.parent.joinpath("state").write_text("no folder can be made here")
    failure = run(host, tmp_path)
    assert (failure.number, failure.name, host.run.ran) == (1, "preflight", [])
    assert f"FileExistsError: [Errno {errno.EEXIST}]" in failure.why


def test_what_stands_against_it_changes_nothing(host, tmp_path):
    failure = run(replace(host, free_mb=lambda _: 5, is_root=False), tmp_path)
    assert failure == Failure(1, "preflight", "root is needed")
    assert host.run.steps == []
    assert "also: 5 MB free on /" in (host.logs / "realign-c1-realign-1.log").read_text()


def test_another_package_manager_is_waited_for(host, tmp_path):
    waits = []
    busy = replace(host, runner=Runner(host.runner.recorded, locks=3), pause=waits.append)
    assert run(busy, tmp_path) is None
    assert waits == [1.0, 1.0, 1.0]


def test_one_that_began_in_the_middle_is_waited_for(host, tmp_path):
    waits, fetch = [], host.run.answers["fetch"]
    host.run.answers["fetch"] = lambda script: setattr(host.runner, "locks", 2) or fetch(script)
    assert run(replace(host, pause=waits.append), tmp_path) is None
    assert waits == [1.0, 1.0]


def test_another_package_manager_that_does_not_end(host, tmp_path):
    failure = run(replace(host, runner=Runner(host.runner.recorded, locks=99)), tmp_path)
    assert failure.why == "a package manager still runs (lock /var/lib/dpkg/lock)"


def holder(host, environ=""):
    folder = host.proc / "77"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/3").symlink_to("/dev/nvidia0")
    (folder / "comm").write_text("train\n")
    (folder / "environ").write_text(environ)


def test_a_job_that_has_the_driver_open_ends_it(host, tmp_path):
    holder(host, "SLURM_JOB_ID=5\0")
    failure = run(host, tmp_path)
    assert failure == Failure(3, "holders", "a job has the driver open: train (pid 77, uid -1, job 5)")
    assert host.run.steps == ["preflight", "fetch"]  # a fabric manager that stops would take the job with it


def test_any_other_is_left_to_the_reboot(host, tmp_path):
    holder(host)
    assert run(host, tmp_path) is None
    log = (host.logs / "realign-c1-realign-1.log").read_text()
    assert "left to the reboot, the driver is open in train (pid 77, uid -1)" in log


def test_services_are_not_told_as_holders(host, tmp_path):
    holder(host)
    (host.proc / "77/comm").write_text("nvidia-persiste\n")
    assert run(host, tmp_path) is None
    assert "the driver is open in" not in (host.logs / "realign-c1-realign-1.log").read_text()


def test_a_process_that_is_stuck_in_the_driver_is_left_to_the_reboot(host, tmp_path):
    holder(host)
    with stuck(host.proc / "77/environ"):
        assert run(replace(host, proc_s=0.1), tmp_path) is None
    log = (host.logs / "realign-c1-realign-1.log").read_text()
    assert "left to the reboot, a process is stuck in the driver" in log


def test_a_wrong_digest_installs_nothing(host, tmp_path):
    wrong = digests({f"{pin.name}_{pin.version}_amd64.deb": "0" * 64 for pin in NEWER})
    failure = run(host, tmp_path, target(profile(NEWER, downloads=wrong)))
    assert (failure.number, failure.name) == (2, "fetch")
    assert failure.why.endswith("nothing was installed")
    assert "stop-services" not in host.run.ran


def test_a_disk_that_is_not_as_pinned_ends_it(host, tmp_path):
    other = target(profile(NEWER, driver="580.95.06"))
    host.run.answers["fetch"] = fetches(make_config(tmp_path), other)
    failure = run(host, tmp_path, other)
    assert (failure.number, failure.name) == (9, "check")
    assert failure.why == f"dkms status is {V}, pinned is 580.95.06"


def test_a_template_that_is_wrong_is_found_before_anything_is_done(host, tmp_path):
    own = tmp_path / "templates/debian/hold.sh.j2"
    own.parent.mkdir(parents=True)
    own.write_text("{{ nothing }}")
    failure = run(host, tmp_path)
    assert (failure.number, host.run.ran) == (1, [])
    assert "hold.sh.j2: 'nothing' is undefined" in failure.why


def test_the_ladder_learns_that_it_was_tried(host, tmp_path):
    save_ladder({"fw-skew": (BOOT, ("reboot",)), "umd-skew": (BOOT, ("realign",))}, host.ladder)
    assert run(host, tmp_path) is None
    assert load_ladder(host.ladder) == {
        "fw-skew": (BOOT, ("reboot", "realign")),
        "umd-skew": (BOOT, ("realign",)),
    }


def test_the_reboot(host, tmp_path):
    config, log = make_config(tmp_path), log_of(host, OF.operation)
    run(host, tmp_path)
    assert reboot_realigned(host, config, log) is None
    assert host.run.ran[-1] == "reboot"
    host.run.answers["reboot"] = 1
    host.run.outputs["reboot"] = "Call to Reboot failed"
    failure = reboot_realigned(host, config, log)
    assert failure == Failure(13, "reboot", "Call to Reboot failed (exit status 1)")
    assert load_journal(host.state).state is State.FAILED
    host.run.answers["reboot"] = CommandMissing("/usr/sbin/reboot: none")
    assert reboot_realigned(host, config, log).why == "/usr/sbin/reboot: none"


# --- staging -----------------------------------------------------------------------------------------------


def test_staged_once_then_only_looked_at(host, tmp_path):
    config, log = make_config(tmp_path), Log(host.logs / "stage.log")
    stage(host, config, OF, log)
    assert host.run.steps == ["preflight", "fetch"]
    assert not host.state.journal.exists()
    stage(host, config, OF, log)
    assert host.run.steps == ["preflight", "fetch"]
    (staging_folder(config, OF) / f"nvidia-utils-580_{NEWER[0].version}_amd64.deb").write_text("bad")
    stage(host, config, OF, log)
    assert host.run.steps == ["preflight", "fetch", "fetch"]
    host.run.ran.clear()
    assert run(host, tmp_path) is None
    assert host.run.steps == [name for name in SCRIPTS if name not in {"preflight", "fetch"}]


def test_nothing_to_do_does_not_look_at_what_is_staged(tmp_path):
    """A node goes back to a set that it has on disk, whatever the repository and its downloads are like."""
    host, config = make_host(tmp_path), make_config(tmp_path)
    folder = staging_folder(config, target())
    folder.mkdir(parents=True)
    fetches(config, target())("")
    finish(folder, (), APT, "debian")
    (folder / f"nvidia-utils-580_{APT[0].version}_amd64.deb").write_text("damaged")
    assert run(host, tmp_path, target()) is None
    assert "fetch" not in host.run.ran


@pytest.mark.parametrize("place", [".", "0123456789ab", "0123456789ab/h100"])
def test_nobody_else_may_write_where_packages_are_installed_from(host, tmp_path, place):
    folder = staging_folder(make_config(tmp_path), OF)
    folder.mkdir(parents=True)
    (tmp_path / "downloads" / place).chmod(0o777)
    failure = run(host, tmp_path)
    assert (failure.name, "others than root can write it" in failure.why) == ("fetch", True)
    assert "fetch" not in host.run.ran


def test_what_stands_against_staging(host, tmp_path):
    with pytest.raises(RefusedError, match="3 MB free on /"):
        stage(replace(host, free_mb=lambda _: 3), make_config(tmp_path), OF, Log(host.logs / "stage.log"))


# --- steps -------------------------------------------------------------------------------------------------


def test_a_log_that_cannot_be_written_costs_the_log_only(tmp_path):
    told = []
    (tmp_path / "logs").write_text("a file")
    log = Log(tmp_path / "logs/x.log", told.append)
    log.open()
    assert step(NoRecord(), log, 1, "one", lambda: 7) == 7
    assert told[0].startswith("no log: ") and told[1] == "step 1 one"
    assert (log.size(), log.complaint(0)) == (0, "")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("", ""),
        ("one\ntwo\n  \n", "two"),
        ("Err:1 file:/srv\nE: this\nN: see apt-secure(8)\nE: Some index files failed\n", "E: this"),
        ("dpkg: error processing package x (--configure):\n ...\nE: Sub-process\n", "dpkg: error processing package x (--configure): ..."),
        ("error: Failed dependencies:\n\ta = 1 is needed by b\n\tc is needed by d\n", "error: Failed dependencies: a = 1 is needed by b"),
        ("Error: \n Problem: conflicting requests\n  - nothing provides a needed by b\n(try --skip)\n", "Error: Problem: conflicting requests - nothing provides a needed by b"),
        ("Error! Bad return status for module build\nConsult make.log\n", "Error! Bad return status for module build"),
    ],
)  # fmt: skip
def test_what_a_script_complained_of(tmp_path, said, complaint):
    log = Log(tmp_path / "x.log")
    log.keep("E: of an earlier one")
    since = log.size()
    with log.path.open("a") as file:
        file.write(said)
    assert log.complaint(since) == complaint


def test_a_journal_that_fails_does_not_hide_why(tmp_path):
    class Full(NoRecord):
        def end(self, ok, seconds):
            raise OSError(errno.ENOSPC, "No space left on device")

    def work():
        raise ZeroDivisionError("ours")

    told = []
    with pytest.raises(StepFailedError) as error:
        step(Full(), Log(tmp_path / "x.log", told.append), 1, "one", work)
    assert error.value.failure == Failure(1, "one", "ZeroDivisionError: ours")
    assert any("the journal could not be written" in line for line in told)


@pytest.mark.parametrize(
    ("why", "reason"),
    [
        ("plain", "gsp:realign-failed step=7 install: plain"),
        ('a "b" \\ c\nd\té', "gsp:realign-failed step=7 install: a -b- - c d -"),
        ("x" * 200, "gsp:realign-failed step=7 install: " + "x" * 85),
        ("x" * 84 + " y", "gsp:realign-failed step=7 install: " + "x" * 84),
    ],
)
def test_a_reason_is_one_line_that_slurm_keeps(why, reason):
    assert Failure(7, "install", why).reason == reason
    assert len(reason) <= 120


def test_the_shell_writes_into_the_log_by_itself(tmp_path):
    host = Host("n1", runner=None)
    log = Log(tmp_path / "logs/x.log")
    log.open()
    run_script(host, log, "one", "echo out; echo err >&2; cat; echo $HOME $0", 10)
    assert log.path.read_text() == "out\nerr\n/root slurm-gsp-one\n"
    with pytest.raises(Exception, match=r"^false was the last \(exit status 1\)$"):
        run_script(host, log, "two", "echo false was the last; false; echo not reached", 10)
    assert "not reached" not in log.path.read_text()

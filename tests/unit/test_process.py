"""The one place that starts processes, tried with real ones."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from slurm_gsp import process
from slurm_gsp.process import (
    CommandMissing,
    DeadlineExceeded,
    Finished,
    ProcessError,
    converse,
    find_command,
    run,
)

SH = "/bin/sh"


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie that nobody reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_soon(pid: int) -> bool:
    end = time.monotonic() + 3
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def test_a_process_that_ends_is_told_whole() -> None:
    script = "echo out; echo err >&2; exit 3"
    assert run([SH, "-c", script], deadline_s=5) == Finished((SH, "-c", script), 3, "out\n", "err\n")


def test_stdin_is_fed_and_closed() -> None:
    text = "0123456789" * 50_000
    assert run(["/bin/cat"], deadline_s=5, stdin=text).stdout == text
    assert run(["/bin/cat"], deadline_s=5).stdout == ""


def test_a_sink_takes_the_output_as_it_comes_and_none_is_kept() -> None:
    pieces: list[bytes] = []
    done = run(
        [SH, "-c", "printf one; sleep 0.3; printf two"], deadline_s=5, sink=pieces.append, limit_bytes=1
    )
    assert (done.rc, done.stdout) == (0, "")
    assert [piece for piece in pieces if piece] == [b"one", b"two"]


def test_a_sink_that_refuses_ends_the_process() -> None:
    def refuse(_: bytes) -> None:
        raise ValueError("not this")

    with at_most(3), pytest.raises(ValueError, match="not this"):
        run([SH, "-c", "echo; sleep 30"], deadline_s=20, sink=refuse)


def test_a_process_that_reads_no_stdin_is_no_error() -> None:
    assert run(["/bin/true"], deadline_s=5, stdin="x" * 1_000_000).rc == 0


def test_a_signal_is_a_negative_status() -> None:
    assert run([SH, "-c", "kill -9 $$"], deadline_s=5).rc == -signal.SIGKILL


def test_the_environment_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/evil.so")
    lines = run(["/usr/bin/env"], deadline_s=5, env={"SLURM_CONF": "/x"}).stdout.splitlines()
    assert sorted(lines) == [
        "LC_ALL=C",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin",
        "SLURM_CONF=/x",
    ]


def test_nothing_passes_through_a_shell() -> None:
    assert run(["/bin/echo", "$(id)", "a b;c"], deadline_s=5).stdout == "$(id) a b;c\n"


@pytest.mark.parametrize("argv", [[], ["true"], ["./true"], [""]])
def test_a_command_without_an_absolute_path_is_refused(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="absolute path"):
        run(argv, deadline_s=5)


def test_a_missing_command(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("")
    junk = tmp_path / "junk"
    junk.write_bytes(b"\0\1\2")
    junk.chmod(0o755)
    for path, why in [
        (tmp_path / "none", "No such file or directory"),
        (plain, "Permission denied"),
        (plain / "below", "Not a directory"),
        (junk, "Exec format error"),
    ]:
        with pytest.raises(CommandMissing) as caught:
            run([str(path)], deadline_s=5)
        assert str(caught.value) == f"{path}: {why}"


def test_a_process_that_cannot_be_started_for_another_reason() -> None:
    with pytest.raises(ProcessError, match=r"^/bin/true: cannot start: Argument list too long$"):
        run(["/bin/true", "x" * 10_000_000], deadline_s=5)


def test_past_the_deadline_the_group_is_asked_to_stop() -> None:
    with at_most(2), pytest.raises(DeadlineExceeded) as caught:
        run([SH, "-c", "echo working >&2; sleep 60 & echo $!; wait"], deadline_s=0.3)
    told = "/bin/sh -c echo working >&2; sleep 60 & echo $!; wait: no end after 0.3 s; it had said: working"
    assert str(caught.value) == told


def test_what_ignores_term_is_killed_with_its_children() -> None:
    script = "trap '' TERM; sleep 60 & echo $!; wait; wait; sleep 60"
    with at_most(4), pytest.raises(DeadlineExceeded) as caught:
        run([SH, "-c", script], deadline_s=0.3)
    assert gone_soon(int(str(caught.value).rpartition("it had said: ")[2]))


def test_what_cannot_be_killed_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[tuple[int, int]] = []
    real = os.killpg
    monkeypatch.setattr(process, "GRACE_S", 0.1)
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append((pid, number)))
    with at_most(2), pytest.raises(DeadlineExceeded) as caught:
        run(["/bin/sleep", "60"], deadline_s=0.1)
    (pid, _), (same, _) = killed
    real(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [number for _, number in killed] == [signal.SIGTERM, signal.SIGKILL]
    assert same == pid
    assert str(caught.value) == f"/bin/sleep 60: no end after 0.1 s; process {pid} cannot be killed"


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for() -> None:
    with at_most(2):
        finished = run([SH, "-c", "sleep 5 & echo done"], deadline_s=20)
    assert (finished.rc, finished.stdout) == (0, "done\n")


def test_a_process_that_closes_its_output_and_goes_on_has_the_same_deadline() -> None:
    with at_most(3), pytest.raises(DeadlineExceeded):
        run([SH, "-c", "exec >&- 2>&-; sleep 60"], deadline_s=0.3)


def test_output_past_the_limit_is_cut_and_the_process_ended() -> None:
    with at_most(3):
        finished = run(["/bin/cat", "/dev/zero"], deadline_s=20, limit_bytes=1000)
    assert (finished.rc, finished.stdout) == (-signal.SIGTERM, "\0" * 1000)


def test_output_of_just_the_limit_is_whole() -> None:
    assert run(["/bin/echo", "abc"], deadline_s=5, limit_bytes=4) == Finished(
        ("/bin/echo", "abc"), 0, "abc\n", ""
    )


def test_output_that_is_not_utf8_is_replaced() -> None:
    assert run([SH, "-c", r"printf 'a\377b'"], deadline_s=5).stdout == "a\N{REPLACEMENT CHARACTER}b"


def test_no_descriptor_is_left_open() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    run(["/bin/true"], deadline_s=5)
    converse(["/bin/cat"], deadline_s=5, opening="x\n", reply=lambda out, err: "")
    with pytest.raises(DeadlineExceeded):
        converse(["/bin/sleep", "9"], deadline_s=0.1, opening="x\n", reply=lambda out, err: None)
    with pytest.raises(CommandMissing):
        converse(["/none"], deadline_s=1, opening="", reply=lambda out, err: None)
    assert descriptors() == before


# --- conversations ------------------------------------------------------------------------------------------

BUFFERED = "import sys; a = input(); print('got', a); b = input(); print('then', b); sys.exit(4)"
"""Python, like any C program, hands out lines to a terminal at once, and to a pipe only at its end."""


def test_a_conversation_with_a_program_that_never_flushes() -> None:
    heard: list[tuple[str, str]] = []

    def reply(stdout: str, stderr: str) -> str | None:
        heard.append((stdout, stderr))
        return "two\n" if "got one\n" in stdout else None

    argv = [sys.executable, "-I", "-S", "-c", BUFFERED]
    finished = converse(argv, deadline_s=10, opening="one\n", reply=reply)
    assert finished == Finished(tuple(argv), 4, "got one\nthen two\n", "")
    assert heard[-1] == ("got one\n", "")


def test_without_a_terminal_a_pipe_does_where_the_program_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> tuple[int, int]:
        raise OSError("out of pty devices")

    monkeypatch.setattr(os, "openpty", none)
    script = 'read a; echo "got $a"; read b; echo "then $b"'
    finished = converse(
        [SH, "-c", script],
        deadline_s=5,
        opening="one\n",
        reply=lambda out, err: "two\n" if "got" in out else None,
    )
    assert finished.stdout == "got one\nthen two\n"


def test_a_conversation_that_gets_no_answer_ends_at_its_deadline() -> None:
    with at_most(3), pytest.raises(DeadlineExceeded, match=r"no end after 0\.3 s"):
        converse(["/bin/cat"], deadline_s=0.3, opening="x\n", reply=lambda out, err: None)


def test_a_conversation_whose_partner_ends_early() -> None:
    finished = converse(
        [SH, "-c", "echo no >&2; exit 1"], deadline_s=5, opening="", reply=lambda out, err: None
    )
    assert (finished.rc, finished.stderr) == (1, "no\n")


def test_an_exception_of_the_judge_ends_the_process_and_is_passed_on() -> None:
    pids: list[int] = []

    def reply(stdout: str, stderr: str) -> str | None:
        pids.append(int(stdout))
        raise LookupError("judge")

    with at_most(3), pytest.raises(LookupError, match="judge"):
        converse([SH, "-c", "echo $$; exec sleep 60"], deadline_s=30, opening="", reply=reply)
    assert gone_soon(pids[0])


# --- finding ------------------------------------------------------------------------------------------------


def test_a_command_is_found_in_fixed_directories_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder in (one, two, three):
        folder.mkdir()
    (one / "tool").write_text("not executable")
    for folder in (two, three):
        (folder / "tool").write_text("#!/bin/sh\n")
        (folder / "tool").chmod(0o755)
    (one / "folder").mkdir()
    monkeypatch.setenv("PATH", str(three))
    dirs = [str(one), str(two), str(three)]
    assert find_command("tool", dirs) == str(two / "tool")
    assert find_command("folder", dirs) is None
    assert find_command("tool") is None

"""The one place that starts processes: argument lists, a deadline, no shell.

A hook runs as root under slurmd with next to no environment, and what it starts can hang in the driver, in
the network or in the kernel. So every process here gets an absolute path, a fixed environment, a process
group of its own, and an end: past the deadline the group is asked to stop (TERM), then killed, and a process
that cannot be killed (uninterruptible sleep) is left behind rather than waited for.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

COMMAND_DIRS: Final = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")
DEFAULT_ENV: Final[Mapping[str, str]] = {"PATH": ":".join(COMMAND_DIRS), "LC_ALL": "C"}
DEFAULT_LIMIT_BYTES: Final = 64 * 1024 * 1024

GRACE_S: Final = 1.0
"""How long a process may take to end after TERM, and again after KILL, before it is left behind."""
LINGER_S: Final = 0.2
"""How long to read on after the process ended, when something it started still holds its output open."""
TICK_S: Final = 0.05
CHUNK: Final = 65536


class ProcessError(Exception):
    """A process could not be started, or did not end by itself."""


class CommandMissing(ProcessError):  # noqa: N818  (named after what happened, like FileNotFoundError's kin)
    """The command is not on this node, or cannot be executed: missing evidence, never a fault of the node."""


class DeadlineExceeded(ProcessError):  # noqa: N818
    """The process did not end in time; it was stopped, or left behind if it could not be."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended; ``rc`` is its exit status, or minus the signal that ended it."""

    argv: tuple[str, ...]
    rc: int
    stdout: str
    stderr: str


Reply = Callable[[str, str], str | None]
"""Given all of stdout and stderr so far: what to write and then close stdin, or None to wait for more."""
Sink = Callable[[bytes], None]
"""Takes the output piece by piece."""


def find_command(name: str, dirs: Sequence[str] = COMMAND_DIRS) -> str | None:
    """The absolute path of an executable, looked for in fixed directories and never in the caller's PATH."""
    for folder in dirs:
        path = Path(folder) / name
        if path.is_file() and os.access(path, os.X_OK):
            return str(path)
    return None


def run(  # noqa: PLR0913 - what a process needs
    argv: Sequence[str],
    *,
    deadline_s: float,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    sink: Sink | None = None,
) -> Finished:
    """Run one command to its end. ``env`` is added to a small fixed environment, nothing is inherited.

    Output past ``limit_bytes`` (of stdout, or of stderr) is cut and the process ended. A ``sink`` takes
    stdout as it comes, without a limit, and it is not kept. An exception from it ends the process.
    """
    child = _Child(argv, deadline_s, env, limit_bytes, pty=False)
    child.sink = sink
    return child.finish(stdin, None)


def begin(
    argv: Sequence[str], *, deadline_s: float, env: Mapping[str, str] | None = None, sink: Sink | None = None
) -> Callable[[], Finished]:
    """Start one command as ``run`` does and go on; the result waits for its end, and has to be called."""
    child = _Child(argv, deadline_s, env, DEFAULT_LIMIT_BYTES, pty=False)
    child.sink = sink
    return lambda: child.finish(None, None)


def converse(
    argv: Sequence[str],
    *,
    deadline_s: float,
    opening: str,
    reply: Reply,
    env: Mapping[str, str] | None = None,
) -> Finished:
    """Run one command, say ``opening``, and answer once what it says with ``reply``; one deadline for it all.

    The command writes to a pseudo-terminal, so that it hands out each line as it writes it; with a pipe, most
    programs keep their output back until they end. Where no pseudo-terminal can be had, a pipe is used.
    An exception from ``reply`` ends the process and is passed on.
    """
    child = _Child(argv, deadline_s, env, DEFAULT_LIMIT_BYTES, pty=True)
    return child.finish(opening, reply)


class _Child:
    def __init__(
        self,
        argv: Sequence[str],
        deadline_s: float,
        env: Mapping[str, str] | None,
        limit_bytes: int,
        *,
        pty: bool,
    ) -> None:
        self.argv = tuple(argv)
        if not self.argv or not os.path.isabs(self.argv[0]):
            raise ValueError(f"the command must be an absolute path: {list(self.argv)!r}")
        self.deadline_s = deadline_s
        self.limit = limit_bytes
        self.end = time.monotonic() + deadline_s
        self.out = bytearray()
        self.err = bytearray()
        self.cut = False
        self.sink: Sink | None = None
        slave = -1
        self.master = -1
        if pty:
            with contextlib.suppress(OSError):
                self.master, slave = _open_terminal()
        try:
            self.process = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=slave if slave >= 0 else subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**DEFAULT_ENV, **(env or {})},
                cwd="/",
                process_group=0,
            )
        except OSError as error:
            if self.master >= 0:
                os.close(self.master)
            if (
                isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError)
                or error.errno == 8
            ):
                raise CommandMissing(f"{self.argv[0]}: {error.strerror}") from error
            raise ProcessError(f"{self.argv[0]}: cannot start: {error.strerror}") from error
        finally:
            if slave >= 0:
                os.close(slave)

    def finish(self, stdin: str | None, reply: Reply | None) -> Finished:
        try:
            self._exchange((stdin or "").encode(), reply)
            rc = self._wait()
        except _Late:
            self._stop()
            raise DeadlineExceeded(self._late()) from None
        except BaseException:
            self._stop()
            raise
        finally:
            self._close()
        return Finished(self.argv, rc, _text(self.out), _text(self.err))

    def _exchange(self, pending: bytes, reply: Reply | None) -> None:
        """Feed stdin and read both outputs until they close, the process ends, or time is up."""
        stdin = self.process.stdin
        stderr = self.process.stderr
        assert stdin is not None and stderr is not None
        stdout_fd = self.master if self.process.stdout is None else self.process.stdout.fileno()
        sinks = {stdout_fd: self.out, stderr.fileno(): self.err}
        ended: float | None = None
        with selectors.DefaultSelector() as selector:
            for fd in sinks:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            os.set_blocking(stdin.fileno(), False)
            while sinks and not self.cut:
                pending = self._feed(stdin, pending, more_to_come=reply is not None)
                now = time.monotonic()
                if now >= self.end:
                    raise _Late
                if ended is None and self._ended():
                    ended = now
                if ended is not None and now - ended > LINGER_S:
                    return
                events = selector.select(min(TICK_S, self.end - now))
                for fd in [key.fd for key, _ in events if not self._read(key.fd, sinks[key.fd])]:
                    selector.unregister(fd)
                    del sinks[fd]
                answer = reply(_text(self.out), _text(self.err)) if reply is not None and events else None
                if answer is not None:
                    reply = None
                    pending += answer.encode()

    def _feed(self, stdin: IO[bytes], pending: bytes, *, more_to_come: bool) -> bytes:
        """Write what stdin takes now, and close it after the last byte; what is left to write."""
        if stdin.closed:
            return b""
        try:
            while pending:
                pending = pending[os.write(stdin.fileno(), pending) :]
        except BlockingIOError:
            return pending
        except OSError:  # it reads no more: not our matter, its output and exit status say the rest
            pending = b""
        if not more_to_come:
            _close_quietly(stdin)
        return pending

    def _read(self, fd: int, sink: bytearray) -> bool:
        """Read what is there; False at the end of the output."""
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return True
        except OSError:  # a pseudo-terminal says EIO when the last writer closed it
            return False
        if self.sink is not None and sink is self.out:
            self.sink(data)
            return bool(data)
        room = self.limit - len(sink)
        sink += data[:room]
        self.cut = self.cut or len(data) > room
        return bool(data)

    def _wait(self) -> int:
        if self.cut:
            self._stop()
            return -signal.SIGKILL if self.process.returncode is None else self.process.returncode
        try:
            return self.process.wait(max(self.end - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            raise _Late from None

    def _ended(self) -> bool:
        """Whether the process ended. It is not reaped here, so its number still means its group."""
        if self.process.returncode is not None:
            return True
        return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _stop(self) -> None:
        """End the whole group, and wait only so long: what hangs in the kernel is left behind."""
        if self.process.returncode is not None:
            return
        self._signal(signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        while not self._ended() and time.monotonic() < until:
            time.sleep(0.01)
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE_S)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def _close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                _close_quietly(stream)
        if self.master >= 0:
            os.close(self.master)
            self.master = -1
        if self.process.returncode is None:
            # Left behind on purpose: without this, Python warns about it when the object goes.
            self.process.returncode = -signal.SIGKILL

    def _late(self) -> str:
        said = _text(self.err).strip() or _text(self.out).strip()
        tail = f"; it had said: {said[-300:]}" if said else ""
        stuck = (
            "" if self.process.returncode is not None else f"; process {self.process.pid} cannot be killed"
        )
        return f"{' '.join(self.argv)[:200]}: no end after {self.deadline_s:g} s{stuck}{tail}"


class _Late(Exception):  # noqa: N818
    """Time is up; the process still has to be stopped."""


def _text(data: bytearray) -> str:
    return data.decode("utf-8", "replace")


def _close_quietly(stream: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        stream.close()


def _open_terminal() -> tuple[int, int]:
    """A pseudo-terminal (our end, its end) that hands lines through as they are."""
    import termios  # noqa: PLC0415  (only where a conversation is held)

    master, slave = os.openpty()
    try:
        modes = termios.tcgetattr(slave)
        modes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, modes)
    except termios.error as error:
        os.close(master)
        os.close(slave)
        raise OSError(*error.args) from error
    return master, slave

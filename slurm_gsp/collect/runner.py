"""The commands a look needs, by id: run on this node, or read back from a recording."""

from __future__ import annotations

import fcntl
import json
import math
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from slurm_gsp import process
from slurm_gsp.collect.kernel_log import read_kernel_log
from slurm_gsp.collect.nvml_probe import BOARDS, NOT_INSTALLED
from slurm_gsp.collect.root import Root
from slurm_gsp.core.reading import Absent, Unknown
from slurm_gsp.parse import ParseError

ARGV: Mapping[str, tuple[str, ...]] = {
    "modinfo": ("modinfo", "nvidia"),
    "dkms": ("dkms", "status"),
    "rpm": ("rpm", "-qa", "--qf", r"%{NAME} %{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\n"),
    "ldcache": ("ldconfig", "-p"),
    "dmesg": ("dmesg",),
}

LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/lib/rpm/.rpm.lock", "/run/zypp.pid")
"""Files that a package manager keeps locked while a transaction runs."""

_RECORDED_LIMIT = 64 << 20

_PROBE = Path(__file__).with_name("nvml_probe.py")


@dataclass(frozen=True, slots=True)
class Output:
    """What a command said; ``rc`` None means it did not come back within its deadline."""

    argv: tuple[str, ...]
    rc: int | None
    stdout: str
    stderr: str


class Runner(Protocol):
    """Answers for a command id; None: the command is not there."""

    def run(self, command: str) -> Output | None:
        """The output of the command with this id."""
        ...


class LiveRunner:
    """Runs the commands on this node. Deadlines are seconds; ``commands_s`` is for all but the probe."""

    def __init__(self, command_s: float = 5.0, nvml_s: float = 15.0, *, commands_s: float = math.inf) -> None:
        self._command_s = command_s
        self._nvml_s = nvml_s
        self._left_s = commands_s
        self.probe_pid: int | None = None
        """The NVML probe, or another client of the driver, that runs or did not come back."""
        self._special: dict[str, Callable[[], Output | None]] = {
            "nvml": self._nvml,
            "boards": self._boards,
            "kmsg": self._kmsg,
            "transaction": _transaction,
        }

    def run(self, command: str) -> Output | None:
        """Run the command with this id within its deadline."""
        special = self._special.get(command)
        return special() if special is not None else self._plain(ARGV[command])

    def _plain(self, argv: tuple[str, ...]) -> Output | None:
        path = process.find_command(argv[0])
        if path is None:
            return None
        if self._left_s <= 0:
            return Output(argv, None, "", "not asked: other commands used up the time")
        began = time.monotonic()
        try:
            done = process.run((path, *argv[1:]), deadline_s=min(self._command_s, self._left_s))
        except process.CommandMissing:
            return None
        except process.ProcessError as error:
            return Output(argv, None, "", str(error))
        finally:
            self._left_s -= time.monotonic() - began
        return Output(argv, done.rc, done.stdout, done.stderr)

    def _kmsg(self) -> Output | None:
        text = read_kernel_log()
        return Output(("dmesg",), 0, text, "") if text is not None else self._plain(ARGV["dmesg"])

    def _nvml(self) -> Output | None:
        return self._probe("nvml")

    def _boards(self) -> Output | None:
        return self._probe("boards", BOARDS)

    def _probe(self, command: str, *options: str) -> Output | None:
        argv = (command,)
        ended = self.alone((sys.executable, "-I", os.fspath(_PROBE), *options), self._nvml_s)
        if ended is None:
            return Output(argv, None, '{"init": "timeout"}', "")
        rc, said = ended
        if rc == NOT_INSTALLED:
            return None
        if rc != 0:
            return Output(argv, rc, '{"init": "crash"}', "")
        return Output(argv, 0, said.strip(), "")

    def alone(
        self, argv: tuple[str, ...], deadline_s: float, env: Mapping[str, str] | None = None
    ) -> tuple[int, str] | None:
        """A program that enters the driver, in a session of its own: its exit code and what it printed.

        None past the deadline: it is left alone and remembered, and no other is started beside it.
        """
        if self.probe_pid is not None:
            return None
        probe = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**process.DEFAULT_ENV, **(env or {})},
        )
        self.probe_pid = probe.pid
        until = time.monotonic() + deadline_s
        data = _read_until_closed(probe, until)
        rc = _end_of(probe, until) if data is not None else None
        if data is None or rc is None:
            probe.returncode = 0  # left behind on purpose: Python warns of it when the object goes
            return None
        self.probe_pid = None
        return rc, data.decode("utf-8", "replace")


class RecordedRunner:
    """Reads the commands of a recording back."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, command: str) -> Output | None:
        """What ``commands/<id>.json`` holds. Raises ParseError with the file when it is damaged."""
        path = self._folder / f"{command}.json"
        reading = Root(self._folder).read(f"/{command}.json", _RECORDED_LIMIT)
        if isinstance(reading, Absent):
            return None
        if isinstance(reading, Unknown):
            raise ParseError(f"{path}: not a recorded command: {reading.why}")
        try:
            data = json.loads(reading.value)
            argv = tuple(str(word) for word in data.get("argv", ()))
            rc = data.get("rc")
            return Output(
                argv,
                None if rc is None else int(rc),
                str(data.get("stdout", "")),
                str(data.get("stderr", "")),
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ParseError(f"{path}: not a recorded command: {error}") from None


def _end_of(probe: subprocess.Popen[bytes], until: float) -> int | None:
    """The exit code; None when it said all and does not end: closing the device hangs like opening it."""
    try:
        return probe.wait(max(1.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None


def _read_until_closed(probe: subprocess.Popen[bytes], until: float) -> bytes | None:
    """What the probe printed, None when it did not finish in time."""
    assert probe.stdout is not None
    descriptor, data = probe.stdout.fileno(), b""
    with probe.stdout:
        while True:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(descriptor, 1 << 16)
            if not chunk:
                return data
            data += chunk


def _transaction() -> Output | None:
    """Whether a package manager holds its lock: asked for, never taken."""
    held = [path for path in LOCKS if is_locked(path)]
    return Output(("transaction",), 0, "\n".join(held), "")


def is_locked(path: str) -> bool:
    """Another process holds a POSIX lock on the file (apt, dpkg, rpm use these)."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # struct flock: type, whence, start, length, pid; a read-only descriptor may ask, though not take.
        question = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, question)
        return bool(struct.unpack("hhqqi4x", answer)[0] != fcntl.F_UNLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)

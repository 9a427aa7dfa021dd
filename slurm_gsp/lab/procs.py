"""Processes that the lab starts: recorded on disk before they do anything, ended by pid and start time."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

_EXTRA_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class LabError(Exception):
    """Something that the lab needs is not there or did not happen; the text says what."""


def find_tool(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_EXTRA_PATH}")


def tool(name: str) -> str:
    """The absolute path of an external program."""
    path = find_tool(name)
    if path is None:
        raise LabError(f"{name} is not installed")
    return path


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None where it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def record(path: Path, pid: int) -> None:
    path.write_text(f"{pid} {start_time(pid)}\n")


def recorded(path: Path) -> int | None:
    """The pid in a record if that very process still runs."""
    try:
        pid, started = path.read_text().split()
    except (OSError, ValueError):
        return None
    return int(pid) if started.isdigit() and start_time(int(pid)) == int(started) else None


def spawn(argv: Sequence[str | Path], path: Path, log: Path, env: dict[str, str] | None = None) -> int:
    """Start a program in its own session; it runs on only after its pid stands in `path`.

    If we die in between, the waiting shell reads end-of-file and exits.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", 'read -r go && [ "$go" = go ] && exec "$@" </dev/null', "sh", *map(str, argv)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env=env,
            cwd="/",
        )
    record(path, process.pid)
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.close()
    process.returncode = 0  # it is a daemon: nobody waits for it through this object
    return process.pid


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return found


def descendants(pid: int) -> list[int]:
    """All processes below one, nearest first."""
    below = children(pid)
    return below + [deeper for child in below for deeper in descendants(child)]


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def reap(pid: int) -> None:
    """Collect a dead child of ours, if it is one."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def end(path: Path, patience: float = 10.0) -> bool:
    """End the process of a record: TERM, then KILL; False where it was gone already."""
    pid = recorded(path)
    if pid is not None:
        send(pid, signal.SIGTERM)
        if not wait_until(partial(gone, path), patience):
            send(pid, signal.SIGKILL)
            wait_until(partial(gone, path), patience)
        reap(pid)
    path.unlink(missing_ok=True)
    return pid is not None


def gone(path: Path) -> bool:
    return recorded(path) is None


def wait_until(predicate: Callable[[], bool], patience: float, step: float = 0.05) -> bool:
    limit = time.monotonic() + patience
    while not predicate():
        if time.monotonic() > limit:
            return False
        time.sleep(step)
    return True

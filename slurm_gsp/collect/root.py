"""File access below one root: the node itself, or the ``root/`` folder of a recording.

Symlinks are followed inside the root, absolute ones too, so that a recording from a stranger never
makes the detector read a file of the machine it is judged on.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from slurm_gsp.collect.bounded import LeftBehind, in_child
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown

READ_LIMIT = 16 << 20
"""Bytes read of one text file; the largest real one, a package database, has about 10 MB."""

_MAX_LINKS = 40
_LINK_TEXT = 255
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ENODEV, errno.ENXIO, errno.ELOOP)


class Root:
    """Reads below ``base``. Every method answers with a Reading, or raises OSError where it says so."""

    def __init__(self, base: Path | str = "/") -> None:
        self._base = os.fspath(base).rstrip("/")

    @property
    def base(self) -> str:
        """Where it lies on this machine; empty for the machine itself."""
        return self._base

    @property
    def is_live(self) -> bool:
        """Whether this is the running machine: only there a read can hang in a driver."""
        return not self._base

    def real(self, path: str) -> str:
        """The logical path behind all symlinks. Raises OSError (ENOENT, ELOOP)."""
        done: list[str] = []
        todo = [part for part in path.split("/") if part]
        todo.reverse()
        links = 0
        while todo:
            part = todo.pop()
            if part in {".", ".."}:
                del done[len(done) - (part == "..") :]
                continue
            here = "/" + "/".join([*done, part])
            target = self._target(here)
            if target is None:
                done.append(part)
                continue
            links += 1
            if links > _MAX_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            self.note_link(here, target)
            if target.startswith("/"):
                done.clear()
            todo.extend(reversed([piece for piece in target.split("/") if piece]))
        return "/" + "/".join(done)

    def open(self, path: str, *, note: bool = True) -> tuple[BinaryIO, int, str]:
        """Open a regular file: the stream, its size in bytes and its logical path. Raises OSError."""
        real = self.real(path)
        # Non-blocking: a FIFO or a device in a stranger's recording must not stop the detector.
        descriptor = os.open(self._host(real), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        stream = os.fdopen(descriptor, "rb")
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            stream.close()
            raise OSError(errno.EINVAL, "not a regular file", path)
        if note:
            self.note_file(real)
        return stream, status.st_size, real

    def read(self, path: str, limit: int = READ_LIMIT, *, note: bool = True) -> Reading[str]:
        """A text file, decoded with replacement; ``note`` tells whether a recording is to hold it."""
        try:
            stream, _, _ = self.open(path, note=note)
            with stream:
                data = stream.read(limit + 1)
        except OSError as error:
            return failed(path, error)
        if len(data) > limit:
            return Unknown(path, f"larger than {limit} bytes")
        return Known(data.decode("utf-8", "replace"), path)

    def read_all(self, paths: Iterable[str], deadline_s: float) -> dict[str, Reading[str]]:
        """Files whose read enters the driver, in a child with one deadline: a hung driver hangs the child."""
        wanted = list(paths)
        if not wanted:
            return {}
        if not self.is_live:
            return {path: self.read(path) for path in wanted}
        try:
            answer = in_child(lambda: [_as_text(self.read(path)) for path in wanted], deadline_s)
        except LeftBehind as left:
            self.note_left_behind(left.pid)
            answer = None
        if not isinstance(answer, list) or len(answer) != len(wanted):
            return {path: Unknown(path, f"no answer within {deadline_s:g} s") for path in wanted}
        for path in wanted:
            self.note_file(path)
        return {path: _as_reading(path, item) for path, item in zip(wanted, answer, strict=True)}

    def list(self, path: str, *, note: bool = True) -> Reading[tuple[str, ...]]:
        """Names in a directory, sorted."""
        try:
            real = self.real(path)
            names = tuple(sorted(os.listdir(self._host(real))))
        except OSError as error:
            return failed(path, error)
        if note:
            self.note_listing(real, names)
        return Known(names, path)

    def link_name(self, path: str) -> Reading[str]:
        """The last component of a symlink's target, which need not exist."""
        parent, _, name = path.rpartition("/")
        try:
            here = self.real(parent) + "/" + name
            target = self._target(here, dangling=True)
        except OSError as error:
            return failed(path, error)
        if target is None:
            return Unknown(path, "not a symbolic link")
        self.note_link(here, target)
        return Known(target.rstrip("/").rpartition("/")[2], path)

    def exists(self, path: str) -> bool:
        """Whether something is there, behind all symlinks."""
        try:
            real = self.real(path)
        except OSError:
            return False
        if self.is_folder(real):
            self.note_folder(real)
        return True

    def is_folder(self, path: str) -> bool:
        """Whether a directory is there; links are not followed."""
        return os.path.isdir(self._host(path)) and not os.path.islink(self._host(path))

    def note_link(self, path: str, target: str) -> None:
        """A symlink was followed."""

    def note_file(self, path: str) -> None:
        """A file was opened."""

    def note_listing(self, path: str, names: tuple[str, ...]) -> None:
        """A directory was listed."""

    def note_folder(self, path: str) -> None:
        """A directory was found to be there."""

    def note_left_behind(self, pid: int) -> None:
        """A reading child hangs in the driver."""

    def _target(self, path: str, *, dangling: bool = False) -> str | None:  # noqa: ARG002 - see RecordedRoot
        """The target of a symlink, None for anything else. Raises OSError."""
        here = self._host(path)
        return os.readlink(here) if stat.S_ISLNK(os.lstat(here).st_mode) else None

    def _host(self, path: str) -> str:
        return f"{self._base}{path}" or "/"


class RecordedRoot(Root):
    """The ``root/`` of a recording that travelled: what carried it may have lost its symlinks.

    Some archives and checkouts put a symlink down as a small file that holds the target (no newline, where
    files of /sys and /proc end in one), and some leave out the link of a merged /usr.
    """

    def real(self, path: str) -> str:
        """As Root.real; ``/lib`` is ``/usr/lib`` where the recording has no ``/lib`` of its own."""
        if path.startswith("/lib/") and not os.path.lexists(self._host("/lib")):
            path = "/usr" + path
        return super().real(path)

    def _target(self, path: str, *, dangling: bool = False) -> str | None:
        target = super()._target(path)
        if target is not None:
            return target
        here = Path(self._host(path))
        status = here.lstat()
        if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= _LINK_TEXT:
            return None
        text = here.read_bytes().decode("utf-8", "replace")
        if not text.isprintable():
            return None
        if dangling:
            return text
        parent = "" if text.startswith("/") else path.rpartition("/")[0] + "/"
        leads = os.path.normpath(parent + text)
        return text if leads != path and os.path.lexists(self._host(leads)) else None


def failed(path: str, error: OSError) -> Absent | Unknown:
    """Not there, or there and not readable: the two must never be mixed up."""
    if error.errno in _NOT_THERE:
        return Absent(path)
    return Unknown(path, (error.strerror or str(error)).lower())


def _as_text(reading: Reading[str]) -> list[str]:
    if isinstance(reading, Known):
        return ["known", reading.value]
    return ["absent", ""] if isinstance(reading, Absent) else ["unknown", reading.why]


def _as_reading(path: str, item: object) -> Reading[str]:
    if not isinstance(item, list) or len(item) != 2:
        return Unknown(path, "the reading child answered nonsense")
    kind, text = str(item[0]), str(item[1])
    if kind == "known":
        return Known(text, path)
    return Absent(path) if kind == "absent" else Unknown(path, text)

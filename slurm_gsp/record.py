"""Record what the detector reads on a node, and open a recording again (the format of docs/recordings.md)."""

from __future__ import annotations

import json
import os
import posixpath
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from slurm_gsp.collect.collect import Expectation, collect
from slurm_gsp.collect.root import RecordedRoot, Root
from slurm_gsp.collect.runner import Output, RecordedRunner, Runner
from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.reading import value_of
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.elf import cut_ranges

FORMAT = 1
_COPY_LIMIT = 64 << 20
_PIECE = 64 << 10
_COMPRESSED = (".xz", ".zst", ".gz")


class RecordingError(Exception):
    """A recording cannot be written or read; the message says where and what to do."""


class TracingRoot(Root):
    """A root that remembers everything that was read below it."""

    def __init__(self, base: Path | str = "/") -> None:
        super().__init__(base)
        self.links: dict[str, str] = {}
        self.files: set[str] = set()
        self.listings: dict[str, tuple[str, ...]] = {}
        self.folders: set[str] = set()

    def note_link(self, path: str, target: str) -> None:
        """Remember a symlink."""
        self.links[path] = target

    def note_file(self, path: str) -> None:
        """Remember a file."""
        self.files.add(path)

    def note_listing(self, path: str, names: tuple[str, ...]) -> None:
        """Remember a directory."""
        self.listings[path] = names

    def note_folder(self, path: str) -> None:
        """Remember that a directory is there."""
        self.folders.add(path)


class TracingRunner:
    """A runner that remembers every command's answer."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.outputs: dict[str, Output] = {}

    def run(self, command: str) -> Output | None:
        """Pass the question on and remember the answer."""
        output = self._runner.run(command)
        if output is not None:
            self.outputs[command] = output
        return output


def record(folder: Path, base: str, runner: Runner, expect: Expectation) -> Evidence:
    """Look at the node below ``base`` and write what was read to ``folder``. Raises RecordingError."""
    if folder.exists() and any(folder.iterdir()):
        raise RecordingError(f"{folder}: not empty; name a new folder")
    root, tracer = TracingRoot(base), TracingRunner(runner)
    evidence = collect(root, tracer, expect)
    try:
        _write(folder, root, tracer, evidence)
    except OSError as error:
        raise RecordingError(f"{error.filename or folder}: {error.strerror}") from None
    return evidence


def _write(folder: Path, root: TracingRoot, tracer: TracingRunner, evidence: Evidence) -> None:
    (folder / "commands").mkdir(parents=True, exist_ok=True)
    top = folder / "root"
    top.mkdir(exist_ok=True)
    for path, target in sorted(root.links.items()):
        place = top / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
    for path, names in sorted(root.listings.items()):
        _write_listing(top, root, path, names)
    for path in sorted(root.folders - set(root.listings)):
        (top / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        (top / path.lstrip("/") / ".keep").touch()
    for path in sorted(root.files):
        place = top / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        _copy(root, path, place)
    for name, output in sorted(tracer.outputs.items()):
        stdout = _only_driver_packages(output.stdout) if name == "rpm" else output.stdout
        data = {"argv": list(output.argv), "rc": output.rc, "stdout": stdout, "stderr": output.stderr}
        (folder / "commands" / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    about = {
        "format": FORMAT,
        "hostname": evidence.hostname,
        "kernel": value_of(evidence.kernel),
        "machine": evidence.machine,
        "boot_id": value_of(evidence.boot_id),
        "captured_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    (folder / "recording.json").write_text(json.dumps(about, indent=1) + "\n")


def _write_listing(top: Path, root: TracingRoot, path: str, names: tuple[str, ...]) -> None:
    """The names of a directory count, so each gets a place: a link, a folder, or an empty file."""
    place = top / path.lstrip("/")
    place.mkdir(parents=True, exist_ok=True)
    if not names:
        (place / ".keep").touch()
    for name in names:
        entry = posixpath.join(path, name)
        child = place / name
        if entry in root.links or os.path.lexists(child):
            continue
        if root.is_folder(entry):
            child.mkdir(exist_ok=True)
            (child / ".keep").touch()
        else:
            child.touch()


def _copy(root: TracingRoot, path: str, place: Path) -> None:
    """Libraries count by their names alone, images and modules by their tables; the rest is copied."""
    name = posixpath.basename(path)
    if ".so" in name:
        place.touch()
        return
    try:
        stream, size, _ = root.open(path, note=False)
    except OSError:
        return
    with stream:
        if name.endswith((".bin", ".ko")):
            _copy_cut(stream, size, place)
            return
        try:
            data = _read(stream, _COPY_LIMIT if name.endswith(_COMPRESSED) else _COPY_LIMIT // 4)
        except OSError:
            return
    place.write_bytes(_only_driver_lines(name, data))


def _read(stream: BinaryIO, limit: int) -> bytes:
    """Up to ``limit`` bytes in small pieces: /proc/sys allocates as much memory as a read asks for."""
    data = bytearray()
    while len(data) < limit and (piece := stream.read(min(_PIECE, limit - len(data)))):
        data += piece
    return bytes(data)


def _copy_cut(stream: BinaryIO, size: int, place: Path) -> None:
    """A sparse file of the real size with the real tables and small sections, and none of the code."""
    try:
        ranges = cut_ranges(stream, size)
    except ParseError:
        ranges = ((0, min(size, 4096)),)
    with place.open("wb") as copy:
        for offset, length in ranges:
            stream.seek(offset)
            copy.seek(offset)
            copy.write(stream.read(length))
        copy.truncate(size)


def _only_driver_lines(name: str, data: bytes) -> bytes:
    """A package or module database says much about a site that no rule reads."""
    if name == "modules.dep":
        return b"".join(line + b"\n" for line in data.splitlines() if b"nvidia" in line.partition(b":")[0])
    if name == "status":
        blocks = (block for block in data.split(b"\n\n") if b"nvidia" in block or b"libcuda" in block)
        return b"\n\n".join(block.strip(b"\n") for block in blocks) + b"\n"
    if name == "slurm.conf":
        wanted = (b"nodename=", b"include")
        return b"".join(line for line in data.splitlines(True) if line.lower().lstrip().startswith(wanted))
    if name == "grub.cfg":
        return b"".join(line for line in data.splitlines(True) if not line.lstrip().startswith(b"password"))
    return data


def _only_driver_packages(listing: str) -> str:
    return "".join(line + "\n" for line in listing.splitlines() if "nvidia" in line or "cuda" in line)


def open_recording(folder: Path) -> tuple[Root, Runner, Expectation]:
    """The root, the runner and the node's identity of a recording. Raises RecordingError."""
    path = folder / "recording.json"
    try:
        about = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        told = f"{path}: not there; {folder} is no recording (`slurm-gsp record DIR` makes one)"
        raise RecordingError(told) from None
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path}: {error}") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        found = about.get("format") if isinstance(about, dict) else about
        raise RecordingError(f"{path}: format {found!r}; this version reads format {FORMAT}")
    expect = Expectation(
        hostname=str(about.get("hostname") or "recorded-node"),
        machine=str(about.get("machine") or "x86_64"),
        kernel=_text(about, "kernel"),
        boot_id=_text(about, "boot_id"),
    )
    return RecordedRoot(folder / "root"), RecordedRunner(folder / "commands"), expect


def _text(about: dict[str, object], key: str) -> str | None:
    value = about.get(key)
    return value if isinstance(value, str) and value else None

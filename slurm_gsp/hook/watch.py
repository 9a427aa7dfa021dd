"""The watch: a shell fragment with which a launcher sees by itself, without a fork, that nothing moved.

It compares values of /sys and /proc, and modification times against stamp files that carry the very time
each watched path had. The launchers source it; it is written by root, below a folder of root's.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.reading import value_of
from slurm_gsp.core.view import NEEDED_MODULES
from slurm_gsp.hook.memory import unique, write_text

_ALWAYS = (
    "/etc/ld.so.cache",
    "/etc/modprobe.d",
    "/boot",
    "/lib/modules",
    "/lib/firmware/nvidia",
    "/lib/firmware/updates",
    "/var/lib/dpkg/status",
    # rpm writes its database in place: the folder's time never moves
    *(
        f"{folder}/{name}"
        for folder in ("/var/lib/rpm", "/usr/lib/sysimage/rpm")
        for name in ("Packages", "Packages.db", "rpmdb.sqlite", "rpmdb.sqlite-wal")
    ),
)
"""Places whose change calls for a new look, whether they are there or not."""

_VALUES = (
    "/proc/sys/kernel/random/boot_id",
    "/sys/module/firmware_class/parameters/path",
    "/sys/module/nvidia/initstate",
    "/sys/module/nvidia/srcversion",  # the other flavour has the same version and another source
)
_SETTLE_S = 2.0
"""A path that changed this shortly before the look may change again within one tick of its clock."""


def paths_of(evidence: Evidence, extra: Iterable[str]) -> list[str]:
    """Files and directories that the diagnosis rests on."""
    paths = {*_ALWAYS, *extra}
    for library in (value_of(evidence.userspace.nvml), value_of(evidence.userspace.cuda)):
        if library is not None:
            paths |= {library.path, library.path.rpartition("/")[0]}
    for reading in evidence.firmware:
        firmware = value_of(reading)
        if firmware is not None:
            paths |= {f"{directory}/nvidia/{firmware.version}" for directory in firmware.searched}
            paths |= {image.path for image in firmware.images}
    kernel, disk = value_of(evidence.kernel), value_of(evidence.disk)
    if kernel is not None:
        paths.add(f"/lib/modules/{kernel}/modules.dep")
    if disk is not None and disk.path.startswith("/"):
        paths |= {disk.path, disk.path.rpartition("/")[0]}
    return sorted(path for path in paths if _plain(path))


def _plain(path: str) -> bool:
    return path.startswith("/") and path.isprintable()


class Watch:
    """Collects what the fragment compares. ``settled`` False sends every run to the Python half."""

    def __init__(self, evidence: Evidence, extra: Iterable[str], started: float) -> None:
        self._evidence = evidence
        self._recent = (started - _SETTLE_S, time.time() + _SETTLE_S)
        self._times: list[tuple[str, int]] = []
        self._absent: list[str] = []
        self._links: list[tuple[str, str]] = []
        self.settled = True
        for path in paths_of(evidence, extra):
            self._add(path)

    def _add(self, path: str) -> None:
        try:
            status = os.stat(path)
        except OSError:
            self._absent.append(path)
            return
        # A time in the future is no recent change: waiting for it to pass would cost a full look a run.
        if self._recent[0] < status.st_mtime < self._recent[1]:
            self.settled = False
        self._times.append((path, status.st_mtime_ns))
        real = os.path.realpath(path)
        if real != path and _plain(real):
            self._links.append((path, real))

    def write(self, run: Path, *, healthy: bool, all_jobs: bool, following: tuple[str, ...]) -> None:
        """Write stamps first and the fragment last: a reader finds all that the fragment names."""
        generation = run / "stamps" / unique()
        generation.mkdir(mode=0o755, parents=True)
        for number, (_, time_ns) in enumerate(self._times):
            stamp = generation / str(number)
            stamp.touch()
            os.utime(stamp, ns=(time_ns, time_ns))
        lines = [
            "# Written by slurm-gsp after each look; sourced by its hooks.",
            f"settled={int(self.settled)} healthy={int(healthy)} all_jobs={int(all_jobs)}",
            f"next={int(bool(following))}",
            "unmoved() {",
            *(f"    {line} || return 1" for line in self._tests(generation)),
            "}",
            "run_next() {",
            f"    {' '.join(map(quote, following)) or 'return 0'}",
            "}",
        ]
        write_text(run / "watch", "\n".join(lines) + "\n")
        with contextlib.suppress(OSError):  # another node of this host sweeps too
            _sweep(generation)

    def _tests(self, generation: Path) -> Iterator[str]:
        for path in (*_VALUES, *(f"/sys/module/{name}/version" for name in NEEDED_MODULES)):
            yield value_test(path)
        yield from self._gpu_tests()
        for number, (path, _) in enumerate(self._times):
            stamp = quote(f"{generation}/{number}")
            word = quote(path)
            yield f"[ -e {word} ] && [ ! {word} -nt {stamp} ] && [ ! {word} -ot {stamp} ]"
        for path in self._absent:
            yield f"[ ! -e {quote(path)} ]"
        for path, real in self._links:
            # images of ostree and the like give every file one time: a link that leads elsewhere shows here
            yield f"[ {quote(path)} -ef {quote(real)} ]"
        # Last, for a run that was overtaken: dash finds nothing newer or older than a stamp that is gone.
        yield f"[ -d {quote(str(generation))} ]"

    def _gpu_tests(self) -> Iterator[str]:
        devices = "/sys/bus/pci/devices"
        try:
            yield f"set -- {devices}/* && [ $# -eq {max(1, len(os.listdir(devices)))} ]"
        except OSError:
            yield f"[ ! -e {devices} ]"
        pci = value_of(self._evidence.pci)
        for gpu in pci.gpus if pci is not None else ():
            link = f"{devices}/{gpu.bus_id}/driver"
            bound = os.path.exists(link)
            yield f"[ {link} -ef {quote(os.path.realpath(link))} ]" if bound else f"[ ! -e {link} ]"


def value_test(path: str) -> str:
    """A test that the first line of a small file is what it is now, or that the file is still not there."""
    try:
        value = Path(path).read_text("utf-8", "replace").partition("\n")[0]
    except OSError:
        return f"[ ! -e {path} ]"
    # read answers 1 at the end of a file without a newline, and has the value all the same.
    return f'{{ x=; IFS= read -r x <{path} || :; [ "$x" = {quote(value)} ]; }} 2>/dev/null'


def quote(text: str) -> str:
    """One shell word."""
    return "'" + text.replace("'", "'\\''") + "'"


def _sweep(keep: Path) -> None:
    """Remove the stamps of earlier looks, each folder first at once for those who read in it."""
    for folder in keep.parent.iterdir():
        if folder != keep:
            doomed = folder.with_name(f"{keep.name}.old")
            folder.rename(doomed)
            for stamp in doomed.iterdir():
                stamp.unlink(missing_ok=True)
            doomed.rmdir()

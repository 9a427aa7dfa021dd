"""modprobe and rmmod of a lab node: they do to the node's files what the kernel would.

`python -m slurm_gsp.lab.modules modprobe|rmmod [OPTION...] MODULE...` runs inside a node.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from slurm_gsp.lab import driver
from slurm_gsp.lab.init import KMSG, LAB, OSRELEASE, PROC_MODULES, put

NEEDS = {"nvidia_modeset": "nvidia", "nvidia_uvm": "nvidia", "nvidia_drm": "nvidia_modeset"}
"""What each module rests on."""
HANG = Path("/run/lab-rmmod-hang")
_SYS = Path("/sys/module")


class RefusedError(Exception):
    """What the kernel would refuse, in the tool's own words."""


def load(name: str) -> None:
    """Load a module and what it rests on."""
    if name != "nvidia" and name not in NEEDS:
        raise RefusedError(f"modprobe: FATAL: Module {name} not found in directory /lib/modules/{_release()}")
    if _is_loaded(name):
        return
    if name in NEEDS:
        load(NEEDS[name])
    hardware = driver.Hardware.from_json((LAB / "hardware.json").read_text())
    result = driver.load(Path("/"), hardware, _release())
    wanted = {path: text for path, text in result.files.items() if path.startswith(f"{_SYS}/{name}/")}
    if name == "nvidia":
        _say(result.kmsg)
        wanted |= {path: text for path, text in result.files.items() if _is_drivers(path)}
    if not any(path.startswith(f"{_SYS}/{name}/") for path in wanted):
        why = "Key was rejected by service" if hardware.secure_boot else "No such device"
        raise RefusedError(f"modprobe: ERROR: could not insert '{name}': {why}")
    for path, text in wanted.items():
        put(path, text)
    for path, target in result.links.items():
        Path(path).unlink(missing_ok=True)
        Path(path).symlink_to(target)
    _list_modules()


def unload(name: str) -> None:
    """Unload one module; what rests on it, or has a device of it open, is in the way."""
    while HANG.exists():
        time.sleep(0.2)
    if not _is_loaded(name):
        raise RefusedError(f"rmmod: ERROR: Module {name} is not currently loaded")
    users = [user for user, needed in NEEDS.items() if needed == name and _is_loaded(user)]
    if users:
        raise RefusedError(f"rmmod: ERROR: Module {name} is in use by: {' '.join(users)}")
    if any(_open_devices()):
        raise RefusedError(f"rmmod: ERROR: Module {name} is in use")
    shutil.rmtree(_SYS / name)
    if name == "nvidia":
        shutil.rmtree("/proc/driver/nvidia", ignore_errors=True)
        for link in Path("/sys/bus/pci/devices").glob("*/driver"):
            link.unlink()
        _say([(6, "nvidia-nvlink: Unregistered Nvlink Core, major device number 240")])
    _list_modules()


def _release() -> str:
    return OSRELEASE.read_text().strip()


def _is_loaded(name: str) -> bool:
    return (_SYS / name).is_dir()


def _is_drivers(path: str) -> bool:
    return path.startswith(("/proc/driver/nvidia/", "/sys/bus/pci/drivers/nvidia/"))


def _open_devices() -> Iterator[str]:
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = os.readlink(descriptor)
        except OSError:
            continue
        if target.startswith("/dev/nvidia"):
            yield target


def _list_modules() -> None:
    names = [name for name in ("nvidia_uvm", "nvidia_drm", "nvidia_modeset", "nvidia") if _is_loaded(name)]
    put(str(PROC_MODULES), "".join(driver.proc_modules_line(name) for name in names))


def _say(lines: list[tuple[int, str]]) -> None:
    """Append to the kernel log."""
    records = KMSG.read_text().splitlines()
    sequence, microseconds = (int(value) for value in records[-1].split(",")[1:3]) if records else (-1, 0)
    with KMSG.open("a") as log:
        for number, (level, text) in enumerate(lines, start=1):
            log.write(driver.kmsg_record(sequence + number, microseconds + number * 1000, level, text))


def main() -> int:
    program, *words = sys.argv[1:]
    remove = program == "rmmod" or "-r" in words
    for word in words:
        if word.startswith("-"):
            continue
        try:
            (unload if remove else load)(word.replace("-", "_"))
        except RefusedError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the kernel and kmod say of modules: modinfo, modules.dep, /proc/modules, /proc/driver/nvidia."""

from __future__ import annotations

import re
from typing import Final

from slurm_gsp.parse import ParseError

# nvidia.ko; Debian's nvidia-current.ko, nvidia-current-open.ko, nvidia-tesla-470.ko, nvidia-legacy-390xx.ko.
# The list is closed, since nvidia-uvm.ko, nvidia-fs.ko and others are not the driver.
_MODULE_FILE: Final = re.compile(
    r"nvidia(?:-open|-current(?:-open)?|-tesla(?:-[0-9]{3})?(?:-open)?|-legacy-[0-9]{3}xx)?\.ko(?:\.(?:xz|gz|zst))?"
)
# Open: "NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build ..."; proprietary: "NVIDIA UNIX
# x86_64 Kernel Module  520.56.06  <date>". Both in /proc/driver/nvidia/version and in the kernel log.
NVRM_ID: Final = re.compile(
    r"NVIDIA UNIX (Open )?(?:\S+ )?Kernel Module(?: for \S+)?"
    r"\s+([0-9]{3}\.[0-9]{2,3}(?:\.[0-9]{2,3})?)(?![0-9.])"
)


def parse_modinfo(text: str) -> dict[str, str]:
    """The fields of ``modinfo nvidia``; of a repeated one (``alias``, ``parm``) the first."""
    return _fields(text)


def parse_modules_dep(text: str) -> tuple[str, ...]:
    """The paths in a modules.dep, relative to its directory, that are NVIDIA's main module."""
    paths = (line.partition(":")[0].strip() for line in text.splitlines() if ":" in line)
    return tuple(path for path in paths if is_nvidia_module_file(path.rpartition("/")[2]))


def is_nvidia_module_file(basename: str) -> bool:
    """Whether a file name is that of NVIDIA's main kernel module, in any distribution's spelling."""
    return _MODULE_FILE.fullmatch(basename) is not None


def parse_proc_modules(text: str) -> tuple[str, ...]:
    """The names of the loaded modules, from /proc/modules, in its order (last loaded first)."""
    return tuple(words[0] for words in map(str.split, text.splitlines()) if words)


def parse_nvrm_version(text: str) -> tuple[str, str]:
    """(version, "open" | "proprietary") from /proc/driver/nvidia/version.

    Raises ParseError when no line says ``NVRM version:`` in a known wording.
    """
    for line in text.splitlines():
        if line.startswith("NVRM version:"):
            found = NVRM_ID.search(line)
            if found:
                return found[2], "open" if found[1] else "proprietary"
    raise ParseError("no 'NVRM version:' line that names a version")


def parse_gpu_information(text: str) -> dict[str, str]:
    """The fields of /proc/driver/nvidia/gpus/<bus id>/information, e.g. ``GPU Firmware`` -> 580.159.04."""
    return _fields(text)


def parse_params(text: str) -> dict[str, str]:
    """The module's parameters from /proc/driver/nvidia/params; quotes around strings are dropped."""
    return {name: value.strip('"') for name, value in _fields(text).items()}


def _fields(text: str) -> dict[str, str]:
    """``name: value`` lines; the first of a name wins, lines without a colon or a name are skipped."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip():
            fields.setdefault(name.strip(), value.strip())
    return fields

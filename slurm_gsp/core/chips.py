"""Which chip a PCI device id names, and what that means for GSP firmware.

Sources: device ids from the PCI ID database (pci.ids, 2026-08-22) and the table of compatible GPUs in the
README of NVIDIA's open-gpu-kernel-modules 595.45.04; chip families, image names and defaults from that
repository's tags 515.43.04 to 595.45.04 (nv-firmware.h, nv-firmware-chip-family-select.h, gpu_mgr.c).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Final

from slurm_gsp.core.version import branch, parse_driver_version


@dataclass(frozen=True, slots=True)
class Chip:
    """A GPU chip: ``family`` as in ``.fwsignature_<family>``, or the bare generation before GSP existed."""

    family: str
    name: str


# (first device id, last device id, family, chip). NVIDIA hands ids out in blocks, one chip to a block, so the
# blocks are taken whole and a new board of a known chip is recognised without a new release of this table.
_RANGES: Final = (
    (0x0FC0, 0x0FFF, "kepler", "GK107"),
    (0x1000, 0x1023, "kepler", "GK110"),
    (0x1024, 0x1024, "kepler", "GK180"),
    (0x1025, 0x102C, "kepler", "GK110"),
    (0x102D, 0x102D, "kepler", "GK210"),
    (0x102E, 0x103F, "kepler", "GK110"),
    (0x1180, 0x11BF, "kepler", "GK104"),
    (0x11C0, 0x11FF, "kepler", "GK106"),
    (0x1280, 0x12BF, "kepler", "GK208"),
    (0x130B, 0x130B, "kepler", "GK110"),
    (0x1340, 0x137F, "maxwell", "GM108"),
    (0x1380, 0x13AC, "maxwell", "GM107"),
    (0x13AD, 0x13AE, "maxwell", "GM204"),
    (0x13AF, 0x13BD, "maxwell", "GM107"),
    (0x13BE, 0x13FF, "maxwell", "GM204"),
    (0x1400, 0x143F, "maxwell", "GM206"),
    (0x15C0, 0x15FF, "pascal", "GP100"),
    (0x1600, 0x167F, "maxwell", "GM204"),
    (0x1700, 0x173F, "pascal", "GP100"),
    (0x1740, 0x177F, "maxwell", "GM108"),
    (0x1780, 0x17BF, "maxwell", "GM107"),
    (0x17C0, 0x17FF, "maxwell", "GM200"),
    (0x1B00, 0x1B7F, "pascal", "GP102"),
    (0x1B80, 0x1BFF, "pascal", "GP104"),
    (0x1C00, 0x1C7F, "pascal", "GP106"),
    (0x1C80, 0x1CFF, "pascal", "GP107"),
    (0x1D00, 0x1D7F, "pascal", "GP108"),
    (0x1D80, 0x1DFF, "volta", "GV100"),
    (0x1E00, 0x1E7F, "tu10x", "TU102"),
    (0x1E80, 0x1EFF, "tu10x", "TU104"),
    (0x1F00, 0x1F7F, "tu10x", "TU106"),
    (0x1F80, 0x1FFF, "tu11x", "TU117"),
    (0x2080, 0x20FF, "ga100", "GA100"),
    (0x2180, 0x21FF, "tu11x", "TU116"),
    (0x2200, 0x227F, "ga10x", "GA102"),
    (0x2300, 0x23FF, "gh100", "GH100"),
    (0x2400, 0x247F, "ga10x", "GA103"),
    (0x2480, 0x24FF, "ga10x", "GA104"),
    (0x2500, 0x257F, "ga10x", "GA106"),
    (0x2580, 0x25FF, "ga10x", "GA107"),
    (0x2680, 0x26FF, "ad10x", "AD102"),
    (0x2700, 0x277F, "ad10x", "AD103"),
    (0x2780, 0x27FF, "ad10x", "AD104"),
    (0x2800, 0x287F, "ad10x", "AD106"),
    (0x2880, 0x28FF, "ad10x", "AD107"),
    (0x2900, 0x297F, "gb10x", "GB100"),
    (0x2980, 0x29FF, "gb10x", "GB102"),
    (0x2B00, 0x2B7F, "gb10y", "GB10B"),
    (0x2B80, 0x2BFF, "gb20x", "GB202"),
    (0x2C00, 0x2C7F, "gb20x", "GB203"),
    (0x2D00, 0x2D7F, "gb20x", "GB206"),
    (0x2D80, 0x2DFF, "gb20x", "GB207"),
    (0x2E00, 0x2E7F, "gb20y", "GB20B"),
    (0x2F00, 0x2F7F, "gb20x", "GB205"),
    (0x3180, 0x31FF, "gb10x", "GB110"),
    (0x3200, 0x327F, "gb10x", "GB112"),
    (0x3340, 0x3340, "gb10x", "GB120"),
)
_STARTS: Final = tuple(first for first, _last, _family, _name in _RANGES)

_TURING_LIKE: Final = frozenset({"tu10x", "tu11x", "ga100"})
_BLACKWELL: Final = frozenset({"gb10x", "gb10y", "gb20x", "gb20y"})
_GSP: Final = _TURING_LIKE | _BLACKWELL | {"ga10x", "ad10x", "gh100"}

# The first branch whose source names the family; an older driver does not know the chip at all.
_FIRST_BRANCH: Final = {
    "ad10x": 520,
    "gh100": 520,
    "gb10x": 560,
    "gb20x": 570,
    "gb10y": 580,
    "gb20y": 580,
}
# The branches whose layout the source shows; a newer one may use other names.
_FIRST_KNOWN: Final = 515
_LAST_KNOWN: Final = 595
# gpu_mgr.c drops its list of device ids, and turns GSP on for all of Turing and later, from 555.42.02 on.
_DEFAULT_FOR_ALL: Final = 555


def chip_of(device_id: int) -> Chip | None:
    """The chip of an NVIDIA display device's PCI id, e.g. 0x2330 -> gh100; None when the table lacks it."""
    place = bisect_right(_STARTS, device_id) - 1
    if place < 0:
        return None
    _first, last, family, name = _RANGES[place]
    return Chip(family, name) if device_id <= last else None


def has_gsp(family: str) -> bool:
    """Whether chips of the family have a GPU System Processor (Turing and later)."""
    return family in _GSP


def image_name(family: str, version: str) -> str | None:
    """The file that driver ``version`` asks for to boot ``family``: ``gsp_ga10x.bin`` and the like.

    None when the layout is not known: no GSP, a branch outside 515-595, or older than the chip.
    """
    release = branch(version) if parse_driver_version(version) else 0
    if family not in _GSP or not _first_branch(family) <= release <= _LAST_KNOWN:
        return None
    if release < 525:
        return "gsp.bin"
    if release < 530:
        return "gsp_ad10x.bin" if family == "ad10x" else "gsp_tu10x.bin"
    if family in _TURING_LIKE or (family == "gh100" and release < 535):
        return "gsp_tu10x.bin"
    return "gsp_ga10x.bin"


def _first_branch(family: str) -> int:
    return _FIRST_BRANCH.get(family, _FIRST_KNOWN)


def open_only(family: str) -> bool:
    """Whether only the open kernel modules drive the family: Blackwell.

    NVIDIA says the same of Grace Hopper, but that is a platform: its GPU is a gh100 like the H100 of a PCIe
    card, which both flavours drive, so the chip alone cannot tell.
    """
    return family in _BLACKWELL


def gsp_by_default(family: str, version: str, flavour: str) -> bool | None:
    """Whether the driver runs the family on GSP unless told otherwise; None when that cannot be told.

    ``flavour`` is "open" or "proprietary". Before 555 the proprietary one had a list of device ids (T4, A10,
    A16, A40, L4, L40, all of A100 and H100), so only a family that was on it whole is sure.
    """
    if family not in _GSP:
        return False
    if flavour == "open":
        return True
    release = branch(version)
    if release >= _DEFAULT_FOR_ALL:
        return True
    return True if release >= _FIRST_KNOWN and family in {"ga100", "gh100"} else None

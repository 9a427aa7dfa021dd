import re
from pathlib import Path

import pytest

from slurm_gsp.core.chips import Chip, chip_of, gsp_by_default, has_gsp, image_name, open_only

PCI_IDS = Path("/usr/share/misc/pci.ids")
# A chip's name in pci.ids, and the family that its firmware signature is named after.
FAMILIES = [
    (r"GK\d{3}", "kepler"),
    (r"GM\d{3}", "maxwell"),
    (r"GP\d{3}", "pascal"),
    (r"GV\d{3}", "volta"),
    (r"TU10\d", "tu10x"),
    (r"TU11\d", "tu11x"),
    (r"GA100", "ga100"),
    (r"GA10\d", "ga10x"),
    (r"AD10\d", "ad10x"),
    (r"GH100", "gh100"),
    (r"GB10B", "gb10y"),
    (r"GB1\d\d", "gb10x"),
    (r"GB20B", "gb20y"),
    (r"GB20\d", "gb20x"),
]
NOT_A_GPU = re.compile(r"audio|usb|ucsi|switch|bridge|controller|memory|root|tegra", re.IGNORECASE)


def nvidia_devices():
    inside = False
    for line in PCI_IDS.read_text("utf-8", "replace").splitlines():
        if line[:1] not in {"\t", "#", ""}:
            inside = line.startswith("10de ")
        elif inside and re.match(r"\t[0-9a-f]{4}  ", line):
            yield int(line[1:5], 16), line[7:]


@pytest.mark.skipif(not PCI_IDS.exists(), reason="pci.ids is not installed")
def test_every_chip_that_the_pci_database_names_has_its_family():
    known, wrong = 0, []
    for device_id, name in nvidia_devices():
        family = next((family for pattern, family in FAMILIES if re.match(pattern, name)), None)
        if family is None or NOT_A_GPU.search(name):
            continue
        chip = chip_of(device_id)
        known += 1
        if chip is None or chip.family != family or not name.startswith(chip.name):
            wrong.append((f"{device_id:#06x}", name, chip))
    assert wrong == []
    assert known > 500


@pytest.mark.parametrize(
    ("device_id", "chip"),
    [
        (0x2330, Chip("gh100", "GH100")),
        (0x2342, Chip("gh100", "GH100")),
        (0x20B2, Chip("ga100", "GA100")),
        (0x1DB6, Chip("volta", "GV100")),
        (0x1EB8, Chip("tu10x", "TU104")),
        (0x2235, Chip("ga10x", "GA102")),
        (0x26B9, Chip("ad10x", "AD102")),
        (0x27B8, Chip("ad10x", "AD104")),
        (0x2901, Chip("gb10x", "GB100")),
        (0x2941, Chip("gb10x", "GB100")),
        (0x3182, Chip("gb10x", "GB110")),
        (0x31C2, Chip("gb10x", "GB110")),
        (0x2B00, Chip("gb10y", "GB10B")),
        (0x2BB5, Chip("gb20x", "GB202")),
        (0x2E12, Chip("gb20y", "GB20B")),
        (0x22A3, None),  # H100 NVSwitch
        (0x3000, None),  # after Blackwell
        (0, None),
        (-1, None),
        (1 << 40, None),
    ],
)
def test_chips(device_id, chip):
    assert chip_of(device_id) == chip


@pytest.mark.parametrize(
    ("family", "version", "name"),
    [
        ("ga100", "515.43.04", "gsp.bin"),
        ("gh100", "520.61.05", "gsp.bin"),
        ("ad10x", "525.147.05", "gsp_ad10x.bin"),
        ("ga10x", "525.147.05", "gsp_tu10x.bin"),
        ("gh100", "525.60.13", "gsp_tu10x.bin"),
        ("gh100", "530.41.03", "gsp_tu10x.bin"),
        ("ga10x", "530.30.02", "gsp_ga10x.bin"),
        ("ad10x", "530.30.02", "gsp_ga10x.bin"),
        ("gh100", "535.43.02", "gsp_ga10x.bin"),
        ("ga100", "535.43.02", "gsp_tu10x.bin"),
        ("ga100", "595.45.04", "gsp_tu10x.bin"),
        ("tu11x", "550.163.01", "gsp_tu10x.bin"),
        ("gh100", "580.159.04", "gsp_ga10x.bin"),
        ("gb10x", "560.28.03", "gsp_ga10x.bin"),
        ("gb20x", "570.86.15", "gsp_ga10x.bin"),
        ("gb20y", "580.65.06", "gsp_ga10x.bin"),
        ("gb20x", "565.77", None),
        ("gb20y", "575.64.05", None),
        ("gh100", "515.43.04", None),
        ("ga100", "510.47.03", None),
        ("gh100", "610.57.04", None),
        ("volta", "580.95.05", None),
        ("gh100", "nonsense", None),
    ],
)
def test_the_image_that_a_driver_asks_for(family, version, name):
    assert image_name(family, version) == name


@pytest.mark.parametrize(
    ("family", "version", "flavour", "answer"),
    [
        ("volta", "580.95.05", "proprietary", False),
        ("tu10x", "535.54.03", "open", True),
        ("tu10x", "535.54.03", "proprietary", None),
        ("ga100", "535.54.03", "proprietary", True),
        ("gh100", "520.61.05", "proprietary", True),
        ("ad10x", "550.163.01", "proprietary", None),
        ("ad10x", "555.42.02", "proprietary", True),
        ("ga100", "470.57.02", "proprietary", None),
        ("gb20x", "580.95.05", "open", True),
    ],
)
def test_gsp_by_default(family, version, flavour, answer):
    assert gsp_by_default(family, version, flavour) is answer


def test_generations():
    assert [has_gsp(family) for family in ("volta", "tu11x", "gb20y")] == [False, True, True]
    assert [open_only(family) for family in ("ad10x", "gh100", "gb10x")] == [False, False, True]

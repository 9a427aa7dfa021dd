from contextlib import suppress

import pytest
from hypothesis import given
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.modinfo import (
    is_nvidia_module_file,
    parse_gpu_information,
    parse_modinfo,
    parse_modules_dep,
    parse_nvrm_version,
    parse_params,
    parse_proc_modules,
)

MODINFO = """\
filename:       /lib/modules/6.8.0-50-generic/updates/dkms/nvidia.ko.zst
alias:          char-major-195-*
version:        580.95.05
firmware:       nvidia/580.95.05/gsp_tu10x.bin
firmware:       nvidia/580.95.05/gsp_ga10x.bin
sig_id:         PKCS#7
parm:           NVreg_EnableGpuFirmware:int
signature:      30:65
\t\tAA:BB
"""
INFORMATION = (
    "Model: \t\t NVIDIA H100 80GB HBM3\nGPU Firmware: \t 580.159.04\nBus Location: \t 0000:00:06.0\n"
)
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)  \n"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  520.56.06  Thu Oct  6 21:38:55 UTC 2022\n"


def test_modinfo_keeps_the_first_value():
    fields = parse_modinfo(MODINFO)
    assert fields["filename"] == "/lib/modules/6.8.0-50-generic/updates/dkms/nvidia.ko.zst"
    assert fields["version"] == "580.95.05"
    assert fields["firmware"] == "nvidia/580.95.05/gsp_tu10x.bin"
    assert fields["parm"] == "NVreg_EnableGpuFirmware:int"


@pytest.mark.parametrize(
    "name",
    [
        "nvidia.ko",
        "nvidia.ko.xz",
        "nvidia.ko.zst",
        "nvidia.ko.gz",
        "nvidia-current.ko",
        "nvidia-open.ko",
        "nvidia-current-open.ko.xz",
        "nvidia-tesla-470.ko",
        "nvidia-tesla.ko",
        "nvidia-legacy-390xx.ko",
    ],
)
def test_main_modules(name):
    assert is_nvidia_module_file(name)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-uvm.ko",
        "nvidia-drm.ko.zst",
        "nvidia-modeset.ko",
        "nvidia-peermem.ko",
        "nvidiafb.ko",
        "nvidia_fs.ko",
        "nvidia-fs.ko",
        "nvidia-current-uvm.ko",
        "nvidia-tesla-470-uvm.ko",
        "nvidia-wmi-ec-backlight.ko.xz",
        "nvidia.ko.sig",
        "nvidia",
        "i2c-nvidia-gpu.ko",
        "xnvidia.ko",
        "",
    ],
)
def test_other_modules(name):
    assert not is_nvidia_module_file(name)


def test_modules_dep():
    text = """\
updates/dkms/nvidia.ko.zst: kernel/drivers/video/backlight/video.ko.zst
updates/dkms/nvidia-uvm.ko.zst: updates/dkms/nvidia.ko.zst
kernel/drivers/video/fbdev/nvidia/nvidiafb.ko: kernel/lib/fb.ko
extra/nvidia.ko.xz:
not a line
"""
    assert parse_modules_dep(text) == ("updates/dkms/nvidia.ko.zst", "extra/nvidia.ko.xz")


def test_proc_modules():
    text = (
        "nvidia_uvm 1830912 - - Live 0xffffffffc080c000 (O)\n\nnvidia 14299136 1 nvidia_uvm, Live 0x0 (PO)\n"
    )
    assert parse_proc_modules(text) == ("nvidia_uvm", "nvidia")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (OPEN + "GCC version:  gcc version 15.3.0 (GCC)\n", ("580.159.04", "open")),
        (PROPRIETARY, ("520.56.06", "proprietary")),
        (
            "NVRM version:  NVIDIA UNIX Open Kernel Module for aarch64  515.57  Release Build",
            ("515.57", "open"),
        ),
    ],
)
def test_nvrm_version(text, answer):
    assert parse_nvrm_version(text) == answer


def test_no_nvrm_version():
    with pytest.raises(ParseError, match="NVRM version"):
        parse_nvrm_version("GCC version:  gcc version 15.3.0 (GCC)\n")


def test_information_and_params():
    assert parse_gpu_information(INFORMATION) == {
        "Model": "NVIDIA H100 80GB HBM3",
        "GPU Firmware": "580.159.04",
        "Bus Location": "0000:00:06.0",
    }
    assert parse_params('EnableGpuFirmware: 18\nRegistryDwords: ""\nRmMsg: "a"\n') == {
        "EnableGpuFirmware": "18",
        "RegistryDwords": "",
        "RmMsg": "a",
    }


@given(noisy([MODINFO, INFORMATION, OPEN, PROPRIETARY]))
def test_any_text_gives_a_value_or_a_parse_error(text):
    for parse in (parse_modinfo, parse_modules_dep, parse_proc_modules, parse_gpu_information, parse_params):
        parse(text)
    with suppress(ParseError):
        assert parse_nvrm_version(text)[1] in {"open", "proprietary"}

# ruff: noqa: E501 - log lines and commands' output stand here as they are

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import garbled_bytes, noisy

from slurm_gsp.parse.kmsg import LogEvent, LogLine, parse_dev_kmsg, parse_dmesg, read_events

MISMATCH = """\
[   26.768273] NVRM: API mismatch: the client 'python3' (pid 510)
               NVRM: has the version 550.163.01, but this kernel module has
               NVRM: the version 580.159.04.  Please make sure that this
               NVRM: kernel module and all NVIDIA driver components
               NVRM: have the same version.
"""


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", ()),
        ("\n\n", ()),
        ("[   26.768273] a b\n", (LogLine(26.768273, "a b"),)),
        ("[12345.000001][T123] a\n", (LogLine(12345.000001, "a"),)),
        ("[    0.000000][    C0] a\n", (LogLine(0.0, "a"),)),
        ("[Sat Nov 21 20:27:09 2026] a\n", (LogLine(None, "a"),)),
        ("kern  :warn  : [   26.768273] a\n", (LogLine(26.768273, "a"),)),
        ("kern  :err   : [Sat Nov 21 20:27:09 2026] a\n", (LogLine(None, "a"),)),
        ("<6>[    1.500000] a\n", (LogLine(1.5, "a"),)),
        ("2026-11-21T20:27:09,768273+00:00 a\n", (LogLine(None, "a"),)),
        ("Nov 21 20:27:09 node1 kernel: a\n", (LogLine(None, "a"),)),
        ("Nov  1 20:27:09 node1 kernel: [   26.768273] a\n", (LogLine(26.768273, "a"),)),
        ("no stamp: here\n", (LogLine(None, "no stamp: here"),)),
        ("nvidia: loading\n", (LogLine(None, "nvidia: loading"),)),
        ("   indented first\n", (LogLine(None, "indented first"),)),
        (
            "[    1.000000] a\n            b\n\tc\n\n[    2.000000] d",
            (LogLine(1.0, "a\nb\nc"), LogLine(2.0, "d")),
        ),
        ("[    1.000000]     indented text\n", (LogLine(1.0, "indented text"),)),
    ],
)
def test_dmesg_lines(text, lines):
    assert parse_dmesg(text) == lines


def test_only_the_last_boot_counts():
    first = "[    0.000000] Linux version 6.8.0-49\n[  900.000000] NVRM: Xid (PCI:0000:06:00): 79, x\n"
    last = "[    0.000000] Linux version 6.8.0-50\n[    5.000000] ok\n"
    assert parse_dmesg(first + last) == (LogLine(0.0, "Linux version 6.8.0-50"), LogLine(5.0, "ok"))
    assert parse_dmesg(last) == parse_dmesg(first + last)
    said_late = "[    0.000000] Linux version 6.8.0-50\n[  100.000000] Linux version 9 is what a user wrote\n"
    assert len(parse_dmesg(said_late)) == 2


DEV_KMSG = (
    b"6,1233,26768000,-;Linux version 6.8.0\n"
    b"4,1234,26768273,-,caller=T510;NVRM: API mismatch: the client 'a\\x22b' (pid 5)\\x0aNVRM: has\n"
    b" SUBSYSTEM=pci\n DEVICE=+pci:0000:06:00.0\n"
    b"3,1240,27000000,c;caf\\xc3\\xa9\n"
)


def test_dev_kmsg_records():
    lines = (
        LogLine(26.768, "Linux version 6.8.0"),
        LogLine(26.768273, "NVRM: API mismatch: the client 'a\"b' (pid 5)\nNVRM: has"),
        LogLine(27.0, "café"),
    )
    assert parse_dev_kmsg(DEV_KMSG, -1) == (lines, 1240)
    assert parse_dev_kmsg(DEV_KMSG, 1233) == (lines[1:], 1240)
    assert parse_dev_kmsg(DEV_KMSG, 1240) == ((), 1240)
    assert parse_dev_kmsg(b"", 7) == ((), 7)
    assert parse_dev_kmsg(b"garbage\n\xff\xfe;x\n6,1,2\n6,9,1000000,-;a\n6,10,2", 0) == (
        (LogLine(1.0, "a"),),
        9,
    )


GPU = "0000:06:00.0"
EVENTS = [
    (
        "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (nixbld@)",
        [("module-loaded", None, ("580.159.04", "open"))],
    ),
    (
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  520.56.06  Thu Oct  6 21:38:55 UTC 2022",
        [("module-loaded", None, ("520.56.06", "proprietary"))],
    ),
    (
        "NVRM: loading NVIDIA UNIX aarch64 Kernel Module  550.163  Thu Oct  6 21:38:55 UTC 2022",
        [("module-loaded", None, ("550.163", "proprietary"))],
    ),
    (
        "nvidia 0000:06:00.0: loading /lib/firmware/nvidia/580.95.05/gsp_ga10x.bin failed with error -4",
        [("fw-load-failed", GPU, ("580.95.05", "gsp_ga10x.bin", "-4"))],
    ),
    (
        "nvidia 0000:06:00.0: Direct firmware load for nvidia/580.95.05/gsp_ga10x.bin failed with error -2",
        [("fw-load-failed", GPU, ("580.95.05", "gsp_ga10x.bin", "-2"))],
    ),
    (
        "nvidia 0000:06:00.0: loading /usr/local/nvidia/firmware/nvidia/515.57/gsp.bin.zst failed with error -22",
        [("fw-load-failed", GPU, ("515.57", "gsp.bin", "-22"))],
    ),
    (
        "nvidia 0000:06:00.0: Direct firmware load for nvidia/580.95.05/gsp_log_ga10x.bin failed with error -2",
        [],
    ),
    (
        "nouveau 0000:06:00.0: Direct firmware load for nvidia/gh100/gsp/gsp-535.113.01.bin failed with error -2",
        [],
    ),
    ("NVRM: RmFetchGspRmImages: No firmware image found", [("no-fw-image", None, ())]),
    ("NVRM RmFetchGspRmImages: No firmware image found", [("no-fw-image", None, ())]),
    (
        "NVRM: GPU 0000:06:00.0: RmInitAdapter failed! (0x61:0x56:1770)",
        [("init-failed", GPU, ("0x61", "0x56"))],
    ),
    ("NVRM: RmInitAdapter failed! (0x26:0xffff:1375)", [("init-failed", None, ("0x26", "0xffff"))]),
    ("NVRM: GPU 0000:06:00.0: rm_init_adapter failed, device minor number 0", []),
    (
        "NVRM: _kgspFwContainerVerifyVersion: GSP firmware image version mismatch: got version 580.82.07, "
        "expected version 580.95.05",
        [("fw-version-refused", None, ("580.82.07", "580.95.05"))],
    ),
    (
        "nvidia-modeset: Version mismatch: nvidia.ko(580.95.05) nvidia-modeset.ko(580.82.07)",
        [("module-split", None, ("nvidia", "580.95.05", "nvidia-modeset", "580.82.07"))],
    ),
    (
        "[drm:nv_drm_init [nvidia_drm]] *ERROR* [nvidia-drm] Version mismatch: "
        "nvidia-modeset.ko(580.95.05) nvidia-drm.ko(580.82.07)",
        [("module-split", None, ("nvidia-modeset", "580.95.05", "nvidia-drm", "580.82.07"))],
    ),
    (
        "nv-fabricmanager[1507]: fabric manager NVIDIA GPU driver interface version 550.127.05 don't match with "
        "driver version 550.120. Please update with matching NVIDIA driver package.",
        [("fabric-mismatch", None, ("550.127.05", "550.120"))],
    ),
    (
        "NVRM: Xid (PCI:0000:06:00): 119, pid=2000, name=python3, Timeout after 6s of waiting for RPC response from "
        "GPU4 GSP! Expected function 76 (GSP_RM_CONTROL) (0x20800a42 0x38).",
        [("xid", GPU, ("119",))],
    ),
    ("NVRM: Xid (PCI:0009:01:00 GPU-I:05): 94, pid=7194, Contained", [("xid", "0009:01:00.0", ("94",))]),
    ("NVRM: Xid (PCI:10000:E1:00): 13, x", [("xid", "10000:e1:00.0", ("13",))]),
    ("nvidia-nvswitch3: SXid (PCI:0000:c1:00.0): 20034, Fatal, Link 30 LTSSM Fault Up", []),
    (
        "NVRM: Xid (PCI:0000:06:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        [("xid", GPU, ("79",)), ("gpu-lost", GPU, ())],
    ),
    ("NVRM: GPU 0000:06:00.0: GPU has fallen off the bus.", [("gpu-lost", GPU, ())]),
    ("*** BR04 has fallen off the bus after we tried to train it to Gen2!", []),
    (
        "NVRM: _kgspBootGspRm: unexpected WPR2 already up, cannot proceed with booting GSP",
        [("wpr2", None, ())],
    ),
    ("NVRM: kgspInitRm: unexpected WPR2 already up, cannot proceed with booting gsp", [("wpr2", None, ())]),
    ("NVRM: failed to parse FWSEC ucode from VBIOS image (VBIOS version 96.00): 0x25", [("vbios", None, ())]),
    ("NVRM: s_executeFwsec: failed to execute FWSEC cmd 0x15: status 0x65", [("vbios", None, ())]),
    ("NVRM: failed to execute FWSEC for FRTS: FRTS error code 0x3", [("vbios", None, ())]),
    ("NVRM: failed to prepare interface data for FWSEC cmd 0x15: 0x25", [("vbios", None, ())]),
    ("NVRM: too few interface entires found for FWSEC cmd 0x15", [("vbios", None, ())]),
    ("NVRM: failed to extract VBIOS image from ROM: 0x25", [("vbios", None, ())]),
    ("NVRM: failed to find BIT header in VBIOS image: 0x57", [("vbios", None, ())]),
    ("NVRM: FWSEC timed out processing COT command", [("vbios", None, ())]),
    ("NVRM: FWSEC failed to process boot command. RM cannot boot.", [("vbios", None, ())]),
    ("NVRM: failed to execute FWSEC-SB for PreOsApps during driver unload: 0x65", []),
    ("NVRM: parsed VBIOS version 96.00.74.00.01", []),
    ("NVRM: kgspWaitForGfwBootOk_TU102: failed to wait for GFW boot complete: 0x65 VBIOS version 94.02", []),
    ("nvidia: loading of unsigned module is rejected", [("signature-refused", None, ("nvidia",))]),
    ("Loading of unsigned module is rejected", [("signature-refused", None, ("",))]),
    ("Loading of module with unavailable key is rejected", [("signature-refused", None, ("",))]),
    (
        "vboxdrv: loading of module with unavailable key is rejected",
        [("signature-refused", None, ("vboxdrv",))],
    ),
    (
        "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7",
        [("signature-refused", None, ("",))],
    ),
    (
        "Lockdown: Loading of unsigned module is restricted; see man kernel_lockdown.7",
        [("signature-refused", None, ("",))],
    ),
    ("Lockdown: systemd-logind: hibernation is restricted; see man kernel_lockdown.7", []),
    (
        "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service",
        [("signature-refused", None, ("nvidia",))],
    ),
    (
        "insmod: ERROR: could not insert module: Key was rejected by service",
        [("signature-refused", None, ("",))],
    ),
    (
        "Failed to insert module 'nvidia_uvm': Required key not available",
        [("signature-refused", None, ("nvidia_uvm",))],
    ),
    ("PKCS#7 signature not signed with a trusted key", []),
    (
        "nvidia: module verification failed: signature and/or required key missing - tainting kernel",
        [("signature-tainted", None, ("nvidia",))],
    ),
    ("NVRM: ignoring the legacy GPU 0000:06:00.0", [("unsupported-gpu", GPU, ())]),
    ("nvidia-nvlink: Nvlink Core is being initialized, major device number 240", []),
    ("NVRM: Persistence mode is deprecated and will be removed in a future release.", []),
    ("NVRM: GPU at PCI:0000:06:00: GPU-604d3abb-43d5-088f-f873-9dc453a081a5", []),
    ("loop: module loaded", []),
]


@pytest.mark.parametrize(("line", "events"), EVENTS)
def test_events_of_one_line(line, events):
    text = " ".join(line.split())[:300]
    expected = tuple(LogEvent(kind, 1, text, gpu, values) for kind, gpu, values in events)
    assert read_events((LogLine(0.0, "other"), LogLine(1.0, line), LogLine(2.0, "other"))) == expected


OLD_MISMATCH = """\
NVRM: API mismatch: the client has the version 535.171.04, but
NVRM: this kernel module has the version 535.161.07.  Please
NVRM: make sure that this kernel module and all NVIDIA driver
NVRM: components have the same version."""
FALLEN = """\
NVRM: The NVIDIA GPU 0001:06:00.0
NVRM: (PCI ID: 10de:2330) installed in this system has
NVRM: fallen off the bus and is not responding to commands."""
NEEDS_OPEN = """\
NVRM: The NVIDIA GPU 0000:06:00.0 (PCI ID: 10de:2901)
NVRM: installed in this system requires use of the NVIDIA open kernel modules."""
NEEDS_PROPRIETARY = """\
NVRM: The NVIDIA GPU 0000:06:00.0 (PCI ID: 10de:1db6)
NVRM: installed in this system is not supported by open
NVRM: nvidia.ko because it does not include the required GPU
NVRM: System Processor (GSP).
NVRM: Please see the 'Open Linux Kernel Modules' and 'GSP
NVRM: Firmware' sections in the driver README, available on
NVRM: the Linux graphics driver download page at
NVRM: www.nvidia.com."""
UNSUPPORTED = """\
NVRM: The NVIDIA GPU 0000:06:00.0 (PCI ID: 10de:2b85)
NVRM: installed in this system is not supported by the
NVRM: NVIDIA 550.90.07 driver release.
NVRM: Please see 'Appendix A - Supported NVIDIA GPU Products'"""
LEGACY = """\
NVRM: The NVIDIA GeForce GT 710 GPU installed in this system is
NVRM:  supported through the NVIDIA 470.xx Legacy drivers. Please
NVRM:  visit http://www.nvidia.com/object/unix.html for more
NVRM:  information.  The 535.54.03 NVIDIA driver will ignore
NVRM:  this GPU.  Continuing probe..."""
SPREAD = [
    (MISMATCH.split("] ", 1)[1], "api-mismatch", None, ("550.163.01", "580.159.04"), 3),
    (OLD_MISMATCH, "api-mismatch", None, ("535.171.04", "535.161.07"), 2),
    (FALLEN, "gpu-lost", "0001:06:00.0", (), 3),
    (NEEDS_OPEN, "needs-open", GPU, (), 2),
    (NEEDS_PROPRIETARY, "needs-proprietary", GPU, (), 4),
    (UNSUPPORTED, "unsupported-gpu", GPU, ("550.90.07",), 3),
    (LEGACY, "unsupported-gpu", None, (), 2),
]


@pytest.mark.parametrize(("message", "kind", "gpu", "values", "used"), SPREAD)
@pytest.mark.parametrize("form", ["record", "lines", "interleaved"])
def test_events_of_messages_over_several_lines(message, kind, gpu, values, used, form):
    rows = [row.strip() for row in message.strip().splitlines()]
    text = " ".join(" ".join(rows[:used]).split())[:300]
    noise = LogLine(1.0, "mlx5_core 0000:a1:00.0: link up")
    lines = {
        "record": (LogLine(1.0, "\n".join(rows)),),
        "lines": tuple(LogLine(1.0, row) for row in rows),
        "interleaved": tuple(line for row in rows for line in (LogLine(1.0, row), noise)),
    }[form]
    assert read_events((noise, *lines, noise)) == (LogEvent(kind, 1, text, gpu, values),)


def test_two_messages_after_another_stay_apart():
    lines = parse_dmesg(MISMATCH + MISMATCH.replace("550.163.01", "535.54.03"))
    assert [(event.line, event.values) for event in read_events(lines)] == [
        (0, ("550.163.01", "580.159.04")),
        (1, ("535.54.03", "580.159.04")),
    ]


def test_an_event_is_one_short_printable_line():
    (event,) = read_events((LogLine(1.0, "\x1b[31mNVRM: Xid (PCI:0000:06:00): 119, \x07" + "x" * 5000),))
    assert event.text.startswith("[31mNVRM: Xid (PCI:0000:06:00): 119, xxx")
    assert len(event.text) == 300
    assert event.text.isprintable()


def test_the_recording_of_a_real_mismatch():
    nodes = Path(__file__).parents[2] / "fixtures/nodes"
    path = nodes / "h100-580-umd-550/commands/kmsg.json"
    events = read_events(parse_dmesg(json.loads(path.read_text())["stdout"]))
    assert [(event.kind, event.values) for event in events] == [
        ("module-loaded", ("580.159.04", "open")),
        ("api-mismatch", ("550.163.01", "580.159.04")),
    ]


SAMPLES = [MISMATCH, *(line for line, _ in EVENTS), *(sample[0] for sample in SPREAD)]


@given(st.lists(noisy(SAMPLES), max_size=6))
def test_any_log_gives_events(parts):
    text = "\n".join(parts)
    for event in read_events(parse_dmesg(text)):
        assert len(event.text) <= 300
        assert "\n" not in event.text


@given(st.one_of(st.binary(max_size=200), garbled_bytes(DEV_KMSG)), st.integers(-1, 2000))
def test_any_kmsg_bytes_give_lines(data, after):
    lines, last = parse_dev_kmsg(data, after)
    assert last >= after
    read_events(lines)


def test_a_hostile_log_costs_no_more_than_its_length():
    for text in (
        "failed to " * 50_000,
        "API mismatch: the client '" * 20_000,
        "0000:" * 100_000,
        "\n" * 300_000,
    ):
        read_events(parse_dmesg(text))
    read_events(parse_dmesg("NVRM: API mismatch: the client 'x' (pid 1)\n" * 5_000))

"""Manifests: whole values for what is taken, whole messages with their place for what is refused."""

from __future__ import annotations

import re
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.core.evidence import Pin
from slurm_gsp.manifest.match import NodeFacts
from slurm_gsp.manifest.model import (
    FileDigest,
    FirmwarePin,
    Hardware,
    Manifest,
    Matcher,
    Packages,
    PinnedPackage,
    Profile,
)
from slurm_gsp.manifest.parse import ManifestError, Unreadable, parse, parse_with_previous

EXAMPLE = Path(__file__).parents[3] / "manifest.example.toml"
HASH = "0123456789abcdef" * 4
HEAD = 'name = "b"\nprevious = "none"\ncreated = 2026-11-21T09:00:00Z\n'
BODY = 'driver = "570.195.03"\nflavour = "open"\ngpus = 8\nfabric_manager = false\n'
APT = 'packages.apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }\n'


def one(
    matcher: str = 'nodes = "gpu[1-2]"\n', body: str = BODY, packages: str = APT, head: str = HEAD
) -> str:
    """A good manifest of one profile, to be spoilt: head 1-3, header 4, matcher 5, body 6-9, packages 10."""
    return f"{head}[profile.x]\n{matcher}{body}{packages}"


def refused(text: str, nodes: tuple[NodeFacts, ...] | None = None) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        parse(text, "m.toml", nodes)
    return caught.value.errors


EVERYTHING = f"""
name = "2026-11"
previous = "2026-10"
created = 2026-11-21T09:00:00Z
notes = "why\\nwho"
[profile.h100]
nodes = "gpu[01-03]"
partitions = ["gpu", "debug"]
features = ["h100"]
gres = ["gpu:h100:2"]
driver = "570.195.03"
flavour = "open"
gpus = 2
fabric_manager = true
vbios = "96.00.89.00.01"
inforom = "G520.0200.00.05"
cuda = "12.8"
nic_firmware = "28.43.2566"
pcie_width = 16
pcie_generation = 5
topology = '''
\tGPU0\tGPU1\tNIC0
GPU0\t X \tNV18\tPIX
GPU1\tNV18\t X \tSYS

  X    = Self
'''
[profile.h100.packages]
apt = {{ "nvidia-dkms-570-open" = "570.195.03-0ubuntu1", "nvidia-fabricmanager-570" = "1:570.195.03-1" }}
dnf = {{ "kmod-nvidia-open-dkms" = "3:570.195.03-1.el9", "nvidia-fabric-manager" = "0:570.195.03-1" }}
dnf_modules = ["nvidia-driver:570-open"]
[profile.h100.packages.zypper]
nvidia-open-driver-G06-signed-kmp-default = "570.195.03_k6.4.0_150600.23.60-1"
nvidia-fabricmanager = "570.195.03-1"
[profile.h100.images]
"gsp_ga10x.bin" = "{HASH}"
[profile.h100.downloads]
"a_1%3a2_amd64.deb" = "{HASH}"
[profile.h100.bmc]
HGX_FW_BMC_0 = "HGX-22.10-1-rc80"
"HGX_FW_GPU_SXM_*" = "96.00.89 (B)"
"""


def test_every_key_is_taken() -> None:
    assert parse(EVERYTHING, "m.toml") == Manifest(
        name="2026-11",
        previous="2026-10",
        created=datetime(2026, 11, 21, 9, tzinfo=UTC),
        notes="why\nwho",
        profiles=(
            Profile(
                name="h100",
                matcher=Matcher("gpu[01-03]", ("gpu", "debug"), ("h100",), ("gpu:h100:2",)),
                driver="570.195.03",
                flavour="open",
                gpus=2,
                fabric_manager=True,
                packages=Packages(
                    apt=(
                        PinnedPackage("nvidia-dkms-570-open", "570.195.03-0ubuntu1"),
                        PinnedPackage("nvidia-fabricmanager-570", "1:570.195.03-1"),
                    ),
                    dnf=(
                        PinnedPackage("kmod-nvidia-open-dkms", "3:570.195.03-1.el9"),
                        PinnedPackage("nvidia-fabric-manager", "0:570.195.03-1"),
                    ),
                    dnf_modules=("nvidia-driver:570-open",),
                    zypper=(
                        PinnedPackage(
                            "nvidia-open-driver-G06-signed-kmp-default", "570.195.03_k6.4.0_150600.23.60-1"
                        ),
                        PinnedPackage("nvidia-fabricmanager", "570.195.03-1"),
                    ),
                ),
                hardware=Hardware(
                    vbios="96.00.89.00.01",
                    inforom="G520.0200.00.05",
                    cuda="12.8",
                    nic_firmware="28.43.2566",
                    pcie_width=16,
                    pcie_generation=5,
                    topology="\tGPU0\tGPU1\tNIC0\nGPU0\t X \tNV18\tPIX\nGPU1\tNV18\t X \tSYS\n"
                    "\n  X    = Self\n",
                ),
                images=(FileDigest("gsp_ga10x.bin", HASH),),
                downloads=(FileDigest("a_1%3a2_amd64.deb", HASH),),
                bmc=(
                    FirmwarePin("HGX_FW_BMC_0", "HGX-22.10-1-rc80"),
                    FirmwarePin("HGX_FW_GPU_SXM_*", "96.00.89 (B)"),
                ),
            ),
        ),
    )


def test_the_least_manifest() -> None:
    assert parse(one(), "m.toml") == Manifest(
        name="b",
        previous=None,
        created=datetime(2026, 11, 21, 9, tzinfo=UTC),
        profiles=(
            Profile(
                name="x",
                matcher=Matcher(nodes="gpu[1-2]"),
                driver="570.195.03",
                flavour="open",
                gpus=8,
                fabric_manager=False,
                packages=Packages(apt=(PinnedPackage("nvidia-dkms-570-open", "570.195.03-0ubuntu1"),)),
            ),
        ),
    )


def test_a_profile_as_the_detector_pins_it() -> None:
    profile = parse(one(), "m.toml").profile("x")
    assert profile.pin("manifest b") == Pin("570.195.03", "open", "manifest b")


def body(old: str, new: str) -> str:
    assert old in BODY
    return one(body=BODY.replace(old, new))


def apt(packages: str, body: str = BODY) -> str:
    return one(body=body, packages=f"packages.apt = {{ {packages} }}\n")


def managed(text: str, body: str = BODY) -> str:
    """Manager lines from 11 on, under their own table header at 10."""
    return one(body=body, packages=f"[profile.x.packages]\n{text}")


GPU = 'gres = ["gpu"]\n'
GOOD = '"nvidia-dkms-570-open" = "570.195.03-0ubuntu1"'
PROPRIETARY = BODY.replace('"open"', '"proprietary"')
WITH_FABRIC = BODY.replace("false", "true")
DNF = 'dnf = { "nvidia-driver" = "3:570.195.03-1.el9" }\n'
HINT_CREATED = "write it without quotes and with the time zone: created = 2026-11-21T09:00:00Z"
HINT_NODES = 'write it like "gpu[01-16],login1"'

REFUSALS = [
    # the head
    (one(head=HEAD.replace('name = "b"', "")), 'name: is missing; write name = "2026-11"', 1),
    (one(head=HEAD.replace('"b"', "5")),
     'name: must be a string, not the number 5; put it in quotes: name = "2026-11"', 1),
    (one(head=HEAD.replace('"b"', '"../b"')),
     'name: "../b" is not a name of letters, digits and . _ + -; write it like "2026-11"', 1),
    (one(head=HEAD.replace('"b"', '"none"')), 'name: "none" means that there is none; take another name', 1),
    (one(head=HEAD.replace('previous = "none"', "")),
     'previous: is missing; name the manifest before this one, or write "none"', 1),
    (one(head=HEAD.replace('"none"', "false")),
     'previous: must be a string, not false; put it in quotes: previous = "2026-10"', 2),
    (one(head=HEAD.replace('"none"', '"a/b"')),
     'previous: "a/b" is not the name of a manifest; write it like "2026-10"', 2),
    (one(head=HEAD.replace('"none"', '"b"')),
     'previous: is this manifest itself; name the one before it, or write "none"', 2),
    (one(head=HEAD.replace("2026-11-21T09:00:00Z", "2026-11-21")),
     f"created: must be a date with a time, not 2026-11-21; {HINT_CREATED}", 3),
    (one(head=HEAD.replace("09:00:00Z", "09:00:00")), f"created: has no time zone; {HINT_CREATED}", 3),
    (one(head=HEAD.replace("2026-11-21T09:00:00Z", '"today"')),
     f'created: must be a date with a time, not the string "today"; {HINT_CREATED}', 3),
    (one(head=HEAD.replace("created = 2026-11-21T09:00:00Z", "")), f"created: is missing; {HINT_CREATED}", 1),
    (one(head=HEAD + "notes = 1\n"),
     'notes: must be a string, not the number 1; put it in quotes: notes = "why, and what was tested"', 4),
    (one(head=HEAD + 'note = "x"\n'), 'note: there is no such key; did you mean "notes"?', 4),
    (one() + "[profiles.y]\n", "[profiles]: there is no such table; write [profile.NAME]", 11),
    (HEAD, "[profile]: there is none; write [profile.NAME] tables", 1),
    (HEAD + "[profile]\n", "[profile]: there is none; write [profile.NAME] tables", 4),
    (HEAD + "profile = 1\n", "[profile]: must be a table, not the number 1; write [profile.NAME]", 4),
    (HEAD + "[profile]\nx = 1\n",
     "[profile.x]: must be a table, not the number 1; write [profile.x] on a line of its own", 5),
    (one().replace("[profile.x]", '[profile."a b"]'),
     "[profile.a b]: is not a name of letters, digits and . _ + -; take another name", 4),
    (one() + one(head="", matcher='features = ["f"]\n').replace("profile.x", "profile.X"),
     "[profile.X]: differs from [profile.x] in capitals only; take another name", 11),
    # matchers
    (one(matcher=""),
     "[profile.x]: says of no node that it is for it; give nodes, partitions, features or gres", 4),
    (one(matcher="nodes = 1\n"),
     f"[profile.x] nodes: must be a hostlist in quotes, not the number 1; {HINT_NODES}", 5),
    (one(matcher='nodes = ""\n'), f'[profile.x] nodes: "" is not a hostlist; {HINT_NODES}', 5),
    (one(matcher='nodes = ",,"\n'), f'[profile.x] nodes: ",," is not a hostlist; {HINT_NODES}', 5),
    (one(matcher='nodes = "@gpu"\n'), f'[profile.x] nodes: "@gpu" is not a hostlist; {HINT_NODES}', 5),
    (one(matcher='nodes = "n[3-1]"\n'),
     f"""[profile.x] nodes: "n[3-1]" is not a hostlist: range runs backwards: '3-1'; {HINT_NODES}""", 5),
    (one(matcher='nodes = "n[1-"\n'),
     f"""[profile.x] nodes: "n[1-" is not a hostlist: brackets do not match in 'n[1-'; {HINT_NODES}""", 5),
    (one(matcher='nodes = "n[1-999999999]"\n'),
     f'[profile.x] nodes: "n[1-999999999]" is not a hostlist: more than 65536 names; {HINT_NODES}', 5),
    (one(matcher='partitions = "gpu"\n'),
     '[profile.x] partitions: must be a list of strings, not the string "gpu"; write partitions = ["gpu"]',
     5),
    (one(matcher="features = []\n"),
     '[profile.x] features: must be a list of strings, not an empty list; write features = ["h100"]', 5),
    (one(matcher='features = ["a&b"]\n'),
     '[profile.x] features: "a&b" is not one feature; write it like "h100"', 5),
    (one(matcher='partitions = ["a", "a"]\n'), '[profile.x] partitions: "a" is there twice; remove one', 5),
    (one(matcher='gres = ["gpu:h100:8(S:0)"]\n'),
     '[profile.x] gres: "gpu:h100:8(S:0)" is not a GRES; write it like "gpu:h100"', 5),
    # the tuple
    (body('"570.195.03"', "570.195"),
     '[profile.x] driver: must be a string, not the number 570.195; put it in quotes: driver = "570.195.03"',
     6),
    (body('"570.195.03"', '"R570"'),
     '[profile.x] driver: "R570" is not a driver version; write it like "570.195.03"', 6),
    (body('"570.195.03"', '"5700.1.3"'),
     '[profile.x] driver: no driver has the version "5700.1.3"; write it like "570.195.03"', 6),
    (body('driver = "570.195.03"\n', ""), '[profile.x] driver: is missing; write driver = "570.195.03"', 4),
    (body('flavour = "open"\n', ""),
     '[profile.x] flavour: is missing; write flavour = "open" (Blackwell needs it) or "proprietary"', 4),
    (body('"open"', '"opened"'),
     '[profile.x] flavour: "opened" is none of the choices; take "open" or "proprietary"', 7),
    (apt('"nvidia-dkms-470" = "470.256.02-0ubuntu1"', BODY.replace("570.195.03", "470.256.02")), (
        '[profile.x] flavour: "open" modules exist from branch 515 on; take "proprietary"',
        '[profile.x.packages.apt] nvidia-dkms-470: is proprietary, the profile\'s flavour is "open"; '
        "take one of them"), (7, 10)),
    (body("gpus = 8\n", ""),
     "[profile.x] gpus: is missing; write how many GPUs each of these nodes has: gpus = 8", 4),
    (body("gpus = 8", "gpus = 0"), "[profile.x] gpus: 0 is out of range; take 1 to 1024", 8),
    (body("fabric_manager = false\n", ""),
     "[profile.x] fabric_manager: is missing; write fabric_manager = true where the nodes have NVSwitches, "
     "else false", 4),
    (body("false", '"no"'),
     '[profile.x] fabric_manager: must be true or false, not the string "no"; '
     "write fabric_manager = true, without quotes", 9),
    (one(body=BODY + "drivr = 1\n"), '[profile.x] drivr: there is no such key; did you mean "driver"?', 10),
    # packages
    (one(packages=""),
     "[profile.x] packages: is missing; write [profile.x.packages] with apt, dnf or zypper in it", 4),
    (one(packages="packages = 1\n"),
     "[profile.x.packages]: must be a table, not the number 1; "
     "write [profile.x.packages] on a line of its own", 10),
    (managed(""), "[profile.x.packages]: pins no package; write apt, dnf or zypper = {...}", 10),
    (managed(f"apt = {{ {GOOD} }}\nyum = {{}}\n"),
     "[profile.x.packages] yum: there is no such key; there are: apt, dnf, zypper, dnf_modules", 12),
    (managed('apt = "nvidia"\n'),
     '[profile.x.packages.apt]: must be a table, not the string "nvidia"; '
     'write apt = { "NAME" = "570.195.03-0ubuntu1" }', 11),
    (managed("apt = {}\n"),
     '[profile.x.packages] apt: pins nothing; remove it, or write apt = { "NAME" = "570.195.03-0ubuntu1" }',
     11),
    (apt(GOOD + ', "Nvidia_X" = "1"'),
     "[profile.x.packages.apt] Nvidia_X: is no package name for apt; correct it", 10),
    (apt(GOOD + ', nvtop = "3.*"'),
     '[profile.x.packages.apt] nvtop: "3.*" is not one exact version; write it like "570.195.03-0ubuntu1"',
     10),
    (apt(GOOD + ", nvtop = 3"),
     "[profile.x.packages.apt] nvtop: must be a string, not the number 3; "
     'put it in quotes: nvtop = "570.195.03-0ubuntu1"', 10),
    (apt('nvtop = "3.0.2-1"'),
     "[profile.x.packages] apt: no package of the driver is among these; pin those that bring it", 10),
    (apt(GOOD + ', "nvidia-utils-570" = "570.133.07-0ubuntu1"'),
     "[profile.x.packages.apt] nvidia-utils-570: is of driver 570.133.07, the profile of 570.195.03; "
     "take one of them", 10),
    (apt(GOOD + ', "nvidia-firmware-570-570.133.07" = "570.195.03-0ubuntu1"'),
     "[profile.x.packages.apt] nvidia-firmware-570-570.133.07: is for driver 570.133.07, "
     "the profile for 570.195.03; take one of them", 10),
    (apt(GOOD + ', "linux-modules-nvidia-590-open-generic" = "6.8.0-90.91+1"'),
     "[profile.x.packages.apt] linux-modules-nvidia-590-open-generic: is of branch 590, "
     "driver 570.195.03 of 570; take one of them", 10),
    (apt(GOOD, PROPRIETARY),
     '[profile.x.packages.apt] nvidia-dkms-570-open: is open, the profile\'s flavour is "proprietary"; '
     "take one of them", 10),
    (apt('"nvidia-dkms-570-server" = "570.195.03-0ubuntu1"'),
     '[profile.x.packages.apt] nvidia-dkms-570-server: is proprietary, the profile\'s flavour is "open"; '
     "take one of them", 10),
    (apt(GOOD, WITH_FABRIC),
     "[profile.x.packages] apt: fabric_manager = true, but its package is not among these; "
     "pin nvidia-fabricmanager too", 10),
    (managed('dnf = { "nvidia-driver" = "570.195.03-1.el9" }\n'),
     '[profile.x.packages.dnf] nvidia-driver: "570.195.03-1.el9" is not one exact epoch:version-release; '
     'write it like "3:570.195.03-1.el9"', 11),
    (managed('zypper = { "nvidia-compute-utils-G06" = "570.195.03" }\n'),
     '[profile.x.packages.zypper] nvidia-compute-utils-G06: "570.195.03" is not one exact version-release; '
     'write it like "570.195.03-1"', 11),
    (managed('zypper = { "nvidia-driver-G06-kmp-default" = "570.195.03_k6.4-1" }\n'),
     '[profile.x.packages.zypper] nvidia-driver-G06-kmp-default: is proprietary, '
     'the profile\'s flavour is "open"; take one of them', 11),
    (managed(f'apt = {{ {GOOD} }}\ndnf_modules = ["nvidia-driver:570-open"]\n'),
     "[profile.x.packages] dnf_modules: without packages for dnf; pin these too: "
     "a stream alone names no version", 12),
    (managed(f'{DNF}dnf_modules = ["nvidia-driver"]\n'),
     '[profile.x.packages] dnf_modules: "nvidia-driver" is not a module and its stream; '
     'write it like "nvidia-driver:570-open"', 12),
    (managed(f'{DNF}dnf_modules = ["nvidia-driver:580-open"]\n'),
     '[profile.x.packages] dnf_modules: "nvidia-driver:580-open" is of branch 580, driver 570.195.03 of 570; '
     "take one of them", 12),
    (managed(f'{DNF}dnf_modules = ["nvidia-driver:latest-dkms"]\n'),
     '[profile.x.packages] dnf_modules: "nvidia-driver:latest-dkms" is proprietary, '
     'the profile\'s flavour is "open"; take one of them', 12),
    (managed(f'{DNF}dnf_modules = ["perl:5.30", "perl:5.32"]\n'),
     "[profile.x.packages] dnf_modules: perl has one stream at a time, not 5.30 and 5.32; remove one", 12),
    # the optional rest
    (one(body=BODY + 'vbios = "96"\n'),
     '[profile.x] vbios: "96" is not a VBIOS version; write it like "96.00.89.00.01"', 10),
    (one(body=BODY + 'inforom = "x"\n'),
     '[profile.x] inforom: "x" is not an InfoROM version; write it like "G520.0200.00.05"', 10),
    (one(body=BODY + "cuda = 12.8\n"),
     '[profile.x] cuda: must be a string, not the number 12.8; put it in quotes: cuda = "12.8"', 10),
    (one(body=BODY + 'nic_firmware = "new"\n'),
     '[profile.x] nic_firmware: "new" is not a firmware version; write it like "28.43.2566"', 10),
    (one(body=BODY + "pcie_width = 12\n"),
     "[profile.x] pcie_width: there is no 12; take one of 1, 2, 4, 8, 16", 10),
    (one(body=BODY + "pcie_generation = 8\n"),
     "[profile.x] pcie_generation: 8 is out of range; take 1 to 7", 10),
    (one(body=BODY + 'topology = "none"\n'),
     "[profile.x] topology: has no row for a GPU; give what `nvidia-smi topo -m` says, between '''", 10),
    (one(body=BODY + "topology = '''\n\tGPU0\tGPU1\nGPU0\t X \tSYS\nGPU1\tSYS\t X\n'''\n"),
     "[profile.x] topology: has rows for 2 GPUs, gpus = 8; take one of them", 10),
    (one() + f'[profile.x.images]\n"a/b.bin" = "{HASH}"\n',
     "[profile.x.images] a/b.bin: is not the name of such a file, without its folder; "
     'write it like "gsp_ga10x.bin"', 12),
    (one() + '[profile.x.images]\n"b.bin" = "12"\n',
     '[profile.x.images] b.bin: "12" is not a SHA-256: 64 small hexadecimal digits; take what sha256sum says',
     12),
    (one() + '[profile.x.images]\n"b.bin" = 12\n',
     "[profile.x.images] b.bin: must be a SHA-256 in quotes, not the number 12; take what sha256sum says",
     12),
    (one() + f'[profile.x.downloads]\n"b.run" = "{HASH}"\n',
     '[profile.x.downloads] b.run: is not the name of such a file, without its folder; '
     'write it like "NAME.deb"', 12),
    # firmware of the BMC
    (one(body=BODY + "bmc = 1\n"),
     "[profile.x.bmc]: must be a table, not the number 1; write [profile.x.bmc] on a line of its own", 10),
    (one() + "[profile.x.bmc]\n",
     '[profile.x.bmc]: pins nothing; remove it, or write "HGX_FW_BMC_0" = "24.10-1"', 11),
    (one() + '[profile.x.bmc]\n"GPU_*" = 24.1\n',
     '[profile.x.bmc] GPU_*: must be a string, not the number 24.1; put it in quotes: GPU_* = "24.10-1"', 12),
    (one() + '[profile.x.bmc]\n"GPU_*" = "24.*"\n',
     '[profile.x.bmc] GPU_*: "24.*" is not one exact version; write it like "24.10-1"', 12),
    (one() + '[profile.x.bmc]\nBMC_0 = "24.10 "\n',
     '[profile.x.bmc] BMC_0: "24.10 " is not one exact version; write it like "24.10-1"', 12),
    (one() + '[profile.x.bmc]\n"a b" = "1"\n"[ab]" = "1"\n"p%20" = "1"\n', tuple(
        f"[profile.x.bmc] {name}: is no id of the BMC's firmware inventory, nor one with * or ? in it; "
        "take it from there" for name in ("a b", "[ab]", "p%20")), (12, 13, 14)),
    (one() + '[profile.x.bmc]\n"?*" = "1"\n',
     "[profile.x.bmc] ?*: is for every component; name them, with * and ? for parts of the name", 12),
    (one() + '[profile.x.bmc]\n"GPU_*" = "1"\nGPU_8 = "2"\nGPU_7 = "1"\n',
     '[profile.x.bmc] GPU_8: is "2", but GPU_* covers it with "1"; take one of them', 13),
    # overlaps that need no fleet to be seen
    (one() + one(head="", matcher='nodes = "gpu[2-9]"\n').replace("profile.x", "profile.y"),
     "[profile.y] nodes: gpu2 stand in [profile.x] too; a node takes one profile only", 12),
    (one(matcher=GPU) + one(head="", matcher=GPU).replace("profile.x", "profile.y"),
     "[profile.y]: is for the same nodes as [profile.x]; a node takes one profile only", 11),
    # no TOML at all
    (one(body=BODY.replace('"570.195.03"', "570.195.03")),
     "not TOML: Expected newline or end of document after a statement (at line 6, column 17); "
     'a version is a string: put it in quotes, like "580.95.05"', 6),
    (one() + one(head=""),
     "not TOML: Cannot declare ('profile', 'x') twice (at line 11, column 11); see manifest.example.toml",
     11),
]  # fmt: skip


@pytest.mark.parametrize(("text", "told", "line"), REFUSALS, ids=lambda value: str(value)[-40:])
def test_a_mistake_is_named(text: str, told: str | tuple[str, ...], line: int | tuple[int, ...]) -> None:
    tolds = (told,) if isinstance(told, str) else told
    lines = (line,) if isinstance(line, int) else line
    expected = tuple(f"m.toml:{at}: {what}" for at, what in zip(lines, tolds, strict=True))
    assert refused(text) == expected


BAD = """\
name = "bad name"
created = 2026-11-21
colour = "green"
[profile.a]
nodes = "gpu[1-"
driver = "570"
flavour = "closed"
gpus = "8"
topology = '''
driver = "not this one"
[profile.b]
'''
vbios = 96
[profile.a.packages]
apt = { "nvidia-dkms-580-open" = "580.95.05-0ubuntu1", nvtop = "*" }
[profile.b]
partitions = ["gpu", "gpu"]
driver = "580.95.05"
flavour = "proprietary"
gpus = 4
fabric_manager = true
extra = 1
[profile.b.packages]
apt = { "nvidia-dkms-570-open" = "570.195.03-0ubuntu1" }
rpm = {}
[profile.b.images]
"../x" = "00"
[profiles]
"""


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file() -> None:
    assert refused(BAD) == (
        'm.toml:1: name: "bad name" is not a name of letters, digits and . _ + -; write it like "2026-11"',
        'm.toml:1: previous: is missing; name the manifest before this one, or write "none"',
        f"m.toml:2: created: must be a date with a time, not 2026-11-21; {HINT_CREATED}",
        "m.toml:3: colour: there is no such key; there are: name, previous, created, notes, profile",
        "m.toml:4: [profile.a] fabric_manager: is missing; write fabric_manager = true where the nodes have "
        "NVSwitches, else false",
        "m.toml:5: [profile.a] nodes: \"gpu[1-\" is not a hostlist: brackets do not match in 'gpu[1-'; "
        + HINT_NODES,
        'm.toml:6: [profile.a] driver: no driver has the version "570"; write it like "570.195.03"',
        'm.toml:7: [profile.a] flavour: "closed" is none of the choices; take "open" or "proprietary"',
        'm.toml:8: [profile.a] gpus: must be a whole number, not the string "8"; '
        "write it without quotes or point",
        "m.toml:9: [profile.a] topology: has no row for a GPU; give what `nvidia-smi topo -m` says, "
        "between '''",
        'm.toml:13: [profile.a] vbios: must be a string, not the number 96; put it in quotes: '
        'vbios = "96.00.89.00.01"',
        'm.toml:15: [profile.a.packages.apt] nvtop: "*" is not one exact version; '
        'write it like "570.195.03-0ubuntu1"',
        'm.toml:17: [profile.b] partitions: "gpu" is there twice; remove one',
        'm.toml:22: [profile.b] extra: there is no such key; there are: nodes, partitions, features, gres, '
        "driver, flavour, gpus, fabric_manager, packages, vbios, inforom, cuda, nic_firmware, pcie_width, "
        "pcie_generation, topology, images, downloads, bmc",
        "m.toml:24: [profile.b.packages.apt] nvidia-dkms-570-open: is of driver 570.195.03, "
        "the profile of 580.95.05; take one of them",
        'm.toml:24: [profile.b.packages.apt] nvidia-dkms-570-open: is open, '
        'the profile\'s flavour is "proprietary"; take one of them',
        "m.toml:24: [profile.b.packages] apt: fabric_manager = true, but its package is not among these; "
        "pin nvidia-fabricmanager too",
        "m.toml:25: [profile.b.packages] rpm: there is no such key; there are: apt, dnf, zypper, dnf_modules",
        "m.toml:27: [profile.b.images] ../x: is not the name of such a file, without its folder; "
        'write it like "gsp_ga10x.bin"',
        "m.toml:28: [profiles]: there is no such table; write [profile.NAME]",
    )  # fmt: skip


# --- packages that fit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flavour", "packages"),
    [
        ("open", 'apt = { "nvidia-open-570" = "570.195.03-1", "nvidia-opencl-icd" = "570.195.03-1" }'),
        ("open", 'apt = { "nvidia-dkms-open" = "570.195.03-1", "libnvidia-container1" = "1.17.8-1" }'),
        ("open", 'apt = { "libnvidia-compute-570:i386" = "570.195.03-0ubuntu1" }'),
        ("open", 'apt = { "nvidia-firmware-570-570.195.03" = "570.195.03-0ubuntu1" }'),
        ("proprietary", 'apt = { "nvidia-kernel-dkms" = "570.195.03-1~deb12u1" }'),
        ("open", 'apt = { "nvidia-headless-no-dkms-570-open" = "570.195.03-0ubuntu1" }'),
        ("open", 'dnf = { "kmod-nvidia-open-570.195.03-5.14.0-503.11.1" = "3:570.195.03-1.el9" }'),
        ("proprietary", 'dnf = { "nvidia-driver" = "3:570.195.03-1.el9" }\n'
                        'dnf_modules = ["nvidia-driver:570-dkms", "perl:5.32"]'),
        ("open", 'dnf = { "nvidia-driver" = "3:570.195.03-1.el9" }\n'
                 'dnf_modules = ["nvidia-driver:open-dkms"]'),
    ],
)  # fmt: skip
def test_packages_that_fit_are_taken(flavour: str, packages: str) -> None:
    text = managed(f"{packages}\n", BODY.replace('"open"', f'"{flavour}"'))
    assert parse(text, "m.toml").profile("x").flavour == flavour


# --- a given fleet ------------------------------------------------------------------------------------------

TWO = one(matcher='gres = ["gpu:h100"]\n') + one(head="", matcher='partitions = ["viz"]\n').replace(
    "profile.x", "profile.y"
)


def node(name: str, partition: str = "gpu", gres: str = "gpu:h100:8") -> NodeFacts:
    return NodeFacts(name, (partition,), (), (gres,) if gres else ())


def test_a_fleet_that_fits() -> None:
    nodes = (node("n1"), node("n2", "viz", "gpu:l40s:2"), node("login", "login", ""))
    assert parse(TWO, "m.toml", nodes) == parse(TWO, "m.toml")


def test_overlaps_and_nodes_without_a_profile_are_named() -> None:
    fleet = (*(node(f"v{i}", "viz") for i in range(1, 4)), *(node(f"n{i}", gres="gpu:2") for i in (7, 8)))
    assert refused(TWO, fleet) == (
        "m.toml:4: [profile]: none matches n[7-8]; add a profile for them, or widen one",
        "m.toml:11: [profile.y]: matches v[1-3], as [profile.x] does; "
        "a node takes one profile only: narrow one",
    )


def test_fleet_errors_come_with_the_others() -> None:
    text = TWO.replace('gres = ["gpu:h100"]', "gres = 1") + "x = 1\n"
    errors = refused(text, (node("n1"),))  # who matches n1 cannot be told, so that is left out
    assert [error.split(": ")[:2] for error in errors] == [
        ["m.toml:5", "[profile.x] gres"],
        ["m.toml:18", "[profile.y] x"],
    ]


def test_an_overlap_that_the_names_show_is_told_once() -> None:
    text = one() + one(head="").replace("profile.x", "profile.y")
    assert len(refused(text, (node("gpu1"), node("gpu2")))) == 1


# --- the one before -----------------------------------------------------------------------------------------


def manifest(name: str, previous: str, day: int = 1) -> str:
    head = f'name = "{name}"\nprevious = "{previous}"\ncreated = 2026-11-{day:02}T09:00:00Z\n'
    return one(head=head)


def reader(**files: str):
    def read(name: str) -> tuple[str, str]:
        if name not in files:
            raise Unreadable("there is no such file; put it there")
        return f"{name}.toml", files[name]

    return read


def refused_with(text: str, **files: str) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        parse_with_previous(text, "c.toml", reader(**files))
    return caught.value.errors


def test_the_previous_one_comes_along() -> None:
    first, second = manifest("a", "none"), manifest("b", "a", 2)
    assert parse_with_previous(first, "a.toml", reader()) == (parse(first, "a"), None)
    found = parse_with_previous(second, "b.toml", reader(a=first))
    assert found == (parse(second, "b"), parse(first, "a"))


def test_an_older_one_may_be_gone() -> None:
    assert (
        parse_with_previous(manifest("c", "b", 3), "c.toml", reader(b=manifest("b", "a", 2)))[1] is not None
    )


def test_a_previous_one_that_is_missing() -> None:
    assert refused_with(manifest("c", "b")) == (
        'c.toml:2: previous: "b" cannot be used: there is no such file; put it there',
    )


def test_a_previous_one_that_is_bad_brings_its_own_mistakes() -> None:
    text = manifest("c", "b") + "x = 1\n"
    errors = refused_with(text, b=manifest("b", "a").replace("gpus = 8", "gpus = 0"))
    assert errors[0] == 'c.toml:2: previous: "b" is not good; repair b.toml: its mistakes follow'
    assert errors[1].startswith("c.toml:11: [profile.x] x: there is no such key")
    assert errors[2:] == ("b.toml:8: [profile.x] gpus: 0 is out of range; take 1 to 1024",)


def test_a_previous_one_of_another_name() -> None:
    assert refused_with(manifest("c", "b"), b=manifest("a", "none")) == (
        'c.toml:2: previous: b.toml says name = "a"; a manifest stands in the file of its own name',
    )


def test_a_previous_one_of_a_later_date() -> None:
    assert refused_with(manifest("c", "b", 1), b=manifest("b", "none", 2)) == (
        'c.toml:2: previous: "b" was created later, 2026-11-02 09:00:00+00:00; is it the right one?',
    )


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"b": manifest("b", "c")}, "c -> b -> c"),
        ({"b": manifest("b", "a"), "a": manifest("a", "b")}, "c -> b -> a -> b"),
        ({"b": manifest("b", "a"), "a": manifest("a", "c")}, "c -> b -> a -> c"),
    ],
)
def test_a_circle(files: dict[str, str], circle: str) -> None:
    assert refused_with(manifest("c", "b"), **files) == (
        f"c.toml:2: previous: goes round in a circle: {circle}; "
        'make one of them the first: previous = "none"',
    )


# --- any text -----------------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    ["[profile.x]", "[profile.y]", "[profile.x.packages]", "[profile.x.images]", "name", "previous",
     "created", "nodes",
     "gres", "driver", "apt", "dnf", "dnf_modules", "topology", "=", ".", '"', "'", "'''", "1", "8",
     '"570.195.03"', '"open"', '"none"', '"gpu[1-9]"', '"nvidia-dkms-570"', "true", "\n", "\n", "#", "[", "]",
     "{", "}", ",", "2026-11-21T09:00:00Z", " ", "é", "\0"]
)  # fmt: skip
NODES = (node("gpu1"), node("n[1-999999999999]"))


@given(st.one_of(st.text(), st.lists(WORDS, max_size=30).map("".join)))
def test_any_text_is_a_manifest_or_a_manifest_error(text: str) -> None:
    try:
        found = parse(text, "m.toml", NODES)
    except ManifestError as error:
        assert error.errors
        assert all(re.fullmatch(r"m\.toml:[1-9][0-9]*: [ -~]+", line) for line in error.errors)
    else:
        assert isinstance(found, Manifest)


@given(st.data())
def test_a_good_manifest_that_is_spoilt_anywhere_is_one_or_an_error(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(EVERYTHING)))
    end = data.draw(st.integers(start, min(start + 20, len(EVERYTHING))))
    try:
        parse(EVERYTHING[:start] + data.draw(st.one_of(WORDS, st.text(max_size=5))) + EVERYTHING[end:], "m")
    except ManifestError as error:
        assert error.errors


# --- the example --------------------------------------------------------------------------------------------


def test_the_example_is_good_and_names_every_key() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    manifest = parse(text, "example")
    assert [profile.name for profile in manifest.profiles] == ["h100", "l40s", "a100"]
    named = {"previous", "notes", "created"}
    for kind in (Manifest, Matcher, Packages, Hardware, Profile):
        named |= {one.name for one in fields(kind)}
    for key in sorted(named - {"profiles", "matcher", "hardware"}):
        assert re.search(rf"(?m)^(?:\[[\w.]+\.)?{key}(?: = |\])", text), key

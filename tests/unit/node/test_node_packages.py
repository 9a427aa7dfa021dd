"""Which packages are installed, which are removed, and when there is nothing to do."""

import pytest
from fake_host import APT, NODES, UBUNTU, V, pins, profile

from slurm_gsp.node import packages as pkg
from slurm_gsp.node.packages import DEBIAN, RHEL, SUSE
from slurm_gsp.parse.packages import Package, parse_dpkg_status, parse_rpm

STATUS = (NODES / UBUNTU / "root/var/lib/dpkg/status").read_text()
INSTALLED = parse_dpkg_status(STATUS)


def package(name, version=f"{V}-0ubuntu1", arch="amd64", state="installed"):
    return Package(name, version, arch, state)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", DEBIAN),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', RHEL),
        ('ID="sles"\nID_LIKE="suse"\n', SUSE),
        ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\n', SUSE),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", DEBIAN),
        ("VERSION_ID=9\nID=amzn\n", RHEL),
        ("ID=arch\n", None),
        ("", None),
    ],
)
def test_the_family_of_a_distribution(text, family):
    assert pkg.family_of(text) == family


@pytest.mark.parametrize(
    "stray",
    [
        package("libnvidia-compute-570", "570.195.03-0ubuntu1"),
        package("nvidia-firmware-580-580.65.06", "580.65.06-0ubuntu1"),
        package("libnvidia-gl-580", "580.65.06-0ubuntu1", state="half-installed"),
        package("libnvidia-compute-580", "580.65.06-0ubuntu1", "i386"),
        package("linux-modules-nvidia-570-open-6.8.0-64-generic", "6.8.0-64.67"),
        package("nvidia-dkms-580"),  # the other flavour
    ],
    ids=lambda one: f"{one.name}:{one.arch}",
)
def test_a_stray_package(stray):
    assert pkg.strays((*INSTALLED, stray), APT, profile(), DEBIAN) == (stray,)


@pytest.mark.parametrize(
    "other",
    [
        package("libnvidia-gl-580"),
        package("libnvidia-compute-570", "570.195.03-0ubuntu1", state="config-files"),
        package("linux-modules-nvidia-580-open-6.8.0-64-generic", "6.8.0-64.67"),
        package("nvidia-kernel-common", "20220217+3"),
        package("nvidia-container-toolkit", "1.17.8-1"),
        package("cuda-toolkit-12-8", "12.8.1-1"),
        package("datacenter-gpu-manager", "1:3.3.9"),
        package("nvidia-utils-580", "580.65.06-0ubuntu1"),  # pinned by name: it is moved, not removed
    ],
    ids=lambda one: one.name,
)
def test_what_is_left_alone(other):
    rest = tuple(one for one in INSTALLED if one.name != other.name)
    assert pkg.strays((*rest, other), APT, profile(), DEBIAN) == ()


def test_differences_are_told_one_for_each_package():
    changed = (
        *(
            one
            for one in INSTALLED
            if one.name not in {"nvidia-utils-580", "nvidia-open", "nvidia-firmware-580"}
        ),
        package("nvidia-utils-580", "580.65.06-0ubuntu1"),
        package("nvidia-open", state="half-configured"),
    )
    assert pkg.differences(INSTALLED, APT, DEBIAN) == ()
    assert pkg.differences(changed, APT, DEBIAN) == (
        "nvidia-firmware-580 is not installed",
        "nvidia-utils-580 is 580.65.06-0ubuntu1, pinned is 580.95.05-0ubuntu1",
        "nvidia-open is half-configured",
    )
    assert [pin.name for pin in pkg.exact(changed, APT, DEBIAN)] == [
        pin.name for pin in APT if pin.name not in {"nvidia-utils-580", "nvidia-open", "nvidia-firmware-580"}
    ]


def test_an_architecture_is_meant_where_it_is_named():
    both = (package("libnvidia-compute-580"), package("libnvidia-compute-580", "1-1", "i386"))
    assert pkg.differences(both, pins("libnvidia-compute-580", version=f"{V}-0ubuntu1"), DEBIAN) == ()
    assert pkg.differences(both, pins("libnvidia-compute-580:i386", version="1-1"), DEBIAN) == ()
    assert pkg.differences(both, pins("libnvidia-compute-580:arm64", version="1-1"), DEBIAN) != ()
    assert pkg.native_arch((package("dpkg", arch="arm64"),)) == "arm64"


def test_rpm_names_and_epochs():
    have = parse_rpm("libnvidia-ml 3:580.95.05-1.el9 x86_64\nnvidia-compute-G06 0:580.95.05-1 x86_64\n")
    assert pkg.differences(have, pins("libnvidia-ml", version="3:580.95.05-1.el9"), RHEL) == ()
    assert pkg.differences(have, pins("nvidia-compute-G06", version="580.95.05-1"), SUSE) == ()
    assert pkg.differences(have, pins("libnvidia-ml", version="580.95.05-1.el9"), RHEL) != ()
    foreign = parse_rpm("libnvidia-ml 3:580.95.05-1.el9 x86_64\nlibnvidia-ml 3:570.195.03-1.el9 i686\n")
    assert pkg.differences(foreign, pins("libnvidia-ml", version="3:580.95.05-1.el9"), RHEL) == ()
    stray = pkg.strays(foreign, pins("libnvidia-ml", version="3:580.95.05-1.el9"), profile(), RHEL)
    assert [pkg.full_name(one, RHEL, "") for one in stray] == ["libnvidia-ml-570.195.03-1.el9.i686"]
    twice = parse_rpm("libnvidia-ml 3:580.95.05-1.el9 x86_64\nlibnvidia-ml 3:570.195.03-1.el9 x86_64\n")
    assert pkg.differences(twice, pins("libnvidia-ml", version="3:580.95.05-1.el9"), RHEL) != ()
    # after an interrupted transaction: what is there twice has to be fetched by dnf's reinstall
    assert pkg.exact(twice, pins("libnvidia-ml", version="3:580.95.05-1.el9"), RHEL) != ()
    assert pkg.exact(twice, pins("libnvidia-ml", version="3:580.65.06-1.el9"), RHEL) == ()


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ("??5??????   /lib/firmware/nvidia/580.95.05/gsp.bin", "/lib/firmware/nvidia/580.95.05/gsp.bin"),
        ("missing     /usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
        ("missing     /usr/bin/x (Permission denied)", "/usr/bin/x (Permission denied)"),
        ("S.5....T.    /usr/lib64/libcuda.so.1", "/usr/lib64/libcuda.so.1"),
        ("....L....    /usr/lib64/libcuda.so.1", "/usr/lib64/libcuda.so.1"),
        ("??5?????? c /etc/modprobe.d/nvidia.conf", None),
        ("missing   c /etc/modprobe.d/nvidia.conf", None),
        (".......T.    /usr/lib64/libcuda.so.1", None),
        (".M...UG..    /usr/lib64/libcuda.so.1", None),
        ("S.5....T.  g /var/lib/x", None),
        ("missing   d /usr/share/doc/nvidia-driver-cuda/README.txt", None),
        ("missing     /usr/share/doc/nvidia-utils-580", None),
        ("missing     /usr/share/man/man1/nvidia-smi.1.gz", None),
        ("Unsatisfied dependencies for x:", None),
        ("", None),
    ],
)  # fmt: skip
def test_files_that_are_not_as_shipped(line, path):
    assert pkg.altered_files(f"{line}\n") == (() if path is None else (path,))


def test_how_packages_and_their_files_are_named():
    deb, rpm = (
        pins("libnvidia-ml1:i386", version="1:580-1")[0],
        pins("libnvidia-ml", version="3:580-1.el9")[0],
    )
    assert pkg.spec(deb, DEBIAN) == "libnvidia-ml1:i386=1:580-1"
    assert pkg.spec(rpm, RHEL) == "libnvidia-ml-3:580-1.el9"
    assert pkg.spec(rpm, SUSE) == "libnvidia-ml=3:580-1.el9"
    assert pkg.file_pattern(deb, DEBIAN) == "libnvidia-ml1_1%3a580-1_i386.deb"
    assert pkg.file_pattern(pins("dkms", version="3.0-1")[0], DEBIAN) == "dkms_3.0-1_*.deb"
    assert pkg.file_pattern(rpm, RHEL) == "libnvidia-ml-580-1.el9.*.rpm"
    assert pkg.full_name(package("a", arch="i386"), DEBIAN, "amd64") == "a:i386"
    assert pkg.full_name(package("a", arch="all"), DEBIAN, "amd64") == "a"
    assert pkg.full_name(package("a", "3:1-2", "x86_64"), RHEL, "") == "a-1-2.x86_64"


def test_the_database_as_the_purge_will_leave_it():
    text = STATUS.replace(
        "Package: nvidia-utils-580\nStatus: install ok installed",
        "Package: nvidia-utils-580\nStatus: hold reinstreq half-configured",
    )
    assert text != STATUS
    gone = next(one for one in INSTALLED if one.name == "nvidia-firmware-580")
    left = {one.name: one for one in parse_dpkg_status(pkg.without(text, [gone]))}
    assert left.keys() == {one.name for one in INSTALLED} - {"nvidia-firmware-580"}
    assert left["nvidia-utils-580"].state == "installed"


def test_dkms_and_headers_by_name():
    assert pkg.uses_dkms(pins("nvidia-dkms-580-open", version="1")) and pkg.uses_dkms(
        pins("dkms", version="1")
    )
    assert not pkg.uses_dkms(pins("nvidia-open-driver-G06-signed-kmp-default", version="1"))
    assert pkg.brings_headers(pins("linux-headers-6.8.0-51-generic", version="1"))
    assert not pkg.brings_headers(APT)

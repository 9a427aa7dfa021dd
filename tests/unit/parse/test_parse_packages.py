import pytest
from hypothesis import given
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.packages import (
    Package,
    driver_version_of,
    fabric_manager,
    is_core_package,
    is_driver_package,
    parse_dpkg_status,
    parse_rpm,
)

DPKG = """\
Package: libnvidia-compute-580-server
Status: install ok installed
Priority: optional
Architecture: amd64
Multi-Arch: same
Source: nvidia-graphics-drivers-580-server
Version: 580.95.05-0ubuntu0.24.04.1
Description: NVIDIA libcompute package
 This package provides the NVIDIA libraries.
 .
 Version: 1

Package: nvidia-dkms-580-server
Status: install ok half-configured
Architecture: amd64
Version: 580.95.05-0ubuntu0.24.04.1
Config-Version: 580.82.07-0ubuntu0.24.04.1

Package: nvidia-utils-570
Status: deinstall ok config-files
Architecture: amd64
Version: 570.133.20-0ubuntu0.24.04.1

Package: libcuda1
Status: install reinstreq half-installed
Architecture: amd64
Version: 550.163.01-2

Package: man-db
Status: install ok triggers-pending
Architecture: amd64
Version: 2.12.0-4build2

Package: gone
Status: purge ok not-installed
Architecture: all
"""
RPM = """\
kmod-nvidia-open-dkms 3:580.95.05-1.el9 noarch
nvidia-driver-cuda 3:580.95.05-1.el9 x86_64
gpg-pubkey 0:8d7a1d1a-5f3d1b2a (none)
"""


def test_dpkg_status():
    assert parse_dpkg_status(DPKG) == (
        Package("libnvidia-compute-580-server", "580.95.05-0ubuntu0.24.04.1", "amd64", "installed"),
        Package("nvidia-dkms-580-server", "580.95.05-0ubuntu0.24.04.1", "amd64", "half-configured"),
        Package("nvidia-utils-570", "570.133.20-0ubuntu0.24.04.1", "amd64", "config-files"),
        Package("libcuda1", "550.163.01-2", "amd64", "half-installed"),
        Package("man-db", "2.12.0-4build2", "amd64", "triggers"),
        Package("gone", "", "all", "not-installed"),
    )
    assert parse_dpkg_status("") == ()


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("install ok unpacked", "unpacked"),
        ("install ok triggers-awaited", "triggers"),
        ("install reinstreq installed", "half-installed"),
        ("hold ok installed", "installed"),
    ],
)
def test_dpkg_states(status, state):
    (package,) = parse_dpkg_status(f"Package: a\nStatus: {status}\nVersion: 1\nArchitecture: all\n")
    assert package == Package("a", "1", "all", state)


def test_rpm():
    assert parse_rpm("warning: rpmdb: something\n" + RPM) == (
        Package("kmod-nvidia-open-dkms", "3:580.95.05-1.el9", "noarch", "installed"),
        Package("nvidia-driver-cuda", "3:580.95.05-1.el9", "x86_64", "installed"),
        Package("gpg-pubkey", "0:8d7a1d1a-5f3d1b2a", "(none)", "installed"),
    )
    assert parse_rpm("") == ()


def test_what_is_no_package_list():
    with pytest.raises(ParseError, match="not a dpkg status file"):
        parse_dpkg_status("hello\nworld\n")
    with pytest.raises(ParseError, match="not rpm's answer"):
        parse_rpm("error: cannot open Packages database in /var/lib/rpm\n")


# Healthy nodes. One line a package: name, version, and a star where it must have the driver's version.
UBUNTU_SERVER = """\
linux-modules-nvidia-580-server-open-6.8.0-49-generic 6.8.0-49.49+1
linux-modules-nvidia-580-server-open-6.8.0-50-generic 6.8.0-50.51+1
linux-modules-nvidia-580-server-open-generic 6.8.0-50.51+1
linux-objects-nvidia-570-server-6.8.0-1021-aws 6.8.0-1021.23+1
linux-signatures-nvidia-6.8.0-50-generic 6.8.0-50.51+1
libnvidia-cfg1-580-server 580.95.05-0ubuntu0.24.04.1
libnvidia-common-580-server 580.95.05-0ubuntu0.24.04.1
libnvidia-compute-580-server 580.95.05-0ubuntu0.24.04.1 *
libnvidia-decode-580-server 580.95.05-0ubuntu0.24.04.1
libnvidia-egl-wayland1 1:1.1.13-1build1
libnvidia-nscq-580 580.95.05-0ubuntu0.24.04.1
libnvidia-container1 1.17.8-1
libnvidia-container-tools 1.17.8-1
nvidia-compute-utils-580-server 580.95.05-0ubuntu0.24.04.1 *
nvidia-container-toolkit 1.17.8-1
nvidia-cuda-toolkit 12.0.140~12.0.1-4build4
nvidia-dkms-580-server-open 580.95.05-0ubuntu0.24.04.1 *
nvidia-driver-580-server-open 580.95.05-0ubuntu0.24.04.1 *
nvidia-headless-no-dkms-580-server-open 580.95.05-0ubuntu0.24.04.1 *
nvidia-fabricmanager-580 580.95.05-0ubuntu0.24.04.1
nvidia-firmware-570-server-570.133.20 570.133.20-0ubuntu0.24.04.1
nvidia-firmware-580-server-580.95.05 580.95.05-0ubuntu0.24.04.1
nvidia-kernel-common-580-server 580.95.05-0ubuntu0.24.04.1
nvidia-kernel-source-580-server-open 580.95.05-0ubuntu0.24.04.1 *
nvidia-prime 0.8.17.2
nvidia-settings 510.47.03-0ubuntu4
nvidia-utils-580-server 580.95.05-0ubuntu0.24.04.1 *
nvidia-utils-570-server 580.95.05-0ubuntu0.24.04.1 *
xserver-xorg-video-nvidia-580-server 580.95.05-0ubuntu0.24.04.1
screen-resolution-extra 0.18.3ubuntu0.24.04.1
"""
NVIDIA_UBUNTU = """\
cuda-compat-12-4 550.163.01-0ubuntu1
cuda-compat-13-0 590.48.01-0ubuntu1
cuda-drivers 580.95.05-0ubuntu1 *
cuda-drivers-580 580.95.05-0ubuntu1 *
cuda-drivers-fabricmanager-580 580.95.05-0ubuntu1
cuda-toolkit-12-4 12.4.1-1
datacenter-gpu-manager 1:3.3.9
datacenter-gpu-manager-4-core 1:4.4.1-1
libcudnn9-cuda-12 9.8.0.87-1
libxnvctrl0 570.124.06-0ubuntu1
nvidia-driver-assistant 0.21.57.08-1
nvidia-driver-local-repo-ubuntu2404-570.124.06 1.0-1
nvidia-driver-pinning-580 580-1
nvidia-imex-580 580.95.05-0ubuntu1
nvidia-modprobe 590.48.01-0ubuntu1
nvidia-open 580.95.05-0ubuntu1 *
nvidia-open-580 580.95.05-0ubuntu1 *
nvidia-persistenced 590.48.01-0ubuntu1
nvidia-settings 590.48.01-0ubuntu1
nvidia-xconfig 590.48.01-0ubuntu1
"""
DEBIAN = """\
firmware-nvidia-graphics 20250410-2
firmware-nvidia-gsp 550.163.01-2
glx-alternative-nvidia 1.2.2
libcuda1 550.163.01-2 *
libcuda1-i386 550.163.01-2 *
libegl-nvidia0 550.163.01-2
libgl1-nvidia-glvnd-glx 550.163.01-2
libnvidia-egl-gbm1 1.1.2-3
libnvidia-eglcore 550.163.01-2
libnvidia-ml-dev 12.4.127~12.4.1-2
libnvidia-ml1 550.163.01-2 *
libnvidia-ptxjitcompiler1 550.163.01-2
libnvidia-tesla-470-ml1 470.256.02-3
libxnvctrl0 535.171.04-1
nvidia-alternative 550.163.01-2
nvidia-driver 550.163.01-2 *
nvidia-driver-bin 550.163.01-2 *
nvidia-driver-libs 550.163.01-2 *
nvidia-egl-common 550.163.01-2
nvidia-installer-cleanup 20240109+1
nvidia-kernel-common 20240109+1
nvidia-kernel-dkms 550.163.01-2 *
nvidia-kernel-support 550.163.01-2
nvidia-legacy-check 550.163.01-2
nvidia-modprobe 535.161.07-1
nvidia-open-kernel-dkms 550.163.01-2 *
nvidia-persistenced 535.171.04-1
nvidia-settings 535.171.04-1
nvidia-smi 550.163.01-2 *
nvidia-support 20240109+1
nvidia-vulkan-icd 550.163.01-2
nvidia-xconfig 535.171.04-1
"""
RHEL = """\
cuda-drivers 3:580.95.05-1.el9 *
dnf-plugin-nvidia 0:2.2-1.el9
egl-wayland 0:1.1.19-2.el9
kmod-nvidia-570.133.20-5.14.0-427.13.1 3:570.133.20-3.el9_4
kmod-nvidia-580.95.05-5.14.0-503.11.1 3:580.95.05-3.el9_5
kmod-nvidia-open-dkms 3:580.95.05-1.el9 *
libnvidia-cfg 3:580.95.05-1.el9
libnvidia-container1 0:1.17.8-1
libnvidia-ml 3:580.95.05-1.el9 *
libnvidia-nscq 3:580.95.05-1.el9
nvidia-driver 3:580.95.05-1.el9 *
nvidia-driver-assistant 0:0.21.57.08-1
nvidia-driver-cuda 3:580.95.05-1.el9 *
nvidia-driver-cuda-libs 3:580.95.05-1.el9 *
nvidia-driver-libs 3:580.95.05-1.el9 *
nvidia-fabric-manager 0:580.95.05-1
nvidia-kmod-common 3:580.95.05-1.el9 *
nvidia-libXNVCtrl 3:570.133.20-1.el9
nvidia-modprobe 3:570.133.20-1.el9
nvidia-persistenced 3:570.133.20-1.el9
xorg-x11-nvidia 3:580.95.05-1.el9
"""
FEDORA_AND_ELREPO = """\
akmod-nvidia 3:580.95.05-1.fc42 *
kmod-nvidia-6.11.3-200.fc40.x86_64 3:560.35.03-1.fc40
xorg-x11-drv-nvidia 3:580.95.05-1.fc42 *
xorg-x11-drv-nvidia-cuda 3:580.95.05-1.fc42 *
xorg-x11-drv-nvidia-kmodsrc 3:580.95.05-1.fc42
kmod-nvidia 0:580.95.05-1.el9_6.elrepo *
nvidia-x11-drv 0:580.95.05-1.el9_6.elrepo *
"""
SLES = """\
kernel-firmware-nvidia 0:20241128-150600.1.1
kernel-firmware-nvidia-gspx-G06 0:580.95.05-150600.3.35.1
nvidia-common-G06 0:580.95.05-lp156.42.1
nvidia-compute-G06 0:580.95.05-lp156.42.1 *
nvidia-compute-utils-G06 0:580.95.05-lp156.42.1 *
nvidia-open-driver-G06-signed-kmp-default 0:580.95.05_k6.4.0_150600.21-150600.3.35.1
nvidia-open-driver-G06-signed-cuda-kmp-default 0:570.133.20_k6.4.0_150600.21-150600.3.35.1
"""
HEALTHY = [
    (UBUNTU_SERVER, "580.95.05"),
    (NVIDIA_UBUNTU, "580.95.05"),
    (DEBIAN, "550.163.01"),
    (RHEL, "580.95.05"),
    (FEDORA_AND_ELREPO, "580.95.05"),
    (SLES, "580.95.05"),
]


@pytest.mark.parametrize(("listing", "driver"), HEALTHY)
def test_a_healthy_node_has_one_driver(listing, driver):
    rows = [line.split() for line in listing.splitlines()]
    starred = {row[0] for row in rows if len(row) == 3}
    core = [Package(row[0], row[1], "amd64", "installed") for row in rows if is_core_package(row[0])]
    assert {package.name for package in core} == starred
    assert {driver_version_of(package) for package in core} == {driver}
    assert all(is_driver_package(name) for name in starred)


@pytest.mark.parametrize(
    "name",
    [
        "linux-modules-nvidia-580-server-open-6.8.0-49-generic",
        "linux-signatures-nvidia-6.8.0-50-generic",
        "nvidia-firmware-570-server-570.133.20",
        "firmware-nvidia-gsp",
        "kernel-firmware-nvidia-gspx-G06",
        "nvidia-fabricmanager-580",
        "nvidia-fabric-manager",
        "nvidia-imex",
        "libnvidia-cfg1-580-server",
        "nvidia-kernel-common-580-server",
        "kmod-nvidia-580.95.05-5.14.0-503.11.1",
        "xorg-x11-nvidia",
        "nvidia-open-driver-G06-signed-kmp-default",
        "libgl1-nvidia-glvnd-glx",
        "libnvidia-tesla-470-ml1",
    ],
)
def test_driver_packages_that_may_differ(name):
    assert is_driver_package(name)
    assert not is_core_package(name)


@pytest.mark.parametrize(
    "name",
    [
        "nvidia-container-toolkit",
        "libnvidia-container1",
        "libnvidia-container-tools",
        "nvidia-cuda-toolkit",
        "cuda-compat-12-4",
        "nvidia-settings",
        "libxnvctrl0",
        "nvidia-prime",
        "nvidia-modprobe",
        "nvidia-xconfig",
        "nvidia-persistenced",
        "nvidia-support",
        "nvidia-installer-cleanup",
        "nvidia-legacy-check",
        "nvidia-alternative",
        "glx-alternative-nvidia",
        "libnvidia-egl-wayland1",
        "egl-wayland",
        "libcudnn9-cuda-12",
        "datacenter-gpu-manager",
        "libnvidia-ml-dev",
        "nvidia-driver-assistant",
        "nvidia-driver-pinning-580",
        "nvidia-driver-local-repo-ubuntu2404-570.124.06",
        "nvidia-fabricmanager-dev-580",
        "firmware-nvidia-graphics",
        "nvidia-fs-dkms",
        "nvidia-gds",
        "nvidia-peermem-dkms",
        "bash",
        "",
    ],
)
def test_packages_that_are_not_the_driver(name):
    assert not is_driver_package(name)
    assert driver_version_of(Package(name, "580.95.05-1", "amd64", "installed")) is None


def test_the_version_counts_not_the_name():
    transitional = Package("nvidia-driver-570-open", "590.48.01-0ubuntu0.24.04.1", "amd64", "installed")
    assert driver_version_of(transitional) == "590.48.01"
    modules = Package("linux-modules-nvidia-580-generic", "580.95.05-1", "amd64", "installed")
    assert driver_version_of(modules) is None


def test_fabric_manager():
    def package(name, version, state="installed"):
        return Package(name, version, "amd64", state)

    others = (package("bash", "5.2"), package("nvidia-fabricmanager-dev-570", "570.133.20-1"))
    assert fabric_manager(others) is None
    for name in ("nvidia-fabricmanager-570", "nvidia-fabricmanager", "nvidia-fabric-manager"):
        assert fabric_manager((*others, package(name, "570.133.20-1"))) == package(name, "570.133.20-1")
    old = package("nvidia-fabricmanager-570", "570.133.20-1", "config-files")
    new = package("nvidia-fabricmanager-580", "580.95.05-1")
    assert fabric_manager((new, old)) == new
    assert fabric_manager((package("nvidia-fabricmanager-570", "580.82.07-1"), new)) == new


@given(noisy([DPKG]))
def test_any_text_gives_dpkg_packages_or_a_parse_error(text):
    try:
        packages = parse_dpkg_status(text)
    except ParseError:
        return
    fabric_manager(packages)


@given(noisy([RPM]))
def test_any_text_gives_rpm_packages_or_a_parse_error(text):
    try:
        packages = parse_rpm(text)
    except ParseError:
        return
    fabric_manager(packages)

"""Faults by name: what really happens to GPU nodes, done to a running one.

Where the real fault needs a reboot, the node reboots unnoticed by Slurm, so that what drains it afterwards
is the hook and not Slurm's `Node unexpectedly rebooted`.
"""

import dataclasses
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from subprocess import DEVNULL

from slurm_gsp.lab import elf, golden, packages, procs
from slurm_gsp.lab.cluster import Node
from slurm_gsp.lab.procs import LabError

Action = Callable[[Node], None]
V = packages.INSTALLED
IMAGES = f"/lib/firmware/nvidia/{V}"
IMAGE = f"{IMAGES}/gsp_ga10x.bin"
HANG, CRASH = "/run/lab-nvml-hang", "/run/lab-nvml-crash"
APT = ("apt-get", "-q", "-y", "-o", "Dpkg::Use-Pty=0")
MODULES = "/lib/modules/{release}/updates/dkms"


@dataclass(frozen=True)
class Fault:
    """A named fault: how it is made, and the code that a detector should give it ('' for none)."""

    inject: Action
    description: str
    code: str = ""


FAULTS: dict[str, Fault] = {}


def fault(name: str, description: str, code: str = "") -> Callable[[Action], Action]:
    def enter(action: Action) -> Action:
        FAULTS[name] = Fault(action, description, code)
        return action

    return enter


def inject(node: Node, name: str) -> None:
    if name not in FAULTS:
        raise LabError(f"there is no fault {name}: `slurm-gsp lab faults` lists them")
    FAULTS[name].inject(node)


def _apt(node: Node, *arguments: str) -> None:
    node.run([*APT, *arguments])


def _on_gpu(node: Node, index: int, **change: object) -> None:
    node.hardware = node.hardware.with_gpu(index, **change)
    node.reboot(quiet=True)


def _change(node: Node, **change: object) -> None:
    node.hardware = dataclasses.replace(node.hardware, **change)  # type: ignore[arg-type]


def _modules(node: Node) -> str:
    return MODULES.format(release=node.release)


@fault(
    "interrupted-upgrade", "apt-get was killed while dkms built: new libraries, old module loaded", "umd-skew"
)
def interrupted_upgrade(node: Node) -> None:
    _apt(node, "update")
    node.write(packages.HOLD, "")
    process = node.popen([*APT, "dist-upgrade"], stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    try:
        node.lab.wait_for(lambda: node.exists(packages.HELD), 60, "the upgrade to reach the module build")
    finally:
        for pid in procs.descendants(process.pid):  # nsenter itself lives on to reap, and ends with them
            procs.send(pid, signal.SIGKILL)
        process.wait()
    for path in (packages.HOLD, packages.HELD):
        node.path(path).unlink()


@fault(
    "unattended-upgrade",
    "an upgrade completed: everything on disk is new, the old module is loaded",
    "umd-skew",
)
def unattended_upgrade(node: Node) -> None:
    _apt(node, "update")
    _apt(node, "dist-upgrade", "--auto-remove")


@fault("hand-copied-image", "the GSP image of another version was copied over, then a reboot", "fw-skew")
def hand_copied_image(node: Node) -> None:
    node.write(IMAGE, elf.gsp_image("gsp_ga10x.bin", packages.OTHER_BRANCH))
    node.reboot(quiet=True)


@fault("truncated-image", "the GSP image is cut short, then a reboot", "fw-damaged")
def truncated_image(node: Node) -> None:
    node.write(IMAGE, node.path(IMAGE).read_bytes()[:4000])
    node.reboot(quiet=True)


@fault("missing-image", "the GSP image was deleted, then a reboot", "fw-missing")
def missing_image(node: Node) -> None:
    node.path(IMAGE).unlink()
    node.reboot(quiet=True)


@fault("image-removed-live", "the GSP image was deleted under running GPUs", "fw-gone")
def image_removed_live(node: Node) -> None:
    node.path(IMAGE).unlink()


@fault(
    "kernel-bump", "rebooted into a new kernel without headers: dkms built no module for it", "kmd-unbuilt"
)
def kernel_bump(node: Node) -> None:
    kernel_staged(node)
    node.reboot(quiet=True)


@fault("kernel-staged", "a new kernel without a module is installed and boots next", "next-kernel")
def kernel_staged(node: Node) -> None:
    _apt(node, "update")
    _apt(node, "install", f"linux-image-{packages.NEXT_KERNEL}")


@fault(
    "mixed-branches",
    "the libraries of another branch were forced in beside: the loader picks them",
    "umd-skew",
)
def mixed_branches(node: Node) -> None:
    name = f"libnvidia-compute-{packages.branch(packages.OTHER_BRANCH)}"
    deb = f"{golden.REPOSITORY}/{name}_{packages.deb_version(packages.OTHER_BRANCH)}_amd64.deb"
    node.run(["dpkg", "--force-conflicts", "--force-overwrite", "--install", deb])


@fault("kmd-split", "nvidia-uvm of another version is loaded beside nvidia", "kmd-split")
def kmd_split(node: Node) -> None:
    module = elf.kernel_module("nvidia-uvm", packages.UPDATE, node.release)
    node.write(f"{_modules(node)}/nvidia-uvm.ko", module)
    node.reboot(quiet=True)


def _install_proprietary_modules(node: Node) -> None:
    for path, module in packages.module_files(V, node.release, _modules(node), is_open=False).items():
        node.write(path, module)


@fault("gsp-off", "proprietary modules with the GSP switched off by parameter, then a reboot", "gsp-off")
def gsp_off(node: Node) -> None:
    _install_proprietary_modules(node)
    node.write("/etc/modprobe.d/nvidia-gsp.conf", "options nvidia NVreg_EnableGpuFirmware=0\n")
    node.reboot(quiet=True)


@fault("module-unloaded", "the driver was unloaded: a good module on disk, none loaded", "kmd-unloaded")
def module_unloaded(node: Node) -> None:
    script = "rm -rf /sys/module/nvidia* /proc/driver/nvidia; rm -f /sys/bus/pci/devices/*/driver"
    node.run(["sh", "-c", f"{script}; [ ! -w /proc/modules ] || : > /proc/modules"])
    node.log_kernel("nvidia-nvlink: Unregistered Nvlink Core, major device number 240", 6)


@fault("xid-119", "a GPU's GSP stopped answering (Xid 119 in the kernel log)", "gsp-timeout")
def xid_119(node: Node) -> None:
    bus = node.hardware.gpus[0].bus
    what = "Timeout after 6s of waiting for RPC response from GPU0 GSP! Expected function 76 (GSP_RM_CONTROL)"
    node.log_kernel(
        f"NVRM: Xid (PCI:{bus.removesuffix('.0')}): 119, pid=2061, name=python3, {what} (0x20801702 0x4)."
    )


@fault("xid-120", "a GPU's GSP reported an error (Xid 120 in the kernel log)", "gsp-timeout")
def xid_120(node: Node) -> None:
    bus = node.hardware.gpus[0].bus
    what = "GSP task exception: load access fault (5) @ pc:0x179d2e8"
    node.log_kernel(f"NVRM: Xid (PCI:{bus.removesuffix('.0')}): 120, pid='<unknown>', name=<unknown>, {what}")


@fault("nvml-hang", "every nvmlInit hangs in the driver", "driver-hung")
def nvml_hang(node: Node) -> None:
    node.write(HANG, "")


@fault("nvml-crash", "every nvmlInit kills its caller with SIGABRT")
def nvml_crash(node: Node) -> None:
    node.write(CRASH, "")


@fault("nouveau", "nouveau drives the GPUs", "nouveau")
def nouveau(node: Node) -> None:
    _change(node, gpus=tuple(dataclasses.replace(gpu, bound_to="nouveau") for gpu in node.hardware.gpus))
    node.reboot(quiet=True)


@fault("secure-boot", "Secure Boot came on: the kernel refuses the unsigned module", "sb-refused")
def secure_boot(node: Node) -> None:
    _change(node, secure_boot=True)
    node.reboot(quiet=True)


@fault("vbios", "a GPU fails on its VBIOS (FWSEC)", "vbios")
def vbios(node: Node) -> None:
    _on_gpu(node, 1, failure="vbios")


@fault("wrong-flavour", "proprietary modules on GPUs that need the open ones", "wrong-flavour")
def wrong_flavour(node: Node) -> None:
    _install_proprietary_modules(node)
    needs = {"device": "0x2901", "model": "NVIDIA B200", "chip": "gb10x", "requires_open": True}
    _change(node, gpus=tuple(dataclasses.replace(gpu, **needs) for gpu in node.hardware.gpus))  # type: ignore[arg-type]
    node.reboot(quiet=True)


@fault("gpu-missing", "one GPU is gone from the PCI bus", "gpu-missing")
def gpu_missing(node: Node) -> None:
    _change(node, gpus=node.hardware.gpus[:1])
    node.reboot(quiet=True)


@fault("gpu-lost", "a GPU fails to initialise, and not for its firmware image", "gpu-lost")
def gpu_lost(node: Node) -> None:
    _on_gpu(node, 1, failure="lost")


@fault("fw-interrupted", "loading an intact image was interrupted (error -4)", "fw-interrupted")
def fw_interrupted(node: Node) -> None:
    _on_gpu(node, 1, failure="interrupted")


@fault("fabric-skew", "NVSwitches, and a fabric manager of another version than the driver", "fabric-skew")
def fabric_skew(node: Node) -> None:
    _apt(node, "update")
    name = f"nvidia-fabricmanager-{packages.branch(V)}"
    _apt(node, "install", f"{name}={packages.deb_version(packages.UPDATE)}")
    _change(node, nvswitches=("0000:08:00.0", "0000:09:00.0"))
    node.reboot(quiet=True)
    text = f"fabric manager NVIDIA GPU driver interface version {packages.UPDATE} don't match with driver"
    node.log_kernel(
        f"nvidia-nvswitch: {text} version {V}. Please update with matching NVIDIA driver package."
    )


@fault("gsp-skew", "the GSP runs another version than the loaded module", "gsp-skew")
def gsp_skew(node: Node) -> None:
    path = f"/proc/driver/nvidia/gpus/{node.hardware.gpus[0].bus}/information"
    text = re.sub(r"(GPU Firmware:\s*)\S+", rf"\g<1>{packages.UPDATE}", node.read(path))
    node.write(path, text)


@fault("disk-full", "the root file system is full")
def disk_full(node: Node) -> None:
    node.run(["sh", "-c", "cat /dev/zero > /var/lab-filler"], check=False)


@fault("repository-down", "the package repository does not answer")
def repository_down(node: Node) -> None:
    node.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", golden.REPOSITORY])


@fault("never-returns", "the next reboot does not come back")
def never_returns(node: Node) -> None:
    _change(node, returns=False)


@fault(
    "custom-firmware-path", "healthy but odd: no packages, no dkms, images below /opt/fw by kernel parameter"
)
def custom_firmware_path(node: Node) -> None:
    extra = f"/lib/modules/{node.release}/extra"
    saved = "/tmp/lab-saved"  # noqa: S108 - in the node
    lines = [
        f"mkdir -p {saved} /opt/fw/nvidia {extra}",
        f"cp -a {_modules(node)}/*.ko {extra}/",
        f"cp -a {IMAGES} /opt/fw/nvidia/",
        f"cp -a /opt/fw/nvidia/{V} /opt/fw/nvidia/550.90.07",
        f"cp -a /{packages.LIBRARIES}/libnvidia-ml.so.* /{packages.LIBRARIES}/libcuda.so.* {saved}/",
        f"cp -a /usr/bin/nvidia-smi {saved}/",
        f"dpkg --purge dkms {' '.join(packages.driver_package_names(V))}",
        f"mv {saved}/nvidia-smi /usr/bin/",
        f"mv {saved}/* /{packages.LIBRARIES}/",
        "rm -rf /lib/firmware/nvidia",
        f"rmdir {saved}",
        "ldconfig",
    ]
    node.run(["sh", "-euc", "\n".join(lines)])
    _change(node, firmware_path="/opt/fw")
    node.reboot(quiet=True)


@fault("heal", "the node is as new (Slurm's state of it stays as it is)")
def heal(node: Node) -> None:
    node.renew()

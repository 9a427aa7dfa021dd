"""PID 1 of a lab node: it builds the node's world once, then boots it, reboots it on request and reaps.

Signals: SIGINT reboots as a machine does (slurmd then says that it booted just now), SIGUSR2 reboots without
that word, so that slurmctld does not notice; SIGTERM powers off.
"""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from slurm_gsp.lab import driver, mounts

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
LAB = Path("/.lab")  # the node's folder of the host: hardware, console, boot counter
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OSRELEASE = Path("/proc/sys/kernel/osrelease")
PROC_MODULES = Path("/proc/modules")
STAT = Path("/proc/stat")
KMSG = Path("/dev/kmsg")
GRACE = 1.0  # between the request and the end: RebootProgram's answer has to reach slurmctld


@dataclass(frozen=True)
class Settings:
    """What `lab up` tells a node; written as JSON beside the node's console."""

    name: str
    folder: str  # the node's folder on the host
    golden: str
    lower: str  # the root below: the host's, or that of a suite
    size: str  # of the disk's writable part
    binds: list[list[str]]  # [source, target, "ro" or "rw"]
    hosts: list[str]
    slurmd: str
    gpus: int


def build_world(settings: Settings) -> None:
    """Give this process its own root, /proc, /sys, /dev and /run, and leave the host's behind."""
    folder = Path(settings.folder)
    mounts.private()
    root = mounts.overlay_root(folder / "mnt", settings.size, Path(settings.lower), Path(settings.golden))
    for name in ("proc", "sys", "dev", "run", "tmp"):
        (root / name).mkdir(exist_ok=True)
    modules = [path.name for path in Path("/sys/module").iterdir() if not path.name.startswith("nvidia")]
    mounts.system_folders(root)
    fake = folder / "mnt/fake"
    mounts.tmpfs(fake)
    for target in ("sys/module", "sys/bus/pci", "proc/driver"):
        (fake / target).mkdir(parents=True)
        mounts.bind(fake / target, root / target)
    for name in modules:
        (root / "sys/module" / name).mkdir(exist_ok=True)
    for path in (BOOT_ID, OSRELEASE, PROC_MODULES, STAT):
        if (root / path.relative_to("/")).exists():  # a kernel without modules has no /proc/modules
            file = fake / path.name
            file.write_text(path.read_text() if path == STAT else "")
            mounts.bind(file, root / path.relative_to("/"))
    (root / "dev/kmsg").touch()
    for name in ("nvidiactl", *(f"nvidia{i}" for i in range(settings.gpus))):
        # A character device, or Slurm leaves SLURM_JOB_GPUS and CUDA_VISIBLE_DEVICES out of prolog and job.
        mounts.bind("/dev/null", root / "dev" / name)
    for source, target, mode in settings.binds:
        mounts.bind(source, root / target.lstrip("/"), read_only=mode == "ro")
    mounts.bind(folder / "lab", root / ".lab")
    (root / "etc/hostname").write_text(settings.name + "\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost {' '.join(settings.hosts)}\n")
    mounts.change_root(root)
    socket.sethostname(settings.name)


def empty(folder: Path) -> None:
    """Remove what lies in a folder, but nothing that is mounted there."""
    if not folder.is_dir():
        return
    device = folder.stat().st_dev
    for path in folder.iterdir():
        if path.lstat().st_dev != device:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def put(path: str, text: str) -> None:
    file = Path(path)
    if path == str(PROC_MODULES) and not file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def kernel_release() -> str:
    """The kernel that boots: the one that /boot/vmlinuz points to."""
    return Path("/boot/vmlinuz").readlink().name.removeprefix("vmlinuz-")


def drop_driver() -> None:
    """What the kernel forgets at a reboot."""
    for folder in Path("/sys/module").glob("n*"):
        if re.fullmatch(r"nvidia(_\w+)?|nouveau", folder.name):
            shutil.rmtree(folder)
    for folder in (Path("/proc/driver"), Path("/sys/bus/pci")):
        empty(folder)
    put(str(PROC_MODULES), "")


def show(result: driver.Boot, started: int) -> None:
    """Put a boot's files, links and log where programs look for them."""
    for folder in ("/sys/bus/pci/devices", "/sys/bus/pci/drivers"):
        Path(folder).mkdir(parents=True, exist_ok=True)
    for path, text in result.files.items():
        put(path, text)
    for path, target in result.links.items():
        link = Path(path)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    records = [driver.kmsg_record(i, i * 137_731, level, text) for i, (level, text) in enumerate(result.kmsg)]
    KMSG.write_text("".join(records))
    Path("/run/lab-boot").write_text(f"{started}\n")


class Machine:
    """The running node."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.boots = 0
        found = re.search(r"btime (\d+)", STAT.read_text())
        self.host_booted = int(found[1]) if found else 0

    def boot(self, *, announced: bool) -> None:
        """Boot the driver and start slurmd; a machine that does not return stops here."""
        hardware = driver.Hardware.from_json((LAB / "hardware.json").read_text())
        empty(Path("/run"))
        drop_driver()
        if not hardware.returns:
            self.say("hangs in the firmware's self test")
            return
        started = int(time.monotonic() * 1e6) - 5_000_000
        BOOT_ID.write_text(f"{uuid.uuid4()}\n")
        STAT.write_text(re.sub(r"btime \d+", f"btime {self.booted(announced=announced)}", STAT.read_text()))
        release = kernel_release()
        OSRELEASE.write_text(release + "\n")
        Path("/run/lock").mkdir()
        show(driver.boot(Path("/"), hardware, release), started)
        Path("/var/spool/slurmd").mkdir(parents=True, exist_ok=True)
        command = [self.settings.slurmd, "-D", "-N", self.settings.name, *(["-b"] if announced else [])]
        environment = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        self.slurmd = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, cwd="/")
        self.boots += 1
        self.say(f"boot {self.boots}: kernel {release}")
        (LAB / "boots.new").write_text(f"{self.boots}\n")
        (LAB / "boots.new").rename(LAB / "boots")

    def booted(self, *, announced: bool) -> int:
        """When this boot began, as slurmd says too: with the host, unless it is told that it is now."""
        return int(time.time()) if announced else self.host_booted

    def shut_down(self) -> None:
        """End every process of the node."""
        try:
            os.kill(-1, signal.SIGTERM)
            self.reap(until_empty_for=1.0)
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.reap(until_empty_for=5.0)

    def reap(self, until_empty_for: float = 0.0) -> None:
        """Collect what has ended; with a time, wait that long for all to end."""
        limit = time.monotonic() + until_empty_for
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                if time.monotonic() >= limit:
                    return
                time.sleep(0.02)

    def say(self, text: str) -> None:
        print(f"{time.strftime('%FT%T')} {self.settings.name}: {text}", flush=True)

    def run(self) -> None:
        """Boot, then serve signals until power off."""
        readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writable)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.boot(announced=False)
        while True:
            select.select([readable], [], [])
            numbers = set(os.read(readable, 512))
            if signal.SIGTERM in numbers:
                self.shut_down()
                return
            if numbers & {signal.SIGINT, signal.SIGUSR2}:
                self.say("reboots")
                time.sleep(GRACE)
                self.shut_down()
                self.boot(announced=signal.SIGINT in numbers)
            self.reap()


def main() -> None:
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text()))
    # /proc is still the host's here: its "self" is our pid there
    pid = Path("/proc/self").readlink().name
    stat = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    Path(sys.argv[2]).write_text(f"{pid} {stat[19]}\n")
    build_world(settings)
    Machine(settings).run()


if __name__ == "__main__":
    main()

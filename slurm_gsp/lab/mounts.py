"""The mount(2) calls that the lab needs, and the assembly of a private root file system."""

import ctypes
import os
import shutil
from pathlib import Path

RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
REMOUNT, BIND, REC, PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(status: int, what: str) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str | Path, target: str | Path, kind: str = "", flags: int = 0, data: str = "") -> None:
    status = _libc.mount(
        str(source).encode(),
        str(target).encode(),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        data.encode() or None,
    )
    _check(status, f"mount {kind or 'bind'} {source} on {target}")


def unmount(target: str | Path) -> None:
    _check(_libc.umount2(str(target).encode(), _DETACH), f"umount {target}")


def bind(source: str | Path, target: str | Path, *, read_only: bool = False) -> None:
    """Bind-mount a file or a folder, making the target where it is missing."""
    if Path(source).is_dir():
        Path(target).mkdir(parents=True, exist_ok=True)
    elif not Path(target).exists():
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    mount(source, target, flags=BIND)
    if read_only:
        mount("none", target, flags=BIND | REMOUNT | RDONLY)


def tmpfs(target: str | Path, options: str = "mode=755") -> None:
    Path(target).mkdir(parents=True, exist_ok=True)
    mount("tmpfs", target, "tmpfs", NOSUID, options)


def private() -> None:
    """From here on nothing that we mount is seen outside of this namespace."""
    mount("none", "/", flags=REC | PRIVATE)


def overlay_root(base: Path, size: str, lower: Path, layer: Path | None = None) -> Path:
    """An overlay over the root `lower` at base/root; what is written stays in a tmpfs of this size.

    The layer is copied into it: below the host's root it would lie inside that one, which the kernel refuses.
    """
    tmpfs(base, f"mode=755,size={size}")
    root, upper, work = base / "root", base / "upper", base / "work"
    for folder in (root, upper, work):
        folder.mkdir()
    if layer:
        shutil.copytree(layer, upper, symlinks=True, dirs_exist_ok=True)
    mount("overlay", root, "overlay", data=f"lowerdir={lower},upperdir={upper},workdir={work}")
    return root


def system_folders(root: Path) -> None:
    """Fresh /proc, read-only /sys, own /dev, /run and /tmp below a root."""
    mount("proc", root / "proc", "proc", NOSUID | NODEV | NOEXEC)
    mount("sysfs", root / "sys", "sysfs", NOSUID | NODEV | NOEXEC | RDONLY)
    dev = root / "dev"
    tmpfs(dev)
    for name in _DEVICES:
        bind(f"/dev/{name}", dev / name)
    (dev / "pts").mkdir()
    mount("devpts", dev / "pts", "devpts", NOSUID | NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    tmpfs(dev / "shm", "mode=1777,size=64m")
    for link, target in {
        "ptmx": "pts/ptmx",
        "fd": "/proc/self/fd",
        "stdin": "/proc/self/fd/0",
        "stdout": "/proc/self/fd/1",
        "stderr": "/proc/self/fd/2",
    }.items():
        (dev / link).symlink_to(target)
    tmpfs(root / "run")
    tmpfs(root / "tmp", "mode=1777,size=64m")


def change_root(root: Path) -> None:
    """Make this folder the root; the host's own root is no longer reachable."""
    old = root / ".host"
    old.mkdir(exist_ok=True)
    os.chdir(root)
    _check(_libc.pivot_root(b".", b".host"), f"pivot_root {root}")
    os.chdir("/")
    unmount("/.host")
    Path("/.host").rmdir()

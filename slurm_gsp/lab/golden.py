"""What all nodes start from: a system with one driver installed by apt; built once, then cached.

`python -m slurm_gsp.lab.golden REPOSITORY COMPILED MOUNTPOINT OUTPUT LOWER` runs in a mount
namespace of its own and installs; `ensure` starts that where the cache does not have the layer yet.
"""

import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from slurm_gsp.lab import mounts, packages
from slurm_gsp.lab.procs import LabError, tool
from slurm_gsp.lab.rehearsal import NEW
from slurm_gsp.lab.suite import INSTALLED_AT

DEFAULT_CACHE = Path("/var/cache/slurm-gsp-lab")
REPOSITORY = "/srv/gpu-packages"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
_HERE = Path(__file__).parent
_SOURCES = (
    "golden.py", "packages.py", "elf.py", "nvml.c", "cuda.c", "nvidia_smi.c", "uname.c", "dcgmi.sh",
    "all_reduce_perf.sh",
)  # fmt: skip
_INPUTS = ("var/lib/dpkg/status", "etc/ld.so.conf")  # of the system below

_REBOOT = """#!/bin/sh
# The node's power button, and its RebootProgram: PID 1 of the lab's node reboots on SIGINT.
kill -INT 1
"""

_DMESG = """#!/bin/sh
# The node's kernel log is a file (/dev/kmsg): show it as dmesg does. dmesg itself would show the host's log.
exec awk '{
  at = index($0, ";"); split(substr($0, 1, at - 1), head, ","); text = substr($0, at + 1)
  gsub(/\\\\x0a/, "\\n               ", text)
  printf "[%5d.%06d] %s\\n", int(head[3] / 1000000), head[3] % 1000000, text
}' /dev/kmsg
"""

_MODULES = f"""#!/bin/sh
# A stand-in for {{0}}: the driver is the lab's, the host's kernel stays out of it.
python={INSTALLED_AT}/.venv/bin/python3
[ -x "$python" ] || python=/usr/bin/python3
PYTHONPATH={INSTALLED_AT} exec "$python" -m slurm_gsp.lab.modules {{0}} "$@"
"""

_INITRAMFS = """#!/bin/sh
# A stand-in for update-initramfs: the image holds the sums of the modules that it would take up.
set -eu
kernel= mode=
while [ $# -gt 0 ]; do
  case $1 in -k) kernel=$2; shift ;; -u | -c) mode=$1 ;; esac
  shift
done
image=/boot/initrd.img-$kernel
[ "$mode" != -u ] || [ -e "$image" ] || { echo "$image does not exist. Cannot update." >&2; exit 1; }
echo "update-initramfs: Generating $image"
sha256sum "/lib/modules/$kernel"/updates/dkms/*.ko >"$image"
"""

_CONFIG = f"""# A node of the lab is small, and packages are built in no time.
[realign]
manifest = "/etc/slurm-gsp/manifests/{NEW}.toml"
min_free_mb = 16
lock_wait_s = 10
step_s = 60

[verify]
publish_spread_s = 0
"""

_FILES = {
    "etc/apt/lab.list": f"deb [signed-by=/etc/apt/lab.gpg] file:{REPOSITORY} ./\n",
    "etc/apt/apt.conf.d/99-lab": (
        'Dir::Etc::sourcelist "/etc/apt/lab.list";\nDir::Etc::sourceparts "/dev/null";\n'
        'APT::Get::List-Cleanup "false";\nAPT::Sandbox::User "root";\nAPT::Install-Recommends "false";\n'
        'Acquire::Languages "none";\nAPT::Update::Post-Invoke "";\n'
    ),
    "etc/dpkg/dpkg.cfg.d/lab": "force-unsafe-io\n",
    "etc/slurm-gsp/config.toml": _CONFIG,
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",
    "usr/sbin/reboot": _REBOOT,
    "usr/bin/dmesg": _DMESG,
    "usr/sbin/modprobe": _MODULES.format("modprobe"),
    "usr/sbin/rmmod": _MODULES.format("rmmod"),
    "usr/sbin/update-initramfs": _INITRAMFS,
    "usr/bin/dcgmi": (_HERE / "dcgmi.sh").read_text(),
    "opt/nccl-tests/all_reduce_perf": (_HERE / "all_reduce_perf.sh").read_text(),
}


def _key(lower: Path) -> str:
    """A hash of all that the layer is made from."""
    digest = hashlib.sha256()
    for path in [*(_HERE / name for name in _SOURCES), *(lower / name for name in _INPUTS)]:
        digest.update(path.read_bytes() if path.exists() else b"")
    return digest.hexdigest()[:16]


def ensure(cache: Path, lower: Path) -> Path:
    """The shared layer over the system `lower`, built first where it is not in the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    layer = cache / f"golden-{_key(lower)}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not layer.is_dir():
            for leftover in cache.glob("build-*"):
                shutil.rmtree(leftover)
            _build(cache, lower, layer)
    return layer


def _build(cache: Path, lower: Path, layer: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="build-", dir=cache))
    try:
        compiled = packages.build_repository(_HERE, work / "repository", work)
        (work / "mnt").mkdir()
        arguments = [work / "repository", compiled, work / "mnt", work / "layer", lower]
        command: list[str | Path] = [
            tool("unshare"),
            "--mount",
            sys.executable,
            "-m",
            "slurm_gsp.lab.golden",
            *arguments,
        ]
        environment = {**os.environ, "PYTHONPATH": str(_HERE.parent.parent)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise LabError(f"the driver packages could not be installed:\n{done.stdout}{done.stderr}")
        (work / "layer").rename(layer)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _install(root: Path) -> None:
    """Let the real apt install the real packages below this root."""
    kernel = packages.KERNEL
    driver = [f"{name}={packages.deb_version(packages.INSTALLED)}" for name in _driver()]
    wanted = [f"linux-image-{kernel}", f"linux-headers-{kernel}", "dkms", *driver]
    dependencies = [name for name in _driver() if not name.startswith("nvidia-driver-")]
    for command in (
        ["apt-get", "-q", "update"],
        ["apt-get", "-q", "-y", "install", *wanted],
        ["apt-mark", "auto", "dkms", *dependencies],
        ["ldconfig"],
    ):
        subprocess.run([tool("chroot"), root, *command], check=True, env=ENVIRONMENT)


def _driver() -> list[str]:
    return packages.driver_package_names(packages.INSTALLED)


def _copy_layer(upper: Path, output: Path) -> None:
    """Copy an overlay's upper layer without its whiteouts (they only hide leftovers of the system below)."""
    subprocess.run([tool("cp"), "-a", "--no-preserve=xattr", upper, output], check=True)
    for path in output.rglob("*"):
        if stat.S_ISCHR(path.lstat().st_mode):
            path.unlink()


def main() -> None:
    repository, compiled, mountpoint, output, lower = map(Path, sys.argv[1:6])
    mounts.private()
    root = mounts.overlay_root(mountpoint, "1g", lower)
    mounts.system_folders(root)
    shutil.copytree(repository, root / REPOSITORY.lstrip("/"))
    shutil.copy(repository / packages.KEYRING, root / "etc/apt/lab.gpg")
    for name, text in _FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(0o755 if text.startswith("#!") else 0o644)
    _install(root)
    shim = root / packages.LIBRARIES / "slurm-gsp-lab/uname.so"
    shim.parent.mkdir()
    shutil.copy(compiled / "uname.so", shim)
    (root / "etc/ld.so.preload").write_text(f"/{packages.LIBRARIES}/slurm-gsp-lab/uname.so\n")
    _copy_layer(mountpoint / "upper", output)


if __name__ == "__main__":
    main()

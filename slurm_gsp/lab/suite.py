"""The root of a newer Debian suite with its own Slurm: built once by debootstrap, the nodes' lower layer.

Signatures are checked against Debian's own keyring; the mirror is the one that apt already uses here.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from slurm_gsp.lab.procs import LabError, find_tool, tool
from slurm_gsp.lab.releases import SUITES

INSTALLED_AT = "/opt/slurm-gsp"
"""Where a node shows the checkout."""
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SCRIPTS = Path("/usr/share/debootstrap/scripts")
VENV = "/opt/slurm-gsp-venv"
"""Our dependencies for the suite's own python3; a node shows them as the checkout's .venv."""
_PACKAGES = ("slurm-wlm", "munge", "procps", "python3", "pci.ids", "openssh-client")
_REPOSITORY = Path(__file__).resolve().parent.parent.parent
_COMMAND = f"""#!{VENV}/bin/python3
import sys
from slurm_gsp.cli import main
sys.exit(main())
"""


def lacks() -> list[str]:
    """What this host lacks to build a suite, in plain words."""
    missing = [] if find_tool("debootstrap") else ["debootstrap (Debian package debootstrap)"]
    if not KEYRING.exists():
        missing.append(f"{KEYRING} (Debian package debian-archive-keyring)")
    return missing


def where(cache: Path, suite: str) -> Path:
    """Where the cache keeps this suite's root; it is there only as a whole."""
    digest = hashlib.sha256("".join((suite, INSTALLED_AT, *_PACKAGES, *_dependencies())).encode())
    digest.update(Path(__file__).read_bytes())
    return cache / f"suite-{suite}-{digest.hexdigest()[:16]}"


def is_cached(cache: Path, suite: str) -> bool:
    return where(cache, suite).is_dir()


def ensure(cache: Path, suite: str) -> Path:
    """The suite's root, built first (about half a minute, network) where it is not in the cache."""
    if suite not in SUITES:
        raise LabError(f"no suite {suite!r}: the lab knows {', '.join(SUITES)}")
    cache.mkdir(parents=True, exist_ok=True)
    root = where(cache, suite)
    with (cache / f"lock-{suite}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            for leftover in cache.glob(f"bootstrap-{suite}-*"):
                shutil.rmtree(leftover)
            _build(cache, suite, root)
    return root


def _build(cache: Path, suite: str, root: Path) -> None:
    if missing := lacks():
        raise LabError(f"to build {suite} the lab needs and does not find: " + "; ".join(missing))
    work = Path(tempfile.mkdtemp(prefix=f"bootstrap-{suite}-", dir=cache))
    script = SCRIPTS / suite
    try:
        new = work / "root"
        private = [tool("unshare"), "--mount", "--propagation", "private"]  # what it mounts ends with it
        options = ["--variant=minbase", "--force-check-gpg", f"--keyring={KEYRING}"]
        system: list[str | Path] = [suite, new, _mirror(), script if script.exists() else SCRIPTS / "sid"]
        _run([*private, tool("debootstrap"), *options, f"--include={','.join(_PACKAGES)}", *system])
        _add_dependencies(new)
        shutil.rmtree(new / "var/cache/apt/archives")
        (new / "var/cache/apt/archives/partial").mkdir(parents=True)
        new.chmod(0o755)
        new.rename(root)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _mirror() -> str:
    """The mirror of Debian that apt uses on this host."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Component: main"]
    for line in _run([tool(command[0]), *command[1:]]).splitlines():
        if not line.rstrip("/").endswith("security"):
            return line
    raise LabError("apt knows no mirror of Debian here (try apt-get update): there is nothing to build from")


def _dependencies() -> list[str]:
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    return [str(wanted) for wanted in project["dependencies"]]


def _add_dependencies(root: Path) -> None:
    """An environment of the suite's python3, filled by the host's pip with what the project depends on."""
    python = (root / "usr/bin/python3").readlink().name
    _run([tool("chroot"), root, "/usr/bin/python3", "-m", "venv", "--without-pip", VENV])
    venv = root / VENV.lstrip("/")
    site = venv / "lib" / python / "site-packages"
    version = python.removeprefix("python")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    options = ["--no-compile", "--only-binary=:all:", f"--python-version={version}", f"--target={site}"]
    _run([*pip, *options, *_dependencies()])
    (site / "slurm-gsp.pth").write_text(f"{INSTALLED_AT}\n")
    command = venv / "bin/slurm-gsp"
    command.write_text(_COMMAND)
    command.chmod(0o755)


def _run(command: Sequence[str | Path]) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-2000:]
        raise LabError(f"{Path(command[0]).name} failed with exit code {done.returncode}:\n{said}")
    return done.stdout

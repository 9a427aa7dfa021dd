"""Records realignments with the real dnf, zypper and rpm: ``tests/fixtures/realign/runs``.

On Debian 12, as root, with the Debian package debootstrap and a network; some minutes::

    .venv/bin/python -m tests.record_rpm_runs

It builds a throw-away root of Debian 12 for each family below /var/tmp, installs the tools there and nowhere
else, and removes it at the end. In it, and without any network but its own, it builds small packages under
the names of the driver's, signs them, serves them as repositories on 127.0.0.1, and lets the project's own
steps realign a node whose packages are real and whose hardware is a recording. ``tests/rpm_runs.py`` says how
a run is played again.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from slurm_gsp.collect.runner import ARGV
from slurm_gsp.node.staging import staging_folder
from tests import rpm_runs
from tests.rpm_runs import (
    DOWNLOADS,
    RUNS,
    Recording,
    Shell,
    carry_out,
    kind_of,
    make_config,
    make_host,
    make_target,
)

CHECKOUT: Final = Path(__file__).parents[1]
SOURCE, RESULTS = Path("/src"), Path("/results")
DEBIAN: Final = {
    "rhel": ("dnf", "dnf-plugins-core"),
    "suse": ("zypper", "libzypp-common", "libzypp-config", "libzypp-bin"),
}
"""Not together: Debian's dnf-plugins-core breaks zypper."""
BOTH: Final = ("rpm", "createrepo-c", "gnupg", "python3-jinja2", "python3-clustershell")
NAMED: Final = ("dnf", "dnf-plugins-core", "zypper", "libzypp1722", "libsolv1", "rpm", "createrepo-c")
"""The Debian packages whose versions a recording names."""


# --- outside: the throw-away root ------------------------------------------------------------------------
def main(families: Sequence[str]) -> None:
    """Record all cases of these families."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("this needs root and debootstrap")
    work = Path(tempfile.mkdtemp(prefix="rpm-runs-", dir="/var/tmp"))
    try:
        base = work / "base"
        print("a Debian 12 of its own, and its tools", flush=True)
        private = ["unshare", "--mount", "--propagation", "private"]  # what is mounted below ends with it
        options = ["--variant=minbase", f"--include={','.join(BOTH)}"]
        _quietly(*private, "debootstrap", *options, "bookworm", base)
        for family in families:
            root = work / family
            _quietly("cp", "-a", base, root)
            install = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *DEBIAN[family]]
            _quietly(*private, "chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", *install)
            for part in ("slurm_gsp", "tests"):
                shutil.copytree(CHECKOUT / part, root / SOURCE.relative_to("/") / part, symlinks=True)
            itself = f"python3 -m tests.record_rpm_runs --inside {family}"
            inside = f"mount -t proc proc /proc && cd {SOURCE} && exec {itself}"
            alone = [*private, "--net", "--pid", "--fork", "--kill-child"]
            clean = ["env", "-i", "HOME=/root", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
            subprocess.run([*alone, "chroot", root, *clean, "/bin/sh", "-c", inside], check=True)
            _take(root / RESULTS.relative_to("/"), RUNS / family)
    finally:
        shutil.rmtree(work)


def _quietly(*argv: str | Path) -> None:
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-2000:]}\n{' '.join(map(str, argv))} failed")


def _take(made: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in sorted(made.glob("*.json")):
        shutil.copyfile(path, folder / path.name)


# --- inside: packages ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rpm:
    """A package; ``evr`` as a manifest pins it."""

    name: str
    evr: str
    arch: str = "x86_64"
    requires: tuple[str, ...] = ()
    provides: tuple[str, ...] = ()
    conflicts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}-{self.evr.rpartition(':')[2]}.{self.arch}.rpm"

    def spec(self) -> str:
        """What rpmbuild makes it from."""
        epoch, _, rest = self.evr.rpartition(":")
        version, _, release = rest.rpartition("-")
        lines = [
            f"Name: {self.name}",
            f"Version: {version}",
            f"Release: {release}",
            f"Epoch: {epoch}" if epoch else "",
        ]
        lines += ["Summary: Stands for the package of this name", "License: none", "AutoReqProv: no"]
        lines += ["BuildArch: noarch" if self.arch == "noarch" else ""]
        for tag in ("requires", "provides", "conflicts"):
            lines += [f"{tag.capitalize()}: {one}" for one in getattr(self, tag)]
        lines += ["%description", "Holds a few bytes.", "%install"]
        for path in self.files:
            lines += [
                f"mkdir -p %{{buildroot}}{os.path.dirname(path)}",
                f"echo {self.name} {self.evr} >%{{buildroot}}{path}",
            ]
        return "\n".join([*lines, "%files", *self.files, ""])


def rhel(driver: str, flavour: str = "open") -> tuple[Rpm, ...]:
    """The driver as NVIDIA's repository for RHEL 9 packs it: an epoch of 3, modules by DKMS."""
    evr, full = f"3:{driver}-1.el9", f"3:{driver}"
    module, other = "kmod-nvidia-open-dkms", "kmod-nvidia-latest-dkms"
    if flavour != "open":
        module, other = other, module
    return (
        Rpm(
            module, evr, "noarch", ("dkms >= 3.2.1", f"nvidia-kmod-common = {full}"),
            (f"nvidia-kmod = {full}",), (other,), (f"/usr/src/nvidia-{driver}/dkms.conf",),
        ),
        Rpm(
            "nvidia-kmod-common", evr, "noarch", (f"nvidia-kmod = {full}",),
            files=(f"/usr/lib/firmware/nvidia/{driver}/gsp_ga10x.bin",),
        ),
        Rpm("libnvidia-ml", evr, files=(f"/usr/lib64/libnvidia-ml.so.{driver}",)),
        Rpm(
            "nvidia-driver-cuda-libs", evr, requires=(f"libnvidia-ml = {full}",),
            files=(f"/usr/lib64/libcuda.so.{driver}",),
        ),
        Rpm("libnvidia-fbc", evr, files=(f"/usr/lib64/libnvidia-fbc.so.{driver}",)),
    )  # fmt: skip


def suse(driver: str, flavour: str = "open") -> tuple[Rpm, ...]:
    """The driver as SLES 15 packs it: modules that come built, no epoch."""
    signed, other = "nvidia-open-driver-G06-signed-kmp-default", "nvidia-driver-G06-kmp-default"
    provides = f"nvidia-open-driver-G06-kmp = {driver}"
    if flavour != "open":
        signed, other, provides = other, signed, f"nvidia-driver-G06-kmp = {driver}"
    either = f"(nvidia-open-driver-G06-kmp = {driver} or nvidia-driver-G06-kmp = {driver})"
    return (
        Rpm(
            signed, f"{driver}_k6.4.0_150600.21-150600.3.20.1", "x86_64",
            (f"kernel-firmware-nvidia-gspx-G06 = {driver}",), (provides,), (other,),
            (f"/usr/lib/modules/6.4.0-150600.21-default/updates/nvidia-{driver}.ko",),
        ),
        Rpm(
            "nvidia-compute-G06", f"{driver}-21.1", requires=(either, "libOpenCL1 >= 2.3.1"),
            files=(f"/usr/lib64/libcuda.so.{driver}",),
        ),
        Rpm(
            "nvidia-compute-utils-G06", f"{driver}-21.1", requires=(f"nvidia-compute-G06 = {driver}",),
            files=("/usr/bin/nvidia-smi",),
        ),
        Rpm(
            "kernel-firmware-nvidia-gspx-G06", f"{driver}-150600.3.20.1",
            files=(f"/usr/lib/firmware/nvidia/{driver}/gsp_ga10x.bin",),
        ),
        Rpm("nvidia-gl-G06", f"{driver}-21.1", files=(f"/usr/lib64/libnvidia-fbc.so.{driver}",)),
    )  # fmt: skip


# --- inside: what is different between the families ------------------------------------------------------
@dataclass(frozen=True)
class Family:
    """How the tools of one family are set up and asked."""

    name: str
    manager: str
    driver: str
    """The pinned one: that of the recorded node, so that what is found on disk is right."""
    older: str
    newer: str
    other: str
    """Of another branch."""
    packages: Callable[..., tuple[Rpm, ...]]
    pinned: int
    """So many of them are pinned."""
    database: str
    """Where the distribution keeps rpm's database; Debian's own default is ~/.rpmdb."""
    extra: tuple[Rpm, ...]
    """The first is needed by the driver, the second is too old for it."""
    base: tuple[Rpm, ...]
    """What is there in every case: zypper calls a system without glibc broken."""
    stray: str
    altered: str
    """A file of a pinned package."""
    state: tuple[str, ...]
    """What the manager remembers: removed before each case."""
    upgrade: tuple[str, ...]
    unlock: tuple[str, ...]

    def set_up(self) -> None:
        """Configure the tools as the distribution does."""
        Path("/etc/rpm").mkdir(exist_ok=True)
        Path("/etc/rpm/macros").write_text(
            f"%_dbpath {self.database}\n%_buildhost build\n%_gpg_name good\n%__gpg /usr/bin/gpg\n"
        )
        if self.name == "suse":  # as SLES 15 has it
            shutil.rmtree("/var/lib/rpm")
            Path("/var/lib/rpm").symlink_to("../../usr/lib/sysimage/rpm")
        else:  # the file of RHEL 9, what dnf reads off its os-release, and no plugin that it does not bring
            Path("/etc/dnf/dnf.conf").write_text(
                "[main]\ngpgcheck=1\ninstallonly_limit=3\nclean_requirements_on_remove=True\nbest=True\n"
                "skip_if_unavailable=False\nmodule_platform_id=platform:el9\n"
            )
            Path("/etc/dnf/vars/releasever").write_text("9\n")
            Path("/etc/dnf/plugins/local.conf").write_text("[main]\nenabled=0\n")

    def use(self, repository: str) -> None:
        """Let the manager know this repository, and no other."""
        url = repository if "://" in repository else f"{URL}/{repository}"
        text = f"[driver]\nname=driver\nbaseurl={url}\nenabled=1\ngpgcheck=1\n"
        folder = "/etc/yum.repos.d" if self.name == "rhel" else "/etc/zypp/repos.d"
        if self.name == "rhel":
            text += f"gpgkey=file://{KEY}\n"
        else:
            text += "autorefresh=1\ntype=rpm-md\n"
        Path(folder).mkdir(exist_ok=True)
        Path(folder, "driver.repo").write_text(text)


FAMILIES: Final = {
    "rhel": Family(
        "rhel", "dnf", "570.172.08", "570.158.01", "570.195.03", "580.95.05", rhel, 4, "/var/lib/rpm",
        (
            Rpm("dkms", "3.2.1-1.el9", "noarch"),
            Rpm("dkms", "3.0.13-1.el9", "noarch"),
            Rpm("frame-capture", "1.0-1", requires=("libnvidia-fbc",)),
        ),
        (Rpm("glibc", "2.34-168.el9"),),
        "libnvidia-fbc", "/usr/lib/firmware/nvidia/570.172.08/gsp_ga10x.bin",
        ("/var/cache/dnf", "/var/lib/dnf", "/etc/dnf/modules.d", "/var/log/dnf.log"),
        ("dnf", "-y", "upgrade"), ("dnf", "versionlock", "clear"),
    ),
    "suse": Family(
        "suse", "zypper", "550.163.01", "550.144.03", "570.172.08", "580.95.05", suse, 3,
        "/usr/lib/sysimage/rpm",
        (
            Rpm("libOpenCL1", "2.3.1-150600.1.2"),
            Rpm("libOpenCL1", "2.2.13-150600.1.1"),
            Rpm("frame-capture", "1.0-1", requires=("nvidia-gl-G06",)),
        ),
        (Rpm("glibc", "2.38-150600.14.32.1"),),
        "nvidia-gl-G06", "/usr/lib64/libcuda.so.550.163.01",
        ("/var/cache/zypp", "/etc/zypp/locks", "/var/lib/zypp"),
        ("zypper", "--non-interactive", "update"),
        ("zypper", "--non-interactive", "removelock"),
    ),
}  # fmt: skip

INTRUDER: Final = Rpm("driver-helper", "1.0-1")
"""What the packages of the repository that nobody trusts need."""
PORT: Final = 8000
URL: Final = f"http://127.0.0.1:{PORT}"
VERSIONLOCK: Final = Path("/etc/dnf/plugins/versionlock.conf")
SERVED, POOL, KEY = Path("/srv"), Path("/pool"), Path("/etc/pki/driver.asc")
NODE, RECORDER = Path("/node"), Path("/recorder")
CALLS: Final = RECORDER / "calls"
_TOOL: Final = """\
#!/usr/bin/python3
import hashlib, json, os, pathlib, subprocess, sys
name, downloads = os.path.basename(sys.argv[0]), pathlib.Path({downloads!r})
def there():
    return {{path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in downloads.rglob("*.rpm")}}
before = there()
environment = {{**os.environ, "PATH": {path!r}}}
done = subprocess.run(["/usr/bin/" + name, *sys.argv[1:]], capture_output=True, text=True, env=environment)
new = [path for path, known in there().items() if before.get(path) != known]
digest = lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
files = {{str(path.relative_to(downloads)): digest(path) for path in sorted(new)}}
call = {{"argv": [name, *sys.argv[1:]], "rc": done.returncode, "out": done.stdout, "err": done.stderr}}
call["files"] = files
call = {{key: value for key, value in call.items() if value}}
with open({calls!r}, "a") as file:
    file.write(json.dumps(call) + "\\n")
sys.stdout.write(done.stdout)
sys.stdout.flush()
sys.stderr.write(done.stderr)
sys.exit(done.returncode)
"""


# --- inside: cases ---------------------------------------------------------------------------------------
@dataclass
class Site:
    """The node, its repository and the tools, while one case is recorded."""

    family: Family
    server: ThreadingHTTPServer | None = None
    recording: Recording = field(default_factory=dict)

    def of(self, driver: str, flavour: str = "open") -> tuple[Rpm, ...]:
        """The packages that would be pinned of this driver."""
        return self.family.packages(driver, flavour)[: self.family.pinned]

    def needs(self, driver: str) -> tuple[Rpm, ...]:
        """What these need beside each other."""
        more = self.family.extra[0]
        return (
            *(one for one in self.family.packages(driver) if one.name.startswith("kernel-firmware")),
            more,
        )

    def all_of(self, driver: str, flavour: str = "open") -> tuple[Rpm, ...]:
        """Both."""
        return (*self.of(driver, flavour), *self.needs(driver))

    def pin(self, driver: str, **more: Any) -> None:
        """What the manifest pins."""
        pinned = {one.name: one.evr for one in self.of(driver)}
        self.recording |= {"driver": driver, "pinned": pinned, "streams": [], "downloads": {}, **more}

    def have(self, *packages: Rpm) -> None:
        """Put these packages there, whatever stands against it."""
        files = [POOL / one.file for one in packages]
        _run("rpm", "-i", "--nodeps", "--force", *files)

    def hold(self, *packages: Rpm) -> None:
        """As an earlier realignment left it."""
        if self.family.name == "rhel":
            _run("dnf", "-q", "versionlock", "add", "--raw", *(f"{one.name}-{one.evr}" for one in packages))
        else:
            _run("zypper", "--non-interactive", "addlock", *(one.name for one in packages))

    def serve(self) -> None:
        """The repositories answer."""
        handler = functools.partial(_Silent, directory=str(SERVED))
        self.server = ThreadingHTTPServer(("127.0.0.1", PORT), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def gone(self) -> None:
        """They answer no more."""
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None

    def go(self, do: str = "realign", **more: Any) -> None:
        """Carry out one run of the project, and record it."""
        shell = Shell(RECORDER / "bin", Path(DOWNLOADS))
        host, config = make_host(NODE, self.family.name, shell), make_config(NODE, Path(DOWNLOADS))
        target = make_target(self.family.name, self.recording, kind_of(do))
        for name in more.get("spoiled", ()):
            (staging_folder(config, target) / name).write_text("spoiled")
        before = self.database()
        CALLS.unlink(missing_ok=True)
        end, _ = carry_out(host, config, target, do)
        made = {
            "do": do,
            **more,
            "end": end,
            "before": before,
            "after": self.database(),
            "scripts": shell.scripts,
        }
        self.recording["runs"].append({**made, "calls": _calls()})

    def admin(self, *argv: str) -> None:
        """Let an admin give this command, and record it."""
        before = self.database()
        CALLS.unlink(missing_ok=True)
        _run(str(RECORDER / "bin" / argv[0]), *argv[1:], check=False)
        made = {"do": "admin", "before": before, "after": self.database(), "calls": _calls()}
        self.recording["runs"].append(made)

    def database(self) -> list[str]:
        """The package database in the project's format, unrecorded; keys left out."""
        said = _run(*ARGV["rpm"])
        return sorted(line for line in said.splitlines() if not line.startswith("gpg-pubkey "))


Case = Callable[[Site], None]
CASES: dict[str, tuple[str, Case, str]] = {}


def case(name: str, story: str, family: str = "") -> Callable[[Case], Case]:
    """Enter a case; ``family``: only there."""

    def enter(function: Case) -> Case:
        CASES[name] = (story, function, family)
        return function

    return enter


@case("fresh", "No driver is there; the profile pins the digests of all that is downloaded.")
def _fresh(site: Site) -> None:
    site.pin(site.family.driver)
    files = [one.file for one in site.all_of(site.family.driver)]
    site.recording["downloads"] = {name: _sha256(POOL / name) for name in files}
    site.go()


@case("fresh-from-a-folder", "No driver is there; the repository is a folder (file:).")
def _fresh_from_a_folder(site: Site) -> None:
    site.pin(site.family.driver)
    site.family.use(f"file://{SERVED}/full")
    site.go()


@case("upgrade", "An older driver is there, locked by the realignment that brought it.")
def _upgrade(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    site.hold(*site.of(site.family.older))
    site.go()


@case("downgrade", "A rollback: a newer driver is there, locked by the realignment that brought it.")
def _downgrade(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.newer))
    site.hold(*site.of(site.family.newer))
    site.go("rollback")


@case("clean", "All is as pinned and as shipped.")
def _clean(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.driver))
    site.go()


@case("damaged", "All is as pinned, and one file was copied over. Then once more: it is as shipped again.")
def _damaged(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.driver))
    Path(site.family.altered).write_text("copied over\n")
    site.go()
    site.go()


@case("stray", "All is as pinned, beside one package of another branch.")
def _stray(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.driver), _named(site, site.family.stray, site.family.other))
    site.go()


@case(
    "other-branch",
    "The proprietary driver of another branch is there, with modules that the pinned ones conflict with.",
)
def _other_branch(site: Site) -> None:
    site.pin(site.family.driver)
    there = site.all_of(site.family.other, "proprietary")
    site.have(*there, _named(site, site.family.stray, site.family.other))
    site.go()


@case("foreign", "A package that is no part of the driver needs one of another branch.")
def _foreign(site: Site) -> None:
    site.pin(site.family.driver)
    foreign = next(one for one in site.family.extra if one.name == "frame-capture")
    stray = _named(site, site.family.stray, site.family.other)
    site.have(*site.all_of(site.family.older), stray, foreign)
    site.go()


@case("interrupted", "The power went in the middle of an upgrade: some packages are there in both versions.")
def _interrupted(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older), *site.of(site.family.driver)[1:3])
    site.go()


@case("version-missing", "The repository no longer offers the pinned version.")
def _version_missing(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    site.family.use("without")
    site.go()


@case("need-older", "What the pinned packages need is there, in a version that is too old for them.")
def _need_older(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.of(site.family.older), *site.needs(site.family.older)[:-1], site.family.extra[1])
    site.go()


@case("need-missing", "The repository lacks what a pinned package needs beside the pinned ones.")
def _need_missing(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.of(site.family.older))
    site.family.use("lacking")
    site.go()


@case("repository-gone", "The repository does not answer.")
def _repository_gone(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    site.gone()
    site.go()


@case("staged", "Staged; then the repository is gone for so long that what is known of it counts as old.")
def _staged(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    site.hold(*site.of(site.family.older))
    site.go("stage")
    site.gone()
    if site.family.name == "rhel":
        _run("dnf", "-q", "clean", "expire-cache")
    site.go()


@case("spoiled", "Staged; then one of the staged files is damaged.")
def _spoiled(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    site.go("stage")
    site.go(spoiled=[site.of(site.family.driver)[0].file])


@case("digest", "The profile pins another digest for one of the files.")
def _digest(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    packages = site.all_of(site.family.driver)
    site.recording["downloads"] = {one.file: _sha256(POOL / one.file) for one in packages}
    site.recording["downloads"][packages[2].file] = rpm_runs.DIGEST
    site.go()


@case(
    "signature",
    "The repository and its packages are signed with a key that nobody trusts here, and they need one that "
    "the right repository does not have. Then once more from the right one.",
)
def _signature(site: Site) -> None:
    site.pin(site.family.driver)
    site.have(*site.all_of(site.family.older))
    site.family.use("foreign")
    site.go()
    site.family.use("full")
    site.go()


@case("lock", "After a realignment: an upgrade under its locks, and one after they were lifted.")
def _lock(site: Site) -> None:
    site.pin(site.family.driver)
    site.go()
    site.admin(*site.family.upgrade)
    names = [] if site.family.name == "rhel" else list(site.recording["pinned"])
    site.admin(*site.family.unlock, *names)
    site.admin(*site.family.upgrade)


@case("no-plugin", "dnf has no versionlock, as RHEL brings it.", "rhel")
def _no_plugin(site: Site) -> None:
    site.pin(site.family.driver)
    VERSIONLOCK.write_text("[main]\nenabled=0\n")
    site.go()


@case(
    "streams",
    "The repository is modular, and the profile pins the stream. Staged, then the repository is gone.",
    "rhel",
)
def _streams(site: Site) -> None:
    site.pin(site.family.driver, streams=["nvidia-driver:570-open"])
    site.have(*site.all_of(site.family.other))
    site.family.use("modular")
    _run("dnf", "-y", "-q", "module", "enable", "nvidia-driver:580-open")
    site.go("stage")
    site.gone()
    _run("dnf", "-q", "clean", "expire-cache")
    site.go()
    site.serve()
    site.admin(*site.family.unlock)
    site.admin(*site.family.upgrade)


# --- inside: making it -----------------------------------------------------------------------------------
class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def _run(*argv: str | Path, check: bool = True, **more: Any) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(map(str, argv))}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _sha256(path: Path) -> str:
    return _run("sha256sum", path).split()[0]


def _calls() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CALLS.read_text().splitlines()] if CALLS.exists() else []


def _named(site: Site, name: str, driver: str) -> Rpm:
    return next(one for one in site.family.packages(driver) if one.name == name)


def _loopback() -> None:
    """Bring up lo: this network has nothing else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(
            any_socket, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40)
        )  # SIOCSIFFLAGS, up and running


def _sign_with(key: str) -> list[str]:
    return ["gpg", "--batch", "--yes", "--local-user", key, "--detach-sign", "--armor"]


def _build(family: Family) -> None:
    """Keys, packages, and the repositories of them."""
    for key in ("good", "foreign"):
        _run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", key, "rsa3072", "sign", "never")
    KEY.parent.mkdir(parents=True, exist_ok=True)
    KEY.write_text(_run("gpg", "--armor", "--export", "good"))
    packages = [*family.packages(family.other, "proprietary")[:1], *family.extra, *family.base]
    for driver in (family.older, family.driver, family.newer, family.other):
        packages += family.packages(driver)
    POOL.mkdir()
    for package in packages:
        _rpmbuild(package, POOL)
    unsigned = Path("/unsigned")
    shutil.copytree(POOL, unsigned)
    _run("rpmsign", "--addsign", *POOL.glob("*.rpm"))
    pinned = family.packages(family.driver)[0]
    _rpmbuild(replace(pinned, requires=(*pinned.requires, INTRUDER.name)), unsigned)
    _rpmbuild(INTRUDER, unsigned)
    for name, key in (
        ("full", "good"),
        ("without", "good"),
        ("lacking", "good"),
        ("foreign", "foreign"),
        ("modular", "good"),
    ):
        folder = SERVED / name
        shutil.copytree(unsigned if key == "foreign" else POOL, folder)
        if key == "foreign":
            _run("rpmsign", "--define", f"_gpg_name {key}", "--addsign", *folder.glob("*.rpm"))
        if name == "without":
            (folder / family.packages(family.driver)[2].file).unlink()
        if name == "lacking":
            for one in Site(family).needs(family.driver):
                (folder / one.file).unlink()
        _run("createrepo_c", "-q", folder)
        metadata = folder / "repodata/repomd.xml"
        if name == "modular" and family.name == "rhel":
            (folder / "modules.yaml").write_text(_modules(family))
            _run("modifyrepo_c", "--mdtype=modules", folder / "modules.yaml", folder / "repodata")
        _run(*_sign_with(key), metadata)
        metadata.with_name("repomd.xml.key").write_text(_run("gpg", "--armor", "--export", key))


def _rpmbuild(package: Rpm, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as top:
        spec = Path(top, "one.spec")
        spec.write_text(package.spec())
        _run("rpmbuild", "-bb", "--define", f"_topdir {top}", "--target", package.arch, spec)
        (made,) = Path(top).rglob("*.rpm")
        shutil.copy(made, folder / package.file)


def _modules(family: Family) -> str:
    """Each branch as a stream, as NVIDIA's repository for RHEL has them."""
    parts = []
    for driver in (family.driver, family.other):
        artifacts = "".join(f"    - {one.name}-{one.evr}.{one.arch}\n" for one in family.packages(driver))
        parts.append(
            "document: modulemd\nversion: 2\ndata:\n  name: nvidia-driver\n"
            f'  stream: "{driver[:3]}-open"\n  version: 1\n  context: abcd1234\n  arch: x86_64\n'
            "  summary: NVIDIA driver\n  description: NVIDIA driver\n  license:\n    module: [none]\n"
            f"  artifacts:\n    rpms:\n{artifacts}"
        )
    parts.append(
        'document: modulemd-defaults\nversion: 1\ndata:\n  module: nvidia-driver\n  stream: "580-open"\n'
    )
    return "".join(f"---\n{part}...\n" for part in parts)


def _renew(site: Site) -> None:
    """As before the first case."""
    site.gone()
    for path in (NODE, Path(DOWNLOADS), *map(Path, site.family.state), Path(site.family.database)):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True) if path.is_file() else None
    for package in FILES:
        Path(package).unlink(missing_ok=True)
    for folder in (NODE, Path(site.family.database)):
        folder.mkdir(mode=0o755, parents=True)
    if site.family.name == "rhel":
        Path("/etc/dnf/modules.d").mkdir()
        VERSIONLOCK.with_suffix(".list").write_text("")
        VERSIONLOCK.write_text(f"[main]\nenabled=1\nlocklist={VERSIONLOCK.with_suffix('.list')}\n")
    _run("rpm", "--import", KEY)
    site.have(*site.family.base)
    site.family.use("full")
    site.serve()


FILES: Final = sorted({
    path
    for family in FAMILIES.values()
    for driver in (family.older, family.driver, family.newer, family.other)
    for package in (*family.packages(driver), *family.packages(driver, "proprietary"))
    for path in package.files
})


def _versions() -> dict[str, str]:
    told = _run("dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n").splitlines()
    found = (line.split() for line in told)
    return {name: version for name, version, state in found if name in NAMED and state == "installed"}


def inside(name: str) -> None:
    """Record all cases of a family. Only in the throw-away root."""
    family = FAMILIES[name]
    _loopback()
    family.set_up()
    _build(family)
    (RECORDER / "bin").mkdir(parents=True)
    RESULTS.mkdir()
    for tool in rpm_runs.TOOLS:
        path = RECORDER / "bin" / tool
        path.write_text(_TOOL.format(downloads=DOWNLOADS, path=os.environ["PATH"], calls=str(CALLS)))
        path.chmod(0o755)
    versions = _versions()
    for title, (story, prepare, only) in CASES.items():
        if only not in {"", name}:
            continue
        site = Site(family)
        site.recording = {"story": story, "tools": versions, "runs": []}
        _renew(site)
        prepare(site)
        site.gone()
        ends = [one["end"] or "done" for one in site.recording["runs"] if "end" in one]
        print(f"{name} {title}: {'; then '.join(ends)}", flush=True)
        rpm_runs.save(site.recording, RESULTS / f"{title}.json")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2])
    else:
        main(sys.argv[1:] or list(FAMILIES))

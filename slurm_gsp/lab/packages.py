"""The lab's driver packages: real .deb files with stand-ins inside, in a signed `file:` repository."""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from slurm_gsp.lab import elf
from slurm_gsp.lab.driver import MODULES
from slurm_gsp.lab.procs import tool

INSTALLED, UPDATE, OTHER_BRANCH = "570.172.08", "570.195.03", "580.95.05"
VERSIONS = (INSTALLED, UPDATE, OTHER_BRANCH)
KERNEL, NEXT_KERNEL = "6.8.0-50-generic", "6.8.0-51-generic"
KERNELS = (KERNEL, NEXT_KERNEL)
REVISION = "0ubuntu1"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
HOLD, HELD = "/run/lab-dkms-hold", "/run/lab-dkms-held"
MAINTAINER = "slurm-gsp lab <root@localhost>"
KEYRING = "key.gpg"

_DKMS = """#!/bin/sh
# A stand-in for dkms: "building" copies the module made for that kernel, if its headers are installed.
set -eu
state=/var/lib/dkms
command=${1:-}; [ $# -eq 0 ] || shift
name= version= kernel=
while [ $# -gt 0 ]; do
  case $1 in
    -m) name=$2; shift ;; -v) version=$2; shift ;; -k) kernel=$2; shift ;;
    */*) name=${1%%/*} version=${1#*/} ;;
  esac
  shift
done
kernels() { if [ -n "$kernel" ]; then echo "$kernel"; else for k in /lib/modules/*/build; do
  [ -e "$k" ] || continue; k=${k#/lib/modules/}; echo "${k%/build}"; done; fi; }
register() { sed -i '/^updates\\/dkms\\/nvidia/d' "/lib/modules/$1/modules.dep"
  for ko in "/lib/modules/$1"/updates/dkms/*.ko; do [ -e "$ko" ] || continue
    case $ko in */nvidia.ko) needs=;; *) needs=" updates/dkms/nvidia.ko";; esac
    echo "updates/dkms/${ko##*/}:$needs" >> "/lib/modules/$1/modules.dep"; done; }
install() {
  for k in $(kernels); do
    if [ ! -e "/lib/modules/$k/build" ]; then
      echo "Error! Your kernel headers for kernel $k cannot be found at /lib/modules/$k/build." >&2; exit 21
    fi
    mkdir -p "$state/$name/$version/$k/x86_64/module" "/lib/modules/$k/updates/dkms"
    cp "/usr/src/$name-$version/$k"/*.ko "$state/$name/$version/$k/x86_64/module/"
    cp "/usr/src/$name-$version/$k"/*.ko "/lib/modules/$k/updates/dkms/"
    register "$k"
  done; }
case $command in
  add) mkdir -p "$state/$name/$version"; ln -sfn "/usr/src/$name-$version" "$state/$name/$version/source" ;;
  build) ;;
  install) install ;;
  autoinstall) for m in "$state"/*/*/source; do [ -e "$m" ] || continue
    m=${m#"$state"/}; m=${m%/source}; name=${m%/*} version=${m#*/}; install; done ;;
  remove) for k in "$state/$name/$version"/*/x86_64; do [ -e "$k" ] || continue
      k=${k%/x86_64}; k=${k##*/}; rm -f "/lib/modules/$k"/updates/dkms/nvidia*.ko; register "$k"; done
    rm -rf "${state:?}/$name/$version" ;;
  status) for m in "$state"/*/*; do [ -d "$m" ] || continue; built=
      for k in "$m"/*/x86_64; do [ -e "$k" ] || continue; built=y; k=${k%/x86_64}
        echo "${m#"$state"/}, ${k##*/}, x86_64: installed"; done
      [ -n "$built" ] || echo "${m#"$state"/}: added"; done ;;
  *) echo "usage: dkms add|build|install|autoinstall|remove|status [-m NAME] [-v VERSION] [-k KERNEL]" >&2
    exit 2 ;;
esac
"""

_KERNEL_HOOK = """#!/bin/sh
# After a kernel was installed: build the modules for it, where its headers are there.
[ ! -e "/lib/modules/$1/build" ] || dkms autoinstall -k "$1"
"""


@dataclass(frozen=True)
class Package:
    """One binary package."""

    name: str
    version: str
    files: dict[str, bytes | str] = field(default_factory=dict)  # bytes: content; str: symlink target
    depends: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    scripts: dict[str, str] = field(default_factory=dict)
    description: str = "stand-in of the slurm-gsp lab"

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version}_amd64.deb"

    def control(self) -> str:
        values = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": "amd64",
            "Maintainer": MAINTAINER,
            "Section": "non-free/libs",
            "Priority": "optional",
            **({"Depends": self.depends} if self.depends else {}),
            **self.fields,
            "Description": self.description,
        }
        return "".join(f"{key}: {value}\n" for key, value in values.items())


def branch(version: str) -> str:
    return version.split(".", maxsplit=1)[0]


def deb_version(version: str) -> str:
    return f"{version}-{REVISION}"


def driver_package_names(version: str) -> list[str]:
    """Everything that makes up one driver on a node, in no particular order."""
    b = branch(version)
    return [
        f"nvidia-driver-{b}-open",
        f"nvidia-dkms-{b}-open",
        f"nvidia-kernel-source-{b}-open",
        f"nvidia-kernel-common-{b}",
        f"nvidia-firmware-{b}-{version}",
        f"nvidia-utils-{b}",
        f"libnvidia-compute-{b}",
    ]


def module_files(version: str, kernel: str, folder: str, *, is_open: bool = True) -> dict[str, bytes | str]:
    return {
        f"{folder}/{name}.ko": elf.kernel_module(name, version, kernel, is_open=is_open) for name in MODULES
    }


def driver_packages(version: str, compiled: Path) -> Iterator[Package]:
    """The packages of one driver version, named and tied together as Canonical does it."""
    b, v = branch(version), deb_version(version)
    libraries: dict[str, bytes | str] = {}
    for name in ("libnvidia-ml", "libcuda"):
        libraries[f"{LIBRARIES}/{name}.so.{version}"] = (compiled / f"{name}.so.{version}").read_bytes()
        libraries[f"{LIBRARIES}/{name}.so.1"] = f"{name}.so.{version}"
    alone = {
        "Provides": "libnvidia-compute",
        "Conflicts": "libnvidia-compute",
        "Replaces": "libnvidia-compute",
    }
    yield Package(
        f"libnvidia-compute-{b}", v, libraries, "libc6", alone, {"triggers": "activate-noawait ldconfig\n"}
    )
    smi = (compiled / f"nvidia-smi.{version}").read_bytes()
    yield Package(f"nvidia-utils-{b}", v, {"usr/bin/nvidia-smi": smi}, f"libnvidia-compute-{b} (= {v})")
    firmware: dict[str, bytes | str] = {
        f"lib/firmware/nvidia/{version}/{name}": elf.gsp_image(name, version) for name in elf.GSP_CHIPS
    }
    yield Package(f"nvidia-firmware-{b}-{version}", v, firmware)
    common = f"nvidia-kernel-common-{b}"
    modprobe = b"blacklist nouveau\noptions nouveau modeset=0\n"
    yield Package(
        common,
        v,
        {f"lib/modprobe.d/nvidia-kernel-common-{b}.conf": modprobe},
        f"nvidia-firmware-{b}-{version} (= {v})",
    )
    source: dict[str, bytes | str] = {
        f"usr/src/nvidia-{version}/dkms.conf": (
            f'PACKAGE_NAME="nvidia"\nPACKAGE_VERSION="{version}"\n'.encode()
        )
    }
    for kernel in KERNELS:
        source.update(module_files(version, kernel, f"usr/src/nvidia-{version}/{kernel}"))
    yield Package(f"nvidia-kernel-source-{b}-open", v, source)
    yield Package(
        f"nvidia-dkms-{b}-open",
        v,
        {},
        f"dkms, nvidia-kernel-source-{b}-open (= {v}), {common} (= {v})",
        {"Provides": "nvidia-kernel-open", "Conflicts": "nvidia-kernel-open"},
        {
            "postinst": (
                "#!/bin/sh\nset -e\n"
                f"[ ! -e {HOLD} ] || {{ touch {HELD}; exec sleep 600; }}\n"
                f"if [ \"$1\" = configure ]; then echo 'Building initial module for {version}'\n"
                f"dkms add -m nvidia -v {version}; dkms install -m nvidia -v {version}; fi\n"
            ),
            "prerm": f"#!/bin/sh\nset -e\ndkms remove -m nvidia -v {version} --all\n",
        },
    )
    needs = (f"nvidia-dkms-{b}-open", common, f"nvidia-utils-{b}", f"libnvidia-compute-{b}")
    yield Package(f"nvidia-driver-{b}-open", v, {}, ", ".join(f"{name} (= {v})" for name in needs))
    fabric = f"#!/bin/sh\necho 'Fabric Manager version is : {version}'\n".encode()
    yield Package(f"nvidia-fabricmanager-{b}", v, {"usr/bin/nv-fabricmanager": fabric}, "libc6")


def base_packages() -> Iterator[Package]:
    """dkms and the kernels."""
    yield Package(
        "dkms",
        "3.0.11-1lab1",
        {"usr/sbin/dkms": _DKMS.encode(), "etc/kernel/postinst.d/dkms": _KERNEL_HOOK.encode()},
    )
    for kernel in KERNELS:
        number = kernel.removesuffix("-generic")
        link = "ln -sfn vmlinuz-{k} /boot/vmlinuz\n"
        previous = (
            'last=$(ls /boot/vmlinuz-* 2>/dev/null | grep -v "vmlinuz-{k}$" | sort -V | tail -n 1)\n'
            '[ -z "$last" ] || ln -sfn "${{last#/boot/}}" /boot/vmlinuz\n'
        )
        hook = "[ ! -x /etc/kernel/postinst.d/dkms ] || /etc/kernel/postinst.d/dkms {k}\n"
        yield Package(
            f"linux-image-{kernel}",
            f"{number}.51",
            {
                f"boot/vmlinuz-{kernel}": b"no kernel\n",
                f"lib/modules/{kernel}/modules.dep": b"kernel/drivers/net/virtio_net.ko:\n",
                f"lib/modules/{kernel}/kernel/drivers/net/virtio_net.ko": elf.kernel_module(
                    "virtio_net", "1.0", kernel
                ),
            },
            scripts={
                "postinst": "#!/bin/sh\nset -e\n" + (link + hook).format(k=kernel),
                "prerm": "#!/bin/sh\nset -e\n" + previous.format(k=kernel),
            },
        )
        yield Package(
            f"linux-headers-{kernel}",
            f"{number}.51",
            {
                f"usr/src/linux-headers-{kernel}/Makefile": b"VERSION = 6\n",
                f"lib/modules/{kernel}/build": f"/usr/src/linux-headers-{kernel}",
            },
            scripts={"postinst": "#!/bin/sh\nset -e\n" + hook.format(k=kernel)},
        )


def compile_programs(source: Path, target: Path) -> None:
    """Compile the C stand-ins: NVML, CUDA and nvidia-smi for each version, and the uname shim."""
    target.mkdir(parents=True, exist_ok=True)
    shared = ["-shared", "-fPIC"]
    jobs = [[*shared, "-o", target / "uname.so", source / "uname.c", "-ldl"]]
    for version in VERSIONS:
        define = f'-DVERSION="{version}"'
        for name, file in (("libnvidia-ml", "nvml.c"), ("libcuda", "cuda.c")):
            soname = f"-Wl,-soname,{name}.so.1"
            jobs.append([*shared, define, soname, "-o", target / f"{name}.so.{version}", source / file])
        jobs.append([define, "-o", target / f"nvidia-smi.{version}", source / "nvidia_smi.c", "-ldl"])
    gcc = tool("gcc")
    flags = ["-O1", "-s", "-Wall", "-Wextra", "-Werror"]
    running = [subprocess.Popen([gcc, *flags, *map(str, job)]) for job in jobs]
    codes = [process.wait() for process in running]
    if any(codes):
        raise RuntimeError("gcc could not compile the lab's stand-ins (its messages are above)")


def md5sums(package: Package) -> str:
    """What `dpkg -V` compares with: files only, links have no sum."""
    return "".join(
        f"{hashlib.md5(content, usedforsecurity=False).hexdigest()}  {path}\n"
        for path, content in package.files.items()
        if isinstance(content, bytes)
    )


def build_deb(package: Package, work: Path, repository: Path) -> None:
    """Build one .deb with dpkg-deb."""
    tree = work / package.name
    (tree / "DEBIAN").mkdir(parents=True)
    for path, content in package.files.items():
        file = tree / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            file.symlink_to(content)
            continue
        file.write_bytes(content)
        executable = path.startswith(("usr/bin/", "usr/sbin/", "etc/kernel/"))
        file.chmod(0o755 if executable else 0o644)
    (tree / "DEBIAN/control").write_text(package.control())
    (tree / "DEBIAN/md5sums").write_text(md5sums(package))
    for name, text in package.scripts.items():
        script = tree / "DEBIAN" / name
        script.write_text(text)
        script.chmod(0o644 if name == "triggers" else 0o755)
    output = repository / package.file_name
    command: list[str | Path] = [
        tool("dpkg-deb"),
        "--root-owner-group",
        "-Zgzip",
        "-z1",
        "--build",
        tree,
        output,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(tree)


def build_repository(source: Path, repository: Path, work: Path) -> Path:
    """Build all packages and the Packages index; the folder of the compiled programs."""
    compiled = work / "compiled"
    compile_programs(source, compiled)
    repository.mkdir(parents=True)
    index = []
    packages = [*base_packages(), *(p for version in VERSIONS for p in driver_packages(version, compiled))]
    for package in packages:
        build_deb(package, work, repository)
        data = (repository / package.file_name).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        index.append(
            f"{package.control()}Filename: ./{package.file_name}\nSize: {len(data)}\nSHA256: {digest}\n"
        )
    listing = "\n".join(index).encode()
    (repository / "Packages").write_bytes(listing)
    entry = f"{hashlib.sha256(listing).hexdigest()} {len(listing)} Packages"
    date = formatdate(usegmt=True)
    (repository / "Release").write_text(f"Origin: slurm-gsp-lab\nDate: {date}\nSHA256:\n {entry}\n")
    sign(repository)
    return compiled


def sign(repository: Path) -> None:
    """Sign the repository with a key that nobody keeps; its public half lies beside the index."""
    with tempfile.TemporaryDirectory(prefix="gsp-") as home:  # short: an agent's socket lies in it
        gpg = [tool("gpg"), "--homedir", home, "--batch", "--quiet"]
        kind = ["--passphrase", "", "--quick-generate-key", MAINTAINER, "ed25519", "sign", "never"]
        release, signed = repository / "Release", repository / "InRelease"
        try:
            for command in (
                kind,
                ["--output", str(signed), "--clearsign", str(release)],
                ["--output", str(repository / KEYRING), "--export"],
            ):
                subprocess.run([*gpg, *command], check=True, capture_output=True)
        finally:
            subprocess.run([tool("gpgconf"), "--homedir", home, "--kill", "all"], check=False)
    release.unlink()

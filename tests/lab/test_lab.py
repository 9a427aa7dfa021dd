"""The lab itself: what it starts, what its faults do to a node's files, and that the host stays as it was."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gsp.lab import cli, driver, elf, faults, packages, procs
from slurm_gsp.lab.cluster import INSTALLED_AT, Lab, Node, new_hardware
from slurm_gsp.lab.procs import LabError

V, UPDATE, OTHER = packages.INSTALLED, packages.UPDATE, packages.OTHER_BRANCH
IMAGE = faults.IMAGE
PYNVML = [f"{INSTALLED_AT}/.venv/bin/python", "-c"]


def nvml_code(node: Node) -> int:
    """What nvmlInit answers the real pynvml in this node."""
    script = (
        "import pynvml, sys\n"
        "try: pynvml.nvmlInit()\n"
        "except pynvml.NVMLError as error: sys.exit(error.value)\n"
    )
    return node.run([*PYNVML, script], check=False).returncode


def kernel_log(node: Node) -> str:
    return node.run(["dmesg"]).stdout


def gsp(node: Node, index: int = 0) -> str:
    bus = node.hardware.gpus[index].bus
    for line in node.read(f"/proc/driver/nvidia/gpus/{bus}/information").splitlines():
        if line.startswith("GPU Firmware:"):
            return line.split(":", 1)[1].strip()
    raise AssertionError("no line GPU Firmware")


# --- without a cluster -------------------------------------------------------------------------------------


def healthy_disk(root: Path, version: str = V, kernel: str = packages.KERNEL) -> Path:
    for path, module in packages.module_files(version, kernel, f"lib/modules/{kernel}/updates/dkms").items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(module, bytes)
        file.write_bytes(module)
    image = root / IMAGE.lstrip("/")
    image.parent.mkdir(parents=True)
    image.write_bytes(elf.gsp_image("gsp_ga10x.bin", version))
    return image


def information(result: driver.Boot, index: int = 0) -> str:
    bus = new_hardware("n1").gpus[index].bus
    return result.files[f"/proc/driver/nvidia/gpus/{bus}/information"]


def log(result: driver.Boot) -> str:
    return "\n".join(text for _, text in result.kmsg)


def test_elf_objects_read_back_as_written() -> None:
    sections = {".a": b"one\0", ".bc": b"", ".d": bytes(17)}
    assert elf.read(elf.write(sections, elf.X86_64)).items() >= sections.items()


@pytest.mark.parametrize("size", [0, 3, 63, 64, 4000])
def test_a_cut_object_is_not_an_elf(size: int) -> None:
    with pytest.raises(elf.NotElfError):
        elf.read(elf.gsp_image("gsp_ga10x.bin", V)[:size])


def test_readelf_understands_the_images(tmp_path: Path) -> None:
    readelf = procs.find_tool("readelf")
    if readelf is None:
        pytest.skip("readelf is not installed")
    image = tmp_path / "gsp.bin"
    image.write_bytes(elf.gsp_image("gsp_ga10x.bin", V))
    said = subprocess.run([readelf, "-p", ".fwversion", image], capture_output=True, text=True, check=True)
    assert V in said.stdout
    assert said.stderr == ""


def test_a_healthy_disk_boots(tmp_path: Path) -> None:
    healthy_disk(tmp_path)
    result = driver.boot(tmp_path, new_hardware("n1"), packages.KERNEL)
    assert result.files["/sys/module/nvidia_uvm/version"] == f"{V}\n"
    assert f"GPU Firmware: \t {V}\n" in information(result, 1)
    assert "failed" not in log(result).replace("verification failed", "")


def test_without_a_module_nothing_appears(tmp_path: Path) -> None:
    healthy_disk(tmp_path)
    result = driver.boot(tmp_path, new_hardware("n1"), packages.NEXT_KERNEL)
    assert not any("nvidia" in path for path in result.files)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "failed with error -2"),
        (b"", "RmInitAdapter failed! (0x62:0x25:"),
        (elf.gsp_image("gsp_ga10x.bin", V)[:4000], "RmInitAdapter failed! (0x62:0x25:"),
        (elf.gsp_image("gsp_ga10x.bin", UPDATE), f"got version {UPDATE}, expected version {V}"),
        (elf.gsp_image("gsp_tu10x.bin", V), "RmInitAdapter failed! (0x62:0x25:"),
    ],
    ids=["missing", "empty", "truncated", "another version", "without the chip's signature"],
)
def test_a_bad_image_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    image = healthy_disk(tmp_path)
    image.unlink() if content is None else image.write_bytes(content)
    result = driver.boot(tmp_path, new_hardware("n1"), packages.KERNEL)
    assert said in log(result)
    assert "GPU Firmware: \t N/A\n" in information(result)
    assert driver.UNINITIALISED_VBIOS in information(result)


def test_the_custom_firmware_path_comes_first(tmp_path: Path) -> None:
    image = healthy_disk(tmp_path)
    custom = tmp_path / "opt/fw/nvidia" / V / image.name
    custom.parent.mkdir(parents=True)
    custom.write_bytes(image.read_bytes())
    image.write_bytes(b"")
    hardware = dataclasses.replace(new_hardware("n1"), firmware_path="/opt/fw")
    result = driver.boot(tmp_path, hardware, packages.KERNEL)
    assert f"GPU Firmware: \t {V}\n" in information(result)


def test_hardware_survives_json() -> None:
    hardware = dataclasses.replace(new_hardware("n1"), nvswitches=("0000:08:00.0",), returns=False)
    assert driver.Hardware.from_json(hardware.to_json()) == hardware


def test_a_record_names_that_very_process(tmp_path: Path) -> None:
    record = tmp_path / "pid"
    procs.record(record, os.getpid())
    assert procs.recorded(record) == os.getpid()
    record.write_text(f"{os.getpid()} 1\n")  # the pid was given to another process since
    assert procs.recorded(record) is None


def test_a_folder_that_is_not_a_lab_is_never_removed(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    said = CliRunner().invoke(cli.lab, ["down", "--dir", str(tmp_path)])
    assert said.exit_code == 1
    assert "there is no lab in" in said.output
    assert (tmp_path / "mine").exists()


def test_every_fault_is_listed() -> None:
    said = CliRunner().invoke(cli.lab, ["faults"])
    assert said.exit_code == 0
    assert [line.split()[0] for line in said.output.splitlines()] == list(faults.FAULTS)


# --- with one ----------------------------------------------------------------------------------------------


@pytest.mark.lab
def test_nodes_differ_and_run_jobs(lab: Lab) -> None:
    script = "echo $(hostname) $(cat /proc/sys/kernel/random/boot_id) $(cat /sys/module/nvidia/version)"
    lines = lab.slurm(["srun", "-N4", "--gres=gpu:h100:2", "sh", "-c", script]).stdout.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["n1", "n2", "n3", "n4"]
    assert len({line.split()[1] for line in lines}) == 4
    assert {line.split()[2] for line in lines} == {V}


@pytest.mark.lab
def test_a_node_sees_its_own_world(lab: Lab) -> None:
    node = lab.node("n2")
    assert node.run(["hostname"]).stdout == "n2\n"
    assert node.run(["uname", "-r"]).stdout == f"{packages.KERNEL}\n"
    assert node.release == packages.KERNEL
    assert node.read("/etc/slurm/slurm.conf") == lab.conf.read_text()
    assert "n4" in node.run(["sinfo", "-h", "-N"]).stdout
    assert node.run(["cat", "/proc/1/cmdline"]).stdout.startswith(sys.executable)
    assert "slurmctld" not in node.run(["cat", "/proc/2/cmdline"]).stdout
    assert kernel_log(node).startswith("[    0.000000] Linux version 6.8.0-50-generic")
    assert node.run(["touch", f"{INSTALLED_AT}/x"], check=False).returncode != 0
    assert node.run(["dkms", "status"]).stdout == f"nvidia/{V}, {packages.KERNEL}, x86_64: installed\n"


@pytest.mark.lab
def test_the_real_pynvml_reads_the_stand_in(lab: Lab) -> None:
    script = (
        "import pynvml as p; p.nvmlInit(); g = p.nvmlDeviceGetHandleByIndex(1)\n"
        "print(p.nvmlSystemGetDriverVersion(), p.nvmlSystemGetNVMLVersion(), p.nvmlDeviceGetCount(),"
        " p.nvmlDeviceGetPciInfo(g).busId, p.nvmlDeviceGetVbiosVersion(g), p.nvmlDeviceGetPersistenceMode(g),"
        " p.nvmlDeviceGetCurrPcieLinkWidth(g), p.nvmlDeviceGetMaxPcieLinkWidth(g),"
        " p.nvmlDeviceGetCurrPcieLinkGeneration(g), p.nvmlDeviceGetName(g), sep='|'); p.nvmlShutdown()"
    )
    said = lab.node("n2").run([*PYNVML, script]).stdout.strip()
    assert said == f"{V}|12.{V}|2|00000000:07:00.0|96.00.DA.00.0C|1|16|16|5|NVIDIA H100 80GB HBM3"


@pytest.mark.lab
def test_apt_and_dpkg_are_real(node: Node) -> None:
    node.run(["apt-get", "update"])
    assert UPDATE in node.run(["apt-cache", "policy", "nvidia-driver-570-open"]).stdout
    wanted = [f"{name}={packages.deb_version(UPDATE)}" for name in packages.driver_package_names(UPDATE)]
    node.run(["apt-get", "-y", "install", *wanted])
    assert node.run(["dpkg", "--audit"]).stdout == ""
    node.reboot(quiet=True)
    assert node.layers()["loaded"] == UPDATE
    assert nvml_code(node) == 0


@pytest.mark.lab
def test_scontrol_reboot_boots_anew(lab: Lab, node: Node) -> None:
    before = node.boot_id
    node.write("/run/gone-at-reboot", "")
    sleeper = node.popen(["sleep", "600"])
    lab.slurm(["scontrol", "reboot", "ASAP", "nextstate=DOWN", "reason=gsp:realign c1", node.name])
    lab.wait_for(lambda: "reboot complete" in node.reason, 40, "the reboot")
    assert node.boot_id != before
    assert not node.exists("/run/gone-at-reboot")
    assert sleeper.wait(5) != 0
    assert node.reason == "gsp:realign c1 : reboot issued : reboot complete"


@pytest.mark.lab
def test_an_unasked_reboot_is_noticed_and_a_quiet_one_is_not(lab: Lab, node: Node) -> None:
    node.reboot(quiet=True)
    time.sleep(1)
    assert node.state == "IDLE"
    time.sleep(1)
    node.reboot()
    lab.wait_for(lambda: node.reason == "Node unexpectedly rebooted", 20, "Slurm to notice")


@pytest.mark.lab
def test_slurmctld_stops_and_starts(lab: Lab) -> None:
    lab.ctld_stop()
    assert "is DOWN" in lab.slurm(["scontrol", "ping"], check=False).stdout
    lab.ctld_start()
    lab.slurm(["srun", "-N1", "true"])


@pytest.mark.lab
def test_a_node_that_never_returns_is_timed_out(lab: Lab, node: Node) -> None:
    lab.fault(node.name, "never-returns")
    lab.slurm(["scontrol", "reboot", "ASAP", "nextstate=RESUME", "reason=x", node.name])
    lab.wait_for(lambda: "reboot timed out" in node.reason.lower(), 90, "ResumeTimeout")


def _image_is(version: str) -> Callable[[Node], bool]:
    return lambda node: (
        elf.read(node.path(IMAGE).read_bytes())[".fwversion"] == f"{version}\0".encode()
        and gsp(node) == "N/A"
    )


def _package_states(node: Node) -> str:
    return node.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\n"]).stdout


def _running(node: Node) -> set[str]:
    """The names of the node's processes."""
    return set(node.run(["sh", "-c", "cat /proc/[0-9]*/comm"], check=False).stdout.split())


EFFECTS: dict[str, Callable[[Node], bool]] = {
    "interrupted-upgrade": lambda n: (
        "nvidia-dkms-570-open half-configured" in _package_states(n)
        and n.layers()["libnvidia-ml"] == UPDATE
        and n.layers()["loaded"] == V
        and not {"apt-get", "dpkg", "sleep"} & _running(n)
    ),
    "unattended-upgrade": lambda n: (
        nvml_code(n) == 18
        and "NVRM: API mismatch" in kernel_log(n)
        and n.layers()["module on disk"] == UPDATE
        and n.run(["dpkg", "--audit"]).stdout == ""
    ),
    "hand-copied-image": _image_is(OTHER),
    "truncated-image": lambda n: n.path(IMAGE).stat().st_size == 4000 and gsp(n) == "N/A",
    "missing-image": lambda n: not n.exists(IMAGE) and "error -2" in kernel_log(n) and nvml_code(n) == 0,
    "image-removed-live": lambda n: not n.exists(IMAGE) and gsp(n) == V,
    "kernel-bump": lambda n: n.release == packages.NEXT_KERNEL and not n.exists("/sys/module/nvidia"),
    "kernel-staged": lambda n: (
        n.release == packages.KERNEL
        and n.path("/boot/vmlinuz").readlink().name.endswith(packages.NEXT_KERNEL)
    ),
    "mixed-branches": lambda n: (
        nvml_code(n) == 18
        and f"libnvidia-compute-580 installed {OTHER}" in _package_states(n)
        and f"libnvidia-compute-570 installed {V}" in _package_states(n)
    ),
    "kmd-split": lambda n: n.read("/sys/module/nvidia_uvm/version") == f"{UPDATE}\n",
    "gsp-off": lambda n: "EnableGpuFirmware: 0\n" in n.read("/proc/driver/nvidia/params") and gsp(n) == "N/A",
    "module-unloaded": lambda n: nvml_code(n) == 9 and n.layers()["module on disk"] == V,
    "xid-119": lambda n: "NVRM: Xid (PCI:0000:06:00): 119," in kernel_log(n),
    "xid-120": lambda n: "NVRM: Xid (PCI:0000:06:00): 120," in kernel_log(n),
    "nvml-crash": lambda n: nvml_code(n) not in {0, 9, 18},
    "nouveau": lambda n: (
        n.path("/sys/bus/pci/devices/0000:06:00.0/driver").readlink().name == "nouveau"
        and not n.exists("/sys/module/nvidia")
    ),
    "secure-boot": lambda n: "Key was rejected by service" in kernel_log(n) and nvml_code(n) == 9,
    "vbios": lambda n: "FWSEC" in kernel_log(n) and gsp(n, 1) == "N/A" and gsp(n, 0) == V,
    "wrong-flavour": lambda n: (
        "requires use of the NVIDIA open kernel modules" in kernel_log(n)
        and "x86_64 Kernel Module" in n.read("/proc/driver/nvidia/version")
    ),
    "gpu-missing": lambda n: not n.exists("/sys/bus/pci/devices/0000:07:00.0"),
    "gpu-lost": lambda n: "RmInitAdapter failed! (0x24:0xffff:" in kernel_log(n) and gsp(n, 1) == "N/A",
    "fw-interrupted": lambda n: "failed with error -4" in kernel_log(n) and gsp(n, 1) == "N/A",
    "fabric-skew": lambda n: (
        n.read("/sys/bus/pci/devices/0000:08:00.0/class") == "0x068000\n"
        and f"nvidia-fabricmanager-570 installed {UPDATE}" in _package_states(n)
    ),
    "gsp-skew": lambda n: gsp(n) == UPDATE and gsp(n, 1) == V,
    "disk-full": lambda n: n.run(["dd", "if=/dev/zero", "of=/var/x", "count=9"], check=False).returncode != 0,
    "repository-down": lambda n: n.run(["apt-get", "update"], check=False).returncode != 0,
    "custom-firmware-path": lambda n: (
        gsp(n) == V
        and nvml_code(n) == 0
        and not n.exists("/lib/firmware/nvidia")
        and "nvidia" not in _package_states(n)
    ),
}


@pytest.mark.lab
@pytest.mark.parametrize("name", EFFECTS)
def test_fault_is_in_the_files(lab: Lab, node: Node, name: str) -> None:
    lab.fault(node.name, name)
    assert EFFECTS[name](node)


def test_all_faults_have_a_test() -> None:
    assert set(faults.FAULTS) == {*EFFECTS, "nvml-hang", "never-returns", "heal"}


@pytest.mark.lab
def test_a_killed_hung_probe_is_told(lab: Lab, node: Node) -> None:
    lab.fault(node.name, "nvml-hang")
    probe = node.popen([*PYNVML, "import pynvml; pynvml.nvmlInit()"], stderr=subprocess.DEVNULL)
    lab.wait_for(lambda: node.exists("/run/lab-nvml-hung.pid"), 10, "the probe to hang")
    assert probe.poll() is None
    assert not node.exists("/run/lab-nvml-killed")
    node.run(["kill", node.read("/run/lab-nvml-hung.pid").strip()])
    probe.wait(10)
    assert "got signal 15" in node.read("/run/lab-nvml-killed")


@pytest.mark.lab
def test_heal_makes_a_node_as_new(lab: Lab, node: Node) -> None:
    healthy = node.layers()
    lab.fault(node.name, "mixed-branches")
    lab.fault(node.name, "gpu-lost")
    lab.fault(node.name, "heal")
    assert node.layers() == healthy
    assert nvml_code(node) == 0
    assert node.hardware == new_hardware(node.name)


@pytest.mark.lab
def test_an_unknown_fault_or_node_is_named(lab: Lab) -> None:
    with pytest.raises(LabError, match="there is no fault nonsense"):
        lab.fault("n1", "nonsense")
    with pytest.raises(LabError, match="there is no node n9: the lab has n1, n2, n3, n4"):
        lab.fault("n9", "heal")


def _host() -> dict[str, object]:
    """What of the host a lab could change, were it careless."""

    def listing(folder: str) -> list[tuple[str, int]]:
        return sorted((str(p), p.lstat().st_mtime_ns) for p in Path(folder).rglob("*") if not p.is_dir())

    return {
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "etc": listing("/etc"),
        "dpkg": listing("/var/lib/dpkg"),
        "apt": listing("/var/lib/apt"),
        "boot": listing("/boot"),
        "run": sorted(path.name for path in Path("/run").iterdir()),
        "sys/module": sorted(path.name for path in Path("/sys/module").iterdir()),
        "cgroups": sorted(str(p) for p in Path("/sys/fs/cgroup").glob("*/*") if p.is_dir()),
        "hostname": socket.gethostname(),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text(),
    }


@pytest.mark.lab
def test_the_host_stays_as_it_was_and_two_labs_live_side_by_side(lab: Lab, tmp_path: Path) -> None:
    before = _host()
    directory = tmp_path / "b"
    with Lab.up(directory, nodes=1, hooks=False, settings=["SlurmctldTimeout=33"]) as other:
        assert other.port != lab.port
        assert "= 33 sec" in other.slurm(["scontrol", "show", "config"]).stdout
        other.fault("n1", "unattended-upgrade")
        other.node("n1").reboot(quiet=True)
        assert other.node("n1").layers()["loaded"] == UPDATE
        assert lab.node("n2").layers()["loaded"] == V
        assert len(lab.slurm(["sinfo", "-h", "-N"]).stdout.splitlines()) == 4
        with pytest.raises(LabError, match="holds a lab already"):
            Lab.up(directory, nodes=1, hooks=False)
        listening = [
            line.split()[1]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and other.port <= int(line.split()[1][9:], 16) < other.port + 100
        ]
        assert listening
        assert all(address.startswith("0100007F:") for address in listening)
    assert not directory.exists()
    assert _host() == before


@pytest.mark.lab
def test_down_finds_what_a_killed_parent_left(tmp_path: Path) -> None:
    directory = tmp_path / "k"
    arguments = ["-m", "slurm_gsp.lab.cli", "up", "--dir", str(directory), "--nodes", "1", "--no-hooks"]
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL) as parent:
        procs.wait_until(
            lambda: (directory / "pids/n1.init").exists() or parent.poll() is not None, 60, 0.005
        )
        parent.send_signal(signal.SIGKILL)
    time.sleep(1)  # what had been started comes up without its parent
    pids = [pid for path in (directory / "pids").iterdir() if (pid := procs.recorded(path))]
    assert pids
    said = CliRunner().invoke(cli.lab, ["down", "--dir", str(directory)])
    assert said.exit_code == 0, said.output
    assert not directory.exists()
    assert [pid for pid in pids if procs.start_time(pid) is not None] == []


@pytest.mark.lab
def test_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="slurmctld ended at once"):
        Lab.up(tmp_path / "f", nodes=1, hooks=False, settings=["SelectType=select/nonsense"])
    assert not (tmp_path / "f").exists()


@pytest.mark.lab
def test_ctrl_c_while_starting_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    arguments = ["-m", "slurm_gsp.lab.cli", "up", "--dir", str(directory), "--no-hooks"]
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        # what is started in the background of a script ignores Ctrl-C
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as up:
        procs.wait_until(lambda: (directory / "pids/munged").exists() or up.poll() is not None, 60, 0.005)
        up.send_signal(signal.SIGINT)
        assert up.communicate(timeout=30)[1].strip() == b"Aborted!"
    assert not directory.exists()


@pytest.mark.lab
def test_the_command_line(lab: Lab, node: Node) -> None:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "slurm_gsp.lab.cli", arguments[0], "--dir", str(lab.directory)]
        return subprocess.run([*command, *arguments[1:]], capture_output=True, text=True, check=False)

    assert run("exec", "n1", "--", "hostname").stdout == "n1\n"
    assert run("exec", "n1", "sh", "-c", "exit 7").returncode == 7
    assert run("slurm", "--", "sinfo", "-h", "-o", "%D").stdout == "4\n"
    assert run("fault", "n1", "mixed-branches").returncode == 0
    shown = run("show").stdout
    assert f"libnvidia-ml    {OTHER}" in shown
    assert "n4  IDLE" in shown
    assert "there is no fault" in run("fault", "n1", "nonsense").stderr

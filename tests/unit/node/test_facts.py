# ruff: noqa: E501 - one case a line
"""What a verification reads: with a fake machine, whole readings out."""

import hashlib
import json
import lzma
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from slurm_gsp import process
from slurm_gsp.collect.collect import collect
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import LiveRunner, Output
from slurm_gsp.core.evidence import Firmware, ImageFile
from slurm_gsp.core.hardware import Board, Boards, Computed, Facts, Smoke
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.node.facts import (
    Machine,
    generation_of,
    nccl_command,
    read_facts,
    run_dcgm,
    run_nccl,
    run_smoke,
)
from slurm_gsp.parse.dcgm import DcgmReport
from slurm_gsp.parse.nccl import NcclReport
from slurm_gsp.process import CommandMissing, DeadlineExceeded, Finished
from slurm_gsp.record import open_recording

UNIT = Path(__file__).parents[1]
VERIFY = UNIT / "parse/verify"
EVIDENCE = collect(*open_recording(UNIT.parent / "fixtures/nodes/h100-580-open"))
V = EVIDENCE.loaded.value
PINNED = Pinned("m", "0" * 12, "p", V, "open", 1, True, topology="x", images=(("gsp_ga10x.bin", "a"),))
BOARD = {
    "bus_id": "00000000:06:00.0", "vbios": "96.00.DA.00.0C", "inforom": "G520", "width": 16, "generation": 5,
    "generation_max": 5, "retirement_pending": "n/a", "remap_pending": 1, "remap_failed": 0,
    "mig": False,
}  # fmt: skip
MADE = Board("0000:06:00.0", "96.00.DA.00.0C", "G520", 16, 5, 5, "n/a", True, False)
ANSWER = {"init": 0, "cuda": 12080, "boards": [BOARD]}
COMPUTED = {"bus_id": "0000:06:00.0", "name": "H100", "error": "", "width": "16", "speed": "32.0 GT/s PCIe"}


@dataclass
class FakeRunner:
    """Answers of the probe, and of programs that enter the driver by their name."""

    boards: Output | None = field(default_factory=lambda: said("boards", ANSWER))
    programs: dict[str, tuple[int, str] | None] = field(default_factory=dict)
    started: list[tuple[tuple[str, ...], dict[str, str]]] = field(default_factory=list)

    def run(self, command):
        assert command == "boards"
        return self.boards

    def alone(self, argv, deadline_s, env=None):
        assert deadline_s > 0
        self.started.append((argv, dict(env or {})))
        return self.programs[argv[-1]]


@dataclass
class FakeRun:
    """Answers of other programs by their name."""

    answers: dict[str, Finished | process.ProcessError]
    calls: list[tuple[tuple[str, ...], float]] = field(default_factory=list)

    def __call__(self, argv, *, deadline_s, env=None):
        self.calls.append((tuple(argv), deadline_s))
        answer = self.answers[argv[0].rpartition("/")[2]]
        if isinstance(answer, process.ProcessError):
            raise answer
        return answer


def said(command, answer):
    return Output((command,), 0, json.dumps(answer), "")


def done(stdout="", rc=0, stderr=""):
    return Finished(("x",), rc, stdout, stderr)


def machine(tmp_path, runner=None, environment=None, missing=(), **answers):
    def find(name):
        return None if name in missing else f"/usr/bin/{name}"

    return Machine(Root(tmp_path), runner or FakeRunner(), FakeRun(answers), find, environment or {})


def facts(tmp_path, pinned=None, evidence=EVIDENCE, **change):
    answers = {"systemctl": done("ActiveState=active\nLoadState=loaded\n"), **change}
    return read_facts(machine(tmp_path, **answers), evidence, pinned)


def test_all_facts_of_a_node_without_a_pin(tmp_path):
    assert facts(tmp_path) == Facts(
        boards=Known(
            Boards("12.8", (MADE,)),
            "NVML",
        ),
        fabric_state=Known("active", "systemctl show nvidia-fabricmanager"),
        topology=Absent("not pinned"),
        nics=Known((), "/sys/class/infiniband"),
        images=Absent("not pinned"),
    )


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (None, Unknown("NVML", "pynvml (nvidia-ml-py) is not installed")),
        (
            Output(("boards",), None, '{"init": "timeout"}', ""),
            Unknown("NVML", "nvmlInit ended with timeout"),
        ),
        (Output(("boards",), -6, '{"init": "crash"}', ""), Unknown("NVML", "nvmlInit ended with crash")),
        (
            said("boards", {**ANSWER, "boards": [{**BOARD, "mig": True}]}),
            Known(Boards("12.8", (replace(MADE, mig=True),)), "NVML"),
        ),
        (said("boards", {"init": 18}), Unknown("NVML", "nvmlInit ended with 18")),
        (said("boards", {"init": 0}), Unknown("NVML", "the answer was cut short")),
        (Output(("boards",), 0, "[]", ""), Unknown("NVML", "the answer was cut short")),
        (Output(("boards",), 0, '{"init": 0, "boa', ""), Unknown("NVML", "the answer was cut short")),
        (said("boards", {**ANSWER, "cuda": None, "boards": []}), Known(Boards(None, ()), "NVML")),
    ],
)
def test_boards(tmp_path, output, expected):
    assert facts(tmp_path, runner=FakeRunner(output)).boards == expected


SYSTEMCTL = "systemctl show nvidia-fabricmanager"
NO_SYSTEMD = "System has not been booted with systemd as init system (PID 1). Can't operate."


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (done("LoadState=not-found\nActiveState=inactive\n"), Known("not-found", SYSTEMCTL)),
        (done("LoadState=loaded\nActiveState=failed\n"), Known("failed", SYSTEMCTL)),
        (done("", 1, f"{NO_SYSTEMD}\n"), Unknown("systemctl", NO_SYSTEMD)),
        (done("", 1), Unknown("systemctl", "exit code 1")),
        (done("\n"), Unknown(SYSTEMCTL, "it says nothing")),
        (DeadlineExceeded("no end after 5 s"), Unknown("systemctl", "no end after 5 s")),
        (CommandMissing("gone"), Unknown("systemctl", "gone")),
    ],
)
def test_the_fabric_managers_state(tmp_path, answer, expected):
    assert facts(tmp_path, systemctl=answer).fabric_state == expected


def test_a_node_without_systemctl(tmp_path):
    assert facts(tmp_path, missing=["systemctl"]).fabric_state == Unknown("systemctl", "is not there")


SMI = "nvidia-smi topo -m"


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ((0, "\tGPU0\nGPU0\t X \n"), Known({("GPU0", "GPU0"): "X"}, SMI)),
        ((0, "nothing"), Unknown(SMI, "not the matrix of nvidia-smi topo -m")),
        (
            (18, "Failed to initialize NVML\nNVML library version: 550.163\n"),
            Unknown(SMI, "NVML library version: 550.163"),
        ),
        ((9, ""), Unknown(SMI, "exit code 9")),
        (None, Unknown(SMI, "no answer in time; it was left alone")),
    ],
)
def test_topology(tmp_path, ended, expected):
    runner = FakeRunner(programs={"-m": ended})
    assert facts(tmp_path, PINNED, runner=runner).topology == expected
    assert [argv for argv, _ in runner.started] == [("/usr/bin/nvidia-smi", "topo", "-m")]


def test_nics(tmp_path):
    for name, version in (("mlx5_0", "28.43.2566"), ("mlx5_1", "20.31.1014")):
        (tmp_path / f"sys/class/infiniband/{name}").mkdir(parents=True)
        (tmp_path / f"sys/class/infiniband/{name}/fw_ver").write_text(f"{version}\n")
    found = (("mlx5_0", "28.43.2566"), ("mlx5_1", "20.31.1014"))
    assert facts(tmp_path).nics == Known(found, "/sys/class/infiniband")
    (tmp_path / "sys/class/infiniband/mlx5_1/fw_ver").unlink()
    assert facts(tmp_path).nics == Unknown("/sys/class/infiniband/mlx5_1/fw_ver", "cannot be read")


IMAGE = b"firmware" * 300_000


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gsp.bin", IMAGE, Known((("gsp.bin", hashlib.sha256(IMAGE).hexdigest()),), "firmware search path")),
        ("gsp.bin.xz", lzma.compress(IMAGE), Known((("gsp.bin", hashlib.sha256(IMAGE).hexdigest()),), "firmware search path")),
        ("gsp.bin.xz", b"no xz", Unknown("/fw/gsp.bin.xz", "Input format not supported by decoder")),
        ("gsp.bin.zst", b"", Unknown("/fw/gsp.bin.zst", "is packed with zstd: not compared")),
        ("gsp.bin", None, Unknown("/fw/gsp.bin", "no such file or directory")),
    ],
)  # fmt: skip
def test_images(tmp_path, name, content, expected):
    if content is not None:
        (tmp_path / "fw").mkdir()
        (tmp_path / f"fw/{name}").write_bytes(content)
    firmware = Known(Firmware(V, ("/fw",), (ImageFile("gsp.bin", f"/fw/{name}", None),)), "x")
    evidence = replace(EVIDENCE, firmware=(firmware,))
    runner = FakeRunner(programs={"-m": None})
    found = facts(tmp_path, PINNED, evidence, runner=runner).images
    assert found == expected


def test_images_of_a_driver_that_has_none(tmp_path):
    evidence = replace(EVIDENCE, firmware=())
    found = facts(tmp_path, PINNED, evidence, runner=FakeRunner(programs={"-m": None})).images
    assert found == Unknown("firmware search path", "the images of the loaded driver were not found")


# The smoke job


def smoke(tmp_path, ended, environment=None):
    runner = FakeRunner()
    runner.programs = dict.fromkeys([str(Path(__file__).parents[3] / "slurm_gsp/node/smoke.py")], ended)
    return run_smoke(machine(tmp_path, runner, environment)), runner.started


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        (
            (0, json.dumps({"gpus": [COMPUTED], "error": ""})),
            Known(Smoke((Computed("0000:06:00.0", "H100", "", 16, 5),), "", 2), "smoke"),
        ),
        (
            (0, json.dumps({"gpus": [{**COMPUTED, "width": "0", "speed": "Unknown"}], "error": ""})),
            Known(Smoke((Computed("0000:06:00.0", "H100"),), "", 2), "smoke"),
        ),
        (
            (0, '{"gpus": [], "error": "cuInit: 803"}'),
            Known(Smoke((), "cuInit: 803", 2), "smoke"),
        ),
        (None, Known(Smoke((), "no result within 180 s; it was left alone", 2), "smoke")),
        ((-11, ""), Known(Smoke((), "ended by signal 11", 2), "smoke")),
        ((1, "Traceback"), Unknown("smoke", "exit code 1, and no answer")),
        ((0, "[]"), Unknown("smoke", "exit code 0, and no answer")),
    ],
)
def test_the_smoke_job(tmp_path, ended, expected):
    found, started = smoke(tmp_path, ended, {"CUDA_VISIBLE_DEVICES": "0,1", "LD_PRELOAD": "x"})
    assert found == expected
    assert [env for _, env in started] == [
        {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_CACHE_DISABLE": "1", "CUDA_VISIBLE_DEVICES": "0,1"}
    ]


def test_the_smoke_job_outside_of_a_job(tmp_path):
    found, started = smoke(tmp_path, (0, '{"gpus": [], "error": ""}'))
    assert found == Known(Smoke(), "smoke")
    assert "CUDA_VISIBLE_DEVICES" not in started[0][1]


@pytest.mark.parametrize(
    ("speed", "generation"),
    [
        ("32.0 GT/s PCIe", 5),
        ("2.5 GT/s PCIe", 1),
        ("8 GT/s", 3),
        ("64.0 GT/s PCIe", 6),
        ("Unknown", None),
        ("", None),
    ],
)
def test_generations(speed, generation):
    assert generation_of(speed) == generation


# DCGM


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (CommandMissing("gone"), Unknown("dcgmi diag -r 1", "gone")),
        (DeadlineExceeded("no end after 300 s"), Unknown("dcgmi diag -r 1", "no end after 300 s")),
        (
            done((VERIFY / "dcgm-no-host-engine.txt").read_text(), 1),
            Unknown("dcgmi diag -r 1", " ".join((VERIFY / "dcgm-no-host-engine.txt").read_text().split())),
        ),
        (done("", 1, "dcgmi: libdcgm.so.4: no such file\n"), Unknown("dcgmi diag -r 1", "no output dcgmi: libdcgm.so.4: no such file")),
        (
            done((VERIFY / "dcgm-4-runtime-error.json").read_text(), 226),
            Known(DcgmReport(error="Error: Unable to complete diagnostic. Return: (-21) : Detected unsupported Cuda version"), "dcgmi diag -r 1"),
        ),
    ],
)  # fmt: skip
def test_dcgm_that_cannot_run(tmp_path, answer, expected):
    one = machine(tmp_path, dcgmi=answer)
    assert run_dcgm(one, 1) == expected
    assert one.run.calls == [(("/usr/bin/dcgmi", "diag", "-r", "1", "-j"), 300.0)]


def test_a_node_without_dcgm(tmp_path):
    assert run_dcgm(machine(tmp_path, missing=["dcgmi"]), 1) == Absent("dcgmi on this node")


def test_the_long_diagnostics_have_their_time(tmp_path):
    one = machine(tmp_path, dcgmi=done((VERIFY / "dcgm-4-r3-fail.json").read_text(), 226))
    assert len(run_dcgm(one, 3).value.results) == 6
    assert one.run.calls == [(("/usr/bin/dcgmi", "diag", "-r", "3", "-j"), 2700.0)]


# NCCL

PERF = ("/opt/all_reduce_perf", "-b", "1G")
TWO = {"SLURM_JOB_NUM_NODES": "2"}
SPREAD = ("/usr/bin/srun", "--overlap", "--nodes=2", "--ntasks=16", "--ntasks-per-node=8")


@pytest.mark.parametrize(
    ("environment", "missing", "expected"),
    [
        ({}, (), Known((*PERF, "-g", "8"), PERF[0])),
        ({"SLURM_JOB_NUM_NODES": "1", "SLURM_NODEID": "0"}, (), Known((*PERF, "-g", "8"), PERF[0])),
        (TWO, (), Known((*SPREAD, *PERF, "-g", "1"), PERF[0])),
        ({**TWO, "SLURM_NODEID": "0"}, (), Known((*SPREAD, *PERF, "-g", "1"), PERF[0])),
        ({**TWO, "SLURM_NODEID": "1"}, (), Absent("the first node of the job runs it")),
        (TWO, ("srun",), Unknown("srun", "is not there")),
    ],
)
def test_what_is_run_on_one_node_and_on_several(tmp_path, environment, missing, expected):
    assert nccl_command(machine(tmp_path, environment=environment, missing=missing), PERF, 8) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (done((VERIFY / "nccl-8.txt").read_text()), Known(NcclReport(8, 481.357, 0), PERF[0])),
        (
            done("", 127, "libnccl.so.2: cannot open\n"),
            Unknown(PERF[0], "exit code 127: libnccl.so.2: cannot open"),
        ),
        (DeadlineExceeded("no end"), Unknown(PERF[0], "no end")),
    ],
)
def test_nccl(tmp_path, answer, expected):
    assert run_nccl(machine(tmp_path, all_reduce_perf=answer), PERF, 8) == expected


def test_another_nodes_nccl_is_not_run_here(tmp_path):
    one = machine(tmp_path, environment={**TWO, "SLURM_NODEID": "1"})
    assert run_nccl(one, PERF, 8) == Absent("the first node of the job runs it")


# The runner


def test_a_program_that_hangs_is_left_alone_and_none_joins_it():
    runner = LiveRunner()
    assert runner.alone(("/bin/sh", "-c", "echo $WORD; exit 3"), 10, {"WORD": "x"}) == (3, "x\n")
    assert runner.alone(("/bin/sh", "-c", "kill -9 $$"), 10) == (-9, "")
    assert runner.probe_pid is None
    assert runner.alone(("/bin/sleep", "2"), 0.1) is None
    left = runner.probe_pid
    assert left is not None
    assert Path(f"/proc/{left}").exists()
    assert runner.alone(("/bin/echo", "x"), 10) is None
    assert runner.run("boards").stdout == '{"init": "timeout"}'

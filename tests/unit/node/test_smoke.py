"""The smoke program, run as a program against a compiled stand-in for libcuda (the lab's own)."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_gsp.node import smoke

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "slurm_gsp/lab/cuda.c"
GCC = shutil.which("gcc")
V = "570.172.08"
FINE = {"error": "", "width": None, "speed": None}

pytestmark = pytest.mark.skipif(GCC is None, reason="gcc is not there: the stand-in cannot be compiled")


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A machine with two GPUs, and the library of its driver."""
    root = tmp_path_factory.mktemp("node")
    (root / "run").mkdir()
    driver = root / "proc/driver/nvidia"
    for bus in ("0000:06:00.0", "0000:07:00.0"):
        (driver / f"gpus/{bus}").mkdir(parents=True)
        (driver / f"gpus/{bus}/information").write_text("Model: \t\t NVIDIA H100\nVideo BIOS: \t 96.00\n")
    (driver / "version").write_text(
        f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {V}  Release\n"
    )
    for version in (V, "580.95.05"):
        defines = (f'-DVERSION="{version}"', f'-DROOT="{root}"')
        command = [GCC, "-shared", "-fPIC", *defines, "-o", str(root / f"libcuda.{version}"), str(SOURCE)]
        subprocess.run(command, check=True)
    return root


@pytest.fixture
def ask(node):
    """Put a word into a file of /run for one test."""
    asked = []

    def put(name, text=""):
        asked.append(node / "run" / name)
        asked[-1].write_text(text)

    yield put
    for path in asked:
        path.unlink()


def run(library, env=None):
    argv = [sys.executable, "-I", "-S", str(ROOT / "slurm_gsp/node/smoke.py"), str(library)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60, env=env or {})
    assert done.stderr == ""
    return json.loads(done.stdout)


def gpu(bus, **change):
    return {"bus_id": bus, "name": "NVIDIA H100", **FINE, **change}


def test_every_gpu_computes(node):
    assert run(node / f"libcuda.{V}") == {"gpus": [gpu("0000:06:00.0"), gpu("0000:07:00.0")], "error": ""}


def test_only_the_gpus_of_the_job(node):
    found = run(node / f"libcuda.{V}", {"CUDA_VISIBLE_DEVICES": "1"})
    assert found == {"gpus": [gpu("0000:07:00.0")], "error": ""}


def test_a_wrong_sum_is_found(node, ask):
    ask("lab-cuda-wrong")
    wrong = "1 of 1048576 elements are wrong"
    assert run(node / f"libcuda.{V}")["gpus"][0] == gpu("0000:06:00.0", error=wrong)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("802", "802 CUDA_ERROR_SYSTEM_NOT_READY (the system is not ready: the fabric manager)"),
        ("100", "100 CUDA_ERROR_NO_DEVICE (no GPU that CUDA can use)"),
        ("999", "999 (unknown)"),
        ("46", "46 "),
    ],
)
def test_a_driver_that_refuses(node, ask, code, told):
    ask("lab-cuda-error", code)
    assert run(node / f"libcuda.{V}") == {"gpus": [], "error": f"cuInit: {told}"}


def test_a_library_of_another_version(node):
    told = (
        "cuInit: 803 CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (libcuda is of another version than the loaded driver)"
    )
    assert run(node / "libcuda.580.95.05") == {"gpus": [], "error": told}


def test_no_library(tmp_path):
    found = run(tmp_path / "libcuda.so.1")
    assert (found["gpus"], "cannot open shared object file" in found["error"]) == ([], True)


def test_a_library_that_is_none(tmp_path):
    source, library = tmp_path / "x.c", tmp_path / "x.so"
    source.write_text("int cuInit(unsigned flags) { return (int)flags; }\n")
    subprocess.run([GCC, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    assert run(library) == {"gpus": [], "error": "libcuda has no cuDeviceGetCount"}


def test_the_program_imports_next_to_nothing():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import smoke; print('slurm_gsp' in sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", program, str(ROOT / "slurm_gsp/node")]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "False\n"


def test_the_ptx_names_its_entry():
    assert smoke.ENTRY.decode() in smoke.PTX.decode("ascii")

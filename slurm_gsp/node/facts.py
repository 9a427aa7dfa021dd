"""What a verification reads beyond the detector's look: boards, links, NICs, images, and what programs say.

Nothing here judges. Whatever enters the driver runs in a child that is left alone when it does not come back
(LiveRunner.alone); other programs run through process.py and are ended at their deadline.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Protocol

from slurm_gsp import process
from slurm_gsp.collect.collect import normal_bus_id, read_nics
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import Runner
from slurm_gsp.core.evidence import Evidence, ImageFile
from slurm_gsp.core.hardware import Board, Boards, Computed, Facts, Smoke
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.reading import Absent, Known, Reading, Unknown, value_of
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.dcgm import DcgmReport, parse_dcgm
from slurm_gsp.parse.nccl import NcclReport, parse_nccl
from slurm_gsp.parse.topology import parse_topology
from slurm_gsp.slurm.scontrol import Run

FABRIC_MANAGER: Final = "nvidia-fabricmanager"
SMOKE_S: Final = 180.0
"""The smoke job on all GPUs of a node: a second or two each, several with persistence mode off."""
DCGM_S: Final[Mapping[int, float]] = {1: 300.0, 3: 2700.0}
"""``-r 1`` takes seconds, ``-r 3`` up to half an hour on a node with eight GPUs."""
NCCL_S: Final = 900.0
_GENERATIONS: Final = ((64.0, 6), (32.0, 5), (16.0, 4), (8.0, 3), (5.0, 2), (2.5, 1))
"""PCIe transfer rates in GT/s, and their generations."""
_CHUNK: Final = 1 << 20
_SMOKE: Final = Path(__file__).with_name("smoke.py")


class DriverRunner(Runner, Protocol):
    """A runner that also starts other programs that enter the driver."""

    def alone(
        self, argv: tuple[str, ...], deadline_s: float, env: Mapping[str, str] | None = None
    ) -> tuple[int, str] | None:
        """Exit code and output; None when it did not come back and was left alone."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """What the readings need of this machine; ``environment`` is that of the job."""

    root: Root
    runner: DriverRunner
    run: Run = process.run
    find: Callable[[str], str | None] = process.find_command
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    command_s: float = 5.0
    nvml_s: float = 15.0


def read_facts(machine: Machine, evidence: Evidence, pinned: Pinned | None) -> Facts:
    """The facts of the hardware; what is slow to read only where it is pinned."""
    has_topology = pinned is not None and pinned.topology is not None
    has_images = pinned is not None and bool(pinned.images)
    return Facts(
        boards=_boards(machine),
        fabric_state=_fabric_state(machine),
        topology=_topology(machine) if has_topology else Absent("not pinned"),
        nics=read_nics(machine.root),
        images=_images(machine.root, evidence) if has_images else Absent("not pinned"),
    )


def _boards(machine: Machine) -> Reading[Boards]:
    output = machine.runner.run("boards")
    if output is None:
        return Unknown("NVML", "pynvml (nvidia-ml-py) is not installed")
    try:
        answer = json.loads(output.stdout)
        if answer["init"] != 0:
            return Unknown("NVML", f"nvmlInit ended with {answer['init']}")
        boards = tuple(_board(entry) for entry in answer["boards"])
        return Known(Boards(_cuda_version(answer["cuda"]), boards), "NVML")
    except (ValueError, TypeError, KeyError, AttributeError):
        return Unknown("NVML", "the answer was cut short")


def _board(entry: dict[str, Any]) -> Board:
    return Board(
        bus_id=normal_bus_id(str(entry["bus_id"])),
        vbios=entry["vbios"] or None,
        inforom=entry["inforom"] or None,
        width=entry["width"],
        generation=entry["generation"],
        generation_max=entry["generation_max"],
        retirement_pending=_state(entry["retirement_pending"]),
        remap_pending=_state(entry["remap_pending"]),
        remap_failed=_state(entry["remap_failed"]),
        mig=bool(entry["mig"]),
    )


def _state(value: int | str | None) -> bool | str | None:
    return bool(value) if isinstance(value, int) else value


def _cuda_version(number: int | None) -> str | None:
    """``12080`` is 12.8."""
    return None if number is None else f"{number // 1000}.{number % 1000 // 10}"


def _fabric_state(machine: Machine) -> Reading[str]:
    """What systemd calls the fabric manager's unit; unknown where systemd does not run."""
    source = f"systemctl show {FABRIC_MANAGER}"
    said = _said(machine, "systemctl", "show", FABRIC_MANAGER, "--property=ActiveState,LoadState")
    if not isinstance(said, Known):
        return said
    values = dict(line.split("=", 1) for line in said.value.splitlines() if "=" in line)
    state = values.get("ActiveState")
    if state is None:
        return Unknown(source, "it says nothing")
    loaded = values.get("LoadState", "loaded")
    return Known(state if loaded == "loaded" else loaded, source)


def _said(machine: Machine, command: str, *arguments: str) -> Reading[str]:
    """What a short command printed."""
    path = machine.find(command)
    if path is None:
        return Unknown(command, "is not there")
    try:
        done = machine.run((path, *arguments), deadline_s=machine.command_s)
    except process.ProcessError as error:
        return Unknown(command, str(error))
    if done.rc != 0:
        return Unknown(command, _last(done.stderr or done.stdout) or f"exit code {done.rc}")
    return Known(done.stdout, command)


def _topology(machine: Machine) -> Reading[dict[tuple[str, str], str]]:
    source = "nvidia-smi topo -m"
    path = machine.find("nvidia-smi")
    if path is None:
        return Unknown(source, "nvidia-smi is not there")
    ended = machine.runner.alone((path, "topo", "-m"), machine.nvml_s)
    if ended is None:
        return Unknown(source, "no answer in time; it was left alone")
    rc, text = ended
    try:
        if rc == 0:
            return Known(parse_topology(text), source)
    except ParseError as error:
        return Unknown(source, str(error))
    return Unknown(source, _last(text) or f"exit code {rc}")


def _images(root: Root, evidence: Evidence) -> Reading[tuple[tuple[str, str], ...]]:
    """The SHA-256 of the images that the kernel would load for the loaded driver, unpacked."""
    loaded = value_of(evidence.loaded)
    for reading in evidence.firmware:
        if isinstance(reading, Known) and reading.value.version == loaded:
            return digests(root, reading.value.images)
    return Unknown("firmware search path", "the images of the loaded driver were not found")


def digests(root: Root, images: tuple[ImageFile, ...]) -> Reading[tuple[tuple[str, str], ...]]:
    found = []
    for image in images:
        try:
            found.append((image.name, _digest(root, image.path)))
        except OSError as error:
            return Unknown(image.path, (error.strerror or str(error)).lower())
        except (lzma.LZMAError, ParseError) as error:
            return Unknown(image.path, str(error))
    return Known(tuple(found), "firmware search path")


def _digest(root: Root, path: str) -> str:
    if path.endswith(".zst"):
        raise ParseError("is packed with zstd: not compared")
    packed, _, _ = root.open(path)
    digest = hashlib.sha256()
    with packed, _unpacked(packed, path) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _unpacked(stream: BinaryIO, path: str) -> AbstractContextManager[IO[bytes]]:
    return lzma.LZMAFile(stream) if path.endswith(".xz") else nullcontext(stream)


def run_smoke(machine: Machine) -> Reading[Smoke]:
    """The computation on every GPU of this job."""
    visible = machine.environment.get("CUDA_VISIBLE_DEVICES")
    env = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_CACHE_DISABLE": "1"}
    if visible is not None:
        env["CUDA_VISIBLE_DEVICES"] = visible
    given = None if visible is None else len([word for word in visible.split(",") if word])
    ended = machine.runner.alone((sys.executable, "-I", "-S", os.fspath(_SMOKE)), SMOKE_S, env)
    if ended is None:
        return Known(Smoke(error=f"no result within {SMOKE_S:g} s; it was left alone", given=given), "smoke")
    rc, said = ended
    if rc < 0:
        return Known(Smoke(error=f"ended by signal {-rc}", given=given), "smoke")
    try:
        answer = json.loads(said)
        gpus = tuple(_computed(entry) for entry in answer["gpus"])
        return Known(Smoke(gpus, str(answer["error"]), given), "smoke")
    except (ValueError, TypeError, KeyError, AttributeError):
        return Unknown("smoke", f"exit code {rc}, and no answer")


def _computed(entry: dict[str, Any]) -> Computed:
    width = str(entry["width"] or "")
    return Computed(
        bus_id=normal_bus_id(str(entry["bus_id"])),
        name=str(entry["name"]),
        error=str(entry["error"]),
        width=int(width) if width.isdecimal() and int(width) else None,
        generation=generation_of(str(entry["speed"] or "")),
    )


def generation_of(speed: str) -> int | None:
    """The PCIe generation of the kernel's ``32.0 GT/s PCIe``; None for a word that is no rate."""
    found = re.match(r"([0-9]+(?:\.[0-9]+)?) GT/s", speed)
    rate = float(found[1]) if found is not None else 0.0
    return next((generation for least, generation in _GENERATIONS if rate >= least), None)


def run_dcgm(machine: Machine, level: int) -> Reading[DcgmReport]:
    """DCGM's own diagnostics of this level; Absent where there is no dcgmi."""
    path = machine.find("dcgmi")
    if path is None:
        return Absent("dcgmi on this node")
    source = f"dcgmi diag -r {level}"
    try:
        done = machine.run((path, "diag", "-r", str(level), "-j"), deadline_s=DCGM_S[level])
    except process.ProcessError as error:
        return Unknown(source, str(error))
    try:
        return Known(parse_dcgm(done.stdout), source)
    except ParseError as error:
        return Unknown(source, f"{error} {_last(done.stderr)}".strip())


def run_nccl(machine: Machine, command: Sequence[str], gpus: int) -> Reading[NcclReport]:
    """The all-reduce over all GPUs of this job: by this node alone, or by the first of several."""
    argv = nccl_command(machine, command, gpus)
    if not isinstance(argv, Known):
        return argv
    try:
        done = machine.run(argv.value, deadline_s=NCCL_S, env=dict(machine.environment))
    except process.ProcessError as error:
        return Unknown(command[0], str(error))
    try:
        return Known(parse_nccl(done.stdout + done.stderr), command[0])
    except ParseError as error:
        return Unknown(command[0], f"exit code {done.rc}: {error}")


def nccl_command(machine: Machine, command: Sequence[str], gpus: int) -> Reading[tuple[str, ...]]:
    """What is to be run; Absent where that is another node's to do.

    One process with all GPUs on one node; over several nodes one process for each GPU, started by srun.
    """
    job = machine.environment
    nodes = int(job.get("SLURM_JOB_NUM_NODES") or 1)
    if nodes == 1:
        return Known((*command, "-g", str(gpus)), command[0])
    if job.get("SLURM_NODEID", "0") != "0":
        return Absent("the first node of the job runs it")
    srun = machine.find("srun")
    if srun is None:
        return Unknown("srun", "is not there")
    spread = ("--overlap", f"--nodes={nodes}", f"--ntasks={nodes * gpus}", f"--ntasks-per-node={gpus}")
    return Known((srun, *spread, *command, "-g", "1"), command[0])


def _last(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:200]

"""The deeper half of a verification: facts of the boards, and what DCGM, a computation and NCCL answered.

Pure, as core/verification.py: a program that cannot run is unknown, which is no verdict on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from slurm_gsp.core.evidence import Evidence
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.reading import Absent, Known, Reading, value_of
from slurm_gsp.core.verification import (
    Check,
    Outcome,
    expected_gpus,
    failed,
    not_applicable,
    passed,
    unknown,
    unread,
)
from slurm_gsp.core.view import View
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.dcgm import DcgmReport, DcgmResult, DcgmStatus
from slurm_gsp.parse.nccl import NcclReport
from slurm_gsp.parse.topology import parse_topology

UNPINNED: Final = "not pinned"
_TOLD: Final = 3
"""How many failures are named; a proof has room for a few."""


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU as NVML describes the board. None: it did not say; the states of memory also ``n/a``.

    ``mig``: it is divided, into instances of which CUDA shows one to a process.
    """

    bus_id: str
    vbios: str | None = None
    inforom: str | None = None
    width: int | None = None
    generation: int | None = None
    generation_max: int | None = None
    retirement_pending: bool | str | None = None
    remap_pending: bool | str | None = None
    remap_failed: bool | str | None = None
    mig: bool = False


@dataclass(frozen=True, slots=True)
class Boards:
    """What NVML says of all boards, and the CUDA version of the driver (``12.8``)."""

    cuda: str | None
    boards: tuple[Board, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What was read of the hardware: NICs with their firmware, images with their SHA-256, systemd's word."""

    boards: Reading[Boards]
    fabric_state: Reading[str]
    topology: Reading[dict[tuple[str, str], str]]
    nics: Reading[tuple[tuple[str, str], ...]]
    images: Reading[tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Computed:
    """One GPU on which the smoke job ran; the link's width and generation were read under its load.

    ``error`` is empty where every element came back right.
    """

    bus_id: str
    name: str
    error: str = ""
    width: int | None = None
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class Smoke:
    """The smoke job. ``error`` is what ended it as a whole; ``given`` is how many GPUs the job was given."""

    gpus: tuple[Computed, ...] = ()
    error: str = ""
    given: int | None = None


def hardware_checks(
    evidence: Evidence, pinned: Pinned | None, facts: Facts, smoke: Reading[Smoke]
) -> tuple[Check, ...]:
    """The boards and what is pinned of them."""
    return (
        _fabric_manager(View(evidence), pinned, facts),
        _topology(pinned, facts),
        _pcie(pinned, facts, smoke),
        _memory(facts),
        _vbios(View(evidence), pinned, facts),
        _of_boards("inforom", pinned.inforom if pinned else None, facts, lambda board: board.inforom),
        _cuda(pinned, facts),
        _nic_firmware(pinned, facts),
        _images(pinned, facts),
    )


def _fabric_manager(view: View, pinned: Pinned | None, facts: Facts) -> Check:
    """Active, and of the loaded driver's version, where it is pinned or NVSwitches ask for it."""
    name = "fabric-manager"
    pci = value_of(view.evidence.pci)
    wanted = pinned.fabric_manager if pinned is not None else pci is not None and pci.nvswitches > 0
    if not wanted:
        return not_applicable(name, "this node needs none")
    if not isinstance(facts.fabric_state, Known):
        return unread(name, facts.fabric_state)
    state = facts.fabric_state.value
    if state != "active":
        return failed(name, f"systemd calls it {state}")
    version = value_of(view.evidence.fabric_manager)
    if version is None:
        return unread(name, view.evidence.fabric_manager)
    if version != view.loaded:
        return failed(name, f"{version}, {view.loaded or 'no driver'} is loaded")
    return passed(name, f"active, {version}")


def _topology(pinned: Pinned | None, facts: Facts) -> Check:
    name = "topology"
    if pinned is None or pinned.topology is None:
        return not_applicable(name, UNPINNED)
    if not isinstance(facts.topology, Known):
        return unread(name, facts.topology)
    try:
        wanted, found = parse_topology(pinned.topology), facts.topology.value
    except ParseError as error:
        return unknown(name, f"the pin: {error}")
    differing = sorted(pair for pair in wanted.keys() | found.keys() if wanted.get(pair) != found.get(pair))
    if not differing:
        return passed(name, f"{len(found)} links as pinned")
    told = [
        f"{one}-{other} {found.get((one, other))} for {wanted.get((one, other))}" for one, other in differing
    ]
    return failed(name, f"{_some(told)} pinned")


def _pcie(pinned: Pinned | None, facts: Facts, smoke: Reading[Smoke]) -> Check:
    """Width as it is; generation as it is under load, since an idle GPU turns its link down."""
    name = "pcie"
    if pinned is None or (pinned.pcie_width is None and pinned.pcie_generation is None):
        return not_applicable(name, UNPINNED)
    if not isinstance(facts.boards, Known):
        return unread(name, facts.boards)
    smoked = value_of(smoke)
    loaded = {gpu.bus_id: gpu for gpu in smoked.gpus} if smoked is not None else {}
    links = [_link(board, loaded.get(board.bus_id), pinned) for board in facts.boards.value.boards]
    return _worst(name, links, f"x{pinned.pcie_width or '?'} generation {pinned.pcie_generation or '?'}")


def _link(board: Board, loaded: Computed | None, pinned: Pinned) -> Check:
    """One GPU's link. Where it could reach no more than too little, no load is needed to say so."""
    width = board.width if board.width is not None or loaded is None else loaded.width
    under_load = loaded.generation if loaded is not None else None
    generation = max(under_load or 0, board.generation or 0) or None
    if pinned.pcie_width is not None:
        if width is None:
            return unknown(board.bus_id, "its width cannot be read")
        if width < pinned.pcie_width:
            return failed(board.bus_id, f"x{width} of x{pinned.pcie_width}")
    if pinned.pcie_generation is None or (generation or 0) >= pinned.pcie_generation:
        return passed(board.bus_id, "as pinned")
    short = f"generation {generation or '?'} of {pinned.pcie_generation}"
    at_most = board.generation_max
    if under_load is not None or (at_most is not None and at_most < pinned.pcie_generation):
        return failed(board.bus_id, short)
    return unknown(board.bus_id, f"{short}, idle")


def _memory(facts: Facts) -> Check:
    """No page waits to be retired, no row to be remapped, and no remapping failed."""
    name = "memory"
    if not isinstance(facts.boards, Known):
        return unread(name, facts.boards)
    return _worst(name, [_memory_of(board) for board in facts.boards.value.boards], "nothing pending")


def _memory_of(board: Board) -> Check:
    states = {
        "row remapping failed": board.remap_failed,
        "row remapping pending": board.remap_pending,
        "page retirement pending": board.retirement_pending,
    }
    wrong = [what for what, state in states.items() if state is True]
    if wrong:
        return failed(board.bus_id, ", ".join(wrong))
    if all(state == "n/a" for state in states.values()):
        return not_applicable(board.bus_id, "no such memory")
    if all(state in {None, "n/a"} for state in states.values()):  # a GPU has pages or rows, not both
        return unknown(board.bus_id, "NVML says neither pages nor rows")
    return passed(board.bus_id, "nothing pending")


def _vbios(view: View, pinned: Pinned | None, facts: Facts) -> Check:
    """NVML's word, or where it has none, the driver's own file."""
    files = {gpu.bus_id: value_of(gpu.information) for gpu in view.gpus}

    def read(board: Board) -> str | None:
        file = files.get(board.bus_id)
        return board.vbios or (file.vbios if file is not None else None)

    return _of_boards("vbios", pinned.vbios if pinned else None, facts, read)


def _of_boards(name: str, wanted: str | None, facts: Facts, read: Callable[[Board], str | None]) -> Check:
    """One text of every board against the pin, capitals or not."""
    if wanted is None:
        return not_applicable(name, UNPINNED)
    if not isinstance(facts.boards, Known):
        return unread(name, facts.boards)

    def check(board: Board) -> Check:
        found = read(board)
        if found is None:
            return unknown(board.bus_id, "NVML does not say")
        if found.casefold() != wanted.casefold():
            return failed(board.bus_id, f"{found} for {wanted}")
        return passed(board.bus_id, found)

    return _worst(name, [check(board) for board in facts.boards.value.boards], wanted)


def _cuda(pinned: Pinned | None, facts: Facts) -> Check:
    name = "cuda"
    if pinned is None or pinned.cuda is None:
        return not_applicable(name, UNPINNED)
    if not isinstance(facts.boards, Known):
        return unread(name, facts.boards)
    found = facts.boards.value.cuda
    if found is None:
        return unknown(name, "NVML does not say")
    return passed(name, found) if found == pinned.cuda else failed(name, f"{found} for {pinned.cuda}")


def _nic_firmware(pinned: Pinned | None, facts: Facts) -> Check:
    """Of the NICs of the pinned kind: the first number of a firmware's version is the kind's."""
    name = "nic-firmware"
    if pinned is None or pinned.nic_firmware is None:
        return not_applicable(name, UNPINNED)
    if not isinstance(facts.nics, Known):
        return unread(name, facts.nics)
    kind = f"{pinned.nic_firmware.partition('.')[0]}."
    alike = [(nic, version) for nic, version in facts.nics.value if version.startswith(kind)]
    if not alike:
        return failed(name, f"no NIC of this kind is there, {pinned.nic_firmware} is pinned")
    wrong = [f"{nic} {version}" for nic, version in alike if version != pinned.nic_firmware]
    if wrong:
        return failed(name, f"{_some(wrong)} for {pinned.nic_firmware}")
    return passed(name, f"{pinned.nic_firmware} on {len(alike)} NIC(s)")


def _images(pinned: Pinned | None, facts: Facts) -> Check:
    """The GSP images that the kernel would load are the pinned ones, byte for byte."""
    name = "images"
    if pinned is None or not pinned.images:
        return not_applicable(name, UNPINNED)
    if not isinstance(facts.images, Known):
        return unread(name, facts.images)
    found = dict(facts.images.value)
    missing = [image for image, _ in pinned.images if image not in found]
    wrong = [image for image, digest in pinned.images if found.get(image) not in {None, digest}]
    if missing or wrong:
        return failed(
            name, _some([*(f"no {image}" for image in missing), *(f"another {image}" for image in wrong)])
        )
    return passed(name, f"{len(pinned.images)} as pinned")


def smoke_check(
    evidence: Evidence, pinned: Pinned | None, boards: Reading[Boards], smoke: Reading[Smoke]
) -> Check:
    """Every GPU of the node computed, and computed right. One that is divided cannot show it."""
    name = "smoke"
    if isinstance(smoke, Absent):
        return not_applicable(name, smoke.source)
    if not isinstance(smoke, Known):
        return unknown(name, smoke.why)
    ran = smoke.value
    wrong = [f"{gpu.bus_id} {gpu.error}" for gpu in ran.gpus if gpu.error]
    if wrong:
        return failed(name, _some(wrong))
    known = value_of(boards)
    if divided := [board.bus_id for board in known.boards if board.mig] if known is not None else []:
        return unknown(name, f"MIG is on, set smoke = false in [verify]: {_some(divided)}")
    if ran.error:
        return failed(name, ran.error)
    view = View(evidence)
    wanted = expected_gpus(view, pinned)
    if wanted is None:
        wanted = len(view.nvml.gpus) if view.nvml is not None and view.nvml_listed else 0
    if ran.given is not None and ran.given < wanted:
        return unknown(name, f"this job was given {ran.given} of {wanted} GPU(s)")
    if len(ran.gpus) < max(wanted, 1):
        return failed(name, f"{len(ran.gpus)} of {wanted} GPU(s) computed")
    return passed(name, f"{len(ran.gpus)} GPU(s) computed")


def dcgm_check(level: int, report: Reading[DcgmReport], *, required: bool) -> Check:
    """One run of DCGM's diagnostics. That DCGM cannot run is not that a GPU failed."""
    name = f"dcgm-{level}"
    if isinstance(report, Absent):
        if required:
            return unknown(name, f"DCGM cannot run: no {report.source}")
        return not_applicable(name, f"no {report.source}")
    if not isinstance(report, Known):
        return unknown(name, f"DCGM cannot run: {report.why}")
    if report.value.error:
        return unknown(name, f"DCGM cannot run: {report.value.error}")
    return _of_results(name, report.value.results)


def _of_results(name: str, results: Sequence[DcgmResult]) -> Check:
    by = {status: [result for result in results if result.status is status] for status in DcgmStatus}
    if by[DcgmStatus.FAIL]:
        return failed(name, _some(map(_result, by[DcgmStatus.FAIL])))
    if by[DcgmStatus.UNCLEAR]:
        return unknown(name, f"DCGM itself failed: {_some(map(_result, by[DcgmStatus.UNCLEAR]))}")
    if not by[DcgmStatus.PASS]:
        return unknown(name, "DCGM cannot run: it tested nothing" + (", all skipped" if results else ""))
    told = f"{len(by[DcgmStatus.PASS])} passed, {len(by[DcgmStatus.SKIP])} skipped"
    warned = by[DcgmStatus.WARN]
    return passed(name, f"{told}; warned: {_some(map(_result, warned))}" if warned else told)


def _result(result: DcgmResult) -> str:
    where = f" on {result.entity}" if result.entity else ""
    return f"{result.test}{where}" + (f" ({result.text})" if result.text else "")


def nccl_check(report: Reading[NcclReport], floor_gbs: float) -> Check:
    """NCCL's all-reduce: right sums, and on average fast enough. One GPU alone sends nothing."""
    name = "nccl"
    if isinstance(report, Absent):
        return not_applicable(name, report.source)
    if not isinstance(report, Known):
        return unread(name, report)
    ran = report.value
    if ran.failure:
        return failed(name, ran.failure)
    if ran.wrong:
        return failed(name, f"{ran.wrong} wrong values")
    told = f"{ran.bandwidth_gbs:g} GB/s on average over {ran.ranks} GPU(s)"
    if ran.ranks == 1:
        return passed(name, "right on 1 GPU, where there is no bus bandwidth")
    if ran.bandwidth_gbs < floor_gbs:
        return failed(name, f"{told}, {floor_gbs:g} is the floor")
    return passed(name, told)


def _worst(name: str, checks: Sequence[Check], told: str) -> Check:
    """One check for all boards: failures first, then what is not known."""
    if not checks:
        return unknown(name, "NVML lists no GPU")
    for outcome in (Outcome.FAIL, Outcome.UNKNOWN):
        found = [f"{check.name} {check.told}" for check in checks if check.outcome is outcome]
        if found:
            return Check(name, outcome, _some(found))
    if all(check.outcome is Outcome.NOT_APPLICABLE for check in checks):
        return not_applicable(name, checks[0].told)
    return passed(name, f"{told} on {len(checks)} GPU(s)")


def _some(told: Iterable[str]) -> str:
    every = list(told)
    more = len(every) - _TOLD
    return ", ".join(every[:_TOLD]) + (f" and {more} more" if more > 0 else "")

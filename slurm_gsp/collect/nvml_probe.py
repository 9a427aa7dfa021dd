"""Ask NVML once and print what it said as one JSON object. Run as a program, in a process of its own.

NVML can crash its caller or hang in the driver, so nothing else runs here, and nobody ends it early.
Output: ``{"init": 0, "driver": ..., "nvml": ..., "gpus": [...]}``, ``{"init": <code>}`` when nvmlInit
fails, or nothing when the module pynvml (distribution nvidia-ml-py) is not installed. With the argument
``boards`` it also asks what a verification compares, which a health check has no use for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

NOT_INSTALLED = 3
BOARDS = "boards"
_NOT_SUPPORTED = 3


def main(arguments: list[str]) -> int:
    """Print the answer; exit code 3 when pynvml is not installed."""
    try:
        import pynvml  # noqa: PLC0415 - its absence is an answer
    except ImportError:
        return NOT_INSTALLED
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        print(json.dumps({"init": int(error.value)}))
        return 0
    answer = {
        "init": 0,
        "driver": _ask(pynvml, pynvml.nvmlSystemGetDriverVersion),
        "nvml": _ask(pynvml, pynvml.nvmlSystemGetNVMLVersion),
        "gpus": _gpus(pynvml),
    }
    if arguments == [BOARDS]:
        answer["cuda"] = _ask(pynvml, pynvml.nvmlSystemGetCudaDriverVersion_v2)
        answer["boards"] = _boards(pynvml)
    pynvml.nvmlShutdown()
    print(json.dumps(answer))
    return 0


def _gpus(pynvml: Any) -> list[dict[str, object]]:
    gpus = []
    for index in range(_ask(pynvml, pynvml.nvmlDeviceGetCount) or 0):
        handle = _ask(pynvml, pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        pci = _ask(pynvml, pynvml.nvmlDeviceGetPciInfo, handle)
        persistence = _ask(pynvml, pynvml.nvmlDeviceGetPersistenceMode, handle)
        gpus.append({
            "bus_id": _text(pci.busId) if pci is not None else None,
            "name": _ask(pynvml, pynvml.nvmlDeviceGetName, handle),
            "uuid": _ask(pynvml, pynvml.nvmlDeviceGetUUID, handle),
            "gsp": _ask(pynvml, pynvml.nvmlDeviceGetGspFirmwareVersion, handle),
            "vbios": _ask(pynvml, pynvml.nvmlDeviceGetVbiosVersion, handle),
            "persistence": None if persistence is None else bool(persistence),
            "pcie_width": _ask(pynvml, pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            "pcie_width_max": _ask(pynvml, pynvml.nvmlDeviceGetMaxPcieLinkWidth, handle),
            "pcie_gen": _ask(pynvml, pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
        })
    return gpus


def _boards(pynvml: Any) -> list[dict[str, object]]:
    boards = []
    for index in range(_ask(pynvml, pynvml.nvmlDeviceGetCount) or 0):
        handle = _ask(pynvml, pynvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:
            continue
        pci = _ask(pynvml, pynvml.nvmlDeviceGetPciInfo, handle)
        rows = _state(pynvml, pynvml.nvmlDeviceGetRemappedRows, handle)
        mig = _ask(pynvml, pynvml.nvmlDeviceGetMigMode, handle)
        boards.append({
            "bus_id": _text(pci.busId) if pci is not None else None,
            "vbios": _ask(pynvml, pynvml.nvmlDeviceGetVbiosVersion, handle),
            "inforom": _ask(pynvml, pynvml.nvmlDeviceGetInforomImageVersion, handle),
            "width": _ask(pynvml, pynvml.nvmlDeviceGetCurrPcieLinkWidth, handle),
            "generation": _ask(pynvml, pynvml.nvmlDeviceGetCurrPcieLinkGeneration, handle),
            "generation_max": _ask(pynvml, pynvml.nvmlDeviceGetMaxPcieLinkGeneration, handle),
            "retirement_pending": _state(pynvml, pynvml.nvmlDeviceGetRetiredPagesPendingStatus, handle),
            "remap_pending": rows[2] if isinstance(rows, tuple) else rows,
            "remap_failed": rows[3] if isinstance(rows, tuple) else rows,
            "mig": mig is not None and bool(mig[0]),
        })
    return boards


def _state(pynvml: Any, function: Callable[..., Any], handle: Any) -> Any:
    """As _ask, but what this GPU does not have is ``n/a``: no answer and nothing to ask differ."""
    try:
        return function(handle)
    except pynvml.NVMLError as error:
        return "n/a" if error.value == _NOT_SUPPORTED else None


def _ask(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """One query; None where this GPU or this library does not answer it."""
    try:
        answer = function(*arguments)
    except (pynvml.NVMLError, AttributeError):
        return None
    return _text(answer)


def _text(answer: Any) -> Any:
    """Older releases of the module answer in bytes."""
    return answer.decode("ascii", "replace") if isinstance(answer, bytes) else answer


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

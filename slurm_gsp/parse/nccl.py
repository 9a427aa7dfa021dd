"""What nccl-tests print (``all_reduce_perf``): how fast, and whether the sums were right."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from slurm_gsp.parse import ParseError

_AVERAGE: Final = re.compile(r"^#?\s*Avg bus bandwidth\s*:\s*(\S+)", re.MULTILINE)
_WRONG: Final = re.compile(r"^#?\s*Out of bounds values\s*:\s*([0-9]+)", re.MULTILINE)
_RANK: Final = re.compile(r"^#?\s*Rank\s+[0-9]+\s", re.MULTILINE)
_FAILURE: Final = re.compile(r"^.*\bTest (?:NCCL|CUDA|MPI) failure\b.*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class NcclReport:
    """One run. ``failure`` is the test's own line where it broke off; the numbers mean nothing then."""

    ranks: int
    bandwidth_gbs: float
    wrong: int
    failure: str = ""


def parse_nccl(text: str) -> NcclReport:
    """The summary at its end, or where it broke off. ParseError: it has neither."""
    ranks = len(_RANK.findall(text))
    failure = _FAILURE.search(text)
    if failure is not None:
        return NcclReport(ranks, 0.0, 0, " ".join(failure[0].split())[:200])
    if len(_AVERAGE.findall(text)) > 1:
        raise ParseError("each process measured by itself: nccl-tests were built without MPI")
    average, wrong = _AVERAGE.search(text), _WRONG.search(text)
    try:
        bandwidth = float(average[1]) if average is not None else math.nan
    except ValueError:
        bandwidth = math.nan
    if wrong is None or not math.isfinite(bandwidth):
        last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")
        raise ParseError(last[:200])
    return NcclReport(ranks, bandwidth, int(wrong[1]))

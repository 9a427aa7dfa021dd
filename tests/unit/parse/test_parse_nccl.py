"""What nccl-tests print at their end, and where they break off."""

from pathlib import Path

import pytest
from hypothesis import given
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.nccl import NcclReport, parse_nccl

GOOD = (Path(__file__).parent / "verify/nccl-8.txt").read_text()
BROKEN = "gpu01: Test NCCL failure common.cu:958 'unhandled system error / Error: Failed to find peer'"


@pytest.mark.parametrize(
    ("said", "report"),
    [
        (GOOD, NcclReport(8, 481.357, 0)),
        (GOOD.replace("481.357 ", "481.357 OK"), NcclReport(8, 481.357, 0)),
        (GOOD.replace(": 0 OK", ": 248 FAILED"), NcclReport(8, 481.357, 248)),
        (GOOD.replace("481.357", "4.8e+02"), NcclReport(8, 480.0, 0)),
        (
            GOOD.partition("# Out of")[0] + BROKEN + "\n .. gpu01 pid 41290: Test failure",
            NcclReport(8, 0, 0, BROKEN),
        ),
        (f"{BROKEN.replace('NCCL', 'CUDA')}\n", NcclReport(0, 0, 0, BROKEN.replace("NCCL", "CUDA"))),
    ],
)
def test_a_run(said, report):
    assert parse_nccl(said) == report


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("", "no output"),
        ("srun: error: Unable to create step\n\n", "srun: error: Unable to create step"),
        (GOOD.partition("# Avg")[0], "# Out of bounds values : 0 OK"),
        (GOOD.replace("481.357", "-nan"), "#"),
        (GOOD * 2, "each process measured by itself: nccl-tests were built without MPI"),
        (GOOD.replace("481.357", "inf"), "#"),
        (
            "error while loading shared libraries: libnccl.so.2",
            "error while loading shared libraries: libnccl.so.2",
        ),
    ],
)
def test_a_run_that_says_nothing(said, why):
    with pytest.raises(ParseError) as caught:
        parse_nccl(said)
    assert str(caught.value) == why


@given(noisy([GOOD]))
def test_any_text_is_a_report_or_refused(said):
    try:
        report = parse_nccl(said)
    except ParseError:
        return
    assert report.ranks >= 0

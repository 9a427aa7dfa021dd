"""What dcgmi diag -j prints, in the shapes that the sources of DCGM 3.1, 3.3 and 4 write."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.dcgm import DcgmReport, DcgmResult, DcgmStatus, parse_dcgm

FIXTURES = Path(__file__).parent / "verify"
PASS, FAIL, WARN, SKIP, UNCLEAR = (
    DcgmStatus.PASS,
    DcgmStatus.FAIL,
    DcgmStatus.WARN,
    DcgmStatus.SKIP,
    DcgmStatus.UNCLEAR,
)
DEPLOYMENT = (
    "Denylist", "NVML Library", "CUDA Main Library", "Permissions and OS-related Blocks", "Persistence Mode",
    "Environment Variables", "Page Retirement/Row Remap", "Graphics Processes", "Inforom",
)  # fmt: skip
PERSISTENCE = "Persistence mode for GPU 0 is disabled. Enable persistence mode by running 'nvidia-smi -i"
ENVIRONMENT = "Found CUDA performance-related environment variable(s) CUDA_PROFILE."
REMAP = "GPU 1 had uncorrectable memory errors and row remapping failed."


def text(name: str) -> str:
    return (FIXTURES / name).read_text()


def results(name: str) -> list[DcgmResult]:
    return list(parse_dcgm(text(name)).results)


def test_a_quick_run_of_3_1_that_passed():
    assert results("dcgm-3.1-r1-pass.json") == [DcgmResult(name, "", PASS) for name in DEPLOYMENT]


def test_a_long_run_of_3_1_that_failed():
    """It names no error numbers: a test that can only warn did no more."""
    found = results("dcgm-3.1-r3-fail.json")
    assert [result for result in found[:9] if result.status is not PASS] == [
        DcgmResult("Persistence Mode", "", WARN, f"{PERSISTENCE} <gpuId> -pm 1 ' as root.")
    ]
    assert found[9:] == [
        DcgmResult("PCIe", "GPU 0", PASS),
        DcgmResult("PCIe", "GPU 1", FAIL, "Error: PCIe replay count 12 exceeds the threshold"),
        DcgmResult("GPU Memory", "GPU 0", PASS),
        DcgmResult("GPU Memory", "GPU 1", PASS),
        DcgmResult("Pulse Test", "GPU 0", SKIP),
        DcgmResult("Pulse Test", "GPU 1", SKIP),
    ]


def test_a_run_of_3_3_with_holes():
    pending = "GPU 1 had memory errors and row remappings are pending"
    assert results("dcgm-3.3-r1-fail.json") == [
        DcgmResult("Denylist", "", PASS),
        DcgmResult("Persistence Mode", "GPU 1", WARN, "Persistence mode for GPU 1 is disabled."),
        DcgmResult("Page Retirement/Row Remap", "GPU 1", FAIL, pending),
    ]


def test_a_quick_run_of_4_that_passed():
    assert results("dcgm-4-r1-pass.json") == [
        DcgmResult("software", "GPU 0", PASS),
        DcgmResult("software", "GPU 1", PASS),
    ]


def test_a_long_run_of_4_that_failed():
    """What the summary alone says is said of every entity that failed without a word."""
    assert results("dcgm-4-r3-fail.json") == [
        DcgmResult("software", "GPU 0", WARN, ENVIRONMENT),
        DcgmResult("software", "GPU 1", WARN, ENVIRONMENT),
        DcgmResult("memory", "GPU 0", PASS),
        DcgmResult("memory", "GPU 1", FAIL, REMAP),
        DcgmResult("memtest", "GPU 0", SKIP),
        DcgmResult("memtest", "GPU 1", SKIP),
    ]


def test_a_fault_of_dcgm_itself_is_none_of_the_gpu():
    told = "API call dcgmWatchFields returned API version mismatch"
    assert results("dcgm-4-internal.json")[0] == DcgmResult("memory", "GPU 0", UNCLEAR, told)


def report(*tests: dict[str, object]) -> DcgmReport:
    """The report of a run of these tests."""
    return parse_dcgm(json.dumps({"DCGM Diagnostic": {"test_categories": [{"tests": tests}]}}))


def test_what_only_the_summary_says():
    alone = {"name": "software", "test_summary": {"status": "Fail", "warnings": [{"warning": "w"}]}}
    worse = {"name": "t", "results": [{"status": "Pass"}], "test_summary": {"status": "Fail"}}
    assert report(alone, worse).results == (
        DcgmResult("software", "", FAIL, "w"),
        DcgmResult("t", "", PASS),
        DcgmResult("t", "", FAIL),
    )


@pytest.mark.parametrize("word", ["Incomplete", "", "Not Run"])
def test_a_word_that_is_not_known_is_no_pass(word):
    assert report({"name": "t", "results": [{"status": word}]}).results == (DcgmResult("t", "", UNCLEAR),)


def test_a_run_that_could_not_be_made():
    told = "Error: Unable to complete diagnostic. Return: (-21) : Detected unsupported Cuda version"
    assert parse_dcgm(text("dcgm-4-runtime-error.json")) == DcgmReport(error=told)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            text("dcgm-no-host-engine.txt"),
            " ".join(text("dcgm-no-host-engine.txt").split()),
        ),
        ("", "no output"),
        ("{", "{"),
        ('{"DCGM Diagnostic": []}', '{"DCGM Diagnostic": []}'),
        ('{"DCGM Diagnostic": {"test_categories": 5}}', "not the JSON of dcgmi diag: a list was expected"),
        ("[" * 100_000, "[" * 200),
    ],
)
def test_no_report_at_all(said, why):
    with pytest.raises(ParseError) as caught:
        parse_dcgm(said)
    assert str(caught.value) == why


def test_text_before_the_json_is_passed_over():
    assert parse_dcgm("WARNING: odd\n" + text("dcgm-4-r1-pass.json")).results


@given(noisy([text("dcgm-3.3-r1-fail.json"), text("dcgm-4-r3-fail.json")]))
def test_any_text_is_a_report_or_refused(said):
    try:
        found = parse_dcgm(said)
    except ParseError:
        return
    assert isinstance(found, DcgmReport)

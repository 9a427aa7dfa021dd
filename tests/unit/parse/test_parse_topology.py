"""The matrix of nvidia-smi topo -m, as the tool writes it and as people copy it."""

from pathlib import Path

import pytest
from hypothesis import given
from strategies import noisy

from slurm_gsp.parse import ParseError
from slurm_gsp.parse.topology import parse_topology

REAL = (Path(__file__).parent / "verify/topology-h100.txt").read_text()
LINKS = {
    ("GPU0", "GPU0"): "X", ("GPU0", "GPU1"): "NV18", ("GPU0", "NIC0"): "PIX",
    ("GPU1", "GPU0"): "NV18", ("GPU1", "GPU1"): "X", ("GPU1", "NIC0"): "SYS",
    ("NIC0", "GPU0"): "PIX", ("NIC0", "GPU1"): "SYS", ("NIC0", "NIC0"): "X",
}  # fmt: skip


@pytest.mark.parametrize(
    "said",
    [
        REAL,
        REAL.partition("Legend")[0].expandtabs(),
        REAL.replace("\t\tN/A", "").replace("\tGPU NUMA ID", ""),
        "\n".join(f"    {line}" for line in REAL.replace("\x1b[4m", "").replace("\x1b[0m", "").splitlines()),
    ],
    ids=["real", "blanks", "before 535", "indented"],
)
def test_a_matrix(said):
    assert parse_topology(said) == LINKS


@pytest.mark.parametrize(
    "said",
    [
        "",
        "No devices were found",
        "\tGPU0\tGPU1\n",
        REAL.replace("GPU0\t X ", "GPU0\tSYS"),
        "\tGPU0\nGPU0\tfast\tx\n",
    ],
)
def test_what_is_no_matrix(said):
    with pytest.raises(ParseError):
        parse_topology(said)


@given(noisy([REAL]))
def test_any_text_is_a_matrix_or_refused(said):
    try:
        assert parse_topology(said)
    except ParseError:
        return

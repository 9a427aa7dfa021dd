"""The README's walk, from a drained node to a finished campaign, typed as it stands there."""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from slurm_gsp.lab.cluster import DEFAULT_DIR, MARKER, Lab

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- walk: .*?-->\n```\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder() -> Iterator[Path]:
    """In the place of the lab's usual folder, where somebody may have a lab."""
    with tempfile.TemporaryDirectory(prefix="gsp-walk-", dir="/var/tmp") as name:
        directory = Path(name) / "lab"
        yield directory
        if (directory / MARKER).exists():
            Lab.open(directory).down()


def test_the_walk_ends_with_every_node_on_the_pin(folder: Path) -> None:
    found = BLOCK.search((ROOT / "README.md").read_text())
    assert found is not None
    script = found[1].replace(str(DEFAULT_DIR), str(folder))
    script = re.sub(r"slurm-gsp lab (up|fault|exec|down)", rf"slurm-gsp lab \1 --dir {folder}", script)
    done = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )
    said = done.stdout
    assert done.returncode == 0, said + done.stderr
    assert re.search(r"^n1 +gsp:umd-skew kmd=570.172.08 umd=570.195.03 *$", said, re.MULTILINE)
    assert "good: 1 profile" in said and "h100: 4 nodes n[1-4]" in said
    create = [line for line in said.splitlines() if "scontrol create reservation" in line]
    assert len(create) == 4
    assert re.search(r"canary +2 +2 returned +passed", said)
    assert re.search(r"wave 1 +2 +2 returned +passed", said)
    assert re.search(r"n1 +2026-11 +returned +570.172.08 +570.195.03", said)
    assert len(re.findall(r"^n\d +idle +none *$", said, re.MULTILINE)) == 4
    assert "n1: consistent" in said and "remedy: none" in said
    assert not folder.exists()

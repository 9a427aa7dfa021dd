"""The manifest's core is pure: no file, clock or process."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[3] / "slurm_gsp" / "manifest"
EFFECTS = {"os", "io", "time", "subprocess", "socket", "shutil", "tempfile", "pathlib", "random", "threading"}
OURS = (
    "slurm_gsp.core",
    "slurm_gsp.parse",
    "slurm_gsp.manifest",
    "slurm_gsp.toml_table",
    "ClusterShell.NodeSet",
)


@pytest.mark.parametrize("name", ["model", "parse", "match", "report"])
def test_the_core_imports_nothing_that_acts(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names}
    assert imported.isdisjoint(EFFECTS)
    foreign = {one for one in imported if one.partition(".")[0] not in sys.stdlib_module_names}
    assert all(one.startswith(OURS) for one in foreign), foreign
    assert foreign.isdisjoint({
        "slurm_gsp.manifest.sign",
        "slurm_gsp.manifest.load",
        "slurm_gsp.manifest.nodes",
    })

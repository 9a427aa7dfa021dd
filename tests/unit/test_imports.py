"""The shape of the package: what may import what, and what the hooks' path may load."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "slurm_gsp"
PURE = sorted([*(PACKAGE / "core").rglob("*.py"), *(PACKAGE / "parse").rglob("*.py")])
CORE = sorted((PACKAGE / "core").rglob("*.py"))
HOOK = sorted((PACKAGE / "hook").rglob("*.py"))

EFFECTS = {
    "os",
    "io",
    "time",
    "subprocess",
    "socket",
    "shutil",
    "tempfile",
    "pathlib",
    "random",
    "signal",
    "threading",
}
"""Modules by which a function could reach a file, a clock, a process or chance."""
HEAVY = {
    "click",
    "jinja2",
    "pyslurm",
    "pynvml",
    "rich",
    "ClusterShell",
    "cluster_shell",
    "redfish",
    "requests",
}


def short(path):
    return str(path.relative_to(ROOT))


def imports(path):
    """Every module that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}:{node.lineno}: a relative import"
            yield node.module


@pytest.mark.parametrize("path", PURE, ids=short)
def test_pure_packages_import_the_standard_library_and_each_other(path):
    foreign = [
        name
        for name in imports(path)
        if name.partition(".")[0] not in sys.stdlib_module_names
        and not name.startswith(("slurm_gsp.core", "slurm_gsp.parse"))
    ]
    assert foreign == []


@pytest.mark.parametrize("path", PURE, ids=short)
def test_pure_packages_reach_no_file_clock_or_process(path):
    assert EFFECTS.isdisjoint(name.partition(".")[0] for name in imports(path))
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert called.isdisjoint({"open", "input", "print", "eval", "exec", "__import__"})


@pytest.mark.parametrize("path", HOOK, ids=short)
def test_hooks_name_no_heavy_module(path):
    assert HEAVY.isdisjoint(name.partition(".")[0] for name in imports(path))


@pytest.mark.parametrize(
    "module",
    [
        "slurm_gsp.hook.main",
        "slurm_gsp.hook.admit",
        "slurm_gsp.hook.log_look",
        "slurm_gsp.core.diagnose",
        "slurm_gsp.node.prove",
        "slurm_gsp.node.publish",
        "slurm_gsp.node.reboot",
    ],
)
def test_hooks_load_no_heavy_module(module):
    """As the launcher starts it: no site, no environment, the package found by its place alone."""
    program = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); __import__(sys.argv[2]); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(ROOT), module],
        capture_output=True, text=True, check=True, env={}, timeout=60,
    )  # fmt: skip
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "slurm_gsp" in loaded
    assert loaded.isdisjoint(HEAVY | {"site", "hypothesis", "pytest"})


def test_hooks_load_nothing_of_a_realignment_until_there_was_one():
    program = "import sys; sys.path.insert(0, sys.argv[1]); import slurm_gsp.hook.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(ROOT)],
        capture_output=True, text=True, check=True, env={}, timeout=60,
    )  # fmt: skip
    loaded = set(done.stdout.split())
    assert "slurm_gsp.hook.main" in loaded
    assert loaded.isdisjoint({"slurm_gsp.node", "slurm_gsp.core.verification", "slurm_gsp.core.published"})


def test_light_look_loads_next_to_nothing():
    """Most runs of the health check end there: it may cost no more than a bare interpreter."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules); "
        "import slurm_gsp.hook.log_look; "
        "print(*sorted(name for name in set(sys.modules) - before if name.startswith('slurm_gsp')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, str(ROOT)],
        capture_output=True, text=True, check=True, env={}, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["slurm_gsp", "slurm_gsp.hook", "slurm_gsp.hook.log_look"]


def test_something_was_looked_at():
    assert len(CORE) > 8 and len(PURE) > 15 and len(HOOK) > 3

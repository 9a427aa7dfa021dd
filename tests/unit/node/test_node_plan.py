"""Plans: every script of every family against a golden file, and what has nothing to do.

``SLURM_GSP_GOLDEN=1`` writes the golden files anew; read the difference before you keep it.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_host import APT, NEWER, ROCKY, SLES, UBUNTU, make_config, make_host, pins, profile, target

from slurm_gsp.config import Config
from slurm_gsp.core.reading import Known
from slurm_gsp.manifest.model import Packages, PinnedPackage
from slurm_gsp.node.plan import (
    as_text,
    is_clean,
    plan_realign,
    plan_reload,
    plan_stage,
    template_values,
)
from slurm_gsp.node.render import Scripts
from slurm_gsp.node.situation import read_situation
from slurm_gsp.node.staging import staging_folder
from slurm_gsp.parse.packages import Package

GOLDEN = Path(__file__).parents[2] / "fixtures/realign"
NOWHERE = Path("/nowhere")
STRAYS = {
    UBUNTU: Package("libnvidia-compute-570", "570.195.03-0ubuntu1", "amd64", "installed"),
    ROCKY: Package("libnvidia-fbc", "3:580.95.05-1.el9", "x86_64", "installed"),
    SLES: Package("nvidia-gl-G06", "580.95.05-1", "x86_64", "installed"),
}
RPM_570 = "3:570.195.03-1.el9"
TARGETS = {
    UBUNTU: target(profile(NEWER)),
    ROCKY: target(
        profile(
            driver="570.195.03",
            packages=Packages(
                dnf=pins("kmod-nvidia-open-dkms", "nvidia-kmod-common", "libnvidia-ml", version=RPM_570)
                + pins("nvidia-modprobe", version="3:570.172.08-1.el9"),
                dnf_modules=("nvidia-driver:570-open",),
            ),
        )
    ),
    SLES: target(
        profile(
            driver="550.163.01",
            packages=Packages(
                zypper=pins("nvidia-open-driver-G06-signed-kmp-default", version="550.163.01_k6.4.0-1")
                + pins("nvidia-compute-utils-G06", version="550.163.01-21.1")
            ),
        )
    ),
}
FAMILIES = {UBUNTU: "debian", ROCKY: "rhel", SLES: "suse"}


def situation(tmp_path, case, of):
    """The recorded node with one stray package, its folders as they are on a real node."""
    host = make_host(tmp_path, case)
    config = make_config(tmp_path, lock_wait_s=120)
    now = read_situation(host, config, of)
    packages = Known((*now.packages, STRAYS[case]), "test")
    evidence = replace(now.evidence, packages=packages)
    return replace(now, evidence=evidence, folder=staging_folder(Config(), of)), config


def golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("SLURM_GSP_GOLDEN") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n")
    assert f"{text}\n" == path.read_text()


@pytest.mark.parametrize("case", TARGETS, ids=FAMILIES.get)
def test_a_whole_realignment(tmp_path, case):
    now, config = situation(tmp_path, case, TARGETS[case])
    plan = plan_realign(now, TARGETS[case], config, Scripts(FAMILIES[case], NOWHERE).render)
    golden(f"{FAMILIES[case]}.txt", as_text(plan))


@pytest.mark.parametrize("case", TARGETS, ids=FAMILIES.get)
def test_the_scripts_are_good_shell(tmp_path, case):
    now, config = situation(tmp_path, case, TARGETS[case])
    scripts = Scripts(FAMILIES[case], NOWHERE)
    plans = [
        plan_realign(now, TARGETS[case], config, scripts.render),
        plan_reload("n1", ["nvidia", "nvidia_uvm"], scripts.render, persistence=True),
    ]
    shellcheck = shutil.which("shellcheck")
    for step in (step for plan in plans for step in plan.steps if step.script):
        check = ["/bin/sh", "-n"] if shellcheck is None else [shellcheck, "-s", "sh", "-S", "warning", "-"]
        done = subprocess.run(
            check, input=f"set -eu\n{step.script}", capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step.name}: {done.stdout}{done.stderr}"


def test_a_reload():
    plan = plan_reload("n1", ["nvidia", "nvidia_uvm"], Scripts("debian", NOWHERE).render, persistence=True)
    golden("reload.txt", as_text(plan, ["the driver is open in sleep (pid 7, root): end it first"]))


def test_a_reload_where_nothing_is_loaded_loads_the_usual():
    plan = plan_reload("n1", [], Scripts("debian", NOWHERE).render, persistence=False)
    (load,) = [step.script for step in plan.steps if step.name == "load"]
    assert "for module in nvidia nvidia_uvm nvidia_modeset nvidia_drm; do" in load
    assert not any("nvidia-smi" in step.script for step in plan.steps)


def test_all_as_pinned_and_as_shipped_needs_no_repository(tmp_path):
    host, config = make_host(tmp_path), make_config(tmp_path)
    now = read_situation(host, config, target())
    assert is_clean(now, target())
    plan = plan_realign(now, target(), config, Scripts("debian", NOWHERE).render)
    nothing = [step.name for step in plan.steps if step.idle]
    assert nothing == ["preflight", "fetch", "purge", "install"]
    assert not any(step.script for step in plan.steps if step.idle)
    assert plan.notes == ()
    assert [step.number for step in plan.steps] == list(range(1, 14))


@pytest.mark.parametrize(
    "change",
    [
        {"altered": ("/usr/lib/firmware/nvidia/580.95.05/gsp_ga10x.bin",)},
        {"pinned": NEWER},
        {"pinned": (*APT, *pins("nvidia-fabricmanager-580", version="580.95.05-1"))},
    ],
    ids=["a file that was copied over", "another revision", "one that is missing"],
)
def test_what_makes_work(tmp_path, change):
    now = replace(read_situation(make_host(tmp_path), make_config(tmp_path), target()), **change)
    assert not is_clean(now, target())
    plan = plan_realign(now, target(), make_config(tmp_path), Scripts("debian", NOWHERE).render)
    assert not any(step.idle for step in plan.steps)
    assert plan.notes[0].startswith("differs: ") and plan.notes[-1].startswith("install: ")


def test_what_is_staged_is_only_looked_at_again(tmp_path):
    now = replace(
        read_situation(make_host(tmp_path), make_config(tmp_path), target()), staged=True, pinned=NEWER
    )
    scripts = Scripts("debian", NOWHERE)
    plan = plan_realign(now, target(), make_config(tmp_path), scripts.render)
    idle = {step.name: bool(step.script) for step in plan.steps if step.idle}
    assert idle == {"preflight": False, "fetch": True}
    staged = plan_stage(now, target(), make_config(tmp_path), scripts.render)
    assert [(step.name, bool(step.idle)) for step in staged.steps] == [("preflight", True), ("fetch", True)]


def test_modules_that_come_built_are_not_built(tmp_path):
    of = TARGETS[SLES]
    now, config = situation(tmp_path, SLES, of)
    plan = plan_realign(now, of, config, Scripts("suse", NOWHERE).render)
    (build,) = [step for step in plan.steps if step.name == "build"]
    assert (build.idle, build.script) == ("no pinned package uses DKMS", "")


def unload(tmp_path, *, required, rmmod, seconds=1):
    """Run the script with a stand-in for rmmod and for /sys/module."""
    modules = tmp_path / "sys"
    for name in ("nvidia", "nvidia_uvm"):
        (modules / name).mkdir(parents=True, exist_ok=True)
    values = {"run_folder": tmp_path / "run", "unload_seconds": seconds, "required": required,
              "modules": ["nvidia_drm", "nvidia_uvm", "nvidia"]}  # fmt: skip
    script = Scripts("debian", NOWHERE).render("unload", values).replace("/sys/module", str(modules))
    (tmp_path / "bin").mkdir(exist_ok=True)
    tool = tmp_path / "bin/rmmod"
    tool.write_text(f"#!/bin/sh\nmodules={modules}\n{rmmod}\n")
    tool.chmod(0o755)
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    log = tmp_path / "log"
    with log.open("w") as out:  # a file, as in the real run: what is left behind holds no pipe open
        done = subprocess.run(
            ["/bin/sh", "-euc", script], stdout=out, stderr=out, check=False, env={"PATH": path}, timeout=10
        )
    return done.returncode, log.read_text()


def test_modules_go_in_the_order_of_their_dependencies(tmp_path):
    done = unload(tmp_path, required=True, rmmod='rmdir "$modules/$1"')
    assert done == (0, "nvidia_uvm is unloaded\nnvidia is unloaded\n")


@pytest.mark.parametrize(("required", "code"), [(True, 1), (False, 0)])
@pytest.mark.parametrize("rmmod", ["echo in use >&2; exit 1", "exec sleep 5"], ids=["in use", "wedged"])
def test_what_cannot_be_unloaded(tmp_path, required, code, rmmod):
    ended, said = unload(tmp_path, required=required, rmmod=rmmod)
    assert ended == code
    assert "nvidia_uvm could not be unloaded" in said
    assert "nvidia is unloaded" not in said


SHOW = f"""\
#!{sys.executable}
import sys
format = next((word for word in sys.argv if "{{" in word), "").replace(chr(92) + "n", chr(10))
for entry in ENTRIES:
    shown = format
    for key, value in entry.items():
        shown = shown.replace(key, value)
    sys.stdout.write(shown)
"""
"""dpkg-query and rpm, showing these entries in the format that they are given."""


def install(tmp_path, family, database, pins):
    """Run the script with stand-ins for the package manager."""
    show = SHOW.replace("ENTRIES", repr(database))
    tools = {"dpkg-query": show, "rpm": show, "dpkg": "#!/bin/sh\necho amd64\n"}
    for name, text in {**tools, "apt-get": "#!/bin/sh\n", "apt-mark": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    empty = dict.fromkeys(("names", "bare_names", "files", "streams"), ())
    values = {**empty, "pinned": pins, "folder": tmp_path, "lock_wait_s": 1}
    script = Scripts(family, NOWHERE).render("install", values)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["/bin/sh", "-euc", script], capture_output=True, text=True, check=False, env={"PATH": path}
    )
    return done.returncode, done.stderr


def deb(arch, version="580-1", state="installed"):
    return {"${Architecture}": arch, "${db:Status-Status}": state, "${Version}": version}


def rpm(arch, version="580"):
    return {"%{EPOCHNUM}": "3", "%{VERSION}": version, "%{RELEASE}": "1", "%{ARCH}": arch}


@pytest.mark.parametrize(
    ("family", "pin", "database", "told"),
    [
        ("debian", ("a", "580-1"), [deb("amd64")], ""),
        ("debian", ("a", "580-1"), [deb("all")], ""),
        ("debian", ("a", "580-1"), [deb("amd64"), deb("i386")], ""),
        ("debian", ("a", "580-1"), [deb("amd64"), deb("i386", "570-1", "config-files")], ""),
        ("debian", ("a:i386", "570-1"), [deb("i386", "570-1")], ""),
        ("debian", ("a", "580-1"), [deb("amd64", "570-1"), deb("i386")], 'a is "installed 570-1", pinned'),
        ("debian", ("a", "580-1"), [deb("amd64", state="half-configured")], 'a is "half-configured 580-1"'),
        ("debian", ("a", "580-1"), [], 'a is "", pinned is 580-1'),
        ("rhel", ("a", "3:580-1"), [rpm("x86_64")], ""),
        ("rhel", ("a", "3:580-1"), [rpm("x86_64"), rpm("i686")], ""),
        ("rhel", ("a", "3:580-1"), [rpm("noarch")], ""),
        ("rhel", ("a", "3:580-1"), [rpm("x86_64", "570"), rpm("i686")], 'a is "3:570-1", pinned is 3:580-1'),
        ("rhel", ("a", "3:580-1"), [rpm("x86_64", "570"), rpm("x86_64")], 'a is "3:570-1\n3:580-1", pinned'),
        ("rhel", ("a", "3:580-1"), [], 'a is "", pinned is 3:580-1'),
    ],
)  # fmt: skip
def test_what_the_database_shows_after_an_installation(tmp_path, family, pin, database, told):
    code, said = install(tmp_path, family, database, [PinnedPackage(*pin)])
    assert (code, told in said) == (1 if told else 0, True), said


def table(header):
    """The first cells of a table of docs/realign.md, all that stands in backquotes."""
    lines = (Path(__file__).parents[3] / "docs/realign.md").read_text().splitlines()
    rows = lines[lines.index(header) + 2 :]
    cells = [row.split("|")[1] for row in rows[: next(n for n, row in enumerate(rows) if not row)]]
    return re.findall(r"`(\w[\w-]*)`", " ".join(cells))


def test_the_page_names_every_step(tmp_path):
    now, config = situation(tmp_path, UBUNTU, TARGETS[UBUNTU])
    plan = plan_realign(now, TARGETS[UBUNTU], config, Scripts("debian", NOWHERE).render)
    assert table("| step | what it does |") == [step.name for step in plan.steps]


def test_the_page_names_every_value_of_a_template(tmp_path):
    now, config = situation(tmp_path, UBUNTU, TARGETS[UBUNTU])
    assert set(table("| value | what |")) == set(template_values(now, TARGETS[UBUNTU], config))

"""The launchers in every shell that may be /bin/sh: our own faults end in exit code 0 and are counted.

Each runs with a /run of its own; slurmd gives a health check two variables and no PATH.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOOKS = ("healthcheck", "prolog", "epilog")
UNSHARE = ["unshare", "--mount", "--propagation", "private", "/bin/sh", "-c"]
SHELLS = [
    words
    for words in ("/bin/dash", "/bin/bash --posix", "/bin/busybox ash")
    if os.path.exists(words.split()[0])
]
HOLDS = "settled=1 healthy=1 all_jobs=1\nunmoved() { :; }\nrun_next() { return 0; }\n"


def may_unshare():
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    return (
        subprocess.run([*UNSHARE, "mount -t tmpfs tmpfs /run"], capture_output=True, check=False).returncode
        == 0
    )


pytestmark = pytest.mark.skipif(not may_unshare(), reason="needs root and mount namespaces")


@pytest.fixture(params=SHELLS, ids=lambda words: Path(words.split()[0]).name)
def shell(request):
    return request.param


@pytest.fixture(params=HOOKS)
def hook(request):
    return request.param


def run(shell, hook, *, before="", after="", watch=None, folder=ROOT, umask="022"):
    """Run a hook in a /run of its own; what `after` prints follows the hook's own output."""
    put = "" if watch is None else 'printf "%s" "$WATCH" >/run/slurm-gsp/watch'
    script = f"""
        mount -t tmpfs -o size=1m tmpfs /run && mkdir /run/slurm-gsp || exit 99
        echo 999999999 >/run/slurm-gsp/due
        {put}
        {before}
        umask {umask}
        /usr/bin/env -i SLURMD_NODENAME=n1 SLURM_JOB_GPUS=0 PWD=/ {shell} {folder}/{hook} </dev/null
        code=$?
        {after}
        exit $code
    """
    environment = {"PATH": os.environ["PATH"], "WATCH": watch or ""}
    return subprocess.run(
        [*UNSHARE, script], capture_output=True, text=True, env=environment, check=False, timeout=60
    )


COUNTED = "cat /run/slurm-gsp/failed-open"


def test_while_the_verdict_holds_nothing_is_said(shell, hook):
    done = run(shell, hook, watch=HOLDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("watch", ["unmoved() {\n", "", "fi\n", "\0\1\2", "settled=1 healthy=1 (\n"])
def test_a_damaged_watch_is_replaced(shell, hook, watch):
    """A syntax error in a sourced file ends a shell of its own accord, and slurmd would drain the node."""
    done = run(shell, hook, watch=watch.replace("\0", "\\0"), after="cat /run/slurm-gsp/watch")
    assert done.returncode == 0
    if hook == "healthcheck":
        assert "# Written by slurm-gsp" in done.stdout


def test_a_half_removed_package_fails_open(shell, hook, tmp_path):
    shutil.copy(ROOT / hook, tmp_path / hook)
    done = run(shell, hook, folder=tmp_path, after=COUNTED)
    assert (done.returncode, done.stdout.startswith(f"{hook} failed open: cannot read")) == (0, True)


def test_without_an_interpreter_it_fails_open(shell, hook, tmp_path):
    shutil.copy(ROOT / hook, tmp_path / hook)
    (tmp_path / "slurm_gsp/hook").mkdir(parents=True)
    text = (ROOT / "slurm_gsp/hook/launch.sh").read_text().replace("/usr/bin/python3", "/nowhere/python3")
    (tmp_path / "slurm_gsp/hook/launch.sh").write_text(text)
    done = run(shell, hook, folder=tmp_path, after=COUNTED)
    assert (done.returncode, f"{hook} failed open: 127" in done.stdout) == (0, True)


def test_a_run_folder_that_nobody_can_write_is_our_own_fault(shell, hook):
    done = run(shell, hook, before="mount -o remount,ro /run")
    assert done.returncode == 0


def test_a_full_run_folder_is_our_own_fault(shell, hook):
    done = run(shell, hook, before="cat /dev/zero >/run/filler 2>/dev/null")
    assert done.returncode == 0


def test_without_a_clock_it_fails_open(shell):
    """Nothing of /proc/uptime can be read: the health check counts that and passes."""
    done = run(shell, "healthcheck", watch=HOLDS, before="mount --bind /dev/null /proc/uptime", after=COUNTED)
    assert (done.returncode, done.stdout.startswith("healthcheck failed open: ")) == (0, True)


@pytest.mark.parametrize("due", ["", "soon", "-1", "99999999999999999999999", "1\n2", "$(exit 3)"])
def test_a_damaged_time_is_a_look(shell, due):
    before = f"printf '%s' '{due}' >/run/slurm-gsp/due"
    done = run(shell, "healthcheck", watch=HOLDS, before=before, after="cat /run/slurm-gsp/due")
    assert done.returncode == 0
    assert done.stdout.strip().isdecimal()


def test_nobody_else_may_write_what_is_sourced(shell):
    after = "find /run/slurm-gsp -perm /022"
    done = run(shell, "healthcheck", umask="000", after=after)
    assert (done.returncode, done.stdout) == (0, "")


def following(body):
    return f"settled=1 healthy=1 next=1\nunmoved() {{ :; }}\nrun_next() {{\n    {body}\n}}\n"


@pytest.mark.parametrize(
    ("body", "code", "output"),
    [("echo said", 0, "said\n"), ("eval 'echo said; return 7'", 7, "said\n"), ("'/no such'", 127, "")],
)
def test_what_comes_next_is_passed_on_and_its_time_told(shell, body, code, output):
    done = run(shell, "healthcheck", watch=following(body), after="cat /run/slurm-gsp/next")
    said, began, ended, told = (
        (done.stdout.rpartition("\n")[0]).rpartition("\n")[0],
        *done.stdout.split()[-3:],
    )
    assert (done.returncode, f"{said}\n" if said else "", told) == (code, output, str(code))
    assert float(began) <= float(ended)


def test_what_still_runs_has_one_number(shell):
    done = run(shell, "healthcheck", watch=following("read -r told </run/slurm-gsp/next; echo $told"))
    assert len(done.stdout.split()) == 1


def test_nothing_follows_a_report(shell):
    done = run(f"{shell}", "healthcheck --report-only", watch=following("echo said"))
    assert (done.returncode, done.stdout) == (0, "")


OTHERS = "settled=1 healthy=1 all_jobs=0\nunmoved() { :; }\n"
QUIET_JOBS = [
    "SLURM_JOB_CONSTRAINTS='ib&driver-a100'",
    "SLURM_JOB_EXTRA='rack=7'",
    "SLURM_JOB_EXTRA='$(exit 3)`exit 3`*) exit 3'",
]


def prolog_of(shell, job, tmp_path, gpus="0"):
    """Run the prolog for such a job, with a Python half that only says how it was started."""
    shutil.copy(ROOT / "prolog", tmp_path / "prolog")
    (tmp_path / "slurm_gsp/hook").mkdir(parents=True)
    (tmp_path / "slurm_gsp/hook/launch.sh").write_text('launch() { echo "$2 $3"; }\n')
    before = f"export {job}; unset SLURM_JOB_GPUS"
    shell = f"{shell}" if gpus else f"/usr/bin/env -u SLURM_JOB_GPUS {shell}"
    name = job.partition("=")[0]
    return run(f'{name}="${name}" {shell}', "prolog", watch=OTHERS, before=before, folder=tmp_path)


@pytest.mark.parametrize("gpus", ["0", ""], ids=["gpus", "no-gpus"])
@pytest.mark.parametrize("job", QUIET_JOBS)
def test_a_job_that_asks_for_nothing_of_ours_starts_nothing(shell, job, gpus, tmp_path):
    done = prolog_of(shell, job, tmp_path, gpus)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("gpus", ["0", ""], ids=["gpus", "no-gpus"])
@pytest.mark.parametrize(
    "job",
    [
        "SLURM_JOB_CONSTRAINTS='ib&driver-580.95.05'",
        "SLURM_JOB_EXTRA='a=1&nvidia_driver=580.95.05'",
        "SLURM_JOB_EXTRA='gsp_manifest=2026-11@0123456789ab'",
    ],
)
def test_a_job_that_asks_for_a_driver_is_looked_at(shell, job, gpus, tmp_path):
    done = prolog_of(shell, job, tmp_path, gpus)
    assert (done.returncode, done.stdout, done.stderr) == (0, "prolog asked\n", "")


def test_a_job_that_asks_for_a_driver_on_a_sick_node_gets_the_whole_look(shell, tmp_path):
    shutil.copy(ROOT / "prolog", tmp_path / "prolog")
    (tmp_path / "slurm_gsp/hook").mkdir(parents=True)
    (tmp_path / "slurm_gsp/hook/launch.sh").write_text('launch() { echo "$2 $3"; }\n')
    watch = "settled=1 healthy=0 all_jobs=0\nunmoved() { :; }\n"
    asks = f"SLURM_JOB_EXTRA=nvidia_driver=1.2 {shell}"
    assert run(asks, "prolog", watch=watch, folder=tmp_path).stdout == "prolog bad\n"

"""`slurm-gsp lab demo` as a user runs it: what it promises happens, and nothing of it stays."""

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from slurm_gsp.lab import procs
from slurm_gsp.lab.cluster import DEFAULT_DIR
from slurm_gsp.lab.demo import WIDTH, Screen

README = Path(__file__).parents[2] / "README.md"
OLD, NEW = "570.172.08", "570.195.03"
DEMO = [sys.executable, "-m", "slurm_gsp.cli", "lab", "demo", "--dir"]


def take_interrupts() -> None:
    """What is started in the background of a script ignores Ctrl-C, and so would the demo."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(directory: Path) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "SLURM_CONF"}
    return subprocess.Popen(
        [*DEMO, str(directory)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environment,
        preexec_fn=take_interrupts,
    )  # fmt: skip


def pids_of(directory: Path) -> list[int]:
    found = (procs.recorded(path) for path in (directory / "pids").glob("*"))
    return [pid for pid in found if pid is not None]


def mounts_of(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if str(directory) in line]


def without_times(text: str) -> str:
    """The text with every duration, time, person and width made alike."""
    for pattern, instead in (
        (r"\d{4}-\d\d-\d\d[T ][\d:]+", "TIME"),
        (r"\b\d+(\.\d)? s\b", "N s"),
        (r"\broot@\S+", "WHO"),
        (r"─+", "-"),
        (r" +\n", "\n"),
        (r"  +", "  "),
    ):
        text = re.sub(pattern, instead, text)
    return text


def assert_readme_shows(out: str) -> None:
    """The README's block is this output but for cuts, which are said in brackets."""
    text = README.read_text().partition("<!-- demo:")[2].partition("```\n")[2].partition("\n```")[0]
    shown = without_times(out + "\n")
    parts = re.split(r"^  \[.*\]$", text, flags=re.MULTILINE)
    assert len(parts) == 4
    for part in parts:
        wanted = without_times(part + "\n").strip("\n")
        assert wanted in shown
        shown = shown.partition(wanted)[2]


@pytest.mark.lab
def test_the_demo_shows_what_it_promises_and_leaves_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "d"
    began = time.monotonic()
    with start(directory) as demo:
        procs.wait_until(lambda: len(pids_of(directory)) >= 10 or demo.poll() is not None, 60)
        pids = pids_of(directory)
        out, err = demo.communicate(timeout=240)
    assert (demo.returncode, err) == (0, ""), out + err
    assert time.monotonic() - began < 240

    reasons = re.findall(r"^  (n\d) +(gsp:.*?) +\d{4}-\d\d-\d\dT[\d:]+$", out, re.MULTILINE)
    n1 = ("n1", f"gsp:umd-skew kmd={OLD} umd={NEW}")
    n2 = ("n2", f"gsp:umd-skew kmd={OLD} umd={NEW} disk={NEW}")
    n3 = ("n3", f"gsp:kmd-unloaded disk={OLD} loaded=none")
    assert reasons == [n1, n2, n1, n2, n3]

    jobs = re.findall(r"^  1 +(PENDING|COMPLETED) +(\d) +(.*)$", out, re.MULTILINE)
    assert [(state, restarts, rest.split()) for state, restarts, rest in jobs] == [
        ("PENDING", "1", ["BeginTime"]),
        ("COMPLETED", "1", ["n4", "None"]),
    ]
    verdicts = re.findall(r"^  (n\d): (\S+) .*\n  remedy: (\S+)$", out, re.MULTILINE)
    assert verdicts == [
        ("n4", "consistent", "none"),
        ("n2", "mismatch", "reboot"),
        ("n3", "mismatch", "reload"),
        ("n1", "mismatch", "realign"),
    ]
    assert f"- the loader picks libnvidia-ml.so.1 {NEW}" in out
    assert out.rstrip().endswith("The lab is gone.")
    assert_readme_shows(out.replace(f" --dir {directory}", "").replace(str(directory), str(DEFAULT_DIR)))
    assert "\x1b" not in out

    assert not directory.exists()
    assert len(pids) >= 10
    assert [pid for pid in pids if procs.start_time(pid) is not None] == []
    assert mounts_of(directory) == []


@pytest.mark.lab
@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGINT, 1, "Aborted!"), (signal.SIGTERM, 128 + signal.SIGTERM, "")],
    ids=["ctrl-c", "term"],
)
def test_an_ended_demo_takes_its_lab_along(
    tmp_path: Path, number: signal.Signals, code: int, said: str
) -> None:
    directory = tmp_path / "d"
    with start(directory) as demo:
        assert demo.stdout is not None
        shown = ""
        while "waiting for Slurm to run HealthCheckProgram" not in shown:
            line = demo.stdout.readline()
            assert line, "the demo ended before it was ended"
            shown += line
        pids = pids_of(directory)
        demo.send_signal(number)
        out, err = demo.communicate(timeout=60)
    assert (demo.returncode, err.strip()) == (code, said), out + err
    assert "The lab is gone" not in out
    assert not directory.exists()
    assert pids
    assert [pid for pid in pids if procs.start_time(pid) is not None] == []


@pytest.mark.lab
def test_a_folder_of_somebody_else_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    done = subprocess.run([*DEMO, str(tmp_path)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path} is not empty and not a lab\n")
    assert (tmp_path / "precious").read_text() == "mine"


def test_what_a_command_said_is_shown_unchanged() -> None:
    shown = io.StringIO()
    screen = Screen(Console(width=WIDTH, file=shown))
    screen.output("[red] :smile: 0x1\n\n    " + "x" * 2 * WIDTH + "\n")
    screen.command("echo", "[red] :smile:")
    assert shown.getvalue() == f"  [red] :smile: 0x1\n\n      {'x' * 2 * WIDTH}\n$ echo '[red] :smile:'\n"

"""Recorded nodes through the real command: what each must be judged as stands in its expected.json."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gsp.cli import main

# tests is importable from the root of the checkout only
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import nodebuilder

NODES = nodebuilder.FIXTURES
EXIT_CODES = {"no-gpu": 0, "consistent": 0, "latent": 1, "mismatch": 2, "elsewhere": 3, "unknown": 4}
NAMES = sorted(path.name for path in NODES.iterdir())


def expected_of(name):
    return json.loads((NODES / name / "expected.json").read_text())


def inspect(folder, *options):
    return CliRunner().invoke(main, ["inspect", "--recording", str(folder), *options])


def inspect_json(folder):
    result = inspect(folder, "--json")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return json.loads(result.stdout), result.exit_code


@pytest.mark.parametrize("name", NAMES)
def test_node_is_judged_as_the_catalogue_says(name):
    judged, exit_code = inspect_json(NODES / name)
    said = {
        "verdict": judged["verdict"],
        "remedy": judged["remedy"],
        "codes": [finding["code"] for finding in judged["findings"]],
        "reason": judged["reason"],
        "exit code": exit_code,
    }
    wanted = expected_of(name)
    wanted["exit code"] = EXIT_CODES[wanted["verdict"]]
    del wanted["why"]
    assert said == wanted


@pytest.mark.parametrize("name", NAMES)
def test_text_shows_the_evidence_of_every_finding(name):
    judged, _ = inspect_json(NODES / name)
    text = "".join(inspect(NODES / name).stdout.split())
    assert judged["verdict"] in text
    for finding in judged["findings"]:
        assert finding["evidence"], f"{finding['code']} rests on nothing"
        for clue in finding["evidence"]:
            assert "".join(f"{clue['text']}[{clue['source']}]".split()) in text
    for layer in judged["unread"]:
        assert "".join(layer["layer"].split()) in text


@pytest.mark.parametrize("name", NAMES)
def test_reason_is_one_short_line_of_ours(name):
    reason = expected_of(name)["reason"]
    if reason is not None:
        assert reason.startswith("gsp:")
        assert reason.isascii() and reason.isprintable() and len(reason) <= 120


def test_every_code_of_the_catalogue_that_needs_no_configuration_is_recorded():
    from slurm_gsp.core.finding import FAULTS  # noqa: PLC0415

    recorded = {code for name in NAMES for code in expected_of(name)["codes"]}
    assert recorded == set(FAULTS) - {"drift"}


def test_recordings_on_disk_are_what_the_builder_makes(tmp_path):
    nodebuilder.save_all(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == NAMES
    for name in names:
        if name in nodebuilder.RECORDED:
            assert (tmp_path / name / "expected.json").read_bytes() == (
                NODES / name / "expected.json"
            ).read_bytes()
        else:
            assert tree(NODES / name) == tree(tmp_path / name)


def tree(folder):
    """Relative path -> content of a file, target of a link."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[path.relative_to(folder)] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[path.relative_to(folder)] = path.read_bytes()
    return found


def test_real_recordings_are_there():
    """They came from a node; the builder leaves them alone."""
    assert all((NODES / name / "recording.json").is_file() for name in nodebuilder.RECORDED)


def test_every_folder_survives_a_checkout():
    empty = [path for path in NODES.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert empty == []


def test_the_program_itself_says_the_same():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "slurm_gsp.cli",
            "inspect",
            "--recording",
            NODES / "h100-580-umd-550",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    judged = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (2, "")
    assert (judged["verdict"], judged["remedy"]) == ("mismatch", "realign")
    assert [(finding["code"], finding["remedy"]) for finding in judged["findings"]] == [
        ("umd-skew", "realign")
    ]


def test_links_of_a_recording_never_lead_out_of_it(tmp_path):
    """Absolute links, links that climb, and folders that are links: all stay below root/."""
    folder = tmp_path / "node"
    nodebuilder.minimal().save(folder)
    root = folder / "root"
    secret = tmp_path / "secret"
    secret.write_text("0.1 stolen\n")
    outside = os.path.relpath(secret, root / "sys/module/nvidia")
    for place, target in (
        ("sys/module/nvidia/version", "/etc/passwd"),
        ("proc/driver/nvidia/version", f"../../../../{outside}"),
        ("proc/sys/kernel/osrelease", str(secret)),
        ("sys/module/nvidia_uvm/version", "../../../../../../../../../../../../../../etc/passwd"),
    ):
        (root / place).unlink()
        (root / place).symlink_to(target)
    (root / "var").symlink_to(tmp_path)
    (root / "etc").symlink_to("/etc")
    opened, listening = [], [True]
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" and listening[0] else None)
    judged, _ = inspect_json(folder)
    listening[0] = False  # an audit hook stays for the life of the process
    looked = {os.path.realpath(os.fsdecode(path)) for path in opened if isinstance(path, (str, bytes, Path))}
    private = {"/etc/passwd", str(secret)}
    outside = [path for path in looked if path in private or path.startswith("/etc/slurm")]
    assert outside == []
    assert "root:" not in json.dumps(judged) and "stolen" not in json.dumps(judged)
    assert judged["versions"]["loaded"] is None


@pytest.mark.parametrize("content", [None, "", "[]", '{"format": 2}', "\x00"])
def test_what_is_no_recording_is_told_in_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "recording.json").write_text(content)
    result = inspect(tmp_path)
    assert result.exit_code == 64
    assert result.output.count("\n") == 1 and "recording.json" in result.output


def test_a_damaged_answer_of_a_command_is_told(tmp_path):
    nodebuilder.minimal().save(tmp_path / "node")
    (tmp_path / "node/commands/nvml.json").write_text("{")
    result = inspect(tmp_path / "node")
    assert result.exit_code == 64
    assert "nvml.json" in result.output

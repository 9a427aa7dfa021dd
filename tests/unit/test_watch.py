"""The watch in every shell that may be /bin/sh: what it sees move, and what is no change."""

import os
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from slurm_gsp.collect.collect import collect
from slurm_gsp.core.reading import Unknown
from slurm_gsp.hook.watch import Watch, value_test
from slurm_gsp.record import open_recording

RECORDINGS = Path(__file__).parents[1] / "fixtures" / "nodes"
SHELLS = [
    argv for argv in (["dash"], ["bash", "--posix"], ["busybox", "ash"]) if shutil.which(argv[0]) is not None
]
OLD = 1_600_000_000


@pytest.fixture(params=SHELLS, ids=lambda argv: argv[0])
def shell(request):
    return request.param


@pytest.fixture(scope="module")
def evidence():
    """A node without GPUs and libraries: the watch then rests on the paths that a test gives it."""
    recording = next(path.parent for path in sorted(RECORDINGS.rglob("recording.json")))
    found = collect(*open_recording(recording))
    nothing = Unknown("test", "not read")
    unread = replace(found.userspace, nvml=nothing, cuda=nothing)
    return replace(found, userspace=unread, firmware=(), pci=nothing, disk=nothing, kernel=nothing)


def aged(path, text="x"):
    path.write_text(text)
    os.utime(path, (OLD, OLD))
    return path


def watch(evidence, folder, paths, **words):
    standing = Watch(evidence, map(str, paths), time.time())
    options = {"healthy": True, "all_jobs": False, "following": (), **words}
    standing.write(folder, **options)
    return standing


def unmoved(shell, folder):
    done = subprocess.run(
        [*shell, "-c", f". {folder}/watch; unmoved"], capture_output=True, text=True, env={}, check=False
    )
    assert done.stderr == ""
    return done.returncode == 0


def rewrite(path):
    path.write_text("y")


def rewrite_with_an_older_time(path):
    path.write_text("y")
    os.utime(path, (OLD - 1, OLD - 1))


def remove(path):
    path.unlink()


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [rewrite, rewrite_with_an_older_time, remove, replace_by_a_folder])
def test_a_changed_file_is_seen(shell, evidence, tmp_path, change):
    file = aged(tmp_path / "it's a file")
    watch(evidence, tmp_path / "run", [file])
    assert unmoved(shell, tmp_path / "run")
    change(file)
    assert not unmoved(shell, tmp_path / "run")


def test_a_file_that_appears_is_seen(shell, evidence, tmp_path):
    watch(evidence, tmp_path / "run", [tmp_path / "absent", tmp_path / "no/folder"])
    assert unmoved(shell, tmp_path / "run")
    (tmp_path / "absent").touch()
    assert not unmoved(shell, tmp_path / "run")


def test_a_link_that_leads_to_a_file_of_the_same_time_is_seen(shell, evidence, tmp_path):
    """An image of ostree or of a container gives every file one time."""
    one, other, link = aged(tmp_path / "1"), aged(tmp_path / "2"), tmp_path / "link"
    link.symlink_to(one)
    watch(evidence, tmp_path / "run", [link])
    assert unmoved(shell, tmp_path / "run")
    link.unlink()
    link.symlink_to(other)
    assert not unmoved(shell, tmp_path / "run")


def test_without_its_stamps_the_watch_vouches_for_nothing(shell, evidence, tmp_path):
    """To dash and busybox a file is neither newer nor older than one that is not there."""
    watch(evidence, tmp_path / "run", [aged(tmp_path / "file")])
    shutil.rmtree(tmp_path / "run/stamps")
    assert not unmoved(shell, tmp_path / "run")


def test_an_overtaken_watch_vouches_for_nothing(shell, evidence, tmp_path):
    file = aged(tmp_path / "file")
    watch(evidence, tmp_path / "run", [file])
    old = (tmp_path / "run/watch").read_text()
    watch(evidence, tmp_path / "run", [file])
    assert unmoved(shell, tmp_path / "run")
    assert len(list((tmp_path / "run/stamps").iterdir())) == 1
    (tmp_path / "run/watch").write_text(old)
    assert not unmoved(shell, tmp_path / "run")


def test_a_sweep_that_was_cut_off_is_finished_by_the_next(evidence, tmp_path):
    (tmp_path / "run/stamps/1.2.old").mkdir(parents=True)
    (tmp_path / "run/stamps/1.2.old/0").touch()
    watch(evidence, tmp_path / "run", [])
    assert len(list((tmp_path / "run/stamps").iterdir())) == 1


@pytest.mark.parametrize(("age", "settled"), [(60, True), (1, False), (-1, False), (-86400, True)])
def test_only_a_recent_change_is_unsettled(evidence, tmp_path, age, settled):
    """A time in the future is not recent: it would be a full look at every run until it has passed."""
    file = tmp_path / "file"
    file.touch()
    os.utime(file, (time.time() - age,) * 2)
    always = Watch(evidence, [], time.time()).settled
    assert Watch(evidence, [str(file)], time.time()).settled is (settled and always)


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("1.2", "1.2\n", True),
        ("", "", True),
        ("  blanks  \n", "  blanks  \n", True),
        ("a\x0bb\n", "a\x0bb\n", True),
        ("back\\slash\n", "back\\slash\n", True),
        ("it's\n", "it's\n", True),
        ("$(false)\n", "$(false)\n", True),
        ("1.2\n", "1.3\n", False),
        ("1.2\n", "", False),
        ("1.2\n", None, False),
        (None, "1.2\n", False),
        (None, None, True),
    ],
)
def test_values(shell, tmp_path, before, after, same):
    file = tmp_path / "value"

    def put(text):
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_text(text)

    put(before)
    test = value_test(str(file))
    put(after)
    done = subprocess.run([*shell, "-c", test], capture_output=True, text=True, check=False)
    assert (done.returncode == 0, done.stdout, done.stderr) == (same, "", "")


@pytest.mark.parametrize("word", ["hello world", "it's", "$(id)", "a\nb", ";", "*"])
def test_what_follows_gets_its_arguments_unchanged(shell, evidence, tmp_path, word):
    watch(evidence, tmp_path / "run", [], following=("/usr/bin/printf", "%s", word))
    script = f'. {tmp_path}/run/watch; run_next; echo " $next"'
    done = subprocess.run([*shell, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{word} 1\n"


def test_nobody_else_may_write_the_watch(evidence, tmp_path):
    before = os.umask(0o022)
    try:
        watch(evidence, tmp_path / "run", [aged(tmp_path / "file")])
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o022 for path in [tmp_path / "run", *(tmp_path / "run").rglob("*")]}
    assert modes == {0}

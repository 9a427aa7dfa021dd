"""Staged packages: what is complete, what differs, what is looked at again."""

import hashlib
import json

import pytest
from fake_host import APT, DIGEST, digests, make_config, make_host, pins, profile, target

from slurm_gsp.node import staging
from slurm_gsp.node.failing import StepError
from slurm_gsp.node.lock import BusyError, only_one
from slurm_gsp.node.lock import staging as staging_lock
from slurm_gsp.parse.packages import Package

PINS = pins("libnvidia-ml1", "nvidia-smi", version="1:580-1")
FILES = ("libnvidia-ml1_1%3a580-1_amd64.deb", "nvidia-smi_1%3a580-1_amd64.deb")


def sha(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "downloads"
    made.mkdir()
    for name in FILES:
        (made / name).write_text(name)
    return made


def finish(folder, downloads=()):
    return staging.finish(folder, downloads, PINS, "debian")


def test_staged_is_what_was_finished_for_these_packages(folder):
    assert not staging.is_staged(folder, PINS)
    assert finish(folder) == 2
    assert staging.is_staged(folder, PINS)
    assert not staging.is_staged(folder, PINS[:1])
    assert not staging.is_staged(folder, ())
    known = json.loads((folder / staging.MARKER).read_text())
    assert known["files"] == {name: sha(name) for name in FILES}
    (folder / FILES[0]).unlink()
    assert not staging.is_staged(folder, PINS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"packages": 1}', '{"packages": {}, "files": []}'])
def test_a_damaged_marker_is_none(folder, text):
    (folder / staging.MARKER).write_text(text)
    assert not staging.is_staged(folder, PINS)


def test_a_package_that_was_not_fetched(folder):
    (folder / FILES[1]).unlink()
    with pytest.raises(StepError, match=r"nvidia-smi 1:580-1 was not fetched"):
        finish(folder)
    assert not (folder / staging.MARKER).exists()


def test_pinned_digests(folder):
    assert finish(folder, digests({name.replace("%3a", ":"): sha(name) for name in FILES})) == 2


def test_another_digest_is_told_and_the_file_goes(folder):
    wrong = digests({FILES[0]: sha(FILES[0]), FILES[1]: DIGEST})
    told = rf"nvidia-smi_.*: its SHA-256 is {sha(FILES[1])}, pinned is {DIGEST}; nothing was installed"
    with pytest.raises(StepError, match=told):
        finish(folder, wrong)
    assert not (folder / FILES[1]).exists() and not (folder / staging.MARKER).exists()


def test_all_that_differ_go_at_once(folder):
    with pytest.raises(StepError, match=r"it is not among the downloads, and 1 more; nothing was installed"):
        finish(folder, digests({"other_1_amd64.deb": DIGEST}))
    assert list(folder.iterdir()) == []


def test_a_file_that_nobody_pinned(folder):
    known = digests({name: sha(name) for name in FILES})
    (folder / "extra_1_amd64.deb").write_text("")
    with pytest.raises(StepError, match=r"extra_1_amd64\.deb: it is not among the downloads"):
        finish(folder, known)


def test_what_is_half_fetched_does_not_count(folder):
    (folder / "partial").mkdir()
    (folder / FILES[1]).rename(folder / "partial" / FILES[1])
    with pytest.raises(StepError, match="nvidia-smi"):
        finish(folder)


def test_rpms_count_wherever_they_lie(tmp_path):
    rpms = pins("libnvidia-ml", version="3:580-1.el9")
    (tmp_path / "cache/repo/packages").mkdir(parents=True)
    (tmp_path / "cache/repo/packages/libnvidia-ml-580-1.el9.x86_64.rpm").write_text("")
    assert staging.finish(tmp_path, (), rpms, "rhel") == 1


def test_a_file_that_changed_goes_and_with_it_the_marker(folder):
    finish(folder)
    assert staging.check_again(folder)
    (folder / FILES[0]).write_text("damaged")
    assert not staging.check_again(folder)
    assert not (folder / FILES[0]).exists() and not staging.is_staged(folder, PINS)


def test_a_file_that_nobody_fetched_goes_too(folder):
    """All that lies there is installed: of rpm, without a further look."""
    finish(folder)
    (folder / "extra_1_amd64.deb").write_text("x")
    assert not staging.check_again(folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_the_database_for_apt_is_without_what_goes(tmp_path):
    host = make_host(tmp_path)
    gone = Package(APT[0].name, APT[0].version, "amd64", "installed")
    staging.make_folder(host, tmp_path / "new/folder")
    staging.write_status(host, tmp_path / "new/folder", [gone])
    text = (tmp_path / "new/folder/status").read_text()
    assert f"Package: {APT[0].name}\n" not in text and f"Package: {APT[1].name}\n" in text


def test_one_stages_at_a_time(tmp_path):
    waits = []
    host = make_host(tmp_path, pause=waits.append)
    with (
        staging_lock(host, 0),
        pytest.raises(StepError, match="another process is staging"),
        staging_lock(host, 3),
    ):
        pass
    assert waits == [1.0, 1.0, 1.0]
    with staging_lock(host, 0):
        pass


def test_one_maintenance_at_a_time(tmp_path):
    host = make_host(tmp_path)
    with (
        only_one(host),
        pytest.raises(BusyError, match="another maintenance of n1 is at work"),
        only_one(host),
    ):
        pass
    with only_one(host):
        pass


def test_each_profile_has_a_folder_of_its_own(tmp_path):
    config, of = make_config(tmp_path), target(profile(PINS, name="l40s"))
    assert staging.staging_folder(config, of) == tmp_path / "downloads/0123456789ab/l40s"

"""A recording of a node is judged as the node itself, and holds nothing that no rule reads."""

import json
import os
import re
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gsp.cli import main
from slurm_gsp.collect.collect import collect
from slurm_gsp.collect.root import Root
from slurm_gsp.collect.runner import RecordedRunner
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.record import RecordingError, TracingRoot, TracingRunner, open_recording, record

# tests is importable from the root of the checkout only
sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import nodebuilder
from tests.elfbuilder import gsp_image

BIG = 30 << 20
CASES = {case.name: case.build for case in nodebuilder.CASES if case.build is not None}


def as_node(folder, node):
    """A recording's root taken for a live node: its files, and a runner that answers its commands."""
    node.save(folder)
    _, runner, expect = open_recording(folder)
    return str(folder / "root"), runner, expect


@pytest.mark.parametrize("name", CASES)
def test_recording_is_judged_as_the_node(tmp_path, name):
    base, runner, expect = as_node(tmp_path / "node", CASES[name]())
    here = diagnose(collect(Root(base), runner, expect))
    told = diagnose(record(tmp_path / "bundle", base, runner, expect))
    there = diagnose(collect(*open_recording(tmp_path / "bundle")))
    assert here == told
    assert there == here


def test_recording_of_a_recording_is_the_same(tmp_path):
    base, runner, expect = as_node(tmp_path / "node", nodebuilder.debian12())
    record(tmp_path / "first", base, runner, expect)
    _, runner, expect = open_recording(tmp_path / "first")
    record(tmp_path / "second", str(tmp_path / "first/root"), runner, expect)
    assert files(tmp_path / "first/root") == files(tmp_path / "second/root")


def files(folder):
    return {
        str(path.relative_to(folder)): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def bundle(tmp_path):
    """The recording of a node with real sizes and a site's own secrets."""
    node = nodebuilder.ubuntu2204()
    node.write(
        node.image_path(nodebuilder.V570),
        gsp_image(nodebuilder.V570, [*nodebuilder.GA10X, *nodebuilder.BLACKWELL], BIG),
    )
    node.write(f"{node.libdir}/libcuda.so.{nodebuilder.V570}", b"\x7fELF" + b"secret code" * 1000)
    node.dpkg("3.3", "secret-project", "python3-secret")
    node.write("/etc/shadow", "root:secret")
    node.write("/etc/slurm/slurm.conf", "# secret\nSlurmUser=me\nNodeName=n1 Gres=gpu:1\n")
    node.write("/root/.ssh/id_rsa", "secret")
    grub = node.files["/boot/grub/grub.cfg"].decode()
    node.write(
        "/boot/grub/grub.cfg", f'set superusers="root"\npassword_pbkdf2 root grub.pbkdf2.secret\n{grub}'
    )
    dep = node.files[f"/usr/lib/modules/{node.kernel}/modules.dep"].decode()
    node.write(f"/usr/lib/modules/{node.kernel}/modules.dep", f"{dep}extra/secret.ko: extra/other.ko\n")
    base, runner, expect = as_node(tmp_path / "node", node)
    record(tmp_path / "bundle", base, runner, expect)
    return tmp_path / "bundle"


def test_images_become_sparse_files_of_their_real_size(bundle):
    image = bundle / "root/usr/lib/firmware/nvidia" / nodebuilder.V570 / "gsp_ga10x.bin"
    original = bundle.parent / "node" / image.relative_to(bundle)
    status = image.stat()
    assert status.st_size == original.stat().st_size > BIG
    assert status.st_blocks * 512 < 1 << 20
    assert nodebuilder.V570.encode() in image.read_bytes()
    assert b"\xa5" * 4096 not in image.read_bytes(), "the firmware's code is in the recording"


def test_libraries_are_their_names_alone(bundle):
    library = bundle / f"root/usr/lib/x86_64-linux-gnu/libcuda.so.{nodebuilder.V570}"
    assert library.read_bytes() == b""
    assert os.readlink(library.with_name("libcuda.so.1")) == library.name


def test_nothing_that_no_rule_reads_is_recorded(bundle):
    content = {path: data for path, data in files(bundle).items() if isinstance(data, bytes)}
    assert [path for path, data in content.items() if b"secret" in data] == []
    assert not re.search(r"shadow|id_rsa|secret", "\n".join(files(bundle)))
    assert files(bundle)["root/etc/slurm/slurm.conf"] == b"NodeName=n1 Gres=gpu:1\n"
    assert b"linux-modules-nvidia-570-server-open" in content["root/var/lib/dpkg/status"]
    assert b"menuentry" in content["root/boot/grub/grub.cfg"]


def test_rpm_list_is_the_drivers_alone(tmp_path):
    base, runner, expect = as_node(tmp_path / "node", nodebuilder.rocky9())
    record(tmp_path / "bundle", base, runner, expect)
    answer = json.loads((tmp_path / "bundle/commands/rpm.json").read_text())
    names = [line.split()[0] for line in answer["stdout"].splitlines()]
    assert "libnvidia-ml" in names and "kernel-core" not in names


def test_compressed_images_are_kept_whole(tmp_path):
    base, runner, expect = as_node(tmp_path / "node", nodebuilder.rocky9())
    record(tmp_path / "bundle", base, runner, expect)
    path = f"root/usr/lib/firmware/nvidia/{nodebuilder.V570}/gsp_ga10x.bin.xz"
    assert (tmp_path / "bundle" / path).read_bytes() == (tmp_path / "node" / path).read_bytes()


def test_format(bundle):
    about = json.loads((bundle / "recording.json").read_text())
    assert about.pop("captured_at").endswith("Z")
    assert about == {
        "format": 1,
        "hostname": "gpu01",
        "kernel": "5.15.0-151-generic",
        "machine": "x86_64",
        "boot_id": "00000000-0000-0000-0000-0000000000aa",
    }
    for answer in (bundle / "commands").iterdir():
        assert set(json.loads(answer.read_text())) == {"argv", "rc", "stdout", "stderr"}


def test_tracing_remembers_links_files_and_folders(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").write_text("text")
    (tmp_path / "link").symlink_to("/a")
    root = TracingRoot(tmp_path)
    root.read("/link/file")
    root.list("/link")
    root.read("/nowhere")
    assert (root.links, root.files, root.listings) == ({"/link": "/a"}, {"/a/file"}, {"/a": ("file",)})


def test_missing_command_stays_missing(tmp_path):
    tracer = TracingRunner(RecordedRunner(tmp_path))
    assert tracer.run("dkms") is None
    assert tracer.outputs == {}


def test_folder_in_use_is_refused(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/notes").touch()
    base, runner, expect = as_node(tmp_path / "node", nodebuilder.minimal())
    with pytest.raises(RecordingError, match="not empty"):
        record(tmp_path / "bundle", base, runner, expect)
    assert os.listdir(tmp_path / "bundle") == ["notes"]


def test_record_of_this_machine_can_be_inspected(tmp_path):
    """Whatever this machine is: recording it works, and the recording is judged as the machine was."""
    told = CliRunner().invoke(main, ["record", str(tmp_path / "bundle")])
    assert told.exit_code == 0, told.output
    judged = CliRunner().invoke(main, ["inspect", "--recording", str(tmp_path / "bundle"), "--json"])
    assert f"verdict {json.loads(judged.stdout)['verdict']}" in told.output

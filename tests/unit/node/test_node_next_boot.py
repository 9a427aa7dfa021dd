"""What the next boot finds on disk, on recorded nodes."""

import hashlib
from dataclasses import replace

import pytest
from fake_host import ROCKY, UBUNTU, V, digests, make_config, make_host, profile

from slurm_gsp.node.next_boot import faults_on_disk
from tests.elfbuilder import kernel_module
from tests.nodebuilder import GA10X, image, zst

KERNEL = "5.14.0-570.26.1.el9_6.x86_64"
OLD = "570.172.08"
ROCKYS = profile(driver=OLD)


def faults(host, tmp_path, of=ROCKYS, kernel=KERNEL):
    return faults_on_disk(host, make_config(tmp_path), of, kernel)


class Silent:
    """No command is there."""

    def run(self, command):
        return None


@pytest.fixture
def host(tmp_path):
    return make_host(tmp_path, ROCKY)


def in_root(tmp_path, pattern):
    (path,) = (tmp_path / "root").glob(pattern)
    return path


def test_all_as_pinned(host, tmp_path):
    assert faults(host, tmp_path) == ()
    assert faults(make_host(tmp_path / "u", UBUNTU), tmp_path, profile(), "6.8.0-64-generic") == ()


def test_another_version(host, tmp_path):
    (fault,) = faults(host, tmp_path, profile(driver=V))
    assert fault.endswith(f"nvidia.ko.xz is {OLD}, pinned is {V}")


def test_another_flavour(host, tmp_path):
    (fault,) = faults(host, tmp_path, replace(ROCKYS, flavour="proprietary"))
    assert fault.endswith("nvidia.ko.xz is open, pinned is proprietary")


def test_modinfo_tells_what_cannot_be_unpacked(tmp_path):
    host = make_host(tmp_path, UBUNTU)
    host.run.outputs["modinfo"] = f"filename: /x/nvidia.ko.zst\nversion: {V}\nlicense: NVIDIA\n"
    (fault,) = faults(host, tmp_path, profile(), "6.8.0-64-generic")
    assert fault == "/x/nvidia.ko.zst is proprietary, pinned is open"
    assert host.run.scripts["modinfo"] == "-k 6.8.0-64-generic nvidia"
    host.run.outputs["modinfo"] = "version: 580.65.06\n"
    assert faults(host, tmp_path, profile(), "6.8.0-64-generic") == (
        "modinfo nvidia is 580.65.06, pinned is 580.95.05",
    )


def test_a_module_of_another_release_beside_it(host, tmp_path):
    module = in_root(tmp_path, f"usr/lib/modules/{KERNEL}/**/nvidia-uvm.ko.xz")
    module.with_suffix("").write_bytes(kernel_module({"version": V, "license": "Dual MIT/GPL"}))
    module.unlink()
    assert faults(host, tmp_path) == (f"nvidia_uvm beside it is {V}",)


def test_no_module_for_that_kernel(host, tmp_path):
    (tmp_path / "root/usr/lib/modules/6.99").mkdir(parents=True)
    expected = f"kernel {KERNEL} boots next now, no longer 6.99: repeat this"
    assert faults(host, tmp_path, kernel="6.99") == (expected,)
    for path in tmp_path.glob(f"root/usr/lib/modules/{KERNEL}/**/nvidia*.ko.xz"):
        path.unlink()
    host.run.outputs["modinfo"] = ""
    assert faults(replace(host, runner=Silent()), tmp_path) == (f"no nvidia module on disk for {KERNEL}",)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "is missing: not on the search path"),
        (image(V, GA10X), f"is skewed: {V}"),
        (b"", "is damaged: empty"),
        (image(OLD, ("tu10x",)), "is damaged: no signature for gh100"),
    ],
    ids=["missing", "skewed", "empty", "of another chip"],
)
def test_the_image_is_tried_as_the_driver_does(host, tmp_path, content, told):
    path = in_root(tmp_path, f"usr/lib/firmware/nvidia/{OLD}/gsp_ga10x.bin*")
    path.unlink()
    if content is not None:
        path.with_name("gsp_ga10x.bin").write_bytes(content)
    (fault,) = faults(host, tmp_path)
    assert told in fault


def test_an_image_that_may_not_be_readable_is_no_fault(host, tmp_path):
    """Python unpacks zstd from 3.14 on."""
    path = in_root(tmp_path, f"usr/lib/firmware/nvidia/{OLD}/gsp_ga10x.bin*")
    path.unlink()
    path.with_name("gsp_ga10x.bin.zst").write_bytes(zst(image(OLD, GA10X)))
    assert faults(host, tmp_path) == ()
    pinned = replace(ROCKYS, images=digests({"gsp_ga10x.bin": "0" * 64}))
    assert "could not be compared" in faults(host, tmp_path, pinned)[0]


def test_an_image_that_nobody_knows_to_be_needed_may_be_missing(tmp_path):
    """Before 555, proprietary modules run most GeForce boards without GSP firmware."""
    host = make_host(tmp_path, "geforce-535-proprietary-without-images")
    of = profile(driver="535.261.03", flavour="proprietary")
    assert faults(host, tmp_path, of, "6.8.0-64-generic") == ()
    damaged = tmp_path / "root/lib/firmware/nvidia/535.261.03/gsp_ga10x.bin"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("no image")
    assert "gsp_ga10x.bin is damaged" in faults(host, tmp_path, of, "6.8.0-64-generic")[0]


def test_images_that_cannot_be_looked_for_are_not_as_pinned(host, tmp_path):
    path = tmp_path / "root/sys/module/firmware_class/parameters/path"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"/{'x' * 256}\n")
    assert faults(host, tmp_path) == ()
    (fault,) = faults(host, tmp_path, replace(ROCKYS, images=digests({"gsp_ga10x.bin": "0" * 64})))
    assert fault.startswith("GSP image /xxx") and "could not be compared: file name too long" in fault


def test_the_sum_of_an_image(host, tmp_path):
    path = in_root(tmp_path, f"usr/lib/firmware/nvidia/{OLD}/gsp_ga10x.bin*")
    path.unlink()
    data = image(OLD, GA10X)
    path.with_name("gsp_ga10x.bin").write_bytes(data)
    good = digests({"gsp_ga10x.bin": hashlib.sha256(data).hexdigest()})
    assert faults(host, tmp_path, replace(ROCKYS, images=good)) == ()
    wrong = digests({"gsp_ga10x.bin": "0" * 64})
    (fault,) = faults(host, tmp_path, replace(ROCKYS, images=wrong))
    assert fault.startswith("GSP image gsp_ga10x.bin is not the pinned one (SHA-256 ")
    none = digests({"gsp_tu99x.bin": "0" * 64})
    assert "(SHA-256 of no file)" in faults(host, tmp_path, replace(ROCKYS, images=none))[0]


def test_a_library_that_the_loader_would_pick(host, tmp_path):
    link = in_root(tmp_path, "usr/lib64/libnvidia-ml.so.1")
    link.unlink()
    link.symlink_to("libnvidia-ml.so.580.95.05")
    (tmp_path / "root/usr/lib64/libnvidia-ml.so.580.95.05").write_text("")
    (fault,) = faults(host, tmp_path)
    assert fault.startswith("the loader picks libnvidia-ml.so.1 580.95.05 (")


def test_no_library_at_all(host, tmp_path):
    for path in (tmp_path / "root/usr/lib64").glob("libnvidia-ml*"):
        path.unlink()
    assert "the loader finds no libnvidia-ml.so.1" in faults(host, tmp_path)


def test_the_fabric_manager_belongs_to_it(host, tmp_path):
    (fault,) = faults(host, tmp_path, replace(ROCKYS, fabric_manager=True))
    assert fault == f"the fabric manager is not installed, pinned is {OLD}"

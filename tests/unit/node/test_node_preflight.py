"""What stands against a realignment, on recorded nodes."""

from dataclasses import replace

import pytest
from fake_host import APT, make_config, make_host, pins, profile, target

from slurm_gsp.config import Pin
from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.node import preflight
from slurm_gsp.node.preflight import REALIGN, STAGE, against
from slurm_gsp.node.situation import read_situation

SB = "Secure Boot is on and DKMS has no signing key"


@pytest.fixture
def now(tmp_path):
    return read_situation(make_host(tmp_path), make_config(tmp_path), target())


def refused(now, tmp_path, of=None, **config):
    return against(REALIGN, now, of or target(), replace(make_config(tmp_path), **config))


def evidence(now, **changes):
    return replace(now, evidence=replace(now.evidence, **changes))


def test_nothing_against_a_healthy_node(now, tmp_path):
    assert refused(now, tmp_path) == ()
    assert (now.family, now.kernel, now.headers, now.altered) == ("debian", "6.8.0-64-generic", True, ())
    assert now.free_mb == (("/", 100_000), (str(tmp_path / "downloads/0123456789ab/h100"), 100_000))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"is_root": False}, "root is needed"),
        ({"family": "", "distribution": "Arch"}, "no steps for this distribution: Arch"),
        ({"pinned": ()}, "profile h100 pins no package for apt, which "),
        ({"kernel": None}, "nothing tells which kernel boots next"),
        ({"headers": False}, "no headers of kernel 6.8.0-64-generic: DKMS cannot build for it"),
        ({"free_mb": (("/", 4095), ("/x", 9999))}, "4095 MB free on /, min_free_mb is 4096"),
        ({"free_mb": (("/", 4096), ("/x", 1))}, "1 MB free on /x, min_free_mb is 4096"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_node_lacks(now, tmp_path, change, told):
    (why,) = refused(replace(now, **change), tmp_path)
    assert why.startswith(told)


def test_headers_that_are_pinned_too_will_be_there(now, tmp_path):
    pinned = (*APT, *pins("linux-headers-6.8.0-64-generic", version="6.8.0-64.67"))
    assert refused(replace(now, headers=False, pinned=pinned), tmp_path) == ()
    built = pins("linux-modules-nvidia-580-open-generic", version="6.8.0-64.67")
    assert refused(replace(now, headers=False, pinned=built), tmp_path) == ()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"pci": Unknown("/sys", "no such")}, "PCI could not be read: no such"),
        ({"packages": Unknown("dpkg", "cut short")}, "package database: cut short"),
        ({"packages": Absent("dpkg, rpm")}, "package database: there is none"),
        ({"transaction": Known("/run/lock\n/x", "")}, "a package manager still runs (lock /run/lock)"),
    ],
)  # fmt: skip
def test_what_could_not_be_read_or_is_busy(now, tmp_path, change, told):
    assert told in refused(evidence(now, **change), tmp_path)


def test_a_gpu_that_is_missing(now, tmp_path):
    (why,) = refused(now, tmp_path, target(profile(gpus=8)))
    assert why == "4 of 8 GPUs on PCI: no matter of versions, see gpu-missing"
    assert refused(now, tmp_path, target(profile(gpus=1))) == ()


@pytest.mark.parametrize("on", [True, False])
def test_modules_that_secure_boot_would_refuse(now, tmp_path, on):
    booted = evidence(now, secure_boot=Known(on, "efivars"))
    assert refused(replace(booted, unsigned="DKMS has no signing key"), tmp_path) == ((SB,) if on else ())
    assert refused(replace(booted, unsigned=""), tmp_path) == ()


@pytest.mark.parametrize(
    ("case", "told"),
    [("fwsec-fails", "board firmware"), ("secure-boot-key-rejected", "Secure Boot is on and")],
)
def test_another_runbook(tmp_path, case, told):
    host = make_host(tmp_path, case)
    of = target(profile(gpus=1))
    why = refused(replace(read_situation(host, make_config(tmp_path), of), unsigned="x"), tmp_path, of)
    assert any(line.startswith(told) for line in why), why


def test_two_pins_that_differ(now, tmp_path):
    driver = Pin(driver="570.195.03", flavour="open")
    (why,) = refused(now, tmp_path, pin=driver)
    assert why == "config.toml pins driver 570.195.03, the profile 580.95.05: remove driver from [pin]"
    (why,) = refused(now, tmp_path, pin=Pin(flavour="proprietary"))
    assert why == "config.toml pins flavour proprietary, the profile open: remove flavour from [pin]"
    assert refused(now, tmp_path, pin=Pin(driver="580.95.05", flavour="open")) == ()


def test_staging_asks_less(now, tmp_path):
    busy = evidence(replace(now, headers=False), pci=Unknown("", ""), transaction=Known("/lock", ""))
    assert against(STAGE, busy, target(profile(gpus=8)), make_config(tmp_path)) == ()
    assert set(STAGE) < set(REALIGN)


def test_all_that_stands_against_it_is_told_at_once(now, tmp_path):
    worst = replace(now, is_root=False, headers=False, free_mb=(("/", 1),))
    assert len(refused(worst, tmp_path)) == 3


def test_every_rule_is_asked():
    rules = {
        value
        for name, value in vars(preflight).items()
        if callable(value) and getattr(value, "__module__", "") == preflight.__name__ and name[0] != "_"
    } - {against}
    assert rules == set(REALIGN)

"""What a node publishes of a look: empty is "there is none", a key that is missing could not be read."""

from dataclasses import replace
from pathlib import Path

import pytest
from test_rules import HEALTHY, MISSING, UNLOADED, UPGRADED, known, nvml, userspace

from slurm_gsp.collect.collect import collect
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.core.evidence import NvmlGpu
from slurm_gsp.core.published import BOOTED_KEY, TUPLE_KEYS, read_published
from slurm_gsp.core.reading import Unknown
from slurm_gsp.core.version_tuple import MAX_VALUE, version_tuple
from slurm_gsp.record import open_recording

NODES = Path(__file__).parents[1] / "fixtures/nodes"
UNREAD = Unknown("place", "why")
NICS = known((("mlx5_0", "28.41.1000"), ("mlx5_1", "28.41.1000"), ("mlx5_2", "32.41.1000")))


def told(evidence, manifest=""):
    return version_tuple(evidence, diagnose(evidence), manifest, "boot-1")


def test_a_recorded_h100():
    evidence = collect(*open_recording(NODES / "h100-580-open"))
    assert told(replace(evidence, nics=NICS), "2026-11@0123456789ab") == {
        "nvidia_driver": "580.159.04",
        "nvidia_flavour": "open",
        "nvidia_gsp": "580.159.04",
        "nvidia_umd": "580.159.04",
        "nvidia_vbios": "96.00.DA.00.0C",
        "gsp_nics": "28.41.1000+32.41.1000",
        "gsp_kernel": evidence.kernel.value,
        "gsp_manifest": "2026-11@0123456789ab",
        "gsp_verdict": "consistent",
        "gsp_faults": "",
        "gsp_seen": "boot-1",
        "nvidia_fabric": "",
    }


@pytest.mark.parametrize("folder", sorted(NODES.iterdir()), ids=lambda folder: folder.name)
def test_every_recorded_node_can_be_told(folder):
    values = told(collect(*open_recording(folder)))
    assert values.keys() <= TUPLE_KEYS - {BOOTED_KEY}
    assert {"gsp_verdict", "gsp_faults", "gsp_manifest", "gsp_seen"} <= values.keys()
    for value in values.values():
        assert value.isascii() and value.isprintable() and len(value) <= MAX_VALUE
        assert not set(value) & set("\"'\\`$")


def test_nothing_loaded_is_told_as_nothing():
    values = told(replace(UNLOADED, pin=HEALTHY.pin))
    assert (values["nvidia_driver"], values["nvidia_flavour"], values["nvidia_gsp"]) == ("", "", "")
    assert values["gsp_verdict"] == "mismatch"


def test_a_skew_shows_in_the_tuple_and_in_the_codes():
    values = told(replace(UPGRADED, userspace=userspace("580.95.05", "580.65.06")))
    assert values["nvidia_umd"] == "580.65.06+580.95.05"
    assert values["gsp_faults"].split(",")[0] == "umd-skew"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"loaded": UNREAD}, "nvidia_driver"),
        ({"flavour": UNREAD}, "nvidia_flavour"),
        ({"kernel": UNREAD}, "gsp_kernel"),
        ({"fabric_manager": UNREAD}, "nvidia_fabric"),
        ({"nics": UNREAD}, "gsp_nics"),
        ({"userspace": replace(HEALTHY.userspace, nvml=UNREAD, cuda=UNREAD)}, "nvidia_umd"),
        ({"pci": UNREAD}, "nvidia_gsp"),
    ],
)
def test_what_could_not_be_read_is_left_out(change, key):
    assert key in told(replace(HEALTHY, nics=NICS))
    assert key not in told(replace(HEALTHY, **{"nics": NICS, **change}))


def test_what_was_looked_for_and_is_not_there_is_empty():
    absent = replace(
        HEALTHY, nics=known(()), userspace=replace(HEALTHY.userspace, nvml=MISSING, cuda=MISSING)
    )
    values = told(absent)
    assert (values["gsp_nics"], values["nvidia_umd"], values["nvidia_fabric"]) == ("", "", "")


def test_a_vbios_that_the_driver_does_not_know_yet_is_none():
    buses = [gpu.bus_id for gpu in HEALTHY.pci.value.gpus]
    boards = [NvmlGpu(buses[0], "580.65.06", True, vbios="??.??.??.??.??"), NvmlGpu(buses[1], None, True)]
    information = [replace(gpu, information=MISSING) for gpu in HEALTHY.pci.value.gpus]
    bare = replace(HEALTHY, pci=known(replace(HEALTHY.pci.value, gpus=tuple(information))))
    probe = nvml(*buses)
    values = told(replace(bare, nvml=known(replace(probe.value, gpus=tuple(boards)))))
    assert "nvidia_vbios" not in values
    boards[1] = replace(boards[1], vbios="96.00.da.00.0c")
    values = told(replace(bare, nvml=known(replace(probe.value, gpus=tuple(boards)))))
    assert values["nvidia_vbios"] == "96.00.DA.00.0C"


def test_it_is_short():
    """slurmctld keeps it for each node, and sends all of them with each `show node`."""
    text = str(told(replace(HEALTHY, nics=NICS), "2026-11@0123456789ab")).replace("'", '"')
    assert read_published(text)
    assert len(text) < 450

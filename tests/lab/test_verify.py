"""A node proves itself on a real Slurm: as a job in a MAINT reservation, and from its health check."""

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import Level, Proof, Result, proof_in, read_published
from slurm_gsp.lab.cluster import INSTALLED_AT, Lab, Node
from slurm_gsp.lab.packages import INSTALLED, UPDATE
from slurm_gsp.node.journal import Journal, State
from slurm_gsp.slurm.scontrol import parse_node

pytestmark = pytest.mark.lab

COMMAND = f"{INSTALLED_AT}/.venv/bin/slurm-gsp"
OPERATION = "c1/realign/1"
TOPOLOGY = "\tGPU0\tGPU1\nGPU0\t X \tNV18\nGPU1\tNV18\t X \n"
PINNED = Pinned(
    "2026-11",
    "0123456789ab",
    "h100",
    INSTALLED,
    "open",
    2,
    fabric_manager=False,
    vbios="96.00.DA.00.0C",
    inforom="G520.0200.00.05",
    cuda="12.8",
    pcie_width=16,
    pcie_generation=5,
    topology=TOPOLOGY,
)
CONFIG = """
[health]
log_interval_s = 1
jitter = 0.0
[deadlines]
nvml_s = 3
[verify]
nccl = "/opt/nccl-tests/all_reduce_perf"
nccl_min_gbs = 400
"""
STATE = "/var/lib/slurm-gsp"


@pytest.fixture(scope="module")
def verify_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes whose health check Slurm starts at boot; the tests start the others."""
    with Lab.up(tmp_path_factory.mktemp("verify") / "l", nodes=2, interval=3600) as running:
        yield running


@pytest.fixture
def node(verify_lab: Lab, borrow: Callable[[Lab, str], Node]) -> Node:
    """A healthy node that was realigned to what it runs, whose own first health check is over."""
    one = borrow(verify_lab, "n1")
    verify_lab.wait_for(lambda: one.exists("/run/slurm-gsp/watch"), 30, "the first health check")
    put(one, "/etc/slurm-gsp/config.toml", CONFIG)
    put(one, f"{STATE}/pin.json", json.dumps(asdict(PINNED)))
    annotate(one, "")
    return one


@pytest.fixture
def reserved(node: Node) -> Iterator[Node]:
    """The node inside a MAINT reservation of a campaign."""
    words = ["reservationname=gsp_c1_n1", "nodes=n1", "starttime=now", "duration=60", "users=root"]
    node.lab.slurm(["scontrol", "create", "reservation", *words, "flags=MAINT,IGNORE_JOBS"])
    node.lab.wait_for(lambda: "MAINT" in node.state, 30, "the reservation shows in the node's state")
    yield node
    node.lab.slurm(["scancel", "--nodelist=n1"], check=False)

    def gone() -> bool:
        return (
            node.lab.slurm(["scontrol", "delete", "reservationname=gsp_c1_n1"], check=False).returncode == 0
        )

    node.lab.wait_for(gone, 30, "the reservation to go")


def put(node: Node, path: str, text: str) -> None:
    node.run(["/bin/mkdir", "-p", str(Path(path).parent)])
    node.write(path, text)


def journal(node: Node, state: State = State.DONE, boot: str = "an earlier boot") -> None:
    """What a realignment leaves behind."""
    put(node, f"{STATE}/realign.json", json.dumps(asdict(Journal(OPERATION, boot, PINNED, state))))


def health_check(node: Node) -> int:
    argv = ["/usr/bin/env", "-i", f"SLURMD_NODENAME={node.name}", "PWD=/", f"{INSTALLED_AT}/healthcheck"]
    return node.run(argv, check=False, timeout=60).returncode


def record(node: Node) -> dict[str, str]:
    """What the node published in Extra."""
    line = node.lab.slurm(["scontrol", "-o", "show", "node", node.name]).stdout.strip()
    return read_published(parse_node(line).extra)


def annotate(node: Node, text: str) -> None:
    node.lab.slurm(["scontrol", "update", f"nodename={node.name}", f"extra={text}"])


def verify_as_job(node: Node, level: str) -> tuple[str, str]:
    """Run a verification as a campaign does: the job's number and what it printed."""
    output = node.lab.shared / f"verify-{time.monotonic_ns()}"
    wrapped = f"{COMMAND} verify --level {level} --operation {OPERATION} --publish --json"
    words = ["--reservation=gsp_c1_n1", "--exclusive", "--gres=gpu:2", "--nodelist=n1", f"--output={output}"]
    number = node.lab.slurm(["sbatch", "--parsable", *words, "--wrap", wrapped]).stdout.strip()

    def over() -> bool:
        shown = node.lab.slurm(["scontrol", "show", "job", number]).stdout
        return re.search(r"JobState=(COMPLETED|FAILED|CANCELLED|TIMEOUT)", shown) is not None

    node.lab.wait_for(over, 60, f"job {number} to end")
    return number, output.read_text()


def outcomes(text: str) -> dict[str, str]:
    return {check["name"]: f"{check['result']}: {check['told']}" for check in json.loads(text)["checks"]}


@pytest.mark.parametrize("level", ["quick", "hardware", "workload"])
def test_a_healthy_node_proves_itself_at_each_level(reserved: Node, level: str) -> None:
    number, text = verify_as_job(reserved, level)
    assert json.loads(text)["result"] == "pass", text
    values = record(reserved)
    assert values["nvidia_driver"] == INSTALLED
    assert proof_in(values) == Proof(
        OPERATION, Level(level), Result.PASS, reserved.boot_id, PINNED.target, job=number
    )
    if level == "workload":
        found = outcomes(text)
        assert (found["smoke"], found["dcgm-3"]) == ("pass: 2 GPU(s) computed", "pass: 5 passed, 1 skipped")
        assert found["nccl"] == "pass: 476 GB/s on average over 2 GPU(s)"
        assert found["topology"] == "pass: 4 links as pinned"
        assert found["pcie"] == "pass: x16 generation 5 on 2 GPU(s)"


def verify(node: Node, level: str = "hardware") -> tuple[int, dict[str, str], dict[str, object]]:
    """Run a verification by hand: exit code, checks, and the rest of what it says."""
    done = node.run(
        [COMMAND, "verify", "--level", level, "--json"], check=False, env={"SLURMD_NODENAME": node.name}
    )
    return done.returncode, outcomes(done.stdout), json.loads(done.stdout)


def test_in_a_job_of_several_nodes_the_first_runs_nccl_over_all(node: Node) -> None:
    lab, output = node.lab, node.lab.shared / "several"
    put(lab.node("n2"), "/etc/slurm-gsp/config.toml", CONFIG)
    command = f"srun --ntasks-per-node=1 --output={output}-%N {COMMAND} verify --level workload --json"
    lab.slurm(["sbatch", "--nodes=2", "--exclusive", "--gres=gpu:2", "--output=/dev/null", "--wrap", command])
    files = [output.with_name(f"several-{name}") for name in ("n1", "n2")]

    def told() -> bool:
        return all(file.exists() and file.read_text().endswith("}\n") for file in files)

    lab.wait_for(told, 60, "both nodes to say what they found")
    assert [outcomes(file.read_text())["nccl"] for file in files] == [
        "pass: 476 GB/s on average over 4 GPU(s)",
        "not-applicable: the first node of the job runs it",
    ]


def test_a_broken_node_fails_with_its_code(node: Node) -> None:
    node.lab.fault("n1", "mixed-branches")
    code, found, told = verify(node)
    assert (code, told["result"], told["codes"]) == (1, "fail", ["umd-skew", "pkg-split"])
    assert found["userspace"].startswith("fail: libnvidia-ml 580.95.05")
    assert found["smoke"] == "unknown: not started: something failed before"


def test_a_node_that_runs_another_pin_drifts(node: Node) -> None:
    put(node, f"{STATE}/pin.json", json.dumps({**asdict(PINNED), "driver": UPDATE}))
    code, found, told = verify(node, "quick")
    assert (code, told["codes"]) == (1, ["drift"])
    assert found["module"] == f"fail: {INSTALLED} is loaded, {UPDATE} is pinned"


def test_dcgm_that_fails_and_dcgm_that_cannot_run(node: Node) -> None:
    node.write("/run/lab-dcgm-fail", "")
    code, found, told = verify(node)
    assert (code, told["codes"]) == (1, [])
    assert found["dcgm-1"].startswith("fail: software on GPU 0 (GPU 0 had uncorrectable memory errors")
    node.path("/run/lab-dcgm-fail").unlink()
    node.write("/run/lab-dcgm-away", "")
    code, found, told = verify(node)
    assert (code, told["result"], told["codes"]) == (3, "unknown", [])
    assert found["dcgm-1"].startswith("unknown: DCGM cannot run: Error: unable to establish a connection")
    node.path("/usr/bin/dcgmi").unlink()
    assert verify(node)[0] == 0
    node.write("/etc/slurm-gsp/config.toml", '[verify]\ndcgm = "required"\n')
    code, found, _ = verify(node)
    assert (code, found["dcgm-1"]) == (3, "unknown: DCGM cannot run: no dcgmi on this node")


def test_boards_and_computations_that_fail(node: Node) -> None:
    for name, check, told in (
        ("lab-remap-failed", "memory", "fail: 0000:06:00.0 row remapping failed, 0000:07:00.0 row"),
        ("lab-cuda-wrong", "smoke", "fail: 0000:06:00.0 1 of 1048576 elements are wrong"),
    ):
        node.write(f"/run/{name}", "")
        code, found, _ = verify(node)
        assert (code, found[check].startswith(told)) == (1, True), found[check]
        node.path(f"/run/{name}").unlink()
    node.write("/run/lab-cuda-error", "802")
    assert "802 CUDA_ERROR_SYSTEM_NOT_READY" in verify(node)[1]["smoke"]
    node.path("/run/lab-cuda-error").unlink()
    node.write("/run/lab-nccl-slow", "")
    code, found, _ = verify(node, "workload")
    assert (code, found["nccl"]) == (1, "fail: 47.6 GB/s on average over 2 GPU(s), 400 is the floor")


def test_an_nvml_that_hangs_is_told_in_time_and_nothing_is_killed(node: Node) -> None:
    node.lab.fault("n1", "nvml-hang")
    began = time.monotonic()
    code, found, told = verify(node, "workload")
    assert time.monotonic() - began < 10
    assert (code, told["codes"]) == (1, ["driver-hung"])
    assert found["nvml"] == "unknown: no answer in time; the probe was left alone"
    assert found["hardware"] == "unknown: not started: NVML does not answer"
    assert not node.exists("/run/lab-nvml-killed")
    assert len(node.read("/run/lab-nvml-hung.pid").split()) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"rack":"7","power":{"feed":2}}', '{"rack":"7","power":{"feed":2},"nvidia_driver":'),
        ("rack 7, feed 2", 'rack 7, feed 2 gsp:{"nvidia_driver":'),
    ],
)
def test_what_the_site_keeps_in_extra_stays(node: Node, before: str, after: str) -> None:
    annotate(node, before)
    done = node.run([COMMAND, "verify", "--publish"], env={"SLURMD_NODENAME": node.name})
    assert done.stdout.splitlines()[-1] == "published in extra"
    line = node.lab.slurm(["scontrol", "-o", "show", "node", node.name]).stdout.strip()
    assert parse_node(line).extra.startswith(after)
    again = node.run([COMMAND, "verify", "--publish"], env={"SLURMD_NODENAME": node.name})
    assert again.stdout.splitlines()[-1] == "extra says so already"


def updates(node: Node) -> int:
    """How often slurmctld was asked to change a node since it counts."""
    found = re.search(r"REQUEST_UPDATE_NODE +\( *\d+\) count:(\d+)", node.lab.slurm(["sdiag"]).stdout)
    return int(found[1]) if found else 0


def test_the_health_check_proves_a_realignment_once_after_its_reboot(node: Node) -> None:
    """The node has just been realigned in this boot; it reboots into DOWN with the campaign's Reason."""
    lab, reason = node.lab, "gsp:realign c1 to=2026-11@0123456789ab try=1"
    journal(node, boot=node.boot_id)
    assert health_check(node) == 0
    assert "gsp_proof" not in record(node)
    lab.slurm(["scontrol", "update", "nodename=n1", "state=down", f"reason={reason}"])
    old, booted = node.boot_id, node.boots
    node.reboot()
    lab.wait_for(lambda: node.boots > booted and "gsp_proof" in record(node), 30, "the proof of the new boot")
    assert node.boot_id != old
    proof = Proof(OPERATION, Level.QUICK, Result.PASS, node.boot_id, PINNED.target, before="")
    assert proof_in(record(node)) == proof
    assert json.loads(node.read(f"{STATE}/realign.json"))["proven"] == node.boot_id
    assert (node.reason, "DOWN" in node.state) == (reason, True)
    lab.slurm(["sdiag", "-r"])
    assert {health_check(node) for _ in range(10)} == {0}
    assert updates(node) == 0


def test_a_node_that_booted_in_the_middle_of_it_says_so(node: Node) -> None:
    journal(node, State.RUNNING)
    assert health_check(node) == 0
    proof = proof_in(record(node))
    assert proof is not None
    assert (proof.result, proof.why) == (Result.UNFINISHED, "cut off before its first step")


def test_a_broken_node_is_told_by_the_second_look(node: Node) -> None:
    journal(node)
    node.write("/sys/module/nvidia_uvm/version", f"{UPDATE}\n")
    node.lab.slurm(["scontrol", "update", "nodename=n1", "state=down", "reason=gsp:realign c1"])
    assert [health_check(node), "gsp_proof" in record(node)] == [1, False]
    assert health_check(node) == 1
    proof = proof_in(record(node))
    assert proof is not None
    assert (proof.result, proof.codes, node.reason) == (Result.FAIL, ("kmd-split",), "gsp:realign c1")


def test_a_proof_waits_for_a_controller_that_is_away(node: Node) -> None:
    journal(node)
    node.lab.ctld_stop()
    assert health_check(node) == 0
    node.lab.ctld_start()
    node.lab.wait_for(lambda: node.state == "IDLE", 30, "n1 idle under the new controller")
    assert "gsp_proof" not in record(node)
    due = float(node.read("/run/slurm-gsp/due"))
    assert due - float(node.read("/proc/uptime").split()[0]) < 16
    node.write("/run/slurm-gsp/due", "0\n")
    health_check(node)
    proof = proof_in(record(node))
    assert proof is not None
    assert proof.result is Result.PASS

"""The hooks on a real Slurm: what drains, what is left alone, and what it costs."""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from slurm_gsp.collect.collect import collect
from slurm_gsp.core.diagnose import diagnose
from slurm_gsp.lab.cluster import INSTALLED_AT, Lab, Node
from slurm_gsp.record import open_recording

pytestmark = pytest.mark.lab

Borrow = Callable[[Lab, str], Node]

QUICK = """
[health]
log_interval_s = 1
log_runs = 2
hung_runs = 2
retry_interval_s = 1
jitter = 0.0
[deadlines]
nvml_s = 2
slurm_s = 4
run_s = 20
[verify]
publish_spread_s = 0
"""

OLD, NEW, OTHER = "570.172.08", "570.195.03", "580.95.05"

REASONS = {
    "interrupted-upgrade": f"gsp:umd-skew kmd={OLD} umd={NEW}",
    "unattended-upgrade": f"gsp:umd-skew kmd={OLD} umd={NEW} disk={NEW}",
    "mixed-branches": f"gsp:umd-skew kmd={OLD} umd={OTHER} disk={OLD}",
    "kmd-split": f"gsp:kmd-split kmd={OLD} uvm={NEW} modeset={OLD} drm={OLD}",
    "hand-copied-image": f"gsp:fw-skew kmd={OLD} image={OTHER}",
    "truncated-image": f"gsp:fw-damaged kmd={OLD} why=truncated",
    "missing-image": f"gsp:fw-missing kmd={OLD} image=gsp_ga10x.bin",
    "gsp-skew": f"gsp:gsp-skew kmd={OLD} gsp={NEW}",
    "kernel-bump": "gsp:kmd-unbuilt kernel=6.8.0-51-generic",
    "module-unloaded": f"gsp:kmd-unloaded disk={OLD} loaded=none",
    "fabric-skew": f"gsp:fabric-skew kmd={OLD} fm={NEW}",
    "secure-boot": "gsp:sb-refused loaded=none",
    "nouveau": "gsp:nouveau gpus=2",
    "wrong-flavour": "gsp:wrong-flavour have=proprietary need=open",
    "gpu-missing": "gsp:gpu-missing pci=1 expected=2",
    "gpu-lost": "gsp:gpu-lost gpu=0000:07:00.0",
    "fw-interrupted": "gsp:fw-interrupted error=-4 gpu=0000:07:00.0",
    "vbios": "gsp:vbios",
    "xid-119": "gsp:gsp-timeout xid=119 gpu=0000:06:00.0",
    "xid-120": "gsp:gsp-timeout xid=120 gpu=0000:06:00.0",
    "nvml-hang": "gsp:driver-hung nvml=timeout",
}

LATENT = {"kernel-staged": "next-kernel", "image-removed-live": "fw-gone", "gsp-off": "gsp-off"}


@pytest.fixture(scope="session")
def calm_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Four nodes whose health check Slurm starts once, at boot: the tests start the others."""
    with Lab.up(tmp_path_factory.mktemp("calm") / "l", interval=3600) as running:
        yield running


@pytest.fixture
def ready(borrow: Borrow) -> Borrow:
    """Borrow a node whose own first health check is over, so that it does not hold the lock."""

    def lend(lab: Lab, name: str) -> Node:
        node = borrow(lab, name)
        lab.wait_for(lambda: node.exists("/run/slurm-gsp/watch"), 30, f"the first health check of {name}")
        time.sleep(0.3)
        return node

    return lend


def configure(node: Node, text: str = QUICK) -> None:
    node.run(["/bin/mkdir", "-p", "/etc/slurm-gsp"])
    node.write("/etc/slurm-gsp/config.toml", text)


def split(node: Node, version: str = NEW) -> None:
    """Load nvidia-uvm at another version, as an interrupted reload does: the disk and the boot stay."""
    node.write("/sys/module/nvidia_uvm/version", f"{version}\n")


def check(node: Node, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the health check as slurmd does: two variables, no PATH."""
    hook = f"{INSTALLED_AT}/healthcheck"
    argv = ["/usr/bin/env", "-i", f"SLURMD_NODENAME={node.name}", "PWD=/", hook, *options]
    return node.run(argv, check=False, timeout=60)


def settle(node: Node) -> None:
    """Look until the watch stands: files that changed a moment ago are looked at again."""
    for _ in range(20):
        check(node)
        if "settled=1" in node.read("/run/slurm-gsp/watch"):
            return
        time.sleep(0.5)
    raise AssertionError("the watch never settled")


def record_of(node: Node) -> str:
    """The whole Reason with its user and time."""
    text = node.lab.slurm(["scontrol", "-o", "show", "node", node.name]).stdout
    found = re.search(r" Reason=(.*?)(?= Extra=|$)", text, re.MULTILINE)
    return found[1].strip() if found else ""


def inspect(node: Node) -> dict[str, object]:
    out = node.run([f"{INSTALLED_AT}/.venv/bin/slurm-gsp", "inspect", "--json"], check=False).stdout
    answer = json.loads(out)
    assert isinstance(answer, dict)
    return answer


def calls(lab: Lab) -> dict[str, int]:
    """RPCs that slurmctld has answered since the last reset, by type, without Slurm's own housekeeping."""
    text = lab.slurm(["sdiag"]).stdout
    section = text.split("by message type")[1].split("by user")[0]
    counts = {name: int(count) for name, count in re.findall(r"(\w+) +\( *\d+\) count:(\d+)", section)}
    housekeeping = ("REQUEST_STATS_INFO", "MESSAGE_NODE_REGISTRATION_STATUS", "REQUEST_PING")
    return {name: count for name, count in counts.items() if name not in housekeeping}


def reset_calls(lab: Lab) -> None:
    lab.slurm(["sdiag", "-r"])
    assert calls(lab) == {}


def expect_reason(node: Node, reason: str, timeout: float = 45) -> None:
    """Slurm's own health check runs bring the node to exactly this Reason, and it stays."""
    node.lab.wait_for(lambda: node.reason == reason, timeout, f"{node.name} {reason!r}, has {node.reason!r}")
    assert "DRAIN" in node.state


@pytest.mark.parametrize("fault", REASONS)
def test_every_fault_ends_in_its_reason(hooked_lab: Lab, borrow: Borrow, fault: str) -> None:
    node = borrow(hooked_lab, "n1")
    configure(node)
    hooked_lab.fault("n1", fault)
    expect_reason(node, REASONS[fault])


@pytest.mark.parametrize("fault", LATENT)
def test_latent_faults_are_told_and_do_not_drain(calm_lab: Lab, ready: Borrow, fault: str) -> None:
    node = ready(calm_lab, "n1")
    configure(node)
    calm_lab.fault("n1", fault)
    for _ in range(3):
        assert check(node).returncode == 0
    answer = inspect(node)
    assert (answer["verdict"], LATENT[fault] in str(answer["findings"])) == ("latent", True)
    assert (node.state, node.reason) == ("IDLE", "")


def test_a_healthy_odd_node_is_left_alone(calm_lab: Lab, ready: Borrow) -> None:
    """Images below a custom path, stale version folders, no packages, no dkms."""
    node = ready(calm_lab, "n1")
    calm_lab.fault("n1", "custom-firmware-path")
    assert [check(node).returncode for _ in range(3)] == [0, 0, 0]
    answer = inspect(node)
    assert (answer["verdict"], answer["findings"], answer["remedy"]) == ("consistent", [], "none")
    assert (node.state, node.reason) == ("IDLE", "")


def test_a_foreign_drain_stays_byte_for_byte(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n2")
    configure(node)
    calm_lab.slurm(["scontrol", "update", "nodename=n2", "state=drain", "reason=ticket 4711: fan"])
    before = record_of(node)
    assert before.startswith("ticket 4711: fan [root@")
    split(node)
    for _ in range(3):
        assert check(node).returncode == 1
        time.sleep(1.1)
    assert (record_of(node), node.state) == (before, "IDLE+DRAIN")


def test_a_drain_lifted_by_its_owner_makes_room_for_ours(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n2")
    configure(node)
    calm_lab.slurm(["scontrol", "update", "nodename=n2", "state=drain", "reason=fan"])
    split(node)
    check(node)
    assert node.reason == "fan"
    calm_lab.slurm(["scontrol", "update", "nodename=n2", "state=resume"])
    time.sleep(1.1)
    check(node)
    assert node.reason == REASONS["kmd-split"]


def test_a_maintenance_reservation_of_others_is_respected(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n3")
    configure(node)
    words = ["reservationname=others", "nodes=n3", "starttime=now", "duration=60", "users=root"]
    calm_lab.slurm(["scontrol", "create", "reservation", *words, "flags=MAINT,IGNORE_JOBS"])
    try:
        calm_lab.wait_for(lambda: "MAINT" in node.state, 30, "the reservation shows in the node's state")
        split(node)
        assert check(node).returncode == 1
        assert ("DRAIN" in node.state, node.reason) == (False, "")
    finally:
        calm_lab.slurm(["scontrol", "delete", "reservationname=others"])


def test_no_drain_is_lost_while_the_controller_is_away(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    configure(node)
    calm_lab.ctld_stop()
    split(node)
    started = time.monotonic()
    assert check(node).returncode == 1
    assert time.monotonic() - started < 20
    calm_lab.ctld_start()
    calm_lab.wait_for(lambda: node.state == "IDLE", 30, "n1 idle under the new controller")
    assert check(node).returncode == 1
    assert (node.reason, node.state) == (REASONS["kmd-split"], "IDLE+DRAIN")


def test_prolog_refuses_and_the_job_runs_elsewhere(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    calm_lab.fault("n1", "module-unloaded")
    for other in ("n2", "n3", "n4"):
        calm_lab.slurm(["scontrol", "update", f"nodename={other}", "weight=100"])
    job = ["sbatch", "--parsable", "--gres=gpu:1", "--output=/dev/null", "--wrap", "true"]
    number = calm_lab.slurm(job).stdout.strip()
    expect_reason(node, REASONS["module-unloaded"])

    def done() -> bool:
        return "COMPLETED" in calm_lab.slurm(["scontrol", "show", "job", number]).stdout

    calm_lab.wait_for(done, 60, "the job completed elsewhere")
    shown = calm_lab.slurm(["scontrol", "show", "job", number]).stdout
    assert "Restarts=1" in shown
    ran = re.search(r"\bNodeList=(n\d)", shown)
    assert ran is not None
    assert ran[1] != "n1"


def test_prolog_lets_jobs_without_gpus_pass(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    calm_lab.fault("n1", "module-unloaded")
    assert node.run([f"{INSTALLED_AT}/prolog"], env={"SLURMD_NODENAME": "n1"}).returncode == 0
    configure(node, "[prolog]\nall_jobs = true\n")
    check(node)
    refused = node.run([f"{INSTALLED_AT}/prolog"], env={"SLURMD_NODENAME": "n1"}, check=False)
    assert (refused.returncode, "print slurm-gsp: n1 cannot run GPU jobs" in refused.stdout) == (1, True)


def test_epilog_sees_a_driver_that_was_touched_during_the_job(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n2")
    job = ["sbatch", "--parsable", "-w", "n2", "--gres=gpu:1", "--output=/dev/null", "--wrap", "sleep 4"]
    number = calm_lab.slurm(job).stdout.strip()

    def running() -> bool:
        return "JobState=RUNNING" in calm_lab.slurm(["scontrol", "show", "job", number]).stdout

    calm_lab.wait_for(running, 30, "the job runs")
    time.sleep(1)
    calm_lab.fault("n2", "module-unloaded")
    assert node.reason == ""
    expect_reason(node, REASONS["module-unloaded"])


def test_a_hung_nvml_neither_blocks_nor_is_killed(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    configure(node)
    calm_lab.fault("n1", "nvml-hang")
    durations = []
    for _ in range(3):
        started = time.monotonic()
        check(node)
        durations.append(time.monotonic() - started)
    assert max(durations) < 8
    assert durations[2] < durations[0], "a second probe joined the first one"
    assert node.reason == REASONS["nvml-hang"]
    assert not node.exists("/run/lab-nvml-killed")
    hung = node.read("/run/lab-nvml-hung.pid").split()
    assert node.run(["/bin/kill", "-0", hung[-1]], check=False).returncode == 0


def test_overlapping_runs_write_once(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    configure(node)
    calm_lab.fault("n1", "nvml-hang")
    check(node)
    node.run(["/bin/rm", "-f", "/run/lab-nvml-hang"])
    split(node)
    reset_calls(calm_lab)
    argv = ["/usr/bin/env", "-i", "SLURMD_NODENAME=n1", f"{INSTALLED_AT}/healthcheck"]
    runs = [node.popen(argv, stdout=subprocess.PIPE) for _ in range(4)]
    printed = [run.communicate(timeout=60)[0] for run in runs]
    assert sum("gsp:kmd-split" in text for text in printed) >= 1
    counted = calls(calm_lab)
    assert counted["REQUEST_UPDATE_NODE"] == 2  # the drain, and what is published of it
    assert node.reason == REASONS["kmd-split"]


def test_fifty_checks_of_a_healthy_and_of_a_drained_node_cost_no_call(calm_lab: Lab, ready: Borrow) -> None:
    healthy, broken = ready(calm_lab, "n1"), ready(calm_lab, "n2")
    split(broken)
    check(broken)
    assert broken.reason == REASONS["kmd-split"]
    check(healthy)
    reset_calls(calm_lab)
    assert {check(healthy).returncode for _ in range(50)} == {0}
    assert calls(calm_lab) == {}
    assert {check(broken).returncode for _ in range(50)} == {1}
    assert calls(calm_lab) == {}
    # and the counter counts: one question more, and it shows
    calm_lab.slurm(["scontrol", "show", "node", "n1"])
    assert sum(calls(calm_lab).values()) > 0


def test_our_own_reason_follows_our_own_finding(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    configure(node)
    split(node)
    check(node)
    assert node.reason == REASONS["kmd-split"]
    calm_lab.fault("n1", "module-unloaded")
    check(node)
    assert node.reason == REASONS["module-unloaded"]


def test_the_breaker_holds_once_more_than_half_a_partition_is_ours(calm_lab: Lab, ready: Borrow) -> None:
    nodes = [ready(calm_lab, name) for name in ("n1", "n2", "n3", "n4")]
    for node in nodes:
        configure(node)
        split(node)
        assert check(node).returncode == 1
    assert [("DRAIN" in node.state) for node in nodes] == [True, True, True, False]
    last = nodes[-1]
    assert last.reason == ""
    passed = last.run([f"{INSTALLED_AT}/prolog"], env={"SLURMD_NODENAME": "n4", "SLURM_JOB_GPUS": "0"})
    assert passed.returncode == 0
    calm_lab.slurm(["scontrol", "update", "nodename=n1,n2", "state=resume"])
    time.sleep(2.1)
    check(last)
    assert last.reason == REASONS["kmd-split"]


def test_resume_only_when_asked_only_ours_and_only_on_a_new_boot(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    resuming = QUICK.replace("[health]", "[health]\nresume = true")
    configure(node, resuming)
    split(node)
    check(node)
    assert node.reason == REASONS["kmd-split"]
    split(node, OLD)
    assert check(node).returncode == 0
    assert "DRAIN" in node.state, "resumed on the boot that was broken"
    node.reboot()
    calm_lab.wait_for(
        lambda: node.exists("/run/slurm-gsp/state-n1.json"), 30, "the first check of the new boot"
    )
    calm_lab.wait_for(lambda: (check(node), node.state)[1] == "IDLE", 30, "our drain lifted on the new boot")


def test_without_being_asked_nothing_is_resumed(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    split(node)
    check(node)
    before = record_of(node)
    node.reboot()
    calm_lab.wait_for(
        lambda: node.exists("/run/slurm-gsp/state-n1.json"), 30, "the first check of the new boot"
    )
    assert [check(node).returncode for _ in range(3)] == [0, 0, 0]
    assert ("DRAIN" in node.state, record_of(node)) == (True, before)


def test_an_unknown_verdict_neither_drains_nor_resumes(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    configure(node)
    calm_lab.fault("n1", "nvml-crash")
    assert [check(node).returncode for _ in range(3)] == [0, 0, 0]
    assert (inspect(node)["verdict"], node.state, node.reason) == ("unknown", "IDLE", "")


def test_the_next_program_runs_after_ours(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    node.write("/opt/other", "#!/bin/sh\necho other says $1\nexit 7\n")
    node.path("/opt/other").chmod(0o755)
    configure(node, "[health]\nnext = ['/opt/other', 'hello world']\n")
    slow, fast = check(node), (settle(node), check(node))[1]
    assert [(run.returncode, run.stdout) for run in (slow, fast)] == [(7, "other says hello world\n")] * 2
    began, ended, code = node.read("/run/slurm-gsp/next").split()
    assert (float(began) <= float(ended), code) == (True, "7")
    split(node)
    broken = check(node)
    assert (broken.returncode, "gsp:kmd-split" in broken.stdout, "other says" in broken.stdout) == (
        1,
        True,
        True,
    )


def test_report_only_says_and_tells_slurm_nothing(calm_lab: Lab, ready: Borrow) -> None:
    node = ready(calm_lab, "n1")
    settle(node)
    split(node)
    reset_calls(calm_lab)
    run = check(node, "--report-only")
    assert (run.returncode, run.stdout.startswith(REASONS["kmd-split"])) == (1, True)
    assert (calls(calm_lab), node.state) == ({}, "IDLE")


@pytest.mark.parametrize("hook", ["healthcheck", "prolog", "epilog"])
def test_our_own_fault_fails_open_and_is_counted(calm_lab: Lab, ready: Borrow, hook: str) -> None:
    node = ready(calm_lab, "n1")
    configure(node, "[helth]\n")
    calm_lab.fault("n1", "module-unloaded")
    env = {"SLURMD_NODENAME": "n1", "SLURM_JOB_GPUS": "0"}
    run = node.run([f"{INSTALLED_AT}/{hook}"], env=env, check=False)
    assert (run.returncode, run.stdout) == (0, "")
    assert "config.toml:1: [helth]" in run.stderr
    assert len(node.read("/run/slurm-gsp/failed-open").splitlines()) == 1


def test_a_recording_is_judged_elsewhere_as_on_the_node(calm_lab: Lab, ready: Borrow, tmp_path: Path) -> None:
    node = ready(calm_lab, "n1")
    calm_lab.fault("n1", "mixed-branches")
    node.run([f"{INSTALLED_AT}/.venv/bin/slurm-gsp", "record", "/root/rec"])
    archive = tmp_path / "rec.tar"
    node.run(["/bin/tar", "-C", "/root", "-cSf", "/rec.tar", "rec"])
    archive.write_bytes(node.path("/rec.tar").read_bytes())
    subprocess.run(["tar", "-C", str(tmp_path), "-xf", str(archive)], check=True)
    elsewhere = diagnose(collect(*open_recording(tmp_path / "rec")))
    here = inspect(node)
    assert elsewhere.verdict.value == here["verdict"] == "mismatch"
    findings = here["findings"]
    assert isinstance(findings, list)
    assert [finding.code for finding in elsewhere.findings] == [item["code"] for item in findings]


def test_an_ordinary_user_may_inspect(calm_lab: Lab) -> None:
    node = calm_lab.node("n4")
    # the checkout's own interpreter may lie below root's home
    site = Path(click.__file__).parents[1]
    argv = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3"]
    env = {"PYTHONPATH": f"{INSTALLED_AT}:{site}"}
    run = node.run([*argv, "-m", "slurm_gsp.cli", "inspect"], check=False, env=env)
    assert run.stdout.startswith("n4: consistent")


def test_the_prolog_passes_inside_a_maintenance_of_others(calm_lab: Lab, ready: Borrow) -> None:
    """Refusing would make Slurm drain the node of those who work on it."""
    node = ready(calm_lab, "n3")
    words = ["reservationname=others", "nodes=n3", "starttime=now", "duration=60", "users=root"]
    calm_lab.slurm(["scontrol", "create", "reservation", *words, "flags=MAINT,IGNORE_JOBS"])
    try:
        calm_lab.wait_for(lambda: "MAINT" in node.state, 30, "the reservation shows in the node's state")
        split(node)
        job = ["--reservation=others", "--gres=gpu:1", "--output=/dev/null", "--parsable", "--wrap", "true"]
        number = calm_lab.slurm(["sbatch", *job]).stdout.strip()

        def done() -> bool:
            return "COMPLETED" in calm_lab.slurm(["scontrol", "show", "job", number]).stdout

        calm_lab.wait_for(done, 30, "the maintainers' job ran")
        assert ("DRAIN" in node.state, node.reason) == (False, "")
    finally:
        calm_lab.slurm(["scontrol", "delete", "reservationname=others"])


@pytest.mark.parametrize("after", [0.02, 0.1, 0.2, 0.3])
def test_a_drain_comes_after_a_run_that_was_killed(calm_lab: Lab, ready: Borrow, after: float) -> None:
    """slurmd kills the process group of a hook that takes too long, at any moment."""
    node = ready(calm_lab, "n1")
    configure(node)
    settle(node)
    split(node)
    script = f"{INSTALLED_AT}/healthcheck & sleep {after}; kill -KILL -- -$$"
    argv = ["/usr/bin/setsid", "--wait", "/bin/sh", "-c", script]
    node.run(argv, check=False, env={"SLURMD_NODENAME": "n1"})
    assert check(node).returncode == 1
    assert (node.reason, node.state) == (REASONS["kmd-split"], "IDLE+DRAIN")
    assert json.loads(node.read("/run/slurm-gsp/state-n1.json"))["standing"] == "ours"


def test_two_nodes_of_one_host_are_drained_both(calm_lab: Lab, ready: Borrow) -> None:
    """slurmd -N runs several nodes on one host; each asks for itself."""
    node, other = ready(calm_lab, "n1"), ready(calm_lab, "n2")
    configure(node)
    split(node)
    assert check(node).returncode == 1
    hook = [f"{INSTALLED_AT}/healthcheck"]
    assert node.run(hook, check=False, env={"SLURMD_NODENAME": "n2"}).returncode == 1
    assert node.reason == other.reason == REASONS["kmd-split"]

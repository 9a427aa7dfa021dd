"""Who has the driver open, from a /proc that is made up and from the real one."""

import os
import subprocess
from pathlib import Path

import pytest
from fake_host import stuck

from slurm_gsp.node.failing import StepError
from slurm_gsp.node.holders import Holder, ancestors, find_holders, holders_in_time, named, of_jobs, of_others


def process(proc: Path, pid: int, name: str, parent: int = 1, uid: int = 0, **files: str) -> Path:
    folder = proc / str(pid)
    (folder / "fd").mkdir(parents=True)
    (folder / "comm").write_text(f"{name}\n")
    (folder / "stat").write_text(f"{pid} ({name}) S {parent} {pid} {pid} 0 -1\n")
    (folder / "status").write_text(f"Name:\t{name}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n")
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder


def opens(folder: Path, *targets: str) -> None:
    for number, target in enumerate(targets, start=len(list((folder / "fd").iterdir()))):
        (folder / "fd" / str(number)).symlink_to(target)


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    made = tmp_path / "proc"
    made.mkdir()
    process(made, 1, "systemd", parent=0)
    return made


def find(proc: Path) -> tuple[Holder, ...]:
    passwd = proc.parent / "passwd"
    passwd.write_text("root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n")
    return find_holders(proc, passwd)


def test_only_who_has_a_device_open(proc: Path) -> None:
    opens(process(proc, 20, "python3", uid=1000), "/dev/null", "/dev/nvidia-uvm", "/dev/nvidia0")
    opens(process(proc, 9, "cat", uid=4242), "/dev/nvidiactl (deleted)")
    opens(process(proc, 30, "vi"), "/home/x/dev/nvidia0", "/dev/null", "socket:[1]")
    opens(process(proc, os.getpid(), "ourselves"), "/dev/nvidia0")
    (proc / "self").symlink_to("20")
    assert find(proc) == (Holder(9, "cat", "uid 4242"), Holder(20, "python3", "alice"))
    assert named(find(proc)) == "cat (pid 9, uid 4242), python3 (pid 20, alice)"


@pytest.mark.parametrize(
    "belongs",
    [
        {"environ": "PATH=/bin\0SLURM_JOB_ID=77\0HOME=/\0"},
        {"cgroup": "0::/system.slice/slurmstepd.scope/job_77/step_0/user/task_0\n"},
        {"cgroup": "5:memory:/slurm/uid_1000/job_77\n4:cpu:/\n", "environ": "SLURM_JOB_ID=x\0"},
    ],
)
def test_the_job_of_a_process(proc: Path, belongs: dict[str, str]) -> None:
    opens(process(proc, 20, "python3", uid=1000, **belongs), "/dev/nvidia0")
    assert str(find(proc)[0]) == "python3 (pid 20, alice, job 77)"
    assert of_jobs(find(proc)) == find(proc)


def test_the_slurmstepd_above_it(proc: Path) -> None:
    process(proc, 10, "slurmstepd", cmdline="slurmstepd: [77.batch]\0")
    process(proc, 11, "bash", parent=10)
    opens(process(proc, 12, "train", parent=11, uid=1000), "/dev/nvidia0")
    assert find(proc)[0].job == "77"
    assert list(ancestors(proc, 12)) == [11, 10, 1]


def test_services_that_are_stopped_first_are_no_others(proc: Path) -> None:
    opens(process(proc, 20, "nvidia-persiste"), "/dev/nvidia0")
    opens(process(proc, 21, "nv-hostengine"), "/dev/nvidia0")
    opens(process(proc, 22, "python3"), "/dev/nvidia0")
    opens(process(proc, 23, "dcgm-exporter", environ="SLURM_JOB_ID=7\0"), "/dev/nvidia0")
    assert [holder.pid for holder in of_others(find(proc))] == [22, 23]


def test_a_process_that_ends_meanwhile_is_none(proc: Path) -> None:
    (proc / "40").mkdir()
    assert find(proc) == ()


def test_a_process_that_is_stuck_in_the_driver_stops_nobody(proc: Path) -> None:
    folder = process(proc, 20, "train", environ="SLURM_JOB_ID=7\0")
    opens(folder, "/dev/nvidia0")
    assert holders_in_time(proc, 10) == (Holder(20, "train", "root", "7"),)
    with stuck(folder / "environ"):
        assert holders_in_time(proc, 0.1) is None
        (folder / "cgroup").write_text("0::/system.slice/slurmstepd.scope/job_8/step_0\n")
        assert holders_in_time(proc, 10) == (Holder(20, "train", "root", "8"),)


def test_a_proc_that_cannot_be_read_tells_nobody_that_it_is_free(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="nobody can tell who has the driver open"):
        holders_in_time(tmp_path / "nowhere", 10)


def test_a_real_process(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            found = find_holders()
            assert child.pid not in {holder.pid for holder in found}
            assert os.getpid() in list(ancestors(Path("/proc"), child.pid))
        finally:
            child.kill()

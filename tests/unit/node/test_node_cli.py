"""The commands realign, stage and reload: what they refuse, what they print, which exit code."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from fake_host import NEWER, fetches, make_config, make_host, profile, stuck, target, write_manifest

from slurm_gsp.cli import main
from slurm_gsp.config import ConfigError
from slurm_gsp.node.lock import only_one
from slurm_gsp.node_cli import Effects
from slurm_gsp.slurm.client import ControllerAway

OF = target(profile(NEWER))


class Slurm:
    """One node, as Slurm has it."""

    def __init__(self, state="IDLE+DRAIN", jobs=(), away=False):
        self.state = state
        self.on_it = jobs
        self.away = away
        self.asked = []

    def record(self, name):
        self.asked.append("record")
        if self.away:
            raise ControllerAway("Unable to contact slurm controller")
        return f"NodeName={name} State={self.state} Gres=gpu:h100:4(S:0) Partitions=main Reason=fan [root@x]"

    def jobs(self, name):
        self.asked.append("jobs")
        if self.away:
            raise ControllerAway("Unable to contact slurm controller")
        return self.on_it


@pytest.fixture
def host(tmp_path):
    made = make_host(tmp_path)
    digest = write_manifest(make_config(tmp_path), OF)
    made.run.answers["fetch"] = fetches(make_config(tmp_path), replace(OF, digest=digest))
    return made


@pytest.fixture
def run(host, tmp_path):
    def go(*arguments, slurm=None, host=host, config=None):
        effects = Effects(
            config=config or (lambda: make_config(tmp_path)),
            host=lambda _: host,
            client=lambda _: slurm or Slurm(),
        )
        return CliRunner().invoke(main, [str(word) for word in arguments], obj=effects)

    return go


def test_a_realignment_stops_before_the_reboot(run, host):
    done = run("realign")
    assert done.exit_code == 0, done.output
    assert "step 12 pin: done" in done.stdout
    assert done.stdout.endswith("not rebooted: the new modules are loaded with the next boot\n")
    assert "reboot" not in host.run.ran


def test_with_reboot_it_does(run, host):
    assert run("realign", "--reboot").exit_code == 0
    assert host.run.ran[-1] == "reboot"
    host.run.answers["reboot"] = 1
    done = run("realign", "--reboot")
    assert (done.exit_code, "step=13 reboot" in done.stderr) == (1, True)


def test_a_dry_run_asks_for_no_jobs_and_runs_nothing(run, host):
    slurm = Slurm("IDLE", jobs=("7",))
    done = run("realign", "--dry-run", slurm=slurm)
    assert (done.exit_code, slurm.asked, host.run.steps) == (0, ["record"], [])
    assert "install: nvidia-open 580.95.05-0ubuntu2" in done.stdout
    assert "    | apt-mark hold nvidia-dkms-580-open" in done.stdout


def test_a_dry_run_says_what_stands_against_it(run, host):
    done = run("realign", "--dry-run", host=replace(host, free_mb=lambda _: 7))
    assert done.exit_code == 1
    assert "would be refused now: 7 MB free on /, min_free_mb is 4096" in done.stdout


@pytest.mark.parametrize("command", ["realign", "reload"])
@pytest.mark.parametrize(
    ("slurm", "told"),
    [
        (Slurm(jobs=("7", "8")), "n1 has jobs (7, 8): drain it and wait for their end"),
        (Slurm("IDLE"), "scontrol update nodename=n1 state=drain reason=maintenance"),
        (Slurm(away=True), "Unable to contact slurm controller"),
    ],
    ids=["jobs", "in service", "away"],
)
def test_a_node_in_use_is_left_alone(run, host, command, slurm, told):
    done = run(command, slurm=slurm)
    assert (done.exit_code, host.run.steps) == (1, [])
    assert told in done.stderr


def test_without_slurm_a_named_profile_shows_its_plan_and_no_more(run, host):
    away = Slurm(away=True)
    assert run("realign", "--profile", "h100", "--dry-run", slurm=away).exit_code == 0
    assert away.asked == []
    done = run("realign", "--profile", "h100", slurm=away)
    assert (done.exit_code, host.run.steps) == (1, [])
    assert "nobody can tell whether n1 has jobs" in done.stderr
    assert "`scontrol ping` and `squeue` have to answer on this node" in done.stderr
    assert "name it with --profile" in run("realign", slurm=away).stderr


def test_what_failed_says_how_to_repeat_it(run, host, tmp_path):
    host.run.answers["purge"] = 2
    done = run("realign")
    assert done.exit_code == 1
    log = tmp_path / "logs/realign-by-hand-realign-1.log"
    assert done.stderr.splitlines() == [
        "step=6 purge: it said nothing (exit status 2)",
        f"the log: {log}; the same command repeats all of it",
    ]


def test_the_manifest_before_it(run):
    done = run("realign", "--to", "previous")
    assert (done.exit_code, done.stderr) == (1, "2026-11 is the first manifest: there is none before it\n")


def test_another_manifest(run, tmp_path):
    done = run("realign", "--manifest", tmp_path / "none.toml")
    assert (done.exit_code, done.stderr) == (1, f"{tmp_path}/none.toml: there is no such file\n")


def test_a_mistake_in_the_configuration(run):
    def wrong():
        raise ConfigError(["config.toml:1: one", "config.toml:2: two"])

    for command in ("realign", "stage", "reload"):
        done = run(command, config=wrong)
        assert (done.exit_code, done.stderr) == (1, "config.toml:1: one\nconfig.toml:2: two\n")


@pytest.mark.parametrize("command", ["realign", "reload"])
def test_one_at_a_time(run, host, command):
    with only_one(host):
        done = run(command)
    assert (done.exit_code, done.stderr) == (1, "another maintenance of n1 is at work; nothing done\n")


def test_staging(run, host, tmp_path):
    busy = Slurm("ALLOCATED", jobs=("7",))
    done = run("stage", slurm=busy)
    assert done.exit_code == 0, done.output
    assert (busy.asked, host.run.steps) == (["record"], ["preflight", "fetch"])
    assert f"8 packages in {tmp_path}/downloads/" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("staged: 2026-11@")
    again = run("stage", tmp_path / "manifests/2026-11.toml", "--profile", "h100")
    assert "nothing to do: everything is in" in again.stdout
    host.run.answers["preflight"] = 100
    for marker in tmp_path.glob("downloads/*/*/*.json"):
        marker.unlink()
    done = run("stage")
    assert (done.exit_code, "step=1 preflight: it said nothing" in done.stderr) == (1, True)


def test_what_stands_against_staging(run, host):
    done = run("stage", host=replace(host, is_root=False))
    assert (done.exit_code, done.stderr) == (1, "root is needed\n")


# --- reload ------------------------------------------------------------------------------------------------


def holds(host, name):
    folder = host.proc / "77"
    (folder / "fd").mkdir(parents=True)
    (folder / "fd/3").symlink_to("/dev/nvidia0")
    (folder / "comm").write_text(f"{name}\n")


RELOAD = ["stop-services", "unload", "load", "start-services"]


def test_a_reload(run, host):
    done = run("reload")
    assert done.exit_code == 0, done.output
    assert host.run.steps == RELOAD
    assert "nvidia-smi -pm 1" in host.run.scripts["start-services"]
    assert not host.state.journal.exists()


def test_a_holder_is_named_before_anything_is_stopped(run, host):
    holds(host, "python3")
    done = run("reload")
    assert (done.exit_code, host.run.steps) == (1, [])
    assert "the driver is open in python3 (pid 77, uid -1): end it first" in done.stderr
    dry = run("reload", "--dry-run")
    assert (dry.exit_code, "would be refused now: the driver is open in" in dry.stdout) == (1, True)


def test_a_process_that_is_stuck_in_the_driver(run, host):
    holds(host, "python3")
    with stuck(host.proc / "77/environ"):
        done = run("reload", host=replace(host, proc_s=0.1))
    assert (done.exit_code, host.run.steps) == (1, [])
    assert "a process is stuck in the driver: nobody can tell who has it open" in done.stderr


def test_a_service_that_does_not_let_go(run, host):
    """It is stopped first; where it still has the driver open then, all is put back."""
    holds(host, "nvidia-persiste")
    assert run("reload", "--dry-run").exit_code == 0
    done = run("reload")
    assert (done.exit_code, host.run.steps) == (1, ["stop-services", "load", "start-services"])
    assert "step=3 holders: the driver is open in nvidia-persiste" in done.stderr


@pytest.mark.parametrize(("name", "ran"), [
    ("stop-services", ["stop-services", "load", "start-services"]),
    ("unload", ["stop-services", "unload", "load", "start-services"]),
    ("load", ["stop-services", "unload", "load", "load", "start-services"]),
    ("start-services", [*RELOAD, "load", "start-services"]),
])  # fmt: skip
def test_what_fails_is_put_back(run, host, name, ran):
    host.run.answers[name] = 1
    done = run("reload")
    assert (done.exit_code, host.run.steps) == (1, ran)
    assert f" {name}: it said nothing" in done.stderr


def test_only_root_reloads(run, host):
    done = run("reload", host=replace(host, is_root=False))
    assert (done.exit_code, host.run.steps, "root is needed" in done.stderr) == (1, [], True)


def test_a_node_that_is_not_consistent_after_it(run, tmp_path):
    sick = make_host(tmp_path / "sick", "unattended-upgrade-all-on-disk")
    done = run("reload", host=sick)
    assert (done.exit_code, sick.run.steps) == (1, RELOAD)
    assert "step=7 look: mismatch: umd-skew" in done.stderr

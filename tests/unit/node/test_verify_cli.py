"""`slurm-gsp verify`, whole: on a recorded node, with fakes for its programs and for Slurm."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from slurm_gsp.cli import main
from slurm_gsp.collect.root import RecordedRoot
from slurm_gsp.collect.runner import Output, RecordedRunner
from slurm_gsp.config import Verify
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import Level, Proof, Result, proof_in, read_published
from slurm_gsp.node.facts import Machine
from slurm_gsp.node.journal import Journal, Places, State, Step, save_journal, save_pin
from slurm_gsp.process import Finished
from slurm_gsp.slurm.client import ControllerAway, NodeState
from slurm_gsp.verify_cli import Effects

UNIT = Path(__file__).parents[1]
NODES = UNIT.parent / "fixtures/nodes"
PARSE = UNIT / "parse/verify"
HEALTHY = NODES / "ubuntu2204-570-server-open"
V = "570.172.08"
BUSES = ("1b", "43", "52", "61", "9d", "c3", "d1", "df")
PINNED = Pinned("2026-11", "0123456789ab", "h100", V, "open", 8, False)
MANIFEST = f"""\
name = "2026-12"
previous = "none"
created = 2026-11-21T09:00:00Z
[profile.h100]
gres = ["gpu:h100"]
driver = "{V}"
flavour = "open"
gpus = 8
fabric_manager = false
packages.apt = {{ "nvidia-dkms-570-open" = "{V}-0ubuntu1" }}
"""
SECOND = MANIFEST[MANIFEST.index("[profile") :].replace("h100", "a100")


@dataclass
class FakeRunner:
    """A recorded node whose boards and smoke job answer too; ``nvml`` in the place of what was recorded."""

    folder: Path
    nvml: str = ""
    smoke: str = ""
    started: list[str] = field(default_factory=list)

    def run(self, command):
        if command == "boards":
            self.started.append(command)
            board = {"vbios": None, "inforom": None, "width": 16, "generation": 5, "generation_max": 5}
            memory = {"retirement_pending": "n/a", "remap_pending": 0, "remap_failed": 0, "mig": False}
            boards = [{"bus_id": f"0000:{bus}:00.0", **board, **memory} for bus in BUSES]
            return Output(("boards",), 0, json.dumps({"init": 0, "cuda": 12080, "boards": boards}), "")
        if command == "nvml" and self.nvml:
            return Output(("nvml",), None, self.nvml, "")
        return RecordedRunner(self.folder / "commands").run(command)

    def alone(self, argv, deadline_s, env=None):
        self.started.append(argv[-1].rpartition("/")[2])
        one = {"name": "H100", "error": self.smoke, "width": "16", "speed": "32.0 GT/s PCIe"}
        gpus = [{"bus_id": f"0000:{bus}:00.0", **one} for bus in BUSES]
        return 0, json.dumps({"gpus": gpus, "error": ""})


EMPTY = NodeState("gpu01", frozenset({"IDLE"}), "", "", "", (), "", "", "", "")


@dataclass
class FakeSlurm:
    """One node's record; it does not answer so many times first."""

    state: NodeState = EMPTY
    away: int = 0
    calls: list[str] = field(default_factory=list)

    def node(self, name):
        self.calls.append("node")
        if len(self.calls) <= self.away:
            raise ControllerAway("no answer")
        return self.state

    def annotate(self, name, field, text):
        self.calls.append("annotate")
        self.state = replace(self.state, **{field: text})


@dataclass
class World:
    """Everything that the command reaches."""

    folder: Path
    node: Path = HEALTHY
    name: str = "gpu01"
    config: str = ""
    slurm: FakeSlurm = field(default_factory=FakeSlurm)
    runner: FakeRunner | None = None
    dcgm: str = "dcgm-4-r1-pass.json"
    environment: dict[str, str] = field(default_factory=dict)
    slept: list[float] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.runner = self.runner or FakeRunner(self.node)

    def _run(self, argv, *, deadline_s, env=None):
        self.ran.append(" ".join(argv))
        if argv[0].endswith("dcgmi"):
            return Finished(argv, 0, (PARSE / self.dcgm).read_text(), "")
        if argv[0].endswith("perf"):
            return Finished(argv, 0, (PARSE / "nccl-8.txt").read_text(), "")
        return Finished(argv, 1, "", "no systemd")

    def machine(self, config):
        assert isinstance(config.verify, Verify)
        return Machine(
            RecordedRoot(self.node / "root"),
            self.runner,
            self._run,
            lambda name: f"/bin/{name}",
            self.environment,
        )

    def run(self, *words):
        path = self.folder / "config.toml"
        path.write_text(self.config)
        path.chmod(0o600)
        self.folder.chmod(0o755)
        effects = Effects(
            self.machine, lambda config: self.slurm, self.folder, self.slept.append, self.environment
        )
        runner = CliRunner(env={"SLURMD_NODENAME": self.name})
        return runner.invoke(main, ["verify", "--config", str(path), *words], obj=effects)

    def told(self, *words):
        done = self.run(*words, "--json")
        return done.exit_code, json.loads(done.stdout)


@pytest.fixture
def world(tmp_path):
    save_pin(Places(tmp_path), PINNED)
    return World(tmp_path)


def outcomes(told):
    return {check["name"]: check["result"] for check in told["checks"]}


def boot_of(folder):
    return (folder / "root/proc/sys/kernel/random/boot_id").read_text().strip()


def journal(world, boot="boot-1", state=State.DONE, **change):
    save_journal(Places(world.folder), Journal("c1/realign/1", boot, PINNED, state, **change))


def test_a_healthy_node_in_words(world):
    done = world.run()
    lines = done.stdout.splitlines()
    assert (done.exit_code, lines[0]) == (0, "gpu01: pass (level quick, against 2026-11@0123456789ab)")
    assert lines[1:4] == [
        "  pass            detector        consistent",
        f"  pass            module          {V} is loaded, as pinned",
        "  pass            flavour         open, as pinned",
    ]
    assert len(lines) == 10


def test_a_healthy_node_as_an_object(world):
    code, told = world.told()
    checks = told.pop("checks")
    assert code == 0
    assert told == {
        "node": "gpu01",
        "level": "quick",
        "result": "pass",
        "operation": "",
        "boot": boot_of(HEALTHY),
        "pin": "2026-11@0123456789ab",
        "codes": [],
        "why": "",
        "job": "",
        "published": "",
    }
    assert checks[0] == {"name": "detector", "result": "pass", "told": "consistent"}


def test_each_level_holds_the_ones_before(world):
    world.config = '[verify]\nnccl = ["/opt/all_reduce_perf", "-b", "1G"]\nnccl_min_gbs = 400\n'
    levels = [outcomes(world.told("--level", level)[1]) for level in ("quick", "hardware", "workload")]
    assert [len(level) for level in levels] == [9, 20, 22]
    assert levels[0].items() <= levels[1].items() <= levels[2].items()
    assert set(levels[2].values()) == {"pass", "not-applicable"}
    assert world.ran[-2:] == ["/bin/dcgmi diag -r 3 -j", "/opt/all_reduce_perf -b 1G -g 8"]


def test_quick_starts_no_program(world):
    world.told()
    assert (world.ran, world.runner.started) == ([], [])


def test_a_manifest_instead_of_the_nodes_pin(world):
    (world.folder / "2026-12.toml").write_text(
        MANIFEST.replace(f'"{V}"', '"570.195.03"').replace(f"{V}-", "570.195.03-")
    )
    code, told = world.told("--manifest", str(world.folder / "2026-12.toml"))
    assert (code, told["result"], told["codes"], told["pin"][:8]) == (1, "fail", ["drift"], "2026-12@")
    assert told["why"] == f"detector: drift kmd={V} pin=570.195.03"
    assert outcomes(told)["module"] == "fail"


@pytest.mark.parametrize(
    ("text", "words", "why"),
    [
        (MANIFEST, ["--profile", "a100"], "has no a100; it has h100"),
        (MANIFEST + SECOND, [], "has several: h100, a100"),
        ("name = 5\n", [], "must be"),
        (None, [], "there is no such file"),
    ],
)  # fmt: skip
def test_a_manifest_that_cannot_be_used(world, text, words, why):
    path = world.folder / "2026-12.toml"
    if text is not None:
        path.write_text(text)
    done = world.run("--manifest", str(path), *words)
    assert (done.exit_code, why in done.stderr) == (64, True)


def test_without_any_pin_a_node_agrees_with_itself(tmp_path):
    code, told = World(tmp_path).told()
    assert (code, told["pin"], outcomes(told)["flavour"]) == (0, "", "not-applicable")


def test_a_bad_configuration(world):
    world.config = "[verifi]\n"
    done = world.run()
    assert (done.exit_code, "[verifi]: there is no such table" in done.stderr) == (64, True)


# DCGM, the smoke job, and what keeps them from starting


def test_a_failed_dcgm_names_the_test_and_the_gpu(world):
    world.dcgm = "dcgm-3.1-r3-fail.json"
    code, told = world.told("--level", "hardware")
    assert (code, told["why"]) == (
        1,
        "dcgm-1: PCIe on GPU 1 (Error: PCIe replay count 12 exceeds the threshold)",
    )


@pytest.mark.parametrize("fixture", ["dcgm-no-host-engine.txt", "dcgm-4-runtime-error.json", "nccl-8.txt"])
def test_dcgm_that_cannot_run_is_unknown(world, fixture):
    world.dcgm = fixture
    code, told = world.told("--level", "hardware")
    assert (code, told["result"], told["codes"]) == (3, "unknown", [])
    assert told["why"].startswith("dcgm-1: DCGM cannot run: ")


def test_dcgm_and_smoke_can_be_left_out(world):
    world.config = '[verify]\ndcgm = "off"\nsmoke = false\n'
    code, told = world.told("--level", "workload")
    found = outcomes(told)
    assert (code, found["dcgm-1"], found["dcgm-3"], found["smoke"]) == (0, *["not-applicable"] * 3)
    assert [name for name in world.ran if "dcgmi" in name] == []


def test_a_wrong_computation_stops_what_comes_after(world):
    world.runner = FakeRunner(HEALTHY, smoke="1 of 1048576 elements are wrong")
    world.config = '[verify]\nnccl = "/opt/all_reduce_perf"\n'
    code, told = world.told("--level", "workload")
    found = outcomes(told)
    assert (code, found["smoke"], found["dcgm-3"], found["nccl"]) == (1, "fail", "unknown", "unknown")
    assert told["checks"][-1]["told"] == "not started: something failed before"


def test_on_a_broken_node_no_deep_program_is_started(tmp_path):
    world = World(tmp_path, node=NODES / "gsp-timeout-and-next-kernel")
    code, told = world.told("--level", "workload")
    found = outcomes(told)
    assert (code, told["codes"]) == (1, ["gsp-timeout", "next-kernel"])
    assert (found["dcgm-1"], found["smoke"], found["dcgm-3"]) == ("unknown",) * 3
    assert (world.runner.started, [name for name in world.ran if "dcgmi" in name]) == (["boards"], [])


def test_nothing_joins_an_nvml_that_hangs(world):
    world.runner = FakeRunner(HEALTHY, nvml='{"init": "timeout"}')
    code, told = world.told("--level", "workload")
    assert (code, told["codes"]) == (1, ["driver-hung"])
    assert told["checks"][-1] == {
        "name": "hardware",
        "result": "unknown",
        "told": "not started: NVML does not answer",
    }
    assert (world.runner.started, world.ran) == ([], [])


def test_a_node_without_gpus_has_nothing_to_verify(tmp_path):
    world = World(tmp_path, NODES / "cpu-node-shared-gres-conf", "cpu01")
    code, told = world.told("--level", "workload")
    assert (code, list(outcomes(told).values()), world.ran) == (0, ["not-applicable"], [])


# What it proves, and where it says so


def test_the_last_realignment_is_what_is_proven(world):
    journal(world)
    code, told = world.told()
    assert (code, told["operation"]) == (0, "c1/realign/1")
    assert world.told("--operation", "c1/realign/1")[0] == 0


def test_before_its_reboot_a_realignment_is_not_proven(world):
    journal(world, boot=boot_of(HEALTHY))
    assert world.told()[1]["operation"] == ""


@pytest.mark.parametrize(
    ("state", "change", "why"),
    [
        (
            State.RUNNING,
            {"steps": (Step(3, "install", True, 2.0), Step(4, "dkms"))},
            "cut off in step 4 dkms",
        ),
        (State.RUNNING, {}, "cut off before its first step"),
        (State.FAILED, {"failed": "step 3 install: exit code 100"}, "step 3 install: exit code 100"),
    ],
)
def test_a_realignment_that_never_ended(world, state, change, why):
    journal(world, state=state, **change)
    world.environment["SLURM_JOB_ID"] = "41"
    done = world.run("--publish")
    assert done.exit_code == 3
    assert done.stdout.splitlines()[:2] == [
        "gpu01: unfinished (level quick, against 2026-11@0123456789ab)",
        f"  {why}",
    ]
    proof = Proof(
        "c1/realign/1", Level.QUICK, Result.UNFINISHED, boot_of(HEALTHY), PINNED.target, (), why, "41"
    )
    assert proof_in(read_published(world.slurm.state.extra)) == proof


@pytest.mark.parametrize("state", [State.DONE, State.RUNNING])
def test_an_operation_that_was_not_the_last_one_is_not_proven(world, state):
    """Nothing of that name brought the node to what it runs: a job came late, or the name is wrong."""
    journal(world, state=state)
    code, told = world.told("--operation", "c1/realign/2", "--publish")
    assert (code, told["result"], told["why"]) == (
        3,
        "unknown",
        "the last realignment of this node is c1/realign/1",
    )
    proof = proof_in(read_published(world.slurm.state.extra))
    assert (proof.operation, proof.result, proof.pin) == ("c1/realign/2", Result.UNKNOWN, PINNED.target)


def test_nothing_is_proven_before_the_reboot(world):
    journal(world, boot=boot_of(HEALTHY))
    code, told = world.told("--operation", "c1/realign/1")
    assert (code, told["result"], told["why"]) == (3, "unknown", "this node has not rebooted since")


def test_a_node_that_remembers_no_realignment_proves_what_it_is_asked_for(world):
    assert world.told("--operation", "c2/realign/1")[0] == 0


def test_publishing(world):
    journal(world)
    world.environment["SLURM_JOB_ID"] = "41"
    first = world.run("--level", "hardware", "--publish").stdout.splitlines()[-2:]
    again = world.run("--level", "hardware", "--publish").stdout.splitlines()[-1]
    assert first == [f"proves c1/realign/1 on boot {boot_of(HEALTHY)}", "published in extra"]
    assert (again, world.slurm.calls) == ("extra says so already", ["node", "annotate", "node"])
    values = read_published(world.slurm.state.extra)
    assert values["nvidia_driver"] == V
    assert proof_in(values) == Proof(
        "c1/realign/1", Level.HARDWARE, Result.PASS, boot_of(HEALTHY), PINNED.target, job="41"
    )


def test_a_controller_that_comes_back(world):
    world.slurm.away = 3
    done = world.run("--publish")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "published in extra")
    assert world.slept == [15.0] * 3


@pytest.mark.parametrize(
    ("config", "why"),
    [("", "not published: no answer"), ('[verify]\npublish = "off"\n', 'not published: publish = "off"')],
)
def test_a_proof_that_nobody_hears_is_unknown(world, config, why):
    world.slurm.away, world.config = 99, config
    done = world.run("--publish")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (3, why)


def test_a_failure_that_nobody_hears_is_still_one(tmp_path):
    world = World(tmp_path, node=NODES / "gsp-timeout-and-next-kernel")
    world.slurm.away = 99
    assert world.run("--publish").exit_code == 1


def test_without_publish_slurm_is_not_asked(world):
    world.run()
    assert world.slurm.calls == []


def test_a_record_without_room(world):
    world.slurm.state = replace(world.slurm.state, extra="x" * 2000)
    done = world.run("--publish")
    assert (done.exit_code, "more than the 2048" in done.stdout, world.slept) == (3, True, [])

"""Whole campaigns on a model of Slurm: what must happen, what must never, and a controller that dies."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from model_slurm import Behaviour, ModelSlurm, Node

from slurm_gsp.campaign.advance import first_state
from slurm_gsp.campaign.controller import Controller, Surroundings
from slurm_gsp.campaign.execute import Executor
from slurm_gsp.campaign.ledger import EventKind, Ledger
from slurm_gsp.campaign.look import Job
from slurm_gsp.campaign.model import FleetNode, Heading, Limits, Plan, PlannedProfile
from slurm_gsp.campaign.plan import plan as make_plan
from slurm_gsp.campaign.state import GateState, Phase, Reserve, Status, Terms
from slurm_gsp.core.published import Level, Result
from slurm_gsp.slurm.client import ControllerAway, SlurmError

NOW = datetime(2026, 11, 16, 9, 0, tzinfo=UTC)
SLOT = 600
VARIANTS = ("h100", "a100", "l40s")
LIMITS = Limits(max_out_count=3, max_out_percent=None, soak_s=300)
DIGEST = "ab" * 32


class Killed(BaseException):
    """The controller is gone at once."""


class Mortal(Ledger):
    """A ledger whose process dies after, or right before, the n-th record from now on."""

    def __init__(self, url: str, clock: Callable[[], datetime]) -> None:
        super().__init__(url, "root", "elsewhere:1:1", clock)
        self.records = 0
        self.die_at: int | None = None
        self.before = False

    def write(self):
        self.records += 1
        return Dying(super().write(), self.die_at == self.records, self.before)


class Dying:
    def __init__(self, inner, dies: bool, before: bool) -> None:
        self.inner, self.dies, self.before = inner, dies, before

    def __enter__(self):
        return self.inner.__enter__()

    def __exit__(self, *error):
        if self.dies and self.before:
            self.inner.__exit__(Killed, Killed(), None)
            raise Killed
        result = self.inner.__exit__(*error)
        if self.dies:
            raise Killed
        return result


class World:
    """A campaign with everything around it."""

    def __init__(
        self, tmp_path: Path, nodes: list[Node] | None = None, limits: Limits = LIMITS, **terms
    ) -> None:
        nodes = nodes if nodes is not None else twelve()
        self.slurm = ModelSlurm(nodes, NOW)
        self.plan = planned(nodes, limits)
        self.terms = Terms(self.plan, lead_s=20, return_s=1200, proof_s=300, verify_s=600, **terms)
        self.ledger = Mortal(f"sqlite:///{tmp_path}/ledger.db", lambda: self.slurm.now)
        self.told: list[str] = []
        self.gates: list[str] = []
        self.step = 5
        self.due = False
        self.gate_answer = (True, "")
        self.each_tick: Callable[[], None] = lambda: None
        self.ledger.add(self.plan, first_state(self.terms, NOW))

    def around(self) -> Surroundings:
        return Surroundings(
            look=self.slurm.look,
            executor=Executor(self.slurm, self.terms),
            ask_gate=self.ask_gate,
            clock=lambda: self.slurm.now,
            tell=self.told.append,
        )

    def ask_gate(self, ask):
        self.gates.append(f"{ask.wave}: {' '.join(ask.nodes)}")
        return self.gate_answer

    def run(self, ticks: int = 4000) -> None:
        """Until nothing is left to do."""
        with self.ledger.lead("c1", 60) as lead:
            controller = Controller(self.terms, lead, self.around())
            for _ in range(ticks):
                self.each_tick()
                try:
                    tick = controller.tick()
                except SlurmError as error:
                    self.told.append(str(error))
                else:
                    if tick.finished:
                        assert not self.due, "what was to happen on the way never did"
                        return
                self.slurm.pass_time(self.step)
        raise AssertionError(f"not finished: {self.told[-5:]}")

    @property
    def state(self):
        return self.ledger.state("c1")

    def phases(self) -> dict[str, str]:
        return {record.node: record.phase.value for record in self.state.nodes}

    def record(self, node: str):
        return next(record for record in self.state.nodes if record.node == node)


def twelve() -> list[Node]:
    return [Node(f"{variant}-{number}", variant) for variant in VARIANTS for number in range(1, 5)]


def planned(nodes: list[Node], limits: Limits = LIMITS) -> Plan:
    fleet = [
        FleetNode(
            name=node.name, profile=node.variant, variant=node.variant, partitions=("gpu",),
            states=frozenset(node.flags | {"IDLE"}), reason=node.reason, take=node.reason == "fan",
            driver=node.driver, pinned="570.195.03",
        )
        for node in nodes
    ]  # fmt: skip
    profiles = tuple(PlannedProfile(name, "570.195.03", 2, "570.172.08") for name in VARIANTS)
    heading = Heading("c1", "2026-11", DIGEST, "standard", 0, "2026-10", "cd" * 32, profiles)
    plan = make_plan(fleet, limits, NOW, SLOT, heading)
    assert isinstance(plan, Plan), plan
    return plan


def asked(node: Node) -> list[str]:
    """What was asked of a node, without the plan's id, which is another in every run."""
    return [re.sub(r" id=[0-9a-f]{8}$", "", reason) for reason in node.history]


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_twelve_nodes_in_three_waves(world):
    world.each_tick = lambda: world.slurm.users_submit(120)
    world.run()
    assert set(world.phases().values()) == {"returned"}
    assert world.state.status is Status.DONE
    assert [gate.state for gate in world.state.gates] == [GateState.PASSED] * 3
    assert world.slurm.wrong == [] and world.slurm.most_out <= 3
    assert world.slurm.users > 12 and world.slurm.held == {}
    assert {node.driver for node in world.slurm.nodes.values()} == {"570.195.03"}
    assert all(
        asked(node) == ["gsp:realign c1 to=2026-11@abababababab try=1"] for node in world.slurm.nodes.values()
    )
    # the first wave is over before the second touches anybody
    order = [event.node for event in world.ledger.events(campaign="c1") if event.what.startswith("taken")]
    canaries = {"h100-1", "a100-1", "l40s-1"}
    assert set(order[:3]) == canaries
    assert all(record.before == "570.172.08" for record in world.state.nodes)


def test_a_pin_that_fails_on_one_variant_stops_at_its_canary(world):
    world.slurm.nodes["l40s-1"].behaviour = Behaviour(quick=Result.FAIL, codes=("fw-damaged",))
    world.run()
    assert world.phases() == {
        node: {"h100-1": "returned", "a100-1": "returned", "l40s-1": "rolled-back"}.get(node, "skipped")
        for node in world.slurm.nodes
    }
    assert world.state.status is Status.HALTED
    assert world.state.why == "l40s-1: realign: verification failed: as told"
    assert [node.history for node in world.slurm.nodes.values() if node.name.endswith("2")] == [[], [], []]
    assert asked(world.slurm.nodes["l40s-1"]) == [
        "gsp:realign c1 to=2026-11@abababababab try=1",
        "gsp:rollback c1 to=2026-10@cdcdcdcdcdcd try=1",
    ]
    assert world.slurm.nodes["l40s-1"].flags == set() and world.slurm.nodes["l40s-1"].driver == "570.172.08"
    assert [(hold.node, hold.manifest) for hold in world.ledger.holds()] == [
        ("l40s-1", "2026-10@cdcdcdcdcdcd")
    ]
    assert world.slurm.held == {} and world.slurm.wrong == []


@pytest.mark.parametrize("level", [Level.QUICK, Level.HARDWARE])
def test_the_level_decides_whether_a_job_runs(tmp_path, level):
    world = World(tmp_path, twelve()[:3], level=level)
    world.run()
    assert set(world.phases().values()) == {"returned"}
    assert bool([job for job in world.slurm.jobs if job.comment]) is (level is Level.HARDWARE)


ENDS = {
    "hardware fails, the pin before is good": (
        Behaviour(hardware=Result.FAIL, codes=("gpu-lost",)),
        "rolled-back",
        "realign: verification failed: as told",
    ),
    "both pins fail": (
        Behaviour(quick=Result.FAIL, rollback=Behaviour(hardware=Result.FAIL)),
        "escalated",
        "failed on both pins: verification failed: as told",
    ),
    "a fault that no driver answers": (
        Behaviour(quick=Result.FAIL, codes=("vbios",)),
        "escalated",
        "verification failed: as told; no driver answers vbios",
    ),
    "a step fails": (
        Behaviour(step_fails="step=7 install"),
        "rolled-back",
        "realign: realign-failed step=7 install : reboot timed out",
    ),
    "a step fails on both": (
        Behaviour(step_fails="step=1 disk", rollback=Behaviour(step_fails="step=1 disk")),
        "escalated",
        "failed on both pins: realign-failed step=1 disk : reboot timed out",
    ),
    "it never comes back": (
        Behaviour(returns=False),
        "escalated",
        "not back 20 min after its reboot was asked for",
    ),
    "DCGM cannot run": (
        Behaviour(hardware=Result.UNKNOWN),
        "escalated",
        "unproven: as told",
    ),
    "a boot cuts it off twice": (
        Behaviour(cut_off=2),
        "rolled-back",
        "realign: cut off by a boot 2 times",
    ),
}


@pytest.mark.parametrize(("behaviour", "phase", "why"), ENDS.values(), ids=ENDS)
def test_how_a_node_may_end(tmp_path, behaviour, phase, why):
    world = World(tmp_path)
    world.slurm.nodes["a100-1"].behaviour = behaviour
    world.run()
    record = world.record("a100-1")
    assert record.phase.value == phase
    assert why in (record.why, *record.failures)
    assert world.state.status is Status.HALTED and world.state.why.startswith("a100-1: ")
    node = world.slurm.nodes["a100-1"]
    assert world.slurm.held == {} and world.slurm.wrong == []
    if phase == "escalated":
        assert "DRAIN" in node.flags and node.reason.startswith("gsp:escalated c1 ")
    else:
        assert not node.flags and [hold.node for hold in world.ledger.holds()] == ["a100-1"]
    assert {world.phases()[name] for name in ("h100-2", "a100-2", "l40s-4")} == {"skipped"}


def test_one_boot_in_between_is_tried_again(world):
    world.slurm.nodes["h100-3"].behaviour = Behaviour(cut_off=1)
    world.run()
    assert set(world.phases().values()) == {"returned"}
    assert [reason[-5:] for reason in asked(world.slurm.nodes["h100-3"])] == ["try=1", "try=2"]


def test_without_a_pin_before_there_is_no_rollback(tmp_path):
    world = World(tmp_path, twelve()[:1])
    profiles = tuple(replace(one, previous_driver=None) for one in world.plan.heading.profiles)
    heading = replace(world.plan.heading, previous=None, previous_digest="", profiles=profiles)
    world.terms = replace(world.terms, plan=replace(world.plan, heading=heading))
    world.slurm.nodes["h100-1"].behaviour = Behaviour(quick=Result.FAIL)
    world.run()
    assert world.record("h100-1").why == "verification failed: as told; there is no pin before this one"


# -- other people --------------------------------------------------------------------------------------------


def at_phase(world: World, node: str, phase: Phase, act: Callable[[], None]) -> None:
    """Do something once, as soon as the node is in this phase."""

    def watch() -> None:
        if world.due and world.record(node).phase is phase:
            world.due = False
            act()

    world.due = True
    world.each_tick = watch


def drain_by_hand(world: World, name: str) -> None:
    node = world.slurm.nodes[name]
    node.flags.add("DRAIN")
    node.reason, node.user = "fan", "bob"


HANDS = [Phase.RESERVED, Phase.TAKEN, Phase.REALIGNING, Phase.REBOOTED, Phase.VERIFYING]


@pytest.mark.parametrize("phase", HANDS, ids=lambda phase: phase.value)
def test_a_node_that_an_admin_drains_is_left_to_him(world, phase):
    at_phase(world, "h100-2", phase, lambda: drain_by_hand(world, "h100-2"))
    world.run()
    node, record = world.slurm.nodes["h100-2"], world.record("h100-2")
    assert record.phase is Phase.SKIPPED and "drained by others: fan" in record.why
    assert node.flags & {"DRAIN", "DOWN"} and node.reason.startswith("fan")
    assert world.slurm.wrong == []
    others = {phase for name, phase in world.phases().items() if name != "h100-2"}
    assert others == {"returned"} and world.state.status is Status.DONE
    stays = record.touched
    assert bool(world.slurm.held) is stays and ("reservation stays" in record.why) is stays


def test_a_canary_that_an_admin_drains_closes_the_gate(world):
    at_phase(world, "h100-1", Phase.RESERVED, lambda: drain_by_hand(world, "h100-1"))
    world.run()
    assert world.state.why == (
        "the gate after the canary is closed: no canary of variant 'h100' was verified "
        "(h100-1: drained by others: fan (bob))"
    )
    assert set(world.phases().values()) == {"returned", "skipped"}


@pytest.mark.parametrize(
    "phase",
    [Phase.RESERVED, Phase.TAKEN, Phase.REALIGNING, Phase.REBOOTED, Phase.VERIFYING],
    ids=lambda p: p.value,
)
def test_a_reservation_that_is_deleted_by_hand(world, phase):
    """Untouched, that is the admin's word; in our hands, the node is put behind a new one at once."""

    def delete() -> None:
        world.slurm.held.pop("gsp_c1_h100-2")

    at_phase(world, "h100-2", phase, delete)
    world.run()
    record = world.record("h100-2")
    untouched = phase in {Phase.RESERVED, Phase.TAKEN}
    assert record.phase is (Phase.SKIPPED if untouched else Phase.RETURNED)
    assert record.why == ("its reservation was deleted by hand" if untouched else "")
    assert world.slurm.nodes["h100-2"].flags == set() and world.slurm.held == {}
    assert world.slurm.wrong == [] and world.state.status is Status.DONE


def test_a_drain_that_is_lifted_by_hand_gives_the_node_back_untouched(world):
    def lift() -> None:
        if world.record("h100-2").phase is Phase.TAKEN and not world.slurm.jobs:
            world.slurm.jobs.append(
                Job("7", "RUNNING", "alice", world.slurm.now + timedelta(hours=9), ("h100-2",))
            )
        if world.record("h100-2").phase is Phase.DRAINED:
            world.slurm.nodes["h100-2"].flags.clear()

    world.terms = replace(world.terms, level=Level.QUICK)
    world.each_tick = lift
    world.run()
    assert world.record("h100-2").why == "its drain was lifted by hand"
    assert world.slurm.nodes["h100-2"].history == [] and world.slurm.held == {}


def test_a_node_that_was_drained_by_others_is_put_back_so_where_it_was_asked_for(tmp_path):
    nodes = twelve()
    nodes[0].flags.add("DRAIN")
    nodes[0].reason, nodes[0].asked_for = "fan", True
    world = World(tmp_path, nodes)
    assert next(slot for slot in world.plan.slots if slot.node == "h100-1").take
    world.slurm.resume = lambda name: world.slurm.nodes[name].flags.difference_update({"DRAIN", "DOWN"})
    world.run()
    assert set(world.phases().values()) == {"returned"}
    assert world.record("h100-1").why == "stays drained: fan (root)"
    assert (nodes[0].flags, nodes[0].reason) == ({"DRAIN"}, "fan")


def test_a_job_past_its_limit_is_never_ended(world):
    world.slurm.users_submit(200, ["h100-2"])
    stays = world.slurm.jobs[0]

    def overstay() -> None:
        job = world.slurm.jobs[0]
        world.slurm.jobs[0] = replace(job, end=max(job.end, world.slurm.now + timedelta(seconds=10)))

    world.terms = replace(world.terms, wait_s=300)
    world.each_tick = overstay
    world.run()
    assert world.record("h100-2").why == "runs job 1 of alice past its slot"
    assert world.slurm.jobs[0].state == "RUNNING" and stays.id == "1"
    assert world.slurm.nodes["h100-2"].history == [] and world.state.status is Status.DONE


def test_a_job_without_a_limit_is_told_when_it_is_scheduled(world):
    world.slurm.users_submit(100, ["h100-2"])
    world.slurm.jobs[0] = replace(world.slurm.jobs[0], end=None)
    world.run()
    assert world.record("h100-2").why == "runs job 1 of alice, without a time limit"


def test_a_job_that_is_longer_than_the_plan_knew_moves_the_slot(world):
    world.slurm.users_submit(3000, ["h100-1"])
    world.run()
    assert set(world.phases().values()) == {"returned"}
    assert world.record("h100-1").start >= NOW + timedelta(seconds=3000)
    assert world.slurm.wrong == [] and world.slurm.most_out <= 3


def test_slurm_away_for_a_while(world):
    def outage() -> None:
        world.slurm.away = 600 < (world.slurm.now - NOW).total_seconds() < 900

    world.each_tick = outage
    world.run()
    assert set(world.phases().values()) == {"returned"}
    assert "Unable to contact slurm controller" in world.told


# -- gates, limits, time -------------------------------------------------------------------------------------


def relapse(world: World, **change: object) -> None:
    for key, value in change.items():
        setattr(world.slurm.nodes["a100-1"], key, value)


RELAPSES = {
    "its health check drains it": (
        {"flags": {"DRAIN"}, "reason": "gsp:gsp-timeout xid=119"},
        "gsp:gsp-timeout",
    ),
    "it is gone": ({"flags": {"DOWN"}, "reason": "Not responding"}, "down, Not responding"),
}


@pytest.mark.parametrize(("change", "why"), RELAPSES.values(), ids=RELAPSES)
def test_a_relapse_in_the_soak_halts(world, change, why):
    at_phase(world, "a100-1", Phase.RETURNED, lambda: relapse(world, **change))
    world.run()
    assert world.state.why.startswith(f"a100-1: {why}") and world.state.why.endswith("after it was returned")
    assert [world.phases()[name] for name in ("h100-2", "a100-2")] == ["skipped", "skipped"]
    assert world.slurm.held == {}


def test_an_admins_drain_in_the_soak_is_no_relapse(world):
    at_phase(world, "a100-1", Phase.RETURNED, lambda: relapse(world, flags={"DRAIN"}, reason="fan"))
    world.run()
    assert world.state.status is Status.DONE


def test_a_job_that_the_node_lost_in_the_soak_halts(world):
    def lose() -> None:
        world.slurm.users_submit(10, ["a100-1"])
        job = world.slurm.jobs[-1]
        world.slurm.jobs[-1] = replace(job, state="NODE_FAIL", end=world.slurm.now)

    at_phase(world, "a100-1", Phase.RETURNED, lose)
    world.run()
    assert "failed with the node, after it was returned" in world.state.why


def test_gate_commands_are_asked_after_each_soak(tmp_path):
    world = World(tmp_path, gate_commands=True)
    world.run()
    assert [line.partition(":")[0] for line in world.gates] == ["0", "1", "2"]
    assert world.gates[0] == "0: a100-1 h100-1 l40s-1"


def test_a_closed_gate_halts(tmp_path):
    world = World(tmp_path, gate_commands=True)
    world.gate_answer = (False, "/usr/bin/alerts: exit status 1")
    world.run()
    assert world.state.why == "the gate after the canary is closed: /usr/bin/alerts: exit status 1"
    assert sorted(set(world.phases().values())) == ["returned", "skipped"]
    assert world.slurm.held == {}


def test_nodes_that_others_take_out_count(world):
    """Two of three places are taken on the way: one node at a time then."""
    most: list[int] = []
    out: list[int] = []

    def watch() -> None:
        for name in ("a100-4", "l40s-4"):
            if not world.slurm.nodes[name].flags and world.record(name).phase is Phase.RESERVED:
                drain_by_hand(world, name)
        touched = [record for record in world.state.nodes if record.operation and not record.ended]
        most.append(len(touched))
        if world.slurm.now > NOW + timedelta(seconds=60):
            out.append(len(world.slurm.look([]).out["gpu"]))

    world.each_tick = watch
    world.run()
    assert world.state.status is Status.DONE and max(most) == 1
    assert max(out) == 3 and world.slurm.wrong == []
    assert sorted(world.phases().values()) == ["returned"] * 10 + ["skipped"] * 2


def test_pause_and_resume(world):
    def pause() -> None:
        assert world.ledger.order("c1", [Status.RUNNING], Status.PAUSED, "lunch")

    at_phase(world, "h100-1", Phase.REALIGNING, pause)
    with pytest.raises(AssertionError, match="not finished"):
        world.run(600)
    assert {world.phases()[name] for name in ("h100-1", "a100-1", "l40s-1")} == {"returned"}
    assert {phase for name, phase in world.phases().items() if name[-1] != "1"} == {"reserved"}
    assert all(start > world.slurm.now for _, start, *_ in world.slurm.held.values())
    world.ledger.order("c1", [Status.PAUSED], Status.RUNNING, "")
    world.each_tick = lambda: None
    world.run()
    assert world.state.status is Status.DONE and world.slurm.most_out <= 3


def test_abort_takes_back_what_is_ours_and_finishes_what_is_begun(world):
    def abort() -> None:
        assert world.ledger.order("c1", [Status.RUNNING], Status.HALTED, "aborted by alice")

    at_phase(world, "h100-1", Phase.REALIGNING, abort)
    world.run()
    assert {world.phases()[name] for name in ("h100-1", "a100-1", "l40s-1")} == {"returned"}
    assert world.record("h100-4").why == "the campaign was halted: aborted by alice"
    assert world.slurm.held == {} and world.slurm.wrong == []


def test_abort_before_the_reboot_puts_back_as_found(world):
    def abort() -> None:
        assert world.ledger.order("c1", [Status.RUNNING], Status.HALTED, "aborted by alice")

    at_phase(world, "h100-1", Phase.TAKEN, abort)
    world.run()
    assert set(world.phases().values()) == {"skipped"}
    assert all(not node.flags and not node.history for node in world.slurm.nodes.values())


def test_slots_keep_inside_their_windows(tmp_path):
    from slurm_gsp.campaign.windows import parse_window  # noqa: PLC0415

    limits = replace(LIMITS, windows=(parse_window("09:00-10:00"),))
    world = World(tmp_path, limits=limits)
    begun: list[datetime] = []
    seen: set[str] = set()

    def watch() -> None:
        for record in world.state.nodes:
            if record.phase is Phase.TAKEN and record.node not in seen:
                seen.add(record.node)
                begun.append(world.slurm.now)

    world.each_tick = watch
    original = world.slurm.pass_time
    world.slurm.pass_time = lambda seconds: original(60 if world.slurm.now.hour not in {8, 9} else seconds)
    world.run(20000)
    assert world.state.status is Status.DONE
    assert {moment.hour for moment in begun} == {9}
    assert all(moment.minute < 51 for moment in begun)


# -- a controller that dies ----------------------------------------------------------------------------------


def final(world: World) -> tuple[object, ...]:
    """What a campaign left behind."""
    return (
        world.state.status,
        world.phases(),
        {name: (node.flags, node.driver, asked(node)) for name, node in world.slurm.nodes.items()},
        world.slurm.held,
        [(hold.node, hold.manifest) for hold in world.ledger.holds()],
    )


def small(tmp_path: Path) -> World:
    world = World(tmp_path, [Node("h100-1"), Node("h100-2"), Node("h100-3")], replace(LIMITS, soak_s=30))
    world.step = 20
    world.slurm.nodes["h100-2"].behaviour = Behaviour(hardware=Result.FAIL)
    return world


def run_until_dead(world: World, at: int, before: bool) -> bool:
    """Run, and die at the n-th record; whether it came to that."""
    world.ledger.records, world.ledger.die_at, world.ledger.before = 0, at, before
    try:
        world.run()
    except Killed:
        return True
    finally:
        world.ledger.die_at = None
    return False


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_death_at_every_record_of_a_campaign(tmp_path, before):
    """Die at the n-th record, start again, and end as the undisturbed run does: for every n."""
    undisturbed = small(tmp_path / "0")
    undisturbed.run()
    wanted = final(undisturbed)
    assert wanted[0] is Status.HALTED and wanted[1]["h100-2"] == "rolled-back"
    deaths = 0
    for at in range(1, 500):
        world = small(tmp_path / str(at))
        if not run_until_dead(world, at, before):
            break
        deaths += 1
        world.run()
        assert final(world) == wanted, at
        assert world.slurm.wrong == [], at
    assert deaths > 60


def test_death_at_every_record_one_after_another(tmp_path):
    """One campaign in which no controller lives for longer than six records."""
    undisturbed = small(tmp_path / "0")
    undisturbed.run()
    world = small(tmp_path / "1")
    deaths = 0
    while run_until_dead(world, 4 + deaths % 3, before=deaths % 2 == 0):
        deaths += 1
        world.slurm.pass_time(5)
        assert deaths < 3000
    assert final(world) == final(undisturbed)
    assert world.slurm.wrong == [] and deaths > 20


# -- many together -------------------------------------------------------------------------------------------


class OneByOne(Executor):
    """Does what is to be done together one by one."""

    def perform_many(self, effects):
        return [answer for effect in effects for answer in super(OneByOne, self).perform_many([effect])]


def scheduled(world: World, executor: Executor, patience: int = 9) -> None:
    """Tick until all is reserved that can be, as `slurm-gsp schedule` does."""
    with world.ledger.lead("c1", 60) as lead:
        controller = Controller(world.terms, lead, replace(world.around(), executor=executor))
        for _ in range(patience):
            if lead.state().status is Status.SCHEDULING:
                controller.tick()


def troubled(tmp_path: Path) -> World:
    """Two reservations are there, and one of them has begun; another one is refused."""
    world = World(tmp_path)
    world.slurm.held["gsp_c1_h100-3"] = ("h100-3", NOW + timedelta(days=3), NOW + timedelta(days=4), True)
    world.slurm.held["gsp_c1_a100-3"] = ("a100-3", NOW - timedelta(hours=1), NOW + timedelta(days=4), True)
    refuse = world.slurm.reserve

    def reserve(name, node, span, users, *, ignore_jobs):
        if node == "l40s-2":
            raise SlurmError("Error creating the reservation: Unspecified error")
        refuse(name, node, span, users, ignore_jobs=ignore_jobs)

    world.slurm.reserve = reserve
    return world


def test_together_is_as_one_by_one(tmp_path):
    """The same reservations, records, answers by node and lines of history, in fewer records."""
    ends = []
    for way in (Executor, OneByOne):
        world = troubled(tmp_path / way.__name__)
        world.ledger.records = 0
        scheduled(world, way(world.slurm, world.terms))
        events = [
            (event.node, event.kind, event.what, event.data) for event in world.ledger.events(campaign="c1")
        ]
        ends.append((world.phases(), world.state, world.slurm.held, events, world.told))
    assert ends[0] == ends[1]
    phases, _, held, events, told = ends[0]
    assert phases["l40s-2"] == "planned" and sorted({*phases.values()}) == ["planned", "reserved"]
    assert len(held) == 11 and all(start >= NOW for _, start, *_ in held.values())
    kinds = [kind for node, kind, *_ in events if node == "h100-3"]
    assert kinds == [EventKind.DECIDED, EventKind.INTENT, EventKind.DONE, EventKind.DECIDED]
    assert "l40s-2: reserve: Error creating the reservation: Unspecified error" in told


def test_a_campaign_whose_effects_are_done_together_is_as_one_by_one(tmp_path):
    ends = []
    for way in (Executor, OneByOne):
        world = World(tmp_path / way.__name__)
        world.slurm.nodes["a100-2"].behaviour = Behaviour(hardware=Result.FAIL)
        world.slurm.users_submit(4000, ["h100-2", "l40s-1"])
        around = world.around
        world.around = lambda around=around, way=way, world=world: replace(
            around(), executor=way(world.slurm, world.terms)
        )
        world.run()
        events = [
            (event.node, event.kind, event.what, event.data) for event in world.ledger.events(campaign="c1")
        ]
        ends.append((final(world), world.state, events, world.told, world.slurm.now))
        assert world.slurm.wrong == []
    assert ends[0] == ends[1]


def test_a_thousand_are_a_few_records(tmp_path):
    world = World(tmp_path, [Node(f"h100-{number}") for number in range(1000)])
    world.ledger.records = 0
    scheduled(world, Executor(world.slurm, world.terms), 2)
    assert len(world.slurm.held) == 1000 and world.ledger.records < 15


@pytest.mark.parametrize("made", [0, 5, 12])
def test_death_among_reservations_that_are_made_together(tmp_path, made):
    """Some are made, and no outcome is in the ledger: the next controller finishes, and makes none twice."""
    undisturbed = World(tmp_path / "0")
    scheduled(undisturbed, Executor(undisturbed.slurm, undisturbed.terms))
    world = World(tmp_path / "1")
    many = world.slurm.change_many

    def die(changes):
        many(changes[:made])
        raise Killed

    world.slurm.change_many = die
    with pytest.raises(Killed):
        scheduled(world, Executor(world.slurm, world.terms))
    assert set(world.phases().values()) == {"planned"} and len(world.slurm.held) == made
    world.slurm.change_many = many
    scheduled(world, Executor(world.slurm, world.terms))
    assert world.slurm.held == undisturbed.slurm.held and world.phases() == undisturbed.phases()
    world.run()
    assert set(world.phases().values()) == {"returned"} and world.slurm.wrong == []


def test_slurm_away_among_them_stops_the_tick_and_keeps_what_was_made(tmp_path):
    world = World(tmp_path)
    many = world.slurm.change_many

    def half(changes):
        away = ControllerAway("Unable to contact slurm controller")
        return (*many(changes[:6]), *[away] * len(changes[6:]))

    world.slurm.change_many = half
    with pytest.raises(ControllerAway):
        scheduled(world, Executor(world.slurm, world.terms))
    assert sorted(world.phases().values()) == ["planned"] * 6 + ["reserved"] * 6
    world.slurm.change_many = many
    scheduled(world, Executor(world.slurm, world.terms))
    assert set(world.phases().values()) == {"reserved"}


def test_where_slurm_cannot_be_asked_no_other_of_them_is_brought_in_order(tmp_path):
    """Those that are there already need a request each, and each would wait for an answer."""
    world = World(tmp_path)
    effects = [Reserve(node, NOW + timedelta(days=1), 600) for node in world.slurm.nodes]
    executor = Executor(world.slurm, world.terms)
    assert set(executor.perform_many(effects)) == {None}
    tried = []

    def move(name, span, *, ignore_jobs):
        tried.append(name)
        raise ControllerAway("Unable to contact slurm controller")

    world.slurm.move = move
    assert [type(answer) for answer in executor.perform_many(effects)] == [ControllerAway] * 12
    assert len(tried) == 1


def test_the_ledger_tells_every_effect_and_its_outcome(world):
    world.run()
    events = world.ledger.events(campaign="c1", node="h100-2")
    kinds = [event.kind for event in events]
    assert kinds.count(EventKind.INTENT) == kinds.count(EventKind.DONE) > 5
    steps = [event.what.partition(":")[0].partition(",")[0] for event in events if " -> " in event.what]
    assert steps[0] == "planned -> reserved" and steps[-1] == "returning -> returned"
    assert {event.by for event in events} == {"root"}
    decided = next(event for event in events if event.what.startswith("rebooted -> verifying"))
    assert decided.data["seen"]["proof"]["result"] == "pass"

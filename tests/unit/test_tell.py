"""When a node tells Slurm what it runs: once after a boot, on every change, and never for nothing."""

import random
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from test_hook import (
    EVIDENCE,
    FINDING,
    FINE,
    HEALTH,
    HUNG,
    SKEW,
    XID,
    FakeSlurm,
    Machine,
    check,
    diagnosis,
    finding,
    node,
    proof,
    proven,
    quick,
    realigned,
)

from slurm_gsp.config import Config, Health, Slurm, Verify
from slurm_gsp.core.finding import Verdict
from slurm_gsp.core.published import Result, read_published, time_text
from slurm_gsp.core.reading import Unknown
from slurm_gsp.hook.main import HealthCheck
from slurm_gsp.hook.tell import CHECK_S
from slurm_gsp.node import journal as journals
from slurm_gsp.slurm.client import Denied

BOOTED = datetime(2026, 11, 21, 22, 0, tzinfo=UTC)
NOW = Config(health=HEALTH, verify=Verify(publish_spread_s=0))


class Teller(Machine):
    """A node whose kernel says when it booted."""

    @property
    def host(self):
        return replace(super().host, booted=lambda: BOOTED)


@pytest.fixture
def machine(tmp_path):
    return Teller(tmp_path)


@pytest.fixture
def slurm():
    return FakeSlurm()


def published(slurm):
    return read_published(slurm.state.extra)


def run(machine, slurm, *whys, config=NOW):
    return [check(machine, slurm, why, config) for why in whys]


def test_once_after_a_boot_and_not_again(machine, slurm):
    """Not in the first look, for whose end slurmd waits before it registers."""
    assert (run(machine, slurm, "first"), slurm.calls) == ([FINE], [])
    assert machine.memory.next_full <= machine.now
    assert run(machine, slurm, "due", "moved", "unsettled", "due") == [FINE] * 4
    assert slurm.calls == ["node", "annotate"]
    values = published(slurm)
    assert (values["nvidia_driver"], values["gsp_verdict"]) == (EVIDENCE.loaded.value, "consistent")
    assert (values["gsp_seen"], values["gsp_booted"]) == ("boot-1", time_text(BOOTED))
    assert values["gsp_manifest"] == ""


def test_each_boot_is_told_once(machine, slurm):
    run(machine, slurm, "first", "due")
    machine.boot = "boot-2"
    run(machine, slurm, "first", "due", "due")
    assert (slurm.calls, published(slurm)["gsp_seen"]) == (["node", "annotate"] * 2, "boot-2")


def test_a_change_is_told_at_once(machine, slurm):
    run(machine, slurm, "first", "due")
    machine.found = diagnosis(finding("next-kernel"), finding("drift"))
    run(machine, slurm, "moved", "moved")
    assert slurm.calls == ["node", "annotate"] * 2
    assert (published(slurm)["gsp_verdict"], published(slurm)["gsp_faults"]) == (
        "latent",
        "next-kernel,drift",
    )
    machine.found = diagnosis()
    run(machine, slurm, "moved", "moved")
    assert (published(slurm)["gsp_verdict"], published(slurm)["gsp_faults"]) == ("consistent", "")


def test_what_can_no_longer_be_read_is_taken_out(machine, slurm):
    slurm.state = replace(slurm.state, extra='{"rack":"7"}')
    run(machine, slurm, "first", "due")
    machine.look = lambda past, level: (replace(EVIDENCE, kernel=Unknown("k", "why")), diagnosis())
    assert "gsp_kernel" in published(slurm)
    run(machine, slurm, "moved")
    values = published(slurm)
    assert ("gsp_kernel" in values, values["rack"], "nvidia_driver" in values) == (False, "7", True)


def test_a_drain_and_what_is_told_share_one_read(machine, slurm):
    run(machine, slurm, "first", "due")
    slurm.calls.clear()
    machine.found = diagnosis(SKEW)
    assert run(machine, slurm, "moved", "bad", "bad") == [FINDING] * 3
    assert slurm.calls == ["drain_unless", "partition_nodes", "drain gsp:umd-skew kmd=1 umd=2", "annotate"]
    assert (published(slurm)["gsp_verdict"], slurm.state.reason) == ("mismatch", "gsp:umd-skew kmd=1 umd=2")


def test_a_node_that_is_somebody_elses_is_told_of_all_the_same(machine, slurm):
    slurm.state = node("IDLE+DRAIN", "fan")
    machine.found = diagnosis(SKEW)
    run(machine, slurm, "first", "bad")
    assert (published(slurm)["gsp_faults"], slurm.state.reason) == ("umd-skew", "fan")


@pytest.mark.parametrize(("lead", "runs"), [(XID, 3), (HUNG, 2)])
def test_a_lead_is_told_when_it_has_repeated(machine, slurm, lead, runs):
    run(machine, slurm, "first", "due")
    machine.found = diagnosis(lead)
    run(machine, slurm, *["bad"] * (runs - 1))
    assert published(slurm)["gsp_verdict"] == "consistent"
    run(machine, slurm, "bad")
    assert published(slurm)["gsp_faults"] == lead.code


def test_nodes_that_boot_together_do_not_tell_together(machine, slurm):
    random.seed(1)  # a moment in the very second of the first look is possible, and would be told
    config = Config(health=HEALTH, verify=Verify(publish_spread_s=300))
    moments = []
    for number in range(20):
        machine.boot = f"boot-{number}"
        run(machine, slurm, "first", config=config)
        moments.append(machine.memory.next_full - machine.now)
        run(machine, slurm, "moved", config=config)
    assert slurm.calls == []
    assert all(-1 <= moment <= 300 for moment in moments)
    assert max(moments) - min(moments) > 100
    machine.now += moments[-1]
    run(machine, slurm, "due", config=config)
    assert slurm.calls == ["node", "annotate"]


def test_a_failure_is_tried_again_later_and_costs_nothing_else(machine, slurm):
    slurm.away = True
    assert run(machine, slurm, "first", "due", "moved") == [FINE] * 3
    assert slurm.calls == ["node"]
    assert machine.memory.next_full == machine.now + HEALTH.retry_interval_s
    slurm.away = False
    machine.now += HEALTH.retry_interval_s
    run(machine, slurm, "due")
    assert published(slurm)["gsp_verdict"] == "consistent"


def test_a_record_that_has_no_room_is_left_and_tried_again(machine, slurm):
    slurm.state = replace(slurm.state, extra="x" * 2000)
    assert run(machine, slurm, "first", "due", "moved") == [FINE] * 3
    assert slurm.calls == ["node"]


def test_a_refusal_drains_nothing(machine, slurm):
    slurm.refuses = Denied("Invalid user id")
    assert run(machine, slurm, "first", "due") == [FINE, FINE]
    assert not slurm.state.drained


def test_what_a_drain_asked_in_vain_is_not_asked_again(machine, slurm):
    run(machine, slurm, "first", "due")
    slurm.calls.clear()
    slurm.away, machine.found = True, diagnosis(SKEW)
    assert run(machine, slurm, "bad", "bad") == [FINDING] * 2
    assert slurm.calls == ["drain_unless"]
    slurm.away = False
    machine.now = machine.memory.next_ask
    run(machine, slurm, "bad")
    assert published(slurm)["gsp_verdict"] == "mismatch"


def test_a_run_without_time_left_leaves_it_to_the_next(machine, slurm):
    run(machine, slurm, "first")
    slow = Config(health=HEALTH, verify=NOW.verify)

    def look(past, level):
        machine.now += slow.deadlines.run_s - 2 * slow.deadlines.slurm_s + 1
        return EVIDENCE, diagnosis()

    host = replace(machine.host, look=look)
    HealthCheck(slow, slurm, host, report_only=False).run("due")
    assert slurm.calls == []
    run(machine, slurm, "due")
    assert slurm.calls == ["node", "annotate"]


def test_a_record_that_was_lost_is_written_again_within_a_day(machine, slurm):
    run(machine, slurm, "first", "due")
    slurm.state = replace(slurm.state, extra="")
    machine.now += CHECK_S / 2
    run(machine, slurm, "due")
    assert (slurm.calls, published(slurm)) == (["node", "annotate"], {})
    machine.now += CHECK_S / 2
    run(machine, slurm, "due", "due")
    assert (slurm.calls, published(slurm)["gsp_seen"]) == (["node", "annotate"] * 2, "boot-1")


def test_a_record_is_looked_at_after_slurm_conf_changed(machine, slurm, tmp_path):
    conf = tmp_path / "slurm.conf"
    conf.write_text("ClusterName=a\n")
    config = replace(NOW, slurm=Slurm(conf=str(conf)))
    run(machine, slurm, "first", "due", "moved", config=config)
    assert slurm.calls == ["node", "annotate"]
    conf.write_text("ClusterName=ab\n")
    run(machine, slurm, "moved", "moved", config=config)
    assert slurm.calls == ["node", "annotate", "node"]
    assert f"'{conf}'" in (machine.folder / "run/watch").read_text()


@pytest.mark.parametrize("where", ["extra", "comment"])
def test_it_is_told_where_the_configuration_says(machine, slurm, where):
    config = replace(NOW, verify=Verify(publish=where, publish_spread_s=0))
    run(machine, slurm, "first", "due", config=config)
    told = [bool(read_published(text)) for text in (slurm.state.extra, slurm.state.comment)]
    assert told == [where == "extra", where == "comment"]


def test_switched_off_it_tells_nothing(machine, slurm):
    config = replace(NOW, verify=Verify(publish="off", publish_spread_s=0))
    run(machine, slurm, "first", "due", "moved", config=config)
    assert slurm.calls == []


def test_report_only_tells_nothing(machine, slurm):
    assert [check(machine, slurm, "bad", NOW, report_only=True) for _ in range(3)] == [FINE] * 3
    assert slurm.calls == []


def test_a_node_without_gpus_has_nothing_to_tell(machine, slurm):
    machine.found = diagnosis(verdict=Verdict.NO_GPU)
    run(machine, slurm, "first", "due", "moved")
    assert slurm.calls == []


def test_the_proof_of_a_realignment_brings_the_tuple_with_it(machine, slurm):
    realigned(machine)
    places = journals.Places(machine.folder / "lib")
    journals.save_pin(places, journals.load_journal(places).pinned)
    run(machine, slurm, "first", "due", "moved")
    assert slurm.calls == ["node", "annotate"]
    assert (proof(slurm), proven(machine)) == (quick(Result.PASS), True)
    values = published(slurm)
    assert (values["gsp_manifest"], values["gsp_verdict"]) == ("2026-11@0123456789ab", "consistent")


def test_a_driver_that_could_not_be_read_is_not_proven_as_none(machine, slurm):
    slurm.state = replace(slurm.state, extra='{"nvidia_driver":"570.172.08"}')
    realigned(machine)
    machine.look = lambda past, level: (replace(EVIDENCE, loaded=Unknown("x", "y")), diagnosis())
    run(machine, slurm, "first", "due", "due")
    assert proof(slurm) is not None
    assert "nvidia_driver" not in published(slurm)


def test_jitter_keeps_days_apart(machine, slurm):
    config = replace(NOW, health=Health(jitter=0.2))
    run(machine, slurm, "first", "due", config=config)
    assert 0.8 * CHECK_S <= machine.memory.next_check - machine.now <= CHECK_S

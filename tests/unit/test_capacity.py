"""The simulator that says what a campaign costs: its rules, on clusters small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import capacity
from bench.capacity import GPUS, HOUR, REALIGN_S, WARM_UP_S, WAYS, Job, made_up, nothing, read_swf, simulate
from slurm_gsp.campaign.model import Limits

LIMITS = Limits(max_out_percent=20.0, soak_s=int(HOUR))
SPAN_S = 7 * 24 * HOUR


def whole(submit: float, run: float, limit: float, nodes: int = 1) -> Job:
    return Job(submit, nodes, GPUS, run, limit)


@pytest.mark.parametrize("name", WAYS)
def test_a_way_takes_every_node_through_and_keeps_what_it_promises(name):
    way, keeps = WAYS[name]
    jobs = made_up(capacity.MIXES["mixed"], 10, (WARM_UP_S + SPAN_S) / HOUR, 1)
    outcome = simulate(10, jobs, way, LIMITS, SPAN_S)
    assert outcome.took_s < SPAN_S
    assert outcome.lost_s >= 10 * GPUS * REALIGN_S * 0.999, "less than the realignments themselves"
    assert (outcome.most_out <= 2) is (keeps != "no")


@pytest.mark.parametrize("name", WAYS)
def test_an_empty_cluster_loses_the_realignments_alone(name):
    outcome = simulate(10, [], WAYS[name][0], LIMITS, SPAN_S)
    assert outcome.lost_s == pytest.approx(10 * GPUS * REALIGN_S)


def test_a_drain_loses_nothing_before_the_job_ends_and_a_reservation_until_its_limit():
    """One job on each node, at half of its limit in the end; the queue wants no less than a day."""
    begin = WARM_UP_S - HOUR
    jobs = [whole(begin, 4 * HOUR, 8 * HOUR)] * 10 + [whole(begin + 1, 24 * HOUR, 24 * HOUR)] * 40
    drain = simulate(10, jobs, WAYS["`scontrol reboot ASAP` on all"][0], LIMITS, SPAN_S)
    each = simulate(10, jobs, WAYS["each at its last job's end"][0], LIMITS, SPAN_S)
    assert drain.lost_s == pytest.approx(10 * GPUS * REALIGN_S)
    assert each.lost_s == pytest.approx(10 * GPUS * (REALIGN_S + 4 * HOUR))
    assert (drain.took_s, each.took_s) == pytest.approx((3.5 * HOUR, 7.5 * HOUR), abs=301)


def test_backfill_uses_a_node_until_its_slot():
    begin = WARM_UP_S - HOUR
    long, short = whole(begin, 4 * HOUR, 8 * HOUR), whole(begin + 1, 3 * HOUR, 3 * HOUR)
    way = WAYS["each at its last job's end"][0]
    assert simulate(1, [long, short], way, LIMITS, SPAN_S).lost_s == pytest.approx(GPUS * REALIGN_S)
    too_long = replace(short, limit=9 * HOUR)
    lost = simulate(1, [long, too_long], way, LIMITS, SPAN_S).lost_s
    assert lost == pytest.approx(GPUS * (REALIGN_S + 4 * HOUR))


def test_jobs_share_nodes_and_the_first_of_the_queue_is_not_delayed():
    """Two halves share a node; a wide job waits for it, and behind that what would delay it."""
    half, wide = Job(0, 1, 4, 2 * HOUR, 2 * HOUR), Job(1, 2, 8, HOUR, HOUR)
    longer, fits = Job(2, 1, 4, 9 * HOUR, 9 * HOUR), Job(3, 1, 4, HOUR, HOUR)
    cluster = capacity.Cluster(2, [half, half, wide, longer, fits])
    cluster.env.run(until=HOUR / 2)
    assert (sorted(cluster.free), cluster.queue) == ([0, 4], [wide, longer])
    cluster.env.run(until=2.5 * HOUR)
    assert (list(cluster.free), cluster.queue) == ([0, 0], [longer])


def test_a_log_in_the_standard_workload_format(tmp_path):
    log = tmp_path / "log.swf"
    log.write_text(
        "; Version: 2.2\n"
        "1 100 5 3600 16 -1 -1 16 7200 -1 1 1 1 -1 1 -1 -1 -1\n"
        "2 40 5 60 3 -1 -1 -1 -1 -1 1 1 1 -1 1 -1 -1 -1\n"
        "3 50 5 -1 8 -1 -1 8 60 -1 0 1 1 -1 1 -1 -1 -1\n"
    )
    assert read_swf(log, 1, 10) == [Job(0, 1, 3, 60, 60), Job(60, 2, 8, 3600, 7200)]
    log.write_text("; nothing ran\n")
    with pytest.raises(SystemExit, match="no job in it that ran"):
        read_swf(log, 1, 10)


def test_without_maintenance_nothing_is_lost():
    jobs = made_up(capacity.MIXES["short"], 4, 24, 1)
    outcome = simulate(4, jobs, nothing, LIMITS, 24 * HOUR)
    assert (outcome.lost_s, outcome.most_out) == (0, 0)

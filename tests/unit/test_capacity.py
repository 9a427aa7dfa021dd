"""The simulator that says what a campaign costs: its rules, on clusters small enough to count by hand."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest

from bench import capacity
from bench.capacity import (
    GPUS,
    HOUR,
    REALIGN_S,
    WARM_UP_S,
    WAYS,
    Job,
    Outcome,
    made_up,
    nothing,
    read_swf,
    simulate,
    told,
    windows,
)
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


DAY = 24 * HOUR
SWF = """\
; MaxNodes: 4
;Note: Åke Sandgren collected this log from the system of his own centre
1 100 5 3600 16 -1 -1 16 7200 -1 1 1 1 -1 1 -1 -1 -1
2 40 5 60 3 -1 -1 -1 90 -1 0 1 1 -1 1 -1 -1 -1
3 30 5 -1 8 -1 -1 8 60 -1 5 1 1 -1 1 -1 -1 -1
"""


def line(submit: float, run: float, processors: int, limit: float, status: int = 1) -> str:
    return f"1 {submit} 0 {run} {processors} -1 -1 -1 {limit} -1 {status} 1 1 -1 1 -1 -1 -1\n"


@pytest.mark.parametrize(("name", "pack"), [("log.swf", bytes), ("log.swf.gz", gzip.compress)])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_a_log_in_the_standard_workload_format(tmp_path, name, pack, encoding):
    log = tmp_path / name
    log.write_bytes(pack(SWF.encode(encoding)))
    read = read_swf(log, 1, 10)
    assert read.jobs == [Job(0, 1, 3, 60, 90), Job(60, 2, 8, 3600, 7200)]
    assert {"MaxNodes: 4", "in the log: 3 jobs", "skipped, for they never ran: 1"} <= set(read.notes)


def test_a_log_without_a_job_that_ran(tmp_path):
    log = tmp_path / "log.swf"
    log.write_text("; nothing ran\n" + line(0, -1, 1, 60))
    with pytest.raises(SystemExit, match="no job in it that ran"):
        read_swf(log, 1, 10)


def test_a_run_ends_at_its_limit_and_parts_of_a_job_are_skipped(tmp_path):
    log = tmp_path / "log.swf"
    log.write_text(
        line(0, 61, 8, 60) + line(1, 60, 8, 60) + "".join(line(2, 30, 8, 60, n) for n in (2, 3, 4))
    )
    read = read_swf(log, 1, 10)
    assert read.jobs == [Job(0, 1, 8, 60, 60), Job(1, 1, 8, 60, 60)]
    assert {"cut at their limit: 50.0%", "skipped, for they are parts of others: 3"} <= set(read.notes)


@pytest.mark.parametrize("limit", [-1, 0])
def test_a_job_without_a_limit_gets_the_one_that_was_asked_for_and_no_guess(tmp_path, limit):
    log = tmp_path / "log.swf"
    log.write_text(line(0, 7200, 8, limit) + line(1, 60, 8, 90))
    with pytest.raises(SystemExit, match="1 of 2 jobs have no limit; --limit-hours"):
        read_swf(log, 1, 10)
    read = read_swf(log, 1, 10, limit_s=HOUR)
    assert read.jobs == [Job(0, 1, 8, HOUR, HOUR), Job(1, 1, 8, 60, 90)]
    assert "without a limit of their own: 50.0%" in read.notes


def test_a_job_larger_than_the_cluster_is_skipped_and_told(tmp_path):
    log = tmp_path / "log.swf"
    log.write_text(line(0, 60, 24, 60) + line(50, 60, 8, 60))
    read = read_swf(log, 1, 2)
    assert read.jobs == [Job(0, 1, 8, 60, 60)]
    wanted = "skipped, for they are larger than the cluster: 1, 75.0% of the work; the largest wants 3 nodes"
    assert wanted in read.notes
    log.write_text(line(0, 60, 24, 60))
    with pytest.raises(SystemExit, match="fits on 2 nodes; --nodes 3 holds"):
        read_swf(log, 1, 2)


def test_a_log_is_cut_into_windows_of_their_own_time():
    jobs = [whole(day * DAY, HOUR, HOUR) for day in (0, 4, 5, 9.5, 10, 11)]
    assert windows(jobs, DAY, None) == [
        [whole(0, HOUR, HOUR), whole(4 * DAY, HOUR, HOUR)],
        [whole(0, HOUR, HOUR), whole(4.5 * DAY, HOUR, HOUR)],
    ]
    assert len(windows(jobs, DAY, 1)) == 1
    assert len(windows([whole(0, 1, 1), whole(1000 * DAY, 1, 1)], DAY, None)) == capacity.MOST_WINDOWS


@pytest.mark.parametrize(
    ("days", "asked", "why"),
    [
        (11, None, r"11\.0 days long, too short for 1 x \(4 to warm up \+ --days 14\): --days 7 would fit"),
        (40, 3, r"40\.0 days long, too short for 3 x .*: --days 9\.3 would fit"),
        (4, None, "no --days would fit"),
    ],
)
def test_a_log_too_short_for_its_windows_says_what_would_fit(days, asked, why):
    with pytest.raises(SystemExit, match=why):
        windows([whole(0, HOUR, HOUR), whole(days * DAY, HOUR, HOUR)], 14 * DAY, asked)


def test_the_table_tells_how_many_nodes_were_done_in_time():
    name, span = "one MAINT reservation over all", 24 * HOUR
    never, late = Outcome(lost_s=HOUR * GPUS), Outcome(lost_s=HOUR * GPUS, realigned=3)
    done = Outcome(lost_s=4 * HOUR * GPUS, realigned=4, took_s=span)
    base = Outcome()
    for runs, cells in (
        ([never], "— | — | 0 of 4"),
        ([late, done], "0.71 | 1.43 | 3 of 4"),
        ([done], "1.00 | 2.00 | 24"),
    ):
        assert f"| {name} | no | {cells} |" in told({name: [(run, base) for run in runs]}, 4)


def test_without_maintenance_nothing_is_lost():
    jobs = made_up(capacity.MIXES["short"], 4, 24, 1)
    outcome = simulate(4, jobs, nothing, LIMITS, 24 * HOUR)
    assert (outcome.lost_s, outcome.most_out) == (0, 0)


def test_a_job_that_runs_to_its_limit_ends_before_the_reservation_behind_it():
    begin = WARM_UP_S - HOUR
    jobs = [whole(begin, 4 * HOUR, 8 * HOUR), whole(begin + 1, 4 * HOUR, 4 * HOUR)]
    outcome = simulate(1, jobs, WAYS["each at its last job's end"][0], LIMITS, SPAN_S)
    assert outcome.lost_s == pytest.approx(GPUS * REALIGN_S)

"""One look of a running campaign, over what a real Slurm said."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from slurm_gsp import process
from slurm_gsp.campaign.look import Job, parse_look
from slurm_gsp.core.published import Level, Result
from slurm_gsp.slurm.client import SlurmError
from slurm_gsp.slurm.fleet import CampaignText, read_campaign

RECORDED = Path(__file__).parent / "recorded/22.05.8"
NOW = datetime(2026, 11, 21, 23, 1, 30, tzinfo=UTC)
JOBS = """\
1|RUNNING|alice|2026-11-22T00:30:51|n[1-2]|train
3|RUNNING|bob|NONE|n6|endless
8|COMPLETING|alice|2026-11-21T23:01:00|n1|train
9|NODE_FAIL|carol|2026-11-21T22:00:00|n[2-3]|lost
12|RUNNING|root|2026-11-22T00:00:00|n1|gsp-verify
"""
OURS = """\
12|RUNNING|root|2026-11-22T00:00:00|n1|gsp c1/realign/1 n1
11|FAILED|root|2026-11-21T23:00:00|n1|gsp c1/realign/1 n1
13|PENDING|root|N/A||gsp c1/realign/1 n2
"""
TEXT = CampaignText(
    nodes=(RECORDED / "nodes.txt").read_text(),
    reservations=(RECORDED / "reservations.txt").read_text(),
    jobs=JOBS,
    verifications=OURS,
)
EXTRA = (
    'Extra={"nvidia_driver":"580.95.05","gsp_operation":"c1/realign/1",'
    '"gsp_proof":"quick:pass","gsp_boot":"b1"}'
)


def test_nodes_of_the_campaign_are_read_in_full_and_all_are_counted():
    look = parse_look(TEXT, ["n1", "n3", "n9"], NOW)
    assert sorted(look.nodes) == ["n1", "n3"] and look.seen("n9") is None
    one = look.nodes["n1"]
    assert [(job.id, job.user, job.end) for job in one.jobs] == [
        ("1", "alice", datetime(2026, 11, 22, 0, 30, 51, tzinfo=UTC)),
        ("8", "alice", datetime(2026, 11, 21, 23, 1, tzinfo=UTC)),
    ]
    assert one.failed == () and not one.out
    assert [job.id for job in look.nodes["n3"].failed] == ["9"] and look.nodes["n3"].out
    assert look.sizes == {"main": 8, "gpu": 6, "debug": 3}
    assert look.out == {
        "main": {"n3", "n4", "n5", "n6", "n8"},
        "gpu": {"n3", "n4", "n5", "n6"},
        "debug": {"n6", "n8"},
    }


def test_a_maintenance_reservation_takes_a_node_out_before_its_flag_says_so():
    soon = NOW + timedelta(hours=1)
    text = replace(
        TEXT,
        reservations=(
            f"ReservationName=gsp_c1_n1 StartTime={NOW:%Y-%m-%dT%H:%M:%S} EndTime={soon:%Y-%m-%dT%H:%M:%S} "
            "Duration=01:00:00 Nodes=n1 NodeCnt=1 Flags=MAINT,SPEC_NODES\n"
        ),
    )
    look = parse_look(text, ["n1"], NOW)
    assert (
        "n1" in look.out["gpu"]
        and "n1" not in parse_look(text, ["n1"], NOW - timedelta(minutes=1)).out["gpu"]
    )
    held = look.nodes["n1"].reservation("gsp_c1_n1")
    assert held is not None and (held.start, held.maint) == (NOW, True)
    assert look.nodes["n1"].reservation("gsp_c2_n1") is None


def test_a_job_without_an_end_has_none():
    assert parse_look(TEXT, ["n6"], NOW).nodes["n6"].jobs == (Job("3", "RUNNING", "bob", None, ("n6",)),)


DETAIL = " GresDrain=N/A GresUsed="


@pytest.mark.parametrize(
    ("gres", "used", "full"),
    [
        ("gpu:h100:2", "gpu:h100:2(IDX:0-1)", True),
        ("gpu:h100:2(S:0-1)", "gpu:h100:2(IDX:0,1)", True),
        ("gpu:h100:2", "gpu:h100:1(IDX:0)", False),
        ("gpu:h100:2", "gpu:h100:0(IDX:N/A)", False),
        ("gpu:2", "gpu:(null):2(IDX:0-1)", True),
        ("gpu:h100:2,gpu:a100:1,nic:4", "gpu:h100:2(IDX:0-1),gpu:a100:0(IDX:N/A),nic:4", False),
        ("gpu:h100:2,gpu:a100:1,nic:4", "gpu:h100:2(IDX:0-1),gpu:a100:1(IDX:2),nic:0", True),
        ("nic:4", "nic:4", False),
        ("(null)", "0", False),
    ],
)
def test_whether_all_gpus_of_a_node_are_taken(gres, used, full):
    nodes = TEXT.nodes.replace("Gres=gpu:h100:2 ", f"Gres={gres}{DETAIL}{used} ", 1)
    assert parse_look(replace(TEXT, nodes=nodes), ["n1"], NOW).nodes["n1"].full is full


def test_a_node_is_full_too_where_all_cpus_are_taken_and_not_where_somebody_writes_so():
    first, rest = TEXT.nodes.split("\n", 1)
    for line, full in (
        (first.replace("State=MIXED", "State=ALLOCATED"), True),
        (f"{first} Comment=a Gres=gpu:2{DETAIL}gpu:2", False),
    ):
        look = parse_look(replace(TEXT, nodes=f"{line}\n{rest}"), ["n1"], NOW)
        assert look.nodes["n1"].full is full


def test_our_own_jobs_by_what_they_are_for():
    look = parse_look(TEXT, ["n1", "n2"], NOW)
    assert [(job.id, job.ended) for job in look.verifications["gsp c1/realign/1 n1"]] == [
        ("11", True),
        ("12", False),
    ]
    assert [(job.id, job.nodes) for job in look.verifications["gsp c1/realign/1 n2"]] == [("13", ())]


def test_a_proof_and_the_driver_are_read_from_the_nodes_record():
    text = replace(TEXT, nodes=TEXT.nodes.replace('Extra={"nvidia_driver":"580.95.05"}', EXTRA))
    proof = parse_look(text, ["n2"], NOW).nodes["n2"].proof
    assert proof is not None
    assert (proof.operation, proof.level, proof.result, proof.boot) == (
        "c1/realign/1", Level.QUICK, Result.PASS, "b1",
    )  # fmt: skip
    assert parse_look(text, ["n2"], NOW).nodes["n2"].driver == "580.95.05"
    assert parse_look(TEXT, ["n1"], NOW).nodes["n1"].proof is None


@pytest.mark.parametrize(
    ("part", "text"),
    [("nodes", ""), ("nodes", "garbage\n"), ("jobs", "1|RUNNING\n"), ("verifications", "1|2|3\n")],
)
def test_what_is_no_answer_of_slurm(part, text):
    with pytest.raises(SlurmError):
        parse_look(replace(TEXT, **{part: text}), ["n1"], NOW)


def test_four_reads_whatever_the_size():
    asked: list[str] = []

    def run(argv, *, deadline_s, env=None):
        asked.append(" ".join(argv))
        assert env == {"TZ": "UTC0", "SLURM_TIME_FORMAT": "standard", "SLURM_CONF": "/s.conf"}
        return process.Finished(tuple(argv), 0, f"{len(asked)}", "")

    text = read_campaign(run, scontrol="/b/scontrol", squeue="/b/squeue", conf="/s.conf")
    assert text == CampaignText("2", "3", "4", "1")
    assert asked[0] == "/b/squeue -h -a -t all -n gsp-verify -o %A|%T|%u|%e|%N|%k"
    assert asked[1:3] == ["/b/scontrol -a -d -o show node", "/b/scontrol -a -o show reservation"]
    assert "NODE_FAIL" in asked[3]

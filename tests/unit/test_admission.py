"""What a job asks of the driver, and what becomes of one whose node does not have it."""

from dataclasses import dataclass, field, replace

import pytest
from test_hook import EVIDENCE, FINE, HEALTH, FakeSlurm, Machine, check, diagnosis, say

from slurm_gsp.collect.root import Root
from slurm_gsp.config import Config, ConfigError, Verify, parse_config
from slurm_gsp.core.admission import Demand, demands_of, feature_of, refusal, with_feature
from slurm_gsp.core.finding import Verdict
from slurm_gsp.core.pinned import Pinned
from slurm_gsp.core.published import DRIVER_KEY, MANIFEST_KEY, read_published
from slurm_gsp.core.reading import Absent, Known, Unknown
from slurm_gsp.hook.admit import LEAVE_S, Admission
from slurm_gsp.node import journal as journals
from slurm_gsp.process import Finished
from slurm_gsp.slurm.client import ControllerAway, Denied, Features, SlurmError
from slurm_gsp.slurm.jobs import ScontrolJobs

DRIVER = Demand(DRIVER_KEY, "580.95.05")
OTHER = Demand(DRIVER_KEY, "570.172.08")
MANIFEST = Demand(MANIFEST_KEY, "2026-11@0123456789ab")


# What is asked


@pytest.mark.parametrize(
    ("text", "demands"),
    [
        ("driver-580.95.05", [DRIVER]),
        ("ib&driver-580.95.05", [DRIVER]),
        ("ib,driver-580.95.05,rack7", [DRIVER]),
        ("driver-580.95.05&driver-580.95.05", [DRIVER]),
        ("driver-580.95.05&driver-570.172.08", [DRIVER, OTHER]),
        ("", []),
        ("ib", []),
        ("driver-580", []),
        ("driver-a100.2", []),
        ("driver-580.95.05-open", []),
        ("mydriver-580.95.05", []),
        ("driver-580.95.05|ib", []),
        ("(driver-580.95.05&ib)|x", []),
        ("(driver-580.95.05)", []),
        ("[driver-580.95.05*1&driver-570.172.08*1]", []),
        ("driver-580.95.05*2", []),
    ],
)
def test_only_a_plain_list_of_features_is_judged(text, demands):
    assert demands_of(text, "", features=True) == tuple(demands)
    assert demands_of(text, "", features=False) == ()


@pytest.mark.parametrize(
    ("text", "demands"),
    [
        ("nvidia_driver=580.95.05", [DRIVER]),
        ("gsp_manifest=2026-11@0123456789ab", [MANIFEST]),
        ("nvidia_driver=580.95.05&gsp_manifest=2026-11@0123456789ab", [DRIVER, MANIFEST]),
        ("rack=7,nvidia_driver=580.95.05,watts<=700", [DRIVER]),
        ("", []),
        ("nvidia_driver!=580.95.05", []),
        ("nvidia_driver>=580", []),
        ("nvidia_driver==580.95.05", []),
        ("nvidia_driver=580.95.05|rack=7", []),
        ("(nvidia_driver=580.95.05)", []),
        ("as in nvidia_driver=580.95.05, please", []),
        ("nvidia_driver=580.95.05&&rack=7", []),
        ("nvidia_driver=", []),
        (" nvidia_driver=580.95.05", []),
        ('{"nvidia_driver":"580.95.05"}', []),
        ("nvidia_umd=580.95.05", []),
    ],
)
def test_of_extra_only_plain_equalities_are_judged(text, demands):
    """As slurmctld reads them, which takes blanks for part of a key."""
    assert demands_of("", text, features=False) == tuple(demands)


@pytest.mark.parametrize(
    ("reading", "why"),
    [
        (Known("580.95.05", "s"), ""),
        (Known("570.172.08", "s"), "driver 570.172.08, the job asks for 580.95.05"),
        (Absent("s"), "driver none, the job asks for 580.95.05"),
        (Unknown("s", "w"), ""),
    ],
)
def test_what_could_not_be_read_refuses_nothing(reading, why):
    assert refusal([DRIVER], {DRIVER_KEY: reading}) == why


def test_a_jobs_words_are_repeated_with_care():
    asked = Demand(DRIVER_KEY, "5'$(x)\n" + "9" * 500)
    told = refusal([asked], {DRIVER_KEY: Known("570.1", "s")})
    assert told == "driver 570.1, the job asks for 5--(x)-" + "9" * 57


@pytest.mark.parametrize(
    ("before", "ours", "after"),
    [
        ((), "driver-2.2", ("driver-2.2",)),
        (("a", "b"), "driver-2.2", ("a", "b", "driver-2.2")),
        (("a", "driver-1.1", "b"), "driver-2.2", ("a", "driver-2.2", "b")),
        (("driver-1.1", "a", "driver-2.2"), "driver-2.2", ("driver-2.2", "a")),
        (("a", "driver-1.1", "b"), "", ("a", "b")),
        (
            ("driver-a", "driver-580", "driver-1.1x", "a", "a"),
            "",
            ("driver-a", "driver-580", "driver-1.1x", "a", "a"),
        ),
    ],
)
def test_features_of_others_stay_in_their_order(before, ours, after):
    assert with_feature(before, ours) == after
    assert with_feature(after, ours) == after


def test_an_unusual_version_is_no_feature():
    assert [feature_of(text) for text in ("580.95.05", "", "580", "580.95-x")] == [
        "driver-580.95.05",
        "",
        "",
        "",
    ]


# The node keeps its feature

ON = Config(health=HEALTH, verify=Verify(publish_spread_s=0, feature=True))
OURS = f"driver-{EVIDENCE.loaded.value}"


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def slurm():
    return FakeSlurm()


def site(*names):
    return Features(names, names)


def run(machine, slurm, *whys, config=ON):
    return [check(machine, slurm, why, config) for why in whys]


def test_feature_and_tuple_are_one_update(machine, slurm):
    slurm.state = replace(slurm.state, features=site("ib", "driver-1.1", "rack"))
    run(machine, slurm, "first", "due", "moved", "due")
    assert slurm.calls == ["node", "annotate"]
    assert slurm.state.features == site("ib", OURS, "rack")
    assert read_published(slurm.state.extra)[DRIVER_KEY] == EVIDENCE.loaded.value


def test_features_that_are_available_and_not_active_stay_so(machine, slurm):
    slurm.state = replace(slurm.state, features=Features(("a", "b"), ("b",)))
    run(machine, slurm, "first", "due")
    assert slurm.state.features == Features(("a", "b", OURS), ("b", OURS))


def test_switched_off_features_are_left_alone(machine, slurm):
    slurm.state = replace(slurm.state, features=site("driver-1.1"))
    run(machine, slurm, "first", "due", config=replace(ON, verify=Verify(publish_spread_s=0)))
    assert slurm.state.features == site("driver-1.1")


@pytest.mark.parametrize("loaded", [Absent("s"), Unknown("s", "w")])
def test_a_driver_that_is_gone_or_cannot_be_read_takes_its_feature_along(machine, slurm, loaded):
    run(machine, slurm, "first", "due")
    machine.look = lambda past, level: (replace(EVIDENCE, loaded=loaded), diagnosis())
    run(machine, slurm, "moved")
    assert slurm.state.features == Features()


def test_what_slurmctld_forgot_is_written_again_with_the_next_look_at_it(machine, slurm):
    run(machine, slurm, "first", "due")
    slurm.state = replace(slurm.state, features=site("ib"))
    machine.now += HEALTH.full_interval_s - 1
    run(machine, slurm, "moved")
    assert slurm.calls == ["node", "annotate"]
    machine.now += 1
    run(machine, slurm, "due", "moved")
    assert (slurm.state.features, slurm.calls) == (site("ib", OURS), ["node", "annotate"] * 2)


def test_it_needs_a_place_to_publish():
    with pytest.raises(ConfigError, match="feature"):
        parse_config('[verify]\npublish = "off"\nfeature = true\n', "c")
    assert parse_config("[verify]\nfeature = true\n", "c").verify.feature


# The prolog


@dataclass
class FakeJobs:
    """A job's life, and what was asked."""

    requeues: bool = True
    away: int = 0
    mute: bool = False
    calls: list[str] = field(default_factory=list)

    def exact(self, job):
        if self.away:
            self.away -= 1
            raise ControllerAway("no answer")
        return job

    def explain(self, job, text):
        if self.mute:
            raise Denied("no")
        self.calls.append(f"explain {job} {text}")

    def requeue_held(self, job):
        self.calls.append(f"requeue {job}")
        return self.requeues

    def cancel(self, job):
        self.calls.append(f"cancel {job}")


WHY = "slurm-gsp: n1 runs driver 570.172.08, the job asks for 580.95.05; not started there"


def admit(machine, jobs, config=ON, loaded="570.172.08", **environment):
    sysfs = machine.folder / "root/sys/module/nvidia"
    sysfs.mkdir(parents=True, exist_ok=True)
    (sysfs / "version").write_text(f"{loaded}\n")
    waited = []
    host = machine.host
    root = Root(machine.folder / "root")
    one = Admission(config, jobs, host.node, host.places, say, root, waited.append)
    may = one.admit({"SLURM_JOB_ID": "7", **environment})
    assert waited == ([] if may else [LEAVE_S])
    return may


ASKS = {"SLURM_JOB_CONSTRAINTS": "ib&driver-580.95.05"}


@pytest.mark.parametrize(
    ("environment", "loaded"),
    [
        ({}, "570.172.08"),
        ({"SLURM_JOB_CONSTRAINTS": "ib"}, "570.172.08"),
        (ASKS, "580.95.05"),
        ({"SLURM_JOB_EXTRA": "nvidia_driver=580.95.05|x=1"}, "570.172.08"),
    ],
)
def test_a_job_that_has_what_it_asks_for_costs_slurm_nothing(machine, environment, loaded):
    jobs = FakeJobs()
    assert admit(machine, jobs, loaded=loaded, **environment)
    assert (jobs.calls, machine.host.places.stale("n1").exists()) == ([], False)


@pytest.mark.parametrize("environment", [ASKS, {"SLURM_JOB_EXTRA": "nvidia_driver=580.95.05"}])
def test_another_driver_sends_the_job_back_held_with_the_reason(machine, environment, capsys):
    jobs = FakeJobs()
    assert not admit(machine, jobs, **environment)
    assert jobs.calls == [f"explain 7 {WHY}", "requeue 7"]
    assert "n1 runs driver 570.172.08, the job asks for 580.95.05; requeued, held" in capsys.readouterr().err


def test_a_feature_means_nothing_where_features_are_not_ours(machine):
    config = Config(health=HEALTH, verify=Verify(publish_spread_s=0))
    assert admit(machine, FakeJobs(), config, **ASKS)


def test_what_cannot_be_requeued_is_cancelled(machine):
    jobs = FakeJobs(requeues=False)
    assert not admit(machine, jobs, **ASKS)
    assert jobs.calls[1:] == ["requeue 7", "cancel 7"]


def test_a_component_goes_with_its_whole_job(machine):
    jobs = FakeJobs()
    assert not admit(machine, jobs, SLURM_HET_JOB_ID="6", **ASKS)
    assert jobs.calls[1:] == ["requeue 6"]


def test_a_comment_that_is_refused_lets_nothing_in(machine):
    jobs = FakeJobs(mute=True)
    assert not admit(machine, jobs, **ASKS)
    assert jobs.calls == ["requeue 7"]


def test_slurm_is_asked_twice_and_then_the_hook_fails_open(machine):
    jobs = FakeJobs(away=1)
    assert not admit(machine, jobs, **ASKS)
    assert jobs.calls[-1] == "requeue 7"
    with pytest.raises(SlurmError):
        admit(machine, FakeJobs(away=2), **ASKS)


@pytest.mark.parametrize(("pinned", "may"), [("2026-11", True), ("2026-10", False), (None, False)])
def test_a_manifest_is_compared_with_the_pin(machine, pinned, may):
    if pinned:
        pin = Pinned(pinned, "0123456789ab", "h100", "580.95.05", "open", 8, fabric_manager=True)
        journals.save_pin(journals.Places(machine.host.places.lib), pin)
    asked = {"SLURM_JOB_EXTRA": "gsp_manifest=2026-11@0123456789ab"}
    assert admit(machine, FakeJobs(), **asked) is may


def test_a_pin_that_cannot_be_read_refuses_nothing(machine):
    machine.host.places.lib.mkdir(parents=True)
    machine.host.places.pin.write_text("{")
    assert admit(machine, FakeJobs(), SLURM_JOB_EXTRA="gsp_manifest=x")


def test_the_next_health_check_tells_anew(machine, slurm):
    run(machine, slurm, "first", "due")
    slurm.state = replace(slurm.state, features=site("driver-580.95.05"))
    admit(machine, FakeJobs(), **ASKS)
    assert (machine.folder / "run/due").read_text() == "0\n"
    assert not (machine.folder / "run/log-cursor").exists()
    assert run(machine, slurm, "due", "due", "moved") == [FINE] * 3
    assert (slurm.calls, slurm.state.features) == (["node", "annotate"] * 2, site(OURS))


def test_a_stale_record_is_corrected_also_where_there_is_nothing_to_tell_any_more(machine, slurm):
    run(machine, slurm, "first")
    slurm.state = replace(slurm.state, features=site("driver-580.95.05"))
    machine.found = diagnosis(verdict=Verdict.NO_GPU)
    admit(machine, FakeJobs(), **ASKS)
    run(machine, slurm, "due", "due")
    assert slurm.state.features == Features()
    assert slurm.calls == ["node", "annotate"]


# What Slurm is asked


def jobs_client(*answers):
    told = []

    def run(argv, *, deadline_s, env=None):
        told.append(" ".join(argv))
        rc, stdout, stderr = answers[len(told) - 1]
        return Finished(tuple(argv), rc, stdout, stderr)

    return ScontrolJobs(run, scontrol="/opt/slurm/bin/scontrol"), told


def test_a_task_of_an_array_is_named_so_that_it_is_no_other():
    """The last task to start has the number of the whole array."""
    shown = "JobId=8 ArrayJobId=7 ArrayTaskId=1 JobName=x\n\nJobId=7 ArrayJobId=7 ArrayTaskId=3 JobName=x\n"
    client, told = jobs_client((0, shown, ""), (0, "JobId=9 JobName=JobId=9 ArrayJobId=1\n", ""))
    assert (client.exact("7"), client.exact("9")) == ("7_3", "9")
    assert told == ["/opt/slurm/bin/scontrol -o show job 7", "/opt/slurm/bin/scontrol -o show job 9"]
    with pytest.raises(ValueError, match="not the id"):
        client.exact("ALL")


@pytest.mark.parametrize(
    ("rc", "said", "answer"),
    [
        (0, "", True),
        (1, "Job is pending execution for job 7", True),
        (1, "Invalid job id specified", True),
        (1, "Job/step already completing or completed for job 7", True),
        (1, "Only batch jobs are accepted or processed for job 7", False),
        (1, "Requested operation is presently disabled for job 7", False),
    ],
)
def test_requeue(rc, said, answer):
    client, told = jobs_client((rc, "", said))
    assert client.requeue_held("7_3") is answer
    assert told == ["/opt/slurm/bin/scontrol requeuehold 7_3"]


def test_what_slurm_did_not_do_is_an_error():
    client, told = jobs_client(
        (1, "", "Unable to contact slurm controller"), (0, "", ""), (1, "", "Access denied")
    )
    with pytest.raises(ControllerAway):
        client.requeue_held("7")
    client.cancel("7")
    assert told[1] == "/opt/slurm/bin/scancel 7"
    with pytest.raises(SlurmError, match="Access denied"):
        client.cancel("7")

# ruff: noqa: E501 - one case a line
"""Realignments that dnf, rpm and zypper really did, played again: the same scripts, and judged to the same end.

``tests/rpm_runs.py`` says what is real here, and ``tests/record_rpm_runs.py`` records anew.
"""

import re
from copy import deepcopy

import pytest

from slurm_gsp.core.operation import Kind
from slurm_gsp.node import packages as pkg
from slurm_gsp.parse.packages import parse_rpm
from tests.rpm_runs import ANOTHER, COMMAND, RUNS, Player, load, make_target

WELL = ""
ENDS = {
    ("rhel", "fresh"): [WELL],
    ("rhel", "fresh-from-a-folder"): [WELL],
    ("rhel", "upgrade"): [WELL],
    ("rhel", "downgrade"): [WELL],
    ("rhel", "clean"): [WELL],
    ("rhel", "damaged"): [WELL, WELL],
    ("rhel", "stray"): [WELL],
    ("rhel", "other-branch"): [WELL],
    ("rhel", "foreign"): [r"step=6 purge: frame-capture-1\.0-1\.x86_64 needs a package of another driver: remove or pin it \(exit status 1\)"],
    ("rhel", "interrupted"): [WELL],
    ("rhel", "version-missing"): [r"step=1 preflight: no repository offers libnvidia-ml-3:570\.172\.08-1\.el9 \(exit status 1\)"],
    ("rhel", "need-older"): [WELL],
    ("rhel", "need-missing"): [r"step=2 fetch: Error: Problem.* nothing provides dkms >= 3\.2\.1 needed by kmod-nvidia-open-dkms-.*"],
    ("rhel", "repository-gone"): [r"step=1 preflight: Error: Failed to download metadata for repo 'driver': .*"],
    ("rhel", "staged"): [WELL, WELL],
    ("rhel", "spoiled"): [WELL, WELL],
    ("rhel", "digest"): [r"step=2 fetch: libnvidia-ml-570\.172\.08-1\.el9\.x86_64\.rpm: its SHA-256 is [0-9a-f]{64}, pinned is (?:0123456789abcdef){4}; nothing was installed"],
    ("rhel", "signature"): [r"step=2 fetch: Error: GPG check FAILED \(exit status 1\)", WELL],
    ("rhel", "lock"): [WELL],
    ("rhel", "no-plugin"): [WELL],
    ("rhel", "streams"): [WELL, WELL],
    ("suse", "fresh"): [WELL],
    ("suse", "fresh-from-a-folder"): [WELL],
    ("suse", "upgrade"): [WELL],
    ("suse", "downgrade"): [WELL],
    ("suse", "clean"): [WELL],
    ("suse", "damaged"): [WELL, WELL],
    ("suse", "stray"): [WELL],
    ("suse", "other-branch"): [WELL],
    ("suse", "foreign"): [r"step=6 purge: frame-capture-1\.0-1\.x86_64 needs a package of another driver: remove or pin it \(exit status 1\)"],
    ("suse", "interrupted"): [WELL],
    ("suse", "version-missing"): [r"step=1 preflight: no repository offers nvidia-compute-utils-G06=550\.163\.01-21\.1 \(exit status 1\)"],
    ("suse", "need-older"): [WELL],
    ("suse", "need-missing"): [r"step=2 fetch: error: not fetched, and not here: libOpenCL1 >= 2\.3\.1 is needed by nvidia-compute-G06-.*"],
    ("suse", "repository-gone"): [r"step=1 preflight: Error code: Connection failed \(exit status 4\)"],
    ("suse", "staged"): [WELL, WELL],
    ("suse", "spoiled"): [WELL, WELL],
    ("suse", "digest"): [r"step=2 fetch: nvidia-compute-utils-G06-550\.163\.01-21\.1\.x86_64\.rpm: its SHA-256 is [0-9a-f]{64}, pinned is (?:0123456789abcdef){4}; nothing was installed"],
    ("suse", "signature"): [r"step=1 preflight: Could not refresh the repositories because of errors\. \(exit status 4\)", WELL],
    ("suse", "lock"): [WELL],
}  # fmt: skip
"""How each run of a case has to end; whatever a new recording says."""
WITHOUT_CHANGE = {"clean", "damaged", "foreign"}
"""Cases that leave the versions as they were, though not for a step before the purge that failed."""


def played(tmp_path, family, recording):
    """All runs of a recording, and the player."""
    player = Player(tmp_path, family, recording)
    numbers = [number for number, one in enumerate(recording["runs"]) if one["do"] != "admin"]
    return [player.play(number) for number in numbers], player


def own(recording):
    """The runs that are the project's, not an admin's."""
    return [one for one in recording["runs"] if one["do"] != "admin"]


def judged(family, recording, database):
    """What a package database lacks of the pin, and what is stray in it."""
    target = make_target(family, recording, Kind.REALIGN)
    packages, pinned = parse_rpm("\n".join(database)), pkg.wanted(target.profile, family)
    return pkg.differences(packages, pinned, family), pkg.strays(packages, pinned, target.profile, family)


def test_every_case_is_played_and_told():
    assert {(path.parent.name, path.stem) for path in RUNS.rglob("*.json")} == ENDS.keys()
    lines = (RUNS.parents[3] / "docs/realign.md").read_text().splitlines()
    rows = lines[lines.index("| case | dnf | zypper |") + 2 :]
    cells = [row.strip("|").split("|") for row in rows[: rows.index("")]]
    told = {
        (family, case)
        for cell, *ends in cells
        for case in re.findall(r"`([a-z-]+)`", cell)
        for family, end in zip(("rhel", "suse"), ends, strict=True)
        if end.strip()
    }
    assert told == ENDS.keys()


@pytest.mark.parametrize(("family", "case"), ENDS)
def test_a_recorded_run_ends_as_it_did(tmp_path, family, case):
    recording = load(family, case)
    runs, _ = played(tmp_path, family, recording)
    for one, recorded, end in zip(runs, own(recording), ENDS[family, case], strict=True):
        assert one.as_recorded == {"end": recorded["end"], "scripts": recorded["scripts"], "unasked": ()}
        assert re.fullmatch(end, one.end)


@pytest.mark.parametrize(("family", "case"), ENDS)
def test_what_is_installed_in_the_end(family, case):
    """By the real package database, before and after, and the project's own judgement of it."""
    recording = load(family, case)
    for one in own(recording):
        if one["do"] != "stage" and one["end"] == WELL:
            assert judged(family, recording, one["after"]) == ((), ())
        else:
            assert one["after"] == one["before"]
    changed = any(one["after"] != one["before"] for one in own(recording))
    assert changed == (case not in WITHOUT_CHANGE and any(one["end"] == WELL for one in own(recording)))


@pytest.mark.parametrize("family", ["rhel", "suse"])
def test_locks_hold_until_they_are_lifted(family):
    recording = load(family, "lock")
    _, under_locks, _, lifted = recording["runs"]
    assert judged(family, recording, under_locks["after"]) == ((), ())
    differences, _ = judged(family, recording, lifted["after"])
    assert len(differences) == len(recording["pinned"])
    assert all(f" is {'3:' if family == 'rhel' else '0:'}580.95.05" in line for line in differences)


def test_a_module_stream_holds_the_branch():
    recording = load("rhel", "streams")
    upgrade = recording["runs"][-1]
    assert upgrade["calls"][0]["argv"] == ["dnf", "-y", "upgrade"]
    assert judged("rhel", recording, upgrade["after"]) == ((), ())


@pytest.mark.parametrize("case", ["upgrade", "staged"])
def test_the_locks_are_those_of_the_new_pin(case):
    """Also where no repository answers."""
    recording = load("rhel", case)
    said = [call.get("out", "") for call in recording["runs"][-1]["calls"] if "versionlock" in call["argv"]]
    for name, version in recording["pinned"].items():
        assert any(f"Deleting versionlock for: {name}-3:570.158.01-1.el9" in text for text in said)
        assert f"Adding versionlock on: {name}-{version}\n" in said[-1]


def test_without_its_plugin_dnf_holds_nothing_and_the_log_says_so(tmp_path):
    (run,), _ = played(tmp_path, "rhel", load("rhel", "no-plugin"))
    assert "dnf has no plugin versionlock here: nothing keeps an upgrade from the pinned packages" in run.log


@pytest.mark.parametrize("family", ["rhel", "suse"])
def test_a_file_with_another_digest_does_not_stay(tmp_path, family):
    recording = load(family, "digest")
    fetched = {
        name.rpartition("/")[2] for call in recording["runs"][0]["calls"] for name in call.get("files", ())
    }
    (run,), player = played(tmp_path, family, recording)
    wrong = run.end.split()[2].rstrip(":")
    assert wrong in fetched and player.staged() == fetched - {wrong}


def test_what_dnf_refused_is_never_installed(tmp_path):
    recording = load("rhel", "signature")
    refused, well = recording["runs"]
    fetched = {name.rpartition("/")[2] for call in refused["calls"] for name in call.get("files", {})}
    assert "driver-helper-1.0-1.x86_64.rpm" in fetched
    _, player = played(tmp_path, "rhel", recording)
    assert "driver-helper-1.0-1.x86_64.rpm" not in player.staged()
    assert not any(line.startswith("driver-helper ") for line in well["after"])


@pytest.mark.parametrize("family", ["rhel", "suse"])
def test_a_damaged_file_is_told_and_then_as_shipped(tmp_path, family):
    (first, second), _ = played(tmp_path, family, load(family, "damaged"))
    assert "is not as its package brought it" in first.log
    assert [script["name"] for script in first.scripts] == ["preflight", "fetch", "purge", "install", "hold"]
    assert [script["name"] for script in second.scripts] == ["hold"]


# --- a check that cannot fail is worth nothing ----------------------------------------------------------
def answer(recording, run, *words):
    """The recorded call whose words begin and end so."""
    calls = recording["runs"][run]["calls"]
    (found,) = [
        one
        for one in calls
        if one["argv"][: len(words) - 1] == list(words[:-1]) and one["argv"][-1] == words[-1]
    ]
    return found


def shows_another_version(recording):
    call = answer(
        recording,
        0,
        "rpm",
        "-q",
        "--queryformat",
        r"%{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\n",
        "libnvidia-ml",
    )
    call["out"] = call["out"].replace("172.08", "158.01")


def shows_none(recording):
    call = answer(
        recording,
        0,
        "rpm",
        "-q",
        "--queryformat",
        r"%{EPOCHNUM}:%{VERSION}-%{RELEASE} %{ARCH}\n",
        "nvidia-compute-G06",
    )
    call |= {"out": "package nvidia-compute-G06 is not installed\n", "rc": 1}


def offers_another_epoch(recording):
    call = answer(recording, 0, "dnf", "-q", "--refresh", "nvidia-driver-cuda-libs-3:570.172.08-1.el9")
    call["out"] = call["out"].replace("libnvidia-ml-3:", "libnvidia-ml-0:")


def offers_another_release(recording):
    call = answer(recording, 0, "zypper", "--non-interactive", "--no-refresh", "search", "nvidia-compute-G06")
    call["out"] = call["out"].replace("550.163.01-21.1", "550.163.01-21.2")


def rpm_refuses(recording):
    call = next(
        one for one in recording["runs"][0]["calls"] if one["argv"][:3] == ["rpm", "--upgrade", "--verbose"]
    )
    call |= {"rc": 2, "err": "error: Failed dependencies:\n\ta is needed by b\n"}


def fetches_nothing(recording):
    next(one for one in recording["runs"][0]["calls"] if "--downloadonly" in one["argv"])["files"] = {}


def fetches_less(recording):
    for call in recording["runs"][0]["calls"]:
        call["files"] = {
            name: digest for name, digest in call.get("files", {}).items() if "utils" not in name
        }


def fetches_something_else(recording):
    for call in recording["runs"][0]["calls"]:
        call["files"] = {name: "f" * 64 if "compute-G06" in name or "libnvidia-ml" in name else digest
                         for name, digest in call.get("files", {}).items()}  # fmt: skip


def is_not_fetched(recording):
    call = next(one for one in recording["runs"][0]["calls"] if "--test" in one["argv"])
    call["err"] = "error: Failed dependencies:\n\tc >= 2 is needed by d-1\n\te is needed by (installed) f-1\n"


def fails(recording):
    next(one for one in recording["runs"][0]["calls"] if one["argv"][:4] == ["dnf", "-q", "--disablerepo=*", "versionlock"]
         and "add" in one["argv"])["rc"] = 1  # fmt: skip


def answers_nothing(recording):
    call = next(one for one in recording["runs"][0]["calls"] if one.get("rc"))
    call |= {"rc": 0, "err": ""}


CHANGED = [
    ("rhel", "upgrade", shows_another_version, 'step=7 install: libnvidia-ml is "3:570.158.01-1.el9", pinned is 3:570.172.08-1.el9 (exit status 1)'),
    ("suse", "upgrade", shows_none, 'step=7 install: nvidia-compute-G06 is "", pinned is 550.163.01-21.1 (exit status 1)'),
    ("rhel", "upgrade", offers_another_epoch, "step=1 preflight: no repository offers libnvidia-ml-3:570.172.08-1.el9 (exit status 1)"),
    ("suse", "upgrade", offers_another_release, "step=1 preflight: no repository offers nvidia-compute-G06=550.163.01-21.1 (exit status 1)"),
    ("rhel", "downgrade", rpm_refuses, "step=7 install: error: Failed dependencies: a is needed by b (exit status 2)"),
    ("suse", "downgrade", rpm_refuses, "step=7 install: error: Failed dependencies: a is needed by b (exit status 2)"),
    ("rhel", "upgrade", fetches_nothing, "step=2 fetch: kmod-nvidia-open-dkms 3:570.172.08-1.el9 was not fetched: no kmod-nvidia-open-dkms-570.172.08-1.el9.*.rpm"),
    ("suse", "other-branch", fetches_less, "step=2 fetch: nvidia-compute-utils-G06 550.163.01-21.1 was not fetched: no nvidia-compute-utils-G06-550.163.01-21.1.*.rpm"),
    ("rhel", "fresh", fetches_something_else, "step=2 fetch: libnvidia-ml-570.172.08-1.el9.x86_64.rpm: its SHA-256 is " + "f" * 64),
    ("suse", "fresh", fetches_something_else, "step=2 fetch: nvidia-compute-G06-550.163.01-21.1.x86_64.rpm: its SHA-256 is " + "f" * 64),
    ("suse", "stray", is_not_fetched, "step=2 fetch: error: not fetched, and not here: c >= 2 is needed by d-1 (exit status 1)"),
    ("rhel", "lock", fails, "step=11 hold: Adding versionlock on: nvidia-driver-cuda-libs-3:570.172.08-1.el9 (exit status 1)"),
    ("rhel", "repository-gone", answers_nothing, "step=1 preflight: no repository offers kmod-nvidia-open-dkms-3:570.172.08-1.el9 nvidia-kmod-common"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("family", "case", "change", "told"), CHANGED, ids=lambda value: getattr(value, "__name__", None)
)
def test_another_answer_ends_it_otherwise(tmp_path, family, case, change, told):
    recording = load(family, case)
    change(recording)
    (run,), _ = played(tmp_path, family, recording)
    assert run.end.startswith(told)
    assert run.as_recorded != {**load(family, case)["runs"][0], "unasked": ()}


@pytest.mark.parametrize(
    ("family", "stray"), [("rhel", "libnvidia-fbc 3:580.95.05-1.el9 x86_64"), ("suse", "nvidia-gl-G06 0:580.95.05-21.1 x86_64")]
)  # fmt: skip
def test_a_stray_more_makes_another_purge(tmp_path, family, stray):
    recording = load(family, "upgrade")
    recording["runs"][0]["calls"][0]["out"] += f"{stray}\n"
    (run,), _ = played(tmp_path, family, recording)
    assert run.end.startswith(
        f"step=6 purge: purge is another script than the recorded one: record anew with {COMMAND}"
    )
    assert run.scripts[-1]["rc"] == ANOTHER


@pytest.mark.parametrize("family", ["rhel", "suse"])
def test_without_the_stray_nothing_is_asked(tmp_path, family):
    recording = load(family, "stray")
    call = recording["runs"][0]["calls"][0]
    call["out"] = "".join(line for line in call["out"].splitlines(True) if "580.95.05" not in line)
    run = Player(tmp_path, family, recording).play(0)
    assert [script["name"] for script in run.scripts] == ["hold"] and run.unasked


@pytest.mark.parametrize("family", ["rhel", "suse"])
def test_files_as_shipped_leave_nothing_to_do(tmp_path, family):
    recording = load(family, "damaged")
    call = next(one for one in recording["runs"][0]["calls"] if "-V" in one["argv"])
    call |= {"out": call["out"].replace("S.5", "..."), "rc": 0}
    run = Player(tmp_path, family, recording).play(0)
    assert [script["name"] for script in run.scripts] == ["hold"] and run.unasked


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("family", ["rhel", "suse"])
def test_a_changed_script_asks_for_a_new_recording(tmp_path, family, number):
    recording = load(family, "upgrade")
    script = recording["runs"][0]["scripts"][number]
    script["sha256"] = "0" * 64
    run = Player(tmp_path, family, recording).play(0)
    told = f"{script['name']}: {script['name']} is another script than the recorded one: record anew with {COMMAND}"
    assert told in run.end


def test_no_other_call_is_answered(tmp_path):
    recording = load("rhel", "upgrade")
    changed = deepcopy(recording)
    call = next(one for one in changed["runs"][0]["calls"] if "--downloadonly" in one["argv"])
    call["argv"].remove("--allowerasing")
    (run,), _ = played(tmp_path, "rhel", changed)
    assert (
        run.end == f"step=2 fetch: {run.end.partition('fetch: ')[2]}"
        and f"(exit status {ANOTHER})" in run.end
    )
    assert run.unasked[0].startswith("asked: dnf -y ") and "--allowerasing" in run.unasked[0]

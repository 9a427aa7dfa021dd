"""The configuration: whole values for what is taken, whole messages for what is refused."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm_gsp.config import (
    DRAIN_DEFAULTS,
    Campaign,
    Config,
    ConfigError,
    Deadlines,
    Drain,
    Health,
    Node,
    Pin,
    Prolog,
    Realign,
    Redfish,
    Slurm,
    Verify,
    load_config,
    parse_config,
)

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"

EVERYTHING = """
[node]
expected_gpus = 8
gres_conf = ["/opt/slurm/gres.conf"]
[pin]
driver = "580.95.05"
flavour = "open"
[drain]
drift = true
umd-skew = false
[health]
full_interval_s = 600
log_interval_s = 60
jitter = 0
log_runs = 1
hung_runs = 4
breaker_share = 1
resume = true
retry_interval_s = 30
next = ["/usr/sbin/nhc", "-q"]
[prolog]
all_jobs = true
[deadlines]
slurm_s = 5
nvml_s = 20.5
command_s = 2
run_s = 59.5
[slurm]
scontrol = "/opt/slurm/bin/scontrol"
conf = "/opt/slurm/etc/slurm.conf"
[realign]
manifest = "/m/now.toml"
allowed_signers = "/m/signers"
revoked = "/m/revoked"
templates = "/m/templates"
downloads = "/m/cache"
reboot = ["/usr/bin/systemctl", "reboot"]
min_free_mb = 10
step_s = 60
lock_wait_s = 5
[verify]
dcgm = "required"
smoke = false
nccl = "/opt/all_reduce_perf"
nccl_min_gbs = 350
publish = "comment"
[campaign]
ledger = "postgresql+psycopg://gsp@db/gsp"
approvers = "/m/approvers"
users = ["maint"]
level = "workload"
command = "/opt/gsp"
attempts = 3
wait_s = 10
return_s = 20
proof_s = 30
verify_s = 60
gates = [["/usr/bin/true"], ["/usr/bin/test", "-e", "/x"]]
gate_s = 5
poll_s = 1
lease_s = 60
[redfish]
address = "https://{node}-bmc:8443"
overrides = "/m/bmcs.toml"
user = "reader"
password_file = "/m/password"
password_env = "BMC_PASSWORD"
auth = "basic"
ca_file = "/m/ca.pem"
verify = false
concurrency = 8
deadline_s = 5
total_s = 50.5
"""


def refused(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.toml")
    return caught.value.errors


def test_an_empty_file_is_all_defaults() -> None:
    assert parse_config("", "c.toml") == Config()


def test_every_key_is_taken() -> None:
    assert parse_config(EVERYTHING, "c.toml") == Config(
        node=Node(expected_gpus=8, gres_conf=("/opt/slurm/gres.conf",)),
        pin=Pin(driver="580.95.05", flavour="open"),
        drain=Drain(tuple({**DRAIN_DEFAULTS, "drift": True, "umd-skew": False}.items())),
        health=Health(
            full_interval_s=600,
            log_interval_s=60,
            jitter=0.0,
            log_runs=1,
            hung_runs=4,
            breaker_share=1.0,
            resume=True,
            retry_interval_s=30,
            next=("/usr/sbin/nhc", "-q"),
        ),
        prolog=Prolog(all_jobs=True),
        deadlines=Deadlines(slurm_s=5.0, nvml_s=20.5, command_s=2.0, run_s=59.5),
        slurm=Slurm("/opt/slurm/bin/scontrol", "/opt/slurm/etc/slurm.conf"),
        realign=Realign(
            manifest="/m/now.toml",
            allowed_signers="/m/signers",
            revoked="/m/revoked",
            templates="/m/templates",
            downloads="/m/cache",
            reboot=("/usr/bin/systemctl", "reboot"),
            min_free_mb=10,
            step_s=60.0,
            lock_wait_s=5,
        ),
        verify=Verify(
            dcgm="required",
            smoke=False,
            nccl=("/opt/all_reduce_perf",),
            nccl_min_gbs=350.0,
            publish="comment",
        ),
        campaign=Campaign(
            ledger="postgresql+psycopg://gsp@db/gsp",
            approvers="/m/approvers",
            users=("maint",),
            level="workload",
            command="/opt/gsp",
            attempts=3,
            wait_s=10,
            return_s=20,
            proof_s=30,
            verify_s=60,
            gates=(("/usr/bin/true",), ("/usr/bin/test", "-e", "/x")),
            gate_s=5.0,
            poll_s=1.0,
            lease_s=60,
        ),
        redfish=Redfish(
            address="https://{node}-bmc:8443",
            overrides="/m/bmcs.toml",
            user="reader",
            password_file="/m/password",
            password_env="BMC_PASSWORD",
            auth="basic",
            ca_file="/m/ca.pem",
            verify=False,
            concurrency=8,
            deadline_s=5.0,
            total_s=50.5,
        ),
    )


def test_next_may_be_one_path_or_empty() -> None:
    assert parse_config('[health]\nnext = "/usr/sbin/nhc"', "c").health.next == ("/usr/sbin/nhc",)
    assert parse_config('[health]\nnext = ""', "c").health.next == ()
    assert parse_config("[health]\nnext = []", "c").health.next == ()


def test_a_fault_code_of_another_version_does_not_drain() -> None:
    drain = Config().drain
    assert (drain.drains("umd-skew"), drain.drains("drift"), drain.drains("brand-new")) == (
        True,
        False,
        False,
    )


def test_a_config_can_be_a_key() -> None:
    assert {parse_config("", "a"), parse_config("# none\n", "b")} == {Config()}


OUT = "is out of range; take"

REFUSALS = [
    ("[helth]\n", "1: [helth]: there is no such table; did you mean \"health\"?"),
    ("[zzz]\n", "1: [zzz]: there is no such table; there are: "
                "node, pin, drain, health, prolog, deadlines, slurm, realign, verify, campaign, redfish"),
    ("resume = true\n", "1: resume: stands outside the tables; put it below the [table] that it belongs to"),
    ("health = 3\n", "1: [health]: must be a table, not the number 3; write [health] on a line of its own"),
    ("[health]\nresum = true\n", '2: [health] resum: there is no such key; did you mean "resume"?'),
    ("[prolog]\nxyz = 1\n", "2: [prolog] xyz: there is no such key; there are: all_jobs"),
    ("[drain]\n\numd_skew = true\n",
     '3: [drain] umd_skew: there is no such fault code; did you mean "umd-skew"?'),
    ("[drain]\ndrift = 1\n", "2: [drain] drift: must be true or false, not the number 1; "
                             "write drift = true, without quotes"),
    ('[drain]\ndrift = "no"\n', '2: [drain] drift: must be true or false, not the string "no"; '
                                "write drift = true, without quotes"),
    ("[node]\nexpected_gpus = true\n", "2: [node] expected_gpus: must be a whole number, not true; "
                                       "write it without quotes or point"),
    ("[node]\nexpected_gpus = 8.0\n", "2: [node] expected_gpus: must be a whole number, not the number 8.0; "
                                      "write it without quotes or point"),
    ("[node]\nexpected_gpus = -1\n", f"2: [node] expected_gpus: -1 {OUT} 0 to 1024"),
    ('[node]\ngres_conf = "/a"\n', "2: [node] gres_conf: must be a list of absolute paths, "
                                   'not the string "/a"; write gres_conf = ["/..."]'),
    ("[node]\ngres_conf = [1]\n", "2: [node] gres_conf: must be a list of absolute paths, not a list with "
                                  'other things than strings; write gres_conf = ["/..."]'),
    ('[node]\ngres_conf = ["/a", "b"]\n',
     '2: [node] gres_conf: "b" is not an absolute path; start it with /'),
    ("[pin]\ndriver = 580.95\n", "2: [pin] driver: must be a string, not the number 580.95; "
                                 'put it in quotes: driver = "580.95.05"'),
    ('[pin]\ndriver = "R580"\n',
     '2: [pin] driver: "R580" is not a driver version; write it like "580.95.05"'),
    ('[pin]\ndriver = "580.95.05\\n"\n', '2: [pin] driver: "580.95.05?" is not a driver version; '
                                         'write it like "580.95.05"'),
    ('[pin]\nflavour = "Open"\n',
     '2: [pin] flavour: "Open" is none of the choices; take "open" or "proprietary"'),
    ("[pin]\nflavour = 1979-05-27\n", "2: [pin] flavour: 1979-05-27 is none of the choices; "
                                      'take "open" or "proprietary"'),
    ("[health]\njitter = 0.6\n", f"2: [health] jitter: 0.6 {OUT} a number from 0 and up to 0.5"),
    ("[health]\njitter = nan\n", f"2: [health] jitter: nan {OUT} a number from 0 and up to 0.5"),
    ("[health]\njitter = true\n", "2: [health] jitter: must be a number, not true; write it without quotes"),
    ("[health]\nlog_runs = 0\n", f"2: [health] log_runs: 0 {OUT} 1 to 1000"),
    ("[health]\nbreaker_share = 0\n", f"2: [health] breaker_share: 0 {OUT} a number above 0 and up to 1"),
    ("[health]\nfull_interval_s = 0\n", f"2: [health] full_interval_s: 0 {OUT} 1 to 604800"),
    ("[health]\nnext = 5\n", "2: [health] next: must be a path in quotes, or a list of a path and its "
                             "arguments, not the number 5"),
    ('[health]\nnext = "nhc"\n', '2: [health] next: "nhc" is not an absolute path; '
                                 "hooks run without PATH: start it with /"),
    ('[health]\nnext = ["/nhc", "a\\u0000b"]\n',
     "2: [health] next: an argument holds a NUL character; remove it"),
    ("[deadlines]\nrun_s = 60\n", f"2: [deadlines] run_s: 60 {OUT} a number above 0 and below 60"),
    ("[deadlines]\nnvml_s = 0\n", f"2: [deadlines] nvml_s: 0 {OUT} a number above 0 and up to 60"),
    ("[deadlines]\nnvml_s = inf\n", f"2: [deadlines] nvml_s: inf {OUT} a number above 0 and up to 60"),
    ("\n[deadlines]\nslurm_s = 20\n",
     "2: [deadlines] run_s: slurm_s * 2 + nvml_s is 55, more than run_s = 45; a run "
     "must have time for the NVML "
     "probe and two Slurm calls: lower slurm_s or nvml_s, or raise run_s (below 60)"),
    ('[slurm]\nscontrol = "scontrol"\n',
     '2: [slurm] scontrol: "scontrol" is not an absolute path; start it with /'),
    ("[slurm]\nconf = 1\n", "2: [slurm] conf: must be an absolute path in quotes, not the number 1"),
    ('[redfish]\naddress = "http://{node}-bmc"\n',
     '2: [redfish] address: "http://{node}-bmc" is not an https address without a path; '
     'write it like "https://{node}-bmc"'),
    ('[redfish]\naddress = "https://{node}-bmc/redfish"\n',
     '2: [redfish] address: "https://{node}-bmc/redfish" is not an https address without a path; '
     'write it like "https://{node}-bmc"'),
    ('[redfish]\naddress = "https://root:calvin@{node}"\n',
     "2: [redfish] address: holds a user or a password; give them as user and password_file of [redfish]"),
    ('[redfish]\naddress = "https://bmc"\n', "2: [redfish] address: names one BMC for all nodes; put {node} "
                                             'into it: "https://{node}-bmc"'),
    ('[redfish]\nuser = "a b"\n', '2: [redfish] user: "a b" is not a user\'s name; write it like "reader"'),
    ('[redfish]\npassword_env = "$X"\n', '2: [redfish] password_env: "$X" is not the name of an environment '
                                         'variable; write it like "BMC_PASSWORD"'),
    ('[redfish]\npassword = "x"\n', '2: [redfish] password: there is no such key; '
                                    'did you mean "password_env"?'),
    ("[redfish]\nconcurrency = 0\n", f"2: [redfish] concurrency: 0 {OUT} 1 to 512"),
    ("[redfish]\ndeadline_s = 0\n", f"2: [redfish] deadline_s: 0 {OUT} a number above 0 and up to 3600"),
    ("health.jitter = 9\n", f"1: [health] jitter: 9 {OUT} a number from 0 and up to 0.5"),
    ("# x\n[ 'health' ]\n\"jitter\" = 9\n", f"3: [health] jitter: 9 {OUT} a number from 0 and up to 0.5"),
    ("[pin]\ndriver = 580.95.05\n", "2: not TOML: Expected newline or end of document after a statement "
                                    '(at line 2, column 16); a version is a string: put it in quotes, '
                                    'like "580.95.05"'),
    ("[prolog]\nall_jobs = True\n", "2: not TOML: Invalid value (at line 2, column 12); "
                                    "put paths in quotes, and write true or false in small letters"),
    ("[prolog\n", "1: not TOML: Expected ']' at the end of a table declaration (at line 1, column 8); "
                  "see config.example.toml"),
    ("\n[node]\nx = '''a\n\n", "4: not TOML: Expected \"'''\" (at end of document); see config.example.toml"),
    ("x = " + "[" * 5000, "1: not TOML: nested too deep; see config.example.toml"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "error"), REFUSALS, ids=lambda value: value[:40])
def test_a_mistake_is_named(text: str, error: str) -> None:
    assert refused(text) == (f"c.toml:{error}",)


def test_all_mistakes_are_named_at_once_in_the_order_of_the_file() -> None:
    text = '[slurm]\nscontrol = "x"\n[nod]\n[pin]\ndriver = 5\nx = 1\n[drain]\nzz = true\n'
    assert [line.split(": ")[:2] for line in refused(text)] == [
        ["c.toml:2", "[slurm] scontrol"],
        ["c.toml:3", "[nod]"],
        ["c.toml:5", "[pin] driver"],
        ["c.toml:6", "[pin] x"],
        ["c.toml:8", "[drain] zz"],
    ]


def test_a_message_is_one_printable_line_whatever_the_file_holds() -> None:
    (error,) = refused('[health]\n"a\\nb\\u001b" = 1\n')
    assert re.fullmatch(r"[ -~]+", error)


def test_a_number_of_many_digits_is_an_error_of_ours() -> None:
    assert refused("[health]\nlog_runs = " + "9" * 5000)
    assert refused("[health]\nlog_runs = 0x" + "f" * 5000) == (
        "c.toml:2: [health] log_runs: that number is out of range; take 1 to 1000",
    )


WORDS = st.sampled_from(
    ["[node]", "[drain]", "[health]", "[deadlines]", "next", "drift", "slurm_s", "jitter", "=", ".", '"', "'",
     "1", "0.5", "true", "\n", "#", "[", "]", "{", "}", ",", "nan", "/bin/x", "1979-05-27", " ", "é", "\0"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(WORDS, max_size=30).map("".join)))
def test_any_text_is_a_config_or_a_config_error(text: str) -> None:
    try:
        config = parse_config(text, "c.toml")
    except ConfigError as error:
        assert error.errors
        assert all(re.fullmatch(r"c\.toml:[1-9][0-9]*: [ -~]+", line) for line in error.errors)
    else:
        assert isinstance(config, Config)


# --- the file -----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "slurm-gsp"
    place.mkdir(mode=0o755)
    place.chmod(0o755)
    return place


def write(folder: Path, text: str = "[prolog]\nall_jobs = true\n", mode: int = 0o644) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def load_errors(path: Path, owner_uid: int | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, owner_uid=os.getuid() if owner_uid is None else owner_uid)
    return caught.value.errors


def test_a_file_is_loaded(folder: Path) -> None:
    assert load_config(write(folder), owner_uid=os.getuid()) == Config(prolog=Prolog(all_jobs=True))


def test_no_file_or_directory_is_all_defaults(folder: Path) -> None:
    assert load_config(folder / "config.toml", owner_uid=os.getuid()) == Config()
    assert load_config(folder / "none" / "config.toml", owner_uid=os.getuid()) == Config()


def test_a_file_that_must_exist(folder: Path) -> None:
    path = folder / "config.toml"
    with pytest.raises(ConfigError) as caught:
        load_config(path, must_exist=True, owner_uid=os.getuid())
    assert caught.value.errors == (f"{path}: there is no such file",)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(folder: Path, mode: int) -> None:
    path = write(folder, mode=mode)
    told = f"{path}: others than its owner can write it (mode {mode:04o}); chmod go-w {path}"
    assert load_errors(path) == (told,)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_can_write_is_refused(folder: Path, mode: int) -> None:
    path = write(folder)
    folder.chmod(mode)
    told = f"{folder}: others than its owner can write it (mode {mode:04o}); chmod go-w {folder}"
    assert load_errors(path) == (told,)


def test_a_file_and_a_directory_of_somebody_else_are_refused(folder: Path) -> None:
    path, uid = write(folder), os.getuid()
    assert load_errors(path, owner_uid=uid + 1) == tuple(
        f"{place}: belongs to uid {uid}, not to {uid + 1}; chown {uid + 1} {place}"
        for place in (folder, path)
    )


def test_a_symbolic_link_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "config.toml"
    path.symlink_to(write(tmp_path))
    assert load_errors(path) == (f"{path}: is a symbolic link; put the file itself there",)


def test_what_is_no_file_is_refused_and_not_waited_for(folder: Path) -> None:
    path = folder / "config.toml"
    os.mkfifo(path, 0o600)
    assert load_errors(path) == (f"{path}: is not a regular file; put a file there",)


def test_a_file_below_a_file_cannot_be_read(folder: Path) -> None:
    path = write(folder) / "config.toml"
    assert load_errors(path) == (f"{path}: cannot be read: Not a directory",)


def test_a_huge_file_is_refused(folder: Path) -> None:
    path = write(folder, "#" * (1024 * 1024 + 1))
    assert load_errors(path) == (f"{path}: is larger than 1048576 bytes; that is no configuration",)


def test_a_file_that_is_not_utf8(folder: Path) -> None:
    path = write(folder)
    path.write_bytes(b"# ok\n# \xff\n")
    assert load_errors(path) == (f"{path}:2: not UTF-8 text; save the file as UTF-8",)


# --- the example --------------------------------------------------------------------------------------------


def uncommented() -> str:
    """The example with every setting switched on: "#key = value" is one, "# text" is prose."""
    return re.sub(r"^#(?=\S)", "", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_is_the_defaults_as_it_stands_and_uncommented() -> None:
    assert parse_config(EXAMPLE.read_text(encoding="utf-8"), "example") == Config()
    assert parse_config(uncommented(), "example") == Config()


def keys_of_schema() -> set[str]:
    tables = {
        "node": Node,
        "pin": Pin,
        "health": Health,
        "prolog": Prolog,
        "deadlines": Deadlines,
        "slurm": Slurm,
        "realign": Realign,
        "verify": Verify,
        "campaign": Campaign,
        "redfish": Redfish,
    }
    names = {f"{name}.{one.name}" for name, kind in tables.items() for one in fields(kind)}
    return names | {f"drain.{code}" for code in DRAIN_DEFAULTS}


def test_the_example_names_every_key() -> None:
    found, table = set(), ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            table = header[1]
        if key := re.match(r"#(?:\s{4,})?([a-z_-]+) = ", line):
            found.add(f"{table}.{key[1]}")
    assert found == keys_of_schema()

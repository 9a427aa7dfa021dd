"""The configuration file, /etc/slurm-gsp/config.toml: read with care, and every mistake named at once.

What it says is executed as root (``next``, the paths of commands), so the file and its directory must belong
to root and be writable by nobody else. Without a file, every default holds.
"""

from __future__ import annotations

import errno
import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from slurm_gsp.toml_table import Problem, Table, nearest, placed, syntax_error

DEFAULT_PATH: Final = "/etc/slurm-gsp/config.toml"
MAX_BYTES: Final = 1024 * 1024
DAY_S: Final = 86400
HOOK_LIMIT_S: Final = 60
"""slurmd ends a HealthCheckProgram after this many seconds (Slurm 22.05 to 26.05)."""

DRAIN_DEFAULTS: Final[Mapping[str, bool]] = MappingProxyType({
    # mismatch
    "umd-skew": True,
    "kmd-split": True,
    "fw-missing": True,
    "fw-skew": True,
    "fw-damaged": True,
    "gsp-skew": True,
    "kmd-unbuilt": True,
    "kmd-unloaded": True,
    "fabric-skew": True,
    # elsewhere
    "sb-refused": True,
    "vbios": True,
    "nouveau": True,
    "wrong-flavour": True,
    "gpu-missing": True,
    "gsp-timeout": True,
    "gpu-lost": True,
    "driver-hung": True,
    "fw-interrupted": True,
    # latent
    "fw-gone": False,
    "reboot-pending": False,
    "next-kernel": False,
    "pkg-split": False,
    "drift": False,
    "gsp-off": False,
    "umd-missing": False,
})
"""Which fault codes drain a node unless the configuration says otherwise (docs: the fault catalogue)."""


class ConfigError(Exception):
    """The configuration cannot be used; ``errors`` has one line for each mistake."""

    def __init__(self, errors: Iterable[str]) -> None:
        self.errors: tuple[str, ...] = tuple(errors)
        super().__init__("\n".join(self.errors))


@dataclass(frozen=True, slots=True)
class Node:
    """What a node should have; ``expected_gpus`` None: gres.conf decides."""

    expected_gpus: int | None = None
    gres_conf: tuple[str, ...] = (
        "/etc/slurm/gres.conf",
        "/run/slurm/conf/gres.conf",
        "/etc/slurm-llnl/gres.conf",
    )


@dataclass(frozen=True, slots=True)
class Pin:
    """What is pinned; None: not pinned here."""

    driver: str | None = None
    flavour: str | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """Which fault codes drain a node."""

    codes: tuple[tuple[str, bool], ...] = tuple(DRAIN_DEFAULTS.items())

    def drains(self, code: str) -> bool:
        """Whether this fault drains a node; a code of another version does not."""
        return dict(self.codes).get(code, False)


@dataclass(frozen=True, slots=True)
class Health:
    """The health check: how often it looks, and when it acts."""

    full_interval_s: int = 3600
    log_interval_s: int = 120
    jitter: float = 0.2
    log_runs: int = 3
    hung_runs: int = 2
    breaker_share: float = 0.5
    resume: bool = False
    retry_interval_s: int = 300
    next: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prolog:
    """The prolog."""

    all_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long each step may take, in seconds."""

    slurm_s: float = 10.0
    nvml_s: float = 15.0
    command_s: float = 5.0
    run_s: float = 45.0


@dataclass(frozen=True, slots=True)
class Slurm:
    """Where Slurm is; ``conf`` empty: scontrol finds slurm.conf by itself. ``backend`` is for campaigns."""

    scontrol: str = "/usr/bin/scontrol"
    conf: str = ""
    backend: str = "auto"


@dataclass(frozen=True, slots=True)
class Realign:
    """The node side of a campaign. ``manifest`` is the pin where nobody names one; others lie beside it."""

    manifest: str = "/etc/slurm-gsp/manifests/current.toml"
    allowed_signers: str = ""
    revoked: str = ""
    templates: str = "/etc/slurm-gsp/templates"
    downloads: str = "/var/cache/slurm-gsp"
    reboot: tuple[str, ...] = ("/usr/sbin/reboot",)
    min_free_mb: int = 4096
    step_s: float = 1800.0
    lock_wait_s: int = 120


@dataclass(frozen=True, slots=True)
class Verify:
    """How a node proves itself, and where it says so."""

    dcgm: str = "if-present"
    smoke: bool = True
    nccl: tuple[str, ...] = ()
    nccl_min_gbs: float = 0.0
    publish: str = "extra"
    publish_spread_s: int = 600
    feature: bool = False


@dataclass(frozen=True, slots=True)
class Campaign:
    """The fleet side. Times in seconds: for a job past its limit, from reboot to return, until the node's own
    proof, for the verification job, for a gate command, between two ticks."""

    ledger: str = "sqlite:////var/lib/slurm-gsp/ledger.db"
    approvers: str = ""
    users: tuple[str, ...] = ("root",)
    level: str = "hardware"
    command: str = "/opt/slurm-gsp/.venv/bin/slurm-gsp"
    attempts: int = 2
    wait_s: int = 3600
    return_s: int = 3600
    proof_s: int = 900
    verify_s: int = 3600
    gates: tuple[tuple[str, ...], ...] = ()
    gate_s: float = 300.0
    poll_s: float = 15.0
    lease_s: int = 120


@dataclass(frozen=True, slots=True)
class Redfish:
    """Reads of firmware from BMCs. ``address`` is a template with {node}; ``overrides`` a file that wins over
    it. ``deadline_s`` is for one BMC, ``total_s`` for all of them."""

    address: str = ""
    overrides: str = ""
    user: str = ""
    password_file: str = ""
    password_env: str = ""
    auth: str = "session"
    ca_file: str = ""
    verify: bool = True
    concurrency: int = 32
    deadline_s: float = 30.0
    total_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration."""

    node: Node = field(default_factory=Node)
    pin: Pin = field(default_factory=Pin)
    drain: Drain = field(default_factory=Drain)
    health: Health = field(default_factory=Health)
    prolog: Prolog = field(default_factory=Prolog)
    deadlines: Deadlines = field(default_factory=Deadlines)
    slurm: Slurm = field(default_factory=Slurm)
    realign: Realign = field(default_factory=Realign)
    verify: Verify = field(default_factory=Verify)
    campaign: Campaign = field(default_factory=Campaign)
    redfish: Redfish = field(default_factory=Redfish)


def load_config(path: os.PathLike[str] | str, *, must_exist: bool = False, owner_uid: int = 0) -> Config:
    """The configuration in ``path``; all defaults if there is no such file, unless it ``must_exist``."""
    where = os.fspath(path)
    try:
        data = read_trusted(where, owner_uid)
    except FileNotFoundError:
        if must_exist:
            raise ConfigError([f"{where}: there is no such file"]) from None
        return Config()
    except OSError as error:
        raise ConfigError([f"{where}: cannot be read: {error.strerror}"]) from error
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError([f"{where}:{line}: not UTF-8 text; save the file as UTF-8"]) from error
    return parse_config(text, where)


def parse_config(text: str, where: str) -> Config:
    """The configuration that ``text`` says; ``where`` names its origin in the messages."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([syntax_error(text, where, error, "see config.example.toml")]) from error
    problems: list[Problem] = []
    tables = {
        name: Table((name,), document.get(name, {}), problems, noun=_NOUNS.get(name, "key"))
        for name in _TABLES
    }
    for name in document:
        if name not in tables:
            told = f"[{name}]: there is no such table{nearest(name, _TABLES)}"
            if not isinstance(document[name], dict):
                told = f"{name}: stands outside the tables; put it below the [table] that it belongs to"
            problems.append(((name,), told))
    config = Config(
        node=_node(tables["node"]),
        pin=_pin(tables["pin"]),
        drain=_drain(tables["drain"]),
        health=_health(tables["health"]),
        prolog=Prolog(all_jobs=tables["prolog"].switch("all_jobs", Prolog().all_jobs)),
        deadlines=_deadlines(tables["deadlines"]),
        slurm=_slurm(tables["slurm"]),
        realign=_realign(tables["realign"]),
        verify=_verify(tables["verify"]),
        campaign=_campaign(tables["campaign"]),
        redfish=_redfish(tables["redfish"]),
    )
    for table in tables.values():
        table.refuse_the_rest()
    if problems:
        raise ConfigError(placed(problems, text, where))
    return config


_TABLES: Final = (
    "node", "pin", "drain", "health", "prolog", "deadlines", "slurm", "realign", "verify", "campaign",
    "redfish",
)  # fmt: skip
NODE: Final = "{node}"
"""Stands for a node's name in the address of its BMC."""
_ADDRESS: Final = r"https://(?:[A-Za-z0-9._-]|\{node\}|\[[0-9A-Fa-f:.]+\])+(?::[0-9]{1,5})?/?"
LEVELS: Final = ("quick", "hardware", "workload")
BACKENDS: Final = ("auto", "scontrol", "pyslurm")
_NOUNS: Final = {"drain": "fault code"}


def _node(table: Table) -> Node:
    default = Node()
    return Node(
        expected_gpus=table.optional_whole("expected_gpus", 0, 1024),
        gres_conf=table.paths("gres_conf", default.gres_conf),
    )


def _pin(table: Table) -> Pin:
    return Pin(
        driver=table.driver_version("driver"), flavour=table.one_of("flavour", ("open", "proprietary"))
    )


def _drain(table: Table) -> Drain:
    return Drain(tuple((code, table.switch(code, default)) for code, default in DRAIN_DEFAULTS.items()))


def _health(table: Table) -> Health:
    default = Health()
    return Health(
        full_interval_s=table.whole("full_interval_s", default.full_interval_s, 1, 7 * DAY_S),
        log_interval_s=table.whole("log_interval_s", default.log_interval_s, 1, 7 * DAY_S),
        jitter=table.number("jitter", default.jitter, 0, 0.5),
        log_runs=table.whole("log_runs", default.log_runs, 1, 1000),
        hung_runs=table.whole("hung_runs", default.hung_runs, 1, 1000),
        breaker_share=table.number("breaker_share", default.breaker_share, 0, 1, above=True),
        resume=table.switch("resume", default.resume),
        retry_interval_s=table.whole("retry_interval_s", default.retry_interval_s, 1, 7 * DAY_S),
        next=table.command("next"),
    )


def _deadlines(table: Table) -> Deadlines:
    default = Deadlines()
    before = len(table.problems)
    deadlines = Deadlines(
        slurm_s=table.number("slurm_s", default.slurm_s, 0, HOOK_LIMIT_S, above=True),
        nvml_s=table.number("nvml_s", default.nvml_s, 0, HOOK_LIMIT_S, above=True),
        command_s=table.number("command_s", default.command_s, 0, HOOK_LIMIT_S, above=True),
        run_s=table.number("run_s", default.run_s, 0, HOOK_LIMIT_S, above=True, below=True),
    )
    needed = deadlines.slurm_s * 2 + deadlines.nvml_s
    if len(table.problems) == before and needed > deadlines.run_s:
        table.refuse(
            "run_s",
            f"slurm_s * 2 + nvml_s is {needed:g}, more than run_s = {deadlines.run_s:g}; "
            "a run must have time for the NVML probe and two Slurm calls: "
            "lower slurm_s or nvml_s, or raise run_s (below 60)",
        )
    return deadlines


def _slurm(table: Table) -> Slurm:
    default = Slurm()
    return Slurm(
        scontrol=table.path("scontrol", default.scontrol),
        conf=table.path("conf", default.conf, may_be_empty=True),
        backend=table.one_of("backend", BACKENDS) or default.backend,
    )


def _realign(table: Table) -> Realign:
    default = Realign()
    return Realign(
        manifest=table.path("manifest", default.manifest),
        allowed_signers=table.path("allowed_signers", default.allowed_signers, may_be_empty=True),
        revoked=table.path("revoked", default.revoked, may_be_empty=True),
        templates=table.path("templates", default.templates),
        downloads=table.path("downloads", default.downloads),
        reboot=table.command("reboot") or default.reboot,
        min_free_mb=table.whole("min_free_mb", default.min_free_mb, 0, 1 << 20),
        step_s=table.number("step_s", default.step_s, 0, DAY_S, above=True),
        lock_wait_s=table.whole("lock_wait_s", default.lock_wait_s, 0, DAY_S),
    )


def _verify(table: Table) -> Verify:
    default = Verify()
    verify = Verify(
        dcgm=table.one_of("dcgm", ("if-present", "required", "off")) or default.dcgm,
        smoke=table.switch("smoke", default.smoke),
        nccl=table.command("nccl"),
        nccl_min_gbs=table.number("nccl_min_gbs", default.nccl_min_gbs, 0, 100_000),
        publish=table.one_of("publish", ("extra", "comment", "off")) or default.publish,
        publish_spread_s=table.whole("publish_spread_s", default.publish_spread_s, 0, DAY_S),
        feature=table.switch("feature", default.feature),
    )
    if verify.feature and verify.publish == "off":
        table.refuse(
            "feature", 'needs publish: the feature is kept with what is published; set "extra" or "comment"'
        )
    return verify


def _campaign(table: Table) -> Campaign:
    default = Campaign()
    return Campaign(
        ledger=table.text("ledger", r"[a-z][a-z0-9+]*://\S*", "a database URL", default.ledger)
        or default.ledger,
        approvers=table.path("approvers", default.approvers, may_be_empty=True),
        users=table.texts("users", r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", "a user's name", "root")
        or default.users,
        level=table.one_of("level", LEVELS) or default.level,
        command=table.path("command", default.command),
        attempts=table.whole("attempts", default.attempts, 1, 10),
        wait_s=table.whole("wait_s", default.wait_s, 0, 30 * DAY_S),
        return_s=table.whole("return_s", default.return_s, 1, 7 * DAY_S),
        proof_s=table.whole("proof_s", default.proof_s, 1, 7 * DAY_S),
        verify_s=table.whole("verify_s", default.verify_s, 60, 7 * DAY_S),
        gates=table.commands("gates"),
        gate_s=table.number("gate_s", default.gate_s, 0, DAY_S, above=True),
        poll_s=table.number("poll_s", default.poll_s, 0, 3600, above=True),
        lease_s=table.whole("lease_s", default.lease_s, 10, DAY_S),
    )


def _redfish(table: Table) -> Redfish:
    default = Redfish()
    address = bmc_address(table, "address", "https://{node}-bmc", may_be_empty=True)
    if address and NODE not in address:
        table.refuse("address", f'names one BMC for all nodes; put {NODE} into it: "https://{NODE}-bmc"')
    return Redfish(
        address=address or default.address,
        overrides=table.path("overrides", default.overrides, may_be_empty=True),
        user=table.text("user", r"[!-~]{0,64}", "a user's name", "reader") or default.user,
        password_file=table.path("password_file", default.password_file, may_be_empty=True),
        password_env=table.text(
            "password_env", r"|[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable", "BMC_PASSWORD"
        )
        or default.password_env,
        auth=table.one_of("auth", ("session", "basic")) or default.auth,
        ca_file=table.path("ca_file", default.ca_file, may_be_empty=True),
        verify=table.switch("verify", default.verify),
        concurrency=table.whole("concurrency", default.concurrency, 1, 512),
        deadline_s=table.number("deadline_s", default.deadline_s, 0, 3600, above=True),
        total_s=table.number("total_s", default.total_s, 0, DAY_S, above=True),
    )


def bmc_address(table: Table, key: str, like: str, *, may_be_empty: bool = False) -> str | None:
    """The address of a BMC, or of many with {node} in it; a password in it is refused, and not repeated."""
    if "@" in str(table.values.get(key)):
        table.take(key)
        table.refuse(key, "holds a user or a password; give them as user and password_file of [redfish]")
        return None
    form = f"|{_ADDRESS}" if may_be_empty else _ADDRESS
    return table.text(key, form, "an https address without a path", like)


def read_trusted(where: str, owner_uid: int) -> bytes:
    """The bytes of a file that only its owner can change; what was checked is what is read."""
    path = Path(where).absolute()
    folder, name = str(path.parent), path.name
    errors: list[str] = []
    folder_fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        errors += _untrusted(os.fstat(folder_fd), folder, owner_uid)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=folder_fd)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            told = f"{where}: is a symbolic link; put the file itself there"
            raise ConfigError([*errors, told]) from error
    finally:
        os.close(folder_fd)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            errors.append(f"{where}: is not a regular file; put a file there")
        errors += _untrusted(status, where, owner_uid)
        if status.st_size > MAX_BYTES:
            errors.append(f"{where}: is larger than {MAX_BYTES} bytes; that is no configuration")
        if errors:
            raise ConfigError(errors)
        return file.read(MAX_BYTES)


def _untrusted(status: os.stat_result, path: str, owner_uid: int) -> list[str]:
    """Why this file or directory may have been changed by others."""
    errors = []
    if status.st_uid != owner_uid:
        owner = "root" if owner_uid == 0 else str(owner_uid)
        errors.append(f"{path}: belongs to uid {status.st_uid}, not to {owner}; chown {owner} {path}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        errors.append(f"{path}: others than its owner can write it (mode {mode:04o}); chmod go-w {path}")
    return errors

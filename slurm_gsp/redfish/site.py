"""One site's BMCs: where each is, and who asks."""

from __future__ import annotations

import os
import ssl
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeVar

from slurm_gsp.config import NODE, ConfigError, Redfish, bmc_address, read_trusted
from slurm_gsp.parse import ParseError
from slurm_gsp.parse.gres import expand_hostlist
from slurm_gsp.toml_table import Problem, Table, placed, syntax_error

MAX_PASSWORD_BYTES: Final = 4096
T = TypeVar("T")


class SiteError(Exception):
    """BMCs cannot be asked with this configuration; ``errors`` has one line for each reason."""

    def __init__(self, errors: list[str]) -> None:
        self.errors: tuple[str, ...] = tuple(errors)
        super().__init__("\n".join(errors))


@dataclass(frozen=True, slots=True)
class Access:
    """Who asks, and whom to trust; ``auth`` is "session" or "basic", ``ca_file`` "" this host's own trust."""

    user: str
    password: str = field(repr=False)
    auth: str = "session"
    ca_file: str = ""
    verify: bool = True


@dataclass(frozen=True, slots=True)
class Site:
    """Everything that a sweep goes by. ``overrides`` wins over ``template``, which may be empty."""

    access: Access
    template: str
    overrides: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    concurrency: int = Redfish().concurrency
    deadline_s: float = Redfish().deadline_s
    total_s: float = Redfish().total_s

    def address(self, node: str) -> str | None:
        """Where the node's BMC is; None where nothing says."""
        found = self.overrides.get(node) or self.template
        return found.replace(NODE, node).rstrip("/") or None


def load_site(config: Redfish, environ: Mapping[str, str], *, owner_uid: int = 0) -> Site:
    """The site as configured; SiteError with everything that is missing or wrong.

    The file of addresses must belong to ``owner_uid``: it says who gets the password.
    """
    errors: list[str] = []

    def take(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except SiteError as error:
            errors.extend(error.errors)
            return otherwise

    if not config.address and not config.overrides:
        errors.append('[redfish] address: is missing; say where BMCs are: address = "https://{node}-bmc"')
    if not config.user:
        errors.append("[redfish] user: is missing; name a user of the BMCs who may read and nothing else")
    none: dict[str, str] = {}
    overrides = take(lambda: read_overrides(config.overrides, owner_uid), none) if config.overrides else none
    password = take(lambda: _password(config, environ), "")
    take(lambda: _check_ca(config.ca_file), None)
    if errors:
        raise SiteError(errors)
    access = Access(config.user, password, config.auth, config.ca_file, config.verify)
    return Site(access, config.address, overrides, config.concurrency, config.deadline_s, config.total_s)


def read_overrides(path: str, owner_uid: int) -> dict[str, str]:
    """The addresses in a file of lines like ``"gpu[01-16]" = "https://{node}.oob"``; SiteError for others."""
    try:
        text = read_trusted(path, owner_uid).decode("utf-8")
        document = tomllib.loads(text)
    except ConfigError as error:
        raise SiteError(list(error.errors)) from error
    except UnicodeDecodeError as error:
        raise SiteError([f"{path}: not UTF-8 text; save the file as UTF-8"]) from error
    except OSError as error:
        raise SiteError([f"{path}: cannot be read: {error.strerror}"]) from error
    except (ValueError, RecursionError) as error:
        raise SiteError([syntax_error(text, path, error, 'write "NODES" = "https://..."')]) from error
    problems: list[Problem] = []
    table = Table((), document, problems)
    found: dict[str, str] = {}
    for hosts in table.values:
        _take_line(table, hosts, found)
    if problems:
        raise SiteError(placed(problems, text, path))
    return found


def _take_line(table: Table, hosts: str, found: dict[str, str]) -> None:
    address = bmc_address(table, hosts, "https://10.1.0.17")
    try:
        names = expand_hostlist(hosts)
    except ParseError as error:
        table.refuse(hosts, f"is not a hostlist: {error}")
        return
    if address is not None and len(names) > 1 and NODE not in address:
        table.refuse(
            hosts, f"is one address for {len(names)} nodes; put {NODE} into it, or give each its own"
        )
    for name in names:
        if name in found:
            table.refuse(hosts, f"{name} has an address already; give each node one")
            return
        found[name] = address or ""


def _password(config: Redfish, environ: Mapping[str, str]) -> str:
    if config.password_file and config.password_env:
        raise SiteError(["[redfish] password_file: password_env is set too; take one of them"])
    if config.password_file:
        return _password_in(config.password_file, os.geteuid())
    if not config.password_env:
        raise SiteError([
            "[redfish] password_file: is missing; write the password into a file that only you can read"
        ])
    if not environ.get(config.password_env):
        raise SiteError([f"[redfish] password_env: {config.password_env} is not set in the environment"])
    return environ[config.password_env]


def _password_in(path: str, uid: int) -> str:
    """The one line of a file that nobody else can read; what was checked is what is read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            why = _exposed(os.fstat(fd), path, uid)
            data = b"" if why else file.read(MAX_PASSWORD_BYTES + 1)
    except OSError as error:
        raise SiteError([f"{path}: cannot be read: {error.strerror}"]) from error
    if why:
        raise SiteError([why])
    try:
        password = data.decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise SiteError([f"{path}: not UTF-8 text"]) from error
    if not password or "\n" in password or len(data) > MAX_PASSWORD_BYTES:
        raise SiteError([f"{path}: must hold the password on one line, and nothing else"])
    return password


def _exposed(status: os.stat_result, path: str, uid: int) -> str:
    """Why this is no place for a password; empty where it is one."""
    if not stat.S_ISREG(status.st_mode):
        return f"{path}: is not a regular file; put a file there"
    if status.st_uid != uid:
        return f"{path}: belongs to uid {status.st_uid}, not to you ({uid}); chown {uid} {path}"
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        return f"{path}: others can reach the password (mode {mode:04o}); chmod 600 {path}"
    return ""


def _check_ca(path: str) -> None:
    if not path:
        return
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # also of ssl
        told = error.strerror if not isinstance(error, ssl.SSLError) else "no certificate in it"
        raise SiteError([f"[redfish] ca_file: {path}: {told}"]) from error

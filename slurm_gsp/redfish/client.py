"""The DMTF's Redfish library as a Client. Imports it, so this module is imported only where it is used."""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, TypeVar

import redfish
from redfish.rest.v1 import (
    InvalidCredentialsError,
    JsonDecodingError,
    RetriesExhaustedError,
    ServerDownOrUnreachableError,
    SessionCreationError,
)
from urllib3.exceptions import InsecureRequestWarning

from slurm_gsp.redfish.guard import Budget, Guard, tls_context
from slurm_gsp.redfish.read import ROOT, BmcError, Client, Open, Response
from slurm_gsp.redfish.site import Access

LOGOUT_S: Final = 2.0
"""For the logout, also where the BMC's time is over: BMCs have few sessions."""
_LINKS: Final = 16
T = TypeVar("T")


def library(access: Access) -> Open:
    """The library with one site's access; OSError where its certificates cannot be read."""
    # Its log may hold what a BMC is told and answers, tokens included; errors reach us as exceptions.
    logging.getLogger("redfish").setLevel(logging.CRITICAL + 1)
    # It warns of BMCs that are not quite to the letter, where it has a way around; the other we tell once.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"redfish\.")
    warnings.filterwarnings("ignore", category=InsecureRequestWarning)
    return partial(_open, access, tls_context(access.ca_file, verify=access.verify))


def _open(access: Access, context: ssl.SSLContext, address: str, seconds: float) -> Client:
    """A client that has read the service root; BmcError where there is none."""
    budget = Budget(seconds)
    pair = base64.b64encode(f"{access.user}:{access.password}".encode()).decode("ascii")
    guard = Guard(address, context, budget, f"Basic {pair}" if access.auth == "basic" else "")

    def connect() -> Any:
        return redfish.redfish_client(address, max_retry=0, https_adapter=guard)

    try:
        return _BmcClient(_translated(ROOT, budget, connect), access, budget, guard)
    except BmcError:
        guard.close()
        raise


class _BmcClient:
    """One BMC through the library."""

    def __init__(self, library: Any, access: Access, budget: Budget, guard: Guard) -> None:
        self._library = library
        self._access = access
        self._budget = budget
        self._guard = guard

    def root(self) -> Response:
        """What the library read when it connected."""
        return Response(self._library.root_resp.status, self._library.root_resp.text)

    def login(self) -> None:
        """A session of its own; with basic authentication every request logs in by itself."""
        if self._access.auth != "basic":
            _translated("the login", self._budget, self._login)

    def get(self, path: str) -> Response:
        """Read one path."""
        answer = _translated(path, self._budget, lambda: self._library.get(path))
        return Response(answer.status, answer.text)

    def close(self) -> None:
        """Log out as far as that can be done: a BMC ends idle sessions by itself."""
        self._budget.allow(LOGOUT_S)
        with contextlib.suppress(Exception):
            self._library.logout()
        self._guard.close()

    def _login(self) -> None:
        self._library.login(self._access.user, self._access.password, "session")
        if self._library.get_session_key() is None:
            raise BmcError('the login: answered without a session; try auth = "basic" in [redfish]')


def _translated(what: str, budget: Budget, ask: Callable[[], T]) -> T:
    """What ``ask`` returns; every failure as a BmcError in words, without what was sent."""
    try:
        return ask()
    except BmcError:
        raise
    except RetriesExhaustedError as error:
        raise BmcError(f"{what}: {_why(error, budget)}") from error
    except ServerDownOrUnreachableError as error:
        raise BmcError(f"{what}: HTTP {error.response.status}") from error
    except InvalidCredentialsError as error:
        raise BmcError(f"{what}: user and password are not accepted") from error
    except SessionCreationError as error:
        told = str(error).partition(":")[0]
        raise BmcError(f'{what}: {told}, no session; try auth = "basic" in [redfish]') from error
    except JsonDecodingError as error:
        raise BmcError(f"{what}: is no JSON") from error
    except Exception as error:
        raise BmcError(f"{what}: the answer cannot be understood ({type(error).__name__})") from error


def _why(error: BaseException, budget: Budget) -> str:
    """The deepest reason that can be told."""
    chain = list(_chain(error))

    def find(*kinds: type[BaseException]) -> Any:
        return next((one for one in chain if isinstance(one, kinds)), None)

    if refused := find(BmcError):
        return str(refused)
    if certificate := find(ssl.SSLCertVerificationError):
        told = certificate.verify_message.partition(",")[0]  # the rest names the host: each node's own
        return f"its certificate is not accepted: {told}"
    if find(TimeoutError):
        return f"took longer than {budget.seconds:g} s"
    if tls := find(ssl.SSLError):
        return f"no TLS connection: {tls.reason or 'it broke off'}"
    if find(socket.gaierror):
        return "its name is not known"
    if find(ConnectionRefusedError):
        return "nothing listens there"
    told = next((one.strerror for one in chain if isinstance(one, OSError) and one.strerror), None)
    if told:
        return f"the connection failed: {told}"
    return f"the connection failed ({type(chain[-1]).__name__})"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those inside it: libraries wrap them as cause, as context, as reason and as argument."""
    seen: list[BaseException] = []
    ahead = [error]
    while ahead and len(seen) < _LINKS:
        one = ahead.pop(0)
        if one is None or one in seen:
            continue
        seen.append(one)
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        ahead += [link for link in inner if isinstance(link, BaseException)]
    yield from seen

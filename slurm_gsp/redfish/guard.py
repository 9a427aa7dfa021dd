"""What may go over the wire to a BMC: an adapter below the Redfish library, which sees every request.

The library verifies no certificate unless it is given a file, bounds the time of each read but of no request,
and follows redirects with the session's token. Here that ends: nothing but reads (and the session's own login
and logout), to this BMC alone, over TLS, within one budget of time, and no answer without bounds.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from requests import PreparedRequest, Response
from requests.adapters import HTTPAdapter

from slurm_gsp.redfish.read import BmcError

MAX_BYTES: Final = 8 * 1024 * 1024
"""Of one answer, unpacked."""

_SESSIONS: Final = re.compile(r"/redfish/v1/(?:SessionService/)?Sessions/?")
_SESSION: Final = re.compile(r"/redfish/v1/(?:SessionService/)?Sessions/[^/]+/?")


class RefusedError(BmcError):
    """A request that may not be sent, or an answer that may not be taken."""


class Budget:
    """The time that one BMC may take in all."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._ends = clock() + seconds

    def left(self) -> float:
        """The seconds that are left; TimeoutError when there are none."""
        left = self._ends - self._clock()
        if left <= 0:
            raise TimeoutError("the time for this BMC is over")
        return left

    def allow(self, seconds: float) -> None:
        """At least these seconds from now on."""
        self._ends = max(self._ends, self._clock() + seconds)


_budget: ContextVar[Budget] = ContextVar("_budget")
"""Of the BMC that this thread reads."""


class _TimedSocket(ssl.SSLSocket):
    """Each read waits for what is left of the budget: a BMC that sends a byte now and then gains nothing."""

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(_budget.get().left())
        return super().recv_into(buffer, nbytes, flags)


def tls_context(ca_file: str, *, verify: bool) -> ssl.SSLContext:
    """What to trust: the certificates in ``ca_file``, or those that this host trusts. OSError without it."""
    context = ssl.create_default_context(cafile=ca_file or None)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.sslsocket_class = _TimedSocket
    return context


class Guard(HTTPAdapter):
    """Sends to one BMC what may be sent; ``authorization`` is the header of basic authentication, or ""."""

    def __init__(
        self, address: str, context: ssl.SSLContext, budget: Budget, authorization: str = ""
    ) -> None:
        self._origin = _origin(address)
        self._context = context
        self._budget = budget
        self._authorization = authorization
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """With our own TLS context."""
        super().init_poolmanager(connections, maxsize, block, ssl_context=self._context, **pool_kwargs)

    def build_connection_pool_key_attributes(
        self,
        request: PreparedRequest,  # noqa: ARG002
        verify: object,  # noqa: ARG002
        cert: object = None,  # noqa: ARG002
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The context says what is verified, whatever the library asks for."""
        scheme, host, port = self._origin
        return {"scheme": scheme, "host": host, "port": port}, {}

    def cert_verify(self, conn: object, url: str, verify: object, cert: object) -> None:
        """See above: nothing to set."""

    def send(self, request: PreparedRequest, *_wishes: object, **_more_wishes: object) -> Response:
        """Send a request that may be sent; past the environment's proxies and .netrc."""
        self._check(request)
        _budget.set(self._budget)
        request.headers.pop("Authorization", None)
        if self._authorization:
            request.headers["Authorization"] = self._authorization
        response = super().send(request, stream=True, timeout=self._budget.left())
        response.raw = _Bounded(response.raw)
        if response.is_redirect:
            try:
                self._check_target(urljoin(str(request.url), response.headers["Location"]))
            except RefusedError:
                response.close()
                raise
        return response

    def _check(self, request: PreparedRequest) -> None:
        self._check_target(str(request.url))
        path = urlsplit(str(request.url)).path
        allowed = {"GET": True, "POST": _SESSIONS.fullmatch(path), "DELETE": _SESSION.fullmatch(path)}
        if not allowed.get(str(request.method)):
            raise RefusedError(f"{request.method} {path} is more than reading: not sent")

    def _check_target(self, url: str) -> None:
        if _origin(url) != self._origin:
            raise RefusedError(f"sends us elsewhere, to {url[:100]}: not followed")


class _Bounded:
    """The body of an answer, up to a size."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def stream(self, amount: int, decode_content: bool = True) -> Iterator[bytes]:
        """The body piece by piece, unpacked."""
        seen = 0
        for piece in self._raw.stream(amount, decode_content=decode_content):
            seen += len(piece)
            if seen > MAX_BYTES:
                self._raw.close()
                raise RefusedError(f"an answer is larger than {MAX_BYTES} bytes")
            yield piece

    def close(self) -> None:
        self._raw.close()

    def release_conn(self) -> None:
        self._raw.release_conn()


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port; RefusedError where the URL has none."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme != "https" or not host:
        raise RefusedError(f"{url[:100]} is no https address")
    return scheme, host.lower(), port or 443

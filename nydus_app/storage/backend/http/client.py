"""Requests, one try each: over the proxy, a mirror or straight, whichever is well, with a deadline for each.

Concurrency: on the trio thread, any number of tasks; `close` needs no loop.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from typing import NamedTuple

from nydus_app.errors import BackendError, BackendUnavailable, ProtocolViolation
from nydus_app.protocols.http1 import Head, Headers, content_length, encode_request
from nydus_app.storage.backend.http.connection import Connection, HungUp
from nydus_app.storage.backend.http.deadline import Deadline, deadline_of
from nydus_app.storage.backend.http.dial import proxy_headers
from nydus_app.storage.backend.http.pool import Pool
from nydus_app.storage.backend.http.range_answer import receive_range, receive_small
from nydus_app.storage.backend.http.rate import RequestRate
from nydus_app.storage.backend.http.routes import Route, Routes
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.status import error_of
from nydus_app.storage.backend.http.url import Url
from nydus_app.storage.backend.trace import Try, note
from nydus_app.version import __version__

log = logging.getLogger("nydus.backend")

MAX_BODY_BYTES = 1 << 20
"""Of answers that are no ranges: errors, tokens."""

Sign = Callable[[str, Url, Headers], Headers]
"""Method, address, headers that are to be sent: what is sent instead. Called anew for each request that goes out."""


class Answer(NamedTuple):
    """Header names are in lower case; `url` is what was asked for, of a mirror or the origin."""

    status: int
    reason: str
    headers: Headers
    body: bytes | bytearray
    url: Url

    def error(self, what: str) -> BackendError:
        return error_of(self.status, self.reason, self.headers, bytes(self.body), what)


class Request(NamedTuple):
    """`wanted` is a range: offset and size. `passed` are statuses that are no errors to who asks.

    `is_known`: who has to authenticate has done so, as mirrors want that do not know how.
    """

    method: str
    url: Url
    headers: Headers = {}
    sign: Sign | None = None
    body: bytes = b""
    wanted: tuple[int, int] | None = None
    passed: Container[int] = ()
    is_mirrored: bool = True
    is_known: bool = True

    def describe(self, url: Url) -> str:
        range_ = f" bytes {self.wanted[0]}-{sum(self.wanted) - 1}" if self.wanted else ""
        return f"{self.method} {url.shown}{range_}"


class HttpClient:
    def __init__(self, settings: HttpSettings) -> None:
        self.settings = settings
        self._pool = Pool(settings)
        self._routes = Routes(settings, self._ping)
        self._rate = RequestRate(settings.request_rate)
        self._users = 0
        self._headers = {
            "User-Agent": f"nydus-app/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            **settings.headers,
        }

    async def get_range(
        self, url: Url, offset: int, size: int, *, headers: Headers = {}, sign: Sign | None = None
    ) -> bytearray:
        """Exactly `size` bytes at `offset`. Raises BackendError."""
        answer = await self.ask(Request("GET", url, headers, sign, wanted=(offset, size)))
        assert isinstance(answer.body, bytearray)
        return answer.body

    async def size(self, url: Url, *, headers: Headers = {}, sign: Sign | None = None) -> int:
        """Bytes of the whole object, by HEAD. Raises BackendError."""
        return size_of(await self.ask(Request("HEAD", url, headers, sign)), url)

    async def request(
        self, method: str, url: Url, *, headers: Headers = {}, body: bytes = b"", sign: Sign | None = None
    ) -> Answer:
        """An answer of any status, its body cut at MAX_BODY_BYTES; straight to `url`. Raises BackendError."""
        return await self._send(Request(method, url, headers, sign, body), Route(url))

    async def ask(self, request: Request) -> Answer:
        """An answer with status 2xx (206 or 200 for a range) or one of `passed`, by the first route that has one.

        Raises the BackendError of the last route.
        """
        error: BackendError | None = None
        for route in self._routes.of(request.url, is_mirrored=request.is_mirrored, is_known=request.is_known):
            if error is not None:
                log.warning("%s; %s is asked instead", error, route.url.origin)
            try:
                answer = await self._send(request, route)
            except BackendError as e:
                if route.health is not None and isinstance(e, BackendUnavailable):
                    route.health.failed(str(e))
                error = e
                continue
            if route.health is not None:
                route.health.succeeded()
            if _is_good(request, route, answer):
                return answer
            error = answer.error(request.describe(route.url))
        assert error is not None
        raise error

    async def _send(self, request: Request, route: Route) -> Answer:
        """One request, and a second one only where a connection that was kept turns out to be dead."""
        await self._rate.wait()
        wire = self._encode(request, route)
        size = request.wanted[1] if request.wanted else 0
        began = time.monotonic()
        status, error, cause = 0, "", ""
        try:
            with deadline_of(self.settings, size, (route.proxy or route.url).origin) as deadline:
                try:
                    answer = await self._exchange(request, route, wire, deadline, fresh=False)
                except _Stale:
                    answer = await self._exchange(request, route, wire, deadline, fresh=True)
            status = answer.status
            cause = f"status {status}" if status >= 400 else ""
            return answer
        except BackendError as e:
            error, cause = str(e), e.cause
            raise
        finally:
            note(Try(route.url.origin, status, time.monotonic() - began, error, cause))

    async def _exchange(
        self, request: Request, route: Route, wire: bytes, deadline: Deadline, *, fresh: bool
    ) -> Answer:
        connection = await self._pool.take(route.url, route.proxy, deadline, fresh=fresh)
        try:
            deadline.progress()
            try:
                head = await connection.ask(wire, deadline, is_head=request.method == "HEAD")
            except HungUp as e:
                if connection.is_used:
                    raise _Stale(str(e)) from None
                raise
            answer = await _receive(request, route, connection, head, deadline)
        except BaseException:
            connection.close()
            raise
        if self._users > 0:
            self._pool.give_back(route.url, route.proxy, connection)
        else:  # a health check, or a token that is renewed, behind the last reader
            connection.close()
        return answer

    def _encode(self, request: Request, route: Route) -> bytes:
        url = route.url
        headers = {"Host": url.host_header, **self._headers, **route.headers, **request.headers}
        if request.wanted is not None:
            offset, size = request.wanted
            headers["Range"] = f"bytes={offset}-{offset + size - 1}"
        if request.sign is not None:
            headers = dict(request.sign(request.method, url, headers))
        target = url.target
        if route.proxy is not None and url.scheme == "http":
            target = url.text
            headers.update(proxy_headers(route.proxy))
        try:
            return encode_request(request.method, target, headers, request.body)
        except ProtocolViolation as e:
            raise BackendError(f"{request.describe(url)}: {e}") from None

    async def _ping(self, url: Url, well: range) -> bool:
        try:
            return (await self.request("GET", url)).status in well
        except BackendError:
            return False

    # ---- who uses it ----------------------------------------------------------------------------

    def opened(self) -> None:
        """One more reader uses it."""
        self._users += 1

    def closed(self) -> None:
        """One reader less; with the last one the connections are closed. It may be used again afterwards."""
        self._users -= 1
        if self._users <= 0:
            self.close()

    def close(self) -> None:
        self._pool.close()


class _Stale(Exception):
    """A connection that was kept has died in the meantime."""


async def _receive(
    request: Request, route: Route, connection: Connection, head: Head, deadline: Deadline
) -> Answer:
    body: bytes | bytearray
    if request.wanted is not None and head.status in (200, 206):
        body = await receive_range(connection, head, *request.wanted, deadline, request.describe(route.url))
    else:
        body = await receive_small(connection, MAX_BODY_BYTES, deadline)
    # A proxy may have been asked for another scheme of the same place.
    return Answer(head.status, head.reason, head.headers, body, request.url if route.proxy else route.url)


def _is_good(request: Request, route: Route, answer: Answer) -> bool:
    if request.wanted is not None:
        is_success = answer.status in (200, 206)
    else:
        is_success = 200 <= answer.status < 300
    return is_success or (answer.status in request.passed and (route.passes_401 or answer.status != 401))


def size_of(answer: Answer, url: Url) -> int:
    """What an answer to HEAD says. Raises BackendError."""
    try:
        size = content_length(answer.headers)
    except ProtocolViolation as e:
        raise BackendError(f"HEAD {url.shown}: {e}") from None
    if size is None:
        raise BackendError(f"HEAD {url.shown}: the server does not say how long it is")
    return size

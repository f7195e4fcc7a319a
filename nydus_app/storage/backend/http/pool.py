"""Connections that wait for their next request.

Concurrency: on the trio thread, but for `close`, for which no loop has to run; nobody may be asking then.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from nydus_app.storage.backend.http.connection import Connection
from nydus_app.storage.backend.http.deadline import Deadline
from nydus_app.storage.backend.http.dial import Dialer
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.url import Url

IDLE_S = 30
"""Servers keep a silent connection for a minute or so."""

MAX_IDLE = 32


class Way(NamedTuple):
    """Where a connection leads: connections of the same way may stand in for each other."""

    scheme: str
    host: str
    port: int
    socket: str
    proxy: Url | None


def _way(url: Url, proxy: Url | None) -> Way:
    if proxy is not None and url.scheme == "http":
        return Way("http", "", 0, "", proxy)
    return Way(url.scheme, url.host, url.port, url.socket, proxy)


class _Idle(NamedTuple):
    way: Way
    connection: Connection
    since: float


class Pool:
    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._dialer = Dialer(settings)
        self._idle: list[_Idle] = []  # the last one was used last

    async def take(self, url: Url, proxy: Url | None, deadline: Deadline, *, fresh: bool = False) -> Connection:
        """A connection to be given back or closed. Raises BackendError."""
        way = _way(url, proxy)
        self._drop_old()
        while not fresh and (found := self._find(way)) is not None:
            if found.is_idle():
                return found
            found.close()
        deadline.connect_within(self._settings.connect_timeout_s)
        return Connection(await self._dialer.dial(url, proxy), (proxy or url).origin)

    def give_back(self, url: Url, proxy: Url | None, connection: Connection) -> None:
        if not connection.is_reusable():
            connection.close()
            return
        self._idle.append(_Idle(_way(url, proxy), connection, time.monotonic()))
        if len(self._idle) > MAX_IDLE:
            self._idle.pop(0).connection.close()

    def _find(self, way: Way) -> Connection | None:
        for i in range(len(self._idle) - 1, -1, -1):
            if self._idle[i].way == way:
                return self._idle.pop(i).connection
        return None

    def _drop_old(self) -> None:
        oldest = time.monotonic() - IDLE_S
        while self._idle and self._idle[0].since < oldest:
            self._idle.pop(0).connection.close()

    def close(self) -> None:
        while self._idle:
            self._idle.pop().connection.close()

"""By which ways a request may reach its origin, the best first (contract 6.2)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

from nydus_app.errors import BackendUnavailable
from nydus_app.storage.backend.http.health import Health
from nydus_app.storage.backend.http.settings import HttpSettings, MirrorSettings, ProxySettings
from nydus_app.storage.backend.http.url import PORTS, Url, parse_url

PingUrl = Callable[[Url, range], Awaitable[bool]]
"""Whether a GET there is answered with a status of the range. Raises nothing."""

MIRROR_PAUSE_S = 300
"""So long after the last request a mirror that is ill is asked how it does."""


class Route(NamedTuple):
    """`url` is the one to ask for. `passes_401`: who asked is told of a 401; else the next route is taken."""

    url: Url
    proxy: Url | None = None
    headers: Mapping[str, str] = {}
    health: Health | None = None
    passes_401: bool = True


class _Mirror(NamedTuple):
    settings: MirrorSettings
    health: Health


class Routes:
    def __init__(self, settings: HttpSettings, ping: PingUrl) -> None:
        self._proxy = settings.proxy
        self._proxy_url = parse_url(settings.proxy.url) if settings.proxy else None
        self._proxy_health = None if settings.proxy is None else _proxy_health(settings.proxy, ping)
        self._ping = ping
        self._scheme = "https"  # the origin's, which is that of a mirror without one
        self._mirrors = [_Mirror(m, self._mirror_health(m)) for m in settings.mirrors]

    def of(self, url: Url, *, is_mirrored: bool, is_known: bool) -> Iterator[Route]:
        """Raises BackendUnavailable where there is none."""
        if not url.socket:
            if self._proxy is not None and (yield from self._by_proxy(url, self._proxy)):
                return
            if is_mirrored:
                yield from self._by_mirrors(url, is_known)
        yield Route(url)

    def _by_proxy(self, url: Url, proxy: ProxySettings) -> Iterator[Route]:
        """Ends with True where nothing but the proxy may be asked."""
        assert self._proxy_health is not None and self._proxy_url is not None
        if self._proxy_health.is_well():
            if proxy.use_http and url.scheme == "https":
                port = PORTS["http"] if url.port == PORTS["https"] else url.port
                url = url._replace(scheme="http", port=port)
            yield Route(url, self._proxy_url, health=self._proxy_health)
        elif not proxy.fallback:
            raise BackendUnavailable(f"the proxy {self._proxy_url.origin} is not healthy, and proxy.fallback is off")
        return not proxy.fallback

    def _by_mirrors(self, url: Url, is_known: bool) -> Iterator[Route]:
        self._scheme = url.scheme
        for mirror, health in self._mirrors:
            if (is_known or mirror.auth_through) and health.is_well():
                there = mirror_url(mirror.host, url.scheme)
                here = url._replace(scheme=there.scheme, host=there.host, port=there.port)
                yield Route(here, None, mirror.headers, health, mirror.auth_through)

    def _mirror_health(self, mirror: MirrorSettings) -> Health:
        async def ping() -> bool:
            url = parse_url(mirror.ping_url) if mirror.ping_url else mirror_url(mirror.host, self._scheme)._replace(target="/v2")
            return await self._ping(url, range(200, 500))

        return Health(
            f"the mirror {mirror_url(mirror.host).origin if '://' in mirror.host else mirror.host}",
            ping,
            interval_s=mirror.check_interval_s,
            pause_s=MIRROR_PAUSE_S,
            failure_limit=max(mirror.failure_limit, 1),
            watches=False,
        )


def mirror_url(host: str, scheme: str = "https") -> Url:
    """`host` with or without a scheme. Raises BackendError."""
    return parse_url(host if "://" in host else f"{scheme}://{host}")


def _proxy_health(proxy: ProxySettings, ping: PingUrl) -> Health:
    # Without a ping the proxy would be tried by every request, however long it takes to find it dead.
    url = parse_url(proxy.ping_url) if proxy.ping_url else None
    return Health(
        f"the proxy {parse_url(proxy.url).origin}",
        None if url is None else partial(ping, url, range(200, 400)),
        interval_s=proxy.check_interval_s,
        pause_s=proxy.check_pause_s,
        failure_limit=1 if proxy.fallback else 1 << 30,
        watches=True,
    )

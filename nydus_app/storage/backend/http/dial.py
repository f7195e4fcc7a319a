"""From an address to a connected socket: names, TCP, Unix sockets, TLS, tunnels through proxies.

Sockets are the standard library's, not trio's: they can be closed where no loop runs, TLS works on them without
copies through memory, and they outlive the loop that opened them.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from nydus_app.errors import BackendError, BackendUnavailable, NotTls, ProtocolViolation
from nydus_app.protocols.http1 import MAX_HEAD_BYTES, decode_head, encode_request
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.url import Url

T = TypeVar("T")
Address = tuple[int, int, int, str, tuple[object, ...]]

MAX_LOOKUPS = 8
"""Of names, at a time."""

STAGGER_S = 0.25
"""So long the first address of a name is tried alone (RFC 8305)."""


class Refused(BackendUnavailable):
    """Nobody listens there."""

    cause = "refused"


class UnknownHost(BackendUnavailable):
    """Its name has no address."""

    cause = "unknown host"


class Dialer:
    """Connects; the TLS context is made with the first https address, which costs reading all trusted certificates."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._context: ssl.SSLContext | None = None
        self._lookups: trio.lowlevel.RunVar[trio.CapacityLimiter] | None = None

    async def dial(self, url: Url, proxy: Url | None = None) -> socket.socket:
        """Raises BackendError. The time-out is the caller's."""
        peer = proxy or url
        if proxy is not None and proxy.scheme == url.scheme == "https":
            raise BackendError(f"{url.origin}: the proxy {proxy.origin} is asked by TLS, and can carry no TLS in it")
        try:
            sock = await (_connect_unix(peer.socket) if peer.socket else _connect_tcp(peer, self._limiter()))
        except Refused as e:
            if peer.scheme == "https":
                raise NotTls(str(e)) from None
            raise
        try:
            if peer.scheme == "https" and not peer.socket:
                sock = await self._wrap(sock, peer)
            if proxy is not None and url.scheme == "https":
                await _tunnel(sock, url, proxy)
                sock = await self._wrap(sock, url)
        except BaseException:
            sock.close()
            raise
        return sock

    def _limiter(self) -> trio.CapacityLimiter:
        """The loop's, for looking up names: what is left behind in a loop that has ended never comes back."""
        if self._lookups is None:
            self._lookups = trio.lowlevel.RunVar("lookups")
        try:
            return self._lookups.get()
        except LookupError:
            self._lookups.set(limiter := trio.CapacityLimiter(MAX_LOOKUPS))
            return limiter

    async def _wrap(self, sock: socket.socket, url: Url) -> ssl.SSLSocket:
        """Takes the descriptor of `sock`, and closes it where it fails."""
        if self._context is None:
            self._context = await trio.to_thread.run_sync(self._make_context)
        try:
            wrapped = self._context.wrap_socket(sock, server_hostname=url.host, do_handshake_on_connect=False)
        except ValueError as e:  # of names that cannot be one, such as labels of 64 letters
            raise BackendError(f"{url.origin}: {e}") from None
        except OSError as e:  # it has hung up already
            raise BackendUnavailable(f"{url.origin}: {e.strerror or e}") from None
        try:
            await ready(wrapped, wrapped.do_handshake)
        except ssl.SSLCertVerificationError as e:
            wrapped.close()
            raise BackendError(f"{url.origin}: its certificate is not trusted: {e.verify_message}") from None
        except ssl.SSLError as e:
            wrapped.close()
            raise NotTls(f"{url.origin}: no TLS: {_reason(e)}") from None
        except OSError as e:
            wrapped.close()
            raise BackendUnavailable(f"{url.origin}: {e.strerror or e}") from None
        except BaseException:
            wrapped.close()
            raise
        return wrapped

    def _make_context(self) -> ssl.SSLContext:
        settings = self._settings
        context = ssl.create_default_context()
        try:
            for path in settings.ca_cert_files:
                context.load_verify_locations(path)
            if settings.client_cert_file:
                context.load_cert_chain(settings.client_cert_file, settings.client_key_file or None, lambda: "")
        except OSError as e:  # ssl.SSLError is one
            raise BackendError(f"certificates of the backend cannot be loaded: {_reason(e)}") from None
        if settings.skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _reason(error: OSError) -> str:
    return str(getattr(error, "reason", None) or error.strerror or error).replace("_", " ").lower()


async def ready(sock: socket.socket, step: Callable[[], T]) -> T:
    """What a call on a non-blocking socket yields once it need not wait; a checkpoint only where it has to."""
    while True:
        try:
            return step()
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
        except OSError as e:
            await _wait_for_tls(sock, e)


async def send_all(sock: socket.socket, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
        except OSError as e:
            await _wait_for_tls(sock, e)


async def _wait_for_tls(sock: socket.socket, error: OSError) -> None:
    """Raises what is no wish of TLS's. (Whoever uses none does not come here, and need not load it.)"""
    if isinstance(error, ssl.SSLWantReadError):
        await trio.lowlevel.wait_readable(sock)
    elif isinstance(error, ssl.SSLWantWriteError):
        await trio.lowlevel.wait_writable(sock)
    else:
        raise error


async def _connect_unix(path: str) -> socket.socket:
    return await _connect(socket.AF_UNIX, path, f"unix:{path}")


async def _connect_tcp(url: Url, lookups: trio.CapacityLimiter) -> socket.socket:
    try:
        found = await _addresses(url, lookups)
    except OSError as e:
        raise UnknownHost(f"{url.host}: {e.strerror or e}") from None
    except UnicodeError:
        raise BackendError(f"{url.host}: no name of a host") from None
    return await _first_connected(_alternating(found), url.origin)


async def _addresses(url: Url, lookups: trio.CapacityLimiter) -> list[Address]:
    """Who looks a name up may be left behind in his thread for half a minute: these are not the threads that all else needs."""
    look_up = partial(socket.getaddrinfo, url.host, url.port, type=socket.SOCK_STREAM)
    try:
        return look_up(flags=socket.AI_NUMERICHOST)  # type: ignore[return-value]
    except socket.gaierror:
        return await trio.to_thread.run_sync(look_up, abandon_on_cancel=True, limiter=lookups)  # type: ignore[return-value]


def _alternating(found: Sequence[Address]) -> list[Address]:
    """The families in turns, the system's first choice first."""
    first = [a for a in found if a[0] == found[0][0]]
    other = [a for a in found if a[0] != found[0][0]]
    order = []
    while first or other:
        order += [first.pop(0)] if first else []
        order += [other.pop(0)] if other else []
    return order


async def _first_connected(addresses: Sequence[Address], origin: str) -> socket.socket:
    """All are tried, each a little after the one before or as soon as that has failed."""
    if len(addresses) == 1:
        return await _connect(addresses[0][0], addresses[0][4], origin)
    won: list[socket.socket] = []
    errors: list[BackendUnavailable] = []

    async def attempt(address: Address, failed: trio.Event) -> None:
        try:
            sock = await _connect(address[0], address[4], origin)
        except BackendUnavailable as e:
            errors.append(e)
            failed.set()
            return
        if won:
            sock.close()
            return
        won.append(sock)
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for address in addresses:
                failed = trio.Event()
                nursery.start_soon(attempt, address, failed)
                with trio.move_on_after(STAGGER_S):
                    await failed.wait()
    except BaseException:
        for sock in won:
            sock.close()
        raise
    if not won:
        raise errors[0]
    return won[0]


async def _connect(family: int, address: object, origin: str) -> socket.socket:
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as e:  # no descriptor left, or none of this family here
        raise BackendUnavailable(f"{origin}: {e.strerror or e}") from None
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            sock.connect(address)  # type: ignore[arg-type]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
    except OSError as e:
        sock.close()
        kind = Refused if e.errno == errno.ECONNREFUSED else BackendUnavailable
        raise kind(f"{origin}: {e.strerror or e}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def proxy_headers(proxy: Url) -> dict[str, str]:
    if not proxy.credentials:
        return {}
    return {"Proxy-Authorization": f"Basic {base64.b64encode(proxy.credentials.encode()).decode()}"}


async def _tunnel(sock: socket.socket, url: Url, proxy: Url) -> None:
    """CONNECT (RFC 9110 9.3.6)."""
    place = f"{f'[{url.host}]' if ':' in url.host else url.host}:{url.port}"
    raw = b""
    try:
        await send_all(sock, encode_request("CONNECT", place, {"Host": place, **proxy_headers(proxy)}))
        while not raw.endswith(b"\r\n\r\n"):
            # Byte by byte: what follows belongs to TLS. A proxy's answer is short, and comes once a connection.
            part = await ready(sock, partial(sock.recv, 1))
            if not part or len(raw) > MAX_HEAD_BYTES:
                raise BackendUnavailable(f"the proxy {proxy.origin} ends within its answer")
            raw += part
        status = decode_head(raw[:-4]).status
    except (OSError, ProtocolViolation) as e:
        raise BackendUnavailable(f"the proxy {proxy.origin}: {e}") from None
    if status != 200:
        raise BackendUnavailable(f"the proxy {proxy.origin} opens no tunnel to {place}: {status}")

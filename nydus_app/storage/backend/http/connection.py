"""One connection: a request goes out, its answer comes in, and then the next. Nobody shares one.

Bodies go from the socket into the buffer of who asked, without a copy between.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

import trio

from nydus_app.errors import BackendUnavailable, ProtocolViolation
from nydus_app.protocols.http1 import MAX_HEAD_BYTES, ChunkedBody, Head, decode_head
from nydus_app.storage.backend.http.deadline import Deadline
from nydus_app.storage.backend.http.dial import ready, send_all

RECEIVE_BYTES = 64 << 10
MAX_INTERIM = 8
"""Of status 1xx (RFC 9110 15.2)."""


class Lost(BackendUnavailable):
    """The connection has ended too early."""

    cause = "hung up"


class HungUp(Lost):
    """Before a byte of an answer: a connection that was kept has simply grown too old, or the server is ill."""


class Connection:
    """`is_used`: an answer has come by it, and was read to its end."""

    def __init__(self, sock: socket.socket, origin: str) -> None:
        self._sock = sock
        self._origin = origin
        self._received = b""  # and not taken yet
        self._left: int | None = 0  # bytes of the body to come, None where nobody knows
        self._chunked: ChunkedBody | None = None
        self._keeps_alive = True
        self.is_used = False

    def close(self) -> None:
        self._sock.close()

    def is_idle(self) -> bool:
        """The server has neither hung up nor said anything since."""
        pending = getattr(self._sock, "pending", None)
        if pending is not None and pending():  # TLS has it already, and no descriptor tells
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def is_reusable(self) -> bool:
        """The answer was read to its end, and another request may follow."""
        self.is_used = self._keeps_alive and self._left == 0 and not self._received
        return self.is_used

    async def ask(self, request: bytes, deadline: Deadline, *, is_head: bool = False) -> Head:
        """The head of the answer. Raises BackendUnavailable; then it is to be closed."""
        with self._described(HungUp):
            await send_all(self._sock, request)
            head = decode_head(await self._receive_head(deadline), is_head=is_head)
            for _ in range(MAX_INTERIM):
                if head.status >= 200:
                    break
                head = decode_head(await self._receive_head(deadline), is_head=is_head)
            if head.status < 200:
                raise ProtocolViolation("answers that are to be gone on with, and no other")
            self._keeps_alive = head.keeps_alive
            self._left = head.length
            self._chunked = ChunkedBody() if head.is_chunked else None
            if self._chunked is not None:
                self._decode(self._chunked, self._received)
        return head

    @contextmanager
    def _described(self, kind: type[BackendUnavailable]) -> Iterator[None]:
        try:
            yield
        except OSError as e:  # ssl.SSLError is one
            raise kind(f"{self._origin}: {e.strerror or e}") from None
        except ProtocolViolation as e:
            raise BackendUnavailable(f"{self._origin}: {e}") from None

    def _acknowledge(self) -> None:
        """At once: a server that sends head and body by two small writes waits in between for this (Nagle), 40 ms else.

        The kernel forgets it again and again (TCP_QUICKACK, tcp(7)).
        """
        if self._sock.family != socket.AF_UNIX:
            with suppress(OSError):
                self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    async def _receive(self, deadline: Deadline) -> bytes:
        self._acknowledge()
        await trio.lowlevel.checkpoint()  # who sends faster than it is taken apart does not have the loop alone
        part = await ready(self._sock, partial(self._sock.recv, RECEIVE_BYTES))
        deadline.progress()
        return part

    async def _receive_head(self, deadline: Deadline) -> bytes:
        raw = self._received
        while (end := raw.find(b"\r\n\r\n")) < 0:
            if len(raw) > MAX_HEAD_BYTES:
                raise ProtocolViolation("an answer whose head has no end")
            part = await self._receive(deadline)
            if not part:
                kind = Lost if raw else HungUp
                raise kind(f"{self._origin}: hung up before it answered")
            raw += part
        self._received = raw[end + 4 :]
        return raw[:end]

    async def receive_into(self, view: memoryview, deadline: Deadline) -> int:
        """Bytes of the body; 0 at its end. Raises BackendUnavailable."""
        with self._described(Lost):
            if self._chunked is not None:
                return await self._receive_chunked(self._chunked, view, deadline)
            if self._left is not None:
                view = view[: self._left]
            if not view:
                return 0
            if self._received:
                count = self._take(view)
            else:
                self._acknowledge()
                count = await ready(self._sock, partial(self._sock.recv_into, view))
                deadline.progress()
            if self._left is not None:
                if not count:
                    raise Lost(f"{self._origin}: hung up {self._left} bytes before the end of its answer")
                self._left -= count
            return count

    def _take(self, view: memoryview) -> int:
        count = min(len(view), len(self._received))
        view[:count] = self._received[:count]
        self._received = self._received[count:]
        return count

    async def _receive_chunked(self, body: ChunkedBody, view: memoryview, deadline: Deadline) -> int:
        while not self._received and not body.is_complete:
            part = await self._receive(deadline)
            if not part:
                raise Lost(f"{self._origin}: hung up within its answer")
            self._decode(body, part)
        return self._take(view)

    def _decode(self, body: ChunkedBody, raw: bytes) -> None:
        """What is received and not taken is data from here on."""
        self._received = body.decode(raw)
        if body.is_complete:
            self._left = 0
            self._keeps_alive = self._keeps_alive and not body.rest

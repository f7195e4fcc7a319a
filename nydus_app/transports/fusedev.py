"""A FileSystem served to the kernel over /dev/fuse, without libfuse.

One task leads: it takes the next request and answers it. A request that has to wait (a READ of data
that are not here yet) keeps its task, and another one leads from then on; a request that need not
wait costs no task. So nothing that a backend does, or never does, holds up who asks for something else.

Concurrency: all of it belongs to one trio thread, but what happens between `begin` and `serve`
(`early_answers`). The leader alone takes messages.
"""

from __future__ import annotations

import logging
import types
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import cached_property
from typing import Any, TypeVar

import trio

from nydus_app.errors import ProtocolViolation
from nydus_app.filesystems.port import FileSystem
from nydus_app.protocols.fuse.init import Settings
from nydus_app.protocols.fuse.requests import decode_request
from nydus_app.transports.early_answers import EarlyAnswers
from nydus_app.transports.fuse_channel import FuseChannel
from nydus_app.transports.fuse_session import FuseSession

log = logging.getLogger("nydus.fuse")

T = TypeVar("T")

MAX_WAITING = 1024
"""Requests that may wait at a time; then the next one is taken when one of them is answered."""

FAIR = 32
"""Requests in a row before other tasks (the API, replies that threads have ready) get their turn."""


class FusedevTransport:
    """Serves `filesystem` on `fd`, an open /dev/fuse with a mount behind it, until it is unmounted.

    With `settings` (those of `FusedevTransport.settings` elsewhere) a session that runs already is
    taken over; `resend` then asks for what was in flight. The descriptor stays the caller's.
    """

    def __init__(self, filesystem: FileSystem, fd: int, settings: Settings | None = None) -> None:
        self._session = FuseSession(filesystem, settings)
        self._channel = FuseChannel(fd)
        self._early: EarlyAnswers | None = None
        self._postponed: deque[memoryview] = deque()
        self._waiting = 0
        self._is_led = True
        self._in_a_row = 0

    @property
    def settings(self) -> Settings | None:
        """What INIT has agreed upon, None before."""
        return self._session.settings

    def begin(self) -> bool:
        self._early = EarlyAnswers(self._session, self._channel)
        return True

    def stand_back(self) -> None:
        if self._early is not None:
            self._early.stand_back()

    def end_early(self) -> None:
        if self._early is not None:
            self._postponed.extend(self._early.end())
            self._early = None

    async def serve(self) -> None:
        """Returns when the kernel has no more requests (unmounted) or after `stop`."""
        self.end_early()
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._lead, nursery)

    @cached_property
    def _scope(self) -> trio.CancelScope:
        return trio.CancelScope()

    def stop(self) -> None:
        self._scope.cancel()

    def close(self) -> None:
        """Whoever still waits gets no answer: the descriptor is about to be closed."""
        self.end_early()

    def resend(self) -> None:
        """Have the kernel send again what it has sent and got no reply to (Linux 6.9)."""
        self._channel.resend()

    async def _lead(self, nursery: trio.Nursery) -> None:
        """Answer requests until one of them has made another task the leader."""

        def hand_over() -> None:
            nonlocal leads
            leads = False
            self._waiting += 1
            self._is_led = self._waiting < MAX_WAITING
            if self._is_led:
                nursery.start_soon(self._lead, nursery)

        leads = True
        while leads:
            message = await self._receive()
            if not message:
                self._scope.cancel()
                return
            try:
                request = decode_request(message)
            except ProtocolViolation as e:
                log.error("%s", e)
                continue
            self._channel.reply(request.unique, await _told(self._session.answer(request), hand_over))
            if not leads:
                self._waiting -= 1
                leads, self._is_led = not self._is_led, True

    async def _receive(self) -> memoryview:
        """The next message, valid until the next call; empty where there will be none."""
        self._in_a_row += 1
        if self._in_a_row > FAIR:
            self._in_a_row = 0
            await trio.lowlevel.checkpoint()
        if self._postponed:
            return self._postponed.popleft()
        while (message := self._channel.take()) is None:
            self._in_a_row = 0
            await trio.lowlevel.wait_readable(self._channel.fd)
        return message


@types.coroutine
def _told(coroutine: Coroutine[Any, Any, T], on_wait: Callable[[], None]) -> Generator[Any, Any, T]:
    """Await `coroutine`, and call `on_wait` just before the first time that this really waits.

    A coroutine yields to trio's loop only where it waits; trio resumes it by `send` alone.
    """
    try:
        trap = coroutine.send(None)
        on_wait()
        while True:
            trap = coroutine.send((yield trap))
    except StopIteration as done:
        result: T = done.value
        return result

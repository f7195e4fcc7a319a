"""A limit on requests: an origin that counts them is asked evenly, not turned away."""

from __future__ import annotations

import time

import trio


class RequestRate:
    """At most `rate` requests a second, 0 for no limit; half a second's worth may go at once after a silence.

    Concurrency: on the trio thread; who comes later goes later.
    """

    def __init__(self, rate: int) -> None:
        self._step_s = 1 / rate if rate else 0.0
        self._free_at = 0.0

    async def wait(self) -> None:
        if not self._step_s:
            return
        now = time.monotonic()
        at = max(self._free_at, now - BURST_S)
        self._free_at = at + self._step_s
        if at > now:
            await trio.sleep(at - now)


BURST_S = 0.5

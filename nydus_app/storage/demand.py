"""Who waits for data: what is fetched for nobody in particular stands back meanwhile, and a little longer.

A program that starts reads, computes, and reads on: what is begun in between would be in the way of its next read.

Concurrency: on the trio thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from nydus_app.storage.hop import has_loop

QUIET_S = 0.05
PATIENCE_S = 1.0
"""So long a pause is waited for; a reader who waits is waited for without end."""


class Demand:
    def __init__(self) -> None:
        self._waiting = 0
        self._last = -QUIET_S
        self._answered: trio.Event | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A reader waits inside of the block. Before there is a loop, nothing is fetched that could stand back."""
        if not has_loop():
            yield
            return
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._last = trio.current_time()
                if self._answered is not None:
                    self._answered.set()
                    self._answered = None

    async def wait_quiet(self) -> None:
        """Until no reader waits, nor has for QUIET_S. Whoever calls it does so for nobody."""
        deadline = trio.current_time() + PATIENCE_S
        while True:
            while self._waiting:
                if self._answered is None:
                    self._answered = trio.Event()
                await self._answered.wait()
            until = min(self._last + QUIET_S, deadline)
            if until <= trio.current_time():
                return
            await trio.sleep_until(until)

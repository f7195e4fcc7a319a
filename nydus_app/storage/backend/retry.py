"""Another try for what another try may cure; the one place where that is decided.

    BackendUnavailable    after a pause that doubles, or that the backend has asked for
    any other error       at once to the reader

Every try has a deadline of its own (the reader's), and the pauses are bounded: so is the whole.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from copy import copy
from typing import NamedTuple, TypeVar

import trio

from nydus_app.errors import BackendUnavailable
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.hop import require_loop

log = logging.getLogger("nydus.backend")

T = TypeVar("T")

FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 5.0
MAX_RETRY_AFTER_S = 30.0
"""Who asks for a longer pause cannot be helped by trying again while somebody waits for the bytes."""


FAILED_FOR_S = 0.2
"""A kernel whose read has failed asks again at once, twice, for a part of it: its reader has waited long enough."""


class _Failure(NamedTuple):
    offset: int
    end: int
    until: float
    error: BackendUnavailable  # without a traceback, whose frames hold what had come by then


class Retrying:
    """A BlobReader over another one: 1 + `limit` tries. What has just failed for good fails again at once.

    Concurrency: on the trio thread.
    """

    def __init__(self, reader: BlobReader, limit: int) -> None:
        self._reader = reader
        self._limit = limit
        self._failures: deque[_Failure] = deque(maxlen=32)

    async def read(self, offset: int, size: int) -> bytes | bytearray:
        require_loop()
        now = time.monotonic()
        for failure in self._failures:
            if now < failure.until and offset < failure.end and failure.offset < offset + size:
                raise failure.error
        try:
            return await self._try(lambda: self._reader.read(offset, size))
        except BackendUnavailable as e:
            self._failures.append(_Failure(offset, offset + size, time.monotonic() + FAILED_FOR_S, copy(e)))
            raise

    async def size(self) -> int:
        require_loop()
        return await self._try(self._reader.size)

    def close(self) -> None:
        self._reader.close()

    async def _try(self, call: Callable[[], Awaitable[T]]) -> T:
        for tried in range(self._limit):
            try:
                return await call()
            except BackendUnavailable as e:
                pause = pause_s(tried, e.retry_after_s)
                if pause is None:
                    raise
                log.warning("%s; try %d of %d in %.1f s", e, tried + 2, self._limit + 1, pause)
            await trio.sleep(pause)
        return await call()


def pause_s(tried: int, asked_s: float | None) -> float | None:
    """Before the next try; None where there is to be none. A random part keeps many readers from coming at once."""
    pause = min(FIRST_PAUSE_S * 2.0**tried, MAX_PAUSE_S) * random.uniform(0.75, 1.25)
    if asked_s is None:
        return pause
    return None if asked_s > MAX_RETRY_AFTER_S else max(pause, asked_s)

"""Prefetch: what readers may want, fetched while nobody waits (contract 7.6).

First the files that a list, or else the image's own table, names; then, if all is asked for, every blob in its order.
Who waits for data goes first: as long as anybody does, no new request is begun here. A failure is nobody's but ours.

Concurrency: on the trio thread, `threads` tasks, each with a portion in hand.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import trio

from nydus_app.errors import BackendError, NydusError
from nydus_app.formats.rafs.values import Bootstrap
from nydus_app.storage.background import Background
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch_log import Why
from nydus_app.storage.prefetch_plan import Portion, inos_of_paths, portions_of_blob, portions_of_files

log = logging.getLogger("nydus.storage")

MAX_FAILURES = 32
RETRY_S = 1.0
"""As nydusd: a failed request is tried again after a second, so often in all."""

STREAM_BYTES = 4 << 20
"""What `stream_prefetch` asks for at a time."""

EXPECTED_RATIO = 2
"""Uncompressed bytes of a portion for each byte of a request; a portion that packs worse makes two requests."""


class Plan(NamedTuple):
    """`inos` first, then whole blobs if `everything`."""

    inos: Sequence[int]
    everything: bool


def plan_prefetch(bootstrap: Bootstrap, paths: Sequence[bytes] | None, prefetch_all: bool) -> Plan:
    """Contract 7.6, steps 2 and 3; `paths` are those of `--prefetch-files`. Raises InvalidImage for a damaged table."""
    root = bootstrap.root_ino
    inos = bootstrap.prefetch_inos() if paths is None else inos_of_paths(bootstrap, paths)
    if inos and set(inos) == {root}:
        return Plan((), everything=True)
    return Plan(inos, everything=prefetch_all and root not in inos)


class Pace:
    """At most so many bytes a second, 0 for any number."""

    def __init__(self, bytes_per_s: int) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0

    async def take(self, count: int) -> None:
        """Wait for one's turn to fetch about so many."""
        if self._rate:
            turn = max(self._free_at, trio.current_time())
            self._free_at = turn + count / self._rate
            await trio.sleep_until(turn)

    def correct(self, count: int) -> None:
        """It turned out to be so many more, or less."""
        if self._rate:
            self._free_at += count / self._rate


class Prefetcher:
    """`caches` and `indexes` are those of the blobs of `bootstrap`, in its order."""

    def __init__(
        self,
        bootstrap: Bootstrap,
        caches: Sequence[ChunkCache],
        indexes: Sequence[ChunkIndex],
        background: Background,
        plan: Callable[[], Plan],
        *,
        threads: int,
        batch_size: int,
        bandwidth_limit: int,
        stream: bool = False,
    ) -> None:
        self._bootstrap = bootstrap
        self._caches = caches
        self._indexes = indexes
        self._background = background
        self._plan = plan
        self._threads = threads
        self._portion_bytes = EXPECTED_RATIO * (STREAM_BYTES if stream else batch_size)
        self._pace = Pace(bandwidth_limit)
        self._failures = 0
        self._spent = 0

    async def run(self) -> None:
        """Until all is there, or too much has failed."""
        try:
            plan = self._plan()
        except NydusError as e:
            log.warning("nothing is prefetched: %s", e)
            return
        send, receive = trio.open_memory_channel[Portion](0)
        async with trio.open_nursery() as nursery:
            for _ in range(self._threads):
                nursery.start_soon(self._work, receive.clone())
            receive.close()
            async with send:
                try:
                    await self._feed(plan, send)
                except trio.BrokenResourceError:
                    log.warning("prefetch ends after %d failures", self._failures)
                    return
        log.info("prefetch: %d requests, %d bytes", self._requests(), self._background.fetches.bytes[Why.prefetch])

    def _requests(self) -> int:
        return self._background.fetches.requests[Why.prefetch]

    async def _feed(self, plan: Plan, send: trio.MemorySendChannel[Portion]) -> None:
        await self._send(portions_of_files(self._bootstrap, plan.inos, self._portion_bytes), send)
        if not plan.everything:
            return
        for blob, index in zip(self._bootstrap.blobs, self._indexes, strict=True):
            try:
                await index.load()
            except NydusError as e:
                log.warning("a blob is not prefetched: %s", e)
                continue
            if not len(index):  # v5 by FUSE knows its chunks by its files only
                await self._send(portions_of_files(self._bootstrap, [self._bootstrap.root_ino], self._portion_bytes), send)
                return
            await self._send(portions_of_blob(blob, index, self._portion_bytes), send)

    async def _send(self, portions: Iterable[Portion | None], send: trio.MemorySendChannel[Portion]) -> None:
        for portion in portions:
            if portion is None:
                await trio.lowlevel.checkpoint()
                await self._background.demand.wait_quiet()
            else:
                await send.send(portion)

    async def _work(self, portions: trio.MemoryReceiveChannel[Portion]) -> None:
        async with portions:
            async for portion in portions:
                while not await self._fetch(portion):
                    self._failures += 1
                    if self._failures > MAX_FAILURES:
                        return
                    await trio.sleep(RETRY_S)

    async def _fetch(self, portion: Portion) -> bool:
        """False where it is worth another try."""
        expected = self._portion_bytes // EXPECTED_RATIO
        await self._pace.take(expected)
        await self._background.demand.wait_quiet()
        try:
            await self._caches[portion.blob_index].prefetch(portion.wanted, portion.chunks)
        except BackendError as e:
            log.debug("prefetch: %s", e)
            return False
        except NydusError as e:
            log.debug("prefetch: %s", e)
        total = self._background.fetches.bytes[Why.prefetch]
        self._pace.correct(total - self._spent - expected)
        self._spent = total
        return True

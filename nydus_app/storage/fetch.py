"""The cold path of every cache: claim, plan, fetch, decode and verify, store, mark ready, wake.

A window is one request to the backend and one hop to a worker thread, which decodes and verifies
each chunk by itself: a corrupt chunk fails alone, its neighbours in the window are served.

Concurrency: `fetch` runs on the trio thread; between the look at `is_ready` and the claim there is
no checkpoint, so a chunk has one owner. A cancelled owner lands its flights empty, and whoever
waited tries itself. Worker threads get bytes and values only.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from nydus_app.errors import BackendError, NydusError
from nydus_app.formats.codec.chunk import decode_chunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.backend.port import BlobReader, SupportsPread
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.inflight import Flight, InFlight
from nydus_app.storage.plan import Window, plan_windows

Decoded = dict[int, Buffer | NydusError]
Store = Callable[[Sequence[tuple[Chunk, Buffer]]], None]


class ChunkFetcher:
    """Fetches chunks of one blob; what to do with their data is the cache's business (`store`)."""

    def __init__(
        self,
        blob: Blob,
        reader: BlobReader,
        index: ChunkIndex,
        *,
        validate: bool,
        batch_size: int,
        workers: trio.CapacityLimiter,
        store: Store,
    ) -> None:
        self.blob = blob
        self.index = index
        self._reader = reader
        self._validate = validate
        self._batch_size = batch_size
        self._workers = workers
        self._store = store
        self._inflight: InFlight[Buffer] = InFlight()

    async def fetch(
        self, chunks: Sequence[Chunk], ahead: Iterable[Chunk], is_ready: Callable[[int], bool]
    ) -> Mapping[int, Buffer]:
        """Decoded data of those `chunks` that were not ready; raises the first error among them.

        `store` has been called, in a worker thread, for all of them and for what was fetched along.
        """
        await self.index.load()
        got: dict[int, Buffer] = {}
        missing = {c.index: self.index.locate(c) for c in chunks if not is_ready(c.index)}
        while missing:
            theirs = {i: f for i in missing if (f := self._inflight.get(i)) is not None}
            mine = [c for i, c in missing.items() if i not in theirs]
            if mine:
                await self._fetch_mine(mine, ahead, is_ready, got)
            for i, flight in theirs.items():
                if await flight.wait():
                    if flight.error is not None:
                        raise flight.error
                    got[i] = flight.result  # type: ignore[assignment]
            missing = {i: c for i, c in missing.items() if i not in got and not is_ready(i)}
        return got

    async def _fetch_mine(
        self,
        wanted: Sequence[Chunk],
        ahead: Iterable[Chunk],
        is_ready: Callable[[int], bool],
        got: dict[int, Buffer],
    ) -> None:
        last = max(wanted, key=lambda c: c.compressed_offset)
        spare = (
            c
            for c in self.index.following(last, ahead)
            if c.index not in self._inflight and not is_ready(c.index)
        )
        windows = plan_windows(wanted, spare, self._batch_size)
        flights = self._inflight.claim(c.index for w in windows for c in w.chunks)
        try:
            if len(windows) == 1:
                await self._fetch_window(windows[0], flights)
            else:
                async with trio.open_nursery() as nursery:
                    for window in windows:
                        nursery.start_soon(self._fetch_window, window, flights)
        finally:
            self._inflight.land(flights)
        for chunk in wanted:
            flight = flights[chunk.index]
            if flight.error is not None:
                raise flight.error
            if flight.result is not None:
                got[chunk.index] = flight.result

    async def _fetch_window(self, window: Window, flights: Mapping[int, Flight[Buffer]]) -> None:
        """Fills the flights of a window; errors become the flights' own, none is raised."""
        try:
            if isinstance(self._reader, SupportsPread):
                decoded = await self._in_worker(self._pread_and_decode, window)
            else:
                raw = await self._reader.read(window.offset, window.end - window.offset)
                decoded = await self._in_worker(self._decode, window, raw)
        except BackendError as e:
            decoded = {c.index: e for c in window.chunks}
        for index, outcome in decoded.items():
            if isinstance(outcome, NydusError):
                flights[index].error = outcome
            else:
                flights[index].result = outcome

    async def _in_worker(self, function: Callable[..., Decoded], *args: object) -> Decoded:
        return await trio.to_thread.run_sync(function, *args, limiter=self._workers)

    def _pread_and_decode(self, window: Window) -> Decoded:
        assert isinstance(self._reader, SupportsPread)
        return self._decode(window, self._reader.pread(window.offset, window.end - window.offset))

    def _decode(self, window: Window, raw: Buffer) -> Decoded:
        decoded: Decoded = {}
        good: list[tuple[Chunk, Buffer]] = []
        view = memoryview(raw)
        for chunk in window.chunks:
            start = chunk.compressed_offset - window.offset
            stored = view[start : start + chunk.compressed_size]
            try:
                data = decode_chunk(self.blob, chunk, stored, validate=self._validate)
            except NydusError as e:
                decoded[chunk.index] = e
            else:
                decoded[chunk.index] = data
                good.append((chunk, data))
        self._store(good)
        return decoded

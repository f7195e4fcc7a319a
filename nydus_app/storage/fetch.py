"""The cold path of every cache: claim, plan, fetch; its windows are decoded, answered and stored by `jobs`.

A window is one request to the backend. No reader waits for what came along with his chunk.

Concurrency: everything is on the trio thread, or before there is a loop (`hop`); between the look at what is ready
and the claim there is no checkpoint, so a chunk has one owner (see `inflight`). Requests to a backend run in the
background's nursery; one that is cancelled gives its flights up, and whoever waited tries himself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress

import trio

from nydus_app.errors import BackendError, InvalidImage, NydusError
from nydus_app.formats.codec.chunk import Decoded
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk
from nydus_app.formats.recording import Span
from nydus_app.storage.backend.port import BlobReader, SupportsPread
from nydus_app.storage.backend.trace import traced
from nydus_app.storage.background import Background
from nydus_app.storage.cache.chunk_file import Fetched
from nydus_app.storage.cache.port import ChunksOf
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch_log import Why, entry, request_entry, told
from nydus_app.storage.filler.blob_orders import BlobOrders, HasRecords
from nydus_app.storage.hop import has_loop, require_loop
from nydus_app.storage.inflight import Flight, InFlight
from nydus_app.storage.jobs import Job, Jobs, Store
from nydus_app.storage.lookahead import Streams
from nydus_app.storage.plan import PLACE, Window, plan_windows
from nydus_app.storage.workers import Workers

log = logging.getLogger("nydus.storage")

MIN_LOOKAHEAD_BYTES, MAX_LOOKAHEAD_BYTES = 2 << 20, 8 << 20
"""Uncompressed bytes that are fetched ahead of a sequential reader; twice the batch size within these."""

MAX_ORDERED = MAX_LOOKAHEAD_BYTES // 4096
"""Chunks that are fetched ahead at a time: as many as could be, for each takes a block of the address space at least."""

LATE_NS = 1_000_000
"""Who waits longer for what is fetched ahead anyway is worth an entry in the log."""

LATER = (Why.prefetch, Why.replay)
"""What is decoded when the worker threads have nothing else to do."""


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
        workers: Workers,
        background: Background,
        store: Store,
    ) -> None:
        self.blob = blob
        self.index = index
        self._reader = reader
        self._batch_size = batch_size
        self._lookahead = min(max(2 * batch_size, MIN_LOOKAHEAD_BYTES), MAX_LOOKAHEAD_BYTES) if batch_size else 0
        self._background = background
        self._store = store
        self._inflight: InFlight[Buffer | NydusError] = InFlight()
        self._streams = Streams()
        self._has_units = blob.has_units
        self._is_zran = bool(blob.features & BlobFeatures.ZRAN)
        self._pread = reader.pread if isinstance(reader, SupportsPread) else None
        self._fresh = background.fresh.of_blob()
        self.fresh, self.drop_fresh = self._fresh.data, self._fresh.drop
        self._jobs = Jobs(
            blob, index, store, self._inflight,
            pread=self._pread, validate=validate, workers=workers, background=background, fresh=self._fresh,
        )  # fmt: skip
        self._orders: BlobOrders | None = None
        if isinstance(reader, SupportsPread) and isinstance(index, HasRecords) and not self._has_units:
            self._orders = BlobOrders(
                blob, index, store, self._inflight,
                extent=reader.extent, validate=validate, workers=workers, background=background,
            )  # fmt: skip
        self._replayed = bytearray()  # a byte for each chunk, 1 if a recording has named it

    # ---- for readers --------------------------------------------------------------------------

    def close(self) -> None:
        self._fresh.forget()
        if self._orders is not None:
            self._orders.close()

    def is_fetching(self, index: int) -> bool:
        return index in self._inflight

    async def join(self, first: int, last: int) -> bool:
        """Wait for whoever fetches chunk `first`, for a reader of all up to `last`; False where nobody does."""
        if (flight := self._inflight.get(first)) is None:
            return False
        began, began_ns = time.time(), time.monotonic_ns()
        with self._background.demand.waiting():
            await flight.wait()
        if not flight.is_awaited:
            self._was_late((first, last), self.index.chunks, began, time.monotonic_ns() - began_ns)
        return True

    async def fetch(
        self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk], why: Why | None = None
    ) -> Mapping[int, Buffer]:
        """Decoded data of those chunks that were not ready, and of others in their units; raises the first error among
        the wanted.

        The index has been loaded. A reader waits for them unless `why` says that they are fetched for none.
        """
        with self._background.demand.waiting() if why is None else nullcontext():
            outcomes = await self._fetch(wanted, chunks, ahead, why)
        got: dict[int, Buffer] = {}
        for index, outcome in outcomes.items():
            if isinstance(outcome, NydusError):
                raise outcome
            got[index] = outcome
        return got

    async def _fetch(
        self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk], why: Why | None
    ) -> Decoded:
        if self._pread is None:
            require_loop()
        if self._background.goes_on:
            outcomes, _ = await self._gather(self._background.nursery, wanted, chunks, ahead, why)
            return outcomes
        async with trio.open_nursery() as nursery:
            outcomes, jobs = await self._gather(nursery, wanted, chunks, ahead, why)
            for job in jobs:
                if job.stored is not None:
                    await job.stored.wait()
        return outcomes

    async def _gather(
        self,
        nursery: trio.Nursery | None,
        wanted: Sequence[int],
        chunks: ChunksOf,
        ahead: Iterable[Chunk],
        why: Why | None,
    ) -> tuple[Decoded, list[Job]]:
        """The outcomes of all chunks that were not ready, and the jobs that were launched for them."""
        outcomes: Decoded = {}
        jobs: list[Job] = []
        is_stored = self._store.is_stored
        joined: dict[int, None] = {}
        began, began_ns = time.time(), time.monotonic_ns()
        missing = [i for i in wanted if not is_stored(i)]
        while missing:
            flights: dict[Flight[Buffer | NydusError], list[int]] = {}
            for i in missing:
                if (f := self._inflight.get(i)) is not None:
                    flights.setdefault(f, []).append(i)
            mine = [i for i in missing if i not in self._inflight]
            if mine:
                try:
                    cause = self._store.why_missing(mine) if why is None else why
                    launched = self._launch(nursery, self._located(mine, chunks), cause, ahead if why is None else None)
                except NydusError as e:
                    outcomes.update(dict.fromkeys(mine, e))
                else:
                    jobs += launched
                    flights.update((job.flight, []) for job in launched)
                ahead = ()
            for flight, indexes in flights.items():
                landed = await flight.wait()
                if self._has_units:  # a cache without files remembers the other chunks of a unit
                    outcomes.update((i, data) for i, data in landed.items() if not isinstance(data, NydusError))
                found = [i for i in missing if i in landed]
                if why is None and not flight.is_awaited:  # its errors are not this reader's: he tries himself
                    joined.update(dict.fromkeys(indexes))
                    found = [i for i in found if not isinstance(landed[i], NydusError)]
                outcomes.update((i, landed[i]) for i in found)
            missing = [i for i in missing if i not in outcomes and not is_stored(i)]
        if joined:
            self._was_late(list(joined), chunks, began, time.monotonic_ns() - began_ns)
        return outcomes, jobs

    def _was_late(self, wanted: Sequence[int], chunks: ChunksOf, time_s: float, waited_ns: int) -> None:
        """A reader came for chunks that were under way, but not for him."""
        if waited_ns > LATE_NS:
            with suppress(InvalidImage):
                late = entry(self.blob, Why.late, chunks(sorted({wanted[0], wanted[-1]})))
                self._background.fetches.add(late._replace(time_s=time_s, latency_ns=waited_ns))

    def _located(self, wanted: Sequence[int], chunks: ChunksOf) -> list[Chunk]:
        """All of them, or InvalidImage."""
        located = [self.index.locate(c) for c in chunks(wanted)]
        for chunk in located:
            self._store.check(chunk)
        if len(located) != len(wanted):
            raise InvalidImage(f"blob {self.blob.id} has no chunk {min({*wanted} - {c.index for c in located})}")
        return located

    def follow(self, first: int, last: int) -> None:
        """A reader has asked for chunks `first` to `last`: fetch ahead of him if he reads on and on."""
        background, index = self._background, self.index
        if not (background.nursery or background.is_served) or not self._lookahead or not len(index):
            return
        if self._replayed and 0 not in self._replayed[first : last + 1]:
            return  # the recording knows better what he reads next
        asked, stream = first, self._streams.step(first, last)
        if stream is None:
            return
        is_early = not has_loop()
        nursery = None if is_early else background.nursery
        if nursery is None and not (is_early and self._orders is not None):
            return  # before there is a loop the process alone fetches ahead
        here, end = index.end_of(last), len(index)
        # One request for all that is far; what lies here is read in pieces, which threads share.
        at_once = here if self._pread is not None else here + self._lookahead
        while stream.frontier < end and (begins := index.end_of(stream.frontier - 1)) - here < self._lookahead:
            first = stream.frontier
            stream.frontier = min(max(index.find(max(begins + self._batch_size, at_once)), first + 1), end, first + MAX_ORDERED)
            cold = self._cold(range(first, stream.frontier))
            if cold and not self._is_ordered(nursery, asked, cold):
                if nursery is None:
                    stream.frontier = first  # who comes next may have it fetched
                    return
                try:
                    self._launch(nursery, index.chunks(cold), Why.ahead)
                except NydusError as e:
                    log.debug("nothing is fetched ahead: %s", e)

    def _is_ordered(self, nursery: trio.Nursery | None, asked: int, cold: Sequence[int]) -> bool:
        """The process that fills caches has taken them over."""
        return self._orders is not None and self._orders.fill(nursery, asked, cold)

    async def replay(self, span: Span) -> None:
        """Ask for a span of the blob at once, and decode it when the index is here (see `cache/port`)."""
        self._replayed = self._replayed or bytearray(self.blob.chunk_count)
        self._replayed[span.first : span.end] = b"\1" * (span.end - span.first)
        wanted = self._cold(range(span.first, span.end))
        if not wanted:
            return
        flight = self._inflight.claim(wanted, is_awaited=False)
        failed = request_entry(self.blob, Why.replay, (span.first, span.end - 1), (span.offset, span.size))
        began_ns = time.monotonic_ns()
        try:
            with traced() as tries:
                raw = await self._reader.read(span.offset, span.size)
            await self.index.load()
            window = self._recorded(span, wanted)
        except NydusError as e:
            latency_ns = time.monotonic_ns() - began_ns
            self._background.fetches.add(told(failed, tries)._replace(latency_ns=latency_ns, error=str(e)))
            raise
        finally:
            self._inflight.end(wanted)
            flight.land({})
        # No checkpoint since they were given up: their jobs take them over.
        jobs = self._jobs.plan(window, {c.index for c in window.chunks}, Why.replay)
        jobs[0].course.goes_on(tries, began_ns)
        self._jobs.submit(jobs, Fetched(span.offset, raw), later=True)

    def _recorded(self, span: Span, wanted: Sequence[int]) -> Window:
        """Those of the chunks that lie in the span, which may be anybody's invention. Raises InvalidImage."""
        end = span.offset + span.size
        found = [
            c
            for c in self.index.chunks([i for i in wanted if i < len(self.index)])
            if span.offset <= c.compressed_offset and c.compressed_offset + c.compressed_size <= end
        ]
        for chunk in found:
            self._store.check(chunk)
        if not found:
            raise InvalidImage(f"the recording has no chunk of blob {self.blob.id} in {span.size} bytes at {span.offset}")
        decoded_bytes = sum([c.uncompressed_size for c in found])
        return Window(span.offset, end, tuple(sorted(found, key=PLACE)), decoded_bytes, has_spare=False)

    # ---- windows ------------------------------------------------------------------------------

    def _cold(self, indexes: range) -> Sequence[int]:
        """Those that nobody has to skip."""
        if self._store.has_none_of(indexes) and self._inflight.has_none_of(indexes):
            return indexes
        return [i for i in indexes if not self._skip(i)]

    def _skip(self, index: int) -> bool:
        return index in self._inflight or self._store.is_kept(index)

    def _launch(
        self, nursery: trio.Nursery | None, wanted: Sequence[Chunk], why: Why, ahead: Iterable[Chunk] | None = None
    ) -> list[Job]:
        """Without `ahead` nothing is fetched along but what lies in the same units."""
        if self._has_units:
            wanted = [*wanted, *self.index.unit_mates(wanted, self._skip)]
        spare: Iterable[Chunk] = ()
        if ahead is not None and self._batch_size and not self._is_zran:  # a context is as much as a window
            last = max(wanted, key=lambda c: c.compressed_offset)
            spare = self.index.following(last, ahead, self._skip)
        indexes = {c.index for c in wanted}
        launched: list[Job] = []
        for window in plan_windows(wanted, spare, self._batch_size):
            jobs = self._jobs.plan(window, indexes, why)
            if self._pread is not None:
                self._jobs.submit(jobs, None, later=why in LATER)
            else:
                assert nursery is not None
                nursery.start_soon(self._request, window, jobs, why in LATER)
            launched += jobs
        return launched

    async def _request(self, window: Window, jobs: Sequence[Job], later: bool) -> None:
        """One request to the backend; raises nothing. What is not expected fails its readers, not the daemon."""
        outcome: BackendError | None = None
        try:
            with traced() as jobs[0].course.tries:
                raw = await self._reader.read(window.offset, window.end - window.offset)
        except BackendError as e:
            outcome = e
        except Exception as e:
            log.exception("unexpected error of the backend")
            outcome = BackendError(f"unexpected {type(e).__name__}: {e}")
        except BaseException:
            self._jobs.give_up(jobs, None)
            raise
        if outcome is None:
            self._jobs.submit(jobs, Fetched(window.offset, raw), later=later)
        else:
            self._jobs.give_up(jobs, outcome)

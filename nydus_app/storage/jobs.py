"""What windows are decoded in: worker threads decode, verify, answer and store.

A job answers its readers as soon as its data are verified, from memory; the data are stored behind that, and
ready after it. Each chunk is decoded by itself: a corrupt one fails alone, its neighbours are served.

Concurrency: `plan`, `submit` and `give_up` are called on the trio thread, or before there is a loop (`hop`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from operator import call
from typing import NamedTuple, Protocol

import trio

from nydus_app.errors import BackendError, CacheError, NydusError
from nydus_app.formats.codec.chunk import Decoded, decode_chunks
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.codec.unit import Room
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.background import Background
from nydus_app.storage.buffers import anonymous
from nydus_app.storage.cache.chunk_file import Fetched
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch_log import Course, Why, entry
from nydus_app.storage.filler.blob_orders import FilledStore
from nydus_app.storage.fresh import FreshChunks
from nydus_app.storage.hop import has_loop
from nydus_app.storage.inflight import Flight, InFlight
from nydus_app.storage.plan import Window, plan_jobs
from nydus_app.storage.workers import Workers

log = logging.getLogger("nydus.storage")

Post = Callable[[Callable[[], object]], None]
"""Has something called where the readers are: on the trio thread."""

Good = list[tuple[Chunk, Buffer]]
"""Verified data by chunk."""


class Store(FilledStore, Protocol):
    """Where chunks are kept."""

    def is_stored(self, index: int) -> bool:
        """It lies there, verified as configured; `store` was called for it, or it was found."""
        ...

    def is_kept(self, index: int) -> bool:
        """There is no need to fetch it, though it may have to be verified first."""
        ...

    def has_none_of(self, indexes: range) -> bool:
        """None of them is kept; False also where that would take long to say."""
        ...

    def why_missing(self, indexes: Sequence[int]) -> Why:
        """Why chunks that a reader waits for have to be fetched: cold, evicted or corrupt."""
        ...

    def check(self, chunk: Chunk) -> None:
        """Raises InvalidImage where the chunk could not be kept without hurting others."""
        ...

    def store(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> None:
        """Called in worker threads, with verified data and the bytes of the blob that they were decoded from."""
        ...


class Job(NamedTuple):
    """`stored` is set when the job is quite done; None where there is a background, and so nobody who waits for it."""

    is_ahead: bool  # nobody has asked for these chunks, but somebody soon may
    chunks: Sequence[Chunk]
    flight: Flight[Buffer | NydusError]
    stored: trio.Event | None
    course: Course


class Jobs:
    """Of one blob."""

    def __init__(
        self,
        blob: Blob,
        index: ChunkIndex,
        store: Store,
        inflight: InFlight[Buffer | NydusError],
        *,
        pread: Callable[[int, int], bytes] | None,
        validate: bool,
        workers: Workers,
        background: Background,
        fresh: FreshChunks,
    ) -> None:
        """What nobody waits for is left in `fresh`."""
        self.blob = blob
        self.index = index
        self._store = store
        self._inflight = inflight
        self._pread = pread
        self._validate = validate
        self._workers = workers
        self._background = background
        self._fresh = fresh
        self._has_units = blob.has_units

    def plan(self, window: Window, wanted: Collection[int], why: Why) -> list[Job]:
        """What a window is decoded in; its chunks are claimed."""
        pieces = plan_jobs(window, wanted)
        asked = [c for c in window.chunks if c.index in wanted] if window.has_spare else window.chunks
        course = Course(self._background.fetches, entry(self.blob, why, asked, window), len(pieces))
        is_awaited = why.is_awaited
        return [
            Job(
                why is Why.ahead or (is_awaited and chunks[0].index not in wanted),
                chunks,
                self._inflight.claim([c.index for c in chunks], is_awaited=is_awaited),
                None if self._background.goes_on else trio.Event(),
                course,
            )
            for chunks in pieces
        ]

    def give_up(self, jobs: Sequence[Job], error: NydusError | None) -> None:
        for job in jobs:
            job.flight.land({} if error is None else _all(job, error))
            job.course.landed(str(error or "given up"))
            self._inflight.end(c.index for c in job.chunks)
            if job.stored is not None:
                job.stored.set()

    def submit(self, jobs: Sequence[Job], fetched: Fetched | None, *, later: bool) -> None:
        if not has_loop():
            for job in jobs:
                self._keep_soon(partial(self._keep, job, *self._answer(job, fetched, call), call))
            return
        work = self._work_in_turn if self._has_units else self._work
        post = partial(_post, trio.lowlevel.current_trio_token())
        for job in jobs:
            try:
                self._workers.submit(partial(work, job, fetched, post), later=later)
            except RuntimeError as e:
                self.give_up((job,), CacheError(f"no worker thread can be started: {e}"))

    def _keep_soon(self, keep: Callable[[], None]) -> None:
        if self._background.is_served:
            with suppress(RuntimeError):  # no thread can be had
                self._workers.submit(keep)
                return
        keep()

    def _work_in_turn(self, job: Job, fetched: Fetched | None, post: Post) -> None:
        sizes = {c.part.unit: c.part.unit_size for c in job.chunks if c.part is not None}
        with self._background.turns.take(sum(sizes.values())):
            self._work(job, fetched, post)

    def _work(self, job: Job, fetched: Fetched | None, post: Post) -> None:
        """Worker thread."""
        self._keep(job, *self._answer(job, fetched, post), post)

    def _answer(self, job: Job, fetched: Fetched | None, post: Post) -> tuple[Good, Fetched | None]:
        """What can be kept, and what it was decoded from. What is not expected fails the job's readers, not the daemon."""
        good: Good = []
        try:
            fetched = fetched or self._read(job)
            outcomes = self._decode(job, fetched)
            good = [(c, data) for c in job.chunks if not isinstance(data := outcomes[c.index], NydusError)]
        except BackendError as e:
            outcomes = _all(job, e)
        except Exception as e:
            log.exception("unexpected error in a worker")
            outcomes = _all(job, CacheError(f"unexpected {type(e).__name__}: {e}"))
        post(partial(self._land, job, outcomes))
        return good, fetched

    def _keep(self, job: Job, good: Good, fetched: Fetched | None, post: Post) -> None:
        try:
            if good and fetched is not None:
                self._store.store(good, fetched)
        finally:
            self._inflight.end(c.index for c in job.chunks)
            if job.stored is not None:
                post(job.stored.set)

    def _land(self, job: Job, outcomes: Decoded) -> None:
        job.flight.land(outcomes)
        if job.is_ahead and not self._has_units:  # one small chunk would hold on to all of its unit
            self._fresh.put({i: o for i, o in outcomes.items() if not isinstance(o, NydusError)})
        error = next((o for o in outcomes.values() if isinstance(o, NydusError)), None)
        if error is not None and not isinstance(error, BackendError):  # which is counted where it comes from
            self._background.metrics.add_cause(error.cause)
        job.course.landed(str(error or ""))

    def _read(self, job: Job) -> Fetched:
        assert self._pread is not None
        offset = min(c.compressed_offset for c in job.chunks)
        end = max(c.compressed_offset + c.compressed_size for c in job.chunks)
        return Fetched(offset, self._pread(offset, end - offset))

    def _decode(self, job: Job, fetched: Fetched) -> Decoded:
        return decode_chunks(
            self.blob, job.chunks, fetched.raw, fetched.offset,
            validate=self._validate, room=Room(self.index.dictionary, anonymous),
        )  # fmt: skip


def _post(token: trio.lowlevel.TrioToken, work: Callable[[], object]) -> None:
    with suppress(trio.RunFinishedError):
        token.run_sync_soon(work)


def _all(job: Job, error: NydusError) -> Decoded:
    return {c.index: error for c in job.chunks}

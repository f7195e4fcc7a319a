"""What is ordered of one blob from the process that fills caches (`filler.py`), and what becomes of it here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol, runtime_checkable

import trio

from nydus_app.errors import BackendError, NydusError
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob
from nydus_app.storage.backend.extent import Extent
from nydus_app.storage.background import Background
from nydus_app.storage.fetch_log import Fetch, Why, request_entry
from nydus_app.storage.filler.filler import Filler
from nydus_app.storage.filler.wire import BlobHere, Report
from nydus_app.storage.inflight import Flight, InFlight
from nydus_app.storage.workers import Workers

SMALL_BYTES = 512 << 10
"""Larger chunks cost the codec, which holds no lock: threads decode several at a time."""

NOTED_TOGETHER = 16
"""What so many orders brought is noted at a time for who comes after the daemon, or what there is when none is left: a thread
that is woken for each of them is in the readers' way (measured: 1.1 of the small files a second without)."""


@runtime_checkable
class HasRecords(Protocol):
    """A chunk index whose chunks have records that tell all about them."""

    def stored(self, indexes: Sequence[int]) -> tuple[bytes, bytes]:
        """Those of the blob's table, and of the bootstrap's."""
        ...

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Uncompressed offset and size of all from one chunk to another."""
        ...


class FilledStore(Protocol):
    """Where chunks are kept, as far as others may write there."""

    def file_to_fill(self) -> int | None:
        """Descriptor of a file that takes chunks at their uncompressed offsets; None where they are not kept like that."""
        ...

    def filled(self, indexes: Sequence[int]) -> None:
        """They lie there, verified."""
        ...

    def note_filled(self) -> None:
        """Leave a note of it for whoever comes after the daemon. Worker thread."""
        ...


class BlobOrders:
    def __init__(
        self,
        blob: Blob,
        index: HasRecords,
        store: FilledStore,
        inflight: InFlight[Buffer | NydusError],
        *,
        extent: Callable[[], Extent],
        validate: bool,
        workers: Workers,
        background: Background,
    ) -> None:
        self._blob = blob
        self._index = index
        self._store = store
        self._inflight = inflight
        self._extent = extent
        self._validate = validate
        self._workers = workers
        self._background = background
        self._is_closed = False
        self._under_way = self._unnoted = 0
        self._attached: tuple[int, int] | None = None  # to which process, by what number

    def fill(self, nursery: trio.Nursery | None, asked: int, indexes: Sequence[int]) -> bool:
        """These chunks, which nobody has, are on their way from now on; False, and nothing changed, where they are not.

        They follow a read that began with chunk `asked`; where all from there on are large, threads are faster. No nursery:
        there is no loop yet.
        """
        if self._index.span(asked, indexes[-1])[1] >= SMALL_BYTES * (indexes[-1] + 1 - asked):
            return False
        filler, fd = self._background.filler, self._store.file_to_fill()
        if fd is None or not filler.is_at_hand(nursery):
            return False
        if (number := self._number(filler, fd)) is None:
            return False
        chunks = indexes[0], indexes[-1]
        entry = request_entry(self._blob, Why.ahead, chunks, (0, 0))._replace(asked=self._index.span(*chunks))
        table, records = self._index.stored(indexes)
        flight = self._inflight.claim(indexes, is_awaited=False)
        order = filler.order(number, indexes, table, records, partial(self._reported, indexes, flight, entry))
        if order is not None:
            flight.wait_here = partial(filler.wait_here, order)
            self._under_way += 1
            return True
        self._inflight.end(indexes)  # no checkpoint since they were claimed: nobody waits
        return False

    def _number(self, filler: Filler, data_fd: int) -> int | None:
        if self._attached is None or self._attached[0] != filler.generation:
            try:
                extent = self._extent()
            except BackendError:
                return None
            here = BlobHere(0, self._blob, f"blob {self._blob.id}", extent.offset, extent.size, self._validate)
            number = filler.attach(here, extent.fd, data_fd)
            self._attached = None if number is None else (filler.generation, number)
        return None if self._attached is None else self._attached[1]

    def _reported(
        self, indexes: Sequence[int], flight: Flight[Buffer | NydusError], entry: Fetch, report: Report | None
    ) -> None:
        self._under_way -= 1
        try:
            if report is not None and not self._is_closed:
                failed = frozenset(report.failed)
                self._store.filled([i for i in indexes if i not in failed] if failed else indexes)
                self._unnoted += 1
                self._tell(entry, report)
        finally:
            self._inflight.end(indexes)
            flight.land({})  # who waits finds them in the file, or tries himself
        if self._unnoted >= (NOTED_TOGETHER if self._under_way else 1):
            self._unnoted = 0
            self._workers.submit(self._store.note_filled)

    def _tell(self, entry: Fetch, report: Report) -> None:
        for offset, size, chunks, read_ns, latency_ns in report.filled:
            causes = () if chunks else (BackendError("").cause,)
            self._background.metrics.add_read(size, read_ns / 1e9, is_failed=not chunks, causes=causes)
            told = entry._replace(fetched=(offset, size), fetched_chunks=chunks, latency_ns=latency_ns, error=report.error)
            self._background.fetches.add(told)

    def close(self) -> None:
        if self._attached is not None and self._attached[0] == self._background.filler.generation:
            self._background.filler.detach(self._attached[1])
        self._attached, self._is_closed, self._unnoted = None, True, 0  # who closes the store notes the rest

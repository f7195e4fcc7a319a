"""What was fetched, why, and how long somebody waited for it: the last few thousand requests, in memory.

A request to a backend is one entry, whatever the number of its chunks. A reader who comes for what is under way
already, and was not fetched for him, leaves an entry of his own: that is how a late prefetch is seen.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Sequence
from enum import StrEnum
from operator import itemgetter
from typing import NamedTuple

from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.backend.trace import Try
from nydus_app.storage.plan import Window

MAX_ENTRIES = 4096
START = itemgetter(Chunk._fields.index("uncompressed_offset"))


class Why(StrEnum):
    """The cause of a fetch; a reader waits for the first four."""

    cold = "cold"
    evicted = "evicted"
    corrupt = "corrupt"  # the cache's copy did not match its digest
    late = "prefetch late"  # it was being fetched ahead when a reader came
    ahead = "ahead"
    prefetch = "prefetch"
    replay = "replay"
    index = "chunk index"  # where the chunks of a blob lie, fetched before the first of them

    @property
    def is_awaited(self) -> bool:
        return self in (Why.cold, Why.evicted, Why.corrupt, Why.late)


class Fetch(NamedTuple):
    """One entry. Ranges are bytes: `asked` of the blob's uncompressed address space, `fetched` of the blob object.

    An entry that made no request (`late`) has fetched nothing. Local files have no origin, status and tries.
    """

    time_s: float  # since the epoch, when it began
    blob_id: str
    blob_index: int
    why: Why
    asked: tuple[int, int]  # offset, size
    chunks: tuple[int, int]  # first and last that were asked for
    fetched: tuple[int, int]  # offset, size
    fetched_chunks: int
    latency_ns: int  # until the first data were there, decoded and verified
    origin: str
    status: int
    tries: int
    trouble: str  # what was wrong with the tries that failed
    error: str  # empty where the data came after all


def entry(blob: Blob, why: Why, asked: Sequence[Chunk], window: Window | None = None) -> Fetch:
    """The entry of a request that begins now; `asked` are chunks of `window`, in its order."""
    start = min(map(START, asked))
    last = max(asked, key=START)
    end = last.uncompressed_offset + last.uncompressed_size
    fetched = (0, 0) if window is None else (window.offset, window.end - window.offset)
    return Fetch(
        time.time(), blob.id, blob.index, why, (start, end - start), (asked[0].index, asked[-1].index),
        fetched, 0 if window is None else len(window.chunks), 0, "", 0, 0, "", "",
    )  # fmt: skip


def request_entry(blob: Blob, why: Why, chunks: tuple[int, int], fetched: tuple[int, int]) -> Fetch:
    """The entry of a request that begins now, before it is known which chunks come."""
    return Fetch(time.time(), blob.id, blob.index, why, (0, 0), chunks, fetched, 0, 0, "", 0, 0, "", "")


def told(entry: Fetch, tries: Sequence[Try]) -> Fetch:
    """With what its requests went through; local files tell nothing."""
    if not tries:
        return entry
    trouble = "; ".join(dict.fromkeys(t.error for t in tries if t.error))
    return entry._replace(origin=tries[-1].origin, status=tries[-1].status, tries=len(tries), trouble=trouble)


class FetchLog:
    """A ring, and what there was in all. Concurrency: on the trio thread; `entries` copies it."""

    def __init__(self, size: int = MAX_ENTRIES) -> None:
        self._ring: deque[Fetch] = deque(maxlen=size)
        self.requests: Counter[Why] = Counter()
        self.bytes: Counter[Why] = Counter()

    def add(self, fetch: Fetch) -> None:
        self._ring.append(fetch)
        self.requests[fetch.why] += 1
        self.bytes[fetch.why] += fetch.fetched[1]

    def entries(self) -> list[Fetch]:
        """Oldest first."""
        return list(self._ring)


class Course:
    """A request that is under way: it becomes an entry when all its jobs have landed."""

    __slots__ = ("_began_ns", "_entry", "_error", "_jobs", "_latency_ns", "_log", "tries")

    def __init__(self, log: FetchLog, entry: Fetch, jobs: int) -> None:
        self._log = log
        self._entry = entry
        self._jobs = jobs
        self._began_ns = time.monotonic_ns()
        self._latency_ns = 0
        self._error = ""
        self.tries: list[Try] = []  # what its requests went through; local files tell nothing

    def goes_on(self, tries: list[Try], began_ns: int) -> None:
        """It began before its chunks were known."""
        self.tries, self._began_ns = tries, began_ns

    def landed(self, error: str) -> None:
        """One of its jobs has; the first one is what somebody waits for."""
        self._latency_ns = self._latency_ns or time.monotonic_ns() - self._began_ns
        self._error = self._error or error
        self._jobs -= 1
        if not self._jobs:
            self._log.add(told(self._entry, self.tries)._replace(latency_ns=self._latency_ns, error=self._error))

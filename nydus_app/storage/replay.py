"""Replaying a recorded start: its spans are asked for, merged and several at a time, before anybody reads.

Spans say where their bytes lie in the blob object, so no request waits for another, not even for the blob's chunk
index, which is fetched beside them. They go out in the order of the recording, and are decoded in it as well,
behind what a reader waits for.

Concurrency: on the trio thread.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import trio

from nydus_app.errors import InvalidImage, NydusError
from nydus_app.formats.rafs.values import Blob
from nydus_app.formats.recording import MAX_BYTES, Recording, Span, decode_recording
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import ChunkIndex, RecordedIndex

log = logging.getLogger("nydus.storage")

REQUESTS = 16
"""So many are under way at a time: enough to hide a long way to the origin, few enough to keep their order."""

MAX_REQUEST_BYTES = 1 << 20
MAX_GAP_BYTES = 64 << 10
"""What lies between two spans and is fetched with them costs less than a request."""

MAX_GAP_CHUNKS = 64
NEAR = 256
"""So many requests before it a span may be merged into."""


def read_recording(path: str) -> Recording:
    """Raises InvalidImage, OSError."""
    with open(path, "rb") as f:
        return decode_recording(f.read(MAX_BYTES + 1))


def spans_in(recording: Recording, blobs: Sequence[Blob]) -> list[Span]:
    """Its spans with the numbers of these blobs; what they cannot hold is left out. Raises InvalidImage if that is all."""
    numbers = {b.id: b.index for b in blobs}
    found = []
    for span in recording.spans:
        number = numbers.get(recording.blobs[span.blob])
        if number is None:
            continue
        blob = blobs[number]
        if span.end <= blob.chunk_count and span.offset + span.size <= blob.compressed_size:
            found.append(span._replace(blob=number))
    if recording.spans and not found:
        raise InvalidImage("the recording is one of another image")
    return found



def merge_spans(spans: Iterable[Span]) -> list[Span]:
    """The same chunks and perhaps some between them, in fewer spans; each comes as early as the first of its parts."""
    requests: list[Span] = []
    for span in spans:
        for number in range(len(requests) - 1, max(len(requests) - NEAR, 0) - 1, -1):
            if (merged := _merged(requests[number], span)) is not None:
                requests[number] = merged
                break
        else:
            requests.append(span)
    return requests


def _merged(a: Span, b: Span) -> Span | None:
    if a.blob != b.blob:
        return None
    offset, end = min(a.offset, b.offset), max(a.offset + a.size, b.offset + b.size)
    first, last = min(a.first, b.first), max(a.end, b.end)
    gap_bytes, gap_chunks = end - offset - a.size - b.size, last - first - (a.end - a.first) - (b.end - b.first)
    if gap_bytes > MAX_GAP_BYTES or end - offset > MAX_REQUEST_BYTES or gap_chunks > MAX_GAP_CHUNKS:
        return None
    return Span(a.blob, first, last, offset, end - offset)


class Replayer:
    """`caches` and `indexes` are those of the blobs that the spans number."""

    def __init__(self, spans: Sequence[Span], caches: Sequence[ChunkCache], indexes: Sequence[ChunkIndex]) -> None:
        self._spans = merge_spans(spans)
        self._caches = caches
        self._indexes = indexes
        self._failures = 0

    async def run(self) -> None:
        """Until all spans are there; those that cannot be had are left to their readers."""
        if any(isinstance(index, RecordedIndex) and not len(index) for index in self._indexes):
            log.info("the recording is not replayed: RAFS v5 by FUSE has no numbers of chunks")
            return
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for blob in {span.blob: None for span in self._spans}:
                nursery.start_soon(self._load, self._indexes[blob])
            rest = iter(self._spans)
            for _ in range(REQUESTS):
                nursery.start_soon(self._work, rest)
        log.info(
            "replay: %d requests, %d bytes, %d failures, %.3f s", len(self._spans), sum(s.size for s in self._spans),
            self._failures, trio.current_time() - began,
        )  # fmt: skip

    async def _load(self, index: ChunkIndex) -> None:
        try:
            await index.load()
        except NydusError as e:
            log.debug("replay: %s", e)

    async def _work(self, spans: Iterator[Span]) -> None:
        for span in spans:
            try:
                await self._caches[span.blob].replay(span)
            except NydusError as e:
                self._failures += 1
                log.debug("replay: %s", e)
            await trio.lowlevel.checkpoint()

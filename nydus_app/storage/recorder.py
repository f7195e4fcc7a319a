"""Recording a start: which chunks its readers asked for, first things first.

A cache is read through a `RecordedCache`, which tells the recorder of every read that reaches it, whether the data were
there or not. What the kernel answers by itself has reached it before.

Concurrency: on the trio thread, but for the writing of the file.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import trio

from nydus_app.errors import NydusError
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.formats.recording import Span, encode_recording
from nydus_app.storage.cache.port import ChunkCache, ChunksOf
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.whole_file import replacing

log = logging.getLogger("nydus.storage")

MAX_SPAN_BYTES = 1 << 20
"""Bytes of the blob in a span, unless one chunk has more: what is worth a request of its own."""

MAX_RUNS = 1 << 16

LOAD_S = 2.0
"""So long a blob's index is waited for at the end."""


class Recorder:
    """Of an image with these blobs; `seconds` from the beginning of `run` on, 0 for as long as it runs."""

    def __init__(self, path: str, blobs: Sequence[Blob], indexes: Sequence[ChunkIndex], seconds: int) -> None:
        self._path = path
        self._blobs = blobs
        self._indexes = indexes
        self._seconds = seconds
        self._seen = [bytearray(b.chunk_count) for b in blobs]
        self._runs: list[tuple[int, int, int]] = []  # blob, first chunk, end
        self._loaded: set[int] = set()
        self._is_over = False

    def saw(self, blob: int, first: int, last: int) -> None:
        """A reader has asked for chunks `first` to `last`."""
        seen = self._seen[blob]
        if self._is_over or 0 not in seen[first : last + 1] or len(self._runs) >= MAX_RUNS:
            return
        for index in range(first, min(last + 1, len(seen))):
            if not seen[index]:
                seen[index] = 1
                if self._runs and self._runs[-1][0] == blob and self._runs[-1][2] == index:
                    self._runs[-1] = (blob, self._runs[-1][1], index + 1)
                else:
                    self._runs.append((blob, index, index + 1))

    async def run(self) -> None:
        """Writes the file when the time is over, or when it is cancelled before."""
        try:
            with trio.move_on_after(self._seconds or float("inf")):
                await trio.sleep_forever()
        finally:
            self._is_over = True
            with trio.CancelScope(shield=True, deadline=trio.current_time() + LOAD_S):
                await self._load()
            self._write()

    async def _load(self) -> None:
        """What was there already has been read without the index of its blob."""
        for blob in sorted({blob for blob, _, _ in self._runs}):
            with suppress(NydusError):
                await self._indexes[blob].load()
                self._loaded.add(blob)

    def _write(self) -> None:
        """Complete under its name or not at all."""
        for blob in sorted({blob for blob, _, _ in self._runs} - self._loaded):
            log.warning("the recording lacks blob %s: its index is not to be had", self._blobs[blob].id)
        spans = list(self._spans())
        try:
            with replacing(self._path) as f:
                f.write(encode_recording([b.id for b in self._blobs], spans))
        except OSError as e:
            log.warning("the recording %s is not written: %s", self._path, e.strerror)
        else:
            size = sum(s.size for s in spans)
            log.info("%s: recorded %d spans, %d bytes", self._path, len(spans), size)

    def _spans(self) -> Iterable[Span]:
        try:
            for blob, first, end in [run for run in self._runs if run[0] in self._loaded]:
                yield from spans_of(blob, self._indexes[blob].chunks(range(first, end)))
        except NydusError as e:
            log.warning("the recording lacks some chunks: %s", e)


def spans_of(blob: int, chunks: Iterable[Chunk]) -> Iterable[Span]:
    """Chunks by ascending index, located, as spans of up to MAX_SPAN_BYTES; what lies apart is not joined."""
    span: Span | None = None
    for c in chunks:
        end = c.compressed_offset + c.compressed_size
        if (
            span is not None
            and c.index == span.end
            and span.offset <= c.compressed_offset <= span.offset + span.size  # chunks of one unit share its bytes
            and end - span.offset <= MAX_SPAN_BYTES
        ):
            span = span._replace(end=c.index + 1, size=max(span.size, end - span.offset))
        else:
            if span is not None:
                yield span
            span = Span(blob, c.index, c.index + 1, c.compressed_offset, c.compressed_size)
    if span is not None:
        yield span


class RecordedCache:
    """A ChunkCache that tells `recorder` what is read; it does not own `cache`, but closes it."""

    def __init__(self, cache: ChunkCache, recorder: Recorder, blob_index: int) -> None:
        self._cache = cache
        self._recorder = recorder
        self._blob_index = blob_index
        self.is_ready = cache.is_ready
        self.are_ready = cache.are_ready
        self.is_bounded, self.hold = cache.is_bounded, cache.hold
        self.fresh, self.drop_fresh = cache.fresh, cache.drop_fresh
        self.prefetch = cache.prefetch
        self.replay = cache.replay
        self.data_fd = cache.data_fd
        self.close = cache.close

    def follow(self, first: int, last: int) -> None:
        self._recorder.saw(self._blob_index, first, last)
        self._cache.follow(first, last)

    async def ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        return await self._cache.ensure(wanted, chunks, ahead)

"""Which ranges of a blob to ask for. Pure: chunks in, windows out.

Chunks whose compressed bytes lie close together become one window, one request to the backend.
Read amplification grows the last window with the chunks that follow, until it spans `batch_size`.
"""

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from nydus_app.formats.rafs.values import Chunk

MAX_WINDOW_BYTES = 16 << 20
"""Neither the stored nor the decoded bytes of a merged window exceed this (one chunk may)."""

MAX_AHEAD_CHUNKS = 4096
"""So many chunks are looked at for amplification; a hostile table cannot make it endless."""


class Window(NamedTuple):
    """Bytes [offset, end) of the blob object, and the chunks that lie in them, in that order."""

    offset: int
    end: int
    chunks: tuple[Chunk, ...]


class _Growing:
    """A window while it takes chunks in ascending order of their place in the blob."""

    def __init__(self, chunk: Chunk) -> None:
        self.offset = chunk.compressed_offset
        self.end = chunk.compressed_offset + chunk.compressed_size
        self.decoded = chunk.uncompressed_size
        self.chunks = [chunk]

    def takes(self, chunk: Chunk, limit_bytes: int, gap_bytes: int) -> bool:
        end = chunk.compressed_offset + chunk.compressed_size
        return (
            self.offset <= chunk.compressed_offset <= self.end + gap_bytes
            and max(end, self.end) - self.offset <= limit_bytes
            and self.decoded + chunk.uncompressed_size <= MAX_WINDOW_BYTES
        )

    def take(self, chunk: Chunk) -> None:
        self.end = max(self.end, chunk.compressed_offset + chunk.compressed_size)
        self.decoded += chunk.uncompressed_size
        self.chunks.append(chunk)

    def close(self) -> Window:
        return Window(self.offset, self.end, tuple(self.chunks))


def plan_windows(wanted: Sequence[Chunk], ahead: Iterable[Chunk], batch_size: int) -> list[Window]:
    """Windows that hold every wanted chunk once, and as many of `ahead` as fit the last one.

    `ahead` is consumed lazily, up to the end of the last window; gaps up to batch_size / 128 are read and thrown away, which is cheaper than a second request.
    """
    gap = batch_size >> 7
    merged = min(max(batch_size, 128 << 10), MAX_WINDOW_BYTES)
    windows: list[_Growing] = []
    for chunk in sorted(wanted, key=lambda c: (c.compressed_offset, c.index)):
        if windows and windows[-1].takes(chunk, merged, gap):
            windows[-1].take(chunk)
        else:
            windows.append(_Growing(chunk))
    if windows and batch_size:
        last = windows[-1]
        amplified = min(batch_size, MAX_WINDOW_BYTES)
        taken = {c.index for c in wanted}
        for chunk in islice(ahead, MAX_AHEAD_CHUNKS):
            if chunk.compressed_offset >= last.offset + amplified:
                break
            if chunk.index not in taken and last.takes(chunk, amplified, gap):
                last.take(chunk)
                taken.add(chunk.index)
    return [w.close() for w in windows]

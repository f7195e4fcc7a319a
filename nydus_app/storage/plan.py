"""Which ranges of a blob to ask for. Pure: chunks in, windows out.

Chunks whose compressed bytes lie close together become one window, one request to the backend.
Read amplification grows the last window with the chunks that follow, until it spans `batch_size`.
A window is decoded in jobs, what somebody waits for before what came along.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from operator import itemgetter
from typing import NamedTuple

from nydus_app.formats.rafs.values import Chunk

MAX_WINDOW_BYTES = 16 << 20
"""Neither the stored nor the decoded bytes of a merged window exceed this (one chunk may)."""

JOB_BYTES = 1 << 20
"""Decoded bytes of a job: enough to be worth a hop to a thread, little enough to share a window among threads."""

MAX_AHEAD_CHUNKS = 4096
"""So many chunks are looked at for amplification; a hostile table cannot make it endless."""


PLACE = itemgetter(2, 1)
"""A chunk's compressed offset, and its index where that is the same."""

UNCOMPRESSED_SIZE = itemgetter(5)


class Window(NamedTuple):
    """Bytes [offset, end) of the blob object, and the chunks that lie in them, in that order."""

    offset: int
    end: int
    chunks: tuple[Chunk, ...]
    decoded_bytes: int
    has_spare: bool
    """Chunks that nobody waits for came along."""


class _Growing:
    """A window while it takes chunks in ascending order of their place in the blob."""

    def __init__(self, chunk: Chunk) -> None:
        self.offset = chunk.compressed_offset
        self.end = chunk.compressed_offset + chunk.compressed_size
        self.decoded = _decoded_for(chunk)
        self._units = set() if chunk.part is None else {chunk.part.unit}
        self.chunks = [chunk]
        self.has_spare = False

    @classmethod
    def of_neighbours(cls, chunks: Sequence[Chunk], limit_bytes: int) -> "_Growing | None":
        """All at once where each begins at the end of the one before; else None."""
        end = chunks[0].compressed_offset
        for chunk in chunks:
            if chunk[2] != end or chunk[9] is not None:
                return None
            end += chunk[3]
        decoded = sum(map(UNCOMPRESSED_SIZE, chunks))
        if end - chunks[0].compressed_offset > limit_bytes or decoded > MAX_WINDOW_BYTES:
            return None
        window = cls(chunks[0])
        window.end, window.decoded, window.chunks = end, decoded, list(chunks)
        return window

    def take(self, chunk: Chunk, limit_bytes: int, gap_bytes: int) -> bool:
        """False, and nothing changed, where the window would become too large or too sparse."""
        _, _, offset, size, _, decoded, _, _, _, part = chunk
        end = offset + size
        if part is not None:  # all of a unit is decoded, once
            decoded = 0 if part.unit in self._units else part.unit_size
        if (
            not self.offset <= offset <= self.end + gap_bytes
            or (end > self.end and end - self.offset > limit_bytes)
            or self.decoded + decoded > MAX_WINDOW_BYTES
        ):
            return False
        self.end = max(end, self.end)
        self.decoded += decoded
        self.chunks.append(chunk)
        if part is not None:
            self._units.add(part.unit)
        return True

    def close(self) -> Window:
        return Window(self.offset, self.end, tuple(self.chunks), self.decoded, self.has_spare)


def plan_windows(wanted: Sequence[Chunk], ahead: Iterable[Chunk], batch_size: int) -> list[Window]:
    """Windows that hold every wanted chunk once, and as many of `ahead` as fit the last one.

    `ahead` is consumed lazily, up to the end of the last window; gaps up to batch_size / 128 are read and
    thrown away, which is cheaper than a second request.
    """
    gap = batch_size >> 7
    merged = min(max(batch_size, 128 << 10), MAX_WINDOW_BYTES)
    in_order = sorted(wanted, key=PLACE)
    whole = _Growing.of_neighbours(in_order, merged) if in_order else None
    windows: list[_Growing] = [] if whole is None else [whole]
    for chunk in in_order if whole is None else ():
        if not windows or not windows[-1].take(chunk, merged, gap):
            windows.append(_Growing(chunk))
    if windows and batch_size:
        last = windows[-1]
        amplified = min(batch_size, MAX_WINDOW_BYTES)
        taken = {c.index for c in wanted}
        for chunk in islice(ahead, MAX_AHEAD_CHUNKS):
            if chunk.compressed_offset >= last.offset + amplified:
                break
            if chunk.index not in taken and last.take(chunk, amplified, gap):
                taken.add(chunk.index)
                last.has_spare = True
    return [w.close() for w in windows]


def plan_jobs(window: Window, wanted: Collection[int]) -> list[tuple[Chunk, ...]]:
    """The chunks of a window in pieces of up to JOB_BYTES, those with an index in `wanted` first.

    Chunks of one unit that follow each other stay together, whatever their size, and come with the first of them
    that is wanted: the unit is decoded once.
    """
    if not window.has_spare and window.decoded_bytes <= JOB_BYTES:
        return [window.chunks]
    jobs: list[tuple[Chunk, ...]] = []
    units = {c.part.unit for c in window.chunks if c.part is not None and c.index in wanted}
    for is_wanted in (True, False):
        piece: list[Chunk] = []
        size = 0
        for chunk in window.chunks:
            part = chunk.part
            if (chunk.index in wanted or (part is not None and part.unit in units)) is not is_wanted:
                continue
            is_decoded_with_last = bool(piece) and _share_unit(piece[-1], chunk)
            decoded = _decoded_for(chunk)
            if piece and size + decoded > JOB_BYTES and not is_decoded_with_last:
                jobs.append(tuple(piece))
                piece, size = [], 0
            piece.append(chunk)
            size += 0 if is_decoded_with_last else decoded
        if piece:
            jobs.append(tuple(piece))
    return jobs


def _decoded_for(chunk: Chunk) -> int:
    """Bytes that are decoded for a chunk: all of its unit."""
    return chunk.uncompressed_size if chunk.part is None else chunk.part.unit_size


def _share_unit(a: Chunk, b: Chunk) -> bool:
    return a.part is not None and b.part is not None and a.part.unit == b.part.unit

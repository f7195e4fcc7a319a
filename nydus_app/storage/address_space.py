"""The uncompressed address space of a blob, as one file that can be read anywhere.

This is what the kernel's EROFS reads when the blob is one of its devices: chunks at block-aligned
addresses, and between a chunk's end and the next block zeros, which no file shows.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from nydus_app.errors import InvalidImage
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import CompressionInfoIndex
from nydus_app.storage.device import pread_ready

BLOCK = 4096
ZEROS = memoryview(bytes(BLOCK))

UNKNOWN, FOLLOWED, ALONE = b"\0", b"\1", b"\2"
"""What is known of a chunk: whether the next one follows it at once."""

MAX_CHAIN_BYTES = 64 << 20
"""Uncompressed bytes that are looked at in one go, more than any chunk has."""


class Extent(NamedTuple):
    """Chunk `index` at addresses [start, stop), and padding up to `end`; in the cache's file it lies at `place`."""

    index: int
    start: int
    stop: int
    end: int
    place: int


class Run(NamedTuple):
    """Chunks `first` to `last`, one behind the other at addresses [start, stop), padding between them, in the cache's file too."""

    first: int
    last: int
    start: int
    stop: int


class Places(Protocol):
    """Where the chunks of a blob lie in its address space of `size` bytes, a multiple of the block."""

    size: int

    async def load(self) -> None:
        """Fetch what the other methods need. Raises BackendError, InvalidImage."""
        ...

    def extents(self, offset: int, end: int) -> list[Extent]:
        """Those that cover [offset, end) without a gap. Raises InvalidImage where no chunk lies."""
        ...

    def run(self, offset: int, end: int) -> Run | None:
        """The chunks whose addresses cover [offset, end), the last one's padding included; None where they are none, or
        that is not known."""
        ...

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        """The located chunks, with their digests where the image has them. Raises InvalidImage."""
        ...


class AlignedPlaces:
    """RAFS v6: the cache's file has the same addresses."""

    def __init__(self, blob: Blob, index: CompressionInfoIndex) -> None:
        self._blob = blob
        self._index = index
        self.load = index.load
        self.chunks = index.chunks
        self.size = -(-blob.uncompressed_size // BLOCK) * BLOCK
        self._follows = bytearray()

    def run(self, offset: int, end: int) -> Run | None:
        index = self._index
        first, last = index.find(offset), index.find(end - 1)
        # A chunk takes a block at least: a table that says otherwise is walked no further.
        if not 0 <= first <= last <= first + (end - offset) // BLOCK + 1 or not self._is_without_gap(first, last):
            return None
        (start, _), (begin, size) = index.extent_of(first), index.extent_of(last)
        whole = min(begin + size + -size % BLOCK, self._blob.uncompressed_size)
        return Run(first, last, start, begin + size) if start <= offset and end <= whole else None

    def _is_without_gap(self, first: int, last: int) -> bool:
        """Each chunk from `first` on is followed at once by the next, up to `last`. Looked up once for each."""
        if not self._follows:
            self._follows = bytearray(len(self._index))
        while (unknown := self._follows.find(UNKNOWN, first, last)) >= 0:
            chain = len(self._index.extents(unknown, self._index.extent_of(unknown)[0] + MAX_CHAIN_BYTES))
            self._follows[unknown : unknown + chain - 1] = FOLLOWED * (chain - 1)
            if chain == 1:
                self._follows[unknown : unknown + 1] = ALONE
                return False
        return self._follows.find(ALONE, first, last) < 0

    def extents(self, offset: int, end: int) -> list[Extent]:
        first = max(self._index.find(offset), 0)
        found: list[Extent] = []
        at = offset
        for number, (start, size) in enumerate(self._index.extents(first, end), first):
            padded = start + -(-size // BLOCK) * BLOCK
            if not start <= at < padded:
                break
            found.append(Extent(number, start, start + size, padded, start))
            at = padded
            if at >= end:
                return found
        raise InvalidImage(f"no chunk of blob {self._blob.id} lies at {at}")


class AddressSpace:
    """One blob: `places` knows where its chunks are, `cache` holds or fetches them."""

    def __init__(self, places: Places, cache: ChunkCache) -> None:
        self._places = places
        self._cache = cache
        self.size = places.size

    async def read(self, offset: int, size: int) -> Sequence[Buffer]:
        """Exactly the bytes of [offset, offset + size), cut at `self.size`, in parts.

        Raises InvalidImage where no chunk lies: a hole is no zeros (law 1), and errors of the cache.
        """
        end = min(offset + size, self.size)
        if offset >= end:
            return []
        await self._places.load()
        if (run := self._places.run(offset, end)) is not None:
            self._cache.follow(run.first, run.last)
            if run.first in self._cache.fresh:
                if (parts := self._from_memory(run, offset, end)) is not None:
                    return parts
            elif (data := await self._from_file(run, offset, end)) is not None:
                return [data]
        extents = self._places.extents(offset, end)
        if run is None:
            self._cache.follow(extents[0].index, extents[-1].index)
        with self._cache.hold(e.index for e in extents):
            return await self._read(extents, offset, end)

    def _from_memory(self, run: Run, offset: int, end: int) -> Sequence[Buffer] | None:
        """None where not all of it is there. A small file has a chunk, so little is done for each of them."""
        chunks = list(map(self._cache.fresh.get, range(run.first, run.last + 1)))
        if not all(chunks):
            return None
        self._cache.drop_fresh(range(run.first, run.last + (run.stop <= end)))
        parts: list[Buffer] = []
        for data in chunks:
            parts.append(data)
            if padding := -len(data) % BLOCK:
                parts.append(ZEROS[:padding])
        return _cut(parts, offset - run.start, end - offset)

    async def _from_file(self, run: Run, offset: int, end: int) -> Buffer | None:
        """None where not all of it is there."""
        with self._cache.hold(range(run.first, run.last + 1)):
            if not await self._cache.are_ready(run.first, run.last):
                return None
            return await pread_ready(self._cache, run.first, run.last, end - offset, offset)

    async def _read(self, extents: Sequence[Extent], offset: int, end: int) -> Sequence[Buffer]:
        cache = self._cache
        decoded = {e.index: data for e in extents if (data := cache.fresh.get(e.index)) is not None}
        missing = [e.index for e in extents if e.index not in decoded and not cache.is_ready(e.index)]
        if missing:
            decoded.update(await cache.ensure(missing, self._places.chunks, ()))
        cache.drop_fresh(e.index for e in extents if e.stop <= end)
        parts: list[Buffer] = []
        at = offset
        for run in _runs(extents, decoded.keys()):
            first, last = run[0], run[-1]
            stop = min(last.stop, end)
            if (data := decoded.get(first.index)) is not None:
                parts.append(memoryview(data)[at - first.start : stop - first.start])
            elif at < stop:
                place = first.place + at - first.start
                parts.append(await pread_ready(cache, first.index, last.index, stop - at, place))
            if (padding := min(last.end, end) - max(stop, at)) > 0:
                parts.append(ZEROS[:padding])
            at = last.end
        return parts


def _cut(parts: list[Buffer], skip: int, size: int) -> list[Buffer]:
    """Bytes [skip, skip + size) of what the parts make together."""
    first = 0
    while skip >= len(parts[first]):
        skip -= len(parts[first])
        first += 1
    parts[first] = memoryview(parts[first])[skip:]
    excess = sum(map(len, parts[first:])) - size
    while excess >= len(parts[-1]):
        excess -= len(parts.pop())
    if excess:
        parts[-1] = memoryview(parts[-1])[:-excess]
    return parts[first:]


def _runs(extents: Sequence[Extent], decoded: Collection[int]) -> Iterator[list[Extent]]:
    """Extents that continue each other in the cache's file as they do here; what was decoded stands alone."""
    run: list[Extent] = []
    for e in extents:
        if run and (
            e.index in decoded or run[-1].index in decoded or e.place - run[-1].place != e.start - run[-1].start
        ):
            yield run
            run = []
        run.append(e)
    yield run

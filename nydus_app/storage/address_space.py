"""The uncompressed address space of a RAFS v6 blob, as one file that can be read anywhere.

This is what the kernel's EROFS reads when the blob is one of its devices: chunks at their 4 KiB-aligned
offsets, and between a chunk's end and the next block zeros, which no file shows. The cache's data
file has the same addresses, so what is ready is one read of it, however many chunks it spans.
"""

from bisect import bisect_right
from typing import NamedTuple

from nydus_app.errors import InvalidImage
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import CompressionInfoIndex
from nydus_app.storage.device import pread_ready

BLOCK = 4096


class Extent(NamedTuple):
    """Chunk `index` at [start, stop), and padding up to `end`."""

    index: int
    start: int
    stop: int
    end: int


class AddressSpace:
    """One blob: `index` knows where its chunks are, `cache` holds or fetches them."""

    def __init__(self, blob: Blob, index: CompressionInfoIndex, cache: ChunkCache) -> None:
        self._blob = blob
        self._index = index
        self._cache = cache
        self.size = -(-blob.uncompressed_size // BLOCK) * BLOCK

    async def read(self, offset: int, size: int) -> Buffer:
        """Exactly the bytes of [offset, offset + size), cut at `self.size`.

        Raises InvalidImage where no chunk lies: a hole is no zeros (law 1), and errors of the cache.
        """
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        await self._index.load()
        extents = self._extents(offset, end)
        missing = [e.index for e in extents if not self._cache.is_ready(e.index)]
        if not missing:
            return await self._pread(offset, end)
        decoded = await self._cache.ensure([self._index.chunk(i) for i in missing], ())
        parts: list[Buffer] = []
        at = offset
        for extent in extents:
            if (data := decoded.get(extent.index)) is None:
                continue
            if at < extent.start:
                parts.append(await self._pread(at, extent.start))
                at = extent.start
            parts.append(memoryview(data)[at - extent.start : end - extent.start])
            parts.append(bytes(max(0, min(extent.end, end) - max(extent.stop, at))))
            at = min(extent.end, end)
        if at < end:
            parts.append(await self._pread(at, end))
        return b"".join(parts)

    def _extents(self, offset: int, end: int) -> list[Extent]:
        """The chunks that cover [offset, end) without a gap."""
        count = len(self._index)
        number = bisect_right(range(count), offset, key=self._index.start_of) - 1
        found: list[Extent] = []
        at = offset
        while at < end:
            if not 0 <= number < count:
                raise InvalidImage(f"blob {self._blob.id} ends before its size")
            start, size = self._index.extent_of(number)
            extent = Extent(number, start, start + size, start + -(-size // BLOCK) * BLOCK)
            if not start <= at < extent.end or (found and start != at):
                raise InvalidImage(f"no chunk of blob {self._blob.id} lies at {at}")
            found.append(extent)
            at, number = extent.end, number + 1
        return found

    async def _pread(self, start: int, end: int) -> Buffer:
        fd = self._cache.data_fd()
        return await pread_ready(fd, end - start, start)

"""RAFS v5: chunks at the addresses that the layout gave them, their records in the mapped bootstrap.

The cache's file keeps nydusd's layout, so the place of a chunk there is another than its address.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from struct import Struct

from nydus_app.errors import InvalidImage
from nydus_app.formats.erofs.addresses import AddressTable
from nydus_app.formats.rafs.v5 import CHUNK, BootstrapV5
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.address_space import BLOCK, Extent
from nydus_app.storage.chunk_index import MAX_FOLLOWING

MAX_GAP = 1024
"""Where the image leaves out more chunks than this between two, nobody is run ahead of: it would take too many steps."""

PLACE = Struct("<44xI8xQ8xI4x")
"""Uncompressed size and offset, and chunk index, of an 80-byte record."""


class LaidOutPlaces:
    """Fulfils the port of `address_space.py` for one blob, and tells its ChunkIndex which chunks follow which."""

    def __init__(self, bootstrap: BootstrapV5, blob: Blob, table: AddressTable) -> None:
        self._bootstrap = bootstrap
        self._view, _ = bootstrap.raw()
        self._blob = blob
        self._indexes, self._starts, self._positions, blocks, gap = table
        self.size = blocks * BLOCK
        self._is_dense = gap <= MAX_GAP

    async def load(self) -> None:
        return

    def _chunk(self, number: int) -> Chunk:
        """The chunk of a row of the table."""
        chunk = self._bootstrap.chunk_at(self._positions[number] << 3)
        if chunk.index != self._indexes[number] or chunk.blob_index != self._blob.index:
            raise InvalidImage(f"blob {self._blob.id}: a chunk record has changed since the image was laid out")
        return chunk

    def _end(self, number: int) -> int:
        return self._starts[number + 1] * BLOCK if number + 1 < len(self._starts) else self.size

    def extents(self, offset: int, end: int) -> list[Extent]:
        if not 0 <= offset < end <= self.size:
            raise InvalidImage(f"blob {self._blob.id} has no chunk at {offset}")
        number = bisect_right(self._starts, offset // BLOCK) - 1
        view, positions, indexes = self._view, self._positions, self._indexes
        start = self._starts[number] * BLOCK
        found = []
        while start < end:
            at, stop = positions[number] << 3, self._end(number)
            if at + CHUNK.size > len(view):
                raise InvalidImage(f"blob {self._blob.id}: a chunk record lies outside of the bootstrap")
            size, place, index = PLACE.unpack_from(view, at)
            if index != indexes[number] or not stop - BLOCK < start + size <= stop:
                raise InvalidImage(f"blob {self._blob.id}: chunk {index} does not fit its address")
            found.append(Extent(index, start, start + size, stop, place))
            start, number = stop, number + 1
        return found

    def run(self, offset: int, end: int) -> None:
        """The cache's file has other places."""
        return None

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        """Those that the image names."""
        found = []
        for index in indexes:
            number = bisect_left(self._indexes, index)
            if number < len(self._indexes) and self._indexes[number] == index:
                found.append(self._chunk(number))
        return found

    def following(self, index: int) -> Iterator[Chunk]:
        """Named chunks behind a chunk, in the order of the blob."""
        first = bisect_right(self._indexes, index)
        return map(self._chunk, range(first, min(first + MAX_FOLLOWING, len(self._indexes))))

    def __len__(self) -> int:
        return self._indexes[-1] + 1 if len(self._indexes) and self._is_dense else 0

    def end_of(self, index: int) -> int:
        """Address behind chunk `index`, or behind the last one before it."""
        number = bisect_right(self._indexes, index) - 1
        return self._end(number) if number >= 0 else 0

    def find(self, offset: int) -> int:
        """The last chunk whose address is at or before `offset`."""
        number = bisect_right(self._starts, offset // BLOCK) - 1
        return self._indexes[number] if number >= 0 else -1

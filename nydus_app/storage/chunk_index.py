"""Where the chunks of a blob lie in it, and which follow which.

RAFS v5 says so in each inode's chunk records. RAFS v6 says so in the blob's compression
information, which is fetched with the first cold read (`blob_meta.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from nydus_app.errors import InvalidImage
from nydus_app.formats.blob.compression_info import ChunkTable, Row, merged, over_read
from nydus_app.formats.rafs.v6 import decode_chunk_records
from nydus_app.formats.rafs.values import Blob, Chunk, ChunkRecord
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.blob_meta import BlobMeta, load_blob_meta, read_kept_meta
from nydus_app.storage.hop import Turn

MAX_MATES = 4096
"""So many chunks before and behind one are looked at for the others of its unit."""

MAX_FOLLOWING = 4096
"""So many chunks behind one are looked at, wanted or not: a chunk dictionary has a million that no file of the image names."""

FEW, MANY = 4, 64
"""What follows a chunk is looked up in blocks that grow: a window may hold one more chunk, or a hundred."""

PlacesOf = Callable[[int, int], list[Chunk]]


class ChunkIndex(Protocol):
    async def load(self) -> None:
        """Fetch what `locate` needs; the first caller fetches, the others wait for it."""
        ...

    def locate(self, chunk: Chunk) -> Chunk:
        """The chunk with its place in the blob. Raises InvalidImage."""
        ...

    def following(self, chunk: Chunk, ahead: Iterable[Chunk], skip: Callable[[int], bool]) -> Iterator[Chunk]:
        """Located chunks behind `chunk`, in the order of the blob as far as known, without those to skip."""
        ...

    def places(self, first: int, end: int) -> list[Chunk]:
        """Located chunks of [first, end), without digests, as far as known. Blocks; raises InvalidImage."""
        ...

    def __len__(self) -> int:
        """How many chunks the blob's own table has; 0 where there is none, and the next two know nothing."""
        ...

    def end_of(self, index: int) -> int:
        """Uncompressed offset behind a chunk of the table."""
        ...

    def find(self, offset: int) -> int:
        """The last chunk that starts at or before an uncompressed offset, -1 where there is none."""
        ...

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        """Located chunks of the table, with their digests where the image has them. Raises InvalidImage."""
        ...

    def unit_mates(self, wanted: Sequence[Chunk], skip: Callable[[int], bool]) -> list[Chunk]:
        """Other chunks of the units that `wanted` lie in, located, without those to skip or that are damaged."""
        ...

    def dictionary(self, offset: int, size: int) -> bytes:
        """Bytes of the blob's compression information; any thread. Raises NydusError."""
        ...

    def close(self) -> None: ...


class ChunkOrder(Protocol):
    """What `laid_out.py` knows of a blob's chunks; the methods are those of ChunkIndex."""

    def following(self, index: int) -> Iterator[Chunk]: ...

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]: ...

    def __len__(self) -> int: ...

    def end_of(self, index: int) -> int: ...

    def find(self, offset: int) -> int: ...


class RecordedIndex:
    """v5: the records came with their places; which follow which, only a layout of the whole image knows."""

    def __init__(self, blob: Blob, places: PlacesOf | None = None) -> None:
        """`places` knows the image's records by chunk index, where somebody has to."""
        self._blob = blob
        self._is_stargz = blob.is_stargz
        self._places = places
        self._order: ChunkOrder | None = None

    def lay_out(self, order: ChunkOrder) -> None:
        """The image has been laid out, and its blob's chunks are known from now on."""
        self._order = order

    async def load(self) -> None:
        return

    def locate(self, chunk: Chunk) -> Chunk:
        blob = self._blob
        # Old images without an extended blob table do not say how long their blobs are.
        if blob.chunk_count and chunk.compressed_offset + chunk.compressed_size > blob.data_size:
            raise InvalidImage(f"chunk {chunk.index} lies behind the data of blob {blob.id}")
        if self._is_stargz:
            size = over_read(chunk.uncompressed_size)
            if blob.chunk_count:
                size = min(size, blob.data_size - chunk.compressed_offset)
            return chunk._replace(compressed_size=size, is_compressed=True)
        return chunk

    def following(self, chunk: Chunk, ahead: Iterable[Chunk], skip: Callable[[int], bool]) -> Iterator[Chunk]:
        try:
            for c in ahead if self._order is None else self._order.following(chunk.index):
                if c.blob_index == self._blob.index and not skip(c.index):
                    yield self.locate(c)
        except InvalidImage:
            return

    def places(self, first: int, end: int) -> list[Chunk]:
        assert self._places is not None
        return [self.locate(c) for c in self._places(first, end)]

    def __len__(self) -> int:
        return 0 if self._order is None else len(self._order)

    def end_of(self, index: int) -> int:
        assert self._order is not None
        return self._order.end_of(index)

    def find(self, offset: int) -> int:
        assert self._order is not None
        return self._order.find(offset)

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        if self._order is None:
            raise InvalidImage("the chunks of RAFS v5 have numbers only where the image is laid out (mode.data_path=erofs)")
        return [self.locate(c) for c in self._order.chunks(indexes)]

    def unit_mates(self, wanted: Sequence[Chunk], skip: Callable[[int], bool]) -> list[Chunk]:
        """v5 has no units."""
        return []

    def dictionary(self, offset: int, size: int) -> bytes:
        raise InvalidImage(f"blob {self._blob.id} has no dictionaries")

    def close(self) -> None:
        """Nothing is open."""


class CompressionInfoIndex:
    """v6: the blob's own table gives places, the bootstrap's chunk table digests."""

    def __init__(
        self,
        blob: Blob,
        reader: BlobReader | None,
        path: str | None,
        stored_records_of: Callable[[Sequence[int]], bytes],
    ) -> None:
        """`reader` is of the object that holds the compression information, `path` of the kept `.blob.meta`, None
        to keep none; `stored_records_of` ascending chunk indexes, from the bootstrap's chunk table. Without a reader
        nothing is fetched.
        """
        self._blob = blob
        self._reader = reader
        self._path = path
        self._stored_records_of = stored_records_of
        self._meta: BlobMeta | None = None
        self._table: ChunkTable | None = None
        self._loading = Turn()

    async def load(self) -> None:
        if self._table is not None:
            return
        async with self._loading:
            if self._table is None:
                assert self._reader is not None
                self._meta = await load_blob_meta(self._blob, self._reader, self._path)
                self._table = self._meta.table

    def locate(self, chunk: Chunk) -> Chunk:
        assert self._table is not None
        if chunk.compressed_size:
            return chunk
        _, index, _, _, start, size, _, digest, crc, _ = chunk
        return merged(self._blob, self._table.row(index), (start, size, digest, crc))

    def following(self, chunk: Chunk, ahead: Iterable[Chunk], skip: Callable[[int], bool]) -> Iterator[Chunk]:
        at, size = chunk.index + 1, FEW
        end = min(len(self), at + MAX_FOLLOWING)
        while at < end:
            block = [i for i in range(at, min(at + size, end)) if not skip(i)]
            try:
                for placed, record in zip(self._rows(block), self._records_of(block), strict=True):
                    if record is not None:
                        yield merged(self._blob, placed, record)
            except InvalidImage:
                return
            at, size = at + size, min(2 * size, MANY)

    def stored(self, indexes: Sequence[int]) -> tuple[bytes, bytes]:
        """Records of chunks: those of the blob's table, and of the bootstrap's."""
        assert self._table is not None
        return self._table.stored(indexes), self._stored_records_of(indexes)

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Uncompressed offset and size of all from one chunk to another."""
        start, _ = self.extent_of(first)
        return start, self.end_of(last) - start

    def _records_of(self, indexes: Sequence[int]) -> list[ChunkRecord | None]:
        return decode_chunk_records(self._stored_records_of(indexes))

    def places(self, first: int, end: int) -> list[Chunk]:
        return [Chunk(*row) for row in self._kept_table().rows(first, end)]

    def kept_chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        """As `chunks`, from what is kept. Blocks; raises InvalidImage where nothing is."""
        self._kept_table()
        return self.chunks(indexes)

    def _kept_table(self) -> ChunkTable:
        if self._table is None and (kept := read_kept_meta(self._blob, self._path)) is not None:
            self._meta, self._table = kept, kept.table
        if self._table is None:
            raise InvalidImage("its compression information (.blob.meta) is not here")
        return self._table

    def __len__(self) -> int:
        return 0 if self._table is None else len(self._table)

    def end_of(self, index: int) -> int:
        start, size = self.extent_of(index)
        return start + size

    def find(self, offset: int) -> int:
        """The last chunk that starts at or before an uncompressed offset, -1 where there is none."""
        assert self._table is not None
        return self._table.find(offset)

    def extent_of(self, index: int) -> tuple[int, int]:
        """Uncompressed offset and size of a chunk."""
        assert self._table is not None
        return self._table.extent(index)

    def extents(self, first: int, end: int) -> list[tuple[int, int]]:
        """Uncompressed offset and size of chunk `first` and of those that follow it without a gap, up to `end`."""
        assert self._table is not None
        return self._table.extents(first, end)

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        wanted, blob = list(indexes), self._blob
        return [merged(blob, *both) for both in zip(self._rows(wanted), self._records_of(wanted), strict=True)]

    def _rows(self, indexes: Sequence[int]) -> list[Row]:
        assert self._table is not None
        if indexes and indexes[-1] - indexes[0] == len(indexes) - 1:
            return self._table.rows(indexes[0], indexes[-1] + 1)
        return [self._table.row(i) for i in indexes]

    def unit_mates(self, wanted: Sequence[Chunk], skip: Callable[[int], bool]) -> list[Chunk]:
        taken = {c.index for c in wanted}
        units: set[int] = set()
        mates: list[int] = []
        for chunk in wanted:
            if chunk.part is not None and chunk.part.unit >= 0 and chunk.part.unit not in units:
                units.add(chunk.part.unit)
                mates += [i for i in self._of_unit(chunk) if i not in taken and not skip(i)]
        mates.sort()
        try:
            return self.chunks(mates) if mates else []
        except InvalidImage:
            return self._undamaged(mates)

    def _undamaged(self, indexes: Iterable[int]) -> list[Chunk]:
        found: list[Chunk] = []
        for index in indexes:
            with suppress(InvalidImage):
                found += self.chunks((index,))
        return found

    def _of_unit(self, chunk: Chunk) -> range:
        """Indexes around that of a chunk which lie in its unit: a builder fills one after the other."""
        assert self._table is not None and chunk.part is not None
        unit_of, unit = self._table.unit_of, chunk.part.unit
        first = end = chunk.index
        while chunk.index - first < MAX_MATES and unit_of(first - 1) == unit:
            first -= 1
        while end - chunk.index < MAX_MATES and unit_of(end + 1) == unit:
            end += 1
        return range(first, end + 1)

    def dictionary(self, offset: int, size: int) -> bytes:
        assert self._meta is not None
        return self._meta.dictionary_of(offset, size)

    def close(self) -> None:
        if self._meta is not None:
            self._meta.close()

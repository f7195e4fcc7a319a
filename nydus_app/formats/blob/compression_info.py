"""A blob's compression information (CI): where its chunks lie, in the blob and uncompressed.

    in the blob      CI table (perhaps compressed) | CI header          (rafs-format 7.1, 7.3)
    `.blob.meta`     CI table, padded to 4 KiB     | CI header          (rafs-format 10)

The table is kept as it came; a record becomes a Chunk when somebody asks for it.
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from nydus_app.errors import InvalidImage
from nydus_app.formats.blob.contexts import CONTEXT_SIZE, BatchContexts, ContextArea, ZranContexts
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk, ChunkRecord, Part

CI_HEADER_SIZE = 4096
MAGIC = 0xB10BB10B
HEADER = Struct("<4I5QI")
U32 = Struct("<I")
U64 = Struct("<Q")
V1 = Struct("<2Q")
V2 = Struct("<3Q")

V2_COMPRESSED, V2_ZRAN, V2_BATCH, V2_ENCRYPTED, V2_HAS_CRC32 = 1, 2, 4, 8, 0x10
OFFSET_MASK = 0xFFF_FFFF_F000
COMPRESSED_OFFSET_MASK = (1 << 40) - 1
PAGE = 4096


Row = tuple[int, int, int, int, int, int, bool, None, int | None, Part | None]
"""The fields of a Chunk that has no digest yet."""


make = tuple.__new__
"""A NamedTuple's own constructor takes twice as long, and a cold read of small files makes thousands."""


class CiHeader(NamedTuple):
    features: int
    compressor: int
    chunk_count: int
    offset: int
    compressed_size: int
    uncompressed_size: int
    contexts: ContextArea


def ci_range(blob: Blob) -> tuple[int, int]:
    """Offset and size of CI table and header together, in the object that holds them."""
    if not blob.ci_compressed_size:
        raise InvalidImage(f"blob {blob.id} has no compression information")
    return blob.ci_offset, blob.ci_compressed_size + CI_HEADER_SIZE


def decode_header(raw: bytes | memoryview) -> CiHeader:
    if len(raw) != CI_HEADER_SIZE:
        raise InvalidImage(f"a header of {len(raw)} bytes, {CI_HEADER_SIZE} expected")
    magic, features, compressor, count, offset, csize, usize, *contexts = HEADER.unpack_from(raw)
    if magic != MAGIC or U32.unpack_from(raw, CI_HEADER_SIZE - 4)[0] != MAGIC:
        raise InvalidImage("the magic numbers of the compression information are wrong")
    return CiHeader(features, compressor, count, offset, csize, usize, ContextArea(*contexts))


def check_header(header: CiHeader, blob: Blob) -> None:
    """Compare with the bootstrap's blob entry, as far as nydusd does. Raises InvalidImage."""
    generated = bool(blob.features & BlobFeatures.IS_CHUNKDICT_GENERATED)
    have = header.compressor, header.offset, header.compressed_size, header.uncompressed_size
    want = blob.ci_compressor, blob.ci_offset, blob.ci_compressed_size, blob.ci_uncompressed_size
    if have != want or (not generated and header.chunk_count != blob.chunk_count):
        raise InvalidImage(f"the compression information does not belong to blob {blob.id}")


def encode_blob_meta(table: bytes | bytearray | memoryview, header: bytes) -> bytes:
    """The `.blob.meta` file that nydusd keeps beside the data."""
    return bytes(table) + bytes(-len(table) % PAGE) + header


def meta_file_size(blob: Blob) -> int:
    """That of its `.blob.meta`."""
    size = blob.ci_uncompressed_size
    return size + -size % PAGE + CI_HEADER_SIZE


def record_size(blob: Blob) -> int:
    return V2.size if blob.features & BlobFeatures.CHUNK_INFO_V2 else V1.size


def table_size(blob: Blob, header: CiHeader) -> int:
    """So many bytes at the start of the table are asked for again and again: all but the dictionaries of zran."""
    if blob.features & BlobFeatures.ZRAN:
        return min(header.contexts.offset + header.contexts.count * CONTEXT_SIZE, blob.ci_uncompressed_size)
    return blob.ci_uncompressed_size


def decode_blob_meta(content: bytes, blob: Blob) -> "ChunkTable":
    """Raises InvalidImage when `content` is not exactly the `.blob.meta` of this blob."""
    if len(content) != meta_file_size(blob):
        raise InvalidImage(f"compression information of {len(content)} bytes does not fit blob {blob.id}")
    header = decode_header(content[-CI_HEADER_SIZE:])
    check_header(header, blob)
    return ChunkTable(memoryview(content)[: table_size(blob, header)], blob, header)


class ChunkTable:
    """Records of `blob`, V1 (16 bytes) or V2 (24 bytes), checked one by one (rafs-format 12).

    `table` are the first `table_size` bytes. What is encrypted, or lies in a unit with others, has a Part.
    """

    def __init__(self, table: memoryview, blob: Blob, header: CiHeader) -> None:
        self._is_v2 = bool(blob.features & BlobFeatures.CHUNK_INFO_V2)
        self._size = record_size(blob)
        self._count = header.chunk_count
        self._contexts = _decode_contexts(table, blob, header)
        records = self._count * self._size
        if self._contexts is None and len(table) != records:
            raise InvalidImage(f"blob {blob.id}: a table of {len(table)} bytes for {self._count} chunks")
        self._table = table[:records]
        self._words = self._table.cast("Q")
        self._stride = self._size // U64.size
        self._context_count = header.contexts.count
        self._blob = blob
        self._index = blob.index
        self._data_size = blob.data_size
        self._end = blob.uncompressed_size + -blob.uncompressed_size % PAGE

    def __len__(self) -> int:
        return self._count

    def chunk(self, index: int) -> Chunk:
        """The record, without a digest. Raises InvalidImage."""
        return Chunk(*self.row(index))

    def row(self, index: int) -> Row:
        """A Chunk's fields, for who has more to put into one. Raises InvalidImage."""
        if not 0 <= index < self._count:
            raise InvalidImage(f"blob {self._blob.id} has {self._count} chunks, {index} is none of them")
        row = self._decode(index)
        _, _, offset, size, start, length, is_compressed, _, _, part = row
        if size <= 0 or offset + size > self._data_size:
            raise InvalidImage(f"chunk {index} lies outside of the data of blob {self._blob.id}")
        if start + length > self._end:
            raise InvalidImage(f"chunk {index} lies outside of the address space of blob {self._blob.id}")
        if part is not None:
            if part.offset + length > part.unit_size:
                raise InvalidImage(f"chunk {index} of blob {self._blob.id} lies outside of its unit")
        elif not is_compressed and size != length:
            raise InvalidImage(f"chunk {index} of blob {self._blob.id} is stored, but in another size")
        return row

    def stored(self, indexes: Sequence[int]) -> bytes:
        """The records of chunks of the table, as they are."""
        size, table = self._size, self._table
        if isinstance(indexes, range):
            return bytes(table[indexes.start * size : indexes.stop * size])
        return b"".join([table[i * size : (i + 1) * size] for i in indexes])

    def rows(self, first: int, stop: int) -> list[Row]:
        """Those of the chunks `first` to `stop` - 1. Raises InvalidImage."""
        if self._is_v2 or self._blob.is_stargz or not 0 <= first <= stop <= self._count:
            return [self.row(i) for i in range(first, stop)]
        blob, data_size, end = self._index, self._data_size, self._end
        found: list[Row] = []
        for index, (word, second) in enumerate(V1.iter_unpack(self._table[first * V1.size : stop * V1.size]), first):
            start, length = word & OFFSET_MASK, (word >> 44 | (word >> 8 & 0xF) << 20) + 1
            offset, size = second & COMPRESSED_OFFSET_MASK, (second >> 44 | (second >> 40 & 0xF) << 20) + 1
            if offset + size > data_size or start + length > end:
                self.row(index)
            found.append((blob, index, offset, size, start, length, size != length, None, None, None))
        return found

    def extents(self, first: int, end: int) -> list[tuple[int, int]]:
        """Uncompressed offset and size of chunk `first` and of those that follow it without a gap, up to `end`."""
        record = V2 if self._is_v2 else V1
        found: list[tuple[int, int]] = []
        behind = -1
        for fields in record.iter_unpack(self._table[first * record.size :]):
            word = fields[0]
            if self._is_v2:
                start, size = (word & 0xFFFF_FFFF) << 12, (word >> 32 & 0xFF_FFFF) + 1
            else:
                start, size = word & OFFSET_MASK, (word >> 44 | (word >> 8 & 0xF) << 20) + 1
            if start != behind and found:
                break
            found.append((start, size))
            behind = start + size + -size % PAGE
            if behind >= end:
                break
        return found

    def extent(self, index: int) -> tuple[int, int]:
        """Uncompressed offset and size of a chunk; `index` is less than the table's length."""
        word = self._words[index * self._stride]
        if self._is_v2:
            return (word & 0xFFFF_FFFF) << 12, (word >> 32 & 0xFF_FFFF) + 1
        return word & OFFSET_MASK, (word >> 44 | (word >> 8 & 0xF) << 20) + 1

    def find(self, offset: int) -> int:
        """The last chunk that starts at or before an uncompressed offset, -1 where there is none; starts ascend."""
        words, stride = self._words, self._stride
        mask, shift = (0xFFFF_FFFF, 12) if self._is_v2 else (OFFSET_MASK, 0)
        low, high = 0, self._count
        while low < high:
            middle = (low + high) >> 1
            if (words[middle * stride] & mask) << shift <= offset:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def unit_of(self, index: int) -> int | None:
        """The number of the unit that a chunk of the table shares with others; None where it shares none."""
        if self._contexts is None or not 0 <= index < self._count:
            return None
        first, _, third = V2.unpack_from(self._table, index * V2.size)
        return third >> 32 if first >> 56 & (V2_ZRAN | V2_BATCH) else None

    def _decode(self, index: int) -> Row:
        if self._is_v2:
            return self._decode_v2(index)
        row = self._decode_v1(index)
        return self._over_read(row) if self._blob.is_stargz else row

    def _over_read(self, row: Row) -> Row:
        """What a legacy stargz chunk may at most take in the blob: deflate's worst case (rafs-format 9.1)."""
        blob, index, offset, _, start, length, *_ = row
        size = min(over_read(length), self._data_size - offset)
        return blob, index, offset, size, start, length, True, None, None, None

    def _decode_v1(self, index: int) -> Row:
        """Compressed exactly if the two sizes differ (rafs-format 8.1)."""
        first, second = V1.unpack_from(self._table, index * V1.size)
        usize = (first >> 44 | (first >> 8 & 0xF) << 20) + 1
        csize = (second >> 44 | (second >> 40 & 0xF) << 20) + 1
        return (
            self._index, index, second & COMPRESSED_OFFSET_MASK, csize, first & OFFSET_MASK, usize,
            csize != usize, None, None, None,
        )  # fmt: skip

    def _decode_v2(self, index: int) -> Row:
        """rafs-format 8.2."""
        first, second, third = V2.unpack_from(self._table, index * V2.size)
        flags, offset, size = first >> 56, second & COMPRESSED_OFFSET_MASK, second >> 40
        start, length = (first & 0xFFFF_FFFF) << 12, (first >> 32 & 0xFF_FFFF) + 1
        is_compressed, is_encrypted = bool(flags & V2_COMPRESSED), bool(flags & V2_ENCRYPTED)
        part: Part | None = None
        crc: int | None = None
        if flags & ~(V2_COMPRESSED | V2_ZRAN | V2_BATCH | V2_ENCRYPTED | V2_HAS_CRC32):
            raise InvalidImage(f"chunk {index} of blob {self._blob.id} has flags {flags:#x}, some of them unknown")
        if is_encrypted and self._blob.cipher is None:
            raise InvalidImage(f"chunk {index} of blob {self._blob.id} is encrypted without a key")
        if flags & (V2_ZRAN | V2_BATCH):
            number = third >> 32
            if self._contexts is None or number >= self._context_count:
                raise InvalidImage(f"chunk {index} of blob {self._blob.id} lies in a unit that is not there")
            offset, size, is_compressed, part = self._contexts.place(number, offset, third & 0xFFFF_FFFF, is_encrypted)
        else:
            crc = third & 0xFFFF_FFFF if flags & V2_HAS_CRC32 else None
            part = Part(-1 - index, length, 0, True, None) if is_encrypted else None
        return self._index, index, offset, size, start, length, is_compressed, None, crc, part


def merged(
    blob: Blob,
    placed: Row,
    record: ChunkRecord | tuple[int, int, bytes | None, int | None] | None,
    index: int | None = None,
) -> Chunk:
    """What bootstrap and blob say of a chunk; `index` is its own where that of its row is not. Raises InvalidImage
    where they disagree.
    """
    number, at, offset, length, placed_start, placed_size, is_compressed, _, placed_crc, part = placed
    index = at if index is None else index
    start, size, digest, crc = record or (placed_start, placed_size, None, None)
    if placed_start != start or placed_size != size:
        raise InvalidImage(f"chunk {index} of blob {blob.id}: bootstrap and blob disagree on its place")
    crc = placed_crc if crc is None else crc
    return make(Chunk, (number, index, offset, length, start, size, is_compressed, digest, crc, part))


def chunks_of_records(
    blob: Blob, indexes: Sequence[int], table: bytes, records: Sequence[ChunkRecord | None]
) -> list[Chunk]:
    """Chunks from a table of their own records only; of a blob without units. Raises InvalidImage."""
    count = len(indexes)
    rows = ChunkTable(memoryview(table), blob, CiHeader(0, 0, count, 0, 0, 0, ContextArea(0, 0, 0))).rows(0, count)
    return [merged(blob, *both) for both in zip(rows, records, indexes, strict=True)]


def over_read(size: int) -> int:
    """Bytes that a gzip member's first `size` bytes of content take at most: header, trailer, deflate's worst case."""
    return size + 10 + 8 + 5 + (size >> 14) * 5 + 128


def _decode_contexts(table: memoryview, blob: Blob, header: CiHeader) -> BatchContexts | ZranContexts | None:
    if not blob.features & (BlobFeatures.ZRAN | BlobFeatures.BATCH):
        return None
    if not blob.features & BlobFeatures.CHUNK_INFO_V2:
        raise InvalidImage(f"blob {blob.id} has contexts, but no records that could name them")
    at, size, count = area = header.contexts
    area.check(header.chunk_count * V2.size, blob.ci_uncompressed_size, header.chunk_count)
    end = at + count * CONTEXT_SIZE
    if len(table) < end:
        raise InvalidImage(f"blob {blob.id}: its contexts are cut off")
    if blob.features & BlobFeatures.ZRAN:
        return ZranContexts(table[at:end], end, size - count * CONTEXT_SIZE)
    return BatchContexts(table[at:end])

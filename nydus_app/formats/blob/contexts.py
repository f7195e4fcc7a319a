"""Contexts of units, behind the chunk records of a blob's compression information (rafs-format 8.3, 8.4).

    batch   {compressed size, decoded size}: the chunks of a batch lie in it unpadded
    zran    a place in a gzip stream where inflating may begin, and how much is worth being inflated from
            there; then the dictionaries, up to 32 KiB each, which are read when they are needed
"""

from struct import Struct
from typing import NamedTuple

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.values import InflateStart, Part

CONTEXT_SIZE = 40
BATCH = Struct("<2I32x")
ZRAN = Struct("<3Q3I2B2x")
MAX_UNIT_BYTES = 16 << 20
"""Decoded (rafs-format 2); stored ones may be a little longer."""

MAX_STORED_BYTES = MAX_UNIT_BYTES + (1 << 20)
MAX_DICTIONARY = 32 << 10


class ContextArea(NamedTuple):
    """Where they are in the uncompressed compression information, from its header."""

    offset: int
    size: int
    count: int

    def check(self, records_size: int, table_size: int, chunk_count: int) -> None:
        """Raises InvalidImage. `table_size` is that of records and contexts together."""
        if self.offset != records_size or self.offset + self.size > table_size:
            raise InvalidImage("the contexts of a blob do not follow its chunks")
        if self.count > chunk_count or self.count * CONTEXT_SIZE > self.size:
            raise InvalidImage(f"{self.count} contexts for {chunk_count} chunks")


class BatchContexts:
    """`area` is the array of contexts."""

    def __init__(self, area: memoryview) -> None:
        self._area = area

    def place(self, number: int, chunk_offset: int, offset: int, is_encrypted: bool) -> tuple[int, int, bool, Part]:
        """Offset and size of the unit in the blob, whether it is compressed, and a chunk's part. Raises InvalidImage.

        `chunk_offset` is the chunk record's, which is the unit's; `offset` is the chunk's in the unit.
        """
        stored, size = BATCH.unpack_from(self._area, number * CONTEXT_SIZE)
        _check_sizes(number, stored, size)
        return chunk_offset, stored, stored != size, Part(number, size, offset, is_encrypted, None)


class ZranContexts:
    """`area` is the array of contexts; dictionaries lie at `dictionaries`, with `dictionaries_size` bytes in all."""

    def __init__(self, area: memoryview, dictionaries: int, dictionaries_size: int) -> None:
        self._area = area
        self._dictionaries = dictionaries
        self._dictionaries_size = dictionaries_size

    def place(self, number: int, chunk_offset: int, offset: int, is_encrypted: bool) -> tuple[int, int, bool, Part]:
        """As BatchContexts', but a chunk's own place in the stream means nothing."""
        at, _, dictionary, stored, size, length, byte, bits = ZRAN.unpack_from(self._area, number * CONTEXT_SIZE)
        _check_sizes(number, stored, size)
        if length > MAX_DICTIONARY or dictionary + length > self._dictionaries_size or bits > 7:
            raise InvalidImage(f"context {number} has an impossible dictionary")
        start = InflateStart(byte, bits, self._dictionaries + dictionary, length)
        return at, stored, True, Part(number, size, offset, is_encrypted, start)


def _check_sizes(number: int, stored: int, size: int) -> None:
    if not 0 < size <= MAX_UNIT_BYTES or not 0 < stored <= MAX_STORED_BYTES:
        raise InvalidImage(f"context {number} has impossible sizes")

"""The virtual address space of each blob: every chunk that an image names gets blocks of its own.

Chunks get their addresses in the order of their chunk indexes, which is that of the blob, so that what is
written together is read together. Chunks that the image never names have no address.
"""

from array import array
from collections.abc import Sequence
from itertools import accumulate, chain, compress
from operator import sub
from struct import Struct
from typing import NamedTuple

from nydus_app.errors import InvalidImage, UnsupportedImage
from nydus_app.formats.erofs.structs import HOLE
from nydus_app.formats.rafs.v5 import CHUNK, decode_chunk_record
from nydus_app.formats.rafs.values import Blob

BLOCK_BITS = 12
MAX_CHUNKS = 1 << 24
"""Of all blobs of an image together: the tables take 10 bytes for each while an image is laid out."""

KEY = Struct("<32xI8xI24xI")
"""Blob index, uncompressed size and chunk index of an 80-byte record."""


class AddressTable(NamedTuple):
    """The named chunks of one blob, in ascending order: index, first block, record's offset in the bootstrap >> 3."""

    indexes: Sequence[int]
    starts: Sequence[int]
    positions: Sequence[int]
    blocks: int  # of the whole address space
    longest_gap: int  # so many indexes are left out at most between two neighbours, and before the first


class ChunkAddresses:
    """First all records are added, then `assign` gives them addresses."""

    def __init__(self, view: memoryview, blobs: Sequence[Blob]) -> None:
        if sum(blob.chunk_count for blob in blobs) > MAX_CHUNKS:
            raise UnsupportedImage(f"its blobs have more than {MAX_CHUNKS} chunks")
        self._view = view
        self._blobs = blobs
        self._positions = [array("I", bytes(4 * blob.chunk_count)) for blob in blobs]
        self._blocks = [array("H", bytes(2 * blob.chunk_count)) for blob in blobs]
        self._starts: list[array[int]] = []

    def add(self, at: int, wanted: int) -> None:
        """The record at `at`, inside of the bootstrap, of which a file shows `wanted` bytes. Raises InvalidImage."""
        blob, size, index = KEY.unpack_from(self._view, at)
        if blob >= len(self._blobs) or index >= len(self._positions[blob]):
            raise InvalidImage(f"there is no chunk {index} in blob {blob}")
        if size < wanted:
            raise InvalidImage(f"chunk {index} of blob {blob} is too short for its file")
        known = self._positions[blob][index] << 3
        if not known:
            decode_chunk_record(CHUNK.unpack_from(self._view, at), len(self._blobs))
            self._positions[blob][index] = at >> 3
            self._blocks[blob][index] = (size + (1 << BLOCK_BITS) - 1) >> BLOCK_BITS
        elif self._identity(known) != self._identity(at):
            raise InvalidImage(f"two records of chunk {index} of blob {blob} contradict each other")

    def _identity(self, at: int) -> tuple[bytes, bytes]:
        """All but the offset in the file."""
        return bytes(self._view[at : at + 64]), bytes(self._view[at + 72 : at + 80])

    def assign(self) -> list[AddressTable]:
        """By blob. Raises UnsupportedImage."""
        tables = []
        for blob, blocks, positions in zip(self._blobs, self._blocks, self._positions, strict=True):
            # A blob may have millions of chunks, and the image name a few at its start.
            del blocks[-(-len(blocks.tobytes().rstrip(b"\0")) // blocks.itemsize) :]
            if sum(blocks) >= HOLE:
                raise UnsupportedImage(f"blob {blob.id} has more blocks than EROFS can address")
            starts = array("I", accumulate(chain((0,), blocks)))
            self._starts.append(starts)
            indexes = array("I", compress(range(len(blocks)), blocks))
            gap = max(map(sub, indexes, chain((-1,), indexes)), default=1) - 1
            named = array("I", compress(starts, blocks)), array("I", compress(positions, blocks))
            tables.append(AddressTable(indexes, *named, starts[-1], gap))
        return tables

    def find(self, at: int) -> tuple[int, int]:
        """Blob index and first block of a record that was added."""
        blob, _, index = KEY.unpack_from(self._view, at)
        return blob, self._starts[blob][index]


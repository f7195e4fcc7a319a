"""The protocol of a blob's data file: where and how the bytes of its chunks lie in it.

    plain_file       `<id>.blob.data`  uncompressed, at uncompressed offsets
    encrypted_file   `<id>.blob.data`  the same places, encrypted page by page
    raw_file         `<id>.blob.raw`   as they lie in the blob
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from nydus_app.errors import InvalidImage
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk


class Fetched(NamedTuple):
    """Bytes of the blob object from `offset` on, as the backend gave them."""

    offset: int
    raw: Buffer

    def stored(self, chunk: Chunk) -> Buffer:
        """A chunk as it lies in the blob."""
        start = chunk.compressed_offset - self.offset
        return memoryview(self.raw)[start : start + chunk.compressed_size]


PAGE = 4096


def check_places(blob: Blob, chunks: Iterable[Chunk]) -> None:
    """A record must not write outside the blob's address space, nor mark another's bit. Raises InvalidImage."""
    count, size = blob.chunk_count, -(-blob.uncompressed_size // PAGE) * PAGE
    for _, index, _, _, start, length, _, _, _, _ in chunks:
        if index >= count or start + length > size:
            raise InvalidImage(f"chunk {index} lies outside of blob {blob.id}")


class ChunkFile(Protocol):
    fd: int
    is_plain: bool
    """Whoever reads uncompressed offsets of it reads data."""

    def write(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> list[int]:
        """Worker thread: keep verified, decoded chunks; the indexes of those that lie there now. Raises OSError."""
        ...

    def read(self, chunk: Chunk) -> Buffer:
        """The decoded chunk, not verified. Raises CorruptChunk, OSError."""
        ...

    def extent(self, chunk: Chunk) -> tuple[int, int]:
        """Where it lies: [start, end) of the file, with what belongs to nobody else."""
        ...

    def close(self) -> None: ...

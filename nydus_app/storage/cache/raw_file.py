"""`<id>.blob.raw`: chunks as they lie in the blob, at their compressed offsets; decoded whenever they are read."""

import os
from collections.abc import Sequence

from nydus_app.formats.codec.compress import Buffer, Decompressor
from nydus_app.formats.rafs.values import Chunk, Compressor
from nydus_app.storage.cache.chunk_file import Fetched
from nydus_app.storage.cache.plain_file import read_exactly, write_pieces


class RawFile:
    is_plain = False

    def __init__(self, fd: int, compressor: Compressor) -> None:
        self.fd = fd
        self._compressor = compressor

    def write(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> list[int]:
        write_pieces(self.fd, ((c.compressed_offset, fetched.stored(c)) for c, _ in chunks), gap=0)
        return [c.index for c, _ in chunks]

    def read(self, chunk: Chunk) -> Buffer:
        data = read_exactly(self.fd, chunk.compressed_size, chunk.compressed_offset)
        if not chunk.is_compressed:
            return data
        return Decompressor(self._compressor).decompress(data, chunk.uncompressed_size)

    def extent(self, chunk: Chunk) -> tuple[int, int]:
        return chunk.compressed_offset, chunk.compressed_offset + chunk.compressed_size

    def close(self) -> None:
        os.close(self.fd)

"""`<id>.blob.data` encrypted page by page, with the configured key or each chunk with its own digest (convergent).

nydusd 2.4.4 knows the digests of RAFS v5 only when it encrypts: a convergent cache of a v6 blob has one key, which
is in its source for everybody to read (looked at in files that it wrote). So has ours, or nobody could read the other's.
"""

import os
from collections.abc import Sequence

from nydus_app.errors import CorruptChunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.codec.page_crypt import (
    FALLBACK_KEY,
    SHORTEST,
    convergent_key,
    decrypt_pages,
    encrypt_pages,
    padded_size,
)
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk
from nydus_app.storage.cache.chunk_file import Fetched
from nydus_app.storage.cache.plain_file import PAGE, read_exactly, write_pieces


class EncryptedFile:
    """`key` of 32 bytes, None for convergent encryption. Chunks that have no key, or less than 16 bytes, are not kept."""

    is_plain = False

    def __init__(self, fd: int, key: bytes | None, blob: Blob) -> None:
        self.fd = fd
        self._key = FALLBACK_KEY if key is None and blob.ci_compressed_size else key
        self._is_aligned = bool(blob.features & BlobFeatures.ALIGNED)

    def write(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> list[int]:
        pieces = []
        kept = []
        for chunk, data in chunks:
            if (key := self._key_of(chunk)) is not None:
                padded = b"".join((data, bytes(self._size(chunk) - len(data)))) if self._is_aligned else data
                pieces.append((chunk.uncompressed_offset, encrypt_pages(key, padded)))
                kept.append(chunk.index)
        write_pieces(self.fd, pieces, gap=0)
        return kept

    def _key_of(self, chunk: Chunk) -> bytes | None:
        if self._size(chunk) < SHORTEST:
            return None
        if self._key is not None:
            return self._key
        return None if chunk.digest is None else convergent_key(chunk.digest)

    def _size(self, chunk: Chunk) -> int:
        return padded_size(chunk.uncompressed_size) if self._is_aligned else chunk.uncompressed_size

    def read(self, chunk: Chunk) -> Buffer:
        key = self._key_of(chunk)
        if key is None:
            raise CorruptChunk("it has no key to be decrypted with")
        data = decrypt_pages(key, read_exactly(self.fd, self._size(chunk), chunk.uncompressed_offset))
        return memoryview(data)[: chunk.uncompressed_size]

    def extent(self, chunk: Chunk) -> tuple[int, int]:
        end = chunk.uncompressed_offset + chunk.uncompressed_size
        return chunk.uncompressed_offset, -(-end // PAGE) * PAGE if self._is_aligned else end

    def close(self) -> None:
        os.close(self.fd)

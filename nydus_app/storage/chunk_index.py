"""Where the chunks of a blob lie in it, and which follow which.

RAFS v5 says so in each inode's chunk records. RAFS v6 says so in the blob's compression
information, which is fetched with the first cold read and kept as `<blob id>.blob.meta` beside the
data; a `.blob.meta` that somebody else wrote is taken if its header fits the blob.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import trio

from nydus_app.errors import InvalidImage
from nydus_app.formats.blob.compression_info import (
    CI_HEADER_SIZE,
    ChunkTable,
    check_header,
    ci_range,
    decode_blob_meta,
    decode_header,
    encode_blob_meta,
)
from nydus_app.formats.codec.compress import decompress
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.backend.port import BlobReader

log = logging.getLogger("nydus.storage")

RecordOf = Callable[[int], Chunk | None]


class ChunkIndex(Protocol):
    async def load(self) -> None:
        """Fetch what `locate` needs; the first caller fetches, the others wait for it."""
        ...

    def locate(self, chunk: Chunk) -> Chunk:
        """The chunk with its place in the blob. Raises InvalidImage."""
        ...

    def following(self, chunk: Chunk, ahead: Iterable[Chunk]) -> Iterator[Chunk]:
        """Located chunks behind `chunk`, in the order of the blob as far as known."""
        ...


class RecordedIndex:
    """v5: the records came with their places."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob

    async def load(self) -> None:
        return

    def locate(self, chunk: Chunk) -> Chunk:
        blob = self._blob
        # Old images without an extended blob table do not say how long their blobs are.
        if blob.chunk_count and chunk.compressed_offset + chunk.compressed_size > blob.data_size:
            raise InvalidImage(f"chunk {chunk.index} lies behind the data of blob {blob.id}")
        return chunk

    def following(self, chunk: Chunk, ahead: Iterable[Chunk]) -> Iterator[Chunk]:
        for c in ahead:
            if c.blob_index == self._blob.index:
                try:
                    yield self.locate(c)
                except InvalidImage:
                    return


class CompressionInfoIndex:
    """v6: the blob's own table gives places, the bootstrap's chunk table digests."""

    def __init__(self, blob: Blob, reader: BlobReader, path: str | None, record_of: RecordOf) -> None:
        """`path` of the kept `.blob.meta`, None to keep none; `record_of` a chunk index."""
        self._blob = blob
        self._reader = reader
        self._path = path
        self._record_of = record_of
        self._table: ChunkTable | None = None
        self._loading = trio.Lock()

    async def load(self) -> None:
        if self._table is not None:
            return
        async with self._loading:
            if self._table is None:
                self._table = await trio.to_thread.run_sync(self._read_kept) or await self._fetch()

    def locate(self, chunk: Chunk) -> Chunk:
        assert self._table is not None
        placed = self._table.chunk(chunk.index)
        if (placed.uncompressed_offset, placed.uncompressed_size) != (
            chunk.uncompressed_offset,
            chunk.uncompressed_size,
        ):
            raise InvalidImage(
                f"chunk {chunk.index} of blob {self._blob.id}: bootstrap and blob disagree on its place"
            )
        return _merge(chunk, placed)

    def following(self, chunk: Chunk, ahead: Iterable[Chunk]) -> Iterator[Chunk]:
        assert self._table is not None
        for index in range(chunk.index + 1, len(self._table)):
            record = self._record_of(index)
            if record is not None:
                try:
                    yield self.locate(record)
                except InvalidImage:
                    return

    def __len__(self) -> int:
        """Number of chunks; after `load`."""
        assert self._table is not None
        return len(self._table)

    def start_of(self, index: int) -> int:
        """Uncompressed offset of a chunk, ascending with its index."""
        return self.extent_of(index)[0]

    def extent_of(self, index: int) -> tuple[int, int]:
        """Uncompressed offset and size of a chunk."""
        assert self._table is not None
        return self._table.extent(index)

    def chunk(self, index: int) -> Chunk:
        """The located chunk, with its digest where the bootstrap has a record of it."""
        assert self._table is not None
        record = self._record_of(index)
        return self._table.chunk(index) if record is None else self.locate(record)

    def _read_kept(self) -> ChunkTable | None:
        if self._path is None:
            return None
        try:
            with open(self._path, "rb") as f:
                return decode_blob_meta(f.read(), self._blob)
        except FileNotFoundError:
            return None
        except (OSError, InvalidImage) as e:
            log.warning("%s is fetched anew: %s", self._path, e)
            return None

    async def _fetch(self) -> ChunkTable:
        offset, size = ci_range(self._blob)
        raw = await self._reader.read(offset, size)
        return await trio.to_thread.run_sync(self._decode_and_keep, raw)

    def _decode_and_keep(self, raw: bytes) -> ChunkTable:
        blob = self._blob
        header_bytes = raw[-CI_HEADER_SIZE:]
        check_header(decode_header(header_bytes), blob)
        table = decompress(blob.ci_compressor, raw[:-CI_HEADER_SIZE], blob.ci_uncompressed_size)
        kept = encode_blob_meta(table, header_bytes)
        decoded = decode_blob_meta(kept, blob)
        if self._path is not None:
            self._keep(kept)
        return decoded

    def _keep(self, content: bytes) -> None:
        """Complete under its final name or not at all: others may be reading along."""
        assert self._path is not None
        temporary = f"{self._path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as f:
                f.write(content)
            os.replace(temporary, self._path)
        except OSError as e:
            log.warning("%s is not kept: %s", self._path, e.strerror)
            try:
                os.unlink(temporary)
            except OSError:
                pass


def _merge(chunk: Chunk, placed: Chunk) -> Chunk:
    return chunk._replace(
        compressed_offset=placed.compressed_offset,
        compressed_size=placed.compressed_size,
        is_compressed=placed.is_compressed,
        crc32c=placed.crc32c if chunk.crc32c is None else chunk.crc32c,
    )

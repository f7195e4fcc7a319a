"""A chunk cache that keeps uncompressed chunks in `<work_dir>/<blob id>.blob.data`.

A chunk is ready when its bit is set and, with validation on, its data have been verified since the
start: what an earlier process, or anybody else, left in the file is checked once before it is
served, and fetched anew where it is wrong.

A cache that cannot be written (full disk, vanished directory) costs speed, never a reader: data
then go from the fetch to the reader and nothing is marked; one warning says so.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import trio

from nydus_app.errors import CacheError, CorruptChunk, InvalidImage
from nydus_app.formats.codec.chunk import verify_chunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.data_file import DataFile, open_data_file
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch import ChunkFetcher

log = logging.getLogger("nydus.storage")

BLOCK = 4096


class BlobCache:
    """The ChunkCache of one blob. Its files are opened with the first read.

    Concurrency: state changes on the trio thread, except for `DataFile`, which guards itself, and
    `_verified`, whose bytes worker threads write one at a time under `DataFile`'s order of truth.
    """

    def __init__(
        self,
        blob: Blob,
        reader: BlobReader,
        index: ChunkIndex,
        *,
        work_dir: str,
        validate: bool,
        batch_size: int,
        workers: trio.CapacityLimiter,
    ) -> None:
        self._blob = blob
        self._reader = reader
        self._work_dir = work_dir
        self._validate = validate
        self._workers = workers
        self._file: DataFile | None = None
        self._opening = trio.Lock()
        self._is_kept = True
        self._verified = bytearray(blob.chunk_count)
        self._fetcher = ChunkFetcher(
            blob, reader, index, validate=validate, batch_size=batch_size, workers=workers, store=self._store
        )

    def is_ready(self, index: int) -> bool:
        file = self._file
        if file is None or not file.is_set(index):
            return False
        return not self._validate or bool(self._verified[index])

    async def ensure(self, chunks: Sequence[Chunk], ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        if self._file is None and self._is_kept:
            await self._open()
        for chunk in chunks:
            self._check_bounds(chunk)
        if self._validate:
            await self._verify_left_behind(chunks)
        if all(self.is_ready(c.index) for c in chunks):
            return {}
        return await self._fetcher.fetch(chunks, ahead, self.is_ready)

    def data_fd(self) -> int:
        assert self._file is not None
        return self._file.fd

    def close(self) -> None:
        self._reader.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check_bounds(self, chunk: Chunk) -> None:
        """A record must not write outside the blob's address space, nor mark another's bit."""
        blob = self._blob
        end = chunk.uncompressed_offset + chunk.uncompressed_size
        if chunk.index >= blob.chunk_count or end > -(-blob.uncompressed_size // BLOCK) * BLOCK:
            raise InvalidImage(f"chunk {chunk.index} lies outside of blob {blob.id}")

    async def _open(self) -> None:
        async with self._opening:
            if self._file is not None or not self._is_kept:
                return
            blob = self._blob
            try:
                self._file = await trio.to_thread.run_sync(
                    open_data_file,
                    self._work_dir,
                    blob_file_name(blob.id),
                    blob.uncompressed_size,
                    blob.chunk_count,
                    bool(blob.features & BlobFeatures.ALIGNED),
                )
            except CacheError as e:
                self._stop_keeping(str(e))

    async def _verify_left_behind(self, chunks: Sequence[Chunk]) -> None:
        """Check what the file held before this process began to look at it."""
        file = self._file
        if file is None:
            return
        doubtful = [c for c in chunks if file.is_set(c.index) and not self._verified[c.index]]
        if doubtful:
            await trio.to_thread.run_sync(self._verify, file, doubtful, limiter=self._workers)

    def _verify(self, file: DataFile, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            try:
                data = os.pread(file.fd, chunk.uncompressed_size, chunk.uncompressed_offset)
                verify_chunk(self._blob, chunk, data, validate=True)
            except (CorruptChunk, OSError) as e:
                log.warning("cached data are fetched anew: %s", e)
                self._forget(file, chunk)
            else:
                self._verified[chunk.index] = 1

    def _forget(self, file: DataFile, chunk: Chunk) -> None:
        try:
            file.clear(chunk.index)
        except OSError as e:
            self._stop_keeping(f"chunk map of blob {self._blob.id}: {e.strerror}")

    def _store(self, chunks: Sequence[tuple[Chunk, Buffer]]) -> None:
        """Worker thread: data first, then their bits; nothing of a window is marked if any write fails."""
        file = self._file
        if file is None or not self._is_kept:
            return
        try:
            for chunk, _ in chunks:
                self._check_bounds(chunk)
            file.write([(chunk.uncompressed_offset, data) for chunk, data in chunks])
            for chunk, _ in chunks:
                self._verified[chunk.index] = 1
            file.mark(chunk.index for chunk, _ in chunks)
        except OSError as e:
            self._stop_keeping(f"{self._work_dir}: {e.strerror}")

    def _stop_keeping(self, cause: str) -> None:
        if self._is_kept:
            self._is_kept = False
            log.warning("cannot write the cache (%s): blob %s is served without keeping more of it", cause, self._blob.id)

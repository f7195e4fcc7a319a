"""The chunk cache on disk: uncompressed chunks in nydusd's files, fetched once, verified as configured.

A directory that cannot be written, or a full disk, costs no reader anything: chunks then go from
the fetch straight to the reader, with one warning.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import trio

from nydus_app.errors import CacheError, CorruptChunk, InvalidImage
from nydus_app.formats.codec.chunk import verify_chunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.background import Background
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.port import ChunksOf
from nydus_app.storage.cache.data_file import DataFile, data_path, open_data_file
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch import ChunkFetcher
from nydus_app.storage.workers import Workers

log = logging.getLogger("nydus.storage")

BLOCK = 4096


class BlobCache:
    """The ChunkCache of one blob. Its files are opened with the first read.

    Concurrency: state changes on the trio thread, except for `DataFile`, which guards itself, and
    `_ready`, whose bytes worker threads write one at a time, after the data and their bit.
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
        workers: Workers,
        background: Background,
    ) -> None:
        self._blob = blob
        self._reader = reader
        self._index = index
        self._work_dir = work_dir
        self._validate = validate
        self._file: DataFile | None = None
        self._is_kept = True
        self._ready = bytearray(blob.chunk_count)
        self._fetcher = ChunkFetcher(
            blob, reader, index, validate=validate, batch_size=batch_size, workers=workers, background=background,
            store=self,
        )  # fmt: skip
        self.fresh, self.drop_fresh = self._fetcher.fresh, self._fetcher.drop_fresh

    def is_ready(self, index: int) -> bool:
        return index < len(self._ready) and bool(self._ready[index])

    def are_ready(self, first: int, last: int) -> bool:
        return last < len(self._ready) and self._ready.find(0, first, last + 1) < 0

    def is_kept(self, index: int) -> bool:
        """It lies in the file, though perhaps not verified yet."""
        return self.is_ready(index) or (self._file is not None and self._file.is_set(index))

    def has_none_of(self, indexes: range) -> bool:
        is_kept = self._ready.find(1, indexes.start, indexes.stop) >= 0
        return not is_kept and (self._file is None or self._file.has_none_of(indexes))

    def follow(self, first: int, last: int) -> None:
        self._fetcher.follow(first, last)

    async def ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        if self._file is None and self._is_kept:
            await self._open()
        if self._validate:
            await self._verify_left_behind(wanted, chunks)
        cold = [i for i in wanted if not self.is_ready(i)]
        if not cold:
            return {}
        await self._index.load()
        return await self._fetcher.fetch(cold, chunks, ahead)

    def data_fd(self) -> int:
        assert self._file is not None
        return self._file.fd

    def whole_file(self) -> int | None:
        """Descriptor of the data file if every chunk is there and may be served as it is, else None.

        It is share-locked (flock(2)) from then on until the cache is closed: whoever would punch holes into
        it has to look elsewhere. Blocks; to be called before anything is served.
        """
        blob, file = self._blob, self._file
        if self._validate or blob.uncompressed_size % BLOCK:
            return None
        if file is None and os.path.exists(data_path(self._work_dir, blob_file_name(blob.id))):
            try:
                file = self._take_file(self._open_file())
            except CacheError:
                return None
        if file is None or 0 in self._ready:
            return None
        try:
            fcntl.flock(file.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None
        return file.fd

    def close(self) -> None:
        self._fetcher.close()
        self._reader.close()
        self._index.close()
        if self._file is not None:
            self._file.close()
            self._file = None

    def check(self, chunk: Chunk) -> None:
        """A record must not write outside the blob's address space, nor mark another's bit."""
        blob = self._blob
        end = chunk.uncompressed_offset + chunk.uncompressed_size
        if chunk.index >= blob.chunk_count or end > -(-blob.uncompressed_size // BLOCK) * BLOCK:
            raise InvalidImage(f"chunk {chunk.index} lies outside of blob {blob.id}")

    @cached_property
    def _opening(self) -> trio.Lock:
        return trio.Lock()

    async def _open(self) -> None:
        async with self._opening:
            if self._file is not None or not self._is_kept:
                return
            try:
                self._take_file(await trio.to_thread.run_sync(self._open_file))
            except CacheError as e:
                self._stop_keeping(str(e))

    def _open_file(self) -> DataFile:
        blob = self._blob
        return open_data_file(
            self._work_dir,
            blob_file_name(blob.id),
            blob.uncompressed_size,
            blob.chunk_count,
            bool(blob.features & BlobFeatures.ALIGNED),
        )

    def _take_file(self, file: DataFile) -> DataFile:
        if not self._validate:
            self._ready[:] = file.flags()
        self._file = file
        return file

    async def _verify_left_behind(self, wanted: Sequence[int], chunks: ChunksOf) -> None:
        """Check what the file held before this process began to look at it."""
        file = self._file
        if file is None:
            return
        doubtful = [i for i in wanted if not self.is_ready(i) and file.is_set(i) and not self._fetcher.is_fetching(i)]
        if doubtful:
            found = chunks(doubtful)
            for chunk in found:
                self.check(chunk)
            await trio.to_thread.run_sync(self._verify, file, found)

    def _verify(self, file: DataFile, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            try:
                verify_chunk(self._blob, chunk, file.read(chunk.uncompressed_offset, chunk.uncompressed_size), validate=True)
            except (CorruptChunk, OSError) as e:
                log.warning("chunk %d of blob %s in the cache is fetched anew: %s", chunk.index, self._blob.id, e)
                self._forget(file, chunk)
            else:
                self._ready[chunk.index] = 1

    def _forget(self, file: DataFile, chunk: Chunk) -> None:
        try:
            file.clear(chunk.index)
        except OSError as e:
            self._stop_keeping(f"chunk map of blob {self._blob.id}: {e.strerror}")

    def store(self, chunks: Sequence[tuple[Chunk, Buffer]]) -> None:
        """Worker thread: data first, then their bits; nothing of a job is marked if any write fails."""
        file = self._file
        if file is None or not self._is_kept:
            return
        try:
            for chunk, _ in chunks:
                self.check(chunk)
            file.write([(chunk.uncompressed_offset, data) for chunk, data in chunks])
            file.mark([chunk.index for chunk, _ in chunks])
            for chunk, _ in chunks:
                self._ready[chunk.index] = 1
        except InvalidImage as e:
            log.warning("%s", e)
        except OSError as e:
            self._stop_keeping(f"{self._work_dir}: {e.strerror}")

    def _stop_keeping(self, cause: str) -> None:
        if self._is_kept:
            self._is_kept = False
            log.warning("cannot write the cache (%s): blob %s is served without keeping more of it", cause, self._blob.id)

"""The chunk cache on disk: chunks in nydusd's files, fetched once, verified as configured.

    is it there, verified?   ready: whoever reads a plain file goes on by himself
    there, but doubtful      read, verified, then as above; dropped and fetched anew where it is wrong
    not there                fetched, answered from memory, written, marked (`fetch.py`)

Where the file is not plain (compressed, encrypted) a chunk is read and decoded for its readers, and a few decoded ones
stay in memory.

A directory that cannot be written, or a full disk, costs no reader anything: chunks then go from
the fetch straight to the reader, with one warning.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections import deque
from contextlib import AbstractContextManager, suppress
from functools import partial
from typing import TYPE_CHECKING

from nydus_app.errors import CacheError, CorruptChunk, InvalidImage
from nydus_app.formats.codec.chunk import verify_chunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.formats.recording import Span
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.background import Background
from nydus_app.storage.cache.blob_files import BlobFiles, Keeping, data_path, open_blob_files
from nydus_app.storage.cache.chunk_file import Fetched, check_places
from nydus_app.storage.cache.port import NOTHING, ChunksOf
from nydus_app.storage.cache.recent import Recent
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch import ChunkFetcher
from nydus_app.storage.fetch_log import Why
from nydus_app.storage.hop import Turn, in_thread
from nydus_app.storage.workers import Workers

if TYPE_CHECKING:
    from nydus_app.storage.cache.bounded_blob import BoundedBlob

log = logging.getLogger("nydus.storage")

BLOCK = 4096


class BlobCache:
    """The ChunkCache of one blob. Its files are opened with the first read.

    Concurrency: state changes on the trio thread, except for the files, which guard themselves, and
    `_ready`, whose bytes worker threads write one at a time, after the data and their bit.
    """

    def __init__(
        self,
        blob: Blob,
        reader: BlobReader,
        index: ChunkIndex,
        *,
        keeping: Keeping,
        validate: bool,
        batch_size: int,
        workers: Workers,
        background: Background,
        share_of: Callable[[Blob, ChunkIndex, bytearray], BoundedBlob] | None = None,
    ) -> None:
        """`share_of` makes the blob's share of a bounded cache; it is given the byte of each chunk that says whether it is ready."""
        self._blob = blob
        self._reader = reader
        self._index = index
        self._keeping = keeping
        self._validate = validate
        self._files: BlobFiles | None = None
        self._opening = Turn()
        self._is_kept = True
        self._is_plain = True
        self._trusts_map = False
        self._ready = bytearray(blob.chunk_count)
        self._recent = Recent()
        self._to_note: deque[Sequence[int]] = deque()  # ready, and not marked yet for who comes after us
        self._share = None if share_of is None else share_of(blob, index, self._ready)
        self.is_bounded = share_of is not None
        self._damaged: set[int] = set()  # chunks that were kept, but not as they should be
        self._had = bytearray(blob.chunk_count if self.is_bounded else 0)  # 1: it was there, whatever became of it
        self._fetcher = ChunkFetcher(
            blob, reader, index, validate=validate, batch_size=batch_size, workers=workers, background=background,
            store=self,
        )  # fmt: skip
        self.fresh, self.drop_fresh = self._fetcher.fresh, self._fetcher.drop_fresh

    # ---- for readers --------------------------------------------------------------------------

    def is_ready(self, index: int) -> bool:
        return self._is_plain and self.is_stored(index)

    async def are_ready(self, first: int, last: int) -> bool:
        if not self._is_plain or last >= len(self._ready):
            return False
        while (first := self._ready.find(0, first, last + 1)) >= 0:
            if not await self._fetcher.join(first, last) or not self._ready[first]:
                return False
        return True

    def follow(self, first: int, last: int) -> None:
        self._fetcher.follow(first, last)

    def hold(self, indexes: Iterable[int]) -> AbstractContextManager[None]:
        return NOTHING if self._share is None else self._share.hold(indexes)

    async def ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        with self.hold(wanted):
            return await self._ensure(wanted, chunks, ahead)

    async def _ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        if self._files is None and self._is_kept:
            await self._open()
        if self._files is None:
            return await self._fetch(wanted, chunks, ahead)
        if self._is_plain:
            await self._look(self._files, wanted, chunks)
            return await self._fetch([i for i in wanted if not self.is_stored(i)], chunks, ahead)
        return await self._decoded(self._files, wanted, chunks, ahead)

    async def prefetch(self, wanted: Sequence[int], chunks: ChunksOf) -> None:
        if self._files is None and self._is_kept:
            await self._open()
        await self._index.load()
        if missing := [i for i in wanted if not self.is_kept(i)]:
            await self._fetcher.fetch(missing, chunks, (), Why.prefetch)

    async def replay(self, span: Span) -> None:
        if self._files is None and self._is_kept:
            await self._open()
        await self._fetcher.replay(span)

    def data_fd(self) -> int:
        assert self._files is not None and self._is_plain
        return self._files.data.fd

    def whole_file(self) -> int | None:
        """Descriptor of the data file if every chunk is there and may be served as it is, else None.

        It is share-locked (flock(2)) from then on until the cache is closed: whoever would punch holes into
        it has to look elsewhere. Blocks; to be called before anything is served.
        """
        blob = self._blob
        if self._validate or self.is_bounded or blob.uncompressed_size % BLOCK:
            return None
        if self._files is None and os.path.exists(data_path(self._keeping, blob)):
            try:
                self._take_files(self._open_files())
            except CacheError:
                return None
        if self._files is None or not self._is_plain or 0 in self._ready:
            return None
        fd = self._files.data.fd
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return None
        return fd

    def close(self) -> None:
        self._fetcher.close()
        self._reader.close()
        self._index.close()
        self._recent.clear()
        if self._files is not None:
            self.note_filled()
            if self._share is not None:
                self._share.leave()
            self._files.close()
            self._files = None

    async def _fetch(self, cold: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        if not cold:
            return {}
        await self._index.load()
        return await self._fetcher.fetch(cold, chunks, ahead)

    # ---- opening ------------------------------------------------------------------------------

    async def _open(self) -> None:
        async with self._opening:
            if self._files is not None or not self._is_kept:
                return
            try:
                self._take_files(await in_thread(self._open_files))
            except CacheError as e:
                self._stop_keeping(str(e))

    def _open_files(self) -> BlobFiles:
        return self._share.open_files(self._keeping) if self._share else open_blob_files(self._keeping, self._blob)

    def _take_files(self, files: BlobFiles) -> None:
        self._trusts_map = not self._validate and not files.is_doubtful
        if self._trusts_map:
            self._ready[:] = files.map.flags()
        if self._had:
            self._had[:] = files.map.flags()
        self._is_plain = files.data.is_plain
        self._files = files

    # ---- what is there already ----------------------------------------------------------------

    async def _look(self, files: BlobFiles, wanted: Sequence[int], chunks: ChunksOf) -> None:
        """Verify what was left in the file, or is being written to it by another daemon."""
        doubtful = self._doubtful(files, wanted)
        if doubtful:
            found = await self._located(doubtful, chunks)
            await in_thread(self._verify, files, found)

    def _doubtful(self, files: BlobFiles, wanted: Sequence[int]) -> list[int]:
        cold = [i for i in wanted if not self.is_stored(i) and not self._fetcher.is_fetching(i)]
        if self._share is not None:  # before the map is looked at
            cold = [i for i in cold if not self._share.is_going(i)]
        elif self._is_kept and (unset := [i for i in cold if not files.map.may_be_set(i)]):
            try:
                found = files.map.look_again(unset)
            except OSError:
                found = []
            if self._trusts_map:
                for index in found:
                    self._ready[index] = 1
        return [i for i in cold if not self.is_stored(i) and files.map.may_be_set(i)]

    async def _located(self, indexes: Sequence[int], chunks: ChunksOf) -> list[Chunk]:
        await self._index.load()
        found = [self._index.locate(c) for c in chunks(indexes)]
        for chunk in found:
            self.check(chunk)
        return found

    def _verify(self, files: BlobFiles, chunks: Sequence[Chunk]) -> dict[int, Buffer]:
        """Worker thread: the data of those that are right; the others are forgotten."""
        good: dict[int, Buffer] = {}
        for chunk in chunks:
            is_verified = self.is_stored(chunk.index)  # asked before the read: another reader may have it stored meanwhile
            try:
                data = files.data.read(chunk)
                if not is_verified:
                    verify_chunk(self._blob, chunk, data, validate=True)
            except (CorruptChunk, OSError) as e:
                if files.map.is_set(chunk.index):
                    log.warning("chunk %d of blob %s in the cache is fetched anew: %s", chunk.index, self._blob.id, e)
                self._forget(files, chunk)
            else:
                good[chunk.index] = data
                self._mark(files, [chunk.index])
        return good

    async def _decoded(
        self, files: BlobFiles, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]
    ) -> Mapping[int, Buffer]:
        """From memory, from the file, or fetched; what turns out to be wrong in the file is fetched in the next round."""
        got = {i: data for i in wanted if (data := self._recent.get(i)) is not None}
        while missing := [i for i in wanted if i not in got]:
            doubtful = self._doubtful(files, missing)
            there = [i for i in missing if self.is_stored(i) or i in doubtful]
            if there:
                found = await self._located(there, chunks)
                got.update(await in_thread(self._verify, files, found))
            else:
                got.update(await self._fetch(missing, chunks, ahead))
                ahead = ()
        for index, data in got.items():
            self._recent.remember(index, data)
        return got

    # ---- for the fetcher ----------------------------------------------------------------------

    def is_stored(self, index: int) -> bool:
        return index < len(self._ready) and bool(self._ready[index])

    def is_kept(self, index: int) -> bool:
        """It lies in the file, though perhaps not verified yet."""
        return self.is_stored(index) or (self._files is not None and self._files.map.is_set(index))

    def has_none_of(self, indexes: range) -> bool:
        is_stored = self._ready.find(1, indexes.start, indexes.stop) >= 0
        return not is_stored and (self._files is None or self._files.map.has_none_of(indexes))

    def why_missing(self, indexes: Sequence[int]) -> Why:
        if self._damaged and not self._damaged.isdisjoint(indexes):
            return Why.corrupt
        return Why.evicted if self._had and any(self._had[i] for i in indexes if i < len(self._had)) else Why.cold

    def check(self, chunk: Chunk) -> None:
        check_places(self._blob, (chunk,))

    # ---- for the process that fills caches (`filler/`) ----------------------------------------

    def file_to_fill(self) -> int | None:
        if self._files is None or not self._is_plain or not self._is_kept or self._share is not None:
            return None
        return self._files.data.fd

    def filled(self, indexes: Sequence[int]) -> None:
        self._to_note.append(indexes)
        if isinstance(indexes, range):
            self._ready[indexes.start : indexes.stop] = b"\1" * len(indexes)
        else:
            for index in indexes:
                self._ready[index] = 1

    def note_filled(self) -> None:
        files = self._files
        with suppress(IndexError):
            while files is not None:
                indexes = self._to_note.popleft()
                try:
                    files.map.mark(indexes)
                except OSError as e:
                    self._stop_keeping(f"chunk map of blob {self._blob.id}: {e.strerror}")

    def store(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> None:
        """Worker thread: data first, then their bits; nothing of a job is marked if any write fails."""
        files = self._files
        if files is None or not self._is_kept:
            return
        try:
            for chunk, _ in chunks:
                self.check(chunk)
            if self._share is None:
                self._write(files, fetched, chunks)
            else:
                self._share.write(files, chunks, partial(self._write, files, fetched))
        except InvalidImage as e:
            log.warning("%s", e)
        except OSError as e:
            self._stop_keeping(f"{self._keeping.work_dir}: {e.strerror}")

    def _write(self, files: BlobFiles, fetched: Fetched, chunks: Sequence[tuple[Chunk, Buffer]]) -> None:
        kept = files.data.write(chunks, fetched)
        files.map.mark(kept)
        for index in kept:
            self._ready[index] = 1
            if self._had:
                self._had[index] = 1

    def _mark(self, files: BlobFiles, indexes: Sequence[int]) -> None:
        """They were verified; the map in memory may not know them yet."""
        if not all(files.map.is_set(i) for i in indexes):
            files.map.mark(indexes)
        for index in indexes:
            self._ready[index] = 1

    def _forget(self, files: BlobFiles, chunk: Chunk) -> None:
        self._ready[chunk.index] = 0
        if files.map.is_set(chunk.index):
            self._damaged.add(chunk.index)
        try:
            files.map.clear([chunk.index])
        except OSError as e:
            self._stop_keeping(f"chunk map of blob {self._blob.id}: {e.strerror}")

    def _stop_keeping(self, cause: str) -> None:
        if self._is_kept:
            self._is_kept = False
            log.warning("cannot write the cache (%s): blob %s is served without keeping more of it", cause, self._blob.id)

"""All blobs of an image as one thing to read segments from."""

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from nydus_app.errors import CacheError
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Chunk, Segment
from nydus_app.storage.background import Background
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.hop import in_thread
from nydus_app.storage.workers import Workers


class Device:
    """`caches[i]` holds blob i, `background` and `workers` are theirs. Closing the device closes them, and calls `release`."""

    def __init__(
        self,
        caches: Sequence[ChunkCache],
        background: Background,
        workers: Workers,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self._is_bounded = any(cache.is_bounded for cache in caches)
        self._release = release
        self._workers = workers
        self._caches = caches
        self.background = background
        self.work = background.run

    async def read(self, segments: Sequence[Segment], ahead: Iterable[Chunk] = ()) -> Sequence[Buffer]:
        """The segments' bytes: all of them, or an error of `nydus_app.errors`.

        `ahead` is looked at only when something has to be fetched.
        """
        if not self._is_bounded:
            return await self._read(segments, ahead)
        with ExitStack() as held:
            for blob_index in {s.chunk.blob_index for s in segments}:
                indexes = [s.chunk.index for s in segments if s.chunk.blob_index == blob_index]
                held.enter_context(self._caches[blob_index].hold(indexes))
            return await self._read(segments, ahead)

    async def _read(self, segments: Sequence[Segment], ahead: Iterable[Chunk]) -> Sequence[Buffer]:
        decoded = await self._ensure(segments, ahead)
        return [
            decoded[at][s.offset : s.offset + s.size] if at in decoded else await self._pread_run(s)
            for at, s in _runs(segments, decoded)
        ]

    async def _ensure(self, segments: Sequence[Segment], ahead: Iterable[Chunk]) -> Mapping[tuple[int, int], memoryview]:
        """Decoded data of chunks that were not ready, or are in memory still, by (blob index, chunk index)."""
        cold: dict[int, dict[int, Chunk]] = {}
        for blob_index in {s.chunk.blob_index for s in segments}:
            indexes = [s.chunk.index for s in segments if s.chunk.blob_index == blob_index]
            self._caches[blob_index].follow(min(indexes), max(indexes))
        decoded: dict[tuple[int, int], memoryview] = {}
        for s in segments:
            blob_index, index = s.chunk.blob_index, s.chunk.index
            if (data := self._caches[blob_index].fresh.get(index)) is not None:
                decoded[blob_index, index] = memoryview(data)
            elif not self._caches[blob_index].is_ready(index):
                cold.setdefault(blob_index, {})[index] = s.chunk
        for blob_index, chunks in cold.items():
            chunks_of = partial(_chosen, chunks)
            got = await self._caches[blob_index].ensure(list(chunks), chunks_of, ahead)
            decoded.update(((blob_index, index), memoryview(data)) for index, data in got.items())
        for s in segments:
            if s.offset + s.size == s.chunk.uncompressed_size:
                self._caches[s.chunk.blob_index].drop_fresh((s.chunk.index,))
        return decoded

    async def _pread_run(self, run: Segment) -> Buffer:
        chunk = run.chunk
        last = chunk.index + (run.size - 1) // chunk.uncompressed_size
        cache = self._caches[chunk.blob_index]
        return await pread_ready(cache, chunk.index, last, run.size, chunk.uncompressed_offset + run.offset)

    def close(self) -> None:
        self._workers.close()
        for cache in self._caches:
            cache.close()
        self._release()


def _chosen(chunks: Mapping[int, Chunk], indexes: Iterable[int]) -> list[Chunk]:
    return [chunks[i] for i in indexes]


def _runs(
    segments: Sequence[Segment], decoded: Mapping[tuple[int, int], memoryview]
) -> Iterable[tuple[tuple[int, int], Segment]]:
    """Segments, those that continue each other in the same data file made one."""
    pending: Segment | None = None
    for s in segments:
        key = (s.chunk.blob_index, s.chunk.index)
        if key in decoded:
            if pending is not None:
                yield (-1, -1), pending
                pending = None
            yield key, s
        elif pending is not None and _continues(pending, s):
            pending = pending._replace(size=pending.size + s.size)
        else:
            if pending is not None:
                yield (-1, -1), pending
            pending = s
    if pending is not None:
        yield (-1, -1), pending


def _continues(run: Segment, s: Segment) -> bool:
    return (
        run.chunk.blob_index == s.chunk.blob_index
        and run.chunk.uncompressed_offset + run.offset + run.size == s.chunk.uncompressed_offset + s.offset
    )


LARGE_BYTES, AHEAD = 1 << 19, 4
"""Who asks for so many bytes at once reads on: the disk begins with what is so many such reads away.

Measured: x1.1 to x2; and x2.5 in a guest that gives free memory back to its host, where each page of the kernel's own read-ahead,
which takes large ones, costs a fault there. It is 0.8 of that read-ahead where `read_ahead_kb` is in the MiB and memory is there.
"""


async def pread_ready(cache: ChunkCache, first: int, last: int, size: int, offset: int) -> Buffer:
    """`size` bytes at `offset` of a cache's file, where the chunks from `first` to about `last` are ready.

    Without a thread where the page cache has them. Raises CacheError.
    """
    fd = cache.data_fd()
    # The kernel makes pages of zeros of what is asked of a hole, so it is not where nothing has been written yet.
    if size >= LARGE_BYTES and cache.is_ready(first + AHEAD * (last - first + 1)):
        os.posix_fadvise(fd, offset + AHEAD * size, size, os.POSIX_FADV_WILLNEED)
    buffer = bytearray(size)
    try:
        done = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError as e:
        if e.errno not in (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL):
            raise CacheError(f"cache file: {e.strerror}") from None
        done = 0
    if done == size:
        return buffer
    return await in_thread(_pread_all, fd, size, offset)


def _pread_all(fd: int, size: int, offset: int) -> bytes:
    try:
        data = os.pread(fd, size, offset)
    except OSError as e:
        raise CacheError(f"cache file: {e.strerror}") from None
    if len(data) != size:
        raise CacheError(f"cache file ends at {offset + len(data)}, {size} bytes at {offset} were asked for")
    return data

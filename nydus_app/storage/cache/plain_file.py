"""`<id>.blob.data`: uncompressed chunks at their uncompressed offsets, a sparse file as long as the blob uncompressed."""

import os
from collections.abc import Iterable, Sequence

from nydus_app.errors import CorruptChunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Chunk
from nydus_app.storage.cache.chunk_file import PAGE, Fetched

MAX_PIECES = 1000
"""IOV_MAX is 1024, and padding takes a place of its own."""


class PlainFile:
    """`is_aligned`: every chunk begins at a page (v6), and none lies in another's last one."""

    is_plain = True

    def __init__(self, fd: int, *, is_aligned: bool, is_written: bool = True) -> None:
        self.fd = fd
        self._is_aligned = is_aligned
        self._is_written = is_written

    def write(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> list[int]:
        write_pieces(
            self.fd, ((c.uncompressed_offset, data) for c, data in chunks), gap=PAGE - 1 if self._is_aligned else 0
        )
        return [c.index for c, _ in chunks]

    def read(self, chunk: Chunk) -> Buffer:
        """As somebody has left it; where nothing may follow it in its page, zeros do from now on, unless it is only looked at."""
        size, offset = chunk.uncompressed_size, chunk.uncompressed_offset
        padding = -size % PAGE if self._is_aligned and self._is_written else 0
        data = os.pread(self.fd, size + padding, offset)
        if len(data) < size:
            raise CorruptChunk(f"the cache's file ends at {offset + len(data)}")
        if any(data[size:]):
            os.pwrite(self.fd, bytes(padding), offset + size)
        return memoryview(data)[:size]

    def extent(self, chunk: Chunk) -> tuple[int, int]:
        end = chunk.uncompressed_offset + chunk.uncompressed_size
        return chunk.uncompressed_offset, -(-end // PAGE) * PAGE if self._is_aligned else end

    def close(self) -> None:
        os.close(self.fd)


def read_exactly(fd: int, size: int, offset: int) -> bytes:
    """Raises OSError, and CorruptChunk where the file ends before."""
    data = os.pread(fd, size, offset)
    if len(data) != size:
        raise CorruptChunk(f"the cache's file ends at {offset + len(data)}")
    return data


def write_pieces(fd: int, pieces: Iterable[tuple[int, Buffer]], *, gap: int) -> None:
    """Each (offset, data); neighbours go out in one call.

    Where chunks are aligned to pages nothing lies between one's end and the next page, and up to `gap` zeros
    join them; elsewhere (v5) another chunk may lie there. Raises OSError (a full disk).
    """
    run: list[Buffer] = []
    start = end = 0
    for offset, data in pieces:
        if not run or not end <= offset <= end + gap or len(run) >= MAX_PIECES:
            _write_run(fd, start, run, end - start)
            run, start, end = [], offset, offset
        if offset > end:
            run.append(bytes(offset - end))
        run.append(data)
        end = offset + len(data)
    _write_run(fd, start, run, end - start)


def _write_run(fd: int, offset: int, run: list[Buffer], size: int) -> None:
    done = os.pwritev(fd, run, offset) if run else 0
    if done < size:  # a signal or a nearly full disk: the rest tells which
        rest = memoryview(b"".join(run))[done:]
        while rest:
            more = os.pwrite(fd, rest, offset + done)
            rest, done = rest[more:], done + more

"""The pair of files that keeps a blob's uncompressed chunks: `<id>.blob.data` and its chunk map.

Names and layout are nydusd 2.4's (rafs-format 10); a `<id>.chunk_map` left by 2.2 goes on being used.
Order of truth: data are written before their bit is, in file and memory. The map is written with
pwrite, merged with what is there, because a mapping of a file on a full
disk turns into SIGBUS and because another daemon may share the directory: a lost update costs a
second fetch, never a wrong bit.

Concurrency: `write` and `mark` come from worker threads, under one lock; `is_set` reads one byte.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence

from nydus_app.errors import CacheError
from nydus_app.formats import chunkmap
from nydus_app.formats.codec.compress import Buffer

PAGE = 4096
MAX_PIECES = 1000
"""IOV_MAX is 1024, and padding takes a place of its own."""


class DataFile:
    """Open files of one blob. Raises CacheError from `open_data_file` only."""

    def __init__(
        self, data_fd: int, map_fd: int, bits: bytearray, chunk_count: int, *, is_aligned: bool
    ) -> None:
        self.fd = data_fd
        self._is_aligned = is_aligned
        self._map_fd = map_fd
        self._bits = bits
        self._count = chunk_count
        self._marking = threading.Lock()

    def is_set(self, index: int) -> bool:
        return index < self._count and chunkmap.test_bit(self._bits, index)

    def has_none_of(self, indexes: range) -> bool:
        """No bit of theirs is set, nor one of their neighbours in a byte."""
        return not any(self._bits[indexes.start >> 3 : (indexes.stop + 7) >> 3])

    def flags(self) -> bytes:
        """A byte for each chunk: 1 where its bit is set."""
        return chunkmap.expand_bits(self._bits, self._count)

    def write(self, pieces: Iterable[tuple[int, Buffer]]) -> None:
        """Each (offset, data); neighbours go out in one call.

        Where chunks are aligned to pages nothing lies between one's end and the next page, and zeros
        join them; elsewhere (v5) another chunk may lie there. Raises OSError (a full disk).
        """
        gap = PAGE - 1 if self._is_aligned else 0
        run: list[Buffer] = []
        start = end = 0
        for offset, data in pieces:
            if not run or not end <= offset <= end + gap or len(run) >= MAX_PIECES:
                self._write_run(start, run, end - start)
                run, start, end = [], offset, offset
            if offset > end:
                run.append(bytes(offset - end))
            run.append(data)
            end = offset + len(data)
        self._write_run(start, run, end - start)

    def _write_run(self, offset: int, run: list[Buffer], size: int) -> None:
        done = os.pwritev(self.fd, run, offset) if run else 0
        if done < size:  # a signal or a nearly full disk: the rest tells which
            rest = memoryview(b"".join(run))[done:]
            while rest:
                more = os.pwrite(self.fd, rest, offset + done)
                rest, done = rest[more:], done + more

    def read(self, offset: int, size: int) -> bytes:
        """A chunk as somebody has left it; where nothing may follow it in its page, zeros do. Raises OSError."""
        padding = -size % PAGE if self._is_aligned else 0
        data = os.pread(self.fd, size + padding, offset)
        if any(data[size:]):
            os.pwrite(self.fd, bytes(padding), offset + size)
        return data[:size]

    def mark(self, indexes: Sequence[int]) -> None:
        """Set the bits of chunks whose data have been written. Raises OSError."""
        with self._marking:
            for index in indexes:
                if index < self._count:
                    chunkmap.set_bit(self._bits, index)
            touched = sorted({index >> 3 for index in indexes if index < self._count})
            for first, end in _ranges(touched):
                place = chunkmap.HEADER_SIZE + first
                there = os.pread(self._map_fd, end - first, place).ljust(end - first, b"\0")
                ours = self._bits[first:end]
                os.pwrite(self._map_fd, bytes(a | b for a, b in zip(ours, there, strict=True)), place)

    def clear(self, index: int) -> None:
        """Take a bit back: the chunk's data turned out to be wrong."""
        with self._marking:
            chunkmap.clear_bit(self._bits, index)
            at = index >> 3
            os.pwrite(self._map_fd, chunkmap.encode_header(all_ready=False), 0)
            os.pwrite(self._map_fd, bytes((self._bits[at],)), chunkmap.HEADER_SIZE + at)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._map_fd)


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as [first, end) of those that follow each other."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield numbers[start], numbers[i - 1] + 1
            start = i


def data_path(work_dir: str, blob_id: str) -> str:
    return os.path.join(work_dir, f"{blob_id}.blob.data")


def map_path(work_dir: str, blob_id: str) -> str:
    """2.4's name, or 2.2's where only that exists."""
    current = os.path.join(work_dir, f"{blob_id}.blob.data.chunk_map")
    old = os.path.join(work_dir, f"{blob_id}.chunk_map")
    return old if os.path.exists(old) and not os.path.exists(current) else current


def open_data_file(work_dir: str, blob_id: str, size: int, chunk_count: int, is_aligned: bool) -> DataFile:
    """Open or create the pair. Bits of a map whose data file is new or was resized mean nothing."""
    path = data_path(work_dir, blob_id)
    data_fd = map_fd = -1
    try:
        data_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        trusted = os.fstat(data_fd).st_size == size
        map_fd = os.open(map_path(work_dir, blob_id), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not trusted:
            os.ftruncate(map_fd, 0)
            os.ftruncate(data_fd, size)
        bits = _read_or_create_map(map_fd, chunk_count)
    except OSError as e:
        _close(data_fd, map_fd)
        raise CacheError(f"{path}: {e.strerror}") from None
    return DataFile(data_fd, map_fd, bits, chunk_count, is_aligned=is_aligned)


def _read_or_create_map(fd: int, chunk_count: int) -> bytearray:
    """The bitmap; a map that is empty, of the wrong size or damaged starts anew with no bit set."""
    size = chunkmap.file_size(chunk_count)
    content = bytearray(os.pread(fd, size + 1, 0))
    if chunkmap.is_valid(content, chunk_count):
        bits = chunkmap.decode_bits(content, chunk_count)
        if chunkmap.all_set(bits, chunk_count):
            os.pwrite(fd, chunkmap.encode_header(all_ready=True), 0)
        return bits
    fresh = chunkmap.encode_header(all_ready=False) + bytes(size - chunkmap.HEADER_SIZE)
    os.ftruncate(fd, 0)
    os.pwrite(fd, fresh, 0)
    return bytearray(fresh[chunkmap.HEADER_SIZE :])


def _close(*fds: int) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)

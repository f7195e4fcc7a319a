"""Which chunks a cache file holds: a file that outlives the daemon, or memory that does not.

The file is nydusd 2.4's `<id>.blob.data.chunk_map`, whatever the data file's kind; a `<id>.chunk_map` left by 2.2 goes on
being used. It is written with pwrite, merged with what is there, because a mapping of a file on a full disk turns into
SIGBUS and because another daemon may share the directory: a lost update costs a second fetch, never a wrong bit.

Concurrency: `mark` and `clear` come from worker threads, under one lock; the rest reads bytes.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from nydus_app.formats import chunkmap
from nydus_app.formats.chunkmap import Cutting


class ChunkMap(Protocol):
    def is_set(self, index: int) -> bool:
        """The chunk was written, by this daemon or another."""
        ...

    def may_be_set(self, index: int) -> bool:
        """It is worth a look: set, or written by somebody who could not leave a note."""
        ...

    def has_none_of(self, indexes: range) -> bool:
        """None of them is set; False also where that would take long to say."""
        ...

    def flags(self) -> bytes:
        """A byte for each chunk: 1 where it is set."""
        ...

    def occupied(self) -> bytes:
        """A byte for each chunk: 1 where `may_be_set`."""
        ...

    def look_again(self, indexes: Sequence[int]) -> list[int]:
        """Those that another daemon has marked since; ascending indexes that are not set. Raises OSError."""
        ...

    def mark(self, indexes: Sequence[int]) -> None:
        """Their data have been written. Raises OSError."""
        ...

    def clear(self, indexes: Sequence[int]) -> None:
        """Their data turned out to be wrong, or are about to go. Raises OSError."""
        ...

    def settle(self) -> None:
        """What was cleared stays cleared, whatever happens to the machine. Raises OSError."""
        ...

    def close(self) -> None: ...


class FileMap:
    """`bits` are those of the file behind `fd`."""

    def __init__(self, fd: int, bits: bytearray, cutting: Cutting) -> None:
        self._fd = fd
        self._bits = bits
        self._cutting = cutting
        self._count = cutting.count
        self._marking = threading.Lock()

    def is_set(self, index: int) -> bool:
        return index < self._count and chunkmap.test_bit(self._bits, index)

    may_be_set = is_set

    def has_none_of(self, indexes: range) -> bool:
        """No bit of theirs is set, nor one of their neighbours in a byte."""
        return not any(self._bits[indexes.start >> 3 : (indexes.stop + 7) >> 3])

    def flags(self) -> bytes:
        return chunkmap.expand_bits(self._bits, self._count)

    occupied = flags

    def look_again(self, indexes: Sequence[int]) -> list[int]:
        found = []
        wanted = sorted({i >> 3 for i in indexes if i < self._count})
        for first, end in _ranges(wanted):
            there = self._read(first, end)
            found += [i for i in indexes if first <= i >> 3 < end and there[(i >> 3) - first] & 0x80 >> (i & 7)]
        with self._marking:
            for index in found:
                chunkmap.set_bit(self._bits, index)
        return found

    def _read(self, first: int, end: int) -> bytes:
        return os.pread(self._fd, end - first, chunkmap.HEADER_SIZE + first).ljust(end - first, b"\0")

    def mark(self, indexes: Sequence[int]) -> None:
        with self._marking:
            for index in indexes:
                if index < self._count:
                    chunkmap.set_bit(self._bits, index)
            touched = sorted({index >> 3 for index in indexes if index < self._count})
            for first, end in _ranges(touched):
                there = self._read(first, end)
                ours = self._bits[first:end]
                merged = bytes(a | b for a, b in zip(ours, there, strict=True))
                os.pwrite(self._fd, merged, chunkmap.HEADER_SIZE + first)

    def clear(self, indexes: Sequence[int]) -> None:
        with self._marking:
            for index in indexes:
                chunkmap.clear_bit(self._bits, index)
            os.pwrite(self._fd, chunkmap.encode_header(self._cutting, all_ready=False), 0)
            for first, end in _ranges(sorted({index >> 3 for index in indexes})):
                os.pwrite(self._fd, self._bits[first:end], chunkmap.HEADER_SIZE + first)

    def settle(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class MemoryMap:
    """Nothing is left of it after the daemon: what lies in the data file is found again by its digest.

    `is_new`: nothing lies there yet.
    """

    def __init__(self, chunk_count: int, *, is_new: bool) -> None:
        self._set = bytearray(chunk_count)
        self._unknown = bytearray(chunk_count) if is_new else bytearray(b"\1" * chunk_count)

    def is_set(self, index: int) -> bool:
        return index < len(self._set) and bool(self._set[index])

    def may_be_set(self, index: int) -> bool:
        return index < len(self._set) and bool(self._set[index] or self._unknown[index])

    def has_none_of(self, indexes: range) -> bool:
        return self._set.find(1, indexes.start, indexes.stop) < 0

    def flags(self) -> bytes:
        return bytes(self._set)

    def occupied(self) -> bytes:
        return bytes(a | b for a, b in zip(self._set, self._unknown, strict=True))

    def look_again(self, indexes: Sequence[int]) -> list[int]:
        return []

    def mark(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            if index < len(self._set):
                self._set[index] = 1

    def clear(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            self._set[index] = self._unknown[index] = 0

    def settle(self) -> None:
        """It ends with the daemon anyway."""

    def close(self) -> None:
        """No file is open."""


def _ranges(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as [first, end) of those that follow each other."""
    start = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1:
            yield numbers[start], numbers[i - 1] + 1
            start = i


def map_path(work_dir: str, blob_id: str) -> str:
    """2.4's name, or 2.2's where only that exists."""
    current = os.path.join(work_dir, f"{blob_id}.blob.data.chunk_map")
    old = os.path.join(work_dir, f"{blob_id}.chunk_map")
    return old if os.path.exists(old) and not os.path.exists(current) else current


def is_of_another_cutting(work_dir: str, blob_id: str, cutting: Cutting) -> bool:
    """The file's bits are about other chunks. Raises OSError."""
    try:
        with open(map_path(work_dir, blob_id), "rb") as f:
            told = chunkmap.cutting_of(f.read(chunkmap.HEADER_SIZE))
    except FileNotFoundError:
        return False
    return told is not None and told != cutting


def open_map(work_dir: str, blob_id: str, cutting: Cutting, *, is_trusted: bool) -> FileMap:
    """Open the file; where there is none, or it is empty, damaged or of other chunks, a new one takes its place.

    So does one where it is not trusted: the data file that its bits are about is gone. Whoever uses the old one goes on
    with it, and reads no bit of ours. Raises OSError.
    """
    path = map_path(work_dir, blob_id)
    size = chunkmap.file_size(cutting.count)
    content = b""
    fd = -1
    try:
        if is_trusted:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            content = os.pread(fd, size + 1, 0)
        if content and chunkmap.is_valid(content, cutting.count) and chunkmap.cutting_of(content) in (None, cutting):
            bits = chunkmap.decode_bits(content, cutting.count)
            header = chunkmap.encode_header(cutting, all_ready=chunkmap.all_set(bits, cutting.count))
            if content[: len(header)] != header:
                os.pwrite(fd, header, 0)
        else:
            if fd < 0 or content:
                fd = _in_place_of(path, fd)
            fresh = chunkmap.encode_header(cutting, all_ready=False).ljust(size, b"\0")
            os.pwrite(fd, fresh, 0)
            bits = bytearray(fresh[chunkmap.HEADER_SIZE :])
        with suppress(OSError):
            os.utime(fd)  # when it was used last, for who removes what nobody uses
        return FileMap(fd, bits, cutting)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        raise


def _in_place_of(path: str, fd: int) -> int:
    """A new file, which who has the old one open does not see; `fd` is closed then. Raises OSError."""
    with suppress(FileNotFoundError):
        os.unlink(path)
    new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if fd >= 0:
        os.close(fd)
    return new

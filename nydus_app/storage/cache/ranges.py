"""The ranges of one blob in a bounded cache: what is evicted at once, when it was read last, who is reading it.

A range is a power of two of chunks that follow each other, about 1 MiB of them. Its life, in the order that keeps a
reader from ever seeing a hole:

    reader                                evictor (a worker thread, one at a time)
    hold     counted from now on          take    only where nobody holds it: its chunks are not ready any more
    look     is the chunk ready?          clear   their bits, in the file as well, and that durably
    read     the file                     punch   the hole
    release                               done    it may be written again

A reader that comes between take and done finds nothing ready, fetches, and is answered from memory; what he
fetched is not written. A writer holds the ranges that he writes to, like a reader.

Concurrency: holders, ages and who is going are changed under the lock of all ranges of the directory, which nobody
holds while he waits for anything. `drop`, `sweep` and `drop_rest` come from the one evictor.
"""

import logging
import os
import threading
import time
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.linux.fallocate import punch_hole
from nydus_app.storage.cache.ages import read_ages, write_ages
from nydus_app.storage.cache.blob_files import BlobFiles

log = logging.getLogger("nydus.storage")


class Places(Protocol):
    def places(self, first: int, end: int) -> list[Chunk]:
        """Located chunks of [first, end), as far as known. Blocks; raises InvalidImage."""
        ...


class Ranges:
    """`ready` is the blob's byte for each chunk; `bytes_each` about how much a range may hold."""

    def __init__(self, blob: Blob, index: Places, ready: bytearray, lock: threading.Lock, bytes_each: int) -> None:
        self._blob_id = blob.id
        self._index = index
        self._ready = ready
        self._lock = lock
        chunk_bytes = max(blob.uncompressed_size // max(blob.chunk_count, 1), 1)
        self._shift = max(bytes_each // chunk_bytes, 1).bit_length() - 1
        self.count = -(-blob.chunk_count >> self._shift)
        self.bytes_each = chunk_bytes << self._shift
        self._ages = array("Q", bytes(8 * self.count))
        self._holders: dict[int, int] = {}
        self._going: set[int] = set()
        self._files: BlobFiles | None = None
        self._ages_path = ""
        self._is_swept = False
        self._opened_ns = 0
        self.is_pinned = False
        """Somebody else has the data file open: it is left alone."""

    def open(self, files: BlobFiles, ages_path: str, written_ns: int) -> None:
        """From now on there is something to evict. Ranges of unknown age are as old as the data file."""
        self._ages_path = ages_path
        known = read_ages(ages_path)
        if known is not None and known[0] == self._shift and len(known[1]) == self.count:
            before: Sequence[int] = known[1]
        else:
            before = array("Q", [written_ns]) * self.count
        with self._lock:
            self._ages = array("Q", (max(a, b) for a, b in zip(self._ages, before, strict=True)))
            self._files = files
            self._opened_ns = time.time_ns()

    def close(self) -> None:
        self.save_ages()
        self._files = None

    def save_ages(self) -> None:
        if self._files is not None:
            write_ages(self._ages_path, self._shift, self._ages)

    # ---- readers and writers ------------------------------------------------------------------

    def hold(self, indexes: Iterable[int]) -> "Hold":
        """Context: nothing of these chunks leaves the file for as long."""
        return Hold(self, {i >> self._shift for i in indexes})

    def is_going(self, index: int) -> bool:
        """Whoever holds the chunk, and finds that it is going, must not look for it in the file."""
        return index >> self._shift in self._going

    @contextmanager
    def writing(self, chunks: Sequence[Chunk]) -> Iterator[Collection[int]]:
        """The indexes of those that may be written and marked meanwhile."""
        numbers = {c.index >> self._shift for c in chunks}
        with self._lock:
            numbers -= self._going
            self._enter(numbers)
        try:
            yield {c.index for c in chunks if c.index >> self._shift in numbers}
        finally:
            self.leave(numbers)

    def enter(self, numbers: Iterable[int]) -> None:
        with self._lock:
            self._enter(numbers)

    def _enter(self, numbers: Iterable[int]) -> None:
        now = time.time_ns()
        for number in numbers:
            self._holders[number] = self._holders.get(number, 0) + 1
            if number < self.count:
                self._ages[number] = now

    def leave(self, numbers: Iterable[int]) -> None:
        with self._lock:
            for number in numbers:
                left = self._holders[number] - 1
                if left:
                    self._holders[number] = left
                else:
                    del self._holders[number]

    # ---- the evictor --------------------------------------------------------------------------

    def candidates(self) -> Iterator[tuple[int, int]]:
        """Age and number of each range that may hold something and that nobody holds."""
        if self._files is None or self.is_pinned:
            return
        occupied = self._files.map.occupied()
        ages, holders, shift = self._ages, self._holders, self._shift
        for number in range(self.count):
            if number not in holders and occupied.find(1, number << shift, number + 1 << shift) >= 0:
                yield ages[number], number

    def sweep(self) -> int:
        """Once: what a killed daemon wrote and did not mark belongs to nobody. Bytes that were freed."""
        if self._files is None or self.is_pinned or self._is_swept:
            return 0
        self._is_swept = True
        occupied = self._files.map.occupied()
        untouched = [n for n in range(self.count) if self._ages[n] < self._opened_ns]
        empty = [n for n in untouched if occupied.find(1, n << self._shift, n + 1 << self._shift) < 0]
        return self.drop([n for n in empty if self._has_data(self._files, n)])

    def _has_data(self, files: BlobFiles, number: int) -> bool:
        for start, end in self._extents(files, number):
            try:
                if os.lseek(files.data.fd, start, os.SEEK_DATA) < end:
                    return True
            except OSError:  # ENXIO: only a hole follows
                return False
        return False

    def drop(self, numbers: Iterable[int]) -> int:
        """Evict those that nobody holds; the bytes that were freed."""
        files = self._files
        if files is None or self.is_pinned:
            return 0
        taken = self._take(numbers)
        if not taken:
            return 0
        try:
            return self._drop(files, taken)
        except OSError as e:  # not cleared durably: the data stay, though nobody finds them
            log.warning("cannot evict from blob %s: %s", self._blob_id, e.strerror)
            return 0
        finally:
            with self._lock:
                self._going.difference_update(taken)

    def _take(self, numbers: Iterable[int]) -> list[int]:
        shift, ready = self._shift, self._ready
        with self._lock:
            taken = [n for n in numbers if n not in self._holders]
            self._going.update(taken)
            for number in taken:
                first, end = number << shift, min(number + 1 << shift, len(ready))
                ready[first:end] = bytes(end - first)
        return taken

    def _drop(self, files: BlobFiles, numbers: Sequence[int]) -> int:
        before = os.fstat(files.data.fd).st_blocks
        occupied = files.map.occupied()
        indexes = [i for n in sorted(numbers) for i in self._indexes(n) if occupied[i]]
        if indexes:
            files.map.clear(indexes)
            files.map.settle()
        for number in numbers:
            for start, end in self._extents(files, number):
                punch_hole(files.data.fd, start, end)
        return (before - os.fstat(files.data.fd).st_blocks) * 512

    def _indexes(self, number: int) -> range:
        return range(number << self._shift, min(number + 1 << self._shift, len(self._ready)))

    def _extents(self, files: BlobFiles, number: int) -> list[tuple[int, int]]:
        """Where the chunks of a range lie, neighbours joined."""
        indexes = self._indexes(number)
        try:
            places = sorted(files.data.extent(c) for c in self._index.places(indexes.start, indexes.stop))
        except InvalidImage:
            return []
        joined: list[tuple[int, int]] = []
        for start, end in places:
            if joined and start <= joined[-1][1]:
                joined[-1] = joined[-1][0], max(end, joined[-1][1])
            else:
                joined.append((start, end))
        return joined

    def drop_rest(self) -> int:
        """Bytes of the file that no chunk known here accounts for, when nobody holds any and none is there."""
        files = self._files
        if files is None or self.is_pinned or 1 in files.map.occupied():
            return 0
        taken = self._take(range(self.count)) if not self._holders else []
        try:
            # Who had found room before may have written meanwhile; from now on nobody does.
            if len(taken) < self.count or 1 in files.map.occupied():
                return 0
            size = os.fstat(files.data.fd)
            punch_hole(files.data.fd, 0, size.st_size)
            return (size.st_blocks - os.fstat(files.data.fd).st_blocks) * 512
        finally:
            with self._lock:
                self._going.difference_update(taken)


class Hold:
    """Ranges that somebody reads, as a context."""

    __slots__ = ("_numbers", "_ranges")

    def __init__(self, ranges: Ranges, numbers: Collection[int]) -> None:
        self._ranges = ranges
        self._numbers = numbers

    def __enter__(self) -> None:
        self._ranges.enter(self._numbers)

    def __exit__(self, *error: object) -> None:
        self._ranges.leave(self._numbers)

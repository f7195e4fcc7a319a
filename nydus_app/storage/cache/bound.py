"""A bounded cache: as many bytes in the directory, or as few free ones in its file system, as the configuration says.

Who wants to write asks for room first, and who leaves little behind makes more: the ranges of all blobs that were read
the longest time ago go (`ranges.py`), and blobs that no image of this daemon uses go as a whole. Where there is no
room, because everything is being read or somebody is still evicting, data are not kept: the limit holds always.

Concurrency: `room` is asked for by worker threads; one of them at a time evicts, and no other waits for it, because all
readers of cold data would wait with him.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from nydus_app.errors import CacheError
from nydus_app.formats.rafs.values import Blob
from nydus_app.linux.lease import is_open_elsewhere
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.ages import ages_path
from nydus_app.storage.cache.blob_files import BlobFiles, Keeping, open_blob_files
from nydus_app.storage.cache.directory import list_directory
from nydus_app.storage.cache.ranges import Places, Ranges
from nydus_app.storage.cache.removal import remove_blob

log = logging.getLogger("nydus.storage")

MAX_RANGE_BYTES, MIN_RANGE_BYTES = 1 << 20, 16 << 10
MAX_SLACK_BYTES = 64 << 20
"""So much more than needed is evicted at most, a 16th of the limit otherwise: every eviction waits for the disk."""

PAUSE_S = 0.1
"""Where everything is being read, nobody looks for room again before."""

SAVE_AGES_S = 30


class Bound:
    """Of one directory. `max_size` and `min_free` are bytes, 0 for no limit."""

    def __init__(self, work_dir: str, *, max_size: int, min_free: int) -> None:
        self._work_dir = work_dir
        self._max_size = max_size
        self._min_free = min_free
        self._slack = min(max_size // 16 if max_size else MAX_SLACK_BYTES, MAX_SLACK_BYTES)
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._open: dict[str, Ranges] = {}
        self._used = 0
        self._pending = 0
        self._written = 0
        self._is_counted = False
        self._try_again = self._ages_saved = time.monotonic()

    # ---- blobs --------------------------------------------------------------------------------

    def ranges_of(self, blob: Blob, index: Places, ready: bytearray) -> Ranges:
        """Small enough for a small cache to hold many."""
        wanted = self._max_size // 64 if self._max_size else MAX_RANGE_BYTES
        return Ranges(blob, index, ready, self._lock, min(max(wanted, MIN_RANGE_BYTES), MAX_RANGE_BYTES))

    def open_files(self, keeping: Keeping, blob: Blob, ranges: Ranges) -> BlobFiles:
        """Blocks, also while somebody evicts. Raises CacheError."""
        with self._turn:
            files = open_blob_files(keeping, blob)
            name = blob_file_name(blob.id)
            there = os.fstat(files.data.fd)
            ranges.is_pinned = is_open_elsewhere(files.data.fd)
            if ranges.is_pinned:
                log.warning("blob %s is in use by somebody else: nothing of it is evicted", blob.id)
            ranges.open(files, ages_path(self._work_dir, name), there.st_mtime_ns)
            self._open[name] = ranges
            return files

    def leave(self, blob: Blob, ranges: Ranges) -> None:
        """The blob's files are about to be closed."""
        with self._turn:
            self._open.pop(blob_file_name(blob.id), None)
            ranges.close()

    # ---- room ---------------------------------------------------------------------------------

    @contextmanager
    def room(self, size: int) -> Iterator[bool]:
        """Whether `size` bytes may be written meanwhile. Whoever leaves little room behind makes more of it."""
        has_room = self._take(size) or (self._make_room(size) and self._take(size))
        try:
            yield has_room
        finally:
            if has_room:
                with self._lock:
                    self._pending -= size
                    self._used += size
                    self._written += size
        if has_room and self._lacks(self._slack // 2) > 0:
            self._make_room(self._slack // 2)

    def no_space(self, size: int) -> None:
        """The file system has no room for `size` bytes, whatever was counted."""
        self._make_room(size, is_sure=True)

    def _take(self, size: int) -> bool:
        with self._lock:
            if not self._is_counted or self._lacks(size) > 0:
                return False
            self._pending += size
            return True

    def _make_room(self, size: int, *, is_sure: bool = False) -> bool:
        """False where somebody is about it already, or it was in vain a moment ago."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            if time.monotonic() < self._try_again:
                return False
            self._count()
            lack = size if is_sure else self._lacks(size)
            if lack > 0:
                self._evict(lack + self._slack)
                self._count()
            if self._lacks(size) > 0:
                self._try_again = time.monotonic() + PAUSE_S
            return True
        except CacheError as e:
            log.warning("no room is made: %s", e)
            self._try_again = time.monotonic() + PAUSE_S
            return False
        finally:
            self._turn.release()

    def _lacks(self, size: int) -> int:
        """By so many bytes there is too little room; negative where there is more."""
        wanted = self._pending + size
        lacks = self._used + wanted - self._max_size if self._max_size else -1
        if self._min_free:
            there = os.statvfs(self._work_dir)
            lacks = max(lacks, self._min_free + wanted - there.f_bavail * there.f_frsize)
        return lacks

    def _count(self) -> None:
        """What is written while the directory is being listed may be counted twice until the next time, but not missed."""
        before = self._written
        listing = list_directory(self._work_dir)
        files = [*listing.layouts, *listing.temporaries, *listing.others]
        used = sum(blob.allocated for blob in listing.blobs) + sum(file.allocated for file in files)
        with self._lock:
            self._used = used + self._written - before
        self._is_counted = True

    # ---- eviction -----------------------------------------------------------------------------

    def _evict(self, target: int) -> None:
        freed = sum(ranges.sweep() for ranges in self._open.values())
        oldest = iter(sorted(self._candidates()))
        while freed < target and (batch := list(self._batch(oldest, target - freed))):
            freed += self._drop(batch)
        if freed < target:
            freed += sum(ranges.drop_rest() for ranges in self._open.values())
        log.debug("evicted %d bytes of %d", freed, target)
        if time.monotonic() > self._ages_saved + SAVE_AGES_S:
            self._ages_saved = time.monotonic()
            for ranges in self._open.values():
                ranges.save_ages()

    def _candidates(self) -> Iterator[tuple[int, str, int]]:
        """Age, name of the blob, number of the range, -1 for the whole of a blob that is not open."""
        for name, ranges in self._open.items():
            yield from ((age, name, number) for age, number in ranges.candidates())
        try:
            for blob in list_directory(self._work_dir).blobs:
                if blob.id not in self._open:
                    yield int(blob.used * 1e9), blob.id, -1
        except CacheError as e:
            log.warning("%s", e)

    def _batch(self, oldest: Iterator[tuple[int, str, int]], target: int) -> Iterator[tuple[str, int]]:
        """As many as are likely to be enough: each batch waits for the disk once a blob."""
        expected = 0
        while expected < target and (found := next(oldest, None)) is not None:
            _, name, number = found
            expected += self._open[name].bytes_each if number >= 0 else target
            yield name, number

    def _drop(self, batch: Iterable[tuple[str, int]]) -> int:
        numbers: dict[str, list[int]] = {}
        for name, number in batch:
            numbers.setdefault(name, []).append(number)
        return sum(
            self._open[name].drop(found) if name in self._open else remove_blob(self._work_dir, name)
            for name, found in numbers.items()
        )

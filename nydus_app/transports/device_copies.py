"""The page cache's copies of what device files have answered.

EROFS copies a device's data into the page cache of its own files at once, so the device's copy is of no
use a moment later: what was answered longer ago than KEPT_BYTES is dropped (`posix_fadvise(2)`, DONTNEED).
What the kernel has read ahead, and not used yet, is among the most recent.

Concurrency: `answered` and `run` are on the trio thread; the advice is given in a worker thread, `close` may come
from another one.
"""

import os
import threading
from collections import deque
from contextlib import suppress

import trio

KEPT_BYTES = 8 << 20
DROPPED_BYTES = 24 << 20
"""So many are dropped at a time, by a thread, which is in the readers' way each time."""


class DeviceCopies:
    """Of one device file; `path` is where the FUSE mount has it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1
        self._using = threading.Lock()
        self._answered: deque[tuple[int, int]] = deque()
        self._bytes = 0
        self._wake: trio.Event | None = None

    def ask(self) -> int:
        """A descriptor for `take`. Blocks until the transport has answered (`linux/apart.py`). Raises OSError.

        A close asks the transport to FLUSH and waits: a process that is killed would wait for itself. It is
        closed once while somebody answers, with ENOSYS, and the kernel does not ask again.
        """
        os.close(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
        return os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)

    def take(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        with self._using:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def answered(self, offset: int, size: int) -> None:
        if self._answered and sum(self._answered[-1]) == offset:
            offset, before = self._answered.pop()
            self._answered.append((offset, before + size))
        else:
            self._answered.append((offset, size))
        self._bytes += size
        if self._wake is not None and self._bytes > KEPT_BYTES + DROPPED_BYTES:
            self._wake.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._wake = trio.Event()
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            ranges = self._old_ranges()
            with suppress(RuntimeError):  # no thread can be had: they stay in the page cache
                await trio.to_thread.run_sync(self._drop, ranges)

    def _old_ranges(self) -> list[tuple[int, int]]:
        ranges = []
        while self._bytes > KEPT_BYTES:
            offset, size = self._answered.popleft()
            if (kept := KEPT_BYTES - (self._bytes - size)) > 0:
                self._answered.appendleft((offset + size - kept, kept))
                size -= kept
            ranges.append((offset, size))
            self._bytes -= size
        return ranges

    def _drop(self, ranges: list[tuple[int, int]]) -> None:
        for offset, size in ranges:
            with self._using:
                if self._fd >= 0:
                    os.posix_fadvise(self._fd, offset, size, os.POSIX_FADV_DONTNEED)

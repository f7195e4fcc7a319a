"""A reader of a local file, or of a range of one (a partition)."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import NamedTuple

from nydus_app.errors import BackendDenied, BackendError, BackendNotFound
from nydus_app.storage.hop import in_thread


AHEAD_BYTES = 8 << 20
"""So much is asked of the disk before a sequential reader comes to it."""


class Extent(NamedTuple):
    """`size` bytes at `offset` of an open file, or all that follows; the descriptor belongs to whoever has the extent."""

    fd: int
    offset: int = 0
    size: int | None = None


class LocalFileReader:
    """Keeps one descriptor from the first read to `close`; `open_extent` gives it or raises BackendError."""

    def __init__(self, open_extent: Callable[[], Extent], what: str) -> None:
        self._open_extent = open_extent
        self._what = what
        self._extent: Extent | None = None
        self._opening = threading.Lock()
        self._last_end = -AHEAD_BYTES
        self._asked_for = 0

    def _open(self) -> Extent:
        with self._opening:
            if self._extent is None:
                self._extent = self._open_extent()
            return self._extent

    def pread(self, offset: int, size: int) -> bytes:
        extent = self._open()
        if extent.size is not None and offset + size > extent.size:
            raise BackendError(f"{self._what}: ends at {extent.size}, {size} bytes at {offset} were asked for")
        raw = pread_whole(extent.fd, extent.offset + offset, size, self._what)
        self._ask_ahead(extent, offset, offset + size)
        return raw

    def _ask_ahead(self, extent: Extent, offset: int, end: int) -> None:
        """The kernel reads 128 KiB ahead by itself, so a cold disk would rest while a window is decoded.

        Threads that share a sequential reader's windows may overtake each other.
        """
        is_sequential = abs(offset - self._last_end) <= AHEAD_BYTES // 2
        self._last_end = end
        if not is_sequential:
            self._asked_for = end
        elif end + AHEAD_BYTES // 2 > self._asked_for:
            begin, self._asked_for = max(end, self._asked_for), end + AHEAD_BYTES
            os.posix_fadvise(extent.fd, extent.offset + begin, self._asked_for - begin, os.POSIX_FADV_WILLNEED)

    async def read(self, offset: int, size: int) -> bytes:
        return await in_thread(self.pread, offset, size)

    async def size(self) -> int:
        return await in_thread(lambda: size_of(self._open(), self._what))

    def close(self) -> None:
        if self._extent is not None:
            os.close(self._extent.fd)
            self._extent = None


def open_file(path: str) -> Extent:
    """All of a file or block device. Raises BackendNotFound, BackendDenied or another BackendError."""
    try:
        return Extent(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        raise BackendNotFound(f"{path}: there is no such file") from None
    except PermissionError:
        raise BackendDenied(f"{path}: permission denied") from None
    except OSError as e:
        raise BackendError(f"{path}: {e.strerror}") from None


def size_of(extent: Extent, what: str) -> int:
    """Bytes of the extent. Raises BackendError."""
    if extent.size is not None:
        return extent.size
    try:
        return os.lseek(extent.fd, 0, os.SEEK_END) - extent.offset  # fstat says 0 of a block device
    except OSError as e:
        raise BackendError(f"{what}: {e.strerror}") from None


def pread_whole(fd: int, offset: int, size: int, what: str) -> bytes:
    """Exactly `size` bytes, or BackendError."""
    parts, have = [], 0
    while have < size:
        try:
            part = os.pread(fd, size - have, offset + have)
        except OSError as e:
            raise BackendError(f"{what}: {os.strerror(e.errno or errno.EIO)}") from None
        if not part:
            raise BackendError(f"{what}: ends at {offset + have}, {size} bytes at {offset} were asked for")
        parts.append(part)
        have += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)

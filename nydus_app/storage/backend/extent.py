"""Bytes of an open file, read by whoever has its descriptor: the daemon, or the process that fills its cache.

`trio` is not known here.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from nydus_app.errors import BackendError

AHEAD_BYTES = 8 << 20
"""So much is asked of the disk before a sequential reader comes to it."""


class Extent(NamedTuple):
    """`size` bytes at `offset` of an open file, or all that follows; the descriptor belongs to whoever has the extent."""

    fd: int
    offset: int = 0
    size: int | None = None


class ExtentReader:
    """`what` names the extent in errors. Concurrency: any thread."""

    def __init__(self, extent: Extent, what: str) -> None:
        self.extent = extent
        self._what = what
        self._last_end = -AHEAD_BYTES
        self._asked_for = 0

    def pread(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes at `offset`, or BackendError."""
        extent = self.extent
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

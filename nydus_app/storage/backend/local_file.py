"""A reader of a local file, or of a range of one (a partition)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from nydus_app.errors import BackendDenied, BackendError, BackendNotFound
from nydus_app.storage.backend.extent import Extent, ExtentReader
from nydus_app.storage.hop import in_thread


class LocalFileReader:
    """Keeps one descriptor from the first read to `close`; `open_extent` gives it or raises BackendError."""

    def __init__(self, open_extent: Callable[[], Extent], what: str) -> None:
        self._open_extent = open_extent
        self._what = what
        self._file: ExtentReader | None = None
        self._opening = threading.Lock()

    def extent(self) -> Extent:
        with self._opening:
            if self._file is None:
                self._file = ExtentReader(self._open_extent(), self._what)
            return self._file.extent

    def pread(self, offset: int, size: int) -> bytes:
        if self._file is None:
            self.extent()
        assert self._file is not None
        return self._file.pread(offset, size)

    async def read(self, offset: int, size: int) -> bytes:
        return await in_thread(self.pread, offset, size)

    async def size(self) -> int:
        return await in_thread(lambda: size_of(self.extent(), self._what))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file.extent.fd)
            self._file = None


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

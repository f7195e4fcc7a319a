"""Blobs as files of a directory.

A blob is `blob_file`, or `<dir>/<blob id>`, or the first of `<alt_dirs>/<blob id>` that exists.
(nydusd 2.4 lets the last alternative directory shadow all others; here `dir` comes first.)
"""

import errno
import os
import threading
from collections.abc import Sequence

import trio

from nydus_app.errors import BackendDenied, BackendError, BackendNotFound
from nydus_app.storage.blob_name import blob_file_name


class LocalfsReader:
    """Keeps one descriptor from the first read to `close`."""

    def __init__(self, candidates: Sequence[str]) -> None:
        self._candidates = candidates
        self._fd = -1
        self._opening = threading.Lock()

    def _open(self) -> int:
        with self._opening:
            if self._fd < 0:
                self._fd = self._open_first()
            return self._fd

    def _open_first(self) -> int:
        for path in self._candidates:
            try:
                return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except PermissionError:
                raise BackendDenied(f"{path}: permission denied") from None
            except OSError as e:
                raise BackendError(f"{path}: {e.strerror}") from None
        raise BackendNotFound(f"no blob at {' or '.join(self._candidates)}")

    def pread(self, offset: int, size: int) -> bytes:
        fd = self._open()
        parts, have = [], 0
        while have < size:
            try:
                part = os.pread(fd, size - have, offset + have)
            except OSError as e:
                raise BackendError(f"{self._candidates[0]}: {os.strerror(e.errno or errno.EIO)}") from None
            if not part:
                raise BackendError(
                    f"{self._candidates[0]}: ends at {offset + have}, {size} bytes at {offset} were asked for"
                )
            parts.append(part)
            have += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read(self, offset: int, size: int) -> bytes:
        return await trio.to_thread.run_sync(self.pread, offset, size)

    async def size(self) -> int:
        return await trio.to_thread.run_sync(lambda: os.fstat(self._open()).st_size)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class LocalfsBackend:
    def __init__(self, *, dir: str = "", blob_file: str = "", alt_dirs: Sequence[str] = ()) -> None:
        self._blob_file = blob_file
        self._dirs = [d for d in (dir, *alt_dirs) if d]

    def open_blob(self, blob_id: str) -> LocalfsReader:
        if self._blob_file:
            return LocalfsReader([self._blob_file])
        name = blob_file_name(blob_id)
        return LocalfsReader([os.path.join(d, name) for d in self._dirs])

    def describe(self) -> str:
        return f"localfs {self._blob_file or ', '.join(self._dirs)}"

"""A blob that lies on this machine as it is read: a tar (tarfs), in the cache directory or in a local backend.

Nothing is fetched, kept or copied; the file itself is the device of EROFS. nydusd looks for a tar in the cache directory
only, as `<work_dir>/<blob id>` (rafs-format 10).
"""

import fcntl
import logging
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.formats.recording import Span
from nydus_app.storage.cache.port import NOTHING, NOTHING_FRESH, ChunksOf

log = logging.getLogger("nydus.storage")


class WholeBlob:
    """The ChunkCache of one blob; `fd` is closed with it."""

    is_bounded = False
    fresh = NOTHING_FRESH

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def is_ready(self, index: int) -> bool:
        return True

    async def are_ready(self, first: int, last: int) -> bool:
        return True

    def hold(self, indexes: Iterable[int]) -> AbstractContextManager[None]:
        return NOTHING

    def follow(self, first: int, last: int) -> None:
        """Everything is there."""

    def drop_fresh(self, indexes: Iterable[int]) -> None:
        """Nothing is fetched."""

    async def ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        return {}

    async def prefetch(self, wanted: Sequence[int], chunks: ChunksOf) -> None:
        """As `follow`."""

    async def replay(self, span: Span) -> None:
        """As `follow`."""

    def data_fd(self) -> int:
        return self._fd

    def whole_file(self) -> int | None:
        """As BlobCache's: share-locked where the file system can."""
        with suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return self._fd

    def close(self) -> None:
        os.close(self._fd)


def open_whole_blob(paths: Iterable[str], blob: Blob) -> WholeBlob | None:
    """The first of `paths` that is a file of the blob's size; None where there is none."""
    for path in paths:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode) and found.st_size == blob.uncompressed_size:
            return WholeBlob(fd)
        log.warning("%s is not used: it is no file of %d bytes", path, blob.uncompressed_size)
        os.close(fd)
    return None

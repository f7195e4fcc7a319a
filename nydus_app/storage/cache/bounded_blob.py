"""One blob's share in a bounded cache: its ranges, and how its chunks are written within the bound."""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.linux.fallocate import punch_hole
from nydus_app.storage.cache.blob_files import BlobFiles, Keeping
from nydus_app.storage.cache.bound import Bound
from nydus_app.storage.cache.ranges import Hold, Places

log = logging.getLogger("nydus.storage")

PAGE = 4096
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class BoundedBlob:
    """`ready` is the cache's byte for each chunk; what goes from the file is cleared in it first."""

    def __init__(self, bound: Bound, blob: Blob, index: Places, ready: bytearray) -> None:
        self._bound = bound
        self._blob = blob
        self._ranges = bound.ranges_of(blob, index, ready)
        self._was_full = False
        self.is_going = self._ranges.is_going

    def hold(self, indexes: Iterable[int]) -> Hold:
        return self._ranges.hold(indexes)

    def open_files(self, keeping: Keeping) -> BlobFiles:
        """Raises CacheError."""
        return self._bound.open_files(keeping, self._blob, self._ranges)

    def leave(self) -> None:
        self._bound.leave(self._blob, self._ranges)

    def write(
        self,
        files: BlobFiles,
        chunks: Sequence[tuple[Chunk, Buffer]],
        write: Callable[[Sequence[tuple[Chunk, Buffer]]], None],
    ) -> None:
        """Worker thread: `write` what there is room for. Raises OSError, but not for a full disk."""
        extents = [files.data.extent(c) for c, _ in chunks]
        size = sum(end - start for start, end in extents) + 2 * PAGE
        with self._bound.room(size) as has_room:
            if not has_room:
                return
            with self._ranges.writing([c for c, _ in chunks]) as allowed:
                try:
                    write([(c, data) for c, data in chunks if c.index in allowed])
                    return
                except OSError as e:
                    if e.errno not in NO_SPACE:
                        raise
                    self._take_back(files, [c for c, _ in chunks if c.index in allowed])
        self._bound.no_space(size)

    def _take_back(self, files: BlobFiles, chunks: Iterable[Chunk]) -> None:
        """What was written of them is in nobody's way: they are not marked."""
        if not self._was_full:
            self._was_full = True
            log.warning("the disk is full: chunks of blob %s are evicted to keep others", self._blob.id)
        for chunk in chunks:
            if not files.map.is_set(chunk.index):
                with suppress(OSError):
                    punch_hole(files.data.fd, *files.data.extent(chunk))

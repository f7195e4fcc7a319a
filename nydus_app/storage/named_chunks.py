"""RAFS v5: where the chunks of a blob lie, as far as the image names them, for who does not come from a file.

Only the inodes' records say so. All of them are walked once, when it is asked for the first time, and 4 bytes a chunk kept.
"""

import stat
from array import array
from functools import cached_property

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.v5 import CHUNK, BootstrapV5
from nydus_app.formats.rafs.values import Blob, Chunk


class NamedChunks:
    """Of one blob. Blocks with the first call, with the number of files."""

    def __init__(self, bootstrap: BootstrapV5, blob: Blob) -> None:
        self._bootstrap = bootstrap
        self._blob = blob

    @cached_property
    def _positions(self) -> "array[int]":
        """By chunk index: offset of its record / 8, 0 where the image names none."""
        found = array("I", bytes(4 * self._blob.chunk_count))
        for ino in range(1, self._bootstrap.max_ino + 1):
            try:
                self._add(found, ino)
            except InvalidImage:  # whoever reads the file is told
                continue
        return found

    def _add(self, found: "array[int]", ino: int) -> None:
        inode = self._bootstrap.inode(ino)
        if not stat.S_ISREG(inode.mode):
            return
        at, count = self._bootstrap.chunk_area(inode)
        for number, chunk in enumerate(self._bootstrap.chunks(inode, 0, count)):
            if chunk.blob_index == self._blob.index and chunk.index < len(found):
                found[chunk.index] = (at + number * CHUNK.size) >> 3

    def places(self, first: int, end: int) -> list[Chunk]:
        """Chunks [first, end) that the image names. Raises InvalidImage."""
        return [self._bootstrap.chunk_at(place << 3) for place in self._positions[first:end] if place]

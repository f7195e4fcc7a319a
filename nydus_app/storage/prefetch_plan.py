"""What to prefetch, in which order. Pure: a bootstrap or a blob's index in, portions of its chunks out.

A portion is worth a request or two; whoever takes them one by one holds the chunks of one. A walk yields None now
and then, where it has found nothing to fetch for a while, so that its caller can let others go on.
"""

import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Bootstrap, Chunk, Inode
from nydus_app.storage.cache.port import ChunksOf
from nydus_app.storage.chunk_index import ChunkIndex

BREATH = 64
"""So many inodes are looked at in a row."""

MIN_CHUNK_BYTES = 512
"""No portion has more chunks than of this size would fit it, whatever a hostile table says."""

FILE_STEP = 256
"""So many chunk records of a file are decoded at a time."""


class Portion(NamedTuple):
    blob_index: int
    wanted: Sequence[int]
    chunks: ChunksOf


def files_below(bootstrap: Bootstrap, inos: Iterable[int]) -> Iterator[Inode | None]:
    """Regular files with these numbers and those below directories with these, each once; what is damaged is left out.

    Yields None for every BREATH inodes.
    """
    seen = bytearray(bootstrap.max_ino // 8 + 1)
    count = 0
    waiting: list[Iterator[int]] = [iter(inos)]
    while waiting:
        ino = next(waiting[-1], None)
        if ino is None:
            waiting.pop()
            continue
        count += 1
        if count % BREATH == 0:
            yield None
        if not 0 <= ino <= bootstrap.max_ino or seen[ino >> 3] & 1 << (ino & 7):
            continue
        seen[ino >> 3] |= 1 << (ino & 7)
        try:
            inode = bootstrap.inode(ino)
        except InvalidImage:
            continue
        if stat.S_ISDIR(inode.mode):
            waiting.append(_children(bootstrap, inode))
        elif stat.S_ISREG(inode.mode):
            yield inode


def _children(bootstrap: Bootstrap, directory: Inode) -> Iterator[int]:
    try:
        for entry in bootstrap.entries(directory, 0):
            yield entry.ino
    except InvalidImage:
        return


def chunks_of_file(bootstrap: Bootstrap, inode: Inode) -> Iterator[Sequence[Chunk]]:
    """Its chunks, some at a time; up to the first damaged record."""
    count = -(-inode.size // bootstrap.chunk_size)
    try:
        for first in range(0, count, FILE_STEP):
            yield bootstrap.chunks(inode, first, min(count - first, FILE_STEP))
    except InvalidImage:
        return


def portions_of_files(bootstrap: Bootstrap, inos: Iterable[int], portion_bytes: int) -> Iterator[Portion | None]:
    """Portions of up to so many uncompressed bytes; see `files_below`."""
    pending: dict[int, dict[int, Chunk]] = {}
    sizes: dict[int, int] = {}
    for inode in files_below(bootstrap, inos):
        if inode is None:
            yield None
            continue
        for chunks in chunks_of_file(bootstrap, inode):
            for chunk in chunks:
                blob = chunk.blob_index
                pending.setdefault(blob, {})[chunk.index] = chunk
                sizes[blob] = sizes.get(blob, 0) + chunk.uncompressed_size
                if sizes[blob] >= portion_bytes:
                    yield _portion(blob, pending.pop(blob))
                    sizes[blob] = 0
    for blob, rest in pending.items():
        yield _portion(blob, rest)


def _portion(blob_index: int, chunks: Mapping[int, Chunk]) -> Portion:
    return Portion(blob_index, list(chunks), partial(_chosen, chunks))


def _chosen(chunks: Mapping[int, Chunk], indexes: Sequence[int]) -> list[Chunk]:
    return [chunks[i] for i in indexes]


def portions_of_blob(blob: Blob, index: ChunkIndex, portion_bytes: int) -> Iterator[Portion]:
    """All chunks of a blob that the image names, in the order of the blob; the index has been loaded."""
    first, count = 0, len(index)
    is_tar = bool(blob.features & BlobFeatures.TARFS)  # whose pieces have no records; elsewhere a chunk without is no file's
    while first < count:
        limit = (index.end_of(first - 1) if first else 0) + portion_bytes
        most = min(count, first + portion_bytes // MIN_CHUNK_BYTES + 1)
        end = min(max(index.find(limit - 1), first) + 1, most)
        try:
            chunks = {c.index: c for c in index.chunks(range(first, end)) if is_tar or c.digest is not None}
        except InvalidImage:
            chunks = {}
        if chunks:
            yield _portion(blob.index, chunks)
        first = end


def inos_of_paths(bootstrap: Bootstrap, paths: Iterable[bytes]) -> list[int]:
    """Absolute paths of the image, no symlink followed; what is not there is left out (contract 7.6)."""
    found = []
    for path in paths:
        ino: int | None = bootstrap.root_ino
        try:
            for name in filter(None, path.split(b"/")):
                parent = bootstrap.inode(ino)
                ino = bootstrap.lookup(parent, name) if stat.S_ISDIR(parent.mode) else None
                if ino is None:
                    break
        except InvalidImage:
            continue
        if ino is not None:
            found.append(ino)
    return found

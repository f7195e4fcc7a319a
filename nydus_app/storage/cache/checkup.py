"""Compares what is kept of a blob with its image, and takes the bits of damaged chunks back.

Looking opens files for reading only and hurts nobody.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from nydus_app.errors import CacheError, CorruptChunk
from nydus_app.formats import chunkmap
from nydus_app.formats.codec.chunk import verify_chunk
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk
from nydus_app.linux.fallocate import punch_hole
from nydus_app.storage.cache.chunk_file import ChunkFile
from nydus_app.storage.cache.chunk_map import open_map
from nydus_app.storage.cache.directory import DATA, ENCRYPTED, RAW, KeptBlob, read_bits
from nydus_app.storage.cache.encrypted_file import EncryptedFile
from nydus_app.storage.cache.plain_file import PlainFile
from nydus_app.storage.cache.raw_file import RawFile

STEP = 256
"""Chunks that are located at once."""

ChunksOf = Callable[[range], Sequence[Chunk]]


class Damage(NamedTuple):
    chunk: Chunk
    why: str


class Key(NamedTuple):
    """Of an encrypted cache; `key` None: convergent."""

    key: bytes | None


def open_data(kept: KeptBlob, blob: Blob, key: Key | None) -> ChunkFile:
    """The data file for reading. Raises CacheError where there is none, or two, or no key."""
    there = [suffix for suffix in (DATA, RAW) if suffix in kept.files]
    if len(there) != 1:
        raise CacheError("there are two data files, and one map for both" if there else "there is no data file")
    is_encrypted = ENCRYPTED in kept.files
    if is_encrypted and key is None:
        raise CacheError("it is encrypted (--key or --convergent lets it be read)")
    size = blob.data_size if there == [RAW] else blob.uncompressed_size
    if kept.files[there[0]].size != size:
        raise CacheError(f"its data file has {kept.files[there[0]].size} bytes, the image says {size}")
    try:
        fd = os.open(kept.files[there[0]].path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as e:
        raise CacheError(f"{kept.files[there[0]].path}: {e.strerror}") from None
    if there == [RAW]:
        return RawFile(fd, blob.compressor)
    if is_encrypted:
        assert key is not None
        return EncryptedFile(fd, key.key, blob)
    return PlainFile(fd, is_aligned=bool(blob.features & BlobFeatures.ALIGNED), is_written=False)


def ready_chunks(kept: KeptBlob, blob: Blob, chunks: ChunksOf) -> Iterator[Chunk]:
    """Those whose bit is set, as far as the image names them. Raises InvalidImage."""
    bits = read_bits(kept, blob.chunk_count)
    for first in range(0, blob.chunk_count, STEP):
        for chunk in chunks(range(first, min(first + STEP, blob.chunk_count))):
            if chunkmap.test_bit(bits, chunk.index):
                yield chunk


def is_ready_still(kept: KeptBlob, blob: Blob, chunk: Chunk) -> bool:
    """Nobody has evicted it meanwhile. Raises InvalidImage, CacheError."""
    return chunkmap.test_bit(read_bits(kept, blob.chunk_count), chunk.index)


def find_damage(data: ChunkFile, blob: Blob, chunk: Chunk) -> Damage | None:
    """What is wrong with a chunk that is said to be there."""
    start, end = data.extent(chunk)
    if is_hole(data.fd, start, end):
        return Damage(chunk, "nothing was ever written there")
    try:
        verify_chunk(blob, chunk, data.read(chunk), validate=chunk.digest is not None)
    except (CorruptChunk, OSError) as e:
        return Damage(chunk, str(e))
    return None


def is_hole(fd: int, start: int, end: int) -> bool:
    try:
        return os.lseek(fd, start, os.SEEK_DATA) >= end
    except OSError:  # ENXIO: no data behind `start`
        return True


def repair(work_dir: str, kept: KeptBlob, blob: Blob, key: Key | None, chunks: Sequence[Chunk]) -> int:
    """Look again, and take back the bits of what is damaged still; so many. Whoever calls has the directory alone.

    Raises CacheError.
    """
    data = open_data(kept, blob, key)
    try:
        damaged = [c for c in chunks if find_damage(data, blob, c) is not None]
    finally:
        data.close()
    try:
        _take_back(work_dir, kept, blob, [(c.index, *data.extent(c)) for c in damaged])
    except OSError as e:
        raise CacheError(f"blob {kept.id}: {e.strerror}") from None
    return len(damaged)


def _take_back(work_dir: str, kept: KeptBlob, blob: Blob, damaged: Sequence[tuple[int, int, int]]) -> None:
    chunk_map = open_map(work_dir, kept.id, blob.cutting, is_trusted=True)
    try:
        chunk_map.clear([index for index, _, _ in damaged])
        chunk_map.settle()
    finally:
        chunk_map.close()
    fd = os.open(kept.files[RAW if RAW in kept.files else DATA].path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _, start, end in damaged:
            punch_hole(fd, start, end)
    finally:
        os.close(fd)

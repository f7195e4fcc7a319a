"""Opens the files that keep a blob's chunks: a data file of the wanted kind and its chunk map.

All kinds share one map's name, and an encrypted file has a plain one's name, because nydusd has it so. A map can
therefore tell of chunks that were written in another way, after somebody changed his configuration. Wherever
another kind has left its traces nothing is believed before it matches its digest.
"""

import logging
import os
from typing import NamedTuple

from nydus_app.errors import CacheError
from nydus_app.formats.rafs.values import Blob, BlobFeatures
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.chunk_file import ChunkFile
from nydus_app.storage.cache.chunk_map import ChunkMap, MemoryMap, open_map
from nydus_app.storage.cache.plain_file import PlainFile

log = logging.getLogger("nydus.storage")

NO_BYTES_OF_ITS_OWN = BlobFeatures.BATCH | BlobFeatures.ZRAN | BlobFeatures.ENCRYPTED | BlobFeatures.TARFS
"""Blobs whose chunks cannot be decoded from their own bytes in the blob alone."""


class Keeping(NamedTuple):
    """How chunks are kept in `work_dir`. `key` of 32 bytes matters where it is encrypted; None: convergent."""

    work_dir: str
    is_compressed: bool = False
    is_encrypted: bool = False
    key: bytes | None = None
    is_indexed: bool = True


class BlobFiles(NamedTuple):
    """`is_doubtful`: chunks of the map have to be verified, whatever the configuration says of validation."""

    data: ChunkFile
    map: ChunkMap
    is_doubtful: bool

    def close(self) -> None:
        self.data.close()
        self.map.close()


def data_path(keeping: Keeping, blob: Blob) -> str:
    return os.path.join(keeping.work_dir, f"{blob_file_name(blob.id)}{'.blob.raw' if _is_raw(keeping, blob) else '.blob.data'}")


def _is_raw(keeping: Keeping, blob: Blob) -> bool:
    return keeping.is_compressed and not blob.features & NO_BYTES_OF_ITS_OWN and not blob.is_stargz


def open_blob_files(keeping: Keeping, blob: Blob) -> BlobFiles:
    """Open or create the pair. Raises CacheError.

    Bits of a map whose data file is new or was resized mean nothing.
    """
    path = data_path(keeping, blob)
    size = blob.data_size if _is_raw(keeping, blob) else blob.uncompressed_size
    fd = -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        before = os.fstat(fd).st_size
        chunk_map = _open_map(keeping, blob, is_new=before == 0, is_trusted=before == size)
        if before != size:
            os.ftruncate(fd, size)
        is_doubtful = _has_traces_of_others(keeping, blob) or isinstance(chunk_map, MemoryMap)
    except OSError as e:
        if fd >= 0:
            os.close(fd)
        raise CacheError(f"{path}: {e.strerror}") from None
    return BlobFiles(_data_file(keeping, blob, fd), chunk_map, is_doubtful)


def _open_map(keeping: Keeping, blob: Blob, *, is_new: bool, is_trusted: bool) -> ChunkMap:
    """nydusd keeps v6's map in a file always. Where it would look for raw chunks and we keep none, it must not find bits."""
    is_v5 = not blob.ci_compressed_size
    if (is_v5 and not keeping.is_indexed) or (keeping.is_compressed and not _is_raw(keeping, blob)):
        return MemoryMap(blob.chunk_count, is_new=is_new)
    return open_map(keeping.work_dir, blob_file_name(blob.id), blob.chunk_count, is_trusted=is_trusted)


def _data_file(keeping: Keeping, blob: Blob, fd: int) -> ChunkFile:
    """Kinds that few have are loaded when they are wanted."""
    if _is_raw(keeping, blob):
        from nydus_app.storage.cache.raw_file import RawFile

        return RawFile(fd, blob.compressor)
    if keeping.is_encrypted:
        from nydus_app.storage.cache.encrypted_file import EncryptedFile

        if keeping.key is None and blob.ci_compressed_size:
            log.warning("blob %s: the key of its convergent encryption is a public one (RAFS v6)", blob.id)
        return EncryptedFile(fd, keeping.key, blob)
    return PlainFile(fd, is_aligned=bool(blob.features & BlobFeatures.ALIGNED))


def _has_traces_of_others(keeping: Keeping, blob: Blob) -> bool:
    """Nothing but a digest tells a wrong key, so an encrypted file is doubted always; it leaves a mark for plain ones."""
    base = os.path.join(keeping.work_dir, blob_file_name(blob.id))
    if _is_raw(keeping, blob):
        return os.path.exists(f"{base}.blob.data")
    mark = f"{base}.blob.data.encrypted"
    if keeping.is_encrypted:
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        return True
    return os.path.exists(mark) or os.path.exists(f"{base}.blob.raw")

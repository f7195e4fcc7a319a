"""Opens the files that keep a blob's chunks: a data file of the wanted kind and its chunk map.

All kinds share one map's name, and an encrypted file has a plain one's name, because nydusd has it so. A map can
therefore tell of chunks that were written in another way, after somebody changed his configuration. Wherever
another kind has left its traces nothing is believed before it matches its digest; and while another kind is in use,
by a daemon or by the mount of one that was killed, its files are not touched: new ones take their names.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import pack
from typing import NamedTuple

from nydus_app.errors import CacheError
from nydus_app.formats.rafs.values import Blob, BlobFeatures
from nydus_app.linux.lease import is_open_elsewhere
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.chunk_file import ChunkFile
from nydus_app.storage.cache.chunk_map import ChunkMap, MemoryMap, is_of_another_cutting, open_map
from nydus_app.storage.cache.plain_file import PlainFile

log = logging.getLogger("nydus.storage")

NO_BYTES_OF_ITS_OWN = BlobFeatures.BATCH | BlobFeatures.ZRAN | BlobFeatures.ENCRYPTED | BlobFeatures.TARFS
"""Blobs whose chunks cannot be decoded from their own bytes in the blob alone."""

LOCKED, UNLOCKED = (pack("@hhqqi4x", kind, os.SEEK_SET, 0, 0, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK))
"""struct flock of the whole file, for locks of open file descriptions (fcntl(2)): threads respect them, too, and nydusd takes none."""


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

    Bits of a map whose data file is new or was resized mean nothing. Files that somebody else has open and keeps in another
    way are left to him, nameless: ours take their place.
    """
    path = data_path(keeping, blob)
    size = blob.data_size if _is_raw(keeping, blob) else blob.uncompressed_size
    try:
        with _in_turn(path) as fd:
            before = os.fstat(fd).st_size
            is_same = before == size and not is_of_another_cutting(keeping.work_dir, blob_file_name(blob.id), blob.cutting)
            if before and not (is_same and _has_our_mark(keeping, blob)) and is_open_elsewhere(fd):
                log.warning("blob %s: somebody else keeps it in another way; new files take the place of his", blob.id)
                os.unlink(path)
            else:
                return _opened(keeping, blob, os.dup(fd), before=before, size=size, is_same=is_same)
    except OSError as e:
        raise CacheError(f"{path}: {e.strerror}") from None
    return open_blob_files(keeping, blob)


def _opened(keeping: Keeping, blob: Blob, fd: int, *, before: int, size: int, is_same: bool) -> BlobFiles:
    """`fd` is closed where that fails."""
    try:
        chunk_map = _open_map(keeping, blob, is_new=before == 0, is_trusted=is_same)
        if before != size:
            os.ftruncate(fd, size)
        is_doubtful = _leave_mark(keeping, blob, is_new=before == 0) or isinstance(chunk_map, MemoryMap)
    except OSError:
        os.close(fd)
        raise
    return BlobFiles(_data_file(keeping, blob, fd), chunk_map, is_doubtful)


@contextmanager
def _in_turn(path: str) -> Iterator[int]:
    """Descriptor of the file that has this name, and that nobody else looks at meanwhile, to decide what it is to him. Raises OSError."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):  # a file system without locks
                fcntl.fcntl(fd, fcntl.F_OFD_SETLKW, LOCKED)
            if _is_called(fd, path):
                yield fd
                return
        finally:
            with suppress(OSError):  # who has duplicated it goes on without the lock
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, UNLOCKED)
            os.close(fd)


def _is_called(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def _open_map(keeping: Keeping, blob: Blob, *, is_new: bool, is_trusted: bool) -> ChunkMap:
    """nydusd keeps v6's map in a file always. Where it would look for raw chunks and we keep none, it must not find bits."""
    is_v5 = not blob.ci_compressed_size
    if (is_v5 and not keeping.is_indexed) or (keeping.is_compressed and not _is_raw(keeping, blob)):
        return MemoryMap(blob.chunk_count, is_new=is_new)
    return open_map(keeping.work_dir, blob_file_name(blob.id), blob.cutting, is_trusted=is_trusted)


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


def _kind(keeping: Keeping) -> bytes:
    """Of a `.blob.data`, as its mark tells it; of a key no more than which one it is."""
    if not keeping.is_encrypted:
        return b"plain"
    from hashlib import sha256  # with OpenSSL, which a start needs for nothing else

    key = b"convergent" if keeping.key is None else sha256(b"cache key" + keeping.key).hexdigest()[:16].encode()
    return b"encrypted " + key


def _mark_path(keeping: Keeping, blob: Blob) -> str:
    return os.path.join(keeping.work_dir, f"{blob_file_name(blob.id)}.blob.data.encrypted")


def _mark(keeping: Keeping, blob: Blob) -> bytes | None:
    """Which kind has opened the data file last; None where it was never encrypted by us."""
    try:
        with open(_mark_path(keeping, blob), "rb") as f:
            return f.read()
    except FileNotFoundError:
        return None


def _has_our_mark(keeping: Keeping, blob: Blob) -> bool:
    if _is_raw(keeping, blob):
        return True
    mark = _mark(keeping, blob)
    return mark == _kind(keeping) or (mark is None and not keeping.is_encrypted)


def _leave_mark(keeping: Keeping, blob: Blob, *, is_new: bool) -> bool:
    """True where another kind has left its traces. Nothing but a digest tells a wrong key: an encrypted file is doubted always."""
    base = os.path.join(keeping.work_dir, blob_file_name(blob.id))
    if _is_raw(keeping, blob):
        return os.path.exists(f"{base}.blob.data")
    mark, ours = _mark(keeping, blob), _kind(keeping)
    if is_new and mark is not None and not keeping.is_encrypted:
        os.unlink(_mark_path(keeping, blob))
        mark = None
    elif mark != ours and (keeping.is_encrypted or mark is not None):
        with open(_mark_path(keeping, blob), "wb") as f:
            f.write(ours)
    return keeping.is_encrypted or mark is not None or os.path.exists(f"{base}.blob.raw")

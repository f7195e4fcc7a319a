"""RAFS v6 bootstraps: EROFS images with nydus tables (rafs-format 5; Linux `fs/erofs/erofs_fs.h`).

An inode number is the EROFS nid: the inode lies at meta_blkaddr * block + nid * 32. Hard links share
a nid. The address of a chunk is the block in its blob's uncompressed address space; where its
compressed bytes lie is the blob's own knowledge, its digest the chunk table's.
"""

import stat
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import repeat
from struct import Struct

from nydus_app.errors import InvalidImage
from nydus_app.formats.bounds import Untrusted
from nydus_app.formats.erofs.structs import (
    CHUNK_BASED,
    CHUNK_INDEX,
    COMPACT,
    DEVICE_SLOT,
    DIRENT,
    EXTENDED,
    FILE_TYPE,
    FLAT_INLINE,
    FLAT_PLAIN,
    INCOMPAT_CHUNKED_FILE,
    INCOMPAT_DEVICE_TABLE,
    MAGIC,
    NAME_MAX,
    SLOT_SIZE,
    SUPERBLOCK,
    SUPERBLOCK_AT,
    XATTR_ENTRY,
    XATTR_HEADER_SIZE,
    XATTR_PREFIX,
)
from nydus_app.formats.rafs.checks import check_chunk_size, check_super_flags
from nydus_app.formats.rafs.segments import segments_of
from nydus_app.formats.rafs.v5 import CHUNK, CHUNK_HAS_CRC32, NO_BLOB, NO_RECORD, align8
from nydus_app.formats.rafs.v6_blob import BLOB, decode_blob
from nydus_app.formats.rafs.values import Chunk, ChunkRecord, DirEntry, Inode, Segment, SuperFlags

EXT_SUPERBLOCK_AT, SLOTS_AT = 1152, 1408
COMPAT_RAFS_V6 = 0x4000_0000

EXT_SUPERBLOCK = Struct("<2Q2I3QI")
FORMAT = Struct("<2H")
MAX_SYMLINK = 4096

TARFS_BLOCK_BITS = 9

COOKIE_SHIFT = 10
"""A block of 4 KiB holds at most 341 entries."""


def is_tarfs(data: Untrusted) -> bool:
    """Of a v6 bootstrap."""
    return SUPERBLOCK.unpack_from(data.view, SUPERBLOCK_AT)[3] == TARFS_BLOCK_BITS


def is_v6(data: Untrusted) -> bool:
    if data.size < SLOTS_AT:
        return False
    f = SUPERBLOCK.unpack_from(data.view, SUPERBLOCK_AT)
    return f[0] == MAGIC and bool(f[2] & COMPAT_RAFS_V6)


FEW_CHUNKS = 1 << 16
"""Of so many a dictionary is made in no time, and takes no more than some MiB."""


class BootstrapV6:
    """Fulfils the Bootstrap port."""

    version = 6

    def __init__(self, data: Untrusted, blob_id_hint: str | None) -> None:
        self._data = data
        (_, checksum, _, bits, slots, root, inodes, _, _, _, meta, xattrs, _, _, incompat, union, devices, slot) = (
            data.unpack(SUPERBLOCK, SUPERBLOCK_AT, "superblock")
        )
        if bits not in (TARFS_BLOCK_BITS, 12):
            raise InvalidImage(f"blocks of 2^{bits} bytes; 2^9 and 2^12 are legal")
        self._block = 1 << bits
        self._meta = meta << bits
        if checksum or slots or union or xattrs or not inodes or data.size % self._block:
            raise InvalidImage("the EROFS superblock breaks RAFS v6's rules")
        if incompat != INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE:
            raise InvalidImage(f"EROFS incompatible features {incompat:#x}, 0xc expected")
        if devices and slot != SLOTS_AT // DEVICE_SLOT.size:
            raise InvalidImage("the device slots are not where RAFS v6 has them")
        data.check(SLOTS_AT, devices * DEVICE_SLOT.size, "device slots")
        data.check(self._meta, 0, "metadata")
        self.root_ino = root
        self.inode_count = inodes
        self.max_ino = (data.size - self._meta) // SLOT_SIZE
        self._read_tables(devices, blob_id_hint)
        self._records: dict[int, array[int] | dict[int, int]] | None = None

    def _read_tables(self, devices: int, hint: str | None) -> None:
        flags, blobs, blobs_size, chunk_size, table, table_size, prefetch, prefetch_size = self._data.unpack(
            EXT_SUPERBLOCK, EXT_SUPERBLOCK_AT, "extended superblock"
        )
        self.flags = check_super_flags(flags)
        if bool(self.flags & SuperFlags.TARFS) is not (self._block == 1 << TARFS_BLOCK_BITS):
            raise InvalidImage(f"blocks of {self._block} bytes; those of tarfs have 512, all others 4096")
        self.chunk_size = check_chunk_size(chunk_size)
        if blobs_size % BLOB.size or blobs_size // BLOB.size != devices or devices > 255:
            raise InvalidImage(f"a blob table of {blobs_size} bytes for {devices} devices")
        if table_size % CHUNK.size:
            raise InvalidImage(f"a chunk table of {table_size} bytes")
        self._data.check(blobs, blobs_size, "blob table")
        self._data.check(table, table_size, "chunk table")
        self._chunk_table = (table, table_size // CHUNK.size)
        if prefetch and prefetch_size:
            self._data.check(prefetch, prefetch_size, "prefetch table")
        self._prefetch = (prefetch, prefetch_size // 4 if prefetch else 0)
        is_tarfs = bool(self.flags & SuperFlags.TARFS)
        self.blobs = []
        for index in range(devices):
            entry = self._data.unpack(BLOB, blobs + index * BLOB.size, "blob table")
            self.blobs.append(decode_blob(entry, index, chunk_size, is_tarfs=is_tarfs, hint=hint))

    # ---- inodes -------------------------------------------------------------------------------

    def inode(self, ino: int) -> Inode:
        position = self._meta + ino * SLOT_SIZE
        view = self._data.view
        if ino < 0 or position + 32 > self._data.size:
            raise InvalidImage(f"inode {ino} lies outside of the bootstrap")
        if not view[position] & 1:
            _, _, mode, nlink, size, _, union, _, uid, gid, _ = COMPACT.unpack_from(view, position)
            mtime = mtime_ns = 0
        else:
            if position + 64 > self._data.size:
                raise InvalidImage(f"inode {ino} lies outside of the bootstrap")
            _, _, mode, _, size, union, _, uid, gid, mtime, mtime_ns, nlink = EXTENDED.unpack_from(view, position)
        kind = stat.S_IFMT(mode)
        if kind not in _KINDS or size >> 63 or mtime >> 62:
            raise InvalidImage(f"inode {ino} is none")
        rdev = union if kind in _HAVE_RDEV else 0
        return Inode(ino, mode, nlink, uid, gid, rdev, size, -(-size // 512), mtime, mtime_ns, position)

    def _layout(self, inode: Inode) -> tuple[int, int]:
        """Data layout, and the offset behind inode and xattrs."""
        head, icount = FORMAT.unpack_from(self._data.view, inode.position)
        size = 64 if head & 1 else 32
        return head >> 1 & 7, inode.position + size + (XATTR_HEADER_SIZE + 4 * (icount - 1) if icount else 0)

    def _extent(self, inode: Inode, start: int) -> tuple[int, int]:
        """Offset and length of the block of a flat file that begins at its byte `start`."""
        layout, behind = self._layout(inode)
        if layout not in (FLAT_PLAIN, FLAT_INLINE):
            raise InvalidImage(f"inode {inode.ino}: its data are neither plain nor inline")
        length = min(self._block, inode.size - start)
        if layout == FLAT_INLINE and length < self._block:
            at = behind
        else:
            union_at = inode.position + 16
            (first,) = _U32.unpack_from(self._data.view, union_at)
            at = (first * self._block) + start
        self._data.check(at, length, "data of a directory or symlink")
        return at, length

    # ---- directories --------------------------------------------------------------------------

    def _block_count(self, directory: Inode) -> int:
        if directory.size > self._data.size:
            raise InvalidImage(f"directory {directory.ino} is larger than the bootstrap")
        return -(-directory.size // self._block)

    def _dirents(self, directory: Inode, number: int) -> tuple[int, int, int]:
        """Offset, length and number of entries of a directory block."""
        at, length = self._extent(directory, number * self._block)
        if length < DIRENT.size:
            raise InvalidImage(f"directory {directory.ino} has a block of {length} bytes")
        _, name_at, _ = DIRENT.unpack_from(self._data.view, at)
        count = name_at // DIRENT.size
        if not count or name_at > length:
            raise InvalidImage(f"directory {directory.ino}: a block's first name lies outside of it")
        return at, length, count

    def _name(self, block: tuple[int, int, int], i: int) -> bytes:
        at, length, count = block
        view = self._data.view
        start = DIRENT.unpack_from(view, at + i * DIRENT.size)[1]
        if i + 1 < count:
            name = bytes(view[at + start : at + DIRENT.unpack_from(view, at + (i + 1) * DIRENT.size)[1]])
        else:
            name = bytes(view[at + start : at + length]).partition(b"\0")[0]
        if not name or len(name) > NAME_MAX or start > length or b"/" in name or b"\0" in name:
            raise InvalidImage(f"{name[:300]!r} is no file name")
        return name

    def lookup(self, parent: Inode, name: bytes) -> int | None:
        blocks = range(self._block_count(parent))
        number = bisect_right(blocks, name, key=lambda n: self._name(self._dirents(parent, n), 0)) - 1
        if number < 0:
            return None
        block = self._dirents(parent, number)
        i = bisect_right(range(block[2]), name, key=lambda i: self._name(block, i)) - 1
        if i < 0 or self._name(block, i) != name:
            return None
        nid: int = DIRENT.unpack_from(self._data.view, block[0] + i * DIRENT.size)[0]
        return nid

    def entries(self, directory: Inode, start: int) -> Iterator[DirEntry]:
        first, skip = start >> COOKIE_SHIFT, start & ((1 << COOKIE_SHIFT) - 1)
        for number in range(first, self._block_count(directory)):
            block = self._dirents(directory, number)
            for i in range(skip if number == first else 0, block[2]):
                name = self._name(block, i)
                if name not in (b".", b".."):
                    nid, _, kind = DIRENT.unpack_from(self._data.view, block[0] + i * DIRENT.size)
                    yield DirEntry((number << COOKIE_SHIFT) + i + 1, nid, name, FILE_TYPE.get(kind, 0))

    # ---- symlinks, xattrs ---------------------------------------------------------------------

    def readlink(self, inode: Inode) -> bytes:
        if not 0 < inode.size <= MAX_SYMLINK:
            raise InvalidImage(f"symlink {inode.ino} has a target of {inode.size} bytes")
        extents = [self._extent(inode, start) for start in range(0, inode.size, self._block)]
        return b"".join([self._data.bytes(*e, "symlink target") for e in extents]).partition(b"\0")[0]

    def _xattrs(self, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        head, icount = FORMAT.unpack_from(self._data.view, inode.position)
        if not icount:
            return
        at = inode.position + (64 if head & 1 else 32) + XATTR_HEADER_SIZE
        end = at + 4 * (icount - 1)
        self._data.check(at, end - at, "xattrs")
        while at + XATTR_ENTRY.size <= end:
            length, prefix, size = XATTR_ENTRY.unpack_from(self._data.view, at)
            at += XATTR_ENTRY.size
            if prefix not in XATTR_PREFIX or at + length + size > end:
                raise InvalidImage(f"inode {inode.ino}: damaged xattrs")
            value_at = at + length
            yield (
                XATTR_PREFIX[prefix] + bytes(self._data.view[at:value_at]),
                bytes(self._data.view[value_at : value_at + size]),
            )
            at = (value_at + size + 3) & ~3

    def xattr_names(self, inode: Inode) -> list[bytes]:
        return [key for key, _ in self._xattrs(inode)]

    def xattr(self, inode: Inode, name: bytes) -> bytes | None:
        return next((value for key, value in self._xattrs(inode) if key == name), None)

    # ---- chunks -------------------------------------------------------------------------------

    def chunks(self, inode: Inode, first: int, count: int) -> list[Chunk]:
        layout, behind = self._layout(inode)
        total = -(-inode.size // self.chunk_size)
        if layout != CHUNK_BASED or first < 0 or first + count > total:
            raise InvalidImage(f"inode {inode.ino} has no chunks {first} to {first + count}")
        at = align8(behind) + first * CHUNK_INDEX.size
        self._data.check(at, count * CHUNK_INDEX.size, "chunk indexes")
        area = self._data.view[at : at + count * CHUNK_INDEX.size]
        found = []
        for number, (low, device, high, block) in enumerate(CHUNK_INDEX.iter_unpack(area), first):
            if not 0 < device <= len(self.blobs):
                raise InvalidImage(f"inode {inode.ino}: a chunk lies on device {device} of {len(self.blobs)}")
            size = min(self.chunk_size, inode.size - number * self.chunk_size)
            index, address = high << 16 | low, block * self._block
            (record,) = decode_chunk_records(self.stored_chunk_records(device - 1, (index,)))
            start, length, digest, crc = record or (address, size, None, None)
            if start != address or length != size:
                raise InvalidImage(f"inode {inode.ino}: chunk index and chunk table disagree on a place or a size")
            found.append(Chunk(device - 1, index, 0, 0, address, size, False, digest, crc))
        return found

    def segments(self, inode: Inode, offset: int, end: int) -> list[Segment]:
        return segments_of(partial(self.chunks, inode), self.chunk_size, offset, end)

    def stored_chunk_records(self, blob_index: int, indexes: Sequence[int]) -> bytes:
        if self._records is None:
            self._records = self._index_chunk_table()
        numbers = self._records.get(blob_index, {})
        if isinstance(numbers, dict):
            given = list(map(numbers.get, indexes, repeat(0)))
        else:
            given = [numbers[i] if i < len(numbers) else 0 for i in indexes]
        view, before, size = self._data.view, self._chunk_table[0] - CHUNK.size, CHUNK.size
        if given and given[0] and given == list(range(given[0], given[0] + len(given))):
            return bytes(view[before + given[0] * size : before + (given[-1] + 1) * size])
        return b"".join([view[(at := before + n * size) : at + size] if n else NO_RECORD for n in given])

    def _index_chunk_table(self) -> dict[int, "array[int] | dict[int, int]"]:
        """By blob: record number + 1 of each chunk index; an array where indexes are dense and many.

        Blob index and chunk index of an 80-byte record are its 32-bit words 8 and 18.
        """
        at, count = self._chunk_table
        if count <= FEW_CHUNKS and len(self.blobs) == 1:
            words = self._data.view[at:][: count * CHUNK.size].cast("I")
            if not any(words[8::20].tolist()):
                return {0: dict(zip(words[18::20].tolist(), range(1, count + 1), strict=True))}
        found: dict[int, dict[int, int]] = {}
        # A table much smaller than the blobs (chunk dictionary, or hostile counts) is kept sparse.
        is_dense = sum(b.chunk_count for b in self.blobs) <= 4 * count
        dense: dict[int, array[int]] = {
            b.index: array("I", bytes(4 * b.chunk_count)) for b in self.blobs if is_dense
        }
        for start in range(0, count, 1 << 14):
            size = min(count - start, 1 << 14) * CHUNK.size
            words = self._data.view[at + start * CHUNK.size :][:size].cast("I")
            for number, (blob, index) in enumerate(
                zip(words[8::20].tolist(), words[18::20].tolist(), strict=True), start + 1
            ):
                numbers = dense.get(blob)
                if numbers is not None and index < len(numbers):
                    numbers[index] = number
                else:
                    found.setdefault(blob, {})[index] = number
        return {**found, **dense}

    def neighbours(self, inode: Inode) -> Iterator[Chunk]:
        """The blob's compression information knows them better."""
        return iter(())

    def prefetch_inos(self) -> list[int]:
        at, count = self._prefetch
        table = self._data.bytes(at, count * 4, "prefetch table") if count else b""
        return [nid for (nid,) in _U32.iter_unpack(table) if nid]

    def verify_inode(self, inode: Inode) -> None:
        """v6 inodes have no digests."""

    @property
    def content(self) -> memoryview:
        return self._data.view

    def close(self) -> None:
        self._data.close()


def decode_chunk_records(stored: bytes) -> list[ChunkRecord | None]:
    """One for each 80 bytes of a chunk table (rafs-format 5.9); None for each NO_RECORD."""
    return [
        None if blob == NO_BLOB else (start, size, digest, crc if flags & CHUNK_HAS_CRC32 else None)
        for digest, blob, flags, _, size, _, start, _, _, crc in CHUNK.iter_unpack(stored)
    ]


_U32 = Struct("<I")
_KINDS = frozenset(FILE_TYPE.values())
_HAVE_RDEV = frozenset({stat.S_IFCHR, stat.S_IFBLK})

"""RAFS v5 bootstraps (rafs-format 4; `rafs/src/metadata/layout/v5.rs`).

    superblock | inode table | prefetch table | blob table | extended blob table | inode records

An inode number is an index into the inode table, from 1; names of one hard-linked file have records
of their own with the number of the first. Children of a directory have consecutive indexes and
are sorted by name.
"""

import stat
from collections.abc import Iterator, Sequence
from functools import partial
from struct import Struct

from nydus_app.errors import InvalidImage
from nydus_app.formats.bounds import Untrusted
from nydus_app.formats.codec.digest import digest
from nydus_app.formats.rafs.checks import (
    check_blob,
    check_chunk_size,
    check_features,
    check_super_flags,
    check_v5_features,
    compressor_of,
    decode_id,
    digester_of,
)
from nydus_app.formats.rafs.segments import segments_of
from nydus_app.formats.rafs.values import (
    Blob,
    BlobFeatures,
    Chunk,
    Compressor,
    DirEntry,
    Inode,
    Segment,
)

MAGIC = 0x52414653
VERSION = 0x500
SUPERBLOCK_SIZE = 8192

SUPERBLOCK = Struct("<4I5Q4IQ")
EXT_BLOB = Struct("<2I2Q40x")
INODE = Struct("<32s2Q4I3Q3I2H2IQ8x")
CHUNK = Struct("<32s4I3Q2I")
NO_BLOB = 0xFFFF_FFFF
NO_RECORD = CHUNK.pack(bytes(32), NO_BLOB, 0, 0, 0, 0, 0, 0, 0, 0)
"""Stands for a chunk that no table names: of a blob that no image has."""

NAMES = Struct("<80xQ12x2H")
"""INODE's flags and lengths of name and symlink target."""
DIGESTED = Struct("<60xI16xQ8xIH")
"""INODE's mode, flags, number of chunks and length of name."""
CHILD_COUNT_AT = 96
U32 = Struct("<I")
U64 = Struct("<Q")

FLAG_SYMLINK, FLAG_HARDLINK, FLAG_XATTR = 1, 2, 4
CHUNK_COMPRESSED, CHUNK_HAS_CRC32 = 1, 0x10

MAX_BLOBS = 255

NEIGHBOURS = 64
"""nydusd amplifies a read over so many next inodes (`md_v5.rs`)."""


def is_v5(data: Untrusted) -> bool:
    if data.size < SUPERBLOCK_SIZE:
        return False
    magic, version = Struct("<2I").unpack_from(data.view)
    return (magic, version) == (MAGIC, VERSION)


def align8(n: int) -> int:
    return (n + 7) & ~7


def decode_chunk_record(fields: tuple, blob_count: int) -> Chunk:  # type: ignore[type-arg]
    """An 80-byte chunk record, unpacked by CHUNK (rafs-format 4.7); v6's chunk table has the same."""
    digest_, blob, flags, csize, usize, coff, uoff, _, index, crc = fields
    if blob >= blob_count:
        raise InvalidImage(f"a chunk lies in blob {blob} of {blob_count}")
    if usize == 0 or usize > 16 << 20 or csize > 16 << 20 or coff >> 40 or uoff >> 44:
        raise InvalidImage(f"chunk {index} of blob {blob} has impossible sizes")
    return Chunk(
        blob, index, coff, csize, uoff, usize,
        bool(flags & CHUNK_COMPRESSED), digest_, crc if flags & CHUNK_HAS_CRC32 else None,
    )  # fmt: skip


class BootstrapV5:
    """Fulfils the Bootstrap port."""

    version = 5

    def __init__(self, data: Untrusted, blob_id_hint: str | None) -> None:
        self._data = data
        (_, _, size, chunk_size, flags, inodes, table, prefetch, blobs, entries, prefetched, blobs_size, ext, ext_at) = (
            data.unpack(SUPERBLOCK, 0, "superblock")
        )
        if size != SUPERBLOCK_SIZE:
            raise InvalidImage(f"superblock of {size} bytes, {SUPERBLOCK_SIZE} expected")
        self.chunk_size = check_chunk_size(chunk_size)
        self.flags = check_super_flags(flags)
        self._digester = digester_of(self.flags)
        self.inode_count = inodes
        self.root_ino = 1
        self.max_ino = entries
        if not 0 < inodes <= entries:
            raise InvalidImage(f"{inodes} inodes do not fit an inode table of {entries}")
        data.check(table, entries * 4, "inode table")
        data.check(prefetch, prefetched * 4, "prefetch table")
        if table < SUPERBLOCK_SIZE:
            raise InvalidImage("the inode table overlaps the superblock")
        self._table = table
        self._prefetch = (prefetch, prefetched)
        self.blobs = self._read_blobs(blobs, blobs_size, ext_at, ext, blob_id_hint)
        self._verified = bytearray(-(-(entries + 1) // 8))

    def _read_blobs(self, at: int, size: int, ext_at: int, ext: int, hint: str | None) -> list[Blob]:
        table = self._data.bytes(at, size, "blob table")
        ids: list[str] = []
        begin = 8
        while begin < len(table):
            end = table.find(b"\0", begin)
            raw_id = table[begin:end] if end >= 0 else table[begin:]
            if not raw_id:
                raise InvalidImage("the blob table has an entry without an id")
            if len(ids) == MAX_BLOBS:
                raise InvalidImage(f"more than {MAX_BLOBS} blobs, which no chunk could name")
            ids.append(decode_id(raw_id, hint))
            begin += len(raw_id) + 1 + 8
        if 0 < ext < len(ids):
            raise InvalidImage(f"extended blob table of {ext} entries for {len(ids)} blobs")
        return [self._read_blob(i, blob_id, ext_at if ext else None) for i, blob_id in enumerate(ids)]

    def _read_blob(self, index: int, blob_id: str, ext_at: int | None) -> Blob:
        count = usize = csize = 0
        features = int(BlobFeatures.V5_NO_EXT_TABLE)
        if ext_at is not None:
            count, features, usize, csize = self._data.unpack(EXT_BLOB, ext_at + index * 64, "extended blob table")
        return check_blob(
            Blob(
                index, blob_id, check_v5_features(blob_id, check_features(blob_id, features)),
                compressor_of(self.flags), self._digester,
                self.chunk_size, count, csize, usize, Compressor.none, 0, 0, 0, 0, b"",
            )
        )  # fmt: skip

    # ---- inodes -------------------------------------------------------------------------------

    def raw(self) -> tuple[memoryview, memoryview]:
        """The mapped bytes, and the inode table in them as 32-bit words (offset >> 3 of inode 1, 2, …).

        Who walks all inodes cannot afford a call and a value for each; who does so checks bounds himself.
        """
        view = self._data.view
        return view, view[self._table : self._table + 4 * self.max_ino].cast("I")

    def record(self, index: int) -> int:
        """Offset of the inode record with this index."""
        if not 0 < index <= self.max_ino:
            raise InvalidImage(f"inode {index} is none of 1 to {self.max_ino}")
        (place,) = U32.unpack_from(self._data.view, self._table + (index - 1) * 4)
        position = place << 3
        if position < SUPERBLOCK_SIZE or position + INODE.size > self._data.size:
            raise InvalidImage(f"inode {index} lies outside of the bootstrap")
        return position

    def _inode_at(self, position: int) -> Inode:
        f = INODE.unpack_from(self._data.view, position)
        # digest parent ino | uid gid projid mode | size blocks flags | nlink child_index child_count | names | rdev ns | s
        return Inode(f[2], f[6], f[10], f[3], f[4], f[15], f[7], f[8], f[17], f[16], position)

    def inode(self, ino: int) -> Inode:
        inode = self._inode_at(self.record(ino))
        if inode.ino != ino:
            raise InvalidImage(f"inode {ino} calls itself {inode.ino}")
        return inode

    def _name(self, position: int) -> bytes:
        _, length, _ = NAMES.unpack_from(self._data.view, position)
        if not 0 < length <= 256:
            raise InvalidImage(f"a name of {length} bytes")
        name = self._data.bytes(position + INODE.size, length, "name")
        if b"/" in name or b"\0" in name:
            raise InvalidImage(f"{name!r} is no file name")
        return name

    def children(self, directory: Inode) -> tuple[int, int]:
        """First index and number of children."""
        f = INODE.unpack_from(self._data.view, directory.position)
        first, count = f[11], f[12]
        if count and (first <= 1 or first + count - 1 > self.max_ino):
            raise InvalidImage(f"directory {directory.ino} has children outside of the inode table")
        return first, count

    def lookup(self, parent: Inode, name: bytes) -> int | None:
        if name == b".":
            return parent.ino
        if name == b"..":
            above = INODE.unpack_from(self._data.view, parent.position)[1]
            return above or self.root_ino
        low, count = self.children(parent)
        high = low + count
        while low < high:
            middle = (low + high) // 2
            position = self.record(middle)
            here = self._name(position)
            if here == name:
                return self._inode_at(position).ino
            if here < name:
                low = middle + 1
            else:
                high = middle
        return None

    def entries(self, directory: Inode, start: int) -> Iterator[DirEntry]:
        first, count = self.children(directory)
        for number in range(max(start, 0), count):
            position = self.record(first + number)
            inode = self._inode_at(position)
            yield DirEntry(number + 1, inode.ino, self._name(position), stat.S_IFMT(inode.mode))

    # ---- symlinks, xattrs ---------------------------------------------------------------------

    def readlink(self, inode: Inode) -> bytes:
        flags, name, target = NAMES.unpack_from(self._data.view, inode.position)
        if not flags & FLAG_SYMLINK or not target:
            raise InvalidImage(f"symlink {inode.ino} has no target")
        found = self._data.bytes(inode.position + INODE.size + align8(name), target, "symlink target")
        return found.partition(b"\0")[0]

    def _behind_names(self, position: int) -> tuple[int, int]:
        """Offset behind name and target, and inode flags."""
        flags, name, target = NAMES.unpack_from(self._data.view, position)
        at = position + INODE.size + align8(name)
        return at + (align8(target) if flags & FLAG_SYMLINK else 0), flags

    def _xattr_area(self, position: int) -> tuple[int, int]:
        """Offset and size of the pairs; size 0 where there are none."""
        at, flags = self._behind_names(position)
        if not flags & FLAG_XATTR:
            return at, 0
        (total,) = self._data.unpack(U64, at, "xattrs")
        self._data.check(at + 8, total, "xattrs")
        return at + 8, total

    def xattrs(self, inode: Inode) -> Iterator[tuple[bytes, bytes]]:
        """Names and values, in the order stored."""
        at, total = self._xattr_area(inode.position)
        pairs = self._data.bytes(at, total, "xattrs")
        offset = 0
        while offset + 4 <= total:
            (size,) = U32.unpack_from(pairs, offset)
            offset += 4
            if offset + size > total:
                raise InvalidImage(f"inode {inode.ino}: an xattr runs over the end of its area")
            key, _, value = pairs[offset : offset + size].partition(b"\0")
            yield key, value
            offset += size

    def xattr_names(self, inode: Inode) -> list[bytes]:
        return [key for key, _ in self.xattrs(inode)]

    def xattr(self, inode: Inode, name: bytes) -> bytes | None:
        return next((value for key, value in self.xattrs(inode) if key == name), None)

    # ---- chunks -------------------------------------------------------------------------------

    def chunk_area(self, inode: Inode) -> tuple[int, int]:
        """Offset and number of the chunk records of a regular file."""
        at, flags = self._behind_names(inode.position)
        if flags & FLAG_XATTR:
            at, total = self._xattr_area(inode.position)
            at += align8(total)
        return at, U32.unpack_from(self._data.view, inode.position + CHILD_COUNT_AT)[0]

    def chunks(self, inode: Inode, first: int, count: int) -> list[Chunk]:
        at, total = self.chunk_area(inode)
        if first < 0 or first + count > total:
            raise InvalidImage(f"inode {inode.ino} has {total} chunks, too few for its {inode.size} bytes")
        at += first * CHUNK.size
        self._data.check(at, count * CHUNK.size, "chunk records")
        area = self._data.view[at : at + count * CHUNK.size]
        return [decode_chunk_record(fields, len(self.blobs)) for fields in CHUNK.iter_unpack(area)]

    def segments(self, inode: Inode, offset: int, end: int) -> list[Segment]:
        return segments_of(partial(self.chunks, inode), self.chunk_size, offset, end)

    def chunk_at(self, position: int) -> Chunk:
        """The chunk record at an offset."""
        return decode_chunk_record(self._data.unpack(CHUNK, position, "chunk record"), len(self.blobs))

    def neighbours(self, inode: Inode) -> Iterator[Chunk]:
        for index in range(inode.ino + 1, min(inode.ino + NEIGHBOURS, self.max_ino) + 1):
            try:
                near = self._inode_at(self.record(index))
                if stat.S_ISREG(near.mode):
                    yield from self.chunks(near, 0, min(self.chunk_area(near)[1], NEIGHBOURS))
            except InvalidImage:
                return

    def stored_chunk_records(self, blob_index: int, indexes: Sequence[int]) -> bytes:
        """v5 has no table of a blob's chunks."""
        return NO_RECORD * len(indexes)

    def prefetch_inos(self) -> list[int]:
        at, count = self._prefetch
        table = self._data.bytes(at, count * 4, "prefetch table")
        inos = [ino for (ino,) in U32.iter_unpack(table)]
        return inos[: inos.index(0)] if 0 in inos else inos

    # ---- digests (rafs-format 4.8) ------------------------------------------------------------

    def verify_inode(self, inode: Inode) -> None:
        self.verify_record(inode.ino, inode.position)

    def verify_record(self, ino: int, position: int) -> None:
        """The same for who has not decoded the inode."""
        bit = 1 << (ino & 7)
        if self._verified[ino >> 3] & bit:
            return
        if digest(self._digester, self._digested(position)) != self._digest_at(position):
            raise InvalidImage(f"inode {ino} does not match its digest")
        self._verified[ino >> 3] |= bit

    def _digest_at(self, position: int) -> bytes:
        return bytes(self._data.view[position : position + 32])

    def _digested(self, position: int) -> bytes:
        mode, flags, count, name = DIGESTED.unpack_from(self._data.view, position)
        if stat.S_ISREG(mode):
            at = position + INODE.size + align8(name)
            if flags & (FLAG_SYMLINK | FLAG_XATTR):
                at, _ = self.chunk_area(self._inode_at(position))
            self._data.check(at, count * CHUNK.size, "chunk records")
            if count == 1:
                return self._digest_at(at)
            return b"".join([self._digest_at(i) for i in range(at, at + count * CHUNK.size, CHUNK.size)])
        if stat.S_ISDIR(mode):
            first, count = self.children(self._inode_at(position))
            return b"".join([self._digest_at(self.record(i)) for i in range(first, first + count)])
        if stat.S_ISLNK(mode):
            return self.readlink(self._inode_at(position))
        return b""

    @property
    def content(self) -> memoryview:
        return self._data.view

    def close(self) -> None:
        self._data.close()

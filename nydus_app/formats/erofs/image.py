"""A RAFS v5 tree as an EROFS image: the second pass, which writes what `plan.py` has placed.

Attributes are those of the FUSE path (`filesystems/rafs.py`).
"""

import stat
from collections.abc import Callable, Iterator
from struct import Struct

from nydus_app.formats.erofs.directory import BLOCK, TYPE_OF_MODE, Entry, encode_blocks, with_dots
from nydus_app.formats.erofs.plan import (
    INO,
    MODE,
    RDEV,
    RECORD,
    SIZE,
    SLOTS_AT,
    Plan,
    Record,
)
from nydus_app.formats.erofs.structs import (
    CHUNK_BASED,
    CHUNK_FORMAT_INDEXES,
    CHUNK_INDEX,
    DEVICE_SLOT,
    EXTENDED,
    EXTENDED_BIT,
    FLAT_INLINE,
    FLAT_PLAIN,
    HOLE,
    INCOMPAT_CHUNKED_FILE,
    INCOMPAT_DEVICE_TABLE,
    MAGIC,
    SLOT_SIZE,
    SUPERBLOCK,
    SUPERBLOCK_AT,
)
from nydus_app.formats.erofs.xattrs import xattr_count
from nydus_app.formats.rafs.v5 import CHUNK, FLAG_XATTR, INODE, BootstrapV5

BLOCK_BITS = 12
PIECE_BYTES = 1 << 20
ROOT_PERMISSIONS = 0o755

HEAD = Struct("<40xQ12xI36xH")
"""INODE's number, mode and length of name."""

Owner = tuple[int, int] | None


class ErofsImage:
    """The image of `bootstrap`, which must stay open while it is written."""

    def __init__(self, bootstrap: BootstrapV5, *, owner: Owner, verify: bool) -> None:
        """`owner` (uid, gid) stands for all stored ones, None keeps those. Raises InvalidImage."""
        self._plan = Plan(bootstrap, verify=verify)
        self._owner = owner
        self.size = (self._plan.first_block + self._plan.blocks) * BLOCK
        self.tables = self._plan.tables
        """Where the chunks of each blob lie in its device."""

    def pieces(self) -> Iterator[bytes | bytearray]:
        """The mounted file from SUPERBLOCK_AT to `size`; what stands before it is the caller's."""
        plan = self._plan
        out = bytearray(self._superblock())
        base = SUPERBLOCK_AT
        for nid, inode in self._inodes():
            out += bytes(nid * SLOT_SIZE - base - len(out))
            out += inode
            if len(out) >= PIECE_BYTES:
                yield out
                base += len(out)
                out = bytearray()
        out += bytes(plan.first_block * BLOCK - base - len(out))
        for ino in plan.plain:
            for block in self._content(ino):
                out += block
                if len(out) >= PIECE_BYTES:
                    yield out
                    base += len(out)
                    out = bytearray()
            out += bytes(-(base + len(out)) % BLOCK)
        yield out

    def _superblock(self) -> bytes:
        plan = self._plan
        head = SUPERBLOCK.pack(
            MAGIC, 0, 0, BLOCK_BITS, 0, plan.nids[plan.bootstrap.root_ino], plan.inode_count, 0, 0,
            plan.first_block + plan.blocks, 0, 0, b"", b"", INCOMPAT_CHUNKED_FILE | INCOMPAT_DEVICE_TABLE, 0,
            len(plan.tables), SLOTS_AT // DEVICE_SLOT.size,
        )  # fmt: skip
        slots = [
            DEVICE_SLOT.pack(blob.id.encode()[:64], table.blocks, 0)
            for blob, table in zip(plan.bootstrap.blobs, plan.tables, strict=True)
        ]
        return head.ljust(SLOTS_AT - SUPERBLOCK_AT, b"\0") + b"".join(slots)

    # ---- inodes -------------------------------------------------------------------------------

    def _inodes(self) -> Iterator[tuple[int, bytes]]:
        """Nid and bytes of every inode, in ascending order."""
        plan = self._plan
        view, table, nids, unpack = plan.view, plan.table, plan.nids, RECORD.unpack_from
        last = 0
        for ino, size in zip(plan.directories, plan.sizes, strict=True):
            at, record = plan.record(ino)
            if not last:
                last = nids[ino]
                yield last, self._directory(ino, record, size)
            for index in plan.children(ino, record):
                at = table[index - 1] << 3
                child = unpack(view, at)
                real = child[INO]
                nid = nids[real]
                if nid <= last or (real == index and stat.S_ISDIR(child[MODE])):
                    continue
                if real != index:
                    at, child = plan.record(real)
                last = nid
                yield nid, self._file(real, at, child)
            if nids[ino] > last:
                last = nids[ino]
                yield last, self._directory(ino, record, size)

    def _encode(self, ino: int, record: Record, mode: int, layout: int, size: int, union: int) -> bytes:
        """Inode and xattrs."""
        _, uid, gid, _, _, flags, nlink, _, _, _, _, _, mtime_ns, mtime = record
        if self._owner is not None:
            uid, gid = self._owner
        xattrs = self._plan.xattrs(ino) if flags & FLAG_XATTR else b""
        return (
            EXTENDED.pack(
                layout << 1 | EXTENDED_BIT, xattr_count(len(xattrs)), mode, 0, size, union, ino, uid, gid,
                mtime, mtime_ns, nlink,
            )
            + xattrs
        )  # fmt: skip

    def _file(self, ino: int, at: int, record: Record) -> bytes:
        mode, size = record[MODE], record[SIZE]
        if stat.S_ISREG(mode):
            bits = self._plan.chunk_bits
            head = self._encode(ino, record, mode, CHUNK_BASED, size, CHUNK_FORMAT_INDEXES | bits - BLOCK_BITS)
            if not size:
                return head
            count = (size + (1 << bits) - 1) >> bits
            return head + bytes(-len(head) % 8) + self._chunk_indexes(ino, at, record, count)
        if stat.S_ISLNK(mode):
            return self._flat(ino, record, mode, size, lambda: self._plan.target(ino))
        return self._encode(ino, record, mode, FLAT_PLAIN, size, record[RDEV])

    def _chunk_indexes(self, ino: int, at: int, record: Record, count: int) -> bytes:
        at = self._plan.chunk_area(ino, at, record, count)
        find, pack = self._plan.addresses.find, CHUNK_INDEX.pack
        if count == 1:
            blob, start = find(at)
            return pack(0, blob + 1, 0, start)
        places = range(at, at + count * CHUNK.size, CHUNK.size)
        return b"".join([pack(0, blob + 1, 0, start) for blob, start in map(find, places)])

    def _directory(self, ino: int, record: Record, size: int) -> bytes:
        mode = record[MODE]
        if ino == self._plan.bootstrap.root_ino:
            mode = stat.S_IFMT(mode) | ROOT_PERMISSIONS
        return self._flat(ino, record, mode, size, lambda: b"".join(encode_blocks(self._entries(ino, record))))

    def _flat(self, ino: int, record: Record, mode: int, size: int, content: Callable[[], bytes]) -> bytes:
        """A directory or symlink, `content` behind it where the plan says so."""
        start = self._plan.starts[ino]
        if start != HOLE:
            return self._encode(ino, record, mode, FLAT_PLAIN, size, self._plan.first_block + start)
        return self._encode(ino, record, mode, FLAT_INLINE, size, 0) + content()

    # ---- names --------------------------------------------------------------------------------

    def _content(self, ino: int) -> Iterator[bytes]:
        """What has blocks of its own."""
        _, record = self._plan.record(ino)
        if stat.S_ISDIR(record[MODE]):
            return encode_blocks(self._entries(ino, record))
        return iter((self._plan.target(ino),))

    def _entries(self, ino: int, record: Record) -> Iterator[Entry]:
        nids = self._plan.nids
        return with_dots(self._children(ino, record), nids[ino], nids[self._plan.parents[ino]])

    def _children(self, ino: int, record: Record) -> Iterator[Entry]:
        plan = self._plan
        view, table, nids, unpack = plan.view, plan.table, plan.nids, HEAD.unpack_from
        for index in plan.children(ino, record):
            at = table[index - 1] << 3
            real, mode, length = unpack(view, at)
            if real != index:
                _, child = plan.record(real)
                mode = child[MODE]
            at += INODE.size
            yield bytes(view[at : at + length]), nids[real], TYPE_OF_MODE[mode >> 12]

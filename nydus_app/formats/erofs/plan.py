"""Where everything of a RAFS v5 tree goes in an EROFS image: the first of two passes over its inode records.

    superblock | device slots | inodes, with short directories and symlinks inside | blocks of longer ones

Directories are walked breadth first. A directory's inode stands behind those of its files, but the root's,
whose nid has 16 bits, comes first. Nothing is kept of an inode but numbers in arrays; the second
pass (`image.py`) walks the same way again.

Nobody vouches for the records. What a mount may show must be sound before it is mounted, so the first
record that is not ends the layout: InvalidImage. Each index is a child of one directory at most, and records
may not overlap, so neither the walk nor the image can become larger than the bootstrap justifies.
"""

import stat
from array import array
from struct import Struct

from nydus_app.errors import InvalidImage, UnsupportedImage
from nydus_app.formats.erofs.addresses import ChunkAddresses
from nydus_app.formats.erofs.directory import BLOCK, TYPE_OF_MODE, size_of
from nydus_app.formats.erofs.structs import DEVICE_SLOT, EXTENDED, HOLE, NAME_MAX, SLOT_SIZE
from nydus_app.formats.erofs.xattrs import encode_xattrs
from nydus_app.formats.rafs.v5 import CHUNK, FLAG_SYMLINK, FLAG_XATTR, INODE, SUPERBLOCK_SIZE, BootstrapV5
from nydus_app.formats.rafs.values import Inode

SLOTS_AT = 1152
MAX_SYMLINK = 4095
DOTS = (b".", b"..")

RECORD = Struct("<40xQ2I4xIQ8xQ3I2H2IQ8x")
"""INODE without what is not shown: ino, uid, gid, mode, size, flags, nlink, first child, number of
children or chunks, length of name and of target, rdev, mtime ns and s."""

Record = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int]

INO, UID, GID, MODE, SIZE, FLAGS, NLINK, FIRST, COUNT, NAME, TARGET, RDEV, MTIME_NS, MTIME_S = range(14)


class Plan:
    """What `image.py` writes by."""

    def __init__(self, bootstrap: BootstrapV5, *, verify: bool) -> None:
        """`verify` compares every inode with its digest. Raises InvalidImage."""
        self.bootstrap = bootstrap
        self.view, self.table = bootstrap.raw()
        self._verify = verify
        if len(self.view) >> 35:
            raise UnsupportedImage("its bootstrap is larger than 32 GiB")
        if (bootstrap.max_ino - 1) * INODE.size > len(self.view):
            raise InvalidImage("the inode table has more entries than there can be records")
        self._budget = len(self.view)
        self.chunk_bits = bootstrap.chunk_size.bit_length() - 1
        self.addresses = ChunkAddresses(self.view, bootstrap.blobs)
        count = bootstrap.max_ino + 1
        self._is_child = bytearray(count)
        self.nids = array("I", bytes(4 * count))
        """By inode number; 0: the tree does not have it."""
        self.parents = array("I", bytes(4 * count))
        self.starts = array("I", b"\xff" * (4 * count))
        """First of the blocks of a directory or symlink, counted from `first_block`; HOLE: inside of its inode."""
        self.directories = array("I", [bootstrap.root_ino])
        self.sizes = array("Q")
        """Of the directories' entries, in the order of `directories`."""
        self.plain = array("I")
        """Inode numbers of those that have blocks, in the order of the blocks."""
        self.inode_count = 0
        self.blocks = 0
        self._at = -(-(SLOTS_AT + DEVICE_SLOT.size * len(bootstrap.blobs)) // SLOT_SIZE) * SLOT_SIZE
        self.start = self._at
        self._walk()
        self.first_block = -(-self._at // BLOCK)
        if self._at // SLOT_SIZE >= HOLE or self.first_block + self.blocks >= HOLE:
            raise UnsupportedImage("its inodes do not fit EROFS's 32-bit addresses")
        self.tables = self.addresses.assign()

    # ---- the walk -----------------------------------------------------------------------------

    def _walk(self) -> None:
        root = self.bootstrap.root_ino
        self._is_child[root] = 1
        self.parents[root] = root
        for ino in self.directories:
            at, record = self.record(ino)
            if not stat.S_ISDIR(record[MODE]):
                raise InvalidImage("the root is no directory")
            xattrs = self._check(ino, at, record)
            if ino == root:
                self._place(ino, EXTENDED.size + xattrs)
            size = self._place_children(ino, record)
            self.sizes.append(size)
            if ino == root:
                self._take_blocks(ino, size)
            else:
                self._place_with(ino, EXTENDED.size + xattrs, size)

    def record(self, ino: int) -> tuple[int, Record]:
        """Offset and fields of the record that describes an inode number."""
        at = self.bootstrap.record(ino)
        record = RECORD.unpack_from(self.view, at)
        if record[INO] != ino:
            raise InvalidImage(f"inode {ino} calls itself {record[INO]}")
        return at, record

    def children(self, ino: int, record: Record) -> range:
        """Indexes of a directory's children."""
        first, count = record[FIRST], record[COUNT]
        if count and (first <= 1 or first + count - 1 > self.bootstrap.max_ino):
            raise InvalidImage(f"directory {ino} has children outside of the inode table")
        return range(first, first + count)

    def _place_children(self, ino: int, record: Record) -> int:
        """All children but directories, which are left for later; the size of the directory's entries."""
        children = self.children(ino, record)
        if self._is_child.find(1, children.start, children.stop) >= 0:
            raise InvalidImage(f"directory {ino} shares children with another, or is its own")
        self._is_child[children.start : children.stop] = b"\1" * len(children)
        view, table, nids, unpack = self.view, self.table, self.nids, RECORD.unpack_from
        end = len(view) - INODE.size
        lengths = array("H")
        before_dot = before_dots = 0
        last = b""
        for index in children:
            at = table[index - 1] << 3
            if not SUPERBLOCK_SIZE <= at <= end:
                raise InvalidImage(f"inode {index} lies outside of the bootstrap")
            child = unpack(view, at)
            real, mode, length = child[INO], child[MODE], child[NAME]
            name = bytes(view[at + INODE.size : at + INODE.size + length])
            if not 0 < length <= NAME_MAX or len(name) != length or b"/" in name or b"\0" in name or name in DOTS:
                raise InvalidImage(f"{name!r} is no file name")
            if name <= last:
                raise InvalidImage(f"directory {ino} is not sorted: {name!r} follows {last!r}")
            last = name
            lengths.append(length)
            before_dot += name < b"."
            before_dots += name < b".."
            self._budget -= INODE.size + length
            if real != index:
                at, child = self.record(real)
                if stat.S_ISDIR(child[MODE]):
                    raise InvalidImage(f"inode {index} is a link to directory {real}")
            elif stat.S_ISDIR(mode):
                self.parents[index] = ino
                self.directories.append(index)
                continue
            if not nids[real]:
                self._place_file(real, at, child)
        lengths.insert(before_dots, 2)
        lengths.insert(before_dot, 1)
        return size_of(lengths)

    # ---- one inode ----------------------------------------------------------------------------

    def _check(self, ino: int, at: int, record: Record) -> int:
        """Whether EROFS can show it as it is; the size of its xattrs. Raises InvalidImage."""
        _, _, _, mode, size, flags, nlink, _, _, name, _, _, mtime_ns, _ = record
        if mode > 0xFFFF or not TYPE_OF_MODE[mode >> 12] or not nlink or size >> 63 or mtime_ns >= 1_000_000_000:
            raise InvalidImage(f"inode {ino} is none")
        if self._verify:
            self.bootstrap.verify_record(ino, at)
        if self._budget < 0:
            raise InvalidImage("inode records overlap")
        if not flags & FLAG_XATTR:
            return 0
        xattrs = len(self.xattrs(ino))
        self._budget -= xattrs // 2  # the image's form may be a little longer
        return xattrs

    def inode(self, ino: int) -> Inode:
        return self.bootstrap.inode(ino)

    def xattrs(self, ino: int) -> bytes:
        return encode_xattrs(self.bootstrap.xattrs(self.inode(ino)))

    def _place(self, ino: int, size: int) -> None:
        self.nids[ino] = self._at // SLOT_SIZE
        self._at += (size + SLOT_SIZE - 1) & -SLOT_SIZE
        self.inode_count += 1

    def _take_blocks(self, ino: int, size: int) -> None:
        self.starts[ino] = self.blocks
        self.plain.append(ino)
        self.blocks += -(-size // BLOCK)

    def _place_with(self, ino: int, head: int, size: int) -> None:
        """An inode of `head` bytes with `size` bytes behind it, which must not cross a block; or else elsewhere."""
        if head + size > BLOCK:
            self._take_blocks(ino, size)
            self._place(ino, head)
            return
        if self._at % BLOCK + head + size > BLOCK:
            self._at += -self._at % BLOCK
        self._place(ino, head + size)

    def _place_file(self, ino: int, at: int, record: Record) -> None:
        head = EXTENDED.size + self._check(ino, at, record)
        mode, size = record[MODE], record[SIZE]
        if stat.S_ISREG(mode):
            if size:
                count = (size + (1 << self.chunk_bits) - 1) >> self.chunk_bits
                self._add_chunks(ino, at, record, count)
                head = (head + 7 & -8) + 8 * count
            self._place(ino, head)
        elif stat.S_ISLNK(mode):
            target = len(self.target(ino))
            if target != size or not 0 < size <= MAX_SYMLINK:
                raise InvalidImage(f"symlink {ino} has a target of {target} bytes, but a size of {size}")
            self._budget -= target
            self._place_with(ino, head, size)
        else:
            self._place(ino, head)

    def target(self, ino: int) -> bytes:
        return self.bootstrap.readlink(self.inode(ino))

    def chunk_area(self, ino: int, at: int, record: Record, count: int) -> int:
        """Offset of the first of `count` chunk records."""
        if record[FLAGS] & (FLAG_SYMLINK | FLAG_XATTR):
            at, _ = self.bootstrap.chunk_area(self.inode(ino))
        else:
            at += INODE.size + (record[NAME] + 7 & -8)
        if count > record[COUNT] or at + count * CHUNK.size > len(self.view):
            raise InvalidImage(f"inode {ino} has too few chunk records for its {record[SIZE]} bytes")
        return at

    def _add_chunks(self, ino: int, at: int, record: Record, count: int) -> None:
        self._budget -= count * CHUNK.size
        if self._budget < 0:
            raise InvalidImage("chunk records overlap")
        at = self.chunk_area(ino, at, record, count)
        left = record[SIZE]
        if count == 1:
            self.addresses.add(at, left)
            return
        add, step = self.addresses.add, 1 << self.chunk_bits
        for place in range(at, at + count * CHUNK.size, CHUNK.size):
            add(place, min(left, step))
            left -= step

"""On-disk structures of EROFS, as far as images over device files need them (Linux `fs/erofs/erofs_fs.h`).

An inode number (nid) is the inode's place: it lies at meta_blkaddr * block + nid * 32. All integers are
little-endian.
"""

import stat
from struct import Struct

SUPERBLOCK_AT = 1024
MAGIC = 0xE0F5E1E2
INCOMPAT_CHUNKED_FILE, INCOMPAT_DEVICE_TABLE = 0x4, 0x8

SUPERBLOCK = Struct("<3I2BHQQ4I16s16sI3H")
DEVICE_SLOT = Struct("<64s2I56x")
EXTENDED = Struct("<4HQ4IQ2I16x")
COMPACT = Struct("<4H4I2HI")
DIRENT = Struct("<QHBx")
CHUNK_INDEX = Struct("<H2BI")
XATTR_HEADER_SIZE = 12
XATTR_ENTRY = Struct("<2BH")

SLOT_SIZE = 32
"""The unit of nids."""

EXTENDED_BIT = 1
"""Bit 0 of i_format; the data layout stands above it."""

FLAT_PLAIN, FLAT_INLINE, CHUNK_BASED = 0, 2, 4
CHUNK_FORMAT_INDEXES = 0x20
HOLE = 0xFFFF_FFFF
"""The block address of what lies nowhere."""

NAME_MAX = 255

XATTR_PREFIX = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
FILE_TYPE = {
    1: stat.S_IFREG,
    2: stat.S_IFDIR,
    3: stat.S_IFCHR,
    4: stat.S_IFBLK,
    5: stat.S_IFIFO,
    6: stat.S_IFSOCK,
    7: stat.S_IFLNK,
}

"""Replies and notifications, values → bytes: each is a whole message but `encode_data`, which data follow.

Timeouts are whole seconds. Attributes come as whatever has the fields of struct stat, times in nanoseconds.
"""

from struct import Struct
from typing import Protocol

from nydus_app.protocols.fuse.init import Settings
from nydus_app.protocols.fuse.numbers import OUT_HEADER_SIZE, NotifyCode

HEADER = Struct("<IiQ")  # fuse_out_header
INIT = Struct("<IiQ 4I2H2I2HI28x")  # … fuse_init_out
ENTRY = Struct("<IiQ 4Q2I 6Q10I")  # … fuse_entry_out with its fuse_attr
ATTR = Struct("<IiQ QI4x 6Q10I")  # … fuse_attr_out
OPEN = Struct("<IiQ QI4x")  # … fuse_open_out
STATFS = Struct("<IiQ 5Q3I28x")  # … fuse_statfs_out
XATTR_SIZE = Struct("<IiQ I4x")  # … fuse_getxattr_out
DIRENT = Struct("<2Q2I")  # fuse_dirent; the name follows, padded to 8 bytes
DIRENTPLUS = Struct("<4Q2I 6Q10I 2Q2I")  # fuse_direntplus; the same

NS = 1_000_000_000
U64 = (1 << 64) - 1
BLOCK_SIZE = 4096


class Attributes(Protocol):
    @property
    def ino(self) -> int: ...
    @property
    def mode(self) -> int: ...
    @property
    def nlink(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def rdev(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    @property
    def atime_ns(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def ctime_ns(self) -> int: ...


def _attr(a: Attributes) -> tuple[int, ...]:
    """fuse_attr. Times before 1970 are two's complement."""
    atime, atime_ns = divmod(a.atime_ns, NS)
    mtime, mtime_ns = divmod(a.mtime_ns, NS)
    ctime, ctime_ns = divmod(a.ctime_ns, NS)
    return (
        a.ino, a.size, a.blocks, atime & U64, mtime & U64, ctime & U64, atime_ns, mtime_ns, ctime_ns,
        a.mode, a.nlink, a.uid, a.gid, a.rdev, BLOCK_SIZE, 0,
    )  # fmt: skip


def encode_error(unique: int, errno: int) -> bytes:
    """0 is success without data; the kernel takes up to 511."""
    return HEADER.pack(OUT_HEADER_SIZE, -errno, unique)


def encode_data(unique: int, size: int) -> bytes:
    """The header of a reply whose `size` bytes of data follow it."""
    return HEADER.pack(OUT_HEADER_SIZE + size, 0, unique)


def encode_entry(unique: int, node: int, attr: Attributes, valid_s: int) -> bytes:
    return ENTRY.pack(ENTRY.size, 0, unique, node, 0, valid_s, valid_s, 0, 0, *_attr(attr))


def encode_negative_entry(unique: int, valid_s: int) -> bytes:
    """A name that is not there, to be remembered: node 0."""
    return ENTRY.pack(ENTRY.size, 0, unique, 0, 0, valid_s, *(0,) * 19)


def encode_attr(unique: int, attr: Attributes, valid_s: int) -> bytes:
    return ATTR.pack(ATTR.size, 0, unique, valid_s, 0, *_attr(attr))


def encode_open(unique: int, handle: int, flags: int) -> bytes:
    return OPEN.pack(OPEN.size, 0, unique, handle, flags)


def encode_statfs(unique: int, block_size: int, blocks: int, files: int, name_max: int) -> bytes:
    """Nothing is free."""
    return STATFS.pack(STATFS.size, 0, unique, blocks, 0, 0, files, 0, block_size, name_max, block_size)


def encode_xattr_size(unique: int, size: int) -> bytes:
    return XATTR_SIZE.pack(XATTR_SIZE.size, 0, unique, size)


def encode_init(unique: int, settings: Settings) -> bytes:
    low, high = settings.flags & 0xFFFF_FFFF, settings.flags >> 32
    return INIT.pack(
        INIT.size, 0, unique, settings.major, settings.minor, settings.max_readahead, low,
        settings.max_background, settings.congestion_threshold, settings.max_write, settings.time_gran,
        settings.max_pages, 0, high,
    )  # fmt: skip


def _padding(size: int) -> bytes:
    return bytes(-size % 8)


def encode_dirent(ino: int, offset: int, mode: int, name: bytes) -> bytes:
    """`offset` continues the listing behind this entry."""
    return DIRENT.pack(ino, offset, len(name), mode >> 12) + name + _padding(len(name))


def encode_direntplus(node: int, attr: Attributes, valid_s: int, offset: int, name: bytes) -> bytes:
    """With what LOOKUP would answer; the kernel does not count a lookup of node 0, nor of `.` and `..`."""
    return (
        DIRENTPLUS.pack(
            node, 0, valid_s, valid_s, 0, 0, *_attr(attr), attr.ino, offset, len(name), attr.mode >> 12
        )
        + name
        + _padding(len(name))
    )


def encode_resend() -> bytes:
    """Send again what is in flight (7.40, Linux 6.9)."""
    return HEADER.pack(OUT_HEADER_SIZE, NotifyCode.RESEND, 0)


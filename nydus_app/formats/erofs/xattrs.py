"""Inline xattrs: a header, then entries of a prefix number, the rest of the name, and the value.

Linux `fs/erofs/xattr.h`; rafs-format 5.7. What has no prefix number cannot be said in EROFS.
"""

from collections.abc import Iterable

from nydus_app.errors import UnsupportedImage
from nydus_app.formats.erofs.structs import XATTR_ENTRY, XATTR_HEADER_SIZE, XATTR_PREFIX

MAX_SUFFIX, MAX_VALUE, MAX_WORDS = 0xFF, 0xFFFF, 0xFFFF


def _split(key: bytes) -> tuple[int, bytes]:
    for number, prefix in XATTR_PREFIX.items():
        # "user." and its like need a name behind them, the ACLs have none.
        if key == prefix if not prefix.endswith(b".") else key.startswith(prefix) and key != prefix:
            return number, key[len(prefix) :]
    raise UnsupportedImage(f"EROFS has no xattr named {key!r}")


def encode_xattrs(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The area behind the inode; nothing where there are no pairs. Raises UnsupportedImage."""
    area = bytearray()
    seen: set[bytes] = set()
    for key, value in pairs:
        number, suffix = _split(key)
        if len(suffix) > MAX_SUFFIX or len(value) > MAX_VALUE or key in seen:
            raise UnsupportedImage(f"xattr {key[:300]!r} is too long for EROFS, or there twice")
        seen.add(key)
        area += XATTR_ENTRY.pack(len(suffix), number, len(value)) + suffix + value
        area += bytes(-len(area) % 4)
    if not area:
        return b""
    if xattr_count(XATTR_HEADER_SIZE + len(area)) > MAX_WORDS:
        raise UnsupportedImage("the xattrs of an inode are too long for EROFS")
    return bytes(XATTR_HEADER_SIZE) + bytes(area)


def xattr_count(size: int) -> int:
    """i_xattr_icount of an area of `size` bytes."""
    return (size - XATTR_HEADER_SIZE) // 4 + 1 if size else 0

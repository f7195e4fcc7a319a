"""A RAFS image as a FileSystem: metadata from the mapped bootstrap, data from the device.

Attributes are those that nydusd shows (contract 9.4), but a stored time of 0 is shown as 0.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from itertools import chain

from nydus_app.errors import InvalidImage
from nydus_app.filesystems.port import Attr, Entry, Statfs
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Bootstrap, Chunk, Inode, SuperFlags
from nydus_app.storage.device import Device

MAX_INO = (1 << 56) - 1
"""Inode numbers leave the upper byte to the VFS."""

AHEAD_CHUNKS = 256
"""Records of the same file that amplification may look at."""


class RafsFileSystem:
    """`verify_inodes` checks v5 inodes against their digests before they are shown."""

    tracks_opens = False

    def __init__(
        self, bootstrap: Bootstrap, device: Device, *, enable_xattr: bool, verify_inodes: bool
    ) -> None:
        if bootstrap.max_ino > MAX_INO:
            raise InvalidImage(f"inode numbers up to {bootstrap.max_ino} do not fit 56 bits")
        self._bootstrap = bootstrap
        self._device = device
        self._has_xattr = enable_xattr or bool(bootstrap.flags & SuperFlags.HAS_XATTR)
        self._verify = verify_inodes and bootstrap.version == 5
        explicit = bool(bootstrap.flags & SuperFlags.EXPLICIT_UID_GID)
        self._owner = None if explicit else (os.geteuid(), os.getegid())
        self.root = bootstrap.root_ino

    def _inode(self, ino: int) -> Inode:
        inode = self._bootstrap.inode(ino)
        if self._verify:
            self._bootstrap.verify_inode(inode)
        return inode

    def _attr(self, inode: Inode) -> Attr:
        mode = inode.mode
        if inode.ino == self.root:
            mode = stat.S_IFMT(mode) | 0o755
        uid, gid = self._owner or (inode.uid, inode.gid)
        mtime = inode.mtime_s * 1_000_000_000 + inode.mtime_ns
        return Attr(
            inode.ino, mode, inode.nlink, uid, gid, inode.rdev, inode.size, inode.blocks, 0, mtime, 0
        )

    def _directory(self, ino: int) -> Inode:
        inode = self._inode(ino)
        if not stat.S_ISDIR(inode.mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return inode

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        ino = self._bootstrap.lookup(self._directory(parent), name)
        return None if ino is None else self._attr(self._inode(ino))

    def getattr(self, ino: int) -> Attr:
        return self._attr(self._inode(ino))

    def readdir(self, ino: int, start: int) -> Iterator[Entry]:
        for entry in self._bootstrap.entries(self._directory(ino), start):
            yield Entry(entry.offset, entry.name, self._attr(self._inode(entry.ino)))

    def readlink(self, ino: int) -> bytes:
        inode = self._inode(ino)
        if not stat.S_ISLNK(inode.mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return self._bootstrap.readlink(inode)

    def xattr_names(self, ino: int) -> list[bytes]:
        self._require_xattr()
        return self._bootstrap.xattr_names(self._inode(ino))

    def xattr(self, ino: int, name: bytes) -> bytes:
        self._require_xattr()
        value = self._bootstrap.xattr(self._inode(ino), name)
        if value is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return value

    def _require_xattr(self) -> None:
        if not self._has_xattr:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    def statfs(self) -> Statfs:
        return Statfs(block_size=512, blocks=0, files=self._bootstrap.inode_count, name_max=255)

    def open(self, ino: int) -> None:
        if not stat.S_ISREG(self._bootstrap.inode(ino).mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def release(self, ino: int) -> None:
        """Nothing is kept for an open file."""

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        inode = self._bootstrap.inode(ino)
        end = min(offset + size, inode.size)
        if offset >= end:
            return []
        segments = self._bootstrap.segments(inode, offset, end)
        return await self._device.read(segments, self._ahead(inode, (end - 1) // self._bootstrap.chunk_size + 1))

    def _ahead(self, inode: Inode, number: int) -> Iterator[Chunk]:
        """What a reader of chunk `number - 1` is likely to want next, where the image knows (v5)."""
        if self._bootstrap.version != 5:
            return iter(())
        count = -(-inode.size // self._bootstrap.chunk_size)
        rest = min(count - number, AHEAD_CHUNKS)
        own = self._bootstrap.chunks(inode, number, rest) if rest > 0 else []
        return chain(own, self._bootstrap.neighbours(inode))

    async def work(self) -> None:
        await self._device.work()

    def close(self) -> None:
        self._device.close()
        self._bootstrap.close()

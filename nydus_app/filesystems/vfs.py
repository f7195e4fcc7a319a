"""The VFS: one FileSystem made of mounts, with nydusd's inode numbers.

An inode number is (mount index << 56) | inode of the mount; indexes start at 1 and 0 stays free for
the pseudo directories that lead to mounts below the root. A mount at `/` is the root itself.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import trio

from nydus_app.errors import NydusError, Unsupported
from nydus_app.filesystems.port import Attr, Entry, FileSystem, Statfs
from nydus_app.formats.codec.compress import Buffer

INDEX_SHIFT = 56
INO_MASK = (1 << INDEX_SHIFT) - 1
MAX_MOUNTS = 255


class Mount(NamedTuple):
    path: str
    index: int
    filesystem: FileSystem


class Vfs:
    """A FileSystem over the file systems mounted in it; closing it closes them."""

    def __init__(self) -> None:
        self._mounts: dict[int, Mount] = {}

    def mount(self, path: str, filesystem: FileSystem) -> None:
        if path != "/":
            raise Unsupported(f"virtual mountpoint {path}: only / can be mounted")
        if any(m.path == path for m in self._mounts.values()):
            raise NydusError(f"{path} is mounted already")
        index = len(self._mounts) + 1
        if index > MAX_MOUNTS:
            raise NydusError(f"more than {MAX_MOUNTS} mounts")
        self._mounts[index] = Mount(path, index, filesystem)

    @property
    def root(self) -> int:
        mount = self._mounts[1]
        return mount.index << INDEX_SHIFT | mount.filesystem.root

    @property
    def tracks_opens(self) -> bool:
        return any(m.filesystem.tracks_opens for m in self._mounts.values())

    def _resolve(self, ino: int) -> tuple[int, FileSystem, int]:
        """Index bits, file system, inode there. ESTALE for a mount that is gone."""
        mount = self._mounts.get(ino >> INDEX_SHIFT)
        if mount is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return mount.index << INDEX_SHIFT, mount.filesystem, ino & INO_MASK

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        bits, fs, ino = self._resolve(parent)
        attr = fs.lookup(ino, name)
        return None if attr is None else attr._replace(ino=bits | attr.ino)

    def getattr(self, ino: int) -> Attr:
        bits, fs, own = self._resolve(ino)
        return fs.getattr(own)._replace(ino=bits | own)

    def readdir(self, ino: int, start: int) -> Iterator[Entry]:
        bits, fs, own = self._resolve(ino)
        for entry in fs.readdir(own, start):
            yield entry._replace(attr=entry.attr._replace(ino=bits | entry.attr.ino))

    def readlink(self, ino: int) -> bytes:
        _, fs, own = self._resolve(ino)
        return fs.readlink(own)

    def xattr_names(self, ino: int) -> list[bytes]:
        _, fs, own = self._resolve(ino)
        return fs.xattr_names(own)

    def xattr(self, ino: int, name: bytes) -> bytes:
        _, fs, own = self._resolve(ino)
        return fs.xattr(own, name)

    def statfs(self) -> Statfs:
        return self._mounts[1].filesystem.statfs()

    def open(self, ino: int) -> None:
        _, fs, own = self._resolve(ino)
        fs.open(own)

    def release(self, ino: int) -> None:
        _, fs, own = self._resolve(ino)
        fs.release(own)

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        _, fs, own = self._resolve(ino)
        return await fs.read(own, offset, size)

    async def work(self) -> None:
        async with trio.open_nursery() as nursery:
            for mount in self._mounts.values():
                nursery.start_soon(mount.filesystem.work)

    def close(self) -> None:
        for mount in self._mounts.values():
            mount.filesystem.close()
        self._mounts.clear()

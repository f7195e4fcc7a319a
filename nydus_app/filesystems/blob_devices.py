"""Blobs as files of one directory: devices of the kernel's EROFS, for any number of its mounts.

A READ is answered whole or with an error, never short: a short answer would shrink the file in the
kernel, and every later read behind it would fail until the next mount.

The kernel opens a device with its mount and releases it when the last user of that mount is gone: that is
how an unmount from outside is noticed (`Device.released`). Names are numbers that are never used again,
because the kernel may remember that one was not there; the listing hides them.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from nydus_app.errors import CacheError
from nydus_app.filesystems.port import Attr, Entry, Statfs
from nydus_app.formats.codec.compress import Buffer
from nydus_app.storage.address_space import AddressSpace
from nydus_app.storage.background import Background

ROOT = 1
FIRST_DEVICE = 2


class BlobDevice:
    """One blob's file. `released` and `answered` (offset, bytes) are called on the transport's thread."""

    def __init__(self, ino: int, blob_id: str, space: AddressSpace) -> None:
        self.ino = ino
        self.blob_id = blob_id
        self.name = str(ino)
        self.space = space
        self.opens = 0
        self.own_opens = 0
        self.released: Callable[[], None] = lambda: None
        self.answered: Callable[[int, int], None] = lambda offset, size: None


class BlobDevices:
    """A FileSystem of one flat directory; `background` is that of the caches behind all its devices."""

    root = ROOT
    tracks_opens = True

    def __init__(self, background: Background) -> None:
        self.work = background.run
        self._devices: dict[int, BlobDevice] = {}
        self._next = FIRST_DEVICE

    def add(self, blob_id: str, space: AddressSpace) -> BlobDevice:
        device = self._devices[self._next] = BlobDevice(self._next, blob_id, space)
        self._next += 1
        return device

    def remove(self, device: BlobDevice) -> None:
        del self._devices[device.ino]

    def _device(self, ino: int) -> BlobDevice:
        device = self._devices.get(ino)
        if device is None:
            raise OSError(errno.EISDIR if ino == ROOT else errno.ESTALE, "")
        return device

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        if parent != ROOT:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        ino = int(name) if name.isdigit() and len(name) < 20 else 0
        return self.getattr(ino) if ino in self._devices and str(ino).encode() == name else None

    def getattr(self, ino: int) -> Attr:
        if ino == ROOT:
            return Attr(ROOT, stat.S_IFDIR | 0o700, 2, os.geteuid(), os.getegid(), 0, 0, 0, 0, 0, 0)
        size = self._device(ino).space.size
        return Attr(ino, stat.S_IFREG | 0o400, 1, os.geteuid(), os.getegid(), 0, size, -(-size // 512), 0, 0, 0)

    def readdir(self, ino: int, start: int) -> Iterator[Entry]:
        """Nothing: who walks the machine's trees shall not read the devices."""
        return iter(())

    def readlink(self, ino: int) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def xattr_names(self, ino: int) -> list[bytes]:
        return []

    def xattr(self, ino: int, name: bytes) -> bytes:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    def statfs(self) -> Statfs:
        return Statfs(block_size=4096, blocks=0, files=len(self._devices), name_max=255)

    def open(self, ino: int) -> None:
        self._device(ino).opens += 1

    def release(self, ino: int) -> None:
        device = self._device(ino)
        device.opens -= 1
        if device.opens <= device.own_opens:
            device.released()

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        device = self._device(ino)
        parts = await device.space.read(offset, size)
        if sum(map(len, parts)) != max(0, min(size, device.space.size - offset)):
            raise CacheError(f"blob {device.blob_id}: a short read at {offset}")
        device.answered(offset, size)
        return parts

    def close(self) -> None:
        self._devices.clear()

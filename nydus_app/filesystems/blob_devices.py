"""The blobs of an image as files `0`, `1`, … of one directory: devices of the kernel's EROFS.

A READ is answered whole or with an error, never short: a short answer would shrink the file in the
kernel, and every later read behind it would fail until the next mount.

The kernel opens every device once with its mount and releases it with its unmount; that is how an
unmount from outside is noticed (`on_released`).
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from nydus_app.errors import CacheError
from nydus_app.filesystems.port import Attr, Entry, Statfs
from nydus_app.formats.codec.compress import Buffer
from nydus_app.storage.address_space import AddressSpace
from nydus_app.storage.device import Device

ROOT = 1
FIRST_DEVICE = 2


class BlobDevices:
    """A FileSystem of one flat directory. `spaces` read from `device`; `close` is called with the daemon's end."""

    root = ROOT

    def __init__(self, spaces: Sequence[AddressSpace], device: Device, close: Callable[[], None]) -> None:
        self._spaces = spaces
        self._device = device
        self._close = close
        self._open = 0
        self.on_released: Callable[[], None] = lambda: None

    def names(self) -> list[str]:
        return [str(i) for i in range(len(self._spaces))]

    def _space(self, ino: int) -> AddressSpace:
        if not FIRST_DEVICE <= ino < FIRST_DEVICE + len(self._spaces):
            raise OSError(errno.EISDIR if ino == ROOT else errno.ESTALE, "")
        return self._spaces[ino - FIRST_DEVICE]

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        if not name.isdigit() or str(int(name)).encode() != name or int(name) >= len(self._spaces):
            return None
        return self.getattr(FIRST_DEVICE + int(name))

    def getattr(self, ino: int) -> Attr:
        if ino == ROOT:
            return Attr(ROOT, stat.S_IFDIR | 0o700, 2, os.geteuid(), os.getegid(), 0, 0, 0, 0, 0, 0)
        size = self._space(ino).size
        return Attr(ino, stat.S_IFREG | 0o400, 1, os.geteuid(), os.getegid(), 0, size, -(-size // 512), 0, 0, 0)

    def readdir(self, ino: int, start: int) -> Iterator[Entry]:
        for number in range(start, len(self._spaces)):
            yield Entry(number + 1, str(number).encode(), self.getattr(FIRST_DEVICE + number))

    def readlink(self, ino: int) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def xattr_names(self, ino: int) -> list[bytes]:
        return []

    def xattr(self, ino: int, name: bytes) -> bytes:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    def statfs(self) -> Statfs:
        return Statfs(block_size=4096, blocks=0, files=len(self._spaces), name_max=255)

    def open(self, ino: int) -> None:
        self._space(ino)
        self._open += 1

    def release(self, ino: int) -> None:
        self._open -= 1
        if not self._open:
            self.on_released()

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        space = self._space(ino)
        data = await space.read(offset, size)
        if sum(map(len, data)) != max(0, min(size, space.size - offset)):
            raise CacheError(f"device {ino - FIRST_DEVICE}: a short read at {offset}")
        return data

    async def work(self) -> None:
        await self._device.work()

    def close(self) -> None:
        self._close()

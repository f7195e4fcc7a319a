"""A FileSystem served to the kernel by libfuse, through pyfuse3; nothing else knows pyfuse3.

pyfuse3 has one session a process. Its main loop ends, and the mount with it, when a handler raises
anything but FUSEError; so one guard stands around all of them, and answers whatever goes wrong with
the errno of `nydus_app.errors`, logged with its cause.
"""

import errno
import functools
import os
from collections.abc import Awaitable, Callable
from typing import Any, ParamSpec, TypeVar

import pyfuse3

from nydus_app.errors import Unsupported
from nydus_app.filesystems.port import Attr, FileSystem
from nydus_app.linux.fuse_device import FuseDevice
from nydus_app.protocols.fuse.init import Settings
from nydus_app.transports.guard import errno_of

P = ParamSpec("P")
R = TypeVar("R")

FOREVER_S = float(1 << 32)
"""Images do not change: nydusd's validity of entries and attributes (contract 9.3)."""


def guarded(handler: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
    """Only FUSEError and cancellation leave a handler."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except Exception as e:
            raise pyfuse3.FUSEError(errno_of(e, handler.__name__)) from None

    return wrapper


class _Handlers(pyfuse3.Operations):  # type: ignore[misc]
    """Node id 1 is the file system's root; all other node ids are its inode numbers.

    File handles are inode numbers, and lookup counts are not kept: inodes do not go away. FLUSH and
    ACCESS stay pyfuse3's ENOSYS, after which the kernel does not send them again.
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, filesystem: FileSystem) -> None:
        super().__init__()
        self._fs = filesystem

    def _ino(self, node: int) -> int:
        return self._fs.root if node == pyfuse3.ROOT_INODE else node

    @guarded
    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        attr = self._fs.lookup(self._ino(parent), name)
        return _negative() if attr is None else _attributes(attr)

    @guarded
    async def getattr(self, node: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return _attributes(self._fs.getattr(self._ino(node)))

    @guarded
    async def readlink(self, node: int, ctx: Any) -> bytes:
        return self._fs.readlink(self._ino(node))

    @guarded
    async def open(self, node: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        self._fs.open(self._ino(node))
        return pyfuse3.FileInfo(fh=node, keep_cache=True)

    @guarded
    async def read(self, handle: int, offset: int, size: int) -> Any:
        parts = await self._fs.read(self._ino(handle), offset, size)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @guarded
    async def release(self, handle: int) -> None:
        self._fs.release(self._ino(handle))

    @guarded
    async def opendir(self, node: int, ctx: Any) -> int:
        return node

    @guarded
    async def readdir(self, handle: int, start: int, token: Any) -> None:
        for entry in self._fs.readdir(self._ino(handle), start):
            if not pyfuse3.readdir_reply(token, entry.name, _attributes(entry.attr), entry.offset):
                break

    @guarded
    async def releasedir(self, handle: int) -> None:
        return

    @guarded
    async def getxattr(self, node: int, name: bytes, ctx: Any) -> bytes:
        return self._fs.xattr(self._ino(node), name)

    @guarded
    async def listxattr(self, node: int, ctx: Any) -> list[bytes]:
        return self._fs.xattr_names(self._ino(node))

    @guarded
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        have, reply = self._fs.statfs(), pyfuse3.StatvfsData()
        reply.f_bsize = reply.f_frsize = have.block_size
        reply.f_blocks = have.blocks
        reply.f_files = have.files
        reply.f_namemax = have.name_max
        return reply

    async def forget(self, inode_list: Any) -> None:
        return


def _attributes(attr: Attr) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = attr.ino
    entry.generation = 0
    entry.entry_timeout = FOREVER_S
    entry.attr_timeout = FOREVER_S
    entry.st_mode = attr.mode
    entry.st_nlink = attr.nlink
    entry.st_uid = attr.uid
    entry.st_gid = attr.gid
    entry.st_rdev = attr.rdev
    entry.st_size = attr.size
    entry.st_blksize = 4096
    entry.st_blocks = attr.blocks
    entry.st_atime_ns = attr.atime_ns
    entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    return entry


def _negative() -> pyfuse3.EntryAttributes:
    """A name that does not exist and never will: inode 0, cached like any other answer."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = FOREVER_S
    return entry


class LibfuseTransport:
    """Serves `filesystem` on a mounted FuseDevice until it is unmounted or `stop` is called."""

    settings = None
    """libfuse keeps to itself what INIT agreed upon: nobody can go on with its sessions."""

    def __init__(self, filesystem: FileSystem, device: FuseDevice, settings: Settings | None = None) -> None:
        if settings is not None:
            raise Unsupported("mode.driver=pyfuse3 cannot go on with a session; mode.driver=fusedev can")
        # libfuse closes its descriptor with the session; the device keeps its own.
        pyfuse3.init(_Handlers(filesystem), f"/dev/fd/{os.dup(device.fd)}", set())

    def begin(self) -> bool:
        """pyfuse3 answers in trio's loop only."""
        return False

    def stand_back(self) -> None:
        """Whoever reads waits for `serve`."""

    def end_early(self) -> None:
        """Nothing has begun."""

    async def serve(self) -> None:
        """Returns when the kernel has no more requests (unmounted) or after `stop`."""
        await pyfuse3.main()

    def resend(self) -> None:
        """Never called: this driver takes no session over."""

    def stop(self) -> None:
        pyfuse3.terminate()

    def close(self) -> None:
        pyfuse3.close(unmount=False)

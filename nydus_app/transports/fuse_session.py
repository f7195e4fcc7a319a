"""A FUSE session over a FileSystem: a request in, the parts of its reply out. No I/O.

What the kernel may keep, it keeps: images do not change. Names, absent ones included, and attributes
are valid for nydusd's 2^32 seconds (contract 9.3); OPEN and OPENDIR are refused with ENOSYS where
the kernel takes that as "never ask again", and then caches data and listings by itself; so are
FLUSH, ACCESS and whatever else is not served here.

Node id 1 is the file system's root, all other node ids are its inode numbers, and so are handles.
Lookups are not counted: inodes do not go away.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from nydus_app.filesystems.port import Attr, FileSystem
from nydus_app.formats.codec.compress import Buffer
from nydus_app.protocols.fuse import replies, requests
from nydus_app.protocols.fuse.init import Settings, negotiate
from nydus_app.protocols.fuse.numbers import (
    KERNEL_VERSION,
    MINOR_VERSION,
    ROOT_ID,
    InitFlags,
    Opcode,
    OpenFlags,
)
from nydus_app.protocols.fuse.requests import Request
from nydus_app.transports.guard import errno_of

FOREVER_S = 1 << 32
CACHED = OpenFlags.KEEP_CACHE | OpenFlags.CACHE_DIR

DOTS = 2
"""Places of `.` and `..` in a listing."""

MAX_WRITE = 128 << 10
"""Nothing is written here; it bounds requests, and so the buffer that they are read into."""

WANTED = Settings(
    major=KERNEL_VERSION,
    minor=MINOR_VERSION,
    max_readahead=1 << 20,
    flags=int(
        InitFlags.ASYNC_READ
        | InitFlags.BIG_WRITES
        | InitFlags.DO_READDIRPLUS
        | InitFlags.READDIRPLUS_AUTO
        | InitFlags.ASYNC_DIO
        | InitFlags.NO_OPEN_SUPPORT
        | InitFlags.PARALLEL_DIROPS
        | InitFlags.MAX_PAGES
        | InitFlags.CACHE_SYMLINKS
        | InitFlags.NO_OPENDIR_SUPPORT
        | InitFlags.EXPLICIT_INVAL_DATA
        | InitFlags.INIT_EXT
        | InitFlags.HAS_RESEND
    ),
    max_background=65535,
    congestion_threshold=49151,
    max_write=MAX_WRITE,
    time_gran=1,
    max_pages=256,
)
"""nydusd's (contract 9.2) but for what concerns writing and changing files; reads are of 1 MiB."""

UNANSWERED = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY})
CHANGES = frozenset(
    {
        Opcode.SETATTR, Opcode.SYMLINK, Opcode.MKNOD, Opcode.MKDIR, Opcode.UNLINK, Opcode.RMDIR, Opcode.RENAME,
        Opcode.LINK, Opcode.WRITE, Opcode.SETXATTR, Opcode.REMOVEXATTR, Opcode.CREATE, Opcode.FALLOCATE,
        Opcode.RENAME2, Opcode.COPY_FILE_RANGE, Opcode.TMPFILE,
    }
)  # fmt: skip

Parts = Sequence[Buffer]


class FuseSession:
    """`settings` are those of a session that is taken over; else INIT brings them."""

    def __init__(self, filesystem: FileSystem, settings: Settings | None = None) -> None:
        self._fs = filesystem
        self.settings = settings
        self._handlers: dict[int, Callable[[Request], bytes]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.OPEN: self._open,
            Opcode.STATFS: self._statfs,
            Opcode.RELEASE: self._release,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.INIT: self._init,
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: self._readdir,
            Opcode.RELEASEDIR: self._done,
            Opcode.DESTROY: self._done,
            Opcode.READDIRPLUS: self._readdirplus,
        }

    async def answer(self, request: Request) -> Parts:
        """The reply in parts, at most one more than the file system's; none where none is due.

        Never raises, and waits only for `FileSystem.read`; the body is not looked at after that.
        """
        if request.opcode != Opcode.READ:
            return self.answer_now(request)
        try:
            return await self._read(request)
        except Exception as e:
            return [replies.encode_error(request.unique, errno_of(e, _name(Opcode.READ)))]

    def answer_now(self, request: Request) -> Parts:
        """As `answer`, of everything but a READ."""
        opcode, unique = request.opcode, request.unique
        try:
            handler = self._handlers.get(opcode)
            if handler is not None:
                return [handler(request)]
            if opcode in UNANSWERED:
                return []
            return [replies.encode_error(unique, errno.EROFS if opcode in CHANGES else errno.ENOSYS)]
        except Exception as e:
            return [replies.encode_error(unique, errno_of(e, _name(opcode)))]

    def _ino(self, node: int) -> int:
        return self._fs.root if node == ROOT_ID else node

    def _has(self, flag: InitFlags) -> bool:
        return self.settings is not None and bool(self.settings.flags & flag)

    def _init(self, request: Request) -> bytes:
        self.settings = negotiate(requests.decode_init(request.body), WANTED)
        return replies.encode_init(request.unique, self.settings)

    def _done(self, request: Request) -> bytes:
        return replies.encode_error(request.unique, 0)

    # ---- names and attributes -------------------------------------------------------------------

    def _lookup(self, request: Request) -> bytes:
        attr = self._fs.lookup(self._ino(request.node), requests.decode_name(request.body))
        if attr is None:
            return replies.encode_negative_entry(request.unique, FOREVER_S)
        return replies.encode_entry(request.unique, attr.ino, attr, FOREVER_S)

    def _getattr(self, request: Request) -> bytes:
        return replies.encode_attr(request.unique, self._fs.getattr(self._ino(request.node)), FOREVER_S)

    def _readlink(self, request: Request) -> bytes:
        target = self._fs.readlink(self._ino(request.node))
        return replies.encode_data(request.unique, len(target)) + target

    def _statfs(self, request: Request) -> bytes:
        have = self._fs.statfs()
        return replies.encode_statfs(request.unique, have.block_size, have.blocks, have.files, have.name_max)

    def _getxattr(self, request: Request) -> bytes:
        size, name = requests.decode_getxattr(request.body)
        return _sized(request, size, self._fs.xattr(self._ino(request.node), name))

    def _listxattr(self, request: Request) -> bytes:
        size = requests.decode_listxattr(request.body)
        names = self._fs.xattr_names(self._ino(request.node))
        return _sized(request, size, b"".join(name + b"\0" for name in names))

    # ---- files ----------------------------------------------------------------------------------

    def _open(self, request: Request) -> bytes:
        if requests.decode_open(request.body) & os.O_ACCMODE != os.O_RDONLY:
            return replies.encode_error(request.unique, errno.EROFS)
        if not self._fs.tracks_opens and self._has(InitFlags.NO_OPEN_SUPPORT):
            return replies.encode_error(request.unique, errno.ENOSYS)
        self._fs.open(self._ino(request.node))
        return replies.encode_open(request.unique, request.node, OpenFlags.KEEP_CACHE)

    def _release(self, request: Request) -> bytes:
        self._fs.release(self._ino(request.node))
        return replies.encode_error(request.unique, 0)

    async def _read(self, request: Request) -> Parts:
        _, offset, size = requests.decode_read(request.body)
        parts = await self._fs.read(self._ino(request.node), offset, size)
        found = sum(map(len, parts))
        if found > size:
            raise ValueError(f"{found} bytes for a read of {size}")
        return [replies.encode_data(request.unique, found), *parts]

    # ---- directories ----------------------------------------------------------------------------

    def _opendir(self, request: Request) -> bytes:
        if self._has(InitFlags.NO_OPENDIR_SUPPORT):
            return replies.encode_error(request.unique, errno.ENOSYS)
        return replies.encode_open(request.unique, request.node, CACHED)

    def _readdir(self, request: Request) -> bytes:
        def encode(offset: int, name: bytes, attr: Attr) -> bytes:
            return replies.encode_dirent(attr.ino, offset, attr.mode, name)

        return self._listing(request, encode)

    def _readdirplus(self, request: Request) -> bytes:
        def encode(offset: int, name: bytes, attr: Attr) -> bytes:
            node = attr.ino if offset > DOTS else 0
            return replies.encode_direntplus(node, attr, FOREVER_S, offset, name)

        return self._listing(request, encode)

    def _listing(self, request: Request, encode: Callable[[int, bytes, Attr], bytes]) -> bytes:
        """As many whole entries as fit; none is the end."""
        _, start, size = requests.decode_read(request.body)
        found, room = [], size
        for offset, name, attr in self._entries(self._ino(request.node), start):
            entry = encode(offset, name, attr)
            room -= len(entry)
            if room < 0 and not found:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if room < 0:
                break
            found.append(entry)
        return b"".join([replies.encode_data(request.unique, sum(map(len, found))), *found])

    def _entries(self, ino: int, start: int) -> Iterator[tuple[int, bytes, Attr]]:
        """Offsets 1 and 2 are `.` and `..`; those of the file system come behind them."""
        if start < DOTS:
            own = self._fs.getattr(ino)
            if not stat.S_ISDIR(own.mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if start < 1:
                yield 1, b".", own
            yield DOTS, b"..", self._fs.lookup(ino, b"..") or own
        for entry in self._fs.readdir(ino, max(start - DOTS, 0)):
            yield entry.offset + DOTS, entry.name, entry.attr


def _sized(request: Request, size: int, value: bytes) -> bytes:
    """An xattr's value, or its length where no room was offered."""
    if size == 0:
        return replies.encode_xattr_size(request.unique, len(value))
    if len(value) > size:
        return replies.encode_error(request.unique, errno.ERANGE)
    return replies.encode_data(request.unique, len(value)) + value


def _name(opcode: int) -> str:
    return Opcode(opcode).name.lower() if opcode in Opcode._value2member_map_ else f"operation {opcode}"

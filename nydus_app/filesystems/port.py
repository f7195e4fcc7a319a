"""The FileSystem port: what a kernel or a guest asks, without saying how it asks.

Inode numbers are the file system's own 64-bit numbers; `root` is the number of its root. What never
waits is a plain `def`, what may wait for a backend is `async def`. Every method raises errors of
`nydus_app.errors` or an `OSError` that carries the errno to answer with; names are bytes.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from nydus_app.formats.codec.compress import Buffer


class Attr(NamedTuple):
    """struct stat, times in nanoseconds."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int  # of 512 bytes
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Entry(NamedTuple):
    """A directory entry; `offset` continues the listing behind it."""

    offset: int
    name: bytes
    attr: Attr


class Statfs(NamedTuple):
    """struct statvfs; counts of blocks are of `block_size` bytes."""

    block_size: int
    blocks: int
    files: int
    name_max: int


class FileSystem(Protocol):
    root: int

    @property
    def tracks_opens(self) -> bool:
        """`open` and `release` must be told; where not, a kernel need not ask before it reads."""
        ...

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        """None: no such name, and there never will be one (the answer may be cached).

        `..` is the parent (the root's own is the root), or None where directories do not know it.
        """
        ...

    def getattr(self, ino: int) -> Attr: ...

    def readdir(self, ino: int, start: int) -> Iterator[Entry]:
        """Entries whose offset is greater than `start`, without `.` and `..`."""
        ...

    def readlink(self, ino: int) -> bytes: ...

    def xattr_names(self, ino: int) -> list[bytes]: ...

    def xattr(self, ino: int, name: bytes) -> bytes: ...

    def statfs(self) -> Statfs: ...

    def open(self, ino: int) -> None:
        """Check that a regular file may be opened for reading."""
        ...

    def release(self, ino: int) -> None:
        """The kernel has closed what it opened once."""
        ...

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        """Up to `size` bytes in parts that follow each other, fewer bytes only at the end of the file."""
        ...

    async def work(self) -> None:
        """What goes on behind the requests, for as long as somebody serves them; until cancelled."""
        ...

    def close(self) -> None: ...

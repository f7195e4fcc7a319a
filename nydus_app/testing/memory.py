"""A FileSystem in memory, with whatever a test wants to see, hold or break.

Its methods are called on the transport's thread, all else from the test's.
"""

import errno
import os
import stat
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import trio

from nydus_app.filesystems.port import Attr, Entry, Statfs
from nydus_app.formats.codec.compress import Buffer

ROOT = 7
"""Not 1, so that who mistakes node ids for inode numbers is found out."""


@dataclass
class Node:
    attr: Attr
    parent: int
    content: bytes = b""
    children: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Gate:
    """Holds reads. `reached` is set with the first one."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    async def wait(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self.reached.set()
        await self._open.wait()

    def open(self) -> None:
        if self._token is not None:
            self._token.run_sync_soon(self._open.set)


class MemoryFileSystem:
    """`add` builds the tree. `asked` counts calls by (method, inode)."""

    def __init__(self, *, tracks_opens: bool = False, part_size: int = 1 << 20) -> None:
        self.root = ROOT
        self.tracks_opens = tracks_opens
        self.part_size = part_size
        self.nodes: dict[int, Node] = {}
        self.gates: dict[int, Gate] = {}
        self.errors: dict[str, BaseException] = {}
        """By method: raised instead of an answer."""
        self.released = threading.Semaphore(0)
        """One for each `release`: a kernel tells of a close without waiting for the answer."""
        self.asked: Counter[tuple[str, int]] = Counter()
        self.add(ROOT, b"", stat.S_IFDIR | 0o755)

    def add(
        self,
        parent: int,
        name: bytes,
        mode: int,
        content: bytes = b"",
        *,
        mtime_ns: int = 0,
        rdev: int = 0,
        ids: int = 0,
    ) -> int:
        """The inode of a new child; a symlink's content is its target, `ids` its owner and one less than its group."""
        ino = ROOT if not name else max(self.nodes) + 1
        attr = Attr(ino, mode, 1, ids, ids + 1, rdev, len(content), -(-len(content) // 512), 0, mtime_ns, 0)
        self.nodes[ino] = Node(attr, parent, content)
        if name:
            self.nodes[parent].children[name] = ino
        return ino

    def link(self, parent: int, name: bytes, ino: int) -> None:
        node = self.nodes[ino]
        node.attr = node.attr._replace(nlink=node.attr.nlink + 1)
        self.nodes[parent].children[name] = ino

    def hold(self, ino: int) -> Gate:
        """Reads of `ino` wait from now on."""
        gate = self.gates[ino] = Gate()
        return gate

    def _called(self, method: str, ino: int) -> Node:
        self.asked[method, ino] += 1
        if method in self.errors:
            raise self.errors[method]
        if ino not in self.nodes:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self.nodes[ino]

    def lookup(self, parent: int, name: bytes) -> Attr | None:
        node = self._called("lookup", parent)
        ino = node.parent if name == b".." else node.children.get(name)
        return None if ino is None else self.nodes[ino].attr

    def getattr(self, ino: int) -> Attr:
        return self._called("getattr", ino).attr

    def readdir(self, ino: int, start: int) -> Iterator[Entry]:
        children = list(self._called("readdir", ino).children.items())
        for number, (name, child) in enumerate(children[start:], start + 1):
            yield Entry(number, name, self.nodes[child].attr)

    def readlink(self, ino: int) -> bytes:
        return self._called("readlink", ino).content

    def xattr_names(self, ino: int) -> list[bytes]:
        return list(self._called("xattr_names", ino).xattrs)

    def xattr(self, ino: int, name: bytes) -> bytes:
        found = self._called("xattr", ino).xattrs.get(name)
        if found is None:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA))
        return found

    def statfs(self) -> Statfs:
        self._called("statfs", ROOT)
        return Statfs(block_size=4096, blocks=1000, files=len(self.nodes), name_max=255)

    def open(self, ino: int) -> None:
        self._called("open", ino)

    def release(self, ino: int) -> None:
        self._called("release", ino)
        self.released.release()

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        node = self._called("read", ino)
        if ino in self.gates:
            await self.gates[ino].wait()
        view = memoryview(node.content)[offset : offset + size]
        return [view[at : at + self.part_size] for at in range(0, len(view), self.part_size)]

    def close(self) -> None:
        """Nothing is held but memory."""

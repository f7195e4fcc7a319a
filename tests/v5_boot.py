"""RAFS v5 bootstraps made by hand, so that they can be wrong in ways that no builder would make them."""

import stat
from dataclasses import dataclass, field, replace

from nydus_app.formats.rafs.v5 import (
    CHUNK,
    EXT_BLOB,
    FLAG_SYMLINK,
    FLAG_XATTR,
    INODE,
    MAGIC,
    SUPERBLOCK,
    SUPERBLOCK_SIZE,
    U32,
    U64,
    VERSION,
)
from nydus_app.formats.rafs.values import SuperFlags

FILE, DIR, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


@dataclass(frozen=True)
class Chunk:
    index: int
    size: int
    blob: int = 0
    offset: int = 0
    digest: bytes = b"d" * 32


@dataclass(frozen=True)
class Node:
    """A record; `ino` 0 is its own index."""

    name: bytes
    mode: int = FILE
    size: int = 0
    ino: int = 0
    parent: int = 1
    nlink: int = 1
    uid: int = 11
    gid: int = 22
    first: int = 0
    count: int = 0
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    chunks: tuple[Chunk, ...] = ()
    rdev: int = 0
    mtime: tuple[int, int] = (1_700_000_000, 123_456_789)
    flags: int = 0
    raw: bytes = b""  # behind the rest


@dataclass(frozen=True)
class Boot:
    """`nodes[0]` is the root."""

    nodes: tuple[Node, ...]
    chunk_size: int = 4096
    chunk_counts: tuple[int, ...] = (100,)
    flags: int = int(SuperFlags.EXPLICIT_UID_GID | SuperFlags.COMPRESSION_NONE | SuperFlags.HASH_BLAKE3)
    places: dict[int, int] = field(default_factory=dict)
    """Index of a node whose table entry shows another's record."""

    def encode(self) -> bytes:
        nodes = self.nodes
        table = SUPERBLOCK_SIZE
        blobs_at = table + (4 * len(nodes) + 7 & -8)
        ids = b"\0".join(bytes(8) + bytes([ord("a") + i]) * 64 for i in range(len(self.chunk_counts)))
        ids += bytes(-len(ids) % 8)
        ext_at = blobs_at + len(ids)
        ext = b"".join(EXT_BLOB.pack(count, 0, 1 << 30, 1 << 30) for count in self.chunk_counts)
        at = ext_at + len(ext)
        offsets, records = [], []
        for index, node in enumerate(nodes, 1):
            record = _encode(node, index)
            offsets.append(at)
            records.append(record)
            at += len(record)
        offsets = [offsets[self.places.get(i, i) - 1] for i in range(1, len(nodes) + 1)]
        head = SUPERBLOCK.pack(
            MAGIC, VERSION, SUPERBLOCK_SIZE, self.chunk_size, self.flags, len(nodes), table, blobs_at, blobs_at,
            len(nodes), 0, len(ids), len(self.chunk_counts), ext_at,
        )  # fmt: skip
        entries = b"".join(U32.pack(offset >> 3) for offset in offsets)
        content = head.ljust(SUPERBLOCK_SIZE, b"\0") + entries.ljust(blobs_at - table, b"\0") + ids + ext
        return content + b"".join(records)

    def but(self, **nodes: Node) -> "Boot":
        """With nodes replaced: `_2=…` is index 2."""
        changed = list(self.nodes)
        for key, node in nodes.items():
            changed[int(key[1:]) - 1] = node
        return replace(self, nodes=tuple(changed))


def _pad(content: bytes) -> bytes:
    return content + bytes(-len(content) % 8)


def _encode(node: Node, index: int) -> bytes:
    flags = node.flags | (FLAG_SYMLINK if node.target else 0) | (FLAG_XATTR if node.xattrs else 0)
    record = INODE.pack(
        bytes(32), node.parent if index > 1 else 0, node.ino or index, node.uid, node.gid, 0, node.mode, node.size,
        -(-node.size // 512), flags, node.nlink, node.first, node.count or len(node.chunks), len(node.name),
        len(node.target), node.rdev, node.mtime[1], node.mtime[0],
    ) + _pad(node.name)  # fmt: skip
    if node.target:
        record += _pad(node.target)
    if node.xattrs:
        pairs = b"".join(U32.pack(len(k) + 1 + len(v)) + k + b"\0" + v for k, v in node.xattrs)
        record += U64.pack(len(pairs)) + _pad(pairs)
    for number, c in enumerate(node.chunks):
        record += CHUNK.pack(
            c.digest, c.blob, 0, c.size, c.size, c.offset, c.offset, number * 4096, c.index, 0
        )
    return record + _pad(node.raw)

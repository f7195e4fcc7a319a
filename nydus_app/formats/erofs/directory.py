"""Directory blocks: an array of dirents, then their names, all sorted by bytes (rafs-format 5.6).

An entry never straddles a block; `.` and `..` are sorted among the others.
"""

import stat
from collections.abc import Iterable, Iterator

from nydus_app.formats.erofs.structs import DIRENT, FILE_TYPE

BLOCK = 4096

Entry = tuple[bytes, int, int]
"""Name, nid, EROFS file type."""

TYPE_OF_MODE = bytes(
    next((code for code, kind in FILE_TYPE.items() if kind == stat.S_IFMT(mode << 12)), 0) for mode in range(16)
)
"""The EROFS file type of `mode >> 12`; 0 for no type at all."""


def with_dots(entries: Iterable[Entry], own: int, parent: int) -> Iterator[Entry]:
    """Sorted entries with `.` and `..` in their places; `own` and `parent` are nids."""
    directory = TYPE_OF_MODE[stat.S_IFDIR >> 12]
    dots = [(b"..", parent, directory), (b".", own, directory)]
    for entry in entries:
        while dots and dots[-1][0] < entry[0]:
            yield dots.pop()
        yield entry
    yield from reversed(dots)


def size_of(lengths: Iterable[int]) -> int:
    """Bytes that `encode_blocks` makes of names of these lengths, in their order."""
    blocks = used = 0
    for length in lengths:
        size = DIRENT.size + length
        if used + size > BLOCK:
            blocks, used = blocks + 1, size
        else:
            used += size
    return blocks * BLOCK + used


def encode_blocks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """The blocks of a directory, all but the last padded to BLOCK."""
    block: list[Entry] = []
    used = 0
    for entry in entries:
        size = DIRENT.size + len(entry[0])
        if used + size > BLOCK:
            yield _encode_block(block).ljust(BLOCK, b"\0")
            block, used = [], 0
        block.append(entry)
        used += size
    yield _encode_block(block)


def _encode_block(block: list[Entry]) -> bytes:
    pack = DIRENT.pack
    at = DIRENT.size * len(block)
    heads = []
    for name, nid, kind in block:
        heads.append(pack(nid, at, kind))
        at += len(name)
    return b"".join(heads) + b"".join([name for name, _, _ in block])

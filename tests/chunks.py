"""Which chunks the files of an image are made of."""

from pathlib import Path

import trio

from nydus_app.builder.image import open_image
from nydus_app.config.tree import Dummycache, Localfs, Tree
from nydus_app.formats.rafs.values import Chunk


def chunks_of_files(boot: Path, blobs: Path, names: list[bytes]) -> dict[bytes, list[Chunk]]:
    """Chunks, with their places in the blob, of regular files by path; for images of one blob."""
    image = open_image(
        Tree(bootstrap=str(boot), mountpoint=None, backend=Localfs(dir=str(blobs)), cache=Dummycache())
    )
    bootstrap, (index,) = image.bootstrap, image.indexes
    trio.run(index.load)
    found = {}
    for name in names:
        inode = bootstrap.inode(bootstrap.root_ino)
        for part in name.split(b"/"):
            ino = bootstrap.lookup(inode, part)
            assert ino is not None
            inode = bootstrap.inode(ino)
        count = -(-inode.size // bootstrap.chunk_size)
        found[name] = [index.locate(c) for c in bootstrap.chunks(inode, 0, count)] if count else []
    image.close()
    return found


def chunk_amid_others(files: dict[bytes, list[Chunk]]) -> tuple[Chunk, set[bytes]]:
    """A chunk in the middle of the blob whose neighbours there are other files', and the files that have it."""
    owners: dict[Chunk, set[bytes]] = {}
    for name, chunks in files.items():
        for chunk in chunks:
            owners.setdefault(chunk, set()).add(name)
    order = sorted(owners, key=lambda c: c.compressed_offset)
    middle = len(order) // 2
    for number in sorted(range(1, len(order) - 1), key=lambda n: abs(n - middle)):
        before, chunk, behind = order[number - 1 : number + 2]
        if not owners[chunk] & (owners[before] | owners[behind]):
            assert behind.compressed_offset - before.compressed_offset < 1 << 20
            return chunk, owners[chunk]
    raise AssertionError("every chunk has a neighbour of its own file")

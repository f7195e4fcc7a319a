"""Which files the entries of the fetch log were about, found when somebody asks.

The kernel asks by blob and address, so nobody knows a file's name when its data are fetched. Who wants to know walks
the tree once, for the ends of what was asked for, and gives up after a while in an image of very many files.
"""

import stat
import time
from collections.abc import Iterator, Sequence

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.values import Bootstrap, Inode
from nydus_app.storage.fetch_log import Fetch, FetchLog, Why
from nydus_app.storage.prefetch_plan import BREATH, chunks_of_file

WALK_S = 5.0

Place = tuple[int, int]
"""Blob index and chunk index."""


class Explanation:
    def __init__(self, bootstrap: Bootstrap, log: FetchLog) -> None:
        self._bootstrap = bootstrap
        self.log = log

    def files_of(self, fetches: Sequence[Fetch], walk_s: float = WALK_S) -> list[list[bytes]]:
        """For each entry the paths of a file at its first and one at its last chunk, as far as they are known.

        May take `walk_s`; any thread, while the image is open.
        """
        ends = [[(f.blob_index, index) for index in dict.fromkeys(f.chunks) if f.why is not Why.index] for f in fetches]
        owners = owners_of(self._bootstrap, {place for places in ends for place in places}, walk_s)
        return [list(dict.fromkeys(owners[p] for p in places if p in owners)) for places in ends]


def owners_of(bootstrap: Bootstrap, wanted: set[Place], walk_s: float) -> dict[Place, bytes]:
    """The path of one file for each place; what is not found in time, or lies behind damage, is left out."""
    deadline = time.monotonic() + walk_s
    missing = set(wanted)
    found: dict[Place, bytes] = {}
    for number, (path, inode) in enumerate(_files(bootstrap)):
        if not missing:
            break
        if number % BREATH == 0:
            time.sleep(0)  # the daemon's own thread wants to run, too
            if time.monotonic() > deadline:
                break
        for chunks in chunks_of_file(bootstrap, inode):
            for place in missing.intersection([(c.blob_index, c.index) for c in chunks]):
                found[place] = path
                missing.discard(place)
    return found


def _files(bootstrap: Bootstrap) -> Iterator[tuple[bytes, Inode]]:
    """Regular files by their paths, directories once each: a hostile tree may hold itself."""
    seen = bytearray(bootstrap.max_ino // 8 + 1)
    waiting = [(b"", bootstrap.root_ino)]
    while waiting:
        path, ino = waiting.pop()
        if not 0 <= ino <= bootstrap.max_ino or seen[ino >> 3] & 1 << (ino & 7):
            continue
        seen[ino >> 3] |= 1 << (ino & 7)
        try:
            directory = bootstrap.inode(ino)
            for entry in bootstrap.entries(directory, 0):
                name = b"%b/%b" % (path, entry.name)
                inode = bootstrap.inode(entry.ino)
                if stat.S_ISDIR(inode.mode):
                    waiting.append((name, entry.ino))
                elif stat.S_ISREG(inode.mode):
                    yield name, inode
        except InvalidImage:
            continue

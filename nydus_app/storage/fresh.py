"""Decoded data of chunks that were fetched before anybody asked: who comes soon need not read them back from the file.

Reading a MiB back from the page cache costs as much as decompressing half of it. A kernel asks once and keeps the
answer itself, so data are let go when a reader has had them, and the oldest ones where there is no room.

Concurrency: on the trio thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from nydus_app.formats.codec.compress import Buffer

FRESH_BYTES = 8 << 20
"""As much as is fetched ahead of one reader (`fetch.MAX_LOOKAHEAD_BYTES`)."""

MAX_BATCHES = 64
"""Small ones of which a chunk is never read; what has been read to its end counts no more when it is the oldest."""


class _Batch(NamedTuple):
    """What came together, though some of it may have gone again."""

    whose: FreshChunks
    indexes: Collection[int]

    def is_gone(self) -> bool:
        return self.whose.data.keys().isdisjoint(self.indexes)


class Fresh:
    """Of all blobs that are served together."""

    def __init__(self) -> None:
        self._batches: deque[_Batch] = deque()
        self._bytes = 0

    def of_blob(self) -> FreshChunks:
        return FreshChunks(self)

    def came(self, whose: FreshChunks, indexes: Collection[int], size: int) -> None:
        self._batches.append(_Batch(whose, indexes))
        self._bytes += size
        while self._batches[0].is_gone():
            self._batches.popleft()
        while self._bytes > FRESH_BYTES or len(self._batches) > MAX_BATCHES:
            oldest = self._batches.popleft()
            oldest.whose.drop(oldest.indexes)

    def went(self, size: int) -> None:
        self._bytes -= size


class FreshChunks:
    """Of one blob; `data` by chunk index, for reading."""

    def __init__(self, all_of_them: Fresh) -> None:
        self.data: dict[int, Buffer] = {}
        self._all = all_of_them

    def put(self, batch: Mapping[int, Buffer]) -> None:
        """One that is too large is not kept, and costs the others nothing."""
        size = sum(map(len, batch.values()))
        if 0 < size <= FRESH_BYTES:
            self.drop(batch)
            self.data.update(batch)
            self._all.came(self, tuple(batch), size)

    def drop(self, indexes: Iterable[int]) -> None:
        take = self.data.pop
        self._all.went(sum([len(data) for i in indexes if (data := take(i, None)) is not None]))

    def forget(self) -> None:
        """He who had them is going away."""
        self.drop(list(self.data))

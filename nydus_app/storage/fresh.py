"""Decoded data of chunks that were fetched before anybody asked: who comes soon need not read them back from the file.

Reading a MiB back from the page cache costs as much as decompressing half of it. A kernel asks once and keeps the
answer itself, so data are let go when a reader has had them, and the oldest ones where there is no room.

Concurrency: on the trio thread.
"""

from collections import OrderedDict
from collections.abc import Iterable

from nydus_app.formats.codec.compress import Buffer

FRESH_BYTES = 8 << 20
"""As much as is fetched ahead of one reader (`fetch.MAX_LOOKAHEAD_BYTES`)."""


class Fresh:
    """Of all blobs that are served together; a key is (whose, chunk index)."""

    def __init__(self) -> None:
        self._data: OrderedDict[tuple[object, int], Buffer] = OrderedDict()
        self._bytes = 0

    def put(self, owner: object, index: int, data: Buffer) -> None:
        if (owner, index) in self._data or len(data) > FRESH_BYTES:
            return
        self._data[owner, index] = data
        self._bytes += len(data)
        while self._bytes > FRESH_BYTES:
            _, oldest = self._data.popitem(last=False)
            self._bytes -= len(oldest)

    def get(self, owner: object, index: int) -> Buffer | None:
        return self._data.get((owner, index))

    def drop(self, owner: object, indexes: Iterable[int]) -> None:
        for index in indexes:
            if (data := self._data.pop((owner, index), None)) is not None:
                self._bytes -= len(data)

    def forget(self, owner: object) -> None:
        """All that are his: he is going away."""
        self.drop(owner, [index for whose, index in self._data if whose is owner])

"""A few decoded chunks in memory: a kernel reads a chunk of 1 MiB in several requests, and no file holds it decoded."""

from collections import OrderedDict

from nydus_app.formats.codec.compress import Buffer

RECENT_BYTES = 16 << 20


class Recent:
    """The most recently remembered, up to RECENT_BYTES of them. On the trio thread only."""

    def __init__(self) -> None:
        self._chunks: OrderedDict[int, Buffer] = OrderedDict()
        self._bytes = 0

    def get(self, index: int) -> Buffer | None:
        return self._chunks.get(index)

    def remember(self, index: int, data: Buffer) -> None:
        if index in self._chunks:
            return
        self._chunks[index] = data
        self._bytes += len(data)
        while self._bytes > RECENT_BYTES and len(self._chunks) > 1:
            _, dropped = self._chunks.popitem(last=False)
            self._bytes -= len(dropped)

    def clear(self) -> None:
        self._chunks.clear()
        self._bytes = 0

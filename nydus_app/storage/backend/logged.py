"""A BlobReader whose requests go into the fetch log by themselves: those for a blob's own index, which are no chunks."""

import time

from nydus_app.errors import BackendError
from nydus_app.formats.rafs.values import Blob
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.backend.trace import traced
from nydus_app.storage.fetch_log import FetchLog, Why, request_entry, told


class LoggedReader:
    def __init__(self, reader: BlobReader, blob: Blob, fetches: FetchLog) -> None:
        self._reader = reader
        self._blob = blob
        self._fetches = fetches
        self.size = reader.size
        self.close = reader.close

    async def read(self, offset: int, size: int) -> bytes:
        entry, began_ns = request_entry(self._blob, Why.index, (0, 0), (offset, size)), time.monotonic_ns()

        def add(error: str) -> None:
            self._fetches.add(told(entry, tries)._replace(latency_ns=time.monotonic_ns() - began_ns, error=error))

        with traced() as tries:
            try:
                raw = await self._reader.read(offset, size)
            except BackendError as e:
                add(str(e))
                raise
        add("")
        return raw

"""What a backend was asked, how long it took, and what went wrong: nydusd's counters (contract 3.4), and causes by name."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable

from nydus_app.errors import BackendError
from nydus_app.storage.backend.port import BlobReader, SupportsPread
from nydus_app.storage.backend.trace import traced

SIZES = (1 << 10, 4 << 10, 16 << 10, 64 << 10, 128 << 10, 512 << 10, 1 << 20)
"""Bytes; a read of fewer is in the bucket before."""

LATENCIES_MS = (1, 20, 50, 100, 500, 1000, 2000)
"""A read of at most so many is in the bucket."""


class BackendMetrics:
    """Of all reads since the start. Concurrency: any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.read_count = 0
        self.read_errors = 0
        self.read_bytes = 0
        self.milliseconds = 0
        self.by_size_and_latency = [[0] * (len(LATENCIES_MS) + 1) for _ in range(len(SIZES) + 1)]
        self.causes: Counter[str] = Counter()
        """Tries that failed, and answers whose data were wrong; a read that came right after all counts its tries."""

    def add_read(self, size: int, seconds: float, *, is_failed: bool, causes: Iterable[str] = ()) -> None:
        milliseconds = seconds * 1000
        size_bucket, latency_bucket = bisect_right(SIZES, size), bisect_left(LATENCIES_MS, milliseconds)
        with self._lock:
            self.read_count += 1
            self.read_errors += is_failed
            self.read_bytes += size
            self.milliseconds += int(milliseconds)
            self.by_size_and_latency[size_bucket][latency_bucket] += 1
            self.causes.update(causes)

    def add_cause(self, cause: str) -> None:
        with self._lock:
            self.causes[cause] += 1


class MeteredReader:
    def __init__(self, reader: BlobReader, metrics: BackendMetrics) -> None:
        self._reader = reader
        self._metrics = metrics
        self.size = reader.size
        self.close = reader.close
        if isinstance(reader, SupportsPread):
            self._blocking = reader
            self.pread = self._pread
            self.extent = reader.extent

    async def read(self, offset: int, size: int) -> bytes | bytearray:
        began = time.monotonic()
        with traced() as tries:
            try:
                raw = await self._reader.read(offset, size)
            except BackendError as e:
                self._add(size, began, [t.cause for t in tries if t.cause] or [e.cause], is_failed=True)
                raise
        self._add(size, began, [t.cause for t in tries if t.cause])
        return raw

    def _pread(self, offset: int, size: int) -> bytes:
        began = time.monotonic()
        try:
            raw = self._blocking.pread(offset, size)
        except BackendError as e:
            self._add(size, began, [e.cause], is_failed=True)
            raise
        self._add(size, began, ())
        return raw

    def _add(self, size: int, began: float, causes: Iterable[str], *, is_failed: bool = False) -> None:
        self._metrics.add_read(size, time.monotonic() - began, is_failed=is_failed, causes=causes)

"""A blob of equal chunks behind an origin that a test can hold back, and its cache; no image, no mount."""

from collections.abc import Iterable
from pathlib import Path

import blake3
import trio

from nydus_app.errors import BackendError
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk, Compressor, Digester
from nydus_app.formats.recording import Span
from nydus_app.storage.background import Background
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.chunk_index import RecordedIndex
from nydus_app.storage.workers import Workers

SIZE, COUNT = 1 << 18, 64
DATA = b"".join(i.to_bytes(4, "little") * (SIZE // 4) for i in range(COUNT))
NONE = Compressor.none
BLOB = Blob(
    0, "b" * 64, BlobFeatures.ALIGNED, NONE, Digester.blake3, SIZE, COUNT, len(DATA), len(DATA), NONE, 0, 0, 0, 0, b""
)


def chunk(i: int) -> Chunk:
    data = DATA[i * SIZE :][:SIZE]
    return Chunk(0, i, i * SIZE, SIZE, i * SIZE, SIZE, False, blake3.blake3(data).digest(), None)


def chunks(indexes: Iterable[int]) -> list[Chunk]:
    return [chunk(i) for i in indexes]


def span(first: int, end: int) -> Span:
    return Span(0, first, end, first * SIZE, (end - first) * SIZE)


class Table(RecordedIndex):
    """An index that knows its whole table, as v6's does."""

    def __len__(self) -> int:
        return COUNT

    def end_of(self, index: int) -> int:
        return (index + 1) * SIZE

    def find(self, offset: int) -> int:
        return min(offset // SIZE, COUNT - 1)

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        return chunks(indexes)


class Origin:
    """`hold`: requests wait for `let_go`; `failing`: so many of the next ones fail; `data` may be damaged."""

    def __init__(self) -> None:
        self.data = bytearray(DATA)
        self.reads: list[tuple[int, int]] = []
        self.most_at_once = self._now = 0
        self.failing = 0
        self._gate: trio.Event | None = None

    def hold(self) -> None:
        self._gate = trio.Event()

    def let_go(self) -> None:
        assert self._gate is not None
        self._gate.set()
        self._gate = None

    async def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            if self._gate is not None:
                await self._gate.wait()
            await trio.lowlevel.checkpoint()
        finally:
            self._now -= 1
        if self.failing:
            self.failing -= 1
            raise BackendError("the origin fails")
        return bytes(self.data[offset : offset + size])

    def close(self) -> None:
        pass


class Served:
    def __init__(self, work_dir: Path, *, batch_size: int = 1 << 20, index: RecordedIndex | None = None) -> None:
        self.origin, self.background = Origin(), Background()
        self.index = index or Table(BLOB)
        self.workers = Workers(4)
        self.cache = BlobCache(
            BLOB, self.origin, self.index, keeping=Keeping(str(work_dir)), validate=True, batch_size=batch_size,
            workers=self.workers, background=self.background,
        )  # fmt: skip

    @property
    def ready(self) -> list[int]:
        return [i for i in range(COUNT) if self.cache.is_ready(i)]

    async def all_ready(self, indexes: Iterable[int]) -> None:
        wanted = list(indexes)
        with trio.fail_after(10):
            while not all(self.cache.is_ready(i) for i in wanted):
                await trio.sleep(0.001)

    async def read(self, *indexes: int) -> None:
        got = await self.cache.ensure(indexes, chunks, ())
        assert all(bytes(got[i]) == DATA[i * SIZE :][:SIZE] for i in got)
        assert all(i in got or self.cache.is_ready(i) for i in indexes)

    def close(self) -> None:
        self.workers.close()
        self.cache.close()

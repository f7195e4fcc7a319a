"""A chunk cache that keeps no files: data go from the backend to the reader.

A few decoded chunks stay in memory, because a kernel reads a chunk of 1 MiB in several requests.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import trio

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.formats.recording import Span
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.background import Background
from nydus_app.storage.cache.chunk_file import Fetched
from nydus_app.storage.cache.port import NOTHING, NOTHING_FRESH, ChunksOf
from nydus_app.storage.cache.recent import Recent
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.fetch import ChunkFetcher
from nydus_app.storage.fetch_log import Why
from nydus_app.storage.workers import Workers


class DummyCache:
    """The ChunkCache of one blob. `_recent` is touched on the trio thread only."""

    def __init__(
        self,
        blob: Blob,
        reader: BlobReader,
        index: ChunkIndex,
        *,
        validate: bool,
        batch_size: int,
        workers: Workers,
        background: Background,
    ) -> None:
        self._reader = reader
        self._recent = Recent()
        self._fetcher = ChunkFetcher(
            blob, reader, index, validate=validate, batch_size=batch_size, workers=workers,
            background=background, store=self,
        )  # fmt: skip
        self._index = index

    is_bounded = False
    fresh = NOTHING_FRESH

    def is_ready(self, index: int) -> bool:
        return False

    is_stored = is_ready

    async def are_ready(self, first: int, last: int) -> bool:
        return False

    def is_kept(self, index: int) -> bool:
        return False

    def has_none_of(self, indexes: range) -> bool:
        return True

    def why_missing(self, indexes: Sequence[int]) -> Why:
        return Why.cold

    def check(self, chunk: Chunk) -> None:
        """Nothing is written anywhere."""

    def store(self, chunks: Sequence[tuple[Chunk, Buffer]], fetched: Fetched) -> None:
        """Readers have it; no file does."""

    def file_to_fill(self) -> int | None:
        """As `follow`."""
        return None

    def filled(self, indexes: Sequence[int]) -> None:
        """As `follow`."""

    def note_filled(self) -> None:
        """As `follow`."""

    def follow(self, first: int, last: int) -> None:
        """There is no place to keep what nobody has asked for."""

    def drop_fresh(self, indexes: Iterable[int]) -> None:
        """Nothing is fetched ahead."""

    async def prefetch(self, wanted: Sequence[int], chunks: ChunksOf) -> None:
        """As `follow`."""

    async def replay(self, span: Span) -> None:
        """As `follow`."""

    async def ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        got = {i: data for i in wanted if (data := self._recent.get(i)) is not None}
        missing = [i for i in wanted if i not in got]
        if missing:
            await self._index.load()
            fetched = await self._fetcher.fetch(missing, chunks, ())
            for index, data in fetched.items():
                self._recent.remember(index, data)
            got.update(fetched)
        return got

    def hold(self, indexes: Iterable[int]) -> AbstractContextManager[None]:
        return NOTHING

    def data_fd(self) -> int:
        raise AssertionError("no chunk of a dummycache lies in a file")

    def close(self) -> None:
        self._reader.close()
        self._index.close()
        self._recent.clear()

"""The port that file systems and transports read chunks through: one ChunkCache a blob."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Protocol

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Chunk
from nydus_app.formats.recording import Span


ChunksOf = Callable[[Sequence[int]], list[Chunk]]
"""Chunks by their indexes, located or not. Raises InvalidImage."""


NOTHING: AbstractContextManager[None] = nullcontext()
"""What a hold is where nothing ever leaves the file."""


NOTHING_FRESH: Mapping[int, Buffer] = MappingProxyType({})
"""Of a cache that fetches nothing ahead."""


class ChunkCache(Protocol):
    is_bounded: bool
    """Chunks leave the data file again: whoever looks whether one is ready, and then reads it, holds it from before
    the look until he has the bytes."""

    fresh: Mapping[int, Buffer]
    """Data that happen to be in memory, by chunk index."""

    def hold(self, indexes: Iterable[int]) -> AbstractContextManager[None]:
        """For as long, what of these chunks is ready, or becomes so, stays. Never waits."""
        ...

    def is_ready(self, index: int) -> bool:
        """The chunk can be read from `data_fd`, verified as configured. Never waits."""
        ...

    async def are_ready(self, first: int, last: int) -> bool:
        """`is_ready` of all chunks from `first` to `last`, after what is on its way to the file has come; fetches nothing."""
        ...

    def follow(self, first: int, last: int) -> None:
        """Somebody reads chunks `first` to `last`: who reads on and on is fetched ahead of. Never waits."""
        ...

    def drop_fresh(self, indexes: Iterable[int]) -> None:
        """They have been read."""
        ...

    async def ensure(self, wanted: Sequence[int], chunks: ChunksOf, ahead: Iterable[Chunk]) -> Mapping[int, Buffer]:
        """Make every chunk readable; `chunks` is asked for those that nobody is fetching yet.

        Yields the decoded data, by chunk index, of chunks that were fetched just now or that no
        file holds; all others lie in the data file. `ahead` names what may be fetched along.
        Raises the first error that hit a wanted chunk: CorruptChunk, InvalidImage, BackendError.
        """
        ...

    async def prefetch(self, wanted: Sequence[int], chunks: ChunksOf) -> None:
        """Fetch what is not kept yet, though nobody waits for it. Raises the first error, as `ensure` does."""
        ...

    async def replay(self, span: Span) -> None:
        """Fetch what is not kept of a recorded span, with one request that waits for no chunk index.

        Readers of its chunks wait for that. A span that is wrong, or cannot be had, leaves them to fetch for
        themselves; raises the error then.
        """
        ...

    def data_fd(self) -> int:
        """Descriptor of the file that holds ready chunks at their uncompressed offsets."""
        ...

    def close(self) -> None: ...

"""The pieces of a tar (tarfs): where they lie, in the tar and as a device of EROFS, which is the same."""

from collections.abc import Callable, Iterable, Iterator

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.tarfs import PIECE_BYTES, piece
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.address_space import BLOCK, Extent
from nydus_app.storage.chunk_index import MAX_FOLLOWING


class TarPieces:
    """Fulfils the ports of `chunk_index.py` and `address_space.py`."""

    def __init__(self, blob: Blob) -> None:
        self._blob = blob
        self.size = -(-blob.uncompressed_size // BLOCK) * BLOCK

    async def load(self) -> None:
        """There is nothing to be fetched."""

    def locate(self, chunk: Chunk) -> Chunk:
        return chunk

    def following(self, chunk: Chunk, ahead: Iterable[Chunk], skip: Callable[[int], bool]) -> Iterator[Chunk]:
        for index in range(chunk.index + 1, min(len(self), chunk.index + 1 + MAX_FOLLOWING)):
            if not skip(index):
                yield piece(self._blob, index)

    def __len__(self) -> int:
        return self._blob.chunk_count

    def end_of(self, index: int) -> int:
        return min((index + 1) * PIECE_BYTES, self._blob.uncompressed_size)

    def find(self, offset: int) -> int:
        return min(offset // PIECE_BYTES, len(self) - 1)

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        return [piece(self._blob, i) for i in indexes]

    def places(self, first: int, end: int) -> list[Chunk]:
        return self.chunks(range(first, end))

    def extents(self, offset: int, end: int) -> list[Extent]:
        if not 0 <= offset < end <= self.size:
            raise InvalidImage(f"tar {self._blob.id} has no bytes {offset} to {end}")
        first, last = offset // PIECE_BYTES, min((end - 1) // PIECE_BYTES, len(self) - 1)
        return [self._extent(i) for i in range(first, last + 1)]

    def run(self, offset: int, end: int) -> None:
        """Its last piece ends where no block does."""
        return None

    def _extent(self, index: int) -> Extent:
        start, stop = index * PIECE_BYTES, self.end_of(index)
        return Extent(index, start, stop, min(start + PIECE_BYTES, self.size), start)

    def unit_mates(self, wanted: Iterable[Chunk], skip: Callable[[int], bool]) -> list[Chunk]:
        """Every piece is fetched by itself."""
        return []

    def dictionary(self, offset: int, size: int) -> bytes:
        raise InvalidImage(f"tar {self._blob.id} has no dictionaries")

    def close(self) -> None:
        """Nothing is open."""

"""Tarfs: a RAFS v6 bootstrap whose data object is a plain tar (rafs-format 5.8, 6.2).

The address of a chunk is its place in the tar, in blocks of 512 bytes. Nobody has a list of a tar's chunks, nor are
there digests; what is fetched and kept are pieces of the tar, each PIECE_BYTES long, whatever files lie in them.
"""

from collections.abc import Sequence
from functools import partial

from nydus_app.errors import InvalidImage
from nydus_app.formats.bounds import Untrusted
from nydus_app.formats.rafs.segments import segments_of
from nydus_app.formats.rafs.v5 import NO_RECORD
from nydus_app.formats.rafs.v6 import BootstrapV6
from nydus_app.formats.rafs.values import Blob, Chunk, Inode, Segment

PIECE_BYTES = 128 << 10


def piece(blob: Blob, index: int) -> Chunk:
    """Raises InvalidImage where the tar has none."""
    offset = index * PIECE_BYTES
    size = min(PIECE_BYTES, blob.uncompressed_size - offset)
    if index < 0 or size <= 0:
        raise InvalidImage(f"tar {blob.id} has no byte {offset}")
    return Chunk(blob.index, index, offset, size, offset, size, False, None, None)


def _as_pieces(blob: Blob) -> Blob:
    if blob.compressed_size != blob.uncompressed_size:
        raise InvalidImage(f"tar {blob.id} has two sizes")
    return blob._replace(chunk_count=-(-blob.uncompressed_size // PIECE_BYTES))


class BootstrapTarfs(BootstrapV6):
    """Fulfils the Bootstrap port; its chunks are pieces."""

    def __init__(self, data: Untrusted, blob_id_hint: str | None) -> None:
        super().__init__(data, blob_id_hint)
        self.blobs = [_as_pieces(blob) for blob in self.blobs]

    def stored_chunk_records(self, blob_index: int, indexes: Sequence[int]) -> bytes:
        """Its records say nothing."""
        return NO_RECORD * len(indexes)

    def segments(self, inode: Inode, offset: int, end: int) -> list[Segment]:
        found = []
        for chunk, start, size in segments_of(partial(super().chunks, inode), self.chunk_size, offset, end):
            blob = self.blobs[chunk.blob_index]
            at = chunk.uncompressed_offset + start
            stop = at + size
            while at < stop:
                held = piece(blob, at // PIECE_BYTES)
                here = at - held.uncompressed_offset
                length = min(stop - at, held.uncompressed_size - here)
                if length <= 0:
                    raise InvalidImage(f"inode {inode.ino} lies behind the end of its tar")
                found.append(Segment(held, here, length))
                at += length
        return found

    def chunks(self, inode: Inode, first: int, count: int) -> list[Chunk]:
        """The pieces that hold them, each once."""
        end = min((first + count) * self.chunk_size, inode.size)
        found = self.segments(inode, first * self.chunk_size, end) if count > 0 else []
        return list({(s.chunk.blob_index, s.chunk.index): s.chunk for s in found}.values())

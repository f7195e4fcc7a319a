"""From a chunk's bytes in the blob to verified data."""

from collections.abc import Sequence

from nydus_app.errors import CorruptChunk, NydusError
from nydus_app.formats.codec.compress import Buffer, Decompressor, decompress_zstd_frames
from nydus_app.formats.codec.digest import checksum, digest
from nydus_app.formats.codec.unit import Room, decode_units
from nydus_app.formats.rafs.values import Blob, Chunk, Compressor

TOGETHER = 4
"""So many small chunks are worth a call for all of them."""

NO_DIGEST = bytes(32)

Decoded = dict[int, Buffer | NydusError]
"""By chunk index: the data, or why there are none."""


def verify_chunk(blob: Blob, chunk: Chunk, data: Buffer, *, validate: bool) -> None:
    """Check uncompressed `data`: by digest when validating, else by checksum where there is one.

    Raises CorruptChunk. A chunk without a digest cannot be validated and is refused, too; one of an external blob,
    whose digest is all zeros, must have a checksum.
    """
    if validate and (chunk.digest != NO_DIGEST or chunk.crc32c is None):
        if chunk.digest is None or chunk.digest == NO_DIGEST:
            raise CorruptChunk("it has no digest to validate against (cache.validate=false reads it unchecked)")
        if digest(blob.digester, data) != chunk.digest:
            raise CorruptChunk(f"its data do not match its {blob.digester.name} digest")
    elif chunk.crc32c is not None and checksum(data) != chunk.crc32c:
        raise CorruptChunk("its data do not match its crc32c")


def decode_chunks(
    blob: Blob, chunks: Sequence[Chunk], raw: Buffer, offset: int, *, validate: bool, room: Room
) -> Decoded:
    """Verified uncompressed data of `chunks`, each by itself, from `raw`, the blob's bytes from `offset` on."""
    view = memoryview(raw)
    codec: Decompressor | None = None  # whose context is not made where all was decompressed together
    decoded: Decoded = {}
    if blob.has_units:
        contents, failed = decode_units(blob, chunks, raw, offset, room)
        decoded.update((i, _explained(blob, i, e)) for i, e in failed.items())
        chunks = [c for c in chunks if c.index not in failed]
    else:
        contents = _decompress_together(blob, chunks, raw, offset)
    for chunk in chunks:
        start = chunk.compressed_offset - offset
        try:
            data = contents.get(chunk.index)
            if data is None:
                data = view[start : start + chunk.compressed_size]
                if chunk.is_compressed:
                    codec = codec or Decompressor(blob.compressor, is_prefix=blob.is_stargz)
                    data = codec.decompress(data, chunk.uncompressed_size)
            if len(data) != chunk.uncompressed_size:
                raise CorruptChunk(f"it is stored in {len(data)} bytes, {chunk.uncompressed_size} expected")
            verify_chunk(blob, chunk, data, validate=validate)
        except CorruptChunk as e:
            decoded[chunk.index] = _explained(blob, chunk.index, e)
        else:
            decoded[chunk.index] = data
    return decoded


def _explained(blob: Blob, index: int, error: NydusError) -> NydusError:
    return type(error)(f"chunk {index} of blob {blob.id}: {error}")


def _decompress_together(blob: Blob, chunks: Sequence[Chunk], raw: Buffer, offset: int) -> dict[int, memoryview]:
    """What one call can do; nothing where there is little to do, or a chunk is damaged (they are tried one by one then).

    A call for each small chunk would take and give up the interpreter's lock as often, and wait for it.
    """
    packed = [c for c in chunks if c.is_compressed]
    if blob.compressor is not Compressor.zstd or len(packed) < TOGETHER:
        return {}
    frames = [(c.compressed_offset - offset, c.compressed_size) for c in packed]
    try:
        contents = decompress_zstd_frames(raw, frames, [c.uncompressed_size for c in packed])
    except CorruptChunk:
        return {}
    return {c.index: data for c, data in zip(packed, contents, strict=True)}

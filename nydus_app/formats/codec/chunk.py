"""From a chunk's bytes in the blob to verified data."""

from nydus_app.errors import CorruptChunk
from nydus_app.formats.codec.compress import Buffer, decompress
from nydus_app.formats.codec.digest import crc32c, digest
from nydus_app.formats.rafs.values import Blob, Chunk, Compressor


def verify_chunk(blob: Blob, chunk: Chunk, data: Buffer, *, validate: bool) -> None:
    """Check uncompressed `data`: by digest when validating, else by checksum where there is one.

    Raises CorruptChunk. A chunk without a digest cannot be validated and is refused, too.
    """
    where = f"chunk {chunk.index} of blob {blob.id}"
    if validate:
        if chunk.digest is None:
            raise CorruptChunk(f"{where} has no digest to validate against (cache.validate=false reads it unchecked)")
        if digest(blob.digester, data) != chunk.digest:
            raise CorruptChunk(f"{where}: its data do not match its {blob.digester.name} digest")
    elif chunk.crc32c is not None and crc32c(data) != chunk.crc32c:
        raise CorruptChunk(f"{where}: its data do not match its crc32c")


def decode_chunk(blob: Blob, chunk: Chunk, stored: Buffer, *, validate: bool) -> Buffer:
    """The chunk's verified uncompressed data from its `compressed_size` stored bytes."""
    compressor = blob.compressor if chunk.is_compressed else Compressor.none
    try:
        data = decompress(compressor, stored, chunk.uncompressed_size)
    except CorruptChunk as e:
        raise CorruptChunk(f"chunk {chunk.index} of blob {blob.id}: {e}") from None
    verify_chunk(blob, chunk, data, validate=validate)
    return data

"""Units: stored bytes that are decrypted, decompressed or inflated once for all chunks that lie in them."""

from collections.abc import Callable, Sequence

from nydus_app.errors import CorruptChunk, NydusError
from nydus_app.formats.codec.compress import Buffer, Decompressor
from nydus_app.formats.rafs.values import Blob, Chunk

DictionaryOf = Callable[[int, int], bytes]
"""Bytes of a blob's compression information, at an offset, of a size; any thread. Raises NydusError."""


def decode_units(
    blob: Blob, chunks: Sequence[Chunk], raw: Buffer, offset: int, dictionary_of: DictionaryOf
) -> tuple[dict[int, memoryview], dict[int, NydusError]]:
    """What those of `chunks` hold that are parts of units, not yet verified; and why others hold nothing. By chunk index.

    `raw` are the blob's bytes from `offset` on.
    """
    view = memoryview(raw)
    units: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.part is not None:
            units.setdefault(chunk.part.unit, []).append(chunk)
    contents: dict[int, memoryview] = {}
    failed: dict[int, NydusError] = {}
    codec = Decompressor(blob.compressor)
    for of_unit in units.values():
        start = of_unit[0].compressed_offset - offset
        stored = view[start : start + of_unit[0].compressed_size]
        try:
            data = memoryview(_decode(blob, of_unit, stored, codec, dictionary_of))
            contents.update((c.index, _piece(c, data)) for c in of_unit)
        except NydusError as e:
            failed.update((c.index, e) for c in of_unit)
    return contents, failed


def _decode(
    blob: Blob, chunks: Sequence[Chunk], stored: Buffer, codec: Decompressor, dictionary_of: DictionaryOf
) -> Buffer:
    """The unit, at least as far as `chunks` reach."""
    first, part = chunks[0], chunks[0].part
    assert part is not None
    if part.is_encrypted:
        from nydus_app.formats.codec.crypt import decrypt

        assert blob.cipher is not None
        stored = decrypt(blob.cipher, stored)
    if part.start is None:
        return codec.decompress(stored, part.unit_size) if first.is_compressed else stored
    from nydus_app.formats.codec.inflate import inflate_from

    start = part.start
    needed = max(c.part.offset + c.uncompressed_size for c in chunks if c.part is not None)
    dictionary = dictionary_of(start.dictionary_offset, start.dictionary_size) if start.dictionary_size else b""
    return inflate_from(stored, needed, dictionary=dictionary, byte=start.byte, bits=start.bits)


def _piece(chunk: Chunk, data: memoryview) -> memoryview:
    assert chunk.part is not None
    piece = data[chunk.part.offset : chunk.part.offset + chunk.uncompressed_size]
    if len(piece) != chunk.uncompressed_size:
        raise CorruptChunk(f"its unit ends {chunk.uncompressed_size - len(piece)} bytes before it does")
    return piece

"""Units: stored bytes that are decrypted, decompressed or inflated once for all chunks that lie in them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from nydus_app.errors import CorruptChunk, NydusError
from nydus_app.formats.codec.compress import Buffer, Decompressor
from nydus_app.formats.rafs.values import Blob, Chunk

DictionaryOf = Callable[[int, int], bytes]
"""Bytes of a blob's compression information, at an offset, of a size; any thread. Raises NydusError."""

MUCH = 4
"""Pieces of a unit that is so many times larger are copied out of it."""


class Room(NamedTuple):
    """What decoding units needs from outside of the formats."""

    dictionary_of: DictionaryOf
    allocate: Callable[[int], Any]  # a writable buffer of so many bytes


def decode_units(
    blob: Blob, chunks: Sequence[Chunk], raw: Buffer, offset: int, room: Room
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
        place = slice(start, start + of_unit[0].compressed_size)
        try:
            data = _inflate(of_unit, raw, place, room)
            if data is None:
                data = memoryview(_decode(blob, of_unit[0], view[place], codec))
            pieces = [_piece(c, data) for c in of_unit]
            if sum(map(len, pieces)) * MUCH < len(data):  # or they hold on to all of it
                pieces = [memoryview(bytes(piece)) for piece in pieces]
            contents.update(zip([c.index for c in of_unit], pieces, strict=True))
        except NydusError as e:
            failed.update((c.index, e) for c in of_unit)
    return contents, failed


def _decode(blob: Blob, chunk: Chunk, stored: Buffer, codec: Decompressor) -> Buffer:
    """The whole unit that a chunk lies in."""
    assert chunk.part is not None
    if chunk.part.is_encrypted:
        from nydus_app.formats.codec.crypt import decrypt

        assert blob.cipher is not None
        stored = decrypt(blob.cipher, stored)
    return codec.decompress(stored, chunk.part.unit_size) if chunk.is_compressed else stored


def _inflate(chunks: Sequence[Chunk], raw: Buffer, place: slice, room: Room) -> memoryview | None:
    """A zran unit as far as `chunks` reach into it; None where it is none."""
    start = chunks[0].part.start if chunks[0].part is not None else None
    if start is None:
        return None
    from nydus_app.formats.codec.inflate import inflate_into

    dictionary = room.dictionary_of(start.dictionary_offset, start.dictionary_size) if start.dictionary_size else b""
    out = memoryview(room.allocate(max(c.part.offset + c.uncompressed_size for c in chunks if c.part is not None)))
    inflate_into(out, raw, place, dictionary=dictionary, byte=start.byte, bits=start.bits)
    return out


def _piece(chunk: Chunk, data: memoryview) -> memoryview:
    assert chunk.part is not None
    piece = data[chunk.part.offset : chunk.part.offset + chunk.uncompressed_size]
    if len(piece) != chunk.uncompressed_size:
        raise CorruptChunk(f"its unit ends {chunk.uncompressed_size - len(piece)} bytes before it does")
    return piece

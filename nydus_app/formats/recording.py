"""Recordings of a start: which spans of which blobs were read, first things first.

    magic (8) | version u32 | blobs u32 | spans u32 | CRC-32 of all that follows u32
    blob:  length of id u16 | id
    span:  blob u16 | number of chunks u32 | first chunk u32 | size u32 | offset u64

Little-endian. A span is a run of chunks of a blob and the bytes of the blob object that hold them, so that it can
be asked for before the blob's own index has been fetched. A recording tells what to fetch, never what is right: what
comes is decoded and verified as ever.
"""

import zlib
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from nydus_app.errors import InvalidImage

MAGIC = b"NYDUSREC"
VERSION = 1
HEADER = Struct("<8s4I")
LENGTH = Struct("<H")
SPAN = Struct("<HIIIQ")

MAX_BLOBS = 255
MAX_SPANS = 1 << 16
MAX_ID = 255
MAX_SPAN_BYTES = 16 << 20
MAX_BYTES = HEADER.size + MAX_BLOBS * (LENGTH.size + MAX_ID) + MAX_SPANS * SPAN.size
"""A recording is at most so long."""


class Span(NamedTuple):
    """Chunks [first, end) of a blob, whose data lie in `size` bytes at `offset` of the blob object."""

    blob: int  # number in the recording's list
    first: int
    end: int
    offset: int
    size: int


class Recording(NamedTuple):
    blobs: tuple[str, ...]
    spans: tuple[Span, ...]


def encode_recording(blobs: Sequence[str], spans: Iterable[Span]) -> bytes:
    """Spans that do not fit any more are left out; they are the last ones."""
    ids = [b.encode() for b in blobs]
    packed = [SPAN.pack(s.blob, s.end - s.first, s.first, s.size, s.offset) for s in spans][:MAX_SPANS]
    body = b"".join([*(LENGTH.pack(len(i)) + i for i in ids), *packed])
    return HEADER.pack(MAGIC, VERSION, len(ids), len(packed), zlib.crc32(body)) + body


def decode_recording(content: bytes) -> Recording:
    """Raises InvalidImage."""
    if len(content) < HEADER.size or content[:8] != MAGIC:
        raise InvalidImage("it is no recording")
    _, version, blobs, spans, crc = HEADER.unpack_from(content)
    if version != VERSION:
        raise InvalidImage(f"it is a recording of version {version}, this program reads version {VERSION}")
    if len(content) > MAX_BYTES or blobs > MAX_BLOBS or spans > MAX_SPANS or zlib.crc32(content[HEADER.size :]) != crc:
        raise InvalidImage("the recording is damaged")
    at, ids = HEADER.size, []
    for _ in range(blobs):
        size = LENGTH.unpack_from(content, at)[0] if at + LENGTH.size <= len(content) else len(content)
        at += LENGTH.size + size
        if at > len(content):
            raise InvalidImage("the recording ends within its blobs")
        ids.append(content[at - size : at].decode("utf-8", "replace"))
    if len(content) - at != spans * SPAN.size:
        raise InvalidImage(f"the recording has {len(content) - at} bytes for {spans} spans")
    return Recording(tuple(ids), tuple(_span(fields, blobs) for fields in SPAN.iter_unpack(content[at:])))


def _span(fields: tuple[int, int, int, int, int], blobs: int) -> Span:
    blob, count, first, size, offset = fields
    if blob >= blobs or not 0 < count <= size or not 0 < size <= MAX_SPAN_BYTES or offset >> 40:
        raise InvalidImage("the recording has an impossible span")
    return Span(blob, first, first + count, offset, size)

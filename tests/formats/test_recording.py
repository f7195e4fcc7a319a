"""Recordings: there and back, and whatever else lies in such a file."""

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nydus_app.errors import InvalidImage
from nydus_app.formats.recording import HEADER, MAGIC, MAX_SPANS, Recording, Span, decode_recording, encode_recording

BLOBS = ("a" * 64, "of any other name")
SPANS = (Span(0, 3, 9, 4096, 70_000), Span(1, 0, 1, 0, 1), Span(0, 0, 3, 0, 4096))


def test_there_and_back() -> None:
    assert decode_recording(encode_recording(BLOBS, SPANS)) == Recording(BLOBS, SPANS)
    assert decode_recording(encode_recording((), ())) == Recording((), ())


def test_every_damaged_byte_and_every_length_is_noticed() -> None:
    good = encode_recording(BLOBS, SPANS)
    for at in range(len(good)):
        with pytest.raises(InvalidImage):
            decode_recording(good[:at] + bytes((good[at] ^ 0x10,)) + good[at + 1 :])
        with pytest.raises(InvalidImage):
            decode_recording(good[:at])
    with pytest.raises(InvalidImage):
        decode_recording(good + b"\0")


def test_what_does_not_fit_is_left_out() -> None:
    many = encode_recording(["b"], [Span(0, i, i + 1, i, 1) for i in range(MAX_SPANS + 5)])
    assert len(decode_recording(many).spans) == MAX_SPANS


def forged(body: bytes, blobs: int, spans: int) -> bytes:
    return HEADER.pack(MAGIC, 1, blobs, spans, zlib.crc32(body)) + body


@pytest.mark.parametrize(
    "span",
    [(1, 1, 0, 1, 0), (0, 0, 0, 1, 0), (0, 2, 0, 1, 0), (0, 1, 0, 0, 0), (0, 1, 0, (16 << 20) + 1, 0), (0, 1, 0, 1, 1 << 40)],
)
def test_impossible_spans(span: tuple[int, ...]) -> None:
    with pytest.raises(InvalidImage):
        decode_recording(forged(struct.pack("<H", 1) + b"b" + struct.pack("<HIIIQ", *span), 1, 1))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 300), st.integers(0, 1 << 17))
def test_no_other_error(body: bytes, blobs: int, spans: int) -> None:
    for content in (body, forged(body, blobs, spans)):
        try:
            decode_recording(content)
        except InvalidImage:
            pass

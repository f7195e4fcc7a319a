"""Decompressors give exactly the size that was promised, or CorruptChunk; never more memory than that."""

import gzip
import random

import lz4.block
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from nydus_app.errors import CorruptChunk
from nydus_app.formats.codec.compress import decompress
from nydus_app.formats.rafs.values import Compressor

DATA = random.Random(1).randbytes(5000) + b"a" * 5000
PACKED = {
    Compressor.none: DATA,
    Compressor.zstd: zstandard.compress(DATA),
    Compressor.lz4_block: lz4.block.compress(DATA, store_size=False),
    Compressor.gzip: gzip.compress(DATA),
}


@pytest.mark.parametrize("compressor", Compressor)
def test_there_and_back(compressor: Compressor) -> None:
    assert decompress(compressor, memoryview(PACKED[compressor]), len(DATA)) == DATA


@pytest.mark.parametrize("compressor", Compressor)
@pytest.mark.parametrize("size", [0, 1, len(DATA) - 1, len(DATA) + 1, 1 << 24])
def test_another_size_is_corrupt(compressor: Compressor, size: int) -> None:
    with pytest.raises(CorruptChunk):
        decompress(compressor, PACKED[compressor], size)


@pytest.mark.parametrize("declared", [1 << 62, len(DATA) * 1000])
def test_a_frame_that_declares_a_terabyte_costs_nothing(declared: int) -> None:
    # Frame header: magic, descriptor 0xe0 (single segment, 8 bytes of content size), the size.
    bomb = b"\x28\xb5\x2f\xfd\xe0" + declared.to_bytes(8, "little") + b"\x01\x00\x00"
    with pytest.raises(CorruptChunk, match="declares"):
        decompress(Compressor.zstd, bomb, 4096)


@settings(deadline=None)
@given(st.sampled_from(list(Compressor)), st.data())
def test_noise_raises_one_error_only(compressor: Compressor, data: st.DataObject) -> None:
    packed = bytearray(PACKED[compressor])
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packed)))
    try:
        assert len(decompress(compressor, bytes(packed[cut:]), len(DATA))) == len(DATA)
    except CorruptChunk:
        pass

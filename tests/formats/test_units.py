"""Batches, zran contexts and encryption, against real images and against bytes that nobody vouches for."""

import gzip
import random
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as Algorithm
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from hypothesis import given, settings
from hypothesis import strategies as st

from nydus_app.errors import CorruptChunk, InvalidImage
from nydus_app.formats.blob.compression_info import (
    CI_HEADER_SIZE,
    HEADER,
    MAGIC,
    V1,
    V2,
    ChunkTable,
    decode_blob_meta,
    encode_blob_meta,
)
from nydus_app.formats.blob.contexts import BATCH, CONTEXT_SIZE, ZRAN
from nydus_app.formats.codec.compress import Decompressor, decompress
from nydus_app.formats.codec.crypt import decrypt
from nydus_app.formats.codec.inflate import inflate_into
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.v6 import EXT_SUPERBLOCK, EXT_SUPERBLOCK_AT
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Cipher, Compressor, Digester

IMAGES = Path(__file__).parent.parent / "images"
KEY, IV = bytes(range(32)), bytes(range(100, 116))
F = BlobFeatures


def a_blob(features: BlobFeatures, count: int, ci_size: int, compressor: Compressor = Compressor.zstd) -> Blob:
    size = 1 << 20
    return Blob(
        0, "b" * 64, features | F.ALIGNED, compressor, Digester.blake3, size, count, size, size,
        Compressor.none, 0, ci_size, ci_size, 0, b"",
    )  # fmt: skip


def a_header(count: int, ci_size: int, contexts: tuple[int, int, int]) -> bytes:
    head = HEADER.pack(MAGIC, 0, 0, count, 0, ci_size, ci_size, *contexts)
    return head.ljust(CI_HEADER_SIZE - 4, b"\0") + MAGIC.to_bytes(4, "little")


def a_table(features: BlobFeatures, records: bytes, contexts: bytes, count: int, *, lie: int = 0) -> ChunkTable:
    """`lie` is added to the number of contexts in the header."""
    table = records + contexts
    number = len(records) // V2.size
    area = (len(records), len(contexts), count + lie)
    blob = a_blob(features | F.CHUNK_INFO_V2, number, len(table))
    return decode_blob_meta(encode_blob_meta(table, a_header(number, len(table), area)), blob)


def v2(flags: int, start: int, size: int, offset: int, stored: int, third: int) -> bytes:
    return V2.pack(start >> 12 | (size - 1) << 32 | flags << 56, offset | stored << 40, third)


def inflate_from(raw: bytes, size: int, *, dictionary: bytes, byte: int, bits: int) -> bytes:
    out = bytearray(size)
    inflate_into(out, b"before" + raw + b"behind", slice(6, 6 + len(raw)), dictionary=dictionary, byte=byte, bits=bits)
    return bytes(out)


# ---- zran ---------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def zran(golden: Path) -> tuple[bytes, bytes, list[tuple[int, ...]], int]:
    """A layer, its compression information, and the contexts and the place of the dictionaries in that."""
    folder = golden / "v6-zran-kinds"
    (blob,) = open_bootstrap((folder / "boot").read_bytes()).blobs
    raw = (folder / "blobs" / blob.meta_id).read_bytes()
    stored = raw[blob.ci_offset : blob.ci_offset + blob.ci_compressed_size]
    table = bytes(decompress(blob.ci_compressor, stored, blob.ci_uncompressed_size))
    at, _, count = HEADER.unpack_from(raw, blob.ci_offset + blob.ci_compressed_size)[7:]
    contexts = list(ZRAN.iter_unpack(table[at : at + count * CONTEXT_SIZE]))
    return (folder / "blobs" / blob.id).read_bytes(), table, contexts, at + count * CONTEXT_SIZE


def test_every_context_of_a_real_layer_inflates_to_what_gzip_has_there(
    zran: tuple[bytes, bytes, list[tuple[int, ...]], int],
) -> None:
    layer, table, contexts, base = zran
    tar = gzip.decompress(layer)
    assert len({bits for *_, bits in contexts}) > 2
    for at, start, dictionary, stored, size, length, byte, bits in contexts:
        data = inflate_from(
            layer[at : at + stored], size, dictionary=table[base + dictionary :][:length], byte=byte, bits=bits
        )
        assert data == tar[start : start + size]


def test_inflating_stops_where_nobody_asks_for_more_and_tells_what_is_missing() -> None:
    data = random.Random(1).randbytes(50_000)
    members = b"".join(gzip.compress(data[i : i + 10_000], 0 if i % 20_000 else 6) for i in range(0, 50_000, 10_000))
    stored = members[10:]  # behind the first header
    for size in (1, 9_999, 10_000, 10_001, 37_123, 50_000):
        assert inflate_from(stored, size, dictionary=b"", byte=0, bits=0) == data[:size]
    for cut, size in ((stored, 50_001), (stored[:-9], 50_001), (stored[:20_000], 50_000), (b"", 1)):
        with pytest.raises(CorruptChunk):
            inflate_from(cut, size, dictionary=b"", byte=0, bits=0)


@settings(deadline=None)
@given(at=st.integers(0, 20_000), flip=st.integers(1, 255), bits=st.integers(0, 7), cut=st.integers(0, 3_000))
def test_noise_inflates_to_the_size_or_raises(at: int, flip: int, bits: int, cut: int) -> None:
    data = bytearray(gzip.compress(random.Random(2).randbytes(9_000) + bytes(9_000)))[10:]
    data[at % len(data)] ^= flip
    try:
        assert len(inflate_from(bytes(data[cut:]), 18_000, dictionary=b"d" * 100, byte=0xA5, bits=bits)) == 18_000
    except CorruptChunk:
        pass


# ---- tables of contexts -------------------------------------------------------------------------


def test_chunks_of_a_batch_have_its_place_and_their_own_offset_in_it() -> None:
    records = v2(5, 0, 100, 500, 0, 0) + v2(5, 4096, 50, 500, 0, 100) + v2(1, 8192, 4096, 700, 90, 0)
    table = a_table(F.BATCH, records, BATCH.pack(120, 150), 1)
    first, second, third = (table.chunk(i) for i in range(3))
    assert first.part is not None and second.part is not None and third.part is None
    assert (first.part.unit, first.part.unit_size, first.part.offset, second.part.offset) == (0, 150, 0, 100)
    assert [c.compressed_offset for c in (first, second, third)] == [500, 500, 700]
    assert [c.compressed_size for c in (first, second, third)] == [120, 120, 90]
    assert [table.unit_of(i) for i in (-1, 0, 1, 2, 3)] == [None, 0, 0, None, None]


LAYER = 1 << 20
GOOD = ZRAN.pack(1000, 5000, 0, 300, 800, 32768, 7, 3)
BAD_CONTEXTS = {
    "nothing decoded": ZRAN.pack(1000, 0, 0, 300, 0, 0, 0, 0),
    "too much decoded": ZRAN.pack(1000, 0, 0, 300, (16 << 20) + 1, 0, 0, 0),
    "nothing stored": ZRAN.pack(1000, 0, 0, 0, 800, 0, 0, 0),
    "stored behind the layer": ZRAN.pack(LAYER - 299, 0, 0, 300, 800, 0, 0, 0),
    "stored far behind": ZRAN.pack((1 << 64) - 1, 0, 0, 300, 800, 0, 0, 0),
    "gigabytes stored": ZRAN.pack(0, 0, 0, 1 << 30, 800, 0, 0, 0),
    "a long dictionary": ZRAN.pack(1000, 0, 0, 300, 800, 32769, 0, 0),
    "a dictionary behind the table": ZRAN.pack(1000, 0, 1, 300, 800, 32768, 0, 0),
    "a dictionary far behind": ZRAN.pack(1000, 0, (1 << 64) - 1, 300, 800, 1, 0, 0),
    "a whole byte of bits": ZRAN.pack(1000, 0, 0, 300, 800, 0, 0, 8),
    "a chunk behind its end": ZRAN.pack(1000, 0, 0, 300, 299, 0, 0, 0),
}


def zran_table(context: bytes, *, flags: int = 3, number: int = 0, lie: int = 0) -> ChunkTable:
    record = v2(flags, 0, 100, 7, 0, number << 32 | 200)
    return a_table(F.ZRAN | F.SEPARATE, record, context + bytes(32768), 1, lie=lie)


def test_a_zran_chunk_lies_where_its_context_does() -> None:
    chunk = zran_table(GOOD).chunk(0)
    assert chunk.part is not None and chunk.part.start is not None
    assert (chunk.compressed_offset, chunk.compressed_size, chunk.is_compressed) == (1000, 300, True)
    assert (chunk.part.offset, chunk.part.unit_size) == (200, 800)
    assert chunk.part.start == (7, 3, V2.size + CONTEXT_SIZE, 32768)


@pytest.mark.parametrize("name", BAD_CONTEXTS)
def test_a_context_that_cannot_be_is_an_invalid_image(name: str) -> None:
    with pytest.raises(InvalidImage):
        zran_table(BAD_CONTEXTS[name]).chunk(0)


@pytest.mark.parametrize("change", [{"number": 1}, {"number": (1 << 32) - 1}, {"flags": 0x20}, {"flags": 9}, {"lie": 1}, {"lie": 1 << 31}])
def test_a_record_that_contradicts_the_contexts_is_an_invalid_image(change: dict[str, int]) -> None:
    with pytest.raises(InvalidImage):
        zran_table(GOOD, **change).chunk(0)


def test_units_need_records_that_can_name_them() -> None:
    with pytest.raises(InvalidImage):
        a_table(F(0), v2(5, 0, 100, 500, 0, 0), b"", 0).chunk(0)
    table = V1.pack(99 << 44, 500) + BATCH.pack(120, 150)
    header = a_header(1, len(table), (V1.size, CONTEXT_SIZE, 1))
    with pytest.raises(InvalidImage):
        decode_blob_meta(encode_blob_meta(table, header), a_blob(F.BATCH, 1, len(table)))


# ---- legacy stargz ------------------------------------------------------------------------------


def test_legacy_stargz_reads_more_than_a_chunk_can_take_and_no_further_than_the_layer() -> None:
    data = random.Random(4).randbytes(40_000)
    member = gzip.compress(data + b"the next file's header")
    table = V1.pack((len(data) - 1) << 44, 100) + V1.pack(0xA000 | 9 << 44, LAYER - 50)
    blob = a_blob(F(0), 2, len(table), Compressor.gzip)
    chunks = decode_blob_meta(encode_blob_meta(table, a_header(2, len(table), (0, 0, 0))), blob).rows(0, 2)
    assert [row[3] for row in chunks] == [40_000 + 10 + 8 + 5 + 2 * 5 + 128, 50]
    assert all(row[6] for row in chunks)
    stored = (member + b"more members")[: chunks[0][3]]
    assert Decompressor(Compressor.gzip, is_prefix=True).decompress(stored, len(data)) == data
    with pytest.raises(CorruptChunk):
        Decompressor(Compressor.gzip, is_prefix=True).decompress(stored[:30_000], len(data))


# ---- encryption ---------------------------------------------------------------------------------


def encrypt(data: bytes) -> bytes:
    """As nydus-image does."""
    if len(data) < 16:
        data = data.ljust(16, bytes([16 - len(data)])) + b"\x78\x90"
    encryptor = Algorithm(AES(KEY), XTS(IV)).encryptor()
    return encryptor.update(data) + encryptor.finalize()


@pytest.mark.parametrize("size", [1, 15, 16, 17, 18, 19, 31, 32, 4096, 70_001])
def test_what_was_encrypted_is_decrypted(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assert decrypt(Cipher(KEY, IV), memoryview(encrypt(data))) == data


def test_ieee_1619_vector() -> None:
    """XTS-AES-128 vector 2 of IEEE Std 1619-2007, Annex B."""
    cipher = Cipher(b"\x11" * 16 + b"\x22" * 16, bytes.fromhex("3333333333") + bytes(11))
    secret = "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0"
    assert decrypt(cipher, bytes.fromhex(secret)) == b"\x44" * 32


@pytest.mark.parametrize("plain", [b"x" * 15 + b"\x10\x78\x90", b"x" * 15 + b"\0\x78\x90"])
def test_a_padding_that_cannot_be_is_corrupt(plain: bytes) -> None:
    encryptor = Algorithm(AES(KEY), XTS(IV)).encryptor()
    with pytest.raises(CorruptChunk):
        decrypt(Cipher(KEY, IV), encryptor.update(plain) + encryptor.finalize())
    with pytest.raises(CorruptChunk):
        decrypt(Cipher(KEY, IV), plain[:15])


def test_a_key_of_two_equal_halves_is_an_invalid_image() -> None:
    boot = bytearray((IMAGES / "v6-encrypt/boot").read_bytes())
    key_at = EXT_SUPERBLOCK.unpack_from(boot, EXT_SUPERBLOCK_AT)[1] + 168
    assert open_bootstrap(bytes(boot)).blobs[0].cipher is not None
    boot[key_at : key_at + 16] = boot[key_at + 16 : key_at + 32]
    with pytest.raises(InvalidImage, match="halves"):
        open_bootstrap(bytes(boot))

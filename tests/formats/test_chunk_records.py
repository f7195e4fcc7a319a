"""Records of v6's chunk table as they are stored: what is not named is told from what is named wrongly."""

from nydus_app.formats.rafs.v5 import CHUNK, CHUNK_HAS_CRC32, NO_RECORD
from nydus_app.formats.rafs.v6 import decode_chunk_records


def test_no_record_is_none_and_one_of_zeros_is_a_chunk_of_no_bytes() -> None:
    named = CHUNK.pack(b"\1" * 32, 0, CHUNK_HAS_CRC32, 9, 17, 0, 1 << 32, 0, 3, 0xABCD)
    assert decode_chunk_records(NO_RECORD + bytes(CHUNK.size) + named) == [
        None, (0, 0, bytes(32), None), (1 << 32, 17, b"\1" * 32, 0xABCD),
    ]  # fmt: skip

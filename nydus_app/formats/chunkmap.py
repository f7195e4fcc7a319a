"""The chunk map of a cache file: which chunks are there (rafs-format 10, contract 7.3).

    4096 bytes   magic1, version, magic2, all_ready (little-endian u32 each), zeros
    ceil(n / 8)  one bit a chunk, most significant first: chunk 0 is 0x80 of byte 0

Ours say in the first of those zeros, which nydusd does not look at, how the blob is cut: one that was converted twice (a layer's
tar, with another chunk size) has one id, and bits of the one mean other bytes of the other.
"""

from struct import Struct
from typing import NamedTuple

HEADER_SIZE = 4096
MAGIC1, VERSION, MAGIC2 = 0x424D4150, 1, 0x434D4150
ALL_READY = 0x4D4D4150
HEADER = Struct("<4I")
CUTTING = Struct("<2I")


class Cutting(NamedTuple):
    """Into how many chunks a blob is cut, and of how many bytes."""

    count: int
    size: int


def file_size(chunk_count: int) -> int:
    return HEADER_SIZE + -(-chunk_count // 8)


def encode_header(cutting: Cutting, *, all_ready: bool) -> bytes:
    head = HEADER.pack(MAGIC1, VERSION, MAGIC2, ALL_READY if all_ready else 0) + CUTTING.pack(*cutting)
    return head.ljust(HEADER_SIZE, b"\0")


def cutting_of(content: bytes | bytearray) -> Cutting | None:
    """What the header says; None where it is nydusd's, or there is none."""
    if len(content) < HEADER.size + CUTTING.size:
        return None
    cutting = Cutting(*CUTTING.unpack_from(content, HEADER.size))
    return cutting if any(cutting) else None


def is_valid(content: bytes | bytearray, chunk_count: int) -> bool:
    """The whole file's size and header are those of a map of `chunk_count` chunks."""
    if len(content) != file_size(chunk_count):
        return False
    magic1, version, magic2, all_ready = HEADER.unpack_from(content)
    return (magic1, version, magic2) == (MAGIC1, VERSION, MAGIC2) and all_ready in (0, ALL_READY)


def decode_bits(content: bytes | bytearray, chunk_count: int) -> bytearray:
    """The bitmap of a valid map; all bits are set where the header says so."""
    if HEADER.unpack_from(content)[3] == ALL_READY:
        return bytearray(b"\xff" * -(-chunk_count // 8))
    return bytearray(content[HEADER_SIZE:])


def test_bit(bits: bytearray, index: int) -> bool:
    return bool(bits[index >> 3] & (0x80 >> (index & 7)))


def expand_bits(bits: bytearray, chunk_count: int) -> bytes:
    """A byte for each chunk, 1 or 0."""
    table = [bytes(byte >> shift & 1 for shift in range(7, -1, -1)) for byte in range(256)]
    return b"".join([table[byte] for byte in bits])[:chunk_count]


def set_bit(bits: bytearray, index: int) -> None:
    bits[index >> 3] |= 0x80 >> (index & 7)


def clear_bit(bits: bytearray, index: int) -> None:
    bits[index >> 3] &= ~(0x80 >> (index & 7)) & 0xFF


def all_set(bits: bytearray, chunk_count: int) -> bool:
    whole, rest = divmod(chunk_count, 8)
    if bits[:whole] != b"\xff" * whole:
        return False
    return not rest or bits[whole] | (0xFF >> rest) == 0xFF

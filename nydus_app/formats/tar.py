"""The GNU tar headers that follow the sections of a blob (rafs-format 7.2)."""

from typing import NamedTuple

BLOCK_SIZE = 512


class TarHeader(NamedTuple):
    name: bytes
    size: int


def decode_header(block: bytes | memoryview) -> TarHeader | None:
    """The header in the 512 bytes of `block`, None if they are none or their checksum is wrong."""
    raw = bytes(block)
    if len(raw) != BLOCK_SIZE or raw[257:265] != b"ustar  \0":
        return None
    fields = [raw[at : at + size].rstrip(b" \0") for at, size in ((148, 8), (124, 12))]
    if not all(fields) or any(f.strip(b"01234567") for f in fields):
        return None
    checksum, size = (int(f, 8) for f in fields)
    if sum(raw[:148]) + 8 * 0x20 + sum(raw[156:]) != checksum:
        return None
    return TarHeader(raw[:100].rstrip(b"\0"), size)

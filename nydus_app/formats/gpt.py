"""The GUID Partition Table (UEFI 2.10, section 5.3): a header and an array of entries at each end of a disk.

Nobody vouches for the bytes: everything raises InvalidImage, and the array is bounded by the disk and by
MAX_TABLE_SIZE before anybody reads it. Sectors are those of 512 bytes that nydusd assumes.
"""

import zlib
from struct import Struct
from typing import NamedTuple
from uuid import UUID

from nydus_app.errors import InvalidImage
from nydus_app.formats.bounds import Untrusted

SECTOR_SIZE = 512
SIGNATURE = b"EFI PART"
MIN_HEADER_SIZE = 92
MIN_ENTRY_SIZE = 128
MAX_TABLE_SIZE = 4 << 20
"""32768 entries; the specification has no limit, the usual number is 128."""

HEADER = Struct("<8s4I4Q16sQ3I")
ENTRY = Struct("<16s16s3Q72s")

BASIC_DATA = UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7")


class Header(NamedTuple):
    """`table_offset` and `table_size` are bytes on the disk; `alternate` is the sector of the other header."""

    alternate: int
    first_usable: int
    last_usable: int
    table_offset: int
    table_size: int
    entry_size: int
    table_crc32: int


class Partition(NamedTuple):
    """`number` is that of the entry, from 1; `offset` and `size` are bytes."""

    number: int
    type: UUID
    guid: UUID
    name: str
    offset: int
    size: int


def decode_header(sector: bytes, lba: int, disk_sectors: int) -> Header:
    """The header that was read from sector `lba`."""
    untrusted = Untrusted(sector, f"GPT header in sector {lba}")
    (signature, _, size, crc, _, my_lba, alternate, first, last, _, table, count, entry_size, table_crc) = (
        untrusted.unpack(HEADER, 0, "header")
    )
    if signature != SIGNATURE:
        raise InvalidImage(f"{untrusted.what}: there is none")
    if not MIN_HEADER_SIZE <= size <= len(sector):
        raise InvalidImage(f"{untrusted.what}: a header of {size} bytes")
    if zlib.crc32(sector[:16] + bytes(4) + sector[20:size]) != crc:
        raise InvalidImage(f"{untrusted.what}: its checksum is wrong")
    if my_lba != lba:
        raise InvalidImage(f"{untrusted.what}: it says that it is in sector {my_lba}")
    if not first <= last < disk_sectors:
        raise InvalidImage(f"{untrusted.what}: usable sectors {first} to {last} of {disk_sectors}")
    if entry_size < MIN_ENTRY_SIZE or entry_size & (entry_size - 1):
        raise InvalidImage(f"{untrusted.what}: entries of {entry_size} bytes")
    table_size = count * entry_size
    if not 0 < table_size <= MAX_TABLE_SIZE or table * SECTOR_SIZE + table_size > disk_sectors * SECTOR_SIZE:
        raise InvalidImage(f"{untrusted.what}: {count} entries of {entry_size} bytes at sector {table}")
    return Header(alternate, first, last, table * SECTOR_SIZE, table_size, entry_size, table_crc)


def decode_table(table: bytes, header: Header) -> list[Partition]:
    """The partitions of an array of entries, in its order."""
    if len(table) != header.table_size or zlib.crc32(table) != header.table_crc32:
        raise InvalidImage(f"GPT entries at byte {header.table_offset}: their checksum is wrong")
    partitions = []
    for index in range(header.table_size // header.entry_size):
        type_guid, guid, first, last, _, name = ENTRY.unpack_from(table, index * header.entry_size)
        if type_guid == bytes(16):
            continue
        if not header.first_usable <= first <= last <= header.last_usable:
            raise InvalidImage(f"GPT partition {index + 1}: sectors {first} to {last} are not usable ones")
        partitions.append(
            Partition(
                index + 1,
                UUID(bytes_le=type_guid),
                UUID(bytes_le=guid),
                _decode_name(name),
                first * SECTOR_SIZE,
                (last - first + 1) * SECTOR_SIZE,
            )
        )
    return partitions


def _decode_name(raw: bytes) -> str:
    """36 code units of UTF-16, up to the first 0; what is none becomes U+FFFD, and so no blob's name."""
    return raw.decode("utf-16-le", "replace").partition("\0")[0]

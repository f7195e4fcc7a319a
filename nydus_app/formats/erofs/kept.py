"""An image that was laid out, as it is kept: header, image and address tables in one file.

    0           header; EROFS leaves the first 1024 bytes of the mounted file to us
    1024        the EROFS image, to `image_size`, a multiple of the block
    image_size  a row for each blob (ROW), then its table: chunk indexes, first blocks, positions (u32 each)

The header ends with a digest of all the rest, so that a file that is damaged, cut or not ours is not believed.
"""

from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from nydus_app.errors import InvalidImage
from nydus_app.formats.bounds import Untrusted
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.codec.digest import Fingerprint
from nydus_app.formats.erofs.addresses import AddressTable
from nydus_app.formats.erofs.image import Owner

HEADER_SIZE = 1024
DIGEST_AT = HEADER_SIZE - 32
MAGIC = b"NYDUSv5\0"
VERSION = 1
HEADER = Struct("<8s2I32s2IQI")
ROW = Struct("<3I")
VERIFIED, HAS_OWNER = 1, 2


class Origin(NamedTuple):
    """What an image was laid out from."""

    bootstrap: bytes  # fingerprint of all its bytes
    owner: Owner
    is_verified: bool  # inodes were compared with their digests

    def serves(self, wanted: "Origin") -> bool:
        return self._replace(is_verified=True) == wanted._replace(is_verified=True) and (
            self.is_verified or not wanted.is_verified
        )


class Kept(NamedTuple):
    origin: Origin
    tables: list[AddressTable]


def encode_tables(tables: Sequence[AddressTable]) -> list[bytes]:
    """What stands behind the image."""
    rows = [ROW.pack(len(t.indexes), t.blocks, t.longest_gap) for t in tables]
    return rows + [bytes(memoryview(part)) for t in tables for part in (t.indexes, t.starts, t.positions)]  # type: ignore[arg-type]


def encode_header(origin: Origin, image_size: int, blobs: int, content: Fingerprint) -> bytes:
    """`content` has been given everything behind the header, and is given the header here."""
    uid, gid = origin.owner or (0, 0)
    flags = (VERIFIED if origin.is_verified else 0) | (HAS_OWNER if origin.owner is not None else 0)
    head = HEADER.pack(MAGIC, VERSION, flags, origin.bootstrap, uid, gid, image_size, blobs).ljust(DIGEST_AT, b"\0")
    content.update(head)
    return head + content.digest()


def check_content(view: memoryview) -> None:
    """Raises InvalidImage for a file that is not as it was written."""
    content = Fingerprint()
    content.update(view[HEADER_SIZE:])
    content.update(view[:DIGEST_AT])
    if content.digest() != bytes(view[DIGEST_AT:HEADER_SIZE]):
        raise InvalidImage("it is damaged, or no kept layout")


def decode_kept(buffer: Buffer) -> Kept:
    """Header and tables, which are views of `buffer`. Raises InvalidImage."""
    data = Untrusted(buffer, "kept layout")
    magic, version, flags, bootstrap, uid, gid, at, count = data.unpack(HEADER, 0, "header")
    if (magic, version) != (MAGIC, VERSION):
        raise InvalidImage("it is no layout of this version")
    data.check(at, count * ROW.size, "rows")
    rows = list(ROW.iter_unpack(data.view[at : at + count * ROW.size]))
    at += count * ROW.size
    tables = []
    for length, blocks, gap in rows:
        data.check(at, length * 12, "address table")
        words = data.view[at : at + length * 12].cast("I")
        tables.append(AddressTable(words[:length], words[length : 2 * length], words[2 * length :], blocks, gap))
        at += length * 12
    origin = Origin(bootstrap, (uid, gid) if flags & HAS_OWNER else None, bool(flags & VERIFIED))
    return Kept(origin, tables)

"""The table of contents at the end of a blob, and the bootstrap that it may carry.

A blob is read backwards: every section is followed by its tar header (rafs-format 7.1). The last one
is either `rafs.blob.toc`, behind 128-byte entries, or `image.boot`, right behind the bootstrap.
"""

import hashlib
from struct import Struct
from typing import NamedTuple

from nydus_app.errors import InvalidImage
from nydus_app.formats import tar
from nydus_app.formats.rafs.values import Compressor

TAIL_SIZE = 4096
"""So many last bytes of a blob hold its TOC (or all of a smaller blob)."""

ENTRY = Struct("<2I16s32s3Q48x")
COMPRESSORS = {1: Compressor.none, 2: Compressor.zstd, 4: Compressor.lz4_block}
TOC_NAME, BOOTSTRAP_NAME = b"rafs.blob.toc", b"image.boot"


class Section(NamedTuple):
    """Where a section lies in the blob; `sha256` of its uncompressed content, None if unknown."""

    offset: int
    compressed_size: int
    uncompressed_size: int
    compressor: Compressor
    sha256: bytes | None


def decode_toc(entries: bytes) -> dict[bytes, Section]:
    """Sections by name. Raises InvalidImage."""
    if not entries or len(entries) % ENTRY.size:
        raise InvalidImage(f"a table of contents of {len(entries)} bytes")
    return dict(_decode_entry(fields) for fields in ENTRY.iter_unpack(entries))


def _decode_entry(fields: tuple) -> tuple[bytes, Section]:  # type: ignore[type-arg]
    flags, _, name, digest, offset, csize, usize = fields
    compressor = COMPRESSORS.get(flags)
    if compressor is None:
        raise InvalidImage(f"table of contents: {name!r} is compressed in an unknown way ({flags:#x})")
    return name.rstrip(b"\0"), Section(offset, csize, usize, compressor, digest)


def find_bootstrap(tail: bytes, blob_size: int) -> Section | None:
    """The bootstrap's place, from the last min(TAIL_SIZE, blob_size) bytes of a blob.

    None: the blob carries none. Raises InvalidImage for a table of contents that is damaged.
    """
    header = tar.decode_header(tail[-tar.BLOCK_SIZE :])
    if header is None:
        return None
    end = blob_size - tar.BLOCK_SIZE
    if header.name == BOOTSTRAP_NAME:
        return _checked(Section(end - header.size, header.size, header.size, Compressor.none, None), blob_size)
    if header.name != TOC_NAME:
        return None
    if header.size + tar.BLOCK_SIZE > len(tail):
        raise InvalidImage(f"a table of contents of {header.size} bytes is larger than the format allows")
    section = decode_toc(tail[-tar.BLOCK_SIZE - header.size : -tar.BLOCK_SIZE]).get(BOOTSTRAP_NAME)
    return None if section is None else _checked(section, blob_size)


def _checked(section: Section, blob_size: int) -> Section:
    if section.offset < 0 or section.offset + section.compressed_size > blob_size:
        raise InvalidImage("the blob's bootstrap lies outside of the blob")
    if section.uncompressed_size > 0x8000_0000:
        raise InvalidImage("the blob's bootstrap is larger than 2 GiB")
    return section


def check_content(section: Section, content: bytes | memoryview) -> None:
    """Raises InvalidImage if the content is not what the table of contents digested."""
    if section.sha256 is not None and hashlib.sha256(content).digest() != section.sha256:
        raise InvalidImage("the blob's bootstrap does not match its digest in the table of contents")

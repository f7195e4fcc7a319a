"""Tables that nobody vouches for: what contradicts itself is refused, and what is large costs nothing before that."""

import stat
import time
from pathlib import Path

import pytest

from nydus_app.errors import CorruptChunk, InvalidImage
from nydus_app.formats.codec.chunk import decode_chunks
from nydus_app.formats.codec.compress import decompress
from nydus_app.formats.codec.unit import Room, decode_units
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.v5 import CHUNK, SUPERBLOCK
from nydus_app.formats.rafs.v6 import EXT_SUPERBLOCK, EXT_SUPERBLOCK_AT
from nydus_app.formats.rafs.v6_blob import BLOB
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Bootstrap, Chunk, Compressor, Digester, Inode, Part
from nydus_app.formats.tar import decode_header

F = BlobFeatures


def a_blob(compressor: Compressor, features: BlobFeatures = F.ALIGNED) -> Blob:
    none = Compressor.none
    return Blob(0, "b" * 64, features, compressor, Digester.blake3, 1 << 20, 9, 1 << 20, 1 << 20, none, 0, 0, 0, 0, b"")


def no_room(*_: int) -> bytes:
    raise AssertionError("nothing is asked for")


@pytest.mark.parametrize("stored", [100, 8192])
def test_a_stored_chunk_of_another_size_is_corrupt(stored: int) -> None:
    """A shorter one would leave a hole, which is zeros; a longer one lies over its neighbour."""
    chunk = Chunk(0, 3, 0, stored, 4096, 4096, False, None, None)
    blob, room = a_blob(Compressor.none), Room(no_room, no_room)
    got = decode_chunks(blob, [chunk], b"E" * stored, 0, validate=False, room=room)[3]
    assert isinstance(got, CorruptChunk) and f"stored in {stored} bytes, 4096 expected" in str(got)


def files(bootstrap: Bootstrap) -> list[Inode]:
    found, todo = [], [bootstrap.root_ino]
    while todo:
        for entry in bootstrap.entries(bootstrap.inode(todo.pop()), 0):
            inode = bootstrap.inode(entry.ino)
            if entry.name not in (b".", b"..") and stat.S_ISDIR(inode.mode):
                todo.append(entry.ino)
            elif stat.S_ISREG(inode.mode) and inode.size:
                found.append(inode)
    return found


def test_a_file_whose_chunk_is_longer_than_its_record_says_is_no_file(golden: Path) -> None:
    """Where the chunk is warm nobody else compares the two."""
    raw = bytearray((golden / "v6-zstd/boot").read_bytes())
    bootstrap = open_bootstrap(memoryview(bytes(raw)))
    inode = max(files(bootstrap), key=lambda i: i.size)
    (before,) = bootstrap.chunks(inode, 0, 1)
    at, count = bootstrap._chunk_table
    for i in range(count):
        fields = list(CHUNK.unpack_from(raw, at + i * CHUNK.size))
        if fields[8] == before.index:
            fields[4] -= 1
            CHUNK.pack_into(raw, at + i * CHUNK.size, *fields)
    with pytest.raises(InvalidImage, match="disagree on a place or a size"):
        open_bootstrap(memoryview(bytes(raw))).chunks(inode, 0, 1)


def test_compression_information_of_more_bytes_than_its_chunks_take_is_refused(golden: Path) -> None:
    raw = bytearray((golden / "v6-zstd/boot").read_bytes())
    table_at, size = EXT_SUPERBLOCK.unpack_from(raw, EXT_SUPERBLOCK_AT)[1:3]
    assert size == BLOB.size
    fields = list(BLOB.unpack_from(raw, table_at))
    fields[13] = 1 << 50
    BLOB.pack_into(raw, table_at, *fields)
    with pytest.raises(InvalidImage, match=f"compression information of {1 << 50} bytes for {fields[3]} chunks"):
        open_bootstrap(memoryview(bytes(raw)))


@pytest.mark.parametrize("compressor", [Compressor.lz4_block, Compressor.zstd])
def test_a_size_that_no_memory_has_is_corrupt(compressor: Compressor) -> None:
    frame = b"\x28\xb5\x2f\xfd\x00\x58\x01\x00\x00"  # zstd's, of no declared size
    with pytest.raises(CorruptChunk):
        decompress(compressor, frame, 1 << 50)


def test_a_table_of_a_million_blobs_is_refused_at_once(golden: Path) -> None:
    raw = bytearray((golden / "v5-zstd/boot").read_bytes())
    table = (b"\0" * 8 + b"a\0") * 1_000_000
    at = len(raw) + -len(raw) % 8
    fields = list(SUPERBLOCK.unpack_from(raw))
    fields[8], fields[11] = at, len(table)
    SUPERBLOCK.pack_into(raw, 0, *fields)
    raw += bytes(at - len(raw)) + table
    began = time.process_time()
    with pytest.raises(InvalidImage, match="more than 255 blobs"):
        open_bootstrap(memoryview(bytes(raw)))
    assert time.process_time() - began < 5  # it was minutes


@pytest.mark.parametrize("field", [b"-0000000001\0", b"+0000000001\0", b"00_00000001\0", b"            "])
def test_a_tar_size_is_octal_digits(field: bytes) -> None:
    raw = bytearray(b"x".ljust(512, b"\0"))
    raw[124:136], raw[257:265] = field, b"ustar  \0"
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + 8 * 0x20 + sum(raw[156:]))
    assert decode_header(raw) is None
    raw[124:136] = b"00000000001\0"
    raw[148:156] = b"%06o\0 " % (sum(raw[:148]) + 8 * 0x20 + sum(raw[156:]))
    found = decode_header(raw)
    assert found is not None and found.size == 1


def test_a_byte_of_a_unit_does_not_hold_on_to_all_of_it() -> None:
    unit = bytes(1 << 20)
    stored = Chunk(0, 1, 0, len(unit), 0, 1, False, None, None, Part(0, len(unit), 5, False, None))
    contents, failed = decode_units(a_blob(Compressor.none), [stored], unit, 0, Room(no_room, no_room))
    assert not failed and len(contents[1].obj) == 1
    most = stored._replace(uncompressed_size=len(unit) - 5)
    contents, _ = decode_units(a_blob(Compressor.none), [most], unit, 0, Room(no_room, no_room))
    assert contents[1].obj is unit

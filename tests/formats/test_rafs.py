"""What mounting does not show: lookups of every name, listings continued anywhere, tables."""

import mmap
import os
import stat
from pathlib import Path

import pytest

from nydus_app.errors import InvalidImage
from nydus_app.formats import chunkmap
from nydus_app.formats.blob.compression_info import ci_range, decode_blob_meta, encode_blob_meta
from nydus_app.formats.codec.compress import decompress
from nydus_app.formats.rafs.open import NotABootstrap, open_bootstrap
from nydus_app.formats.rafs.values import Bootstrap

NAMES = ["v5-zstd", "v5-chunk4k", "v5-merged", "v6-zstd", "v6-chunk4k", "v6-merged", "v6-layer-lower"]


def open_golden(golden: Path, name: str) -> Bootstrap:
    with open(golden / name / "boot", "rb") as f:
        return open_bootstrap(memoryview(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)))


def directories(bootstrap: Bootstrap) -> list[int]:
    found = [bootstrap.root_ino]
    for ino in found:
        entries = bootstrap.entries(bootstrap.inode(ino), 0)
        found += [e.ino for e in entries if stat.S_ISDIR(bootstrap.inode(e.ino).mode)]
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_listed_name_is_found_and_no_other(golden: Path, name: str) -> None:
    bootstrap = open_golden(golden, name)
    for ino in directories(bootstrap):
        directory = bootstrap.inode(ino)
        names = {e.name: e.ino for e in bootstrap.entries(directory, 0)}
        for known, target in names.items():
            assert bootstrap.lookup(directory, known) == target
            for absent in (known + b"x", known[:-1], b"\0", b"zzz"):
                assert absent in names or absent in (b".", b"..") or bootstrap.lookup(directory, absent) is None
            assert bootstrap.inode(target).ino == target
        assert bootstrap.lookup(directory, b".") == ino
        parent = bootstrap.lookup(directory, b"..")
        assert parent is not None and stat.S_ISDIR(bootstrap.inode(parent).mode)


@pytest.mark.parametrize("name", NAMES)
def test_a_listing_continues_behind_any_entry(golden: Path, name: str) -> None:
    bootstrap = open_golden(golden, name)
    for ino in directories(bootstrap):
        whole = list(bootstrap.entries(bootstrap.inode(ino), 0))
        for i, entry in enumerate(whole):
            assert list(bootstrap.entries(bootstrap.inode(ino), entry.offset)) == whole[i + 1 :]


@pytest.mark.parametrize("name", ["v5-prefetch", "v6-prefetch"])
def test_the_prefetch_table_names_what_was_asked(golden: Path, name: str) -> None:
    bootstrap = open_golden(golden, name)
    root = bootstrap.inode(bootstrap.root_ino)
    usr, sizes = (bootstrap.inode(bootstrap.lookup(root, n) or 0) for n in (b"usr", b"sizes"))
    want = {bootstrap.lookup(usr, b"bin"), bootstrap.lookup(sizes, b"text-65537")}
    assert want == set(bootstrap.prefetch_inos())


@pytest.mark.parametrize("name", ["v5-zstd", "v5-sha256", "v5-merged"])
def test_v5_inodes_match_their_digests_until_one_bit_is_wrong(golden: Path, name: str) -> None:
    bootstrap = open_golden(golden, name)
    position = 0
    for ino in directories(bootstrap):
        for entry in bootstrap.entries(bootstrap.inode(ino), 0):
            inode = bootstrap.inode(entry.ino)
            bootstrap.verify_inode(inode)
            if stat.S_ISREG(inode.mode) and inode.size:
                position = inode.position
                damaged_ino = entry.ino
    damaged = bytearray((golden / name / "boot").read_bytes())
    damaged[position] ^= 1
    with pytest.raises(InvalidImage, match="digest"):
        again = open_bootstrap(damaged)
        again.verify_inode(again.inode(damaged_ino))


@pytest.mark.parametrize("content", [b"", b"\0" * 9000, os.urandom(5000), b"SFAR" + b"\0" * 9000])
def test_what_is_no_bootstrap_is_told_apart(content: bytes) -> None:
    with pytest.raises(NotABootstrap):
        open_bootstrap(content)


def test_the_kept_compression_information_is_nydus_images_own(golden: Path) -> None:
    """Made from the blob of the same tree, byte for byte what `nydus-image --blob-cache-dir` wrote."""
    (kept,) = (golden / "v6-blob-cache/cache").glob("*.blob.meta")
    blob = open_golden(golden, "v6-blob-cache").blobs[0]
    table = decode_blob_meta(kept.read_bytes(), blob)
    assert len(table) == blob.chunk_count
    chunks = [table.chunk(i) for i in range(len(table))]
    assert all(a.uncompressed_offset < b.uncompressed_offset for a, b in zip(chunks, chunks[1:], strict=False))
    other = open_golden(golden, "v6-layer-lower").blobs[0]
    raw = (golden / "v6-layer-lower/blobs" / other.id).read_bytes()
    start, size = ci_range(other)
    content = decompress(other.ci_compressor, raw[start : start + size - 4096], other.ci_uncompressed_size)
    encoded = encode_blob_meta(content, raw[start + size - 4096 : start + size])
    assert len(decode_blob_meta(encoded, other)) == other.chunk_count


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_chunk_maps_are_most_significant_bit_first(count: int) -> None:
    cutting = chunkmap.Cutting(count, 4096)
    content = bytearray(chunkmap.encode_header(cutting, all_ready=False) + bytes(-(-count // 8)))
    assert chunkmap.cutting_of(content) == cutting and chunkmap.cutting_of(bytes(5000)) is chunkmap.cutting_of(b"") is None
    assert chunkmap.is_valid(content, count) and not chunkmap.is_valid(content + b"\0", count)
    bits = chunkmap.decode_bits(content, count)
    for i in range(count):
        assert not chunkmap.all_set(bits, count)
        chunkmap.set_bit(bits, i)
        assert chunkmap.test_bit(bits, i)
    assert chunkmap.all_set(bits, count)
    assert bits[0] & 0x80
    chunkmap.clear_bit(bits, 0)
    assert not bits[0] & 0x80
    ready = bytearray(chunkmap.encode_header(cutting, all_ready=True) + bytes(-(-count // 8)))
    assert chunkmap.all_set(chunkmap.decode_bits(ready, count), count)

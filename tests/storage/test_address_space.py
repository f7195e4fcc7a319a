"""The short cut through the address space of a blob says what the long way says."""

import random
import struct
from types import SimpleNamespace

import pytest

from nydus_app.errors import InvalidImage
from nydus_app.formats.blob.compression_info import ChunkTable, CiHeader
from nydus_app.formats.blob.contexts import ContextArea
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk, Compressor, Digester
from nydus_app.storage.address_space import BLOCK, AddressSpace, AlignedPlaces
from nydus_app.storage.chunk_index import MAX_FOLLOWING, CompressionInfoIndex
from nydus_app.storage.hop import run_here


def places_of(chunks: list[tuple[int, int]]) -> AlignedPlaces:
    """Chunks of (uncompressed offset, size), stored."""
    end = max((start + size for start, size in chunks), default=0)
    rows = [
        struct.pack("<QQ", start | (size - 1 >> 20) << 8 | (size - 1 & 0xFFFFF) << 44, start | (size - 1 & 0xFFFFF) << 44)
        for start, size in chunks
    ]
    none = Compressor.none
    blob = Blob(
        0, "b" * 64, BlobFeatures.ALIGNED, none, Digester.blake3, 1 << 20, len(chunks), end, end, none,
        0, len(chunks) * 16, len(chunks) * 16, 0, b"",
    )  # fmt: skip
    index = CompressionInfoIndex(blob, SimpleNamespace(), None, lambda indexes: [None] * len(indexes))
    header = CiHeader(0, none, len(chunks), 0, 0, 0, ContextArea(0, 0, 0))
    index._table = ChunkTable(memoryview(b"".join(rows)), blob, header)
    return AlignedPlaces(blob, index)


@pytest.mark.parametrize("seed", range(14))
def test_a_run_is_what_the_extents_are(seed: int) -> None:
    r = random.Random(seed)
    chunks, at = [], r.choice([0, BLOCK])
    for _ in range(r.randrange(1, 60)):
        size = r.choice([1, 4095, 4096, 4097, r.randrange(1, 1 << 20)])
        chunks.append((at, size))
        at += size + -size % BLOCK + (BLOCK if r.random() < seed / 100 else 0)
    places, found = places_of(chunks), 0
    for _ in range(300):
        start = r.randrange(0, at)
        end = min(start + r.choice([1, 4096, 1 << 20, at]), at)
        run = places.run(start, end)
        try:
            extents = places.extents(start, end)
        except InvalidImage:
            assert run is None
        else:
            if end <= sum(chunks[-1]):
                first, last = extents[0], extents[-1]
                assert run == (first.index, last.index, first.start, last.stop)
                found += 1
            else:  # the cache's file ends before
                assert run is None
    assert found


@pytest.mark.parametrize("seed", range(6))
def test_what_is_in_memory_is_given_with_its_padding_and_let_go_when_read_to_its_end(seed: int) -> None:
    r = random.Random(seed)
    chunks, at = [], 0
    for _ in range(40):
        size = r.choice([1, 4095, 4096, 4097, r.randrange(1, 1 << 16)])
        chunks.append((at, size))
        at += size + -size % BLOCK
    data = {i: r.randbytes(size) for i, (_, size) in enumerate(chunks)}
    image = b"".join(d + bytes(-len(d) % BLOCK) for d in data.values())
    dropped: list[int] = []
    cache = SimpleNamespace(fresh=data, follow=lambda first, last: None, drop_fresh=dropped.extend)
    space = AddressSpace(places_of(chunks), cache)
    for _ in range(300):
        start = r.randrange(0, sum(chunks[-1]))
        end = min(start + r.choice([1, 4096, 1 << 17, at]), sum(chunks[-1]))
        dropped.clear()
        assert b"".join(run_here(space.read(start, end - start))) == image[start:end]
        touched = [i for i, (begin, size) in enumerate(chunks) if begin + size + -size % BLOCK > start and begin < end]
        assert dropped == [i for i in touched if sum(chunks[i]) <= end]


def test_a_table_whose_chunks_do_not_ascend_is_not_walked() -> None:
    """All but the first begin at one address: a READ of two blocks would look at each of them."""
    places = places_of([(0, 4096)] + [(4096, 4096)] * 50_000)
    looked = 0
    extents = places._index.extents

    def counted(first: int, end: int) -> list[tuple[int, int]]:
        nonlocal looked
        looked += 1
        return extents(first, end)

    places._index.extents = counted  # type: ignore[method-assign]
    assert places.run(0, 8192) is None and places.run(0, places.size) is None
    assert looked <= 2


def test_what_follows_a_chunk_is_looked_for_so_far_and_no_further() -> None:
    """Of a chunk dictionary the image names a few chunks of a million, at each cold read."""
    places = places_of([(i * BLOCK, BLOCK) for i in range(20_000)])
    places._index._stored_records_of = lambda indexes: b""
    (first,) = places._index._table.rows(0, 1)
    looked: list[int] = []
    assert not list(places._index.following(Chunk(*first), (), lambda index: looked.append(index) or True))
    assert looked == list(range(1, MAX_FOLLOWING + 1))

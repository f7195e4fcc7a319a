"""Units are fetched and decoded once for all their chunks; what is damaged fails alone."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from mounting import copy_blobs
from nydus_app.builder.image import open_image
from nydus_app.config.tree import Blobcache, Dummycache, Localfs, Rafs, Tree
from nydus_app.errors import BackendError, CorruptChunk, NydusError
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage import blob_meta
from nydus_app.storage.address_space import AddressSpace
from nydus_app.storage.background import Background
from nydus_app.storage.buffers import TURN_BYTES, Turns
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.dummycache import DummyCache
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import CompressionInfoIndex
from nydus_app.storage.tar_pieces import TarPieces
from nydus_app.storage.workers import Workers

IMAGES = ["v6-batch", "v6-encrypt", "v6-zran-kinds"]


class Origin:
    """A blob in memory whose reads are counted."""

    def __init__(self, path: Path) -> None:
        self.data = bytearray(path.read_bytes())
        self.reads: list[tuple[int, int]] = []

    async def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        if offset + size > len(self.data):
            raise BackendError("behind the end")
        return bytes(self.data[offset : offset + size])

    def close(self) -> None:
        pass


class Opened:
    """The first blob of a golden image in a cache that validates; `chunks` are all of it, located."""

    def __init__(self, folder: Path, work_dir: Path | None, batch_size: int) -> None:
        bootstrap = open_bootstrap((folder / "boot").read_bytes())
        self.blob: Blob = bootstrap.blobs[0]
        self.origin = Origin(folder / "blobs" / self.blob.id)
        self.info = Origin(folder / "blobs" / self.blob.meta_id) if self.blob.meta_id else self.origin
        path = None if work_dir is None else str(work_dir / f"{self.blob.id}.blob.meta")
        self.index = CompressionInfoIndex(self.blob, self.info, path, lambda indexes: bootstrap.stored_chunk_records(0, indexes))
        common = {"validate": True, "batch_size": batch_size, "workers": Workers(2), "background": Background()}
        self.cache: ChunkCache = (
            DummyCache(self.blob, self.origin, self.index, **common)
            if work_dir is None
            else BlobCache(self.blob, self.origin, self.index, keeping=Keeping(str(work_dir)), **common)
        )
        self.chunks: list[Chunk] = []

    async def load(self) -> None:
        await self.index.load()
        self.chunks = self.index.chunks(range(len(self.index)))
        self.origin.reads.clear()

    async def read(self, chunk: Chunk) -> bytes:
        got = await self.cache.ensure([chunk.index], self.index.chunks, ())
        if chunk.index in got:
            return bytes(got[chunk.index])
        return os.pread(self.cache.data_fd(), chunk.uncompressed_size, chunk.uncompressed_offset)

    def of_unit(self, unit: int) -> list[Chunk]:
        return [c for c in self.chunks if c.part is not None and c.part.unit == unit]

    def fullest(self) -> list[Chunk]:
        """The chunks of the unit that has the most."""
        counts = Counter(c.part.unit for c in self.chunks if c.part is not None)
        return self.of_unit(counts.most_common(1)[0][0])


@contextmanager
def opened(folder: Path, work_dir: Path | None, batch_size: int = 0) -> Iterator[Opened]:
    image = Opened(folder, work_dir, batch_size)
    try:
        yield image
    finally:
        image.cache.close()


@pytest.mark.parametrize("name", ["v6-batch", "v6-zran-kinds"])
def test_one_request_and_the_whole_unit_is_there(name: str, golden: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with opened(golden / name, tmp_path) as image:
            await image.load()
            unit = image.fullest()
            assert len(unit) > 20
            first = unit[len(unit) // 2]
            await image.read(first)
            assert image.origin.reads == [(first.compressed_offset, first.compressed_size)]
            for chunk in unit:
                await image.read(chunk)
            assert len(image.origin.reads) == 1

    trio.run(main)


def test_large_units_are_decoded_in_turn() -> None:
    turns, first_has_it, second_has_it = Turns(), threading.Event(), threading.Event()

    def second() -> None:
        first_has_it.wait(10)
        with turns.take(TURN_BYTES):
            second_has_it.set()

    thread = threading.Thread(target=second)
    thread.start()
    with turns.take(3 * TURN_BYTES):  # larger than all that may be taken: alone
        first_has_it.set()
        assert not second_has_it.wait(0.05)
    assert second_has_it.wait(10)
    thread.join()
    with turns.take(TURN_BYTES // 2), turns.take(TURN_BYTES // 2):
        pass


def test_consecutive_contexts_are_one_request(golden: Path, tmp_path: Path) -> None:
    async def main() -> None:
        with opened(golden / "v6-zran-kinds", tmp_path, batch_size=16 << 20) as image:
            await image.load()
            wanted = {c.part.unit: c for c in image.chunks if c.part is not None}
            a, b = (wanted[unit] for unit in sorted(wanted)[1:3])
            await image.cache.ensure([a.index, b.index], image.index.chunks, ())
            ((offset, size),) = image.origin.reads
            assert offset <= min(a.compressed_offset, b.compressed_offset)
            assert offset + size >= max(c.compressed_offset + c.compressed_size for c in (a, b))

    trio.run(main)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", IMAGES)
def test_a_damaged_unit_fails_for_exactly_its_chunks_and_heals_with_its_origin(
    name: str, kept: bool, golden: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        with opened(golden / name, tmp_path if kept else None, batch_size=1 << 20) as image:
            await image.load()
            unit = image.fullest()
            at, size = unit[0].compressed_offset, unit[0].compressed_size
            at += size // 2 if name == "v6-zran-kinds" else 0  # contexts overlap where they begin
            right = bytes(image.origin.data[at : at + 4])
            image.origin.data[at : at + 4] = bytes(b ^ 0xFF for b in right)
            damaged = {c.index for c in image.chunks if -4 < at - c.compressed_offset < c.compressed_size}
            assert {c.index for c in unit} <= damaged
            failed = set()
            for chunk in image.chunks:
                try:
                    await image.read(chunk)
                except CorruptChunk:
                    failed.add(chunk.index)
            assert failed and failed <= damaged
            assert name == "v6-zran-kinds" or failed == damaged  # deflate finds its way back behind damage
            image.origin.data[at : at + 4] = right
            for index in failed:
                await image.read(image.chunks[index])

    trio.run(main)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_large_table_of_contexts_passes_through_in_pieces_and_is_found_again(
    keeps: bool, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_meta, "LARGE_BYTES", 1)
    monkeypatch.setattr(blob_meta, "PIECE_BYTES", 10_000)

    async def main() -> None:
        folder = golden / "v6-zran-kinds"
        with opened(folder, tmp_path) as plain:
            await plain.load()
            want = {c.index: await plain.read(c) for c in plain.chunks}
            assert max(size for _, size in plain.info.reads) <= 10_000
        path = tmp_path / f"{plain.blob.id}.blob.meta"
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        (tmp_path / "other").mkdir()
        if keeps:
            shutil.copy(path, tmp_path / "other")
        with opened(folder, tmp_path / "other" if keeps else None) as again:
            await again.load()
            assert bool(again.info.reads) is not keeps
            assert {c.index: await again.read(c) for c in again.chunks} == want

    trio.run(main)
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["cut", "grown", "zstd", "header"])
def test_a_damaged_large_table_is_an_error_and_leaves_nothing(
    damage: str, golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_meta, "LARGE_BYTES", 1)

    async def main() -> None:
        with opened(golden / "v6-zran-kinds", tmp_path) as image:
            data, blob = image.info.data, image.blob
            if damage == "cut":
                del data[blob.ci_offset + blob.ci_compressed_size :]
            elif damage == "grown":
                object.__setattr__(image.index, "_blob", blob._replace(ci_uncompressed_size=blob.ci_uncompressed_size + 1))
            elif damage == "zstd":
                data[blob.ci_offset + 6 : blob.ci_offset + 1000] = b"\xff" * 994
            else:
                data[blob.ci_offset + blob.ci_compressed_size] ^= 1
            with pytest.raises(NydusError):
                await image.index.load()

    trio.run(main)
    assert not list(tmp_path.iterdir())


def test_a_tar_that_is_elsewhere_is_fetched_in_pieces(golden: Path, tmp_path: Path) -> None:
    """As a device, every byte of it; and no byte twice."""

    async def main() -> None:
        folder = golden / "v6-tarfs"
        (blob,) = open_bootstrap((folder / "boot").read_bytes()).blobs
        origin = Origin(folder / "blobs" / blob.id)
        tar, pieces = bytes(origin.data), TarPieces(blob)
        common = {"validate": False, "batch_size": 1 << 20, "workers": Workers(2), "background": Background()}
        cache = BlobCache(blob, origin, pieces, keeping=Keeping(str(tmp_path)), **common)
        space = AddressSpace(pieces, cache)
        want = tar.ljust(space.size, b"\0")
        for offset, size in ((1_000_000, 5000), (space.size - 3000, 9000), (0, 512), (131_071, 2), (0, space.size)):
            assert b"".join(await space.read(offset, size)) == want[offset : offset + size]
        assert sum(size for _, size in origin.reads) == len(tar)
        assert (tmp_path / f"{blob.id}.blob.data").read_bytes() == tar
        cache.close()

    trio.run(main)


Change = Callable[[Path], None]


def tree_of(folder: Path, blobs: Path, cache: Blobcache | Dummycache) -> Tree:
    rafs = Rafs(validate=False)
    return Tree(bootstrap=str(folder / "boot"), mountpoint=None, backend=Localfs(dir=str(blobs)), cache=cache, rafs=rafs)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "whole", "bits"),
    [(None, True, 16), (_flip, False, 15), (lambda p: os.truncate(p, p.stat().st_size - 4096), False, 0),
     (lambda p: _punch(p), False, 0)],
    ids=["complete", "damaged", "cut", "with a hole"],
)  # fmt: skip
def test_prebuilt_cache_files_are_believed_by_their_digests(
    change: Change | None, whole: bool, bits: int, golden: Path, tmp_path: Path
) -> None:
    folder, work_dir = golden / "v6-blob-cache", tmp_path / "cache"
    shutil.copytree(folder / "cache", work_dir)
    (data,) = work_dir.glob("*.blob.data")
    if change is not None:
        change(data)
    image = open_image(tree_of(folder, tmp_path, Blobcache(work_dir=str(work_dir), validate=False)))
    (cache,) = image.caches
    assert isinstance(cache, BlobCache)
    assert (cache.whole_file() is not None) is whole
    image.close()
    maps = list(work_dir.glob("*.chunk_map"))
    assert sum(byte.bit_count() for m in maps for byte in m.read_bytes()[4096:]) == bits


def _punch(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    with open(path, "wb") as f:
        f.write(data[:65536])
        f.seek(65536 + 131072)
        f.write(data[65536 + 131072 :])


def test_what_lies_beside_a_damaged_separate_table_is_not_read(golden: Path, tmp_path: Path) -> None:
    blobs = copy_blobs(golden, "v6-zran", tmp_path / "blobs")
    (blob,) = open_bootstrap((golden / "v6-zran/boot").read_bytes()).blobs
    os.truncate(blobs / blob.meta_id, 100)
    image = open_image(tree_of(golden / "v6-zran", blobs, Dummycache()))

    async def main(index: Sequence[object]) -> None:
        with pytest.raises(NydusError):
            await index[0].load()  # type: ignore[attr-defined]

    trio.run(main, image.indexes)
    image.close()

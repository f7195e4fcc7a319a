"""A cache with a bound: the limit holds under load, and no reader sees a hole."""

import errno
import os
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import blake3
import pytest
import trio

from nydus_app.errors import CacheError
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk, Compressor, Digester, Segment
from nydus_app.storage.background import Background
from nydus_app.storage.cache import bound, ranges
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.bound import Bound
from nydus_app.storage.cache.bounded_blob import BoundedBlob
from nydus_app.storage.cache.chunk_map import FileMap
from nydus_app.storage.cache.directory_lock import lock_directory
from nydus_app.storage.chunk_index import RecordedIndex
from nydus_app.storage.device import Device
from nydus_app.storage.workers import Workers

SIZE, COUNT = 16 << 10, 512
DATA = random.Random(1).randbytes(SIZE * COUNT)
DIGESTS = [blake3.blake3(DATA[i * SIZE :][:SIZE]).digest() for i in range(COUNT)]
LIMIT = SIZE * COUNT // 10
META_BYTES = 16 << 10
"""Chunk map and ages: counted, but nobody asks for room for them."""

KEY = bytes(range(32))
KINDS = {
    "plain": Keeping(""),
    "raw": Keeping("", is_compressed=True),
    "encrypted": Keeping("", is_encrypted=True, key=KEY),
    "digest-keyed": Keeping("", is_indexed=False),
}


def chunk(i: int) -> Chunk:
    return Chunk(0, i, i * SIZE, SIZE, i * SIZE, SIZE, False, DIGESTS[i], None)


def chunks(first: int, end: int) -> list[Chunk]:
    return [chunk(i) for i in range(first, end)]


def blob(blob_id: str = "b" * 64) -> Blob:
    size, none = SIZE * COUNT, Compressor.none
    return Blob(0, blob_id, BlobFeatures(0), none, Digester.blake3, SIZE, COUNT, size, size, none, 0, 0, 0, 0, b"")


class Origin:
    """A blob in memory that counts what is read of it."""

    def __init__(self) -> None:
        self.bytes = 0

    async def size(self) -> int:
        return len(DATA)

    async def read(self, offset: int, size: int) -> bytes:
        self.bytes += size
        await trio.lowlevel.checkpoint()
        return DATA[offset : offset + size]

    def close(self) -> None:
        pass


class Cache:
    """One blob in a bounded cache of a directory."""

    def __init__(
        self, directory: Path, *, keeping: Keeping = KINDS["plain"], validate: bool = False, max_size: int = LIMIT,
        min_free: int = 0, blob_id: str = "b" * 64,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.origin = Origin()
        self.bound = Bound(str(directory), max_size=max_size, min_free=min_free)
        self.workers = Workers(3)
        self.cache = BlobCache(
            blob(blob_id), self.origin, RecordedIndex(blob(blob_id), chunks),
            keeping=keeping._replace(work_dir=str(directory)), validate=validate, batch_size=4 * SIZE,
            workers=self.workers, background=Background(), share_of=partial(BoundedBlob, self.bound),
        )  # fmt: skip
        self.device = Device([self.cache], Background(), self.workers)

    async def read(self, first: int, count: int = 1) -> bytes:
        wanted = chunks(first, min(first + count, COUNT))
        return b"".join(await self.device.read([Segment(c, 0, SIZE) for c in wanted], chunks(first + count, COUNT)))

    async def check(self, first: int, count: int = 1) -> None:
        assert await self.read(first, count) == DATA[first * SIZE : (first + count) * SIZE]

    def used(self) -> int:
        total = 0
        for path in self.directory.iterdir():
            with suppress(FileNotFoundError):
                total += path.stat().st_blocks * 512
        return total


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Cache]:
    cache = Cache(tmp_path)
    yield cache
    cache.device.close()


@pytest.mark.parametrize("validate", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_holds_and_every_byte_is_right_under_four_readers(tmp_path: Path, kind: str, validate: bool) -> None:
    cache = Cache(tmp_path, keeping=KINDS[kind], validate=validate)
    most = 0

    async def reader(seed: int) -> None:
        nonlocal most
        dice = random.Random(seed)
        for _ in range(60):
            first = dice.choice([dice.randrange(COUNT - 8), dice.randrange(20)])
            await cache.check(first, dice.randrange(1, 8))
            most = max(most, cache.used())

    async def main() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for seed in range(4):
                    nursery.start_soon(reader, seed)

    trio.run(main)
    cache.device.close()
    assert LIMIT // 2 < most <= LIMIT + META_BYTES
    assert cache.origin.bytes > 2 * LIMIT  # chunks went, and were fetched again


def test_the_least_recently_read_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    async def touch(cache: Cache, favourites: range, others: range) -> None:
        for i in others:
            await cache.check(i)
            for j in favourites:
                await cache.check(j)

    async def left(cache: Cache, indexes: range) -> int:
        before = cache.origin.bytes
        for i in indexes:
            await cache.check(i)
        return len(indexes) * SIZE - (cache.origin.bytes - before)

    async def main() -> None:
        cache = Cache(tmp_path)
        await touch(cache, range(0, 8), range(100, 180, 4))
        assert await left(cache, range(0, 8)) == 8 * SIZE
        cache.device.close()
        cache = Cache(tmp_path)
        await touch(cache, range(0), range(200, 216, 4))
        assert await left(cache, range(0, 8)) == 8 * SIZE
        cache.device.close()

    trio.run(main)


def test_what_is_held_stays_and_what_finds_no_room_is_not_kept(opened: Cache) -> None:
    async def main() -> None:
        room = LIMIT // SIZE
        with opened.cache.hold(range(COUNT)):
            for i in range(0, COUNT, 4):
                await opened.check(i, 4)
            ready = [i for i in range(COUNT) if opened.cache.is_ready(i)]
            assert room // 2 < len(ready) <= room
            data = [os.pread(opened.cache.data_fd(), SIZE, i * SIZE) for i in ready]
            assert data == [DATA[i * SIZE :][:SIZE] for i in ready]
        await trio.sleep(0.11)  # the pause after there was no room
        missing = next(i for i in range(0, COUNT, 4) if not opened.cache.is_ready(i))
        await opened.check(missing)
        assert opened.cache.is_ready(missing)

    trio.run(main)


def test_bits_go_durably_before_the_hole_is_punched(opened: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that dies in between has lost nothing but a bit."""
    steps: list[str] = []
    sync, punch = os.fdatasync, ranges.punch_hole
    monkeypatch.setattr(os, "fdatasync", lambda fd: (steps.append("durable"), sync(fd)))

    def look(fd: int, start: int, end: int) -> None:
        steps.append("punch")
        with open(opened.directory / f"{'b' * 64}.blob.data.chunk_map", "rb") as f:
            bits = f.read()[4096:]
        gone = range(start // SIZE, end // SIZE)
        assert gone and not any(bits[i >> 3] & 0x80 >> (i & 7) or opened.cache.is_ready(i) for i in gone)
        punch(fd, start, end)

    monkeypatch.setattr(ranges, "punch_hole", look)

    async def main() -> None:
        for i in range(0, COUNT, 4):
            await opened.check(i, 4)

    trio.run(main)
    assert steps.count("punch") > 10 and steps[0] == "durable"


@pytest.mark.parametrize(("place", "name"), [(FileMap, "clear"), (ranges, "punch_hole")])
def test_a_reader_in_the_middle_of_an_eviction_is_answered_from_the_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: object, name: str
) -> None:
    """The evictor stands just before the bits go, or the hole is punched, while the same chunks are asked for."""
    opened = Cache(tmp_path, validate=True)
    step, gate, waits = getattr(place, name), threading.Event(), threading.Event()

    def slow(*args: object) -> None:
        waits.set()
        assert gate.wait(10)
        step(*args)

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for i in range(0, LIMIT // SIZE - 8, 4):
                    await opened.check(i, 4)
                kept = [i for i in range(COUNT) if opened.cache.is_ready(i)]
                monkeypatch.setattr(place, name, slow)
                for i in range(300, 324, 4):
                    nursery.start_soon(opened.check, i, 4)
                await trio.to_thread.run_sync(waits.wait)
                gone = next(i for i in kept if not opened.cache.is_ready(i))
                await opened.check(gone)
                gate.set()
            await opened.check(gone)

    trio.run(main)
    opened.device.close()


def test_a_blob_that_no_image_uses_goes_as_a_whole(tmp_path: Path) -> None:
    async def fill(cache: Cache, first: int, end: int) -> None:
        for i in range(first, end, 4):
            await cache.check(i, 4)
        cache.device.close()

    trio.run(fill, Cache(tmp_path, blob_id="a" * 64), 0, 24)
    trio.run(fill, Cache(tmp_path), 0, COUNT)
    assert not list(tmp_path.glob("aaaa*"))


def test_a_file_that_somebody_has_open_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = Cache(tmp_path)

    async def main() -> None:
        await cache.check(0, 8)
        cache.device.close()
        with open(tmp_path / f"{'b' * 64}.blob.data", "rb") as device:
            again = Cache(tmp_path, max_size=64 << 10)
            for i in range(0, COUNT, 4):
                await again.check(i, 4)
            again.device.close()
            assert device.read(8 * SIZE) == DATA[: 8 * SIZE]
        assert "in use by somebody else" in caplog.text

    trio.run(main)


def test_what_was_written_and_not_marked_is_found_and_freed(tmp_path: Path) -> None:
    """As a daemon leaves it that is killed between the two."""
    cache = Cache(tmp_path)

    async def main() -> None:
        await cache.check(0)
        cache.device.close()
        with open(tmp_path / f"{'b' * 64}.blob.data", "r+b") as f:
            f.seek(200 * SIZE)
            f.write(b"\xff" * (LIMIT - 10 * SIZE))
        again = Cache(tmp_path)
        for i in range(0, 40):
            await again.check(i)
        assert again.cache.is_ready(0) and again.cache.is_ready(39)
        assert again.used() <= LIMIT + META_BYTES
        again.device.close()

    trio.run(main)


def test_what_is_written_while_the_rest_is_looked_for_stays(opened: Cache) -> None:
    """Somebody had found room before, and writes between the evictor's first look and its taking all."""

    async def main() -> None:
        await opened.check(0)
        assert opened.cache._share is not None and opened.cache._files is not None
        ranges, files = opened.cache._share._ranges, opened.cache._files
        files.map.clear(range(4))  # what came is not marked yet
        take = ranges._take

        def written_meanwhile(numbers: Sequence[int]) -> list[int]:
            files.map.mark([0])
            return take(numbers)

        ranges._take = written_meanwhile  # type: ignore[method-assign,assignment]
        assert ranges.drop_rest() == 0
        assert os.pread(files.data.fd, SIZE, 0) == DATA[:SIZE]
        ranges._take = take  # type: ignore[method-assign]
        files.map.clear(range(4))
        assert ranges.drop_rest() > 0 and os.pread(files.data.fd, SIZE, 0) == bytes(SIZE)

    trio.run(main)


def test_a_directory_that_cannot_be_listed_makes_no_room_and_costs_no_reader(
    opened: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unlistable(path: str) -> None:
        raise CacheError(f"{path}: Too many open files")

    async def main() -> None:
        monkeypatch.setattr(bound, "list_directory", unlistable)
        await opened.check(0)
        assert "no room is made" in caplog.text and not opened.cache.is_ready(0)
        monkeypatch.undo()
        monkeypatch.setattr(opened.bound, "_try_again", 0.0)
        await opened.check(40)
        assert opened.cache.is_ready(40)

    trio.run(main)


def test_a_full_disk_makes_room_instead_of_ending_the_cache(
    opened: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = os.pwritev

    def full(fd: int, data: list[bytes], offset: int) -> int:
        if opened.used() + sum(map(len, data)) > LIMIT // 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwritev", full)

    async def main() -> None:
        for i in range(0, 200):
            await opened.check(i)

    trio.run(main)
    assert len([r for r in caplog.records if "disk is full" in r.message]) == 1
    assert any(opened.cache.is_ready(i) for i in range(180, 200))


def test_the_free_space_that_is_asked_for_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system is as large as the limit and what shall stay free."""
    cache = Cache(tmp_path, max_size=0, min_free=4 * LIMIT)
    real = os.statvfs(tmp_path)

    def shrunk(path: str) -> os.statvfs_result:
        free = 5 * LIMIT - cache.used()
        return os.statvfs_result((real.f_bsize, 1, free, free, free, *tuple(real)[5:]))

    monkeypatch.setattr(os, "statvfs", shrunk)
    most = 0

    async def main() -> None:
        nonlocal most
        for i in range(0, COUNT, 4):
            await cache.check(i, 4)
            most = max(most, cache.used())

    trio.run(main)
    cache.device.close()
    assert LIMIT // 2 < most <= LIMIT + META_BYTES


def test_a_directory_belongs_to_one_bounded_cache_or_to_many_others(tmp_path: Path) -> None:
    others = [lock_directory(str(tmp_path), alone=False) for _ in range(2)]
    with pytest.raises(CacheError, match=rf"needs a directory of its own, and process {os.getpid()}"):
        lock_directory(str(tmp_path), alone=True, deadline_s=0.05)
    for fd in others:
        os.close(fd)
    alone = lock_directory(str(tmp_path), alone=True)
    with pytest.raises(CacheError, match=rf"the bounded cache of process {os.getpid()} has it"):
        lock_directory(str(tmp_path), alone=False, deadline_s=0.05)
    os.close(alone)

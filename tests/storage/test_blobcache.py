"""The cold path against a backend that counts, waits, breaks and lies."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import blake3
import pytest
import trio
import trio.testing

from nydus_app.errors import BackendError, BackendUnavailable, CacheError, CorruptChunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk, Compressor, Digester
from nydus_app.storage.background import Background
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.chunk_file import Fetched
from nydus_app.storage.cache.plain_file import PlainFile
from nydus_app.storage.cache.directory import list_directory
from nydus_app.storage.cache.dummycache import DummyCache
from nydus_app.storage.cache.encrypted_file import EncryptedFile
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import RecordedIndex
from nydus_app.storage.device import Device
from nydus_app.storage.workers import Workers
from nydus_app.formats.rafs.values import Segment

SIZE = 8192
COUNT = 16


class Origin:
    """A BlobReader over bytes; `gate` holds every read until it is set."""

    def __init__(self, data: bytes) -> None:
        self.data = bytearray(data)
        self.reads: list[tuple[int, int]] = []
        self.gate: trio.Event | None = None
        self.failures: list[BackendError] = []

    async def size(self) -> int:
        return len(self.data)

    async def read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        if self.gate is not None:
            await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        return bytes(self.data[offset : offset + size])

    def close(self) -> None:
        pass


DATA = bytes(os.urandom(SIZE * COUNT))


def chunks() -> list[Chunk]:
    return [
        Chunk(0, i, i * SIZE, SIZE, i * SIZE, SIZE, False, blake3.blake3(DATA[i * SIZE :][:SIZE]).digest(), None)
        for i in range(COUNT)
    ]


def blob() -> Blob:
    size = SIZE * COUNT
    none = Compressor.none
    return Blob(0, "b" * 64, BlobFeatures(0), none, Digester.blake3, SIZE, COUNT, size, size, none, 0, 0, 0, 0, b"")


Make = Callable[..., tuple[ChunkCache, Origin]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(kind: str = "blobcache", batch_size: int = 0, validate: bool = True) -> tuple[ChunkCache, Origin]:
        origin = Origin(DATA)
        common = {"validate": validate, "batch_size": batch_size, "workers": Workers(2), "background": Background()}
        index = RecordedIndex(blob())
        if kind == "dummycache":
            return DummyCache(blob(), origin, index, **common), origin
        return BlobCache(blob(), origin, index, keeping=Keeping(str(tmp_path)), **common), origin

    return build


async def read(cache: ChunkCache, *wanted: Chunk) -> bytes:
    ahead = chunks()[wanted[-1].index + 1 :]
    return b"".join(await Device([cache], Background(), Workers(1)).read([Segment(c, 0, SIZE) for c in wanted], ahead))


@pytest.mark.parametrize("kind", ["blobcache", "dummycache"])
def test_sixty_four_readers_of_one_chunk_are_one_request(make: Make, kind: str) -> None:
    async def main() -> None:
        cache, origin = make(kind)
        origin.gate = trio.Event()
        got: list[bytes] = []

        async def reader() -> None:
            got.append(await read(cache, chunks()[3]))

        async with trio.open_nursery() as nursery:
            for _ in range(64):
                nursery.start_soon(reader)
            await trio.testing.wait_all_tasks_blocked()
            origin.gate.set()
        assert origin.reads == [(3 * SIZE, SIZE)]
        assert got == [DATA[3 * SIZE :][:SIZE]] * 64



    trio.run(main)


def test_neighbours_are_fetched_along_and_never_again(make: Make) -> None:
    async def main() -> None:
        cache, origin = make(batch_size=4 * SIZE)
        assert await read(cache, chunks()[0]) == DATA[:SIZE]
        assert origin.reads == [(0, 4 * SIZE)]
        assert await read(cache, *chunks()[:4]) == DATA[: 4 * SIZE]
        assert len(origin.reads) == 1

    trio.run(main)


def test_a_corrupt_chunk_fails_alone_and_heals_with_its_origin(make: Make) -> None:
    async def main() -> None:
        cache, origin = make(batch_size=SIZE * COUNT)
        origin.data[5 * SIZE] ^= 1
        assert await read(cache, chunks()[0]) == DATA[:SIZE]
        for i in (4, 6, 15):
            assert await read(cache, chunks()[i]) == DATA[i * SIZE :][:SIZE]
        with pytest.raises(CorruptChunk):
            await read(cache, chunks()[5])
        origin.data[5 * SIZE] ^= 1
        assert await read(cache, chunks()[5]) == DATA[5 * SIZE :][:SIZE]

    trio.run(main)


def test_a_failed_fetch_fails_its_waiters_and_not_the_next_reader(make: Make) -> None:
    async def main() -> None:
        cache, origin = make()
        origin.failures = [BackendUnavailable("down")]
        with pytest.raises(BackendUnavailable):
            await read(cache, chunks()[0])
        assert await read(cache, chunks()[0]) == DATA[:SIZE]

    trio.run(main)


def test_what_nobody_expects_of_a_backend_fails_its_readers_and_nothing_else(make: Make) -> None:
    async def main() -> None:
        cache, origin = make()
        origin.failures = [ValueError("nobody expects it")]  # type: ignore[list-item]
        with pytest.raises(BackendError, match="unexpected ValueError: nobody expects it"):
            await read(cache, chunks()[3])
        assert await read(cache, chunks()[3]) == DATA[3 * SIZE :][:SIZE]

    trio.run(main)


def test_where_no_thread_can_be_had_readers_are_told_and_nothing_stays_in_flight(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    async def main() -> None:
        cache, _ = make()
        with monkeypatch.context() as refusing, pytest.raises(CacheError, match="no worker thread can be started"):
            refusing.setattr(Workers, "submit", refuse)
            await read(cache, chunks()[3])
        with trio.fail_after(10):
            assert await read(cache, chunks()[3]) == DATA[3 * SIZE :][:SIZE]

    trio.run(main)


def test_who_waited_for_a_cancelled_owner_fetches_himself(make: Make) -> None:
    async def main() -> None:
        cache, origin = make()
        origin.gate = trio.Event()
        owner = trio.CancelScope()
        got: list[bytes] = []

        async def cancelled() -> None:
            with owner:
                await read(cache, chunks()[2])

        async def patient() -> None:
            got.append(await read(cache, chunks()[2]))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cancelled)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(patient)
            await trio.testing.wait_all_tasks_blocked()
            owner.cancel()
            await trio.testing.wait_all_tasks_blocked()
            origin.gate.set()
        assert got == [DATA[2 * SIZE :][:SIZE]]



    trio.run(main)


def test_what_was_left_behind_is_checked_before_it_is_served(make: Make, tmp_path: Path) -> None:
    async def main() -> None:
        cache, origin = make()
        await read(cache, *chunks())
        cache.close()
        with open(tmp_path / f"{'b' * 64}.blob.data", "r+b") as f:
            f.seek(7 * SIZE)
            f.write(b"\0" * SIZE)
        cache, origin = make()
        assert await read(cache, *chunks()) == DATA
        assert origin.reads == [(7 * SIZE, SIZE)]

    trio.run(main)


def test_bytes_that_were_read_before_they_were_replaced_are_not_taken_for_the_new_ones(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two readers of a chunk that another kind of cache has left: the slow one still holds what the quick one has replaced."""
    key = bytes(range(32))

    async def main() -> None:
        cache, _ = make()
        await read(cache, chunks()[3])
        cache.close()
        keeping = Keeping(str(tmp_path), is_encrypted=True, key=key)
        common = {"validate": False, "batch_size": 0, "workers": Workers(2), "background": Background()}
        cache = BlobCache(blob(), Origin(DATA), RecordedIndex(blob()), keeping=keeping, **common)
        read_file, waits, goes_on = EncryptedFile.read, threading.Event(), threading.Event()

        def slow_at_first(self: EncryptedFile, chunk: Chunk) -> Buffer:
            data = read_file(self, chunk)
            if not waits.is_set():
                waits.set()
                assert goes_on.wait(10)
            return data

        monkeypatch.setattr(EncryptedFile, "read", slow_at_first)
        got: list[bytes] = []

        async def slow() -> None:
            got.append(await read(cache, chunks()[3]))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow)
                await trio.to_thread.run_sync(waits.wait)
                assert await read(cache, chunks()[3]) == DATA[3 * SIZE :][:SIZE]
                goes_on.set()
        assert got == [DATA[3 * SIZE :][:SIZE]]
        cache.close()

    trio.run(main)


def test_who_opens_a_cache_leaves_the_time(make: Make, tmp_path: Path) -> None:
    """Also where everything is there: `nydusctl cache gc` takes what nobody has used."""

    async def main() -> None:
        cache, _ = make()
        await read(cache, chunks()[0])
        cache.close()
        (kept,) = list_directory(str(tmp_path)).blobs
        for file in kept.files.values():
            os.utime(file.path, (1, 1))
        cache, _ = make()
        await read(cache, chunks()[0])
        cache.close()
        (kept,) = list_directory(str(tmp_path)).blobs
        assert kept.used > 1_000_000

    trio.run(main)


@pytest.mark.parametrize("is_live", [True, False])
def test_one_blob_in_two_cuttings(make: Make, tmp_path: Path, is_live: bool) -> None:
    """A layer that was converted twice: their maps are of one size, and bits of the one are not the other's."""
    cut = [*chunks()[:14], chunks()[14]._replace(compressed_size=2 * SIZE, uncompressed_size=2 * SIZE, digest=None)]

    async def main() -> None:
        first, _ = make(validate=False)
        assert await read(first, chunks()[14]) == DATA[14 * SIZE :][:SIZE]
        if not is_live:
            first.close()
        other = blob()._replace(chunk_count=15, chunk_size=2 * SIZE)
        common = {"validate": False, "batch_size": 0, "workers": Workers(2), "background": Background()}
        second = BlobCache(other, Origin(DATA), RecordedIndex(other), keeping=Keeping(str(tmp_path)), **common)
        device = Device([second], Background(), Workers(1))
        assert b"".join(await device.read([Segment(cut[14], 0, 2 * SIZE)], [])) == DATA[14 * SIZE :]
        if is_live:
            assert await read(first, chunks()[15]) == DATA[15 * SIZE :]
            first.close()
        second.close()

    trio.run(main)


def test_a_data_file_of_another_size_makes_its_map_void(make: Make, tmp_path: Path) -> None:
    async def main() -> None:
        cache, _ = make()
        await read(cache, *chunks())
        cache.close()
        os.truncate(tmp_path / f"{'b' * 64}.blob.data", SIZE)
        cache, origin = make(validate=False)
        assert await read(cache, *chunks()) == DATA
        assert origin.reads

    trio.run(main)


def test_a_full_disk_costs_no_reader_anything(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def main() -> None:
        cache, origin = make()
        await read(cache, chunks()[0])
        monkeypatch.setattr(os, "pwritev", full)
        for c in chunks():
            assert await read(cache, c) == DATA[c.index * SIZE :][:SIZE]
        monkeypatch.undo()

    trio.run(main)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1


def test_a_directory_that_cannot_be_written_costs_no_reader_anything(tmp_path: Path) -> None:
    async def main() -> None:
        common = {"validate": True, "batch_size": 0, "workers": Workers(2), "background": Background()}
        cache = BlobCache(blob(), Origin(DATA), RecordedIndex(blob()), keeping=Keeping(str(tmp_path / "gone")), **common)
        assert await read(cache, *chunks()) == DATA

    trio.run(main)


@pytest.mark.parametrize("features", [BlobFeatures(0), BlobFeatures.ALIGNED])
def test_neighbours_written_at_once_do_not_touch_what_lies_between(tmp_path: Path, features: BlobFeatures) -> None:
    """Small unaligned chunks (v5) lie in each other's pages; aligned ones (v6) never do."""
    step = 4096 if features else 100
    pieces = [(Chunk(0, i, 0, 100, i * step, 100, False, None, None), bytes([i + 1]) * 100) for i in range(5)]
    nothing = Fetched(0, b"")
    file = PlainFile(os.open(tmp_path / "data", os.O_RDWR | os.O_CREAT), is_aligned=bool(features))
    assert file.write([pieces[2]], nothing) == [2]
    assert file.write([pieces[i] for i in (0, 1, 3, 4)], nothing) == [0, 1, 3, 4]
    assert all(file.read(chunk) == data for chunk, data in pieces)
    file.close()


def test_cancelled_readers_leave_nothing_in_flight(make: Make) -> None:
    async def main() -> None:
        cache, origin = make(batch_size=2 * SIZE)
        for deadline in range(3):
            origin.gate = trio.Event()
            with trio.move_on_after(0):
                await read(cache, chunks()[deadline])
        origin.gate = None
        assert await read(cache, *chunks()) == DATA

    trio.run(main)


def test_the_read_of_many_chunks_in_any_order(make: Make) -> None:
    async def main() -> None:
        cache, _ = make(batch_size=3 * SIZE)
        order = [9, 2, 3, 4, 15, 0, 9]
        want = b"".join(DATA[i * SIZE :][:SIZE] for i in order)
        assert await read(cache, *[chunks()[i] for i in order]) == want
        assert await read(cache, *[chunks()[i] for i in order]) == want

    trio.run(main)



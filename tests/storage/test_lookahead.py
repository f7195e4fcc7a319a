"""Who reads on and on is fetched ahead of; who jumps about is not; nothing is fetched twice."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nydus_app.errors import CorruptChunk
from nydus_app.storage.background import Background
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.lookahead import Streams
from one_blob import COUNT, DATA, SIZE, Origin, Served, chunks


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[BlobCache, Origin, Background]]:
    one = Served(tmp_path)
    yield one.cache, one.origin, one.background
    one.close()


@pytest.fixture
def storing(served: tuple[BlobCache, Origin, Background], monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Nothing is stored until it is set."""
    gate = threading.Event()
    store = served[0].store

    def slow(found: object, fetched: object) -> None:
        assert gate.wait(10)
        store(found, fetched)  # type: ignore[arg-type]

    monkeypatch.setattr(served[0], "store", slow)
    return gate


async def read(cache: BlobCache, *indexes: int) -> None:
    cache.follow(indexes[0], indexes[-1])
    got = await cache.ensure(indexes, chunks, chunks(range(indexes[-1] + 1, COUNT)))
    assert all(bytes(got[i]) == DATA[i * SIZE :][:SIZE] for i in got)
    assert all(i in got or cache.is_ready(i) for i in indexes)


def test_a_sequential_reader_finds_all_but_the_first_there(served: tuple[BlobCache, Origin, Background]) -> None:
    cache, origin, background = served

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background.run)
            await trio.testing.wait_all_tasks_blocked()
            await read(cache, 0, 1, 2, 3)
            while not cache.is_ready(3):
                await trio.sleep(0.001)
            for first in range(4, 20, 4):
                await read(cache, *range(first, first + 4))
                while not all(cache.is_ready(i) for i in range(first, first + 8)):
                    await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        fetched = [at for offset, size in origin.reads for at in range(offset, offset + size, SIZE)]
        assert sorted(fetched) == sorted(set(fetched))
        assert max(fetched) >= 24 * SIZE

    trio.run(main)


def test_a_reader_who_jumps_is_not_run_ahead_of(served: tuple[BlobCache, Origin, Background]) -> None:
    cache, origin, background = served

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background.run)
            await trio.testing.wait_all_tasks_blocked()
            for i in (40, 10, 60, 20):
                await read(cache, i)
            nursery.cancel_scope.cancel()
        assert sum(size for _, size in origin.reads) <= 4 << 20

    trio.run(main)


def test_a_corrupt_chunk_that_was_fetched_ahead_is_its_readers_error_alone(
    served: tuple[BlobCache, Origin, Background],
) -> None:
    cache, origin, background = served
    origin.data[9 * SIZE] ^= 1

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background.run)
            await trio.testing.wait_all_tasks_blocked()
            for i in range(9):
                await read(cache, i)
            with pytest.raises(CorruptChunk):
                await read(cache, 9)
            for i in range(10, 20):
                await read(cache, i)
            origin.data[9 * SIZE] ^= 1
            await read(cache, 9)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_an_answer_does_not_wait_for_the_disk(
    served: tuple[BlobCache, Origin, Background], storing: threading.Event
) -> None:
    """The reader has his data while they are being stored, and they are ready only after that."""
    cache, _, background = served

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(background.run)
            await trio.testing.wait_all_tasks_blocked()
            got = await cache.ensure([0], chunks, ())
            assert bytes(got[0]) == DATA[:SIZE]
            assert not cache.is_ready(0)
            again = await cache.ensure([0], chunks, ())
            assert bytes(again[0]) == DATA[:SIZE]
            storing.set()
            while not cache.is_ready(0):
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_streams() -> None:
    streams = Streams()
    assert streams.step(0, 3) is None
    stream = streams.step(4, 7)
    assert stream is not None and (stream.last, stream.frontier) == (7, 8)
    stream.frontier = 20
    assert streams.step(7, 7) is None
    assert streams.step(100, 100) is None
    assert streams.step(8, 11) is stream
    assert stream.frontier == 20
    assert streams.step(101, 101) not in (None, stream)


def test_a_background_that_begins_or_ends_in_the_middle_of_a_read_leaves_nobody_waiting(
    served: tuple[BlobCache, Origin, Background], storing: threading.Event
) -> None:
    cache, _, background = served

    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as readers, trio.open_nursery() as nursery:
                readers.start_soon(read, cache, 0)
                await trio.testing.wait_all_tasks_blocked(0.05)
                nursery.start_soon(background.run)
                await trio.testing.wait_all_tasks_blocked()
                readers.start_soon(read, cache, 30)
                await trio.testing.wait_all_tasks_blocked(0.05)
                storing.set()
                while not (cache.is_ready(0) and cache.is_ready(30)):
                    await trio.sleep(0.001)
                readers.start_soon(read, cache, 0)
                nursery.cancel_scope.cancel()

    trio.run(main)

"""The log of fetches: bounded, one entry a request, and a slow read is found in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from nydus_app.builder.image import open_image
from nydus_app.config.tree import Dummycache, Localfs, Tree
from nydus_app.formats.rafs.values import Chunk
from nydus_app.storage.backend.trace import Try, note
from nydus_app.storage.explain import Explanation, owners_of
from nydus_app.storage.fetch_log import FetchLog, Why, entry, told
from one_blob import BLOB, SIZE, Served, chunks


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.close()


def test_the_ring_is_bounded_and_the_totals_are_not() -> None:
    log = FetchLog(10)
    for i in range(25):
        log.add(entry(BLOB, Why.cold, chunks([i]))._replace(fetched=(i, 100)))
    assert [f.fetched[0] for f in log.entries()] == list(range(15, 25))
    assert (log.requests[Why.cold], log.bytes[Why.cold]) == (25, 2500)


def test_a_slow_read_is_found(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry for a request of four chunks, with what the backend's layers told of it."""
    read = served.origin.read

    async def slow(offset: int, size: int) -> bytes:
        note(Try("mirror.example", 503, 0.01, "503 of mirror.example", "status 503"))
        await trio.sleep(0.05 if offset else 0)
        note(Try("origin.example", 206, 0.05, "", ""))
        return await read(offset, size)

    monkeypatch.setattr(served.origin, "read", slow)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            await served.read(0)
            await served.read(20, 21, 22, 23)
            while len(served.background.fetches.entries()) < 2:
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()

    trio.run(main)
    slowest = max(served.background.fetches.entries(), key=lambda f: f.latency_ns)
    assert slowest.latency_ns > 45_000_000
    assert (slowest.why, slowest.asked, slowest.chunks) == (Why.cold, (20 * SIZE, 4 * SIZE), (20, 23))
    assert slowest.fetched == (20 * SIZE, 4 * SIZE) and slowest.fetched_chunks == 4
    assert (slowest.origin, slowest.status, slowest.tries) == ("origin.example", 206, 2)
    assert (slowest.trouble, slowest.error) == ("503 of mirror.example", "")


def test_what_failed_says_how(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            served.origin.failing = 1
            with pytest.raises(Exception, match="the origin fails"):
                await served.read(5)
            nursery.cancel_scope.cancel()

    trio.run(main)
    (only,) = served.background.fetches.entries()
    assert (only.why, only.error) == (Why.cold, "the origin fails")


def test_a_damaged_copy_is_the_cause_of_its_second_fetch(tmp_path: Path) -> None:
    first = Served(tmp_path)
    trio.run(first.read, 3)
    first.close()
    with open(next(tmp_path.glob("*.blob.data")), "r+b") as f:
        f.seek(3 * SIZE)
        f.write(b"x")
    second = Served(tmp_path)
    trio.run(second.read, 3)
    assert [f.why for f in second.background.fetches.entries()] == [Why.corrupt]
    second.close()


def test_told_by_nobody() -> None:
    local = entry(BLOB, Why.cold, chunks([1]))
    assert told(local, []) == local and not local.origin


@pytest.mark.parametrize("name", ["v5-lz4_block", "v6-zstd", "v6-merged"])
def test_names_of_files(golden: Path, name: str) -> None:
    tree = Tree(bootstrap=str(golden / name / "boot"), mountpoint=None, backend=Localfs(dir="/x"), cache=Dummycache())
    image = open_image(tree)
    bootstrap = image.bootstrap
    everything = {(b.index, i) for b in bootstrap.blobs for i in range(b.chunk_count)}
    owners = owners_of(bootstrap, everything, 60)
    assert len(owners) > 3
    for (blob, index), path in list(owners.items())[:50]:
        inode = bootstrap.inode(bootstrap.root_ino)
        for part in path.strip(b"/").split(b"/"):
            ino = bootstrap.lookup(inode, part)
            assert ino is not None
            inode = bootstrap.inode(ino)
        count = -(-inode.size // bootstrap.chunk_size)
        assert (blob, index) in {(c.blob_index, c.index) for c in bootstrap.chunks(inode, 0, count)}
    assert owners_of(bootstrap, everything, -1) == {}
    ((_, index), path) = next(item for item in owners.items() if item[0][0] == 0)
    fetch = entry(bootstrap.blobs[0], Why.cold, [Chunk(0, index, 0, 0, 0, 1, False, None, None)])
    assert Explanation(bootstrap, FetchLog()).files_of([fetch, fetch._replace(why=Why.index)]) == [[path], []]
    image.close()

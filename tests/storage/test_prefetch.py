"""Prefetch: what it fetches, that readers go first, its limits, its end."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mounting import Mounts
from nydus_app.builder.image import open_image
from nydus_app.config.tree import Blobcache, Dummycache, Localfs, Prefetch, Tree
from nydus_app.formats import chunkmap
from nydus_app.storage import prefetch as prefetch_module
from nydus_app.storage.demand import QUIET_S
from nydus_app.storage.fetch_log import Why
from nydus_app.storage.prefetch import Plan, Prefetcher, plan_prefetch
from nydus_app.storage.prefetch_plan import chunks_of_file, files_below, portions_of_blob
from one_blob import BLOB, COUNT, SIZE, Served, Table


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.close()


class NoTree:
    """A bootstrap that is not looked at."""

    max_ino, root_ino, blobs = 8, 1, (BLOB,)


def prefetcher(served: Served, **limits: int) -> Prefetcher:
    options = {"threads": 4, "batch_size": 1 << 20, "bandwidth_limit": 0, **limits}
    return Prefetcher(
        NoTree(), [served.cache], [served.index], served.background, lambda: Plan((), True), **options  # type: ignore[arg-type]
    )


def test_everything_in_few_requests(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            await prefetcher(served).run()
            await served.all_ready(range(COUNT))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert sum(size for _, size in served.origin.reads) == COUNT * SIZE
    assert len(served.origin.reads) == COUNT // 4
    assert 1 < served.origin.most_at_once <= 8
    assert {f.why for f in served.background.fetches.entries()} == {Why.prefetch}


def test_a_second_time_nothing_is_fetched(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            await prefetcher(served).run()
            await served.all_ready(range(COUNT))
            served.origin.reads.clear()
            await prefetcher(served).run()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert not served.origin.reads


def test_no_request_is_begun_while_a_reader_waits(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            served.origin.hold()
            nursery.start_soon(served.read, 63)
            while not served.origin.reads:  # a thread opens the cache's files before that
                await trio.sleep(0.001)
            nursery.start_soon(prefetcher(served).run)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert [offset for offset, _ in served.origin.reads] == [63 * SIZE]
            answered = trio.current_time()
            served.origin.let_go()
            while len(served.origin.reads) == 1:
                await trio.sleep(0.001)
            assert trio.current_time() - answered > QUIET_S / 2
            await served.all_ready(range(COUNT))
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_reader_does_not_inherit_the_failure_of_what_he_did_not_ask_for(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            served.origin.failing = 8
            served.origin.hold()
            nursery.start_soon(prefetcher(served).run)
            while len(served.origin.reads) < 8:
                await trio.sleep(0.001)
            async with trio.open_nursery() as readers:
                readers.start_soon(served.read, 0)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(served.origin.reads) == 8  # he waits for the prefetch
                served.origin.let_go()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert Why.late in {f.why for f in served.background.fetches.entries()}


def test_what_fails_is_tried_again_and_in_the_end_given_up(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "RETRY_S", 0.001)

    async def main(failing: int) -> None:
        served.origin.failing = failing
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(10):
                await prefetcher(served).run()
            nursery.cancel_scope.cancel()

    trio.run(main, 1 << 30)
    assert not served.ready
    assert len(served.origin.reads) <= 2 * prefetch_module.MAX_FAILURES + 8
    trio.run(main, 20)
    assert len(served.ready) > COUNT - 16  # the last ones may be on their way to the file


def test_bandwidth_is_limited(served: Served) -> None:
    """16 MiB at 40 MiB/s."""

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
            await prefetcher(served, bandwidth_limit=40 << 20).run()
            took = trio.current_time() - began
            nursery.cancel_scope.cancel()
        return took

    assert trio.run(main) > 0.2  # 0.03 without


def test_it_ends_with_the_service_in_the_middle_of_its_requests(served: Served) -> None:
    async def main() -> None:
        served.background.tasks.append(prefetcher(served).run)
        served.origin.hold()
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(served.background.run)
                while not served.origin.reads:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

    trio.run(main)
    assert served.background.nursery is None and not served.ready


def test_a_table_of_any_kind_is_taken_in_bounded_portions() -> None:
    class Damaged(Table):
        def end_of(self, index: int) -> int:
            return 1 if index % 2 else 1 << 60

        def find(self, offset: int) -> int:
            return 1 << 60 if offset % 3 else -1

    for index in (Table(BLOB), Damaged(BLOB)):
        portions = list(portions_of_blob(BLOB, index, 1 << 20))
        assert [i for p in portions for i in p.wanted] == list(range(COUNT))
    assert max(len(p.wanted) for p in portions_of_blob(BLOB, Table(BLOB), 1 << 20)) == 4


# ---- which files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["v6-zstd", "v5-lz4_block"])
def test_a_plan_by_paths(golden: Path, golden_images: dict, name: str) -> None:
    if name not in golden_images:
        pytest.skip(f"no golden image {name}")
    tree = Tree(bootstrap=str(golden / name / "boot"), mountpoint=None, backend=Localfs(dir=str(golden / name / "blobs")), cache=Dummycache())
    image = open_image(tree)
    bootstrap = image.bootstrap
    try:
        root = bootstrap.root_ino
        first = next(iter(bootstrap.entries(bootstrap.inode(root), 0)))
        path = b"/" + first.name
        assert plan_prefetch(bootstrap, [path, b"/not/there", path + b"/no/directory"], False) == Plan([first.ino], False)
        assert plan_prefetch(bootstrap, [b"/"], False) == Plan((), True)
        assert plan_prefetch(bootstrap, [path], True) == Plan([first.ino], True)
        assert plan_prefetch(bootstrap, [path, b"/"], True) == Plan([first.ino, root], False)
        assert plan_prefetch(bootstrap, [], True) == Plan([], True)
    finally:
        image.close()


def kept(work_dir: Path) -> tuple[int, int]:
    """Chunks that are ready in a cache directory, and all of them."""
    ready = total = 0
    for path in work_dir.glob("*.chunk_map"):
        content = path.read_bytes()
        bits = content[chunkmap.HEADER_SIZE :]
        ready += sum(byte.bit_count() for byte in bits)
        total += 1
    return ready, total


@pytest.mark.parametrize(("name", "path"), [("v6-zstd", "auto"), ("v6-zstd", "fuse"), ("v5-lz4_block", "auto"), ("v5-lz4_block", "fuse")])
def test_a_mount_that_nobody_reads_fills_its_cache(
    golden: Path, golden_images: dict, mounts: Mounts, tmp_path: Path, name: str, path: str
) -> None:
    if name not in golden_images:
        pytest.skip(f"no golden image {name}")
    boot, blobs = golden / name / "boot", golden / name / "blobs"
    daemon = mounts.nydusd(
        boot, blobs, work_dir=tmp_path / "cache", data_path=path,
        fs_prefetch={"enable": True, "threads_count": 2, "prefetch_all": True},
    )  # fmt: skip
    tree = Tree(bootstrap=str(boot), mountpoint=None, backend=Localfs(dir=str(blobs)), cache=Blobcache(work_dir=str(tmp_path / "other")))
    image = open_image(tree)
    wanted = sum(b.chunk_count for b in image.bootstrap.blobs)
    image.close()

    async def full() -> None:
        with trio.fail_after(10):
            while kept(tmp_path / "cache")[0] < wanted:
                await trio.sleep(0.01)

    trio.run(full)
    assert daemon.stop() == 0


def test_no_threads_no_prefetch(golden: Path, tmp_path: Path) -> None:
    name = "v6-zstd"
    for enable, threads, tasks in ((True, 0, 0), (True, 1, 1), (False, 1, 0)):
        tree = Tree(
            bootstrap=str(golden / name / "boot"), mountpoint=None, backend=Localfs(dir=str(golden / name / "blobs")),
            cache=Blobcache(work_dir=str(tmp_path)), prefetch=Prefetch(enable=enable, threads=threads),
        )  # fmt: skip
        image = open_image(tree)
        assert len(image.device.background.tasks) == tasks
        image.close()


@pytest.mark.parametrize("name", ["v5-prefetch", "v6-prefetch"])
def test_the_table_of_an_image_says_what_is_fetched_first(golden: Path, tmp_path: Path, name: str) -> None:
    tree = Tree(
        bootstrap=str(golden / name / "boot"), mountpoint=None, backend=Localfs(dir=str(golden / name / "blobs")),
        cache=Blobcache(work_dir=str(tmp_path)), prefetch=Prefetch(enable=True),
    )  # fmt: skip
    image = open_image(tree)
    bootstrap, background = image.bootstrap, image.device.background
    plan = plan_prefetch(bootstrap, None, False)
    assert plan.inos and not plan.everything
    wanted = {
        (c.blob_index, c.index)
        for inode in files_below(bootstrap, plan.inos)
        if inode is not None
        for chunks in chunks_of_file(bootstrap, inode)
        for c in chunks
    }

    async def main() -> None:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(background.run)
                while not all(image.caches[blob].is_ready(index) for blob, index in wanted):
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

    trio.run(main)
    ready = {(b.index, i) for b in bootstrap.blobs for i in range(b.chunk_count) if image.caches[b.index].is_ready(i)}
    image.close()
    assert ready == wanted
    assert len(wanted) < sum(b.chunk_count for b in bootstrap.blobs)

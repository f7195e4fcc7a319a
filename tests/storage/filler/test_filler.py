"""The process that fills caches: started for who reads on, idle no longer than it may be, and nobody's condition."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import zstandard

from nydus_app.formats.blob.compression_info import V1
from nydus_app.formats.rafs.v6 import CHUNK, CHUNK_HAS_CRC32, NO_RECORD
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Compressor, Digester
from nydus_app.storage.filler import child, process
from nydus_app.storage.filler import filler as module
from nydus_app.storage.filler.filler import Filler
from nydus_app.storage.filler.wire import BlobHere, Filled, Order, Report, decode_message, decode_report

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core there is no such process")

PAGE, COUNT = 4096, 64
CHUNKS = [os.urandom(100 + i) + bytes(PAGE - 200 - i) for i in range(COUNT)]
FRAMES = [zstandard.ZstdCompressor().compress(data) for data in CHUNKS]
OFFSETS = [sum(map(len, FRAMES[:i])) for i in range(COUNT)]
BLOB = Blob(
    0, "b" * 64, BlobFeatures.ALIGNED, Compressor.zstd, Digester.blake3, PAGE, COUNT, sum(map(len, FRAMES)),
    COUNT * PAGE, Compressor.none, 0, 0, 0, 0, b"",
)  # fmt: skip


def record(i: int) -> bytes:
    """V1 of rafs-format 8.1."""
    size, stored = len(CHUNKS[i]) - 1, len(FRAMES[i]) - 1
    return V1.pack(
        i * PAGE | (size & 0xFFFFF) << 44 | (size >> 20) << 8, OFFSETS[i] | (stored & 0xFFFFF) << 44 | (stored >> 20) << 40
    )


def table(*indexes: int) -> bytes:
    return b"".join(map(record, indexes))


class Files:
    def __init__(self, folder: Path) -> None:
        (folder / "blob").write_bytes(b"".join(FRAMES))
        (folder / "data").write_bytes(b"")
        self.blob = os.open(folder / "blob", os.O_RDWR)
        self.data = os.open(folder / "data", os.O_RDWR)

    def has(self, i: int) -> bool:
        return os.pread(self.data, len(CHUNKS[i]), i * PAGE) == CHUNKS[i]

    def close(self) -> None:
        os.close(self.blob)
        os.close(self.data)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path)
    yield files
    files.close()


class Reports:
    def __init__(self) -> None:
        self.got: list[Report | None] = []
        self._came = trio.Event()

    def __call__(self, report: Report | None) -> None:
        self.got.append(report)
        self._came.set()

    async def wait(self) -> Report | None:
        await self._came.wait()
        return self.got[-1]


def running(work: Callable[[Filler, trio.Nursery], object]) -> None:
    """`work` beside a filler that is ready."""

    async def main() -> None:
        filler = Filler()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                try:
                    await ready(filler, nursery)
                    await work(filler, nursery)  # type: ignore[misc]
                finally:
                    nursery.cancel_scope.cancel()
                    filler.close()

    trio.run(main)


async def ready(filler: Filler, nursery: trio.Nursery) -> None:
    while not filler.is_at_hand(nursery):
        await trio.sleep(0.005)


def attached(filler: Filler, files: Files) -> int:
    number = filler.attach(BlobHere(0, BLOB, "blob", 0, None, False), files.blob, files.data)
    assert number is not None
    return number


def pid_of(filler: Filler) -> int:
    assert filler._child is not None
    return filler._child.pid


def test_what_is_ordered_lies_in_the_file_before_it_is_reported(files: Files) -> None:
    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        reports = Reports()
        indexes = [3, 4, 5, 9, 40]
        assert filler.order(attached(filler, files), indexes, table(*indexes), NO_RECORD * 5, reports)
        report = await reports.wait()
        assert report is not None and (report.failed, report.error) == ([], "")
        assert [i for i in range(COUNT) if files.has(i)] == indexes
        assert sum(f.chunks for f in report.filled) == 5 and all(f.latency_ns >= f.read_ns > 0 for f in report.filled)

    running(work)


@pytest.mark.parametrize("damage", ["data", "checksum", "cut off", "place"])
def test_what_is_damaged_is_not_written_and_its_neighbours_are(files: Files, damage: str) -> None:
    records = [NO_RECORD] * COUNT
    want = [i for i in range(COUNT) if i != 7]
    rows = list(map(record, range(COUNT)))
    if damage == "data":
        os.pwrite(files.blob, bytes(len(FRAMES[7])), OFFSETS[7])
    elif damage == "checksum":
        records[7] = CHUNK.pack(b"\1" * 32, 0, CHUNK_HAS_CRC32, len(FRAMES[7]), PAGE - 100, OFFSETS[7], 7 * PAGE, 0, 7, 1)
    elif damage == "cut off":
        os.ftruncate(files.blob, OFFSETS[7] + 1)
        want = []
    else:
        rows[7] = V1.pack(2 * COUNT * PAGE | (len(CHUNKS[7]) - 1) << 44, OFFSETS[7] | (len(FRAMES[7]) - 1) << 44)
        want = []

    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        reports = Reports()
        assert filler.order(attached(filler, files), range(COUNT), b"".join(rows), b"".join(records), reports)
        report = await reports.wait()
        assert report is not None and report.error
        assert sorted({*range(COUNT)} - {*report.failed}) == want
        assert [i for i in range(COUNT) if files.has(i)] == want

    running(work)


def test_it_has_no_descriptor_but_what_it_was_given(files: Files) -> None:
    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        inherited = os.dup(files.blob)
        os.set_inheritable(inherited, True)
        filler.close()
        await ready(filler, nursery)
        reports = Reports()
        assert filler.order(attached(filler, files), [1], table(1), NO_RECORD, reports)
        await reports.wait()
        links = [os.readlink(f"/proc/{pid_of(filler)}/fd/{n}") for n in os.listdir(f"/proc/{pid_of(filler)}/fd") if int(n) > 2]
        os.close(inherited)
        assert sorted(os.path.basename(name).split(":")[0] for name in links) == ["blob", "data", "socket"]

    running(work)


def test_who_is_killed_gives_its_orders_up_and_is_started_again_so_often_and_no_more(files: Files) -> None:
    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        for _ in range(module.MAX_FAILURES):
            await ready(filler, nursery)
            number, reports = attached(filler, files), Reports()
            os.kill(pid_of(filler), signal.SIGSTOP)
            assert filler.order(number, [1], table(1), NO_RECORD, reports)
            os.kill(pid_of(filler), signal.SIGKILL)
            assert await reports.wait() is None
        generation = filler.generation
        assert not filler.is_at_hand(nursery)
        assert filler.generation == generation == module.MAX_FAILURES

    running(work)


def test_who_stands_still_gives_its_orders_up(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.5)
    monkeypatch.setattr(module, "IDLE_S", 0.5)

    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        pid, number, reports = pid_of(filler), attached(filler, files), Reports()
        os.kill(pid, signal.SIGSTOP)
        assert filler.order(number, [1], table(1), NO_RECORD, reports)
        assert await reports.wait() is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    running(work)


def test_who_has_nothing_to_do_ends_and_comes_again(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_S", 0.5)

    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        pid = pid_of(filler)
        while os.path.exists(f"/proc/{pid}"):
            await trio.sleep(0.01)
        await ready(filler, nursery)
        assert filler.generation == 2
        reports = Reports()
        assert filler.order(attached(filler, files), [2], table(2), NO_RECORD, reports)
        assert await reports.wait() is not None and files.has(2)

    running(work)


@pytest.fixture
def early() -> Iterator[Filler]:
    """Ready, and nobody has a loop."""
    filler = Filler()
    end = time.monotonic() + 30
    while not filler.is_at_hand(None):
        assert time.monotonic() < end
        time.sleep(0.005)
    yield filler
    filler.close()


def test_before_there_is_a_loop_who_wants_an_order_waits_for_it(files: Files, early: Filler) -> None:
    number, got = attached(early, files), []
    orders = [early.order(number, [i], table(i), NO_RECORD, got.append) for i in (7, 8, 9)]
    assert orders[1] is not None
    early.wait_here(orders[1])
    assert files.has(7) and files.has(8) and len(got) >= 2 and None not in got

    async def main() -> None:
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                early.listen(nursery)
                reports = Reports()
                assert early.order(number, [10], table(10), NO_RECORD, reports)
                assert await reports.wait() is not None and files.has(9) and files.has(10)
                early.close()

    trio.run(main)
    assert early.generation == 1 and len(got) == 3


def test_before_there_is_a_loop_it_may_be_killed(files: Files, early: Filler) -> None:
    number, pid, got = attached(early, files), pid_of(early), []
    os.kill(pid, signal.SIGSTOP)
    order = early.order(number, [1], table(1), NO_RECORD, got.append)
    assert order is not None
    os.kill(pid, signal.SIGKILL)
    early.wait_here(order)
    assert got == [None]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_before_there_is_a_loop_nobody_waits_long(files: Files, early: Filler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 0.1)
    number, got = attached(early, files), []
    os.kill(pid_of(early), signal.SIGSTOP)
    order = early.order(number, [1], table(1), NO_RECORD, got.append)
    assert order is not None
    early.wait_here(order)
    assert not got
    early.close()
    assert got == [None]


def test_who_is_of_another_version_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(module, "__version__", "0.0.0")
    filler = Filler()
    end = time.monotonic() + 30
    while not caplog.messages:
        assert not filler.is_at_hand(None) and time.monotonic() < end
        time.sleep(0.005)
    assert "this is version 0.0.0, and" in caplog.messages[0]
    assert not filler.is_at_hand(None) and filler.generation == 1


def test_a_report_that_cannot_be_taken_is_nobody_elses(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        def wrong(report: Report | None) -> None:
            raise ValueError("wrong")

        number = attached(filler, files)
        for _ in range(2):
            reports = Reports()
            assert filler.order(number, [1], table(1), NO_RECORD, wrong)
            assert filler.order(number, [2], table(2), NO_RECORD, reports)
            assert await reports.wait() is not None
        assert filler.order(number, [1], table(1), NO_RECORD, wrong)
        reports = Reports()
        assert filler.order(number, [2], table(2), NO_RECORD, reports)
        filler.close()
        assert await reports.wait() is None

    running(work)
    assert caplog.messages.count("what was filled ahead is not noted") == 3


def test_who_dies_late_is_reaped_later(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "END_MS", 0)

    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        pids = []
        for _ in range(3):
            await ready(filler, nursery)
            pids.append(pid_of(filler))
            filler.close()
        while any(os.path.exists(f"/proc/{pid}") for pid in pids):
            await trio.sleep(0.01)
            await ready(filler, nursery)
            filler.close()

    running(work)


def test_it_writes_nothing_after_the_daemon(files: Files) -> None:
    gone = os.getpid()  # nobody's parent, as who has ended is
    here = process._taken(BlobHere(1, BLOB, "blob", 0, None, False), os.dup(files.blob), os.dup(files.data), gone)
    with pytest.raises(ConnectionError):
        process._fill(here, Order(1, 1, [3], table(3), NO_RECORD))
    here.close()
    assert not files.has(3)


def test_more_than_a_message_holds_is_not_taken(files: Files) -> None:
    async def work(filler: Filler, nursery: trio.Nursery) -> None:
        assert not filler.order(attached(filler, files), range(2000), bytes(16 * 2000), bytes(80 * 2000), Reports())

    running(work)


def test_messages_come_as_they_were_sent() -> None:
    order = Order(7, 2, [5, 9, 4_000_000_000], b"t" * 48, b"r" * 240)
    got = decode_message(order.encode())
    assert isinstance(got, Order) and (*got[:2], list(got.indexes), *got[3:]) == tuple(order)
    here = BlobHere(3, BLOB, "what", 1 << 40, None, True)
    assert decode_message(here.encode()) == here
    report = Report(9, [Filled(1 << 40, 1 << 20, 3, 1, 1 << 40)], [1, 2], "why ü")
    assert decode_report(report.encode()) == report

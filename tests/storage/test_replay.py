"""A recorded start, replayed: few requests, right bytes, also by a recording that lies."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mounting import BIN, Mounts, boot_of, nydusd_config
from nydus_app.errors import BackendError
from nydus_app.formats.recording import MAX_SPANS, Recording, Span, decode_recording, encode_recording
from nydus_app.storage.fetch_log import Why
from nydus_app.storage.recorder import RecordedCache, Recorder, spans_of
from nydus_app.storage.replay import MAX_GAP_BYTES, REQUESTS, Replayer, merge_spans, spans_in
from one_blob import BLOB, COUNT, SIZE, Served, Table, chunks, span
from unix_http import call


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    found = Served(tmp_path)
    yield found
    found.close()


class SlowTable(Table):
    """Comes later than the data, or fails."""

    def __init__(self) -> None:
        super().__init__(BLOB)
        self.comes = trio.Event()
        self.fails = False

    async def load(self) -> None:
        await self.comes.wait()
        if self.fails:
            raise BackendError("no index")


async def replay(served: Served, *spans: Span) -> None:
    await Replayer(spans, [served.cache], [served.index]).run()


def test_spans_that_lie_close_are_one_request_in_the_place_of_the_first() -> None:
    near, far = MAX_GAP_BYTES, MAX_GAP_BYTES + 1
    first, other, behind = Span(0, 10, 12, 1000, 500), Span(1, 0, 1, 0, 9), Span(0, 13, 14, 1500 + near, 100)
    before, apart = Span(0, 8, 10, 900, 100), Span(0, 20, 21, 1600 + near + far, 5)
    assert merge_spans([first, other, behind, before, apart]) == [Span(0, 8, 14, 900, 700 + near), other, apart]
    assert merge_spans([Span(0, 0, 1, 0, 1 << 20), Span(0, 1, 2, 1 << 20, 1)]) == [Span(0, 0, 1, 0, 1 << 20), Span(0, 1, 2, 1 << 20, 1)]
    assert merge_spans([Span(0, 0, 1, 0, 5), Span(0, 5000, 5001, 5, 5)]) == [Span(0, 0, 1, 0, 5), Span(0, 5000, 5001, 5, 5)]


def test_spans_of_chunks() -> None:
    assert list(spans_of(0, chunks([3, 4, 6]))) == [span(3, 5), span(6, 7)]
    assert list(spans_of(0, chunks(range(6)))) == [span(0, 4), span(4, 6)]


def test_a_replay_makes_few_requests_at_once_and_readers_none(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            served.origin.hold()
            nursery.start_soon(replay, served, *(span(i, i + 1) for i in range(0, COUNT, 2)))
            while len(served.origin.reads) < REQUESTS:
                await trio.sleep(0.001)
            async with trio.open_nursery() as readers:
                readers.start_soon(served.read, 0, 2, 4)
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert len(served.origin.reads) == REQUESTS
                served.origin.let_go()
            await served.all_ready(range(0, COUNT, 2))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert sorted(served.origin.reads) == [(i * SIZE, SIZE) for i in range(0, COUNT, 2)]
    whys = [f.why for f in served.background.fetches.entries()]
    assert whys.count(Why.replay) == COUNT // 2 and set(whys) == {Why.replay, Why.late}


def test_data_are_asked_for_before_the_index_is_here(tmp_path: Path) -> None:
    async def main(fails: bool) -> Served:
        index = SlowTable()
        index.fails = fails
        served = Served(tmp_path / str(fails), index=index) if (tmp_path / str(fails)).mkdir() is None else None
        assert served is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(replay, served, span(0, 4), span(8, 12))
            while len(served.origin.reads) < 2:
                await trio.sleep(0.001)
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert not served.ready
            index.comes.set()
            if not fails:
                await served.all_ready([0, 1, 2, 3, 8, 9, 10, 11])
            await trio.testing.wait_all_tasks_blocked(0.01)
            index.fails = False
            await served.read(0, 8)
            nursery.cancel_scope.cancel()
        return served

    for fails in (False, True):
        served = trio.run(main, fails)
        assert len(served.origin.reads) == (4 if fails else 2)
        served.close()


@pytest.mark.parametrize(
    "lie",
    [
        Span(0, 0, 4, 4 * SIZE, 4 * SIZE),  # the bytes of others
        Span(0, 0, 4, 100, 4 * SIZE - 200),  # not all of them
        Span(0, 0, COUNT, 0, SIZE),  # more chunks than bytes for them
    ],
)
def test_a_recording_that_lies_costs_a_request_and_nothing_else(served: Served, lie: Span) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            await replay(served, lie)
            await served.read(*range(COUNT))
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_a_replay_that_fails_leaves_its_chunks_to_readers(served: Served) -> None:
    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.background.run)
            await trio.testing.wait_all_tasks_blocked()
            served.origin.failing = 2
            await replay(served, span(0, 4), span(8, 12))
            await served.read(0, 1, 8)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert [f.error for f in served.background.fetches.entries()][:2] == ["the origin fails"] * 2


def test_only_what_the_image_can_hold_is_taken_of_a_recording() -> None:
    good = Span(0, 0, 4, 0, SIZE)
    bad = [Span(0, 0, COUNT + 1, 0, SIZE), Span(0, 0, 1, COUNT * SIZE - 1, 2), Span(1, 0, 1, 0, 1)]
    assert spans_in(Recording((BLOB.id, "c" * 64), (good, *bad)), [BLOB]) == [good]
    with pytest.raises(Exception, match="another image"):
        spans_in(Recording((BLOB.id, "c" * 64), tuple(bad)), [BLOB])


def test_the_recorder_keeps_the_order_and_each_chunk_once(served: Served, tmp_path: Path) -> None:
    recorder = Recorder(str(tmp_path / "r"), [BLOB], [served.index], 0)
    cache = RecordedCache(served.cache, recorder, 0)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(recorder.run)
            await trio.testing.wait_all_tasks_blocked()
            for first, last in ((8, 9), (2, 2), (3, 3), (8, 10), (200, 300)):
                cache.follow(first, last)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert decode_recording((tmp_path / "r").read_bytes()) == Recording((BLOB.id,), (span(8, 10), span(2, 4), span(10, 11)))
    assert len(encode_recording([BLOB.id], [span(0, 1)] * (MAX_SPANS + 1))) < 2 << 20


ASKS_FOR_NO_MORE = """
from nydus_app.linux import fuse_device
fuse_device.READ_AHEAD_KIB = 0
from nydus_app.cli.entry import nydusd
nydusd()
"""
"""How far the kernel reads ahead in a device differs from run to run, and with it what a start has read."""


def test_a_start_recorded_here_is_replayed_there(
    golden: Path, golden_images: dict, mounts: Mounts, tmp_path: Path, data_path: str
) -> None:
    name = "v6-zstd"
    boot, blobs = tmp_path / "boot", golden / name / "blobs"
    boot.write_bytes(boot_of(golden, golden_images[name]).read_bytes())

    def start(number: int, extra: str) -> tuple[list[str], str]:
        """Read some files: what they hold, and the log."""
        mountpoint, config = tmp_path / f"m{number}", tmp_path / "config"
        config.write_text(json.dumps(nydusd_config(blobs, tmp_path / f"c{number}")))
        daemon = mounts.start(
            BIN / "python", "-c", ASKS_FOR_NO_MORE, "fuse", "--config", config, "--bootstrap", boot,
            "--mountpoint", mountpoint, mountpoint=mountpoint,
            env={**os.environ, "NYDUS_OVERRIDES": f"mode.data_path={data_path} {extra}"},
        )  # fmt: skip
        while ("replay:" if number == 1 else "serving at") not in daemon.output:  # no event tells
            assert daemon.process.poll() is None, daemon.output
            time.sleep(0.01)
        files = sorted(p for p in daemon.mountpoint.rglob("*") if p.is_file() and not p.is_symlink())[::3]
        content = [p.read_bytes().hex() for p in files]
        told = call(tmp_path / "s", "GET", "/api/v1/explain?files=false")[1] if number == 1 else {}
        assert isinstance(told, dict)
        fetched.extend(told.get("fetches", ()))
        assert daemon.stop() == 0
        return content, daemon.output

    fetched: list[dict] = []
    content, log = start(0, f"recording.save={boot}.recording")
    assert "recorded" in log
    again, log = start(1, f"api.sock={tmp_path}/s")
    assert again == content
    assert "cold" not in {f["why"] for f in fetched} and "replay" in {f["why"] for f in fetched}
    recording = decode_recording((tmp_path / "boot.recording").read_bytes())
    replays = [f["fetched"]["size"] for f in fetched if f["why"] == "replay"]
    assert sorted(replays) == sorted(s.size for s in merge_spans(recording.spans))
    assert len(replays) < len(recording.spans) / 2
    damaged = bytearray((tmp_path / "boot.recording").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "boot.recording").write_bytes(damaged)
    again, log = start(2, "")
    assert again == content and "the recording is damaged" in log and "replay:" not in log


@pytest.mark.parametrize("data_path", ["fuse", "auto"])
def test_what_is_there_already_is_recorded_as_well(golden: Path, mounts: Mounts, tmp_path: Path, data_path: str) -> None:
    """A cache that has all of it is read without the index of the blob, which the recording needs at the end."""

    def start(overrides: str) -> str:
        boot, blobs = golden / "v6-zstd" / "boot", golden / "v6-zstd" / "blobs"
        daemon = mounts.nydusd(boot, blobs, work_dir=tmp_path / "cache", data_path=data_path, overrides=overrides)
        for path in daemon.mountpoint.rglob("*"):
            if path.is_file() and not path.is_symlink():
                path.read_bytes()
        assert daemon.stop() == 0
        return daemon.output

    start("")
    assert "Traceback" not in start(f"recording.save={tmp_path}/recording")
    (blob,) = (tmp_path / "cache").glob("*.blob.data")
    recording = decode_recording((tmp_path / "recording").read_bytes())
    assert sum(span.size for span in recording.spans) > 1 << 20 and recording.blobs == (blob.name.removesuffix(".blob.data"),)

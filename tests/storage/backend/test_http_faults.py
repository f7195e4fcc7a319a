"""What an origin can do to a reader: right bytes or an error, in time, and all is well once the origin is.

Every fault is tried through a real blob cache: what it keeps is compared in the end.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import blake3
import pytest
import trio

from nydus_app.errors import (
    BackendDenied,
    BackendError,
    BackendNotFound,
    BackendUnavailable,
    CorruptChunk,
    NydusError,
)
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Chunk, Compressor, Digester, Segment
from nydus_app.storage.backend import retry
from nydus_app.storage.backend.http.client import HttpClient
from nydus_app.storage.backend.http.reader import open_reader
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.url import parse_url
from nydus_app.storage.backend.meter import MeteredReader
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.backend.trace import traced
from nydus_app.storage.background import Background
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.chunk_index import RecordedIndex
from nydus_app.storage.device import Device
from nydus_app.storage.workers import Workers
from nydus_app.testing.origin import (
    Exchange,
    Fault,
    Origin,
    chunked,
    drip,
    good,
    hang_up,
    ignored_range,
    lying_range,
    redirect,
    reset_after,
    short_body,
    slow,
    stall,
    status,
    wrong_bytes,
    wrong_range,
)

SIZE, COUNT = 128 << 10, 24
BEHIND = 20
"""A chunk so far behind that a server without ranges would have to send too much before it."""

ID = "b" * 64
DATA = os.urandom(SIZE * COUNT)
IS_FULL = "NYDUS_TEST_FULL_STALLS" in os.environ
"""Silences and time-outs of their real lengths, as scripts/soak wants them."""

TIMEOUT_S = 5 if IS_FULL else 0.3
STALL_S, LONG_STALL_S = (5.5, 40) if IS_FULL else (2, 5)
TRIES = 3
PAUSES_S = 0.3


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(retry, "FAILED_FOR_S", 0.1)


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin({ID: DATA}) as started:
        yield started


def chunk(index: int) -> Chunk:
    place = index * SIZE
    return Chunk(0, index, place, SIZE, place, SIZE, False, blake3.blake3(DATA[place:][:SIZE]).digest(), None)


def make_reader(url: str, **settings: object) -> BlobReader:
    given = {"timeout_s": TIMEOUT_S, "connect_timeout_s": TIMEOUT_S, "retry_limit": TRIES - 1, **settings}
    return open_reader(HttpClient(HttpSettings(**given)), parse_url(url))


class Cached:
    """A cache over a reader, read chunk by chunk."""

    def __init__(self, reader: BlobReader, work_dir: Path) -> None:
        none, size = Compressor.none, SIZE * COUNT
        background = Background()
        self.metrics = background.metrics
        blob = Blob(0, ID, BlobFeatures(0), none, Digester.blake3, SIZE, COUNT, size, size, none, 0, 0, 0, 0, b"")
        self.cache = BlobCache(
            blob, MeteredReader(reader, self.metrics), RecordedIndex(blob), keeping=Keeping(str(work_dir)), validate=True,
            batch_size=0, workers=Workers(2), background=background,
        )  # fmt: skip
        self._device = Device([self.cache], Background(), Workers(1))

    async def read(self, index: int) -> bytes:
        return b"".join(await self._device.read([Segment(chunk(index), 0, SIZE)], ()))

    def close(self) -> None:
        self.cache.close()


def right(index: int) -> bytes:
    return DATA[index * SIZE :][:SIZE]


async def read_again_without_origin(work_dir: Path, *indexes: int) -> None:
    """What the cache kept is right, and it kept all of it."""
    class Nowhere:
        async def read(self, offset: int, size: int) -> bytes:
            raise AssertionError("it was not kept")

        async def size(self) -> int:
            raise AssertionError

        def close(self) -> None:
            pass

    cached = Cached(Nowhere(), work_dir)
    for index in indexes:
        assert await cached.read(index) == right(index)
    cached.close()


CAUSES = {
    "short body": "hung up", "no body": "hung up", "reset": "hung up", "wrong range": "wrong answer", "silence": "time-out",
    "silence within": "time-out", "drip": "time-out", "wrong bytes": "wrong data", "lying range": "wrong data",
    "ignored range": "failed", "redirect": "failed",
    "interim for ever": "unavailable",
}  # fmt: skip
"""As the metrics count it, where it is neither a status nor what the fault is called here."""


def cause_of(name: str) -> str:
    return f"status {name[:3]}" if name[:3].isdigit() else CAUSES.get(name, name)


def trailers_for_ever(exchange: Exchange) -> None:
    found = exchange.part()
    assert found is not None
    part, headers = found
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: {headers['Content-Range']}\r\nTransfer-Encoding: chunked\r\n\r\n"
    with suppress(OSError):
        exchange.socket.sendall(head.encode() + b"%x\r\n%s\r\n0\r\n" % (len(part), part))
        while True:
            exchange.socket.sendall(b"a: b\r\n" * 1000)


CURED = {
    "429": (status(429), 2), "429 later": (status(429, {"Retry-After": "1"}), 2), "408": (status(408), 2), "500": (status(500), 2),
    "502": (status(502), 2), "503": (status(503), 2), "503 by date": (status(503, {"Retry-After": "Wed, 01 Jan 2020 00:00:00 GMT"}), 2),
    "503 at the end of time": (status(503, {"Retry-After": "Wed, 01 Jan 99999999999 00:00:00 GMT"}), 2),
    "503 beyond all zones": (status(503, {"Retry-After": "Wed, 01 Jan 2020 00:00:00 +99999999999999999"}), 2),
    "504": (status(504), 2), "short body": (short_body(1000), 2), "no body": (short_body(0), 2), "reset": (reset_after(70_000), 2),
    "hung up": (hang_up, 2), "wrong range": (wrong_range, 2), "silence": (stall(STALL_S), 2), "silence within": (stall(STALL_S, 1000), 2),
    "ignored range": (ignored_range, 1), "chunked": (chunked, 1), "trailers for ever": (trailers_for_ever, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CURED)
def test_one_fault_is_not_seen(name: str, origin: Origin, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fault, requests = CURED[name]

    async def main() -> None:
        cached = Cached(make_reader(origin.url("blobs", ID)), tmp_path)
        origin.script(fault)
        with traced() as tries:
            assert await cached.read(3) == right(3)
        assert len(origin.seen) == len(tries) == requests
        assert cached.metrics.causes == ({cause_of(name): 1} if requests > 1 else {})
        assert (cached.metrics.read_count, cached.metrics.read_errors) == (1, 0)
        cached.close()
        await read_again_without_origin(tmp_path, 3)

    trio.run(main)
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * (requests - 1)


def test_retry_after_is_waited_for(origin: Origin) -> None:
    async def main() -> float:
        reader = make_reader(origin.url(ID))
        origin.script(status(429, {"Retry-After": "1"}))
        began = time.monotonic()
        assert await reader.read(0, 10) == DATA[:10]
        reader.close()
        return time.monotonic() - began

    assert 1.0 <= trio.run(main) < 1.5


def interim_for_ever(exchange: Exchange) -> None:
    with suppress(OSError):
        while True:
            exchange.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)


LASTING: dict[str, tuple[Fault, type[NydusError], int, str]] = {
    "401": (status(401), BackendDenied, 1, "401"),
    "403": (status(403, body=b'{"errors":[{"code":"DENIED"}]}'), BackendDenied, 1, "(DENIED)"),
    "404": (status(404), BackendNotFound, 1, "404"),
    "416": (status(416), BackendError, 1, "416"),
    "429 much later": (status(429, {"Retry-After": "3600"}), BackendUnavailable, 1, "429"),
    "500": (status(500), BackendUnavailable, TRIES, "500"),
    "503": (status(503), BackendUnavailable, TRIES, "503"),
    "short body": (short_body(1000), BackendUnavailable, TRIES, "before the end"),
    "reset": (reset_after(70_000), BackendUnavailable, TRIES, "reset"),
    "hung up": (hang_up, BackendUnavailable, TRIES, "hung up"),
    "wrong range": (wrong_range, BackendUnavailable, TRIES, "the server sends"),
    "wrong bytes": (wrong_bytes, CorruptChunk, 1, "digest"),
    "lying range": (lying_range, CorruptChunk, 1, "digest"),
    "ignored range": (ignored_range, BackendError, 1, "ignores ranges"),
    "silence": (stall(LONG_STALL_S), BackendUnavailable, TRIES, f"no byte for {TIMEOUT_S} s"),
    "silence within": (stall(LONG_STALL_S, 1000), BackendUnavailable, TRIES, f"no byte for {TIMEOUT_S} s"),
    "drip": (drip(20), BackendUnavailable, TRIES, "not done after"),
    "redirect": (redirect("http://127.0.0.1:1/"), BackendError, 1, "redirect"),
    "interim for ever": (interim_for_ever, BackendUnavailable, TRIES, "gone on with"),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_a_lasting_fault_is_an_error_in_time_and_passes(name: str, origin: Origin, tmp_path: Path) -> None:
    fault, kind, requests, text = LASTING[name]

    async def main() -> None:
        # 128 KiB are to come within the time-out and 0.125 s: a server that drips is not waited for.
        cached = Cached(make_reader(origin.url("blobs", ID), min_rate=1 << 20), tmp_path)
        origin.answer = fault
        began = time.monotonic()
        with traced() as tries, pytest.raises(kind) as caught:
            await cached.read(BEHIND)
        total = TIMEOUT_S + SIZE / (1 << 20)
        assert time.monotonic() - began < total * TRIES + PAUSES_S
        assert isinstance(caught.value, kind) and text in str(caught.value)
        assert len(origin.seen) == len(tries) == requests
        if kind is not CorruptChunk:
            assert tries[-1].error == str(caught.value) or tries[-1].status >= 300
            assert cached.metrics.read_errors == 1
        assert cached.metrics.causes == {cause_of(name): requests}
        origin.answer = good
        if kind is BackendUnavailable:
            with pytest.raises(kind):  # as the kernel asks again: nothing goes out
                await cached.read(BEHIND)
            assert len(origin.seen) == requests
            await trio.sleep(retry.FAILED_FOR_S)
        assert await cached.read(BEHIND) == right(BEHIND)
        cached.close()
        await read_again_without_origin(tmp_path, BEHIND)

    trio.run(main)


def in_small_writes(exchange: Exchange) -> None:
    """Head and body by themselves, as simple servers do, with the kernel's own way to gather small writes (Nagle)."""
    exchange.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
    found = exchange.part()
    assert found is not None
    part, headers = found
    lines = ["HTTP/1.1 206 Partial Content", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    exchange.socket.sendall("\r\n".join(lines).encode())
    exchange.socket.sendall(part)


def test_a_server_does_not_wait_for_our_acknowledgement(origin: Origin) -> None:
    """A delayed one comes after 40 ms, on a connection that is not new."""

    async def main() -> list[float]:
        reader = make_reader(origin.url(ID))
        origin.answer = in_small_writes
        lasted = []
        for _ in range(60):
            began = time.monotonic()
            assert await reader.read(0, 1000) == DATA[:1000]
            lasted.append(time.monotonic() - began)
        reader.close()
        return lasted

    assert sorted(trio.run(main))[-6] < 0.03


def test_a_slow_server_may_take_longer_than_the_time_out(origin: Origin) -> None:
    """As 16 MiB at 3 MB/s do with 5 s: bytes that come are patience enough."""
    async def main() -> None:
        reader = make_reader(origin.url(ID))
        origin.answer = slow(2 * SIZE if IS_FULL else 300_000)
        size = len(DATA) if IS_FULL else 2 * SIZE
        began = time.monotonic()
        assert await reader.read(0, size) == DATA[:size]
        assert time.monotonic() - began > 2 * TIMEOUT_S
        assert len(origin.seen) == 1
        reader.close()

    trio.run(main)


def test_a_server_without_ranges_is_not_read_to_its_end() -> None:
    with Origin({ID: bytes(64 << 20)}) as origin:

        async def main() -> None:
            reader = make_reader(origin.url(ID))
            origin.answer = ignored_range
            with pytest.raises(BackendError, match="ignores ranges"):
                await reader.read(10 << 20, SIZE)
            assert await reader.read(1 << 20, SIZE) == bytes(SIZE)
            assert len(origin.seen) == 2
            reader.close()

        trio.run(main)


def test_a_blob_that_is_too_short_is_said_to_be(origin: Origin) -> None:
    async def main() -> None:
        reader = make_reader(origin.url(ID))
        with pytest.raises(BackendError, match=f"the blob has {len(DATA)} bytes only"):
            await reader.read(len(DATA) - 10, 20)
        with pytest.raises(BackendError, match="416"):
            await reader.read(len(DATA) + 10, 20)
        assert await reader.size() == len(DATA)
        assert len(origin.seen) == 3
        reader.close()

    trio.run(main)


def test_names_that_nobody_knows_and_ports_where_nobody_listens(tmp_path: Path) -> None:
    async def main() -> None:
        for url, text in (("http://no-such-host.invalid/b", "no-such-host.invalid"), ("http://127.0.0.1:1/b", "refused")):
            reader = make_reader(url)
            began = time.monotonic()
            with pytest.raises(BackendUnavailable, match=text):
                await reader.read(0, 10)
            assert time.monotonic() - began < TIMEOUT_S * TRIES + PAUSES_S
            reader.close()

    trio.run(main)


def test_names_that_nobody_tells_leave_threads_to_who_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolvers that say nothing hold their threads on behind readers that have given up."""
    says, look_up = threading.Event(), socket.getaddrinfo

    def silent(*words: object, flags: int = 0, **more: object) -> object:
        if not flags:
            assert says.wait(30)
        return look_up(*words, flags=flags, **more)  # type: ignore[arg-type]

    async def give_up() -> None:
        with pytest.raises(BackendUnavailable):
            await make_reader("http://nobody.invalid/b", retry_limit=0).read(0, 1)

    async def main() -> None:
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(give_up)
            with trio.fail_after(5):
                assert await trio.to_thread.run_sync(lambda: 1) == 1
        finally:
            says.set()

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    trio.run(main)


def test_a_server_that_is_restarted_costs_no_try() -> None:
    """Connections that were kept are dead then: one is found out when it is used, and replaced."""
    async def main() -> None:
        with Origin({ID: DATA}) as origin:
            reader = make_reader(origin.url(ID), retry_limit=0)
            assert await reader.read(0, 10) == DATA[:10]
            origin.script(hang_up)
            assert await reader.read(0, 10) == DATA[:10]
            port = origin.port
        with pytest.raises(BackendUnavailable):
            await reader.read(0, 10)
        with Origin({ID: DATA}, port=port) as origin:
            await trio.sleep(retry.FAILED_FOR_S)
            assert await reader.read(0, 10) == DATA[:10]
        reader.close()

    trio.run(main)


def test_connections_are_kept_also_from_loop_to_loop() -> None:
    """An image that is opened without a mount runs a loop for each read."""
    with Origin({ID: DATA}) as origin:
        accepted: list[object] = origin._connections
        reader = make_reader(origin.url(ID))
        for i in range(5):
            assert trio.run(reader.read, i, 10) == DATA[i : i + 10]
        assert len(accepted) == 1
        reader.close()
        assert trio.run(reader.read, 7, 10) == DATA[7:17]
        assert len(accepted) == 2
        reader.close()


def test_cancelled_reads_leave_no_connection_behind(origin: Origin) -> None:
    async def main() -> None:
        reader = make_reader(origin.url(ID), timeout_s=30)
        origin.script(stall(5), stall(5, 1000))
        for _ in range(2):
            with trio.move_on_after(0.1) as scope:
                await reader.read(0, SIZE)
            assert scope.cancelled_caught
        assert await reader.read(0, SIZE) == DATA[:SIZE]
        reader.close()

    before = len(os.listdir("/proc/self/fd"))
    trio.run(main)
    assert len(origin._connections) == 3
    origin.ending.set()
    origin.drop_connections()
    assert len(os.listdir("/proc/self/fd")) <= before + 3


def test_a_rate_of_requests_is_kept(origin: Origin) -> None:
    async def main() -> float:
        reader = make_reader(origin.url(ID), request_rate=20)
        began = time.monotonic()
        async with trio.open_nursery() as nursery:
            for i in range(20):
                nursery.start_soon(reader.read, i, 10)
        reader.close()
        return time.monotonic() - began

    # Ten at once, ten more at twenty a second.
    assert 0.4 < trio.run(main) < 1.0


def test_headers_and_time_outs_that_are_off(origin: Origin) -> None:
    async def main() -> None:
        reader = make_reader(origin.url(ID), timeout_s=0, connect_timeout_s=0, headers={"X-Given": "by the environment"})
        origin.script(stall(2 * TIMEOUT_S))
        assert await reader.read(0, 10) == DATA[:10]
        reader.close()

    trio.run(main)
    seen = origin.seen[0].headers
    assert seen["x-given"] == "by the environment" and seen["user-agent"].startswith("nydus-app/")
    assert seen["accept-encoding"] == "identity"

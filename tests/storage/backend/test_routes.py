"""Proxies and mirrors: asked while they are well, left while they are not, asked again afterwards."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio

from nydus_app.errors import BackendUnavailable
from nydus_app.storage.backend.http.client import HttpClient
from nydus_app.storage.backend.http.reader import open_reader
from nydus_app.storage.backend.http.settings import HttpSettings, MirrorSettings, ProxySettings
from nydus_app.storage.backend.http.url import parse_url
from nydus_app.storage.backend.port import BlobReader
from nydus_app.testing.origin import Exchange, Origin, good, hang_up, stall, status, wrong_range

DATA = bytes(range(256)) * 4
SOON_S = 0.05


def make_reader(url: str, **settings: object) -> BlobReader:
    given = {"timeout_s": 0.3, "connect_timeout_s": 0.3, "retry_limit": 0, **settings}
    return open_reader(HttpClient(HttpSettings(**given)), parse_url(url))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(5):
        while not condition():
            await trio.sleep(0.01)


@contextmanager
def two() -> Iterator[tuple[Origin, Origin]]:
    """The origin, and one that plays a proxy or mirror: it has the same blobs."""
    with Origin({"b": DATA}) as origin, Origin({"b": DATA}) as other:
        yield origin, other


async def read(reader: BlobReader) -> None:
    assert await reader.read(3, 50) == DATA[3:53]


def test_a_proxy_is_asked_with_the_whole_address_and_its_password() -> None:
    with two() as (origin, proxy):

        async def main() -> None:
            url = proxy.url().replace("://", "://user:p%40ss@")
            reader = make_reader(origin.url("x", "b"), proxy=ProxySettings(url=url))
            await read(reader)
            await read(reader)
            reader.close()

        trio.run(main)
        assert not origin.seen and len(proxy._connections) == 1
        assert proxy.seen[0].path == origin.url("x", "b") and proxy.seen[0].headers["host"] == origin.place
        assert proxy.seen[0].headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize("fault", [status(500), status(403), hang_up, stall(2), wrong_range], ids=str)
def test_a_proxy_that_fails_is_gone_round(fault: Callable[[Exchange], None]) -> None:
    with two() as (origin, proxy):

        async def main() -> None:
            proxy.answer = fault
            reader = make_reader(origin.url("b"), proxy=ProxySettings(url=proxy.url()))
            await read(reader)
            assert len(origin.seen) == 1
            reader.close()
            reader = make_reader(origin.url("b"), proxy=ProxySettings(url=proxy.url(), fallback=False))
            with pytest.raises(Exception, match=rf"{proxy.place}|{origin.place}"):
                await read(reader)
            assert len(origin.seen) == 1
            reader.close()

        trio.run(main)


@pytest.mark.parametrize("pings", [False, True])
def test_a_dead_proxy_costs_one_read_its_time_and_is_asked_again_later(pings: bool) -> None:
    with two() as (origin, proxy):

        async def main() -> None:
            ping_url = proxy.url("ping", "b") if pings else ""
            settings = ProxySettings(url=proxy.url(), ping_url=ping_url, check_interval_s=SOON_S if pings else 0.3)
            reader = make_reader(origin.url("b"), proxy=settings)
            await read(reader)
            assert not origin.seen
            proxy.answer = stall(3)
            await read(reader)
            asked = sum("ping" not in s.path for s in proxy.seen)
            await read(reader)
            assert len(origin.seen) == 2 and sum("ping" not in s.path for s in proxy.seen) == asked
            proxy.answer = good

            async def is_back() -> bool:
                before = len(origin.seen)
                await read(reader)
                return len(origin.seen) == before

            with trio.fail_after(5):
                while not await is_back():
                    await trio.sleep(0.02)
            reader.close()

        trio.run(main)


def test_without_fallback_a_proxy_that_answers_no_ping_is_said_to_be_ill() -> None:
    with two() as (origin, proxy):

        async def main() -> None:
            settings = ProxySettings(
                url=proxy.url(), ping_url=proxy.url("ping", "b"), check_interval_s=SOON_S, check_pause_s=60, fallback=False
            )
            reader = make_reader(origin.url("b"), proxy=settings)
            await read(reader)
            proxy.answer = status(500)
            await until(lambda: sum("ping" in s.path for s in proxy.seen) >= 2)
            with pytest.raises(BackendUnavailable, match="fallback is off"):
                await read(reader)
            reader.close()

        trio.run(main)
        assert not origin.seen


def test_checks_pause_while_nobody_reads() -> None:
    with two() as (origin, proxy):

        async def main() -> None:
            settings = ProxySettings(
                url=proxy.url(), ping_url=proxy.url("ping", "b"), check_interval_s=0.02, check_pause_s=0.1
            )
            reader = make_reader(origin.url("b"), proxy=settings)
            await read(reader)
            await trio.sleep(0.3)
            pings = len(proxy.seen)
            await trio.sleep(0.1)
            assert 1 < len(proxy.seen) == pings < 9
            await read(reader)
            await until(lambda: len(proxy.seen) > pings + 2)
            reader.close()

        trio.run(main)


def test_use_http_asks_the_proxy_for_the_address_without_tls() -> None:
    with Origin({"b": DATA}) as proxy:

        async def main() -> None:
            reader = make_reader("https://origin.example/x/b", proxy=ProxySettings(url=proxy.url(), use_http=True))
            await read(reader)
            reader.close()

        trio.run(main)
        assert proxy.seen[0].path == "http://origin.example/x/b"


def test_a_tunnel_that_is_refused_is_gone_round() -> None:
    with Origin() as proxy:

        async def main() -> None:
            proxy.answer = status(407)
            reader = make_reader("https://127.0.0.1:1/b", proxy=ProxySettings(url=proxy.url()))
            with pytest.raises(BackendUnavailable, match="127.0.0.1:1: Connection refused"):
                await read(reader)
            reader.close()

        trio.run(main)
        assert (proxy.seen[0].method, proxy.seen[0].path) == ("CONNECT", "127.0.0.1:1")


def test_mirrors_are_asked_in_their_order_with_their_headers() -> None:
    with two() as (origin, mirror), Origin({"b": DATA}) as other:

        async def main() -> None:
            mirrors = (
                MirrorSettings(host=mirror.place, headers={"X-Mirror": "1"}),
                MirrorSettings(host=other.url(), headers={"X-Mirror": "2"}),
            )
            reader = make_reader(origin.url("x", "b"), mirrors=mirrors)
            await read(reader)
            mirror.script(status(503))
            await read(reader)
            mirror.script(status(404))
            other.script(status(500))
            await read(reader)
            reader.close()

        trio.run(main)
        assert [len(o.seen) for o in (mirror, other, origin)] == [3, 2, 1]
        assert mirror.seen[0].headers["x-mirror"] == "1" and other.seen[0].headers["x-mirror"] == "2"
        assert mirror.seen[0].path == "/x/b" and "x-mirror" not in origin.seen[0].headers


@pytest.mark.parametrize("has_scheme", [True, False])
def test_a_dead_mirror_is_left_after_its_limit_and_asked_again_when_it_answers(has_scheme: bool) -> None:
    """Also by the origin's scheme, which is that of a mirror without one."""
    with two() as (origin, mirror):

        async def main() -> None:
            host = mirror.url() if has_scheme else mirror.place
            settings = MirrorSettings(host=host, failure_limit=2, check_interval_s=SOON_S)
            reader = make_reader(origin.url("b"), mirrors=(settings,))
            mirror.answer = hang_up
            for _ in range(4):
                await read(reader)
            assert len(origin.seen) == 4 and sum(s.path == "/b" for s in mirror.seen) == 2
            await until(lambda: any(s.path == "/v2" for s in mirror.seen))
            mirror.answer = good  # answers 404 to the ping, which is a sign of life
            for _ in range(100):
                await read(reader)
                if sum(s.path == "/b" for s in mirror.seen) > 2:
                    break
                await trio.sleep(0.02)
            before = len(origin.seen)
            await read(reader)
            assert len(origin.seen) == before
            reader.close()

        trio.run(main)


@contextmanager
def deaf_port() -> Iterator[int]:
    """Somebody listens, and nobody accepts: its queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        try:
            yield port
        finally:
            for sock in waiting:
                sock.close()


def test_a_host_that_does_not_answer_ends_with_the_connect_time_out() -> None:
    with deaf_port() as port:

        async def main() -> None:
            reader = make_reader(f"http://127.0.0.1:{port}/b", timeout_s=30)
            with pytest.raises(BackendUnavailable, match="no connection within 0.3 s"):
                await read(reader)
            reader.close()

        trio.run(main)


def test_many_readers_at_once_share_no_connection() -> None:
    with Origin({"b": DATA}) as origin:
        gate = threading.Barrier(8)

        def together(exchange: Exchange) -> None:
            gate.wait(5)
            exchange.serve()

        async def main() -> None:
            origin.answer = together
            reader = make_reader(origin.url("b"), timeout_s=5)
            for _ in range(2):
                async with trio.open_nursery() as nursery:
                    for _ in range(8):
                        nursery.start_soon(read, reader)
            reader.close()

        trio.run(main)
        assert len(origin._connections) == 8


def test_who_asks_behind_the_last_reader_leaves_no_connection() -> None:
    """As a health check may, which is under way when a daemon ends."""
    with Origin({"b": b"content"}) as origin:

        async def main() -> None:
            client = HttpClient(HttpSettings())
            client.opened()
            origin.script(stall(0.2))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.request, "GET", parse_url(origin.url("b")))
                await until(lambda: len(origin.seen) == 1)
                client.closed()
            client.opened()
            assert (await client.request("GET", parse_url(origin.url("b")))).body == b"content"
            client.closed()

        trio.run(main)
        assert len(origin.seen) == len(origin._connections) == 2

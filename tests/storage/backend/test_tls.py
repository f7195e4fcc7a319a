"""TLS: who is trusted, who trusts us, tunnels through proxies."""

import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
import trustme

from nydus_app.errors import BackendError, BackendUnavailable, NotTls
from nydus_app.storage.backend.http.client import HttpClient
from nydus_app.storage.backend.http.reader import open_reader
from nydus_app.storage.backend.http.settings import HttpSettings, ProxySettings
from nydus_app.storage.backend.http.url import parse_url
from nydus_app.testing.origin import Exchange, Origin, stall

DATA = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return str(path)


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def origin(authority: trustme.CA) -> Iterator[Origin]:
    with Origin({"b": DATA}, tls=server_context(authority, "127.0.0.1")) as started:
        yield started


async def read(url: str, **settings: object) -> None:
    given = {"timeout_s": 1, "connect_timeout_s": 1, "retry_limit": 0, **settings}
    with closing(open_reader(HttpClient(HttpSettings(**given)), parse_url(url))) as reader:
        for offset, size in ((0, 10), (5, len(DATA) - 5), (7, 1)):
            assert await reader.read(offset, size) == DATA[offset : offset + size]


def test_an_authority_of_ones_own_is_trusted_when_it_is_named(origin: Origin, ca_file: str) -> None:
    trio.run(lambda: read(origin.url("b"), ca_cert_files=(ca_file,)))
    assert len(origin._connections) == 1
    with pytest.raises(BackendError, match="its certificate is not trusted") as caught:
        trio.run(lambda: read(origin.url("b"), retry_limit=5))
    assert not isinstance(caught.value, BackendUnavailable)
    trio.run(lambda: read(origin.url("b"), skip_verify=True))


def test_a_certificate_of_another_host_is_not_trusted(authority: trustme.CA, ca_file: str) -> None:
    with Origin({"b": DATA}, tls=server_context(authority, "other.example")) as origin:
        with pytest.raises(BackendError, match="not trusted: .*127.0.0.1"):
            trio.run(lambda: read(origin.url("b"), ca_cert_files=(ca_file,)))
        trio.run(lambda: read(origin.url("b"), skip_verify=True))


def test_a_server_may_want_a_certificate(authority: trustme.CA, ca_file: str, tmp_path: Path) -> None:
    context = server_context(authority, "127.0.0.1")
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    own = authority.issue_cert("client.example")
    own.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    own.private_key_pem.write_to_path(tmp_path / "key.pem")
    own.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    with Origin({"b": DATA}, tls=context) as origin:
        url, trusted = origin.url("b"), {"ca_cert_files": (ca_file,)}
        trio.run(lambda: read(url, **trusted, client_cert_file=str(tmp_path / "both.pem")))
        cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
        trio.run(lambda: read(url, **trusted, client_cert_file=cert, client_key_file=key))
        with pytest.raises(BackendUnavailable):
            trio.run(lambda: read(url, **trusted))
        with pytest.raises(BackendError, match="cannot be loaded"):
            trio.run(lambda: read(url, **trusted, client_cert_file=cert, client_key_file=cert))


def test_who_speaks_no_tls_and_who_says_nothing(ca_file: str) -> None:
    with Origin({"b": DATA}) as origin:
        with pytest.raises(NotTls):
            trio.run(lambda: read(origin.url("b").replace("http:", "https:")))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/b"
        with pytest.raises(BackendUnavailable, match="no connection within 0.2 s"):
            trio.run(lambda: read(url, connect_timeout_s=0.2))


def test_silence_within_tls(origin: Origin, ca_file: str) -> None:
    origin.answer = stall(5, 1000)
    with pytest.raises(BackendUnavailable, match="no byte for 0.2 s"):
        trio.run(lambda: read(origin.url("b"), ca_cert_files=(ca_file,), timeout_s=0.2))


def tunnel(exchange: Exchange) -> None:
    """What a proxy does with CONNECT."""
    host, _, port = exchange.seen.path.rpartition(":")
    with socket.create_connection((host, int(port))) as far:
        exchange.socket.sendall(b"HTTP/1.1 200 Connection established\r\nX-Proxy: 1\r\n\r\n")

        def pass_on(source: socket.socket, target: socket.socket) -> None:
            # Whoever closes first, with something unread, resets the connection of the other.
            with suppress(OSError):
                while part := source.recv(65536):
                    target.sendall(part)
            with suppress(OSError):
                target.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=pass_on, args=(far, exchange.socket))
        thread.start()
        pass_on(exchange.socket, far)
        thread.join()


def test_https_goes_through_a_proxy_in_a_tunnel(origin: Origin, ca_file: str) -> None:
    with Origin() as proxy:
        proxy.answer = tunnel
        settings = ProxySettings(url=proxy.url().replace("://", "://user:pass@"), fallback=False)
        trio.run(lambda: read(origin.url("b"), ca_cert_files=(ca_file,), proxy=settings))
        assert [s.path for s in proxy.seen] == [origin.place]
        assert proxy.seen[0].headers["proxy-authorization"] == "Basic dXNlcjpwYXNz"
        assert "proxy-authorization" not in origin.seen[0].headers


def test_a_proxy_that_is_asked_by_tls(origin: Origin, authority: trustme.CA, ca_file: str) -> None:
    with Origin({"b": DATA}) as plain:
        settings = ProxySettings(url=origin.url(), fallback=False)
        trio.run(lambda: read(plain.url("b"), ca_cert_files=(ca_file,), proxy=settings))
        assert len(origin.seen) == 3 and not plain.seen
        with pytest.raises(BackendError, match="no TLS in it"):
            trio.run(lambda: read("https://origin.example/b", ca_cert_files=(ca_file,), proxy=settings))

"""The API over a real Unix socket, in front of a daemon that only remembers what it was asked."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from nydus_app.api import server
from nydus_app.api.server import serve_api
from nydus_app.daemon.info import BackendInfo, DaemonInfo, MountInfo
from nydus_app.daemon.state import State
from nydus_app.errors import ConfigError, ConfigFileError, StateConflict
from nydus_app.storage.backend.meter import BackendMetrics
from unix_http import UnixClient, call


class Remembering:
    def __init__(self) -> None:
        self.state = State.RUNNING
        self.levels: list[str] = []
        self.threads: set[int] = set()
        self.auths: list[str] = []
        self.told = BackendInfo("/", "registry", BackendMetrics(), {"registry_auth": self.set_auth})

    def info(self) -> DaemonInfo:
        self.threads.add(threading.get_ident())
        mount = MountInfo("Rafs", "/", "2026-01-02 03:04:05.678901 +00:00:00", {"version": 2}, "fuse", "v5")
        return DaemonInfo(None, None, self.state, (mount,))

    def set_log_level(self, name: str) -> None:
        if name != "debug":
            raise ConfigError("no such level")
        self.levels.append(name)

    def set_auth(self, auth: str) -> None:
        if auth == "wrong":
            raise ConfigError("that is none")
        self.auths.append(auth)

    def explanation(self) -> None:
        return None

    def backend(self) -> BackendInfo:
        return self.told

    def exit(self) -> None:
        if self.state is not State.RUNNING:
            raise StateConflict("Exit is not possible")
        self.state = State.STOPPED


def served(tmp_path: Path, daemon: Remembering, client: Callable[[Path], None]) -> None:
    """Serve `daemon` and run `client`, which blocks, in a thread of its own."""

    async def main() -> None:
        async with serve_api(daemon, str(tmp_path / "s")):
            await trio.to_thread.run_sync(client, tmp_path / "s")

    trio.run(main)
    assert list(tmp_path.iterdir()) == []


def test_what_a_daemon_tells(tmp_path: Path) -> None:
    daemon = Remembering()

    def client(sock: Path) -> None:
        with UnixClient(sock) as connection:
            status, headers, body = connection.call("GET", "/api/v1/daemon")
        assert (status, headers["server"], headers["content-type"]) == (200, "Nydus API", "application/json")
        info = json.loads(body)
        assert list(info) == ["version", "id", "supervisor", "state", "backend_collection"]
        assert list(info["version"]) == ["package_ver", "git_commit", "build_time", "profile", "rustc"]
        assert info["state"] == "RUNNING"
        assert list(info["backend_collection"]["/"]) == ["backend_type", "mountpoint", "mounted_time", "config", "data_path", "data_path_reason"]

        for target in ("http://localhost/api/v1/daemon", "http://unix/api/v1/daemon"):
            with UnixClient(sock) as connection:
                assert connection.call("GET", target)[0] == 200

    served(tmp_path, daemon, client)
    assert daemon.threads == {threading.get_ident()}


REPLIES = [
    ("GET", "/api/v1/nothing", None, 404, "NoRoute"),
    ("GET", "/api/v1/daemon/", None, 404, "NoRoute"),
    ("GET", "/docs", None, 404, "NoRoute"),
    ("POST", "/api/v1/daemon", None, 400, "BadRequest"),
    ("DELETE", "/api/v1/daemon/exit", None, 400, "BadRequest"),
    ("GET", "/api/v1/daemon", b"{}", 400, "BadRequest"),
    ("PUT", "/api/v1/daemon", None, 400, "BadRequest"),
    ("PUT", "/api/v1/daemon", b"{", 400, "ParseBody(Error("),
    ("PUT", "/api/v1/daemon", b"[]", 400, "ParseBody(Error("),
    ("PUT", "/api/v1/daemon", b"{}", 400, "missing field `log_level`"),
    ("PUT", "/api/v1/daemon", b"[" * 20000, 400, "ParseBody"),
    ("PUT", "/api/v1/daemon", b"x" * 51201, 400, "BadRequest"),
    ("PUT", "/api/v1/daemon", b'{"log_level":"loud"}', 500, "Configure(ResponsePayloadType)"),
    ("PUT", "/api/v1/daemon", b'{"log_level":3}', 400, "ParseBody"),
    ("PUT", "/api/v1/daemon", b"\xff\xfe", 400, "ParseBody"),
    ("GET", "/api/v1/metrics/backend?id=/x", None, 404, "NoCounter"),
    ("PUT", "/api/v1/config", b'{"registry_auth":3}', 400, "a map of strings"),
    ("PUT", "/api/v1/config", b'{"registry_auth":"wrong"}', 400, "that is none"),
    ("PUT", "/api/v1/config", b'{"proxy_url":"http://p"}', 500, "Configure(ResponsePayloadType)"),
    ("PUT", "/api/v1/config?id=/x", b'{"registry_auth":"x"}', 500, "Configure(ResponsePayloadType)"),
]


def test_mistakes_are_answered_as_nydusd_does(tmp_path: Path) -> None:
    def client(sock: Path) -> None:
        for method, path, body, want, words in REPLIES:
            with UnixClient(sock) as connection:
                status, _, reply = connection.call(method, path, body)
            assert status == want, (method, path, body)
            error = json.loads(reply)
            assert list(error) == ["code", "message"] and error["code"] == "UNDEFINED"
            assert words in error["message"]

    served(tmp_path, Remembering(), client)


def test_what_a_daemon_is_told(tmp_path: Path) -> None:
    daemon = Remembering()

    def client(sock: Path) -> None:
        with UnixClient(sock) as connection:
            assert connection.call("PUT", "/api/v1/daemon", b'{"log_level":"debug"}')[::2] == (204, b"")
            assert connection.call("PUT", "/api/v1/daemon/exit")[::2] == (204, b"")
            status, _, body = connection.call("PUT", "/api/v1/daemon/exit")
        assert status == 400 and "DaemonAbnormal(UnexpectedEvent(" in json.loads(body)["message"]

    served(tmp_path, daemon, client)
    assert (daemon.levels, daemon.state) == (["debug"], State.STOPPED)


def test_a_backend_tells_its_counters_and_takes_credentials(tmp_path: Path) -> None:
    daemon = Remembering()
    metrics = daemon.told.metrics
    metrics.add_read(1023, 0.001, is_failed=False)
    metrics.add_read(1 << 20, 0.3, is_failed=False, causes=["status 503", "time-out", "status 503"])
    metrics.add_read(4096, 2.5, is_failed=True, causes=["refused"])
    metrics.add_cause("wrong data")

    def client(sock: Path) -> None:
        status, told = call(sock, "GET", "/api/v1/metrics/backend")
        assert (status, told) == call(sock, "GET", "/api/v1/metrics/backend?id=/")
        assert isinstance(told, dict) and list(told) == [
            "backend_type", "read_count", "read_errors", "read_amount_total", "read_cumulative_latency_millis_total",
            "read_cumulative_latency_millis_dist", "read_count_block_size_dist", "read_latency_sizes_dist", "causes",
        ]  # fmt: skip
        assert list(told.values())[:7] == [
            "registry", 3, 1, 1023 + (1 << 20) + 4096, 2801, [1, 0, 0, 0, 1, 0, 0, 1], [1, 0, 1, 0, 0, 0, 0, 1],
        ]  # fmt: skip
        assert [(told["read_latency_sizes_dist"][i][j]) for i, j in ((0, 0), (7, 4), (2, 7))] == [1, 1, 1]
        assert told["causes"] == {"refused": 1, "status 503": 2, "time-out": 1, "wrong data": 1}
        assert call(sock, "PUT", "/api/v1/config?id=/", {"registry_auth": "dTpw"}) == (204, None)
        assert call(sock, "GET", "/api/v1/config") == (200, {"/:registry_auth": "***"})
        assert call(sock, "GET", "/api/v1/config?id=/") == (200, {"registry_auth": "***"})

    served(tmp_path, daemon, client)
    assert daemon.auths == ["dTpw"]


def test_an_idle_connection_is_kept_and_does_not_delay_the_end(tmp_path: Path) -> None:
    idle = socket.socket(socket.AF_UNIX)

    def client(sock: Path) -> None:
        idle.connect(str(sock))
        for _ in range(200):
            with UnixClient(sock) as connection:
                assert connection.call("GET", "/api/v1/daemon")[0] == 200
        idle.settimeout(0.05)
        with pytest.raises(TimeoutError):
            idle.recv(1)

    served(tmp_path, Remembering(), client)
    idle.settimeout(5)
    assert idle.recv(1) == b""
    idle.close()


def test_where_no_thread_can_be_had_the_client_waits_and_the_daemon_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "RETRY_S", 0.01)
    make, asked = server._make_server, []

    def make_late(*words: object) -> object:
        asked.append(words)
        if len(asked) < 3:
            raise RuntimeError("can't start new thread")
        return make(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(server, "_make_server", make_late)
    served(tmp_path, Remembering(), lambda sock: call(sock, "GET", "/api/v1/daemon") and None)
    assert caplog.text.count("the API cannot be served for now: can't start new thread") == 2


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "s"))
    served(tmp_path, Remembering(), lambda sock: None)


def test_a_path_may_be_as_long_as_the_kernel_takes(tmp_path: Path) -> None:
    sock = str(tmp_path / "s").ljust(107, "x")

    def client() -> None:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(sock)

    async def main() -> None:
        async with serve_api(Remembering(), sock):
            await trio.to_thread.run_sync(client)

    trio.run(main)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        async with serve_api(Remembering(), str(tmp_path / "gone" / "s")):
            raise AssertionError

    with pytest.raises(ConfigFileError, match="gone"):
        trio.run(main)

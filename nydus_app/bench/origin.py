"""A directory of blobs behind a bad network: an HTTP server that waits before it answers, and has one link for all answers."""

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from nydus_app.config.bench_tree import Network
from nydus_app.errors import ConfigError

PIECE = 64 << 10
BLOB = re.compile(r"[/:]([0-9a-f]{64})(?:\?|\Z)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


class Weather(NamedTuple):
    delay_s: float
    bytes_per_s: float  # 0: no limit


NETWORKS = {
    Network.near: Weather(0.0, 0.0),
    Network.far: Weather(0.020, 0.0),
    Network.narrow: Weather(0.005, 25e6),
}


class Link:
    """What has been sent is paid for by waiting; all connections share it."""

    def __init__(self, bytes_per_s: float) -> None:
        self._rate = bytes_per_s
        self._free_at = 0.0
        self._turn = threading.Lock()

    def pay(self, count: int) -> None:
        if not self._rate:
            return
        with self._turn:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)


@contextmanager
def serving(folder: str, port: int, network: Network) -> Iterator[None]:
    """GET and HEAD of whatever ends in a blob's id, with ranges, on 127.0.0.1. Raises ConfigError where the port is taken."""
    weather = NETWORKS[network]
    link = Link(weather.bytes_per_s)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            time.sleep(weather.delay_s)
            with suppress(OSError):  # who hangs up early is no news
                self._answer()

        do_HEAD = do_GET

        def _answer(self) -> None:
            match = BLOB.search(self.path)
            path = os.path.join(folder, match[1]) if match else ""
            if not os.path.isfile(path):
                is_ping = self.path.rstrip("/") == "/v2"
                self.send_response(200 if is_ping else 404)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            size = os.path.getsize(path)
            asked = RANGE.match(self.headers.get("Range", ""))
            first, last = (int(asked[1]), int(asked[2] or size - 1)) if asked else (0, size - 1)
            count = max(min(last, size - 1) - first + 1, 0)
            self.send_response(206 if asked and count else 416 if asked else 200)
            self.send_header("Content-Length", str(count))
            if asked:
                self.send_header("Content-Range", f"bytes {first}-{first + count - 1}/{size}" if count else f"bytes */{size}")
            self.end_headers()
            if self.command == "GET":
                self._send(path, first, count)

        def _send(self, path: str, first: int, count: int) -> None:
            with open(path, "rb") as f:
                f.seek(first)
                while count > 0 and (piece := f.read(min(count, PIECE))):
                    link.pay(len(piece))
                    self.wfile.write(piece)
                    count -= len(piece)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    try:
        server = Server(("127.0.0.1", port), Handler)
    except OSError as e:
        raise ConfigError(f"bench.port={port}: {e.strerror}") from None
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

"""An HTTP origin that does what it is told: a server of blobs with a script of faults.

    with Origin({blob_id: content}) as origin:
        origin.script(status(503), short_body(100))     # one fault for each of the next requests, then none
        … origin.url("blob", blob_id) …
        assert origin.seen[0].range == (0, 100)

Serves GET and HEAD of whatever ends in a blob's id, with ranges. A fault is a function of an exchange that answers it, or
that changes something and lets `Exchange.serve` answer. `origin.answer` may be set to look at every request first.
"""

import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

ANSWER_BYTES = 64 << 10


class Seen(NamedTuple):
    """One request as it came; header names in lower case. `range` is offset and size."""

    method: str
    path: str
    headers: Mapping[str, str]
    range: tuple[int, int] | None
    body: bytes


class Exchange:
    """One request on its way to an answer."""

    def __init__(self, origin: "Origin", handler: BaseHTTPRequestHandler, seen: Seen) -> None:
        self.origin = origin
        self.seen = seen
        self._handler = handler

    @property
    def socket(self) -> socket.socket:
        return self._handler.connection

    def answer(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, length: int = -1) -> None:
        """`length` is what is said of the body, its real length by default."""
        handler = self._handler
        handler.send_response(status)
        for name, value in (headers or {}).items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body) if length < 0 else length))
        handler.end_headers()
        if self.seen.method != "HEAD":
            self.send(body)
        if length >= 0 and length != len(body):
            handler.close_connection = True

    def send(self, body: bytes) -> None:
        self._handler.wfile.write(body)

    def hang_up(self, *, reset: bool = False) -> None:
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._handler.close_connection = True
        self._handler.wfile.flush()
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR) if not reset else None
        self.socket.close()

    def blob(self) -> bytes | None:
        name = self.seen.path.partition("?")[0].rpartition("/")[2].rpartition(":")[2]
        return self.origin.blobs.get(name)

    def serve(self, *, shift: int = 0, flip: bool = False) -> None:
        """The range that was asked for, as it should be but for what is said."""
        self._serve(shift, flip, lambda part: self.send(part))

    def _serve(self, shift: int, flip: bool, send: Callable[[bytes], None]) -> None:
        found = self.part(shift)
        if found is None:
            return
        part, headers = found
        if flip:
            part = bytes([part[0] ^ 1]) + part[1:]
        handler = self._handler
        handler.send_response(206 if self.seen.range else 200)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        if self.seen.method != "HEAD":
            send(part)

    def part(self, shift: int = 0) -> tuple[bytes, dict[str, str]] | None:
        """Body and headers of the good answer; None where a bad one has been given."""
        blob = self.blob()
        if blob is None:
            self.answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}')
            return None
        if self.seen.range is None:
            return blob, {"Content-Length": str(len(blob))}
        first, size = self.seen.range[0] + shift, self.seen.range[1]
        part = blob[first : first + size]
        if not part:
            self.answer(416, b"", {"Content-Range": f"bytes */{len(blob)}"})
            return None
        place = f"bytes {first}-{first + len(part) - 1}/{len(blob)}"
        return part, {"Content-Length": str(len(part)), "Content-Range": place}

    def serve_slowly(self, bytes_per_s: int) -> None:
        def send(part: bytes) -> None:
            step = max(bytes_per_s // 20, 1)
            for i in range(0, len(part), step):
                self.send(part[i : i + step])
                if self.origin.ending.wait(step / bytes_per_s):
                    return

        self._serve(0, False, send)


Fault = Callable[[Exchange], None]


class Origin:
    """`requests` of blobs are counted in `seen`, in the order in which they came."""

    def __init__(
        self, blobs: Mapping[str, bytes] | None = None, *, tls: ssl.SSLContext | None = None, unix: str = "", port: int = 0
    ) -> None:
        self.blobs = dict(blobs or {})
        self.seen: list[Seen] = []
        self.ending = threading.Event()
        self.answer: Fault = Exchange.serve
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._tls = tls
        self._unix = unix
        self._server = self._listen(port)
        self.port: int = 0 if unix else self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def _listen(self, port: int) -> ThreadingHTTPServer:
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = ANSWER_BYTES
            disable_nagle_algorithm = not origin._unix

            def log_message(self, format: str, *args: object) -> None:
                pass

            def address_string(self) -> str:
                return "client"

            def handle(self) -> None:
                with suppress(OSError, ValueError):  # who hangs up early, or is hung up on, is no news
                    super().handle()

            def finish(self) -> None:
                with suppress(OSError, ValueError):
                    super().finish()

            def do_GET(self) -> None:
                origin._handle(self)

            do_HEAD = do_POST = do_PUT = do_CONNECT = do_GET

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_UNIX if origin._unix else socket.AF_INET
            daemon_threads = True
            request_queue_size = 256

            def server_bind(self) -> None:
                if origin._unix:
                    self.socket.bind(origin._unix)
                    self.server_name, self.server_port = "unix", 0
                else:
                    self.allow_reuse_address = True
                    super().server_bind()

            def get_request(self) -> tuple[socket.socket, object]:
                sock, address = self.socket.accept()
                origin._connections.append(sock)
                if origin._tls is not None:
                    sock = origin._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                return sock, address or ("unix", 0)

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self._connections: list[socket.socket] = []
        return Server(self._unix or ("127.0.0.1", port), Handler)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", handler.headers.get("Range", ""))
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        seen = Seen(
            handler.command,
            handler.path,
            {k.lower(): v for k, v in handler.headers.items()},
            None if match is None else (int(match[1]), int(match[2]) - int(match[1]) + 1),
            body,
        )
        with self._lock:
            self.seen.append(seen)
            answer = self._faults.pop(0) if self._faults else self.answer
        answer(Exchange(self, handler, seen))
        handler.wfile.flush()

    def script(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += faults

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def url(self, *words: str) -> str:
        return "/".join((f"{'https' if self._tls else 'http'}://{self.place}", *words))

    def drop_connections(self) -> None:
        """Hang up on everybody, as a server that is restarted does."""
        while self._connections:
            with suppress(OSError):
                self._connections.pop().shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Origin":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self.drop_connections()
        self._thread.join()


# ---- faults --------------------------------------------------------------------------------------


def good(exchange: Exchange) -> None:
    """None at all: a place in the script that is left out."""
    exchange.serve()


def status(code: int, headers: Mapping[str, str] | None = None, body: bytes = b"{}") -> Fault:
    return lambda exchange: exchange.answer(code, body, headers)


def redirect(location: str, code: int = 307) -> Fault:
    return status(code, {"Location": location}, b"")


def short_body(size: int) -> Fault:
    """So many bytes of the right answer, and then the end."""

    def answer(exchange: Exchange) -> None:
        if (found := exchange.part()) is not None:
            part, headers = found
            del headers["Content-Length"]
            exchange.answer(206, part[:size], headers, length=len(part))

    return answer


def reset_after(size: int) -> Fault:
    """So many bytes of the right answer, and then a reset of the connection."""

    def answer(exchange: Exchange) -> None:
        if (found := exchange.part()) is not None:
            part, headers = found
            del headers["Content-Length"]
            exchange.answer(206, part[:size], headers, length=len(part))
            exchange.hang_up(reset=True)

    return answer


def wrong_bytes(exchange: Exchange) -> None:
    exchange.serve(flip=True)


def wrong_range(exchange: Exchange) -> None:
    exchange.serve(shift=1)


def lying_range(exchange: Exchange) -> None:
    """Other bytes under the name of the right ones."""
    assert exchange.seen.range is not None
    first, size = exchange.seen.range
    blob = exchange.blob()
    assert blob is not None
    place = f"bytes {first}-{first + size - 1}/{len(blob)}"
    exchange.answer(206, blob[first + 1 : first + size] + b"?", {"Content-Range": place})


def ignored_range(exchange: Exchange) -> None:
    blob = exchange.blob()
    assert blob is not None
    exchange.answer(200, blob)


def stall(seconds: float, after: int = 0) -> Fault:
    """Silence, before the answer or behind so many bytes of it."""

    def answer(exchange: Exchange) -> None:
        found = exchange.part() if after else None
        if found is None:
            if not exchange.origin.ending.wait(seconds):
                exchange.serve()
            return
        part, headers = found
        del headers["Content-Length"]
        exchange.answer(206, part[:after], headers, length=len(part))
        exchange._handler.wfile.flush()
        if not exchange.origin.ending.wait(seconds):
            exchange.send(part[after:])

    return answer


def slow(bytes_per_s: int) -> Fault:
    return lambda exchange: exchange.serve_slowly(bytes_per_s)


def hang_up(exchange: Exchange) -> None:
    """Not a byte of an answer."""
    exchange.hang_up()


def chunked(exchange: Exchange) -> None:
    """No fault: a body in chunks."""
    if (found := exchange.part()) is None:
        return
    part, headers = found
    handler = exchange._handler
    handler.send_response(206)
    handler.send_header("Content-Range", headers["Content-Range"])
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    for i in range(0, len(part), 10_000):
        piece = part[i : i + 10_000]
        exchange.send(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece))
    exchange.send(b"0\r\nTrailer: t\r\n\r\n")


def drip(seconds: float) -> Fault:
    """A byte now and then: never silent for long, never done."""

    def answer(exchange: Exchange) -> None:
        if (found := exchange.part()) is not None:
            part, headers = found
            del headers["Content-Length"]
            end = time.monotonic() + seconds
            exchange.answer(206, b"", headers, length=len(part))
            for i in range(len(part)):
                exchange.send(part[i : i + 1])
                exchange._handler.wfile.flush()
                if exchange.origin.ending.wait(0.05) or time.monotonic() > end:
                    return

    return answer

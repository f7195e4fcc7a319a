"""HTTP over a Unix socket, as the daemon's clients speak it."""

import http.client
import json
import socket
from pathlib import Path


class UnixClient(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def __enter__(self) -> "UnixClient":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, body."""
        self.request(method, path, body)
        reply = self.getresponse()
        return reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read()


def call(sock: Path, method: str, path: str, body: object = None) -> tuple[int, object]:
    """One request on a connection of its own; bodies are JSON both ways."""
    with UnixClient(sock) as client:
        status, _, content = client.call(method, path, None if body is None else json.dumps(body).encode())
        return status, json.loads(content) if content else None

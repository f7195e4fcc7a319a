"""The API of a running daemon, over its Unix socket."""

import http.client
import json
import socket
from typing import Any

from nydus_app.errors import NydusError

TIMEOUT_S = 30.0


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def get(sock: str, path: str) -> Any:
    """The JSON that a GET answers. Raises NydusError, also where the daemon refuses."""
    connection = _Connection(sock)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read()
    except (OSError, http.client.HTTPException) as e:
        raise NydusError(f"{sock}: {getattr(e, 'strerror', None) or e}") from None
    finally:
        connection.close()
    if reply.status == 404:
        raise NydusError(f"{sock}: this daemon knows no {path.partition('?')[0]}")
    if reply.status != 200:
        raise NydusError(f"{sock}: {reply.status} {body[:200].decode(errors='replace')}")
    try:
        return json.loads(body)
    except ValueError:
        raise NydusError(f"{sock}: what answers is no daemon") from None

"""A blob at an address."""

from __future__ import annotations

from nydus_app.protocols.http1 import Headers
from nydus_app.storage.backend.http.client import HttpClient, Sign
from nydus_app.storage.backend.http.url import Url
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.backend.retry import Retrying


class HttpReader:
    """One try a call; the client is closed with the last reader."""

    def __init__(self, client: HttpClient, url: Url, headers: Headers, sign: Sign | None) -> None:
        self._client = client
        self._url = url
        self._headers = headers
        self._sign = sign
        client.opened()

    async def read(self, offset: int, size: int) -> bytearray:
        return await self._client.get_range(self._url, offset, size, headers=self._headers, sign=self._sign)

    async def size(self) -> int:
        return await self._client.size(self._url, headers=self._headers, sign=self._sign)

    def close(self) -> None:
        self._client.closed()


def open_reader(client: HttpClient, url: Url, *, headers: Headers = {}, sign: Sign | None = None) -> BlobReader:
    """With the tries that the client's settings allow."""
    return Retrying(HttpReader(client, url, headers, sign), client.settings.retry_limit)

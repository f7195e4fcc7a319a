"""Blobs by path from an HTTP server, or from one that listens at a Unix socket (contract 6.7).

`<addr><path>/<blob id>`. Over a Unix socket the same: nydusd asks for `/` there, whatever the blob.
"""

from urllib.parse import quote

from nydus_app.storage.backend.http.client import HttpClient
from nydus_app.storage.backend.http.reader import open_reader
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.url import Url, parse_url
from nydus_app.storage.backend.port import BlobReader


class HttpProxyBackend:
    """`addr` is an address or the absolute path of a socket."""

    def __init__(self, http: HttpSettings, *, addr: str, path: str = "") -> None:
        self._client = HttpClient(http)
        if addr.startswith("/"):
            self._base = Url("http", "localhost", 80, "", socket=addr)
        else:
            self._base = parse_url(addr)
        self._path = f"{self._base.path.rstrip('/')}/{quote(path.strip('/'))}".rstrip("/")

    def open_blob(self, blob_id: str) -> BlobReader:
        url = self._base._replace(target=f"{self._path}/{quote(blob_id, safe='')}")
        return open_reader(self._client, url)

    def describe(self) -> str:
        return f"http_proxy {self._base.origin}{self._path}"

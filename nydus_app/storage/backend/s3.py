"""Blobs as objects of Amazon S3 and of what speaks like it (contract 6.5).

    GET <scheme>://<endpoint>/<bucket_name>/<object_prefix><blob id>      addressing_style=path, as nydusd
    GET <scheme>://<bucket_name>.<endpoint>/<object_prefix><blob id>      addressing_style=virtual

Signature Version 4 is the work of requests-aws4auth, which is loaded with the first read, in a thread.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import trio

from nydus_app.errors import BackendError
from nydus_app.protocols.http1 import Headers
from nydus_app.storage.backend.http.client import HttpClient
from nydus_app.storage.backend.http.reader import open_reader
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.url import Url
from nydus_app.storage.backend.object_store import StoreSettings
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.hop import require_loop

if TYPE_CHECKING:
    from requests_aws4auth import AWS4Auth

SIGNED = ("host", "range", "x-amz-")
"""The range as well: who changes it on the way is found out by the server."""


class S3Backend:
    def __init__(self, http: HttpSettings, settings: StoreSettings, *, region: str, virtual_host: bool) -> None:
        self._client = HttpClient(http)
        self._settings = settings
        self._virtual_host = virtual_host
        self._signature = SignatureV4(settings.access_key_id, settings.access_key_secret, region)

    def open_blob(self, blob_id: str) -> BlobReader:
        url = self._settings.url(self._settings.key(blob_id), virtual_host=self._virtual_host)
        if self._settings.is_anonymous:
            return open_reader(self._client, url)
        return SignedReader(open_reader(self._client, url, sign=self._signature.sign), self._signature)

    def describe(self) -> str:
        return f"s3 {self._settings.describe()}"


class SignatureV4:
    """Signs requests without a body; a signature holds for a quarter of an hour."""

    def __init__(self, key_id: str, secret: str, region: str) -> None:
        self._key_id, self._secret, self._region = key_id, secret, region

    @cached_property
    def _auth(self) -> AWS4Auth:
        from requests_aws4auth import AWS4Auth

        return AWS4Auth(self._key_id, self._secret, self._region, "s3", include_hdrs=["*"])

    async def load(self) -> None:
        if "_auth" not in self.__dict__:
            await trio.to_thread.run_sync(lambda: self._auth)

    def sign(self, method: str, url: Url, headers: Headers) -> Headers:
        from requests import PreparedRequest
        from requests.structures import CaseInsensitiveDict

        request = PreparedRequest()  # prepare() would quote the address anew
        request.method, request.url = method, url.text
        request.headers = CaseInsensitiveDict({k: v for k, v in headers.items() if k.lower().startswith(SIGNED)})
        try:
            return {**headers, **self._auth(request).headers}
        except ValueError:  # the library reads values as a shell would
            raise BackendError(f"{method} {url.shown}: a header x-amz-… cannot be signed, its quotes are not closed") from None


class SignedReader:
    """Has the signature's library loaded before anybody on the loop needs it."""

    def __init__(self, reader: BlobReader, signature: SignatureV4) -> None:
        self._reader = reader
        self._signature = signature

    async def read(self, offset: int, size: int) -> bytes | bytearray:
        require_loop()
        await self._signature.load()
        return await self._reader.read(offset, size)

    async def size(self) -> int:
        require_loop()
        await self._signature.load()
        return await self._reader.size()

    def close(self) -> None:
        self._reader.close()

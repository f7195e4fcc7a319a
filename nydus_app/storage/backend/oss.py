"""Blobs as objects of Aliyun OSS (contract 6.5).

    GET <scheme>://<bucket_name>.<endpoint>/<object_prefix><blob id>
"""

from functools import partial

from nydus_app.protocols.http1 import Headers
from nydus_app.protocols.oss_signature import authorization
from nydus_app.storage.backend.http.client import HttpClient
from nydus_app.storage.backend.http.reader import open_reader
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.url import Url
from nydus_app.storage.backend.object_store import StoreSettings
from nydus_app.storage.backend.port import BlobReader


class OssBackend:
    def __init__(self, http: HttpSettings, settings: StoreSettings) -> None:
        self._client = HttpClient(http)
        self._settings = settings

    def open_blob(self, blob_id: str) -> BlobReader:
        key = self._settings.key(blob_id)
        url = self._settings.url(key, virtual_host=True)
        if self._settings.is_anonymous:
            return open_reader(self._client, url)
        return open_reader(self._client, url, sign=partial(self._sign, f"/{self._settings.bucket_name}/{key}"))

    def _sign(self, resource: str, method: str, url: Url, headers: Headers) -> Headers:
        from email.utils import formatdate

        dated = {**headers, "Date": formatdate(usegmt=True)}
        settings = self._settings
        signature = authorization(method, dated, resource, settings.access_key_id, settings.access_key_secret)
        return {**dated, "Authorization": signature}

    def describe(self) -> str:
        return f"oss {self._settings.describe()}"

"""What object stores have in common: where a blob is, and whether requests are signed."""

from dataclasses import dataclass
from urllib.parse import quote

from nydus_app.storage.backend.http.url import Url, parse_url
from nydus_app.storage.blob_name import blob_file_name


@dataclass(frozen=True, kw_only=True, repr=False)
class StoreSettings:
    """Names as in the configuration tree. `endpoint` is HOST or HOST:PORT; without keys requests are not signed."""

    scheme: str
    endpoint: str
    bucket_name: str
    object_prefix: str = ""
    access_key_id: str = ""
    access_key_secret: str = ""

    @property
    def is_anonymous(self) -> bool:
        return not self.access_key_id

    def key(self, blob_id: str) -> str:
        """Raises InvalidImage for an id that is none."""
        return f"{self.object_prefix}{blob_file_name(blob_id)}"

    def url(self, key: str, *, virtual_host: bool) -> Url:
        """The bucket is the first part of the host's name, or of the path. What is quoted is what signatures want."""
        path = quote(key, safe="/")
        if virtual_host:
            return parse_url(f"{self.scheme}://{self.bucket_name}.{self.endpoint}/{path}")
        return parse_url(f"{self.scheme}://{self.endpoint}/{self.bucket_name}/{path}")

    def describe(self) -> str:
        return f"{self.scheme}://{self.endpoint}, bucket {self.bucket_name}"

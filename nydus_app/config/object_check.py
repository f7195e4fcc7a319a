"""What is wrong with the options of an object store; keys are not shown."""

import re
from collections.abc import Iterator

from nydus_app.config.tree import Oss, S3
from nydus_app.errors import BackendError
from nydus_app.storage.backend.http.url import parse_url

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REGION = re.compile(r"[A-Za-z0-9-]+")
_KEY = re.compile(r"[!-~]+")


def object_problems(backend: Oss | S3) -> Iterator[str]:
    if backend.scheme not in ("http", "https"):
        yield f"backend.scheme={backend.scheme}: http or https is wanted"
    if backend.endpoint and not _is_host(backend.endpoint):
        yield "backend.endpoint: HOST or HOST:PORT is wanted"
    if backend.bucket_name and not _BUCKET.fullmatch(backend.bucket_name):
        yield f"backend.bucket_name={backend.bucket_name}: letters, digits and . _ - make a bucket's name"
    if isinstance(backend, S3):
        yield from _s3_problems(backend)
    if bool(backend.access_key_id) != bool(backend.access_key_secret):
        yield "backend.access_key_id and backend.access_key_secret: give both, or neither to read without a signature"
    for name in ("access_key_id", "access_key_secret"):
        if (value := getattr(backend, name)) and not _KEY.fullmatch(value):
            yield f"backend.{name}: it holds what no key does (blanks or line breaks?)"


def _s3_problems(backend: S3) -> Iterator[str]:
    if backend.region and not _REGION.fullmatch(backend.region):
        yield f"backend.region={backend.region}: a region such as eu-central-1 is wanted"
    # The signature's library puts such paths straight, and S3 does not.
    prefix = backend.object_prefix
    if prefix.startswith("/") or any(part in ("", ".", "..") for part in prefix.split("/")[:-1]):
        yield f"backend.object_prefix={prefix}: a prefix such as images/ is wanted, without empty parts, . and .."


def _is_host(text: str) -> bool:
    if "/" in text or "@" in text or "?" in text or "#" in text:
        return False
    try:
        parse_url(f"http://{text}")
    except BackendError:
        return False
    return True

"""Aliyun OSS as far as reading goes: an Origin that checks every signature by the documented algorithm.

Source: OSS API reference, "Include a V1 signature in the Authorization header" and "Error responses". It is asked as an HTTP
proxy, since names such as bucket.endpoint lead nowhere here, or by its address with the bucket in the path.
"""

import base64
import hashlib
import hmac
import time
from collections.abc import Mapping
from email.utils import mktime_tz, parsedate_tz
from urllib.parse import unquote, urlsplit

from nydus_app.testing.origin import Exchange, Origin, Seen

ENDPOINT, BUCKET = "oss-cn-nowhere.aliyuncs.com", "images"
KEY_ID, SECRET = "LTAI5tTheKeyOfATest", "the+Secret/of0a1test"
MAX_SKEW_S = 900
PREFIX = "team a/öffentlich+1/"


class OssServer(Origin):
    """`objects` are contents by key. Objects whose key begins with `public/` may be read without a signature."""

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        super().__init__({key.rpartition("/")[2]: content for key, content in objects.items()})
        self.objects = objects
        self.answer = self._answer

    def _answer(self, exchange: Exchange) -> None:
        bucket, key = named(exchange.seen)
        if (code := self._refusal(exchange.seen, f"/{bucket}/{key}", key)) is not None:
            refuse(exchange, 403, code)
        elif bucket != BUCKET or key not in self.objects:
            refuse(exchange, 404, "NoSuchKey" if bucket == BUCKET else "NoSuchBucket")
        else:
            exchange.seen = exchange.seen._replace(path=f"/{key}")  # some quote the slashes of a key
            exchange.serve()

    def _refusal(self, seen: Seen, resource: str, key: str) -> str | None:
        if "authorization" not in seen.headers:
            return None if key.startswith("public/") else "AccessDenied"
        scheme, _, rest = seen.headers["authorization"].partition(" ")
        key_id, _, signature = rest.partition(":")
        date = parsedate_tz(seen.headers.get("x-oss-date", seen.headers.get("date", "")))
        if scheme != "OSS" or date is None:
            return "InvalidArgument"
        if abs(mktime_tz(date) - time.time()) > MAX_SKEW_S:
            return "RequestTimeTooSkewed"
        if key_id != KEY_ID:
            return "InvalidAccessKeyId"
        return None if signature == sign(seen, resource) else "SignatureDoesNotMatch"


def named(seen: Seen) -> tuple[str, str]:
    """Bucket and key, from the host's name or from the path."""
    url = urlsplit(seen.path)
    host = (url.netloc or seen.headers["host"]).partition(":")[0]
    path = unquote(url.path).removeprefix("/")
    if host.endswith(f".{ENDPOINT}"):
        return host.removesuffix(f".{ENDPOINT}"), path
    bucket, _, key = path.partition("/")
    return bucket, key


def sign(seen: Seen, resource: str) -> str:
    """Signature = base64(hmac-sha1(AccessKeySecret, VERB + "\\n" + Content-MD5 + "\\n" + Content-Type + "\\n" + Date + "\\n"
    + CanonicalizedOSSHeaders + CanonicalizedResource))"""
    h = seen.headers
    text = f"{seen.method}\n{h.get('content-md5', '')}\n{h.get('content-type', '')}\n{h.get('date', '')}\n"
    for name in sorted(h):
        if name.startswith("x-oss-"):
            text += f"{name}:{h[name]}\n"
    return base64.b64encode(hmac.new(SECRET.encode(), (text + resource).encode(), hashlib.sha1).digest()).decode()


def refuse(exchange: Exchange, status: int, code: str) -> None:
    """As OSS does, with more in the body than anybody should repeat."""
    body = f"<Error><Code>{code}</Code><Message>No.</Message><OSSAccessKeyId>{KEY_ID}</OSSAccessKeyId></Error>"
    exchange.answer(status, b'<?xml version="1.0" encoding="UTF-8"?>\n' + body.encode(), {"Content-Type": "application/xml"})

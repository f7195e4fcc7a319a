"""The signature of Aliyun OSS in the Authorization header, version 1 (OSS API reference, "Include signatures in the
Authorization header").

    OSS <key id>:<base64 of HMAC-SHA1(secret, METHOD \\n Content-MD5 \\n Content-Type \\n Date \\n x-oss-… lines, resource)>

It is one HMAC of the standard library: Aliyun's own packages would be 17 and 33 MiB that take a quarter of a second to import.
"""

import hmac
from base64 import b64encode

from nydus_app.protocols.http1 import Headers

PREFIX = "x-oss-"


def authorization(method: str, headers: Headers, resource: str, key_id: str, secret: str) -> str:
    """Value of the header; `headers` have a Date, `resource` is `/bucket/key` as it is named, not as it is quoted."""
    given = {name.lower(): value.strip() for name, value in headers.items()}
    lines = [method, *(given.get(name, "") for name in ("content-md5", "content-type", "date"))]
    lines += [f"{name}:{given[name]}" for name in sorted(given) if name.startswith(PREFIX)]
    text = "\n".join((*lines, resource))
    return f"OSS {key_id}:{b64encode(hmac.digest(secret.encode(), text.encode(), 'sha1')).decode()}"

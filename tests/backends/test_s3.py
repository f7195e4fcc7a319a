"""Blobs in S3: moto's server, which computes every signature itself by AWS's own library."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from mounting import Mounts
from nydus_app.errors import BackendDenied, BackendError, BackendNotFound
from nydus_app.storage.backend.http.settings import HttpSettings, ProxySettings
from nydus_app.storage.backend.http.url import parse_url
from nydus_app.storage.backend.object_store import StoreSettings
from nydus_app.storage.backend.s3 import S3Backend, SignatureV4
from nydus_app.testing.origin import Origin, status
from over_backend import assert_tree, start_over, start_peer_over

pytest.importorskip("moto", reason="moto, a server of S3, is not installed")

ROOT = Path(__file__).parent.parent
REGION, BUCKET, PREFIX = "eu-central-1", "images", "team a/öffentlich+1/"
IMAGES = ("v5-merged", "v6-merged")
STYLES = {"path": "", "virtual": f"s3.{REGION}.amazonaws.com"}
"""Endpoints; a bucket's own name leads nowhere here, so the server is asked for it as a proxy."""


class S3(NamedTuple):
    key_id: str
    secret: str
    port: int

    def options(self, style: str = "path", **changes: str) -> dict[str, str]:
        common = {"scheme": "http", "endpoint": STYLES[style] or f"127.0.0.1:{self.port}", "bucket_name": BUCKET}
        keys = {"access_key_id": self.key_id, "access_key_secret": self.secret}
        return {**common, **keys, "object_prefix": PREFIX, **changes}

    def backend(self, style: str = "path", **changes: str) -> S3Backend:
        http = HttpSettings(proxy=ProxySettings(url=self.url, fallback=False) if style == "virtual" else None)
        settings = StoreSettings(**self.options(style, **changes))
        return S3Backend(http, settings, region=REGION, virtual_host=style == "virtual")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def s3(golden: Path) -> Iterator[S3]:
    blobs = {blob for name in IMAGES for blob in (golden / name / "blobs").iterdir()}
    process = subprocess.Popen(
        [sys.executable, ROOT / "s3_server.py", *blobs],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stdin is not None
        key_id, secret, port = process.stdout.readline().split()
        yield S3(key_id, secret, int(port))
        process.stdin.close()


@pytest.fixture
def blob(golden: Path) -> Path:
    return next((golden / "v6-merged/blobs").iterdir())


async def read(backend: S3Backend, blob: Path) -> bytes:
    reader = backend.open_blob(blob.name)
    try:
        return bytes(await reader.read(10, 1000))
    finally:
        reader.close()


@pytest.mark.parametrize(("name", "style"), [*zip(IMAGES, STYLES, strict=True)])
def test_golden_image(
    name: str, style: str, data_path: str, s3: S3, golden: Path, mounts: Mounts, tmp_path: Path
) -> None:
    words = ["backend=s3", f"backend.region={REGION}", f"backend.addressing_style={style}"]
    words += [f"backend.{k}='{v}'" for k, v in s3.options(style).items()]
    words += [f"backend.proxy.url={s3.url}", "backend.proxy.fallback=false"] if style == "virtual" else []
    assert_tree(start_over(words, golden, name, mounts, tmp_path, data_path=data_path), golden, name)


def test_nydusd_reads_the_same_objects(s3: S3, golden: Path, mounts: Mounts, tmp_path: Path, peers: Path) -> None:
    options = {**s3.options(object_prefix=""), "region": REGION}
    assert_tree(start_peer_over("s3", options, golden, "v6-merged", mounts, tmp_path, peers), golden, "v6-merged")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_sizes_and_ranges(style: str, prefix: str, s3: S3, blob: Path) -> None:
    async def main() -> None:
        reader = s3.backend(style, object_prefix=prefix).open_blob(blob.name)
        assert await reader.size() == blob.stat().st_size
        assert await reader.read(10, 1000) == blob.read_bytes()[10:1010]
        reader.close()

    trio.run(main)


def test_nothing_is_signed_without_keys(s3: S3, blob: Path) -> None:
    nobody = {"access_key_id": "", "access_key_secret": ""}
    with pytest.raises(BackendDenied, match="403"):
        trio.run(read, s3.backend(**nobody), blob)
    with Origin({blob.name: blob.read_bytes()}) as origin:  # moto has nothing for strangers
        assert trio.run(read, s3.backend(endpoint=origin.place, **nobody), blob) == blob.read_bytes()[10:1010]
    assert not {"authorization", "x-amz-date"} & set(origin.seen[0].headers)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"access_key_secret": "wrong-secret"}, BackendDenied, "SignatureDoesNotMatch"),
        ({"access_key_id": "AKIAWRONG"}, BackendDenied, "InvalidAccessKeyId"),
        ({"object_prefix": "nowhere/"}, BackendNotFound, "NoSuchKey"),
        ({"bucket_name": "other"}, BackendNotFound, "NoSuchBucket"),
    ],
)
def test_a_refusal_is_one_clear_line_without_secrets(
    changes: dict[str, str], error: type, said: str, style: str, s3: S3, blob: Path
) -> None:
    with pytest.raises(error, match=rf"^GET http://.*: 40[34] [\w ]+ \({said}\)$") as e:
        trio.run(read, s3.backend(style, **changes), blob)
    for secret in (s3.secret, s3.key_id, "wrong-secret", "AKIAWRONG"):
        assert secret not in str(e.value)


def test_each_try_is_signed_anew() -> None:
    content = os.urandom(2000)
    with Origin({"blob": content}) as origin:
        keys = {"access_key_id": "k", "access_key_secret": "s"}
        settings = StoreSettings(scheme="http", endpoint=origin.place, bucket_name=BUCKET, **keys)
        backend = S3Backend(HttpSettings(), settings, region=REGION, virtual_host=False)
        signed = []
        sign = backend._signature.sign
        backend._signature.sign = lambda *args: signed.append(args) or sign(*args)
        origin.script(*[status(503, {"Retry-After": "0"})] * 2)
        assert trio.run(read, backend, Path("blob")) == content[10:1010]
    assert len(signed) == len(origin.seen) == 3
    assert all("x-amz-date" in seen.headers for seen in origin.seen)


def test_the_signature_of_amazons_example() -> None:
    """GET Object of "Examples of the complete Signature Version 4" (Amazon S3 API reference)."""
    signature = SignatureV4("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1")
    url = parse_url("https://examplebucket.s3.amazonaws.com/test.txt")
    headers = {"Host": url.host_header, "Range": "bytes=0-9", "x-amz-date": "20130524T000000Z", "Accept": "*/*"}
    signed = signature.sign("GET", url, headers)
    assert signed["Authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, "
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date, "
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_headers_of_the_user_are_sent_and_amazons_signed(s3: S3, blob: Path) -> None:
    def backend(headers: dict[str, str]) -> S3Backend:
        settings = StoreSettings(**s3.options())
        return S3Backend(HttpSettings(headers=headers), settings, region=REGION, virtual_host=False)

    given = {"X-Tenant": 'an "open quote', "X-Amz-Request-Payer": "requester"}
    assert trio.run(read, backend(given), blob) == blob.read_bytes()[10:1010]
    signed = backend(given)._signature.sign("GET", parse_url("http://h/b"), {"Host": "h", **given})
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-request-payer," in signed["Authorization"]
    assert signed["X-Tenant"] == 'an "open quote'
    with pytest.raises(BackendError, match="cannot be signed"):
        trio.run(read, backend({"X-Amz-Note": 'an "open quote'}), blob)


def test_the_signatures_library_waits_for_the_first_read() -> None:
    code = (
        "import sys, nydus_app.storage.backend.s3 as s3; from nydus_app.storage.backend.http.settings import HttpSettings;"
        "from nydus_app.storage.backend.object_store import StoreSettings;"
        "o = StoreSettings(scheme='http', endpoint='h', bucket_name='b', access_key_id='k', access_key_secret='s');"
        "b = s3.S3Backend(HttpSettings(), o, region='r', virtual_host=False); b.open_blob('x').close();"
        "print({'requests', 'requests_aws4auth', 'urllib3'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

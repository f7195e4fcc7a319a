"""Blobs in Aliyun OSS: a server that checks signatures, and what Aliyun's package and nydusd say of that server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from mounting import Mounts
from nydus_app.errors import BackendDenied, BackendNotFound
from nydus_app.protocols.oss_signature import authorization
from nydus_app.storage.backend.http.settings import HttpSettings, ProxySettings
from nydus_app.storage.backend.object_store import StoreSettings
from nydus_app.storage.backend.oss import OssBackend
from nydus_app.testing.origin import status
from oss_server import BUCKET, ENDPOINT, KEY_ID, PREFIX, SECRET, OssServer
from over_backend import assert_tree, start_over, start_peer_over

CONTENT = bytes(range(256)) * 20
BLOB = "0123456789abcdef" * 4


@pytest.fixture
def server() -> Iterator[OssServer]:
    with OssServer({f"{prefix}{BLOB}": CONTENT for prefix in ("", PREFIX, "public/")}) as running:
        yield running


def options(port: int, **changes: str) -> dict[str, object]:
    """A backend's configuration, in nydusd's names."""
    common = {"scheme": "http", "endpoint": ENDPOINT, "bucket_name": BUCKET, "object_prefix": PREFIX}
    keys = {"access_key_id": KEY_ID, "access_key_secret": SECRET}
    return {**common, **keys, "proxy": {"url": f"http://127.0.0.1:{port}", "fallback": False}, **changes}


def backend(server: OssServer, **changes: str) -> OssBackend:
    given = options(server.port, **changes)
    del given["proxy"]
    http = HttpSettings(proxy=ProxySettings(url=f"http://{server.place}", fallback=False))
    return OssBackend(http, StoreSettings(**given))  # type: ignore[arg-type]


async def read(oss: OssBackend, blob_id: str = BLOB) -> tuple[int, bytes]:
    reader = oss.open_blob(blob_id)
    try:
        return await reader.size(), bytes(await reader.read(10, 1000))
    finally:
        reader.close()


# ---- the server ----------------------------------------------------------------------------------


def test_the_documented_example_of_a_signature() -> None:
    """From the reference: its key id, secret, headers and string to sign."""
    headers = {
        "Content-MD5": "ODBGOERFMDMzQTczRUY3NUE3NzA5QzdFNUYzMDQxNEM=",
        "Content-Type": "text/html",
        "Date": "Thu, 17 Nov 2005 18:49:58 GMT",
        "X-OSS-Meta-Author": "foo@bar.com",
        "X-OSS-Magic": "abracadabra",
        "Host": "oss-example.oss-cn-hangzhou.aliyuncs.com",
    }
    found = authorization("PUT", headers, "/oss-example/nelson", "44CF9590006BF252F707", "OtxrzxIsfpFjA7SwPzILwy8Bw21TLhquhboDYROV")
    assert found == "OSS 44CF9590006BF252F707:26NBxoKdsyly4EDv6inkoDft/yA="


def test_aliyuns_own_package_takes_it_for_oss(server: OssServer) -> None:
    oss2 = pytest.importorskip("oss2", reason="Aliyun's oss2 is not installed: 33 MiB, with a compiler")
    for place in ({"endpoint": server.url()}, {"endpoint": f"http://{ENDPOINT}", "proxies": {"http": server.url()}}):
        bucket = oss2.Bucket(oss2.Auth(KEY_ID, SECRET), bucket_name=BUCKET, **place)
        assert bucket.head_object(PREFIX + BLOB).content_length == len(CONTENT)
        assert bucket.get_object(PREFIX + BLOB, byte_range=(10, 1009)).read() == CONTENT[10:1010]
        with pytest.raises(oss2.exceptions.NoSuchKey):
            bucket.get_object("none")
        wrong = oss2.Bucket(oss2.Auth(KEY_ID, "wrong"), bucket_name=BUCKET, **place)
        with pytest.raises(oss2.exceptions.SignatureDoesNotMatch):
            wrong.get_object(PREFIX + BLOB)


def test_nydusd_takes_it_for_oss(golden: Path, mounts: Mounts, tmp_path: Path, peers: Path) -> None:
    with golden_server(golden, "v6-merged") as server:
        daemon = start_peer_over("oss", options(server.port), golden, "v6-merged", mounts, tmp_path, peers)
        assert_tree(daemon, golden, "v6-merged")
        assert any(seen.headers["authorization"].startswith(f"OSS {KEY_ID}:") for seen in server.seen)


# ---- the backend ---------------------------------------------------------------------------------


def golden_server(golden: Path, name: str) -> OssServer:
    return OssServer({PREFIX + blob.name: blob.read_bytes() for blob in (golden / name / "blobs").iterdir()})


@pytest.mark.parametrize("name", ["v5-merged", "v6-merged"])
def test_golden_image(name: str, data_path: str, golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    with golden_server(golden, name) as server:
        words = ["backend=oss", *(f"backend.{k}='{v}'" for k, v in options(server.port).items() if k != "proxy")]
        words += [f"backend.proxy.url={server.url()}", "backend.proxy.fallback=false"]
        assert_tree(start_over(words, golden, name, mounts, tmp_path, data_path=data_path), golden, name)
        assert {seen.headers["host"] for seen in server.seen} == {f"{BUCKET}.{ENDPOINT}"}


def test_ranges_are_read_from_objects_with_and_without_a_prefix(server: OssServer) -> None:
    assert trio.run(read, backend(server)) == (len(CONTENT), CONTENT[10:1010])
    assert trio.run(read, backend(server, object_prefix="")) == (len(CONTENT), CONTENT[10:1010])


def test_nothing_is_signed_without_keys(server: OssServer) -> None:
    nobody = {"access_key_id": "", "access_key_secret": ""}
    assert trio.run(read, backend(server, object_prefix="public/", **nobody)) == (len(CONTENT), CONTENT[10:1010])
    assert not any("authorization" in seen.headers for seen in server.seen)
    with pytest.raises(BackendDenied, match="403"):
        trio.run(read, backend(server, **nobody))


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"access_key_secret": "wrong+secret"}, BackendDenied, "SignatureDoesNotMatch"),
        ({"access_key_id": "LTAIwrong"}, BackendDenied, "InvalidAccessKeyId"),
        ({"object_prefix": "nowhere/"}, BackendNotFound, "NoSuchKey"),
        ({"bucket_name": "other"}, BackendNotFound, "NoSuchBucket"),
    ],
)
def test_a_refusal_is_one_clear_line_without_secrets(
    changes: dict[str, str], error: type, said: str, server: OssServer
) -> None:
    async def main() -> None:
        reader = backend(server, **changes).open_blob(BLOB)
        try:
            with pytest.raises(error, match=rf"^GET http://.*: 40[34] \w+.* \({said}\)$") as e:
                await reader.read(0, 10)
        finally:
            reader.close()
        for secret in (SECRET, KEY_ID, *(v for k, v in changes.items() if k.startswith("access_key"))):
            assert secret not in str(e.value)

    trio.run(main)
    assert len(server.seen) == 1


def test_each_try_is_signed_anew(server: OssServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old signature tells an old time."""
    signed = []

    def counted(*args: object) -> str:
        signed.append(args)
        return authorization(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("nydus_app.storage.backend.oss.authorization", counted)
    server.script(*[status(503, {"Retry-After": "0"})] * 2)
    assert trio.run(read, backend(server)) == (len(CONTENT), CONTENT[10:1010])
    assert len(signed) == len(server.seen) == 4
    assert all("authorization" in seen.headers for seen in server.seen)

"""What the API shows of the tree: nydusd's ConfigV2, and no secret of any backend."""

import json

import pytest

from nydus_app.config.nydusd_view import config_v2
from nydus_app.config.overrides import Override, compose

SECRET = "c2VjcmV0LXBhc3N3b3Jk"


@pytest.mark.parametrize(
    ("backend", "kind", "values"),
    [
        ("registry", "registry", {"host": "h", "repo": "r", "auth": SECRET, "registry_token": SECRET}),
        ("oss", "oss", {"endpoint": "e", "bucket_name": "b", "access_key_id": SECRET, "access_key_secret": SECRET}),
        ("s3", "s3", {"region": "r", "bucket_name": "b", "access_key_id": SECRET, "access_key_secret": SECRET}),
        ("http_proxy", "http-proxy", {"addr": f"http://u:{SECRET}@h", "proxy.url": f"http://u:{SECRET}@p"}),
        ("registry", "registry", {"host": "h", "mirrors": [{"host": f"https://{SECRET}@m", "headers": {"A": SECRET}}]}),
    ],
)
def test_no_secret_is_shown(backend: str, kind: str, values: dict[str, object]) -> None:
    tree = compose([Override("backend", backend), *(Override(f"backend.{k}", v) for k, v in values.items())])
    tree.cache.encryption_key = SECRET
    shown = config_v2(tree)
    assert shown["backend"]["type"] == kind and shown["backend"][kind]["timeout"] == 5
    assert [k for k, v in shown["backend"].items() if v is None] == [
        b for b in ("localdisk", "localfs", "oss", "s3", "registry", "http-proxy") if b != kind
    ]
    assert SECRET not in json.dumps(shown)

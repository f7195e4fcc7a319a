"""nydusd's files, JSON and TOML, version 1 and 2: as lenient and as strict as nydusd itself.

The expectations were compared with what nydusd 2.4.4 answers to `POST /api/v1/mount` and shows in its
daemon information.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from nydus_app.config.nydusd_files import MAX_FILE_SIZE, decode, read_file
from nydus_app.config.overrides import Override, compose
from nydus_app.config.tree import Blobcache, Dummycache, HttpProxy, Localfs, Prefetch, Rafs, RafsMode, Registry, Tree
from nydus_app.errors import ConfigFileError

LOCALFS = {"type": "localfs", "config": {"dir": "/d"}}
CACHE = {"type": "blobcache", "config": {"work_dir": "/c"}}
OFF = Prefetch(threads=0, batch_size=0)


def legacy(**top: Any) -> dict[str, Any]:
    return {"device": {"backend": LOCALFS, "cache": CACHE}, "mode": "direct", **top}


def device(**parts: Any) -> dict[str, Any]:
    return legacy(device={"backend": LOCALFS, "cache": CACHE, **parts})


def registry(**fields: Any) -> dict[str, Any]:
    return device(backend={"type": "registry", "config": {"host": "h", "repo": "r", **fields}})


def version_2(**top: Any) -> dict[str, Any]:
    backend = {"type": "localfs", "localfs": {"dir": "/d"}}
    cache = {"type": "filecache", "filecache": {"work_dir": "/c"}}
    return {"version": 2, "backend": backend, "cache": cache, "rafs": {}, **top}


def tree(data: dict[str, Any] | str) -> Tree:
    return compose(decode(data if isinstance(data, str) else json.dumps(data)))


def test_the_least_legacy_file() -> None:
    got = tree(legacy())
    assert got.backend == Localfs(dir="/d")
    prefetch = Prefetch(threads=0, batch_size=0, prefetch_all=True)
    assert got.cache == Blobcache(work_dir="/c", validate=False, prefetch=prefetch)
    assert got.rafs == Rafs(validate=False, enable_xattr=False)
    assert got.prefetch == OFF


def test_the_least_version_2_file_in_both_spellings() -> None:
    got = tree(version_2())
    assert got.backend == Localfs(dir="/d")
    assert got.cache == Blobcache(work_dir="/c", validate=False, prefetch=OFF)
    assert got.rafs == Rafs(validate=False, enable_xattr=False)
    toml = """
        version = 2
        [backend]
        type = "localfs"
        localfs.dir = "/d"
        [cache]
        type = "filecache"
        filecache.work_dir = "/c"
        [rafs]
    """
    assert tree(toml) == got


def test_every_default_is_written_out() -> None:
    """Nothing of our own defaults shows through: applied over another tree, the file gives the same."""
    for data in (legacy(), version_2(), registry()):
        overrides = decode(json.dumps(data))
        before = [
            Override("rafs", {"validate": True, "enable_xattr": True, "batch_size": 5, "id": "x"}),
            Override("prefetch", {"enable": True, "threads": 3, "batch_size": 7, "prefetch_all": True}),
        ]
        assert compose([*before, *overrides]) == compose(overrides)


def test_a_file_of_containerds_snapshotter(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "nydus")
    foreign = {"readahead": False, "proxy": {"fallback": False}}
    data = device(id="/12", backend={"type": "localfs", "config": {"dir": "/fake", **foreign}})
    got = tree({**data, "amplify_io": 4096, "enable_xattr": True})
    assert got.rafs == Rafs(id="/12", validate=False, batch_size=4096)
    assert not caplog.records


def test_keys_without_effect_get_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "nydus")
    data = device(external_backend={}, cache={**CACHE, "config": {"work_dir": "/c", "compressed": True}})
    assert not tree({**data, "id": "x", "a\nb": 1}).cache.compressed
    (record,) = caplog.records
    for name in ("device.external_backend", "device.cache.config.compressed", "id", r"'a\nb'"):
        assert name in record.getMessage()
    caplog.clear()
    tree({**legacy(), **{f"junk{i}": i for i in range(1000)}})
    (record,) = caplog.records
    assert record.getMessage().endswith(" and 980 more")


def test_prefetch_of_a_legacy_file_goes_to_the_cache_as_well() -> None:
    got = tree(legacy(fs_prefetch={"enable": True, "threads_count": 5, "bandwidth_rate": 3}))
    assert got.prefetch == Prefetch(enable=True, threads=5, bandwidth_limit=3, prefetch_all=True)
    assert got.cache.prefetch == got.prefetch
    assert tree(legacy(fs_prefetch={})).prefetch == Prefetch(prefetch_all=True)


def test_prefetch_of_a_version_2_file_stays_apart() -> None:
    got = tree(version_2(rafs={"prefetch": {"enable": True, "threads": 5}}))
    assert got.prefetch == Prefetch(enable=True, threads=5)
    assert got.cache.prefetch == OFF


def test_a_cache_that_keeps_nothing() -> None:
    for cache in ({}, {"type": ""}, {"type": "dummycache"}, {"type": "", "config": 3}):
        assert isinstance(tree(device(cache=cache)).cache, Dummycache)
    assert isinstance(tree({"device": {"backend": LOCALFS}, "mode": "direct"}).cache, Dummycache)
    assert tree(device(cache={"type": "blobcache", "config": {}})).cache.work_dir == "."
    assert tree(device(cache={**CACHE, "validate": True})).cache.validate


def test_http_backends() -> None:
    got = tree(registry(auth=None, timeout=0, proxy={"url": "http://p"}, mirrors=[{"host": "m", "headers": {"A": "b"}}]))
    assert isinstance(got.backend, Registry)
    assert (got.backend.scheme, got.backend.timeout, got.backend.connect_timeout) == ("https", 0, 5)
    assert got.backend.proxy.url == "http://p" and got.backend.proxy.fallback
    for given in ("127.0.0.1:65001", "localhost:65001", "http://127.0.0.1:65001"):  # as HTTP_PROXY may be
        assert tree(registry(proxy={"url": given})).backend.proxy.url == "http://" + given.removeprefix("http://")
    assert got.backend.mirrors[0].headers == {"A": "b"}
    proxy = {"type": "http-proxy", "http-proxy": {"addr": "http://x"}}
    assert tree(version_2(backend=proxy)).backend == HttpProxy(addr="http://x")
    s3 = {"type": "s3", "config": {"endpoint": "", "region": "r", "bucket_name": "b"}}
    assert tree(device(backend=s3)).backend.endpoint == "s3.amazonaws.com"


def test_what_only_version_2_has() -> None:
    external = [{"patch": {"a": "b"}, "type": "local", "config": {"k": "v"}}]
    got = tree(version_2(id="x", overlay={"upper_dir": "/u", "work_dir": "/w"}, external_backends=external))
    assert (got.rafs.id, got.overlay.upper_dir, got.external_backends) == ("x", "/u", external)


def test_a_version_that_does_not_fit_leaves_the_legacy_form() -> None:
    for version in ("2", None, 2.0, -1, 1 << 32):
        assert tree(legacy(version=version)) == tree(legacy())
    assert tree(legacy(mode="cached")).rafs.mode is RafsMode.cached


WRONG: list[tuple[dict[str, Any] | str, list[str]]] = [
    ('{"device": {"backend": {"type"', ["no valid JSON", "line 1, column"]),
    ('{"device":\n {"backend": }}', ["no valid JSON", "line 2, column"]),
    (json.dumps(legacy())[:-1] + ',"junk":NaN}', ["NaN"]),
    (json.dumps(legacy())[:-1] + ',"mode":"direct"}', ["`mode` is given twice"]),
    (json.dumps(version_2())[:-1] + ',"id":"a","id":"b"}', ["`id` is given twice"]),
    ('{"amplify_io": ' + "9" * 5000 + "}", ["no valid JSON"]),
    ("", ["version", "device"]),
    ("[]", ["object"]),
    ("null", ["object"]),
    ("no = [", ["neither JSON nor TOML"]),
    ('mode = "direct"\n[device.backend]\ntype = "localfs"', ["missing field `version`"]),
    ("version = 2\nversion = 2", ["neither JSON nor TOML"]),
    ("version = 2020-01-01", ["`version`", "a date"]),
    ({"mode": "direct"}, ["device"]),
    ({"device": legacy()["device"]}, ["missing field `mode`"]),
    (legacy(mode="mapped"), ["'mapped'", "direct, cached"]),
    (legacy(mode=None), ["`mode` must be a string, not null"]),
    (legacy(device=None), ["`device` must be an object, not null"]),
    (legacy(fs_prefetch=None), ["`fs_prefetch` must be an object, not null"]),
    (legacy(fs_prefetch={"bandwidth_rate": 1 << 32}), ["fs_prefetch.bandwidth_rate", "2^32"]),
    (legacy(enable_xattr="yes"), ["`enable_xattr` must be a boolean, not a string"]),
    (legacy(amplify_io=-1), ["`amplify_io`", "from 0"]),
    (legacy(amplify_io=1.0), ["`amplify_io` must be a whole number, not a fraction"]),
    (legacy(version=3), ["version 3, 2 is expected"]),
    (device(cache=None), ["`device.cache` must be an object, not null"]),
    (device(cache={"type": "blobcache"}), ["work_dir"]),
    (device(cache={"type": "ramcache"}), ["'ramcache'", "blobcache"]),
    (device(cache={"type": "blobcache", "config": {"work_dir": None}}), ["device.cache.config.work_dir", "null"]),
    (device(cache={"type": "blobcache", "config": {"work_dir": "a\0b"}}), ["device.cache.config.work_dir", "character"]),
    (device(cache={"type": "blobcache", "config": {"work_dir": "\ud800"}}), ["device.cache.config.work_dir", "character"]),
    (device(backend={"type": "ftp"}), ["'ftp'", "localfs"]),
    (device(backend={"config": {}}), ["missing field `device.backend.type`"]),
    (device(backend={"type": "http-proxy", "config": {"addr": "http://x"}}), ["http-proxy", "version 2"]),
    (device(backend={"type": "localfs", "config": {"dir": "/d", "alt_dirs": [3]}}), ["alt_dirs", "strings"]),
    (device(backend={"type": "registry", "config": {"host": "h"}}), ["missing field `device.backend.config.repo`"]),
    (registry(proxy=None), ["device.backend.config.proxy", "null"]),
    (registry(retry_limit=256), ["device.backend.config.retry_limit", "2^8"]),
    (registry(timeout=1 << 32), ["device.backend.config.timeout", "2^32"]),
    (registry(auth=["secret-value"]), ["device.backend.config.auth", "array"]),
    (registry(mirrors=[{"headers": {"A": ["secret-value"]}}]), ["mirrors[0].headers", "strings"]),
    (version_2(version=1), ["version 1"]),
    (version_2(rafs=None), ["section `rafs` is missing"]),
    (version_2(cache=None), ["section `cache` is missing"]),
    (version_2(backend=None), ["section `backend` is missing"]),
    (version_2(backend={"type": "oss"}), ["backend.oss"]),
    (version_2(backend={"type": "localfs", "localfs": {"dir": "/d"}, "oss": 3}), ["`backend.oss` must be an object"]),
    (version_2(cache={"type": "blobcache", "fscache": {}}), ["work_dir"]),
    (version_2(cache={"type": "", "filecache": {"disable_indexed_map": 3}}), ["cache.filecache.disable_indexed_map"]),
    (version_2(rafs={"prefetch": {"threads": 3}}), ["missing field `rafs.prefetch.enable`"]),
    (version_2(rafs={"prefetch": None}), ["rafs.prefetch", "null"]),
    (version_2(overlay={"upper_dir": "/u"}), ["missing field `overlay.work_dir`"]),
    (version_2(external_backends=[3]), ["`external_backends` must be an array of objects"]),
    (version_2(external_backends=[{"patch": {}, "type": "x"}]), ["missing field `external_backends[0].config`"]),
    (version_2(external_backends=[{"patch": {"a": 1}, "type": "x", "config": {}}]), ["patch", "strings"]),
]


@pytest.mark.parametrize(("data", "said"), WRONG, ids=range(len(WRONG)))
def test_wrong_files(data: dict[str, Any] | str, said: list[str], tmp_path: Path) -> None:
    (tmp_path / "c").write_text(data if isinstance(data, str) else json.dumps(data))
    with pytest.raises(ConfigFileError) as wrong:
        read_file(str(tmp_path / "c"))
    text = str(wrong.value)
    assert text.startswith(f"configuration file {tmp_path}/c: ")
    assert "\n" not in text and "secret-value" not in text
    for part in said:
        assert part in text
    assert wrong.value.exit_code == 1


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "c"
    for content, said in ((b"\xff", "no UTF-8"), (b" " * MAX_FILE_SIZE + b"{}", "larger than 1 MiB"), (b'{"a":' * 100_000, "nested")):
        path.write_bytes(content)
        with pytest.raises(ConfigFileError, match=said):
            read_file(str(path))
    with pytest.raises(ConfigFileError, match="No such file"):
        read_file(str(tmp_path / "none"))
    with pytest.raises(ConfigFileError, match="directory"):
        read_file(str(tmp_path))
    text = json.dumps(legacy())
    path.write_text(text + " " * (MAX_FILE_SIZE - len(text)))
    assert compose(read_file(str(path))) == tree(legacy())

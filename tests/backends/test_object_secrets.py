"""Keys and signatures of object stores show up nowhere: not in logs, errors, the API or printed trees."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from mounting import BIN, Mounts, boot_of
from nydus_app.cli import run as nydus_run
from nydus_app.config.check import check
from nydus_app.config.overrides import Override, compose
from nydus_app.errors import ConfigError
from nydus_app.testing.origin import Exchange, Origin, hang_up, short_body, status
from oss_server import BUCKET, ENDPOINT, KEY_ID, PREFIX, SECRET, OssServer
from unix_http import UnixClient

ANSWERS = ("/api/v1/daemon", "/api/v1/metrics/backend")


def _signature_repeated(exchange: Exchange) -> None:
    """As some servers do, in their anger: the whole request in the reason and the body."""
    told = f"{exchange.seen.headers['authorization']} {KEY_ID} {SECRET}"
    exchange.answer(403, f"<Error><Code>SignatureDoesNotMatch</Code><StringToSign>{told}</StringToSign></Error>".encode())


FAULTS = (status(500), hang_up, short_body(10), _signature_repeated, status(404), status(429, {"Retry-After": "60"}))


@pytest.mark.parametrize("kind", ["oss", "s3"])
def test_a_daemon_with_every_kind_of_trouble_tells_none(
    kind: str, golden: Path, mounts: Mounts, tmp_path: Path
) -> None:
    blobs = {PREFIX + b.name: b.read_bytes() for b in (golden / "v6-zstd/blobs").iterdir()}
    with OssServer(blobs) if kind == "oss" else Origin({k.rpartition("/")[2]: v for k, v in blobs.items()}) as server:
        place = f"backend.endpoint={server.place}"
        if kind == "oss":
            place = f"backend.endpoint={ENDPOINT} backend.proxy.url={server.url()} backend.proxy.fallback=false"
        region = [] if kind == "oss" else ["backend.region=eu-central-1"]
        daemon = mounts.start(
            BIN / "nydus-run", "mode=fuse", "mode.data_path=fuse", f"backend={kind}", *place.split(), *region,
            "backend.scheme=http", f"backend.bucket_name={BUCKET}", f"backend.object_prefix='{PREFIX}'",
            "backend.access_key_id=${oc.env:THE_ID}", "backend.access_key_secret=${oc.env:THE_SECRET}",
            "backend.retry_limit=1", "rafs.batch_size=0", f"bootstrap={boot_of(golden, {'name': 'v6-zstd'})}",
            f"cache.work_dir={tmp_path}/cache", f"mountpoint={tmp_path}/mnt", f"api.sock={tmp_path}/api", "log.level=trace",
            mountpoint=tmp_path / "mnt", env={**os.environ, "THE_ID": KEY_ID, "THE_SECRET": SECRET},
        )  # fmt: skip
        files = [Path(d) / f for d, _, names in os.walk(daemon.mountpoint) for f in names]
        files = iter([f for f in files if f.is_file() and not f.is_symlink() and f.stat().st_size])
        file = next(files)
        for fault in FAULTS:
            server.script(fault, fault)
            over = len(server.seen) + 2
            while len(server.seen) < over:  # what has just failed fails for a moment without a request
                with suppress(OSError):
                    file.read_bytes()
                    file = next(files)
        answers = b""
        with UnixClient(tmp_path / "api") as client:
            for path in ANSWERS:
                answers += client.call("GET", path)[2]
        assert daemon.stop() == 0
    assert b"backend" in answers
    assert "403" in daemon.output and "SignatureDoesNotMatch" in daemon.output
    signatures = [seen.headers["authorization"].rpartition(":" if kind == "oss" else "=")[2] for seen in server.seen]
    everything = daemon.output + answers.decode()
    for secret in (KEY_ID, SECRET, *signatures):
        assert secret and secret not in everything


KEYS = ["backend.access_key_id=THEKEYID", "backend.access_key_secret=THESECRET"]
OSS = [("backend", "oss"), ("backend.endpoint", "h"), ("backend.bucket_name", "b")]
S3 = [("backend", "s3"), ("backend.region", "r"), ("backend.bucket_name", "b")]


@pytest.mark.parametrize("kind", ["oss", "s3"])
@pytest.mark.parametrize("flag", [["--cfg", "job"], ["--cfg", "job", "--resolve"]])
def test_printed_trees_hold_none(
    kind: str, flag: list[str], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["p", f"backend={kind}", *KEYS, "bootstrap=/b", "mountpoint=/m", *flag])
    with pytest.raises(SystemExit):
        nydus_run.main()
    shown = "".join(capfd.readouterr())
    assert "access_key_secret" in shown
    assert "THEKEYID" not in shown and "THESECRET" not in shown


WRONG = [
    (OSS, {"scheme": "ftp"}, "backend.scheme=ftp"),
    (OSS, {"endpoint": "http://oss.example"}, "backend.endpoint"),
    (OSS, {"endpoint": ""}, "backend.endpoint"),
    (OSS, {"bucket_name": "a/b"}, "backend.bucket_name=a/b"),
    (OSS, {"access_key_id": "THEKEYID"}, "give both"),
    (S3, {"access_key_secret": "THESECRET"}, "give both"),
    (S3, {"access_key_id": "THEKEYID", "access_key_secret": "THE SECRET"}, "backend.access_key_secret"),
    (S3, {"access_key_id": "THEKEYID\n", "access_key_secret": "THESECRET"}, "backend.access_key_id"),
    (S3, {"region": "r/x"}, "backend.region=r/x"),
    (S3, {"object_prefix": "a//b"}, "backend.object_prefix=a//b"),
    (S3, {"object_prefix": "a/../b/"}, "backend.object_prefix=a/../b/"),
]


@pytest.mark.parametrize(("base", "changes", "said"), WRONG, ids=[str(c) for _, c, _ in WRONG])
def test_wrong_options_are_named_and_keys_are_not_shown(
    base: list[tuple[str, str]], changes: dict[str, str], said: str
) -> None:
    words = [*base, ("bootstrap", "/b"), ("mountpoint", "/m"), *((f"backend.{k}", v) for k, v in changes.items())]
    with pytest.raises(ConfigError) as e:
        check(compose([Override(*word) for word in words]))
    assert said in str(e.value) and "\n" not in str(e.value)
    assert not {"THEKEYID", "SECRET"} & set(str(e.value).split()) and "THE" not in str(e.value)

"""Golden images mounted over HTTP: whole trees, one request for many readers, faults, and no secret anywhere."""

import base64
import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from manifest import differences
from mounting import BIN, Daemon, Mounts, boot_of, nydusd_config
from registries import REPO, DockerRegistry, Registry, TokenServer
from nydus_app.storage.backend import retry
from nydus_app.testing.origin import Exchange, Origin, stall, status, wrong_bytes
from unix_http import call

PASSWORD = "s3cret-w0rd"
AUTH = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
HTPASSWD = "user:$2y$05$abcdefghijklmnopqrstuuxkfnsT92cmKajQ/1kES5QAXehS5Jpc."
"""bcrypt of PASSWORD, which is all that docker-registry takes."""

NAMES = ["v6-zstd", "v5-lz4_block", "v6-merged"]


def blobs_of(golden: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (golden / name / "blobs").iterdir()}


def registry_device(host: str, work_dir: Path, **config: object) -> dict[str, object]:
    backend = {"scheme": "http", "host": host, "repo": REPO, "timeout": 5, "connect_timeout": 5, **config}
    return {
        "backend": {"type": "registry", "config": backend},
        "cache": {"type": "blobcache", "config": {"work_dir": str(work_dir)}},
    }


def compare(daemon: Daemon, golden: Path, image: Mapping) -> None:
    assert differences(daemon.mountpoint, golden / image["manifest"], tuple(image.get("ignore", ()))) == []
    assert daemon.stop() == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_registry_with_tokens(
    name: str, data_path: str, golden: Path, golden_images: dict, mounts: Mounts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password comes from the environment, as containers give it."""
    monkeypatch.setenv("IMAGE_PULL_AUTH", AUTH)
    monkeypatch.setenv("NYDUS_HEADER_X-Given", "by the environment")
    with Registry(blobs_of(golden, name), "bearer", auth=AUTH, lifetime_s=1) as registry:
        device = registry_device(registry.origin.place, tmp_path / "cache")
        boot = boot_of(golden, golden_images[name])
        daemon = mounts.nydusd(boot, Path(), data_path=data_path, device=device)
        compare(daemon, golden, golden_images[name])
        assert {s.headers["x-given"] for s in registry.origin.seen} == {"by the environment"}
        assert registry.handed and daemon.output == ""


@pytest.mark.parametrize(("name", "over"), [("v6-zstd", "tcp"), ("v5-lz4_block", "unix")])
def test_http_proxy(
    name: str, over: str, data_path: str, golden: Path, golden_images: dict, mounts: Mounts, tmp_path: Path
) -> None:
    sock = str(tmp_path / "s")
    with Origin(blobs_of(golden, name), unix=sock if over == "unix" else "") as origin:
        addr = sock if over == "unix" else origin.url()
        daemon = mounts.start(
            BIN / "nydus-run", "mode=fuse", f"mode.data_path={data_path}", "backend=http_proxy", f"backend.addr={addr}",
            "backend.path=/some where", f"bootstrap={boot_of(golden, golden_images[name])}",
            f"cache.work_dir={tmp_path}/cache", f"mountpoint={tmp_path}/mnt", mountpoint=tmp_path / "mnt",
        )  # fmt: skip
        compare(daemon, golden, golden_images[name])
        assert all(s.path.startswith("/some%20where/") for s in origin.seen)


@pytest.mark.parametrize("wants", ["htpasswd", "token"])
def test_docker_registry(
    wants: str, data_path: str, golden: Path, golden_images: dict, mounts: Mounts, tmp_path: Path
) -> None:
    if not shutil.which("docker-registry"):
        pytest.skip("docker-registry is not installed (apt-get install docker-registry)")
    (tmp_path / "htpasswd").write_text(HTPASSWD)
    with TokenServer(tmp_path, AUTH) as tokens:
        sections = {"htpasswd": {"htpasswd": {"realm": "r", "path": str(tmp_path / "htpasswd")}}, "token": tokens.section}
        with DockerRegistry(tmp_path, blobs_of(golden, "v6-zstd"), sections[wants]) as registry:
            device = registry_device(registry.place, tmp_path / "cache", auth=AUTH)
            daemon = mounts.nydusd(golden / "v6-zstd/boot", Path(), data_path=data_path, device=device)
            compare(daemon, golden, golden_images["v6-zstd"])
            assert len(tokens.tokens) == (wants == "token")


@pytest.fixture
def big_file(golden: Path) -> str:
    """Path inside the image of v6-none's largest file."""
    entries = [json.loads(line) for line in (golden / "kinds.manifest.jsonl").read_text().splitlines()]
    return max((e for e in entries if e["type"] == "file"), key=lambda e: e["size"])["path"].lstrip("/")


def test_64_readers_of_one_cold_chunk_are_one_request(
    data_path: str, golden: Path, big_file: str, mounts: Mounts, tmp_path: Path
) -> None:
    arrived = threading.Semaphore(0)
    go = threading.Event()

    def gated(exchange: Exchange) -> None:
        if exchange.seen.range:
            go.wait(10)
        exchange.serve()

    with Origin(blobs_of(golden, "v6-none")) as origin:
        device = registry_device(origin.place, tmp_path / "cache")
        daemon = mounts.nydusd(golden / "v6-none/boot", Path(), data_path=data_path, device=device)
        with open(daemon.mountpoint / big_file, "rb", buffering=0) as f:
            origin.answer = gated
            found: list[bytes] = []

            def read() -> None:
                arrived.release()
                found.append(os.pread(f.fileno(), 4096, 1 << 20))

            threads = [threading.Thread(target=read) for _ in range(64)]
            for thread in threads:
                thread.start()
            for _ in threads:
                assert arrived.acquire(timeout=10)
            go.set()
            for thread in threads:
                thread.join(20)
        assert len(set(found)) == 1 and len(found) == 64
        ranges = sorted(s.range for s in origin.seen if s.range)
        # The blob's chunk table and the data: nothing is asked twice, and no two requests overlap.
        assert all(a + n <= b for (a, n), (b, _) in zip(ranges, ranges[1:], strict=False))
        assert daemon.stop() == 0


FAULTS = {
    "503": (status(503), "503", "status 503"),
    "silence": (stall(30), "no byte for 1 s", "time-out"),
    "wrong bytes": (wrong_bytes, "digest", "wrong data"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_eio_in_time_then_all_is_well(
    name: str, data_path: str, golden: Path, big_file: str, mounts: Mounts, tmp_path: Path
) -> None:
    fault, text, cause = FAULTS[name]
    with Origin(blobs_of(golden, "v6-none")) as origin:
        device = registry_device(origin.place, tmp_path / "cache", timeout=1, connect_timeout=1, retry_limit=1)
        daemon = mounts.nydusd(
            golden / "v6-none/boot", Path(), data_path=data_path, device=device, digest_validate=True,
            args=("--apisock", tmp_path / "api.sock"),
        )  # fmt: skip
        with open(daemon.mountpoint / big_file, "rb", buffering=0) as f:
            os.pread(f.fileno(), 1, 0)
            before, origin.answer = origin.answer, fault
            began = time.monotonic()
            with pytest.raises(OSError) as caught:
                os.pread(f.fileno(), 4096, os.fstat(f.fileno()).st_size - 4096)
            assert caught.value.errno == errno.EIO
            assert time.monotonic() - began < 1 * 2 + 1
            origin.answer = before
        assert text in daemon.output
        told = call(tmp_path / "api.sock", "GET", "/api/v1/metrics/backend")[1]
        assert isinstance(told, dict) and told["backend_type"] == "registry" and told["causes"][cause] >= 1
        time.sleep(retry.FAILED_FOR_S)
        with open(daemon.mountpoint / big_file, "rb") as f:
            content = f.read()
        assert daemon.stop() == 0
        again = mounts.nydusd(golden / "v6-none/boot", golden / "v6-none/blobs", data_path=data_path)
        assert (again.mountpoint / big_file).read_bytes() == content
        assert again.stop() == 0


def test_credentials_are_replaced_while_it_serves(
    data_path: str, golden: Path, golden_images: dict, mounts: Mounts, tmp_path: Path
) -> None:
    """The registry has a new password; so has the daemon, and no reader sees more than an EIO."""
    sock, renewed = tmp_path / "api.sock", base64.b64encode(b"user:another").decode()
    with Registry(blobs_of(golden, "v6-zstd"), "basic", auth=AUTH) as registry:
        device = registry_device(registry.origin.place, tmp_path / "cache", auth=AUTH)
        boot = boot_of(golden, golden_images["v6-zstd"])
        daemon = mounts.nydusd(boot, Path(), data_path=data_path, device=device, args=("--apisock", sock))
        registry.auth = renewed
        with pytest.raises(OSError) as caught:
            differences(daemon.mountpoint, golden / golden_images["v6-zstd"]["manifest"])
        assert caught.value.errno == errno.EIO
        assert call(sock, "GET", "/api/v1/config") == (200, {"/:registry_auth": "***"})
        assert call(sock, "PUT", "/api/v1/config?id=/", {"registry_auth": "no base64!"})[0] == 400
        assert call(sock, "PUT", "/api/v1/config?id=/", {"registry_auth": renewed}) == (204, None)
        compare(daemon, golden, golden_images["v6-zstd"])


def everything_below(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and "/mnt/" not in str(path):
            yield path, path.read_bytes()


def test_no_secret_is_shown_anywhere(golden: Path, big_file: str, mounts: Mounts, tmp_path: Path) -> None:
    """Password, tokens, signatures and the proxy's password: not in logs, errors, answers of the API or files."""
    secrets = [PASSWORD, AUTH, "pr0xy-w0rd", "a-signature", "preloaded-t0ken", "m1rror-w0rd"]
    blobs = blobs_of(golden, "v6-none")
    with Registry(blobs, "bearer", auth=AUTH) as registry, Origin(blobs) as store, Origin(blobs) as proxy:
        allowed = registry.answer

        def to_store(exchange: Exchange) -> None:
            if exchange.seen.path.startswith("/v2") and registry.is_allowed(exchange.seen.headers.get("authorization", "")):
                exchange.answer(307, b"", {"Location": store.url(f"{exchange.seen.path[-64:]}?X-Signature=a-signature")})
            else:
                allowed(exchange)

        registry.origin.answer = to_store
        proxy.answer = status(502)
        device = registry_device(
            registry.origin.place, tmp_path / "cache", auth=AUTH, registry_token="preloaded-t0ken", retry_limit=1,
            proxy={"url": proxy.url().replace("://", "://user:pr0xy-w0rd@"), "fallback": True},
            mirrors=[{"host": proxy.place, "headers": {"X-Password": "m1rror-w0rd"}}],
        )  # fmt: skip
        config = tmp_path / "given" / "config.json"
        config.parent.mkdir()
        config.write_text(json.dumps(nydusd_config(Path(), Path(), device=device)))
        daemon = mounts.start(
            BIN / "nydusd", "fuse", "-C", config, "-B", golden / "v6-none/boot", "-M", tmp_path / "mnt",
            "--apisock", tmp_path / "api.sock", "--log-level", "trace", mountpoint=tmp_path / "mnt",
            env={**os.environ, "NYDUS_OVERRIDES": f"recording.save={tmp_path}/start.recording"},
        )  # fmt: skip
        with open(daemon.mountpoint / big_file, "rb", buffering=0) as f:
            assert len(os.pread(f.fileno(), 4096, 0)) == 4096
            store.answer = status(403, body=b'{"X-Signature": "a-signature"}')
            registry.valid.clear()
            registry.auth = "other"
            with pytest.raises(OSError):
                os.pread(f.fileno(), 4096, os.fstat(f.fileno()).st_size - 4096)
        secrets += registry.handed
        answers = [
            call(tmp_path / "api.sock", "GET", path)
            for path in ("/api/v1/daemon", "/api/v1/config?id=/", "/api/v1/metrics/backend", "/api/v1/explain", "/api/v1/none")
        ]
        assert daemon.stop() == 0
    assert len(registry.handed) == 1 and any("preloaded-t0ken" in s.headers.get("authorization", "") for s in registry.origin.seen)
    assert "403" in daemon.output and (tmp_path / "start.recording").stat().st_size
    for secret in secrets:
        assert secret not in daemon.output
        assert secret not in json.dumps(answers)
        for path, content in everything_below(tmp_path):
            assert path == config or secret.encode() not in content, path


def test_a_secret_that_is_wrong_is_not_shown(mounts: Mounts, golden: Path, tmp_path: Path) -> None:
    boot = golden / "v6-none/boot"
    for changes in (
        {"auth": PASSWORD}, {"registry_token": f"{PASSWORD} x"}, {"proxy": {"url": f"ftp://u:{PASSWORD}@h"}},
        {"mirrors": [{"host": f"http://u:{PASSWORD}@h h"}]}, {"mirrors": [{"host": "h", "headers": {"a b": PASSWORD}}]},
    ):  # fmt: skip
        device = registry_device("127.0.0.1:1", tmp_path / "cache", **changes)
        (tmp_path / "c.json").write_text(json.dumps({"device": device, "mode": "direct"}))
        daemon = mounts.start(
            BIN / "nydusd", "fuse", "-C", tmp_path / "c.json", "-B", boot, "-M", tmp_path / "mnt",
            mountpoint=tmp_path / "mnt", wait=False,
        )  # fmt: skip
        assert daemon.process.wait(20) == 1
        assert len(daemon.output.splitlines()) == 1 and "backend." in daemon.output
        assert PASSWORD not in daemon.output

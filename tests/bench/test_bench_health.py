"""The health row and the origin in between."""

import http.client
import socket
import time
from pathlib import Path

import pytest

from nydus_app.bench.contenders import Native
from nydus_app.bench.measure import Round
from nydus_app.bench.origin import Link, serving
from nydus_app.bench.probe import MeasureError, Survey
from nydus_app.cli.bench import run
from nydus_app.config.bench_origin import at_origin
from nydus_app.config.bench_tree import Bench, BenchTree, Network, Row
from nydus_app.config.tree import HttpProxy, Localdisk, Localfs, Registry, S3
from nydus_app.errors import ConfigError

IMAGE = Path(__file__).parent.parent / "images/v6"
BLOB = "ab" * 32


def one_round(bench: Bench) -> dict[Row, float]:
    survey = Survey(**{name: 0 for name in Survey._fields} | {"big_file": ""})
    return Round(Native("/"), bench, None, survey, 1).run()  # type: ignore[arg-type]


@pytest.mark.mounts
def test_a_command_in_the_image(tmp_path: Path) -> None:
    bench = Bench(rows=[Row.health], work_dir=str(tmp_path))
    bench.check = "/bin/sh -c 'exit 0'"
    assert 0 < one_round(bench)[Row.health] < 10
    bench.check = "/bin/sh -c 'echo no such thing >&2; exit 3'"
    with pytest.raises(MeasureError, match="ended with 3: no such thing"):
        one_round(bench)
    bench.check, bench.timeout = "/bin/sleep 60", 0
    with pytest.raises(MeasureError, match="not ended"):
        one_round(bench)
    bench.check = None
    assert one_round(bench) == {}


@pytest.fixture
def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_the_origin_serves_ranges_late(tmp_path: Path, port: int) -> None:
    (tmp_path / BLOB).write_bytes(bytes(range(200)))

    def get(path: str, wanted: str = "") -> tuple[int, bytes]:
        client.request("GET", path, headers={"Range": wanted} if wanted else {})
        reply = client.getresponse()
        return reply.status, reply.read()

    with serving(str(tmp_path), port, Network.far):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        began = time.monotonic()
        assert get(f"/v2/bench/blobs/sha256:{BLOB}", "bytes=10-19") == (206, bytes(range(10, 20)))
        assert time.monotonic() - began >= 0.020
        assert get(f"/bench/{BLOB}?X-Amz-Date=1", "bytes=190-999") == (206, bytes(range(190, 200)))
        assert get(f"/{BLOB}") == (200, bytes(range(200)))
        assert get(f"/{BLOB}", "bytes=200-300")[0] == 416
        assert get("/v2/")[0] == 200
        assert get(f"/../{BLOB}x")[0] == 404
        client.close()
        with pytest.raises(ConfigError, match="bench.port"), serving(str(tmp_path), port, Network.near):
            pass


def test_a_link_takes_its_time() -> None:
    link, began = Link(1e6), time.monotonic()
    for _ in range(5):
        link.pay(10_000)
    assert 0.045 <= time.monotonic() - began < 2


@pytest.mark.parametrize("backend", ["localfs", "registry", "http_proxy", "s3"])
def test_nobody_has_to_name_the_origin(backend: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = [f"backend={backend}", f"bench.blobs={IMAGE}/blobs", f"bootstrap={IMAGE}/boot", "bench=start"]
    assert run([*words, "--dry-run"]) == 0
    assert "would measure start" in capfd.readouterr().out


def test_each_backend_is_led_to_the_origin() -> None:
    def led(backend: object) -> object:
        return at_origin(BenchTree(bootstrap="/b", backend=backend, bench=Bench(blobs="/blobs", port=7))).backend

    assert led(Localfs()) == Localfs(dir="/blobs")
    assert led(Registry()) == Registry(scheme="http", host="127.0.0.1:7", repo="bench")
    assert led(HttpProxy()) == HttpProxy(addr="http://127.0.0.1:7", path="/bench")
    assert led(S3()) == S3(scheme="http", endpoint="127.0.0.1:7", region="bench", bucket_name="bench")
    with pytest.raises(ConfigError, match="bench.blobs"):
        led(Localdisk(device_path="/d"))
    tree = BenchTree(bootstrap="/b", bench=Bench())
    assert at_origin(tree) is tree

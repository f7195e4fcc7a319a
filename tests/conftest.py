"""What all tests share: the golden images, the peers, and a clean mount table."""

import json
import logging
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from mounting import Mounts, sweep, sweep_dead
from nydus_app.transports import erofs

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    # Shells start background jobs with it ignored, and whatever is started here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "mounts: needs root and /dev/fuse")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() == 0 and os.path.exists("/dev/fuse"):
        return
    skip = pytest.mark.skip(reason="mounting needs root and /dev/fuse")
    for item in items:
        if "mounts" in getattr(item, "fixturenames", ()) or item.get_closest_marker("mounts"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked golden set."""
    target = tmp_path_factory.mktemp("golden")
    with open(ROOT / "tests/golden/golden.tar.zst", "rb") as packed:
        with zstandard.ZstdDecompressor().stream_reader(packed) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                # Debian 12's Python has no filters yet; newer ones warn where none is named.
                wanted = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
                archive.extractall(target, **wanted)
    target.chmod(0o755)
    return target


@pytest.fixture(scope="session")
def golden_images(golden: Path) -> dict[str, dict]:
    """Entries of images.json by name."""
    return {i["name"]: i for i in json.loads((golden / "images.json").read_text())}


@pytest.fixture(scope="session")
def peers() -> Path:
    """Directory of the real nydusd and nydus-image."""
    found = ROOT.parent / "shared" / "peers"
    if not (found / "nydusd").exists():
        pytest.skip("the real nydusd and nydus-image are not beside this checkout (../shared/peers)")
    return found


@pytest.fixture
def mounts(tmp_path: Path) -> Iterator[Mounts]:
    """Starts daemons below `tmp_path`; whatever is left of them afterwards is ended and unmounted."""
    with Mounts(tmp_path) as started:
        yield started


@pytest.fixture(params=["fuse", "erofs"])
def data_path(request: pytest.FixtureRequest) -> str:
    """Both ways to serve an image, as far as this machine can."""
    if request.param == "erofs" and (reason := erofs.why_not()):
        pytest.skip(reason)
    return request.param


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    """Commands that run inside of a test hang handlers on streams that end with it."""
    loggers = [logging.getLogger("nydus"), logging.root]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)  # also empties the caches of the loggers below


@pytest.fixture(scope="session", autouse=True)
def _no_stale_mounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Mounts of an earlier run that was killed would hang whoever walks its directory."""
    base = tmp_path_factory.getbasetemp()
    sweep_dead(base.parent)
    yield
    sweep(base)

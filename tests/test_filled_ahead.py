"""Many small files of a local blob, read on and on: a process fills the cache ahead, and who reads never depends on it."""

import hashlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mounting import DEADLINE_S, Daemon, Mounts
from nydus_app.formats import chunkmap
from unix_http import call

FILES, FOLDERS = 3000, 30

pytestmark = [
    pytest.mark.mounts,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="with one core there is no such process"),
]


@pytest.fixture(scope="module")
def image(peers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tree`, and its `boot` and `blobs`; its files have up to 32 KiB, a tenth of them 300."""
    base = tmp_path_factory.mktemp("small")
    some = random.Random(1)
    for i in range(FILES):
        folder = base / "tree" / f"d{i % FOLDERS:02}"
        folder.mkdir(parents=True, exist_ok=True)
        size = some.randrange(1, 32 << 10) if i % 10 else 300 << 10
        (folder / f"f{i:04}").write_bytes(some.randbytes(size // 4 + 1) * 4)
    (base / "blobs").mkdir()
    subprocess.run(
        [peers / "nydus-image", "create", "--type", "dir-rafs", "--fs-version", "6", "--compressor", "zstd",
         "--bootstrap", base / "boot", "--blob-dir", base / "blobs", base / "tree"],
        check=True, capture_output=True,
    )  # fmt: skip
    return base


@pytest.fixture
def want(image: Path) -> dict[str, str]:
    return digests(image / "tree")


def digests(root: Path, seen: Callable[[], None] = lambda: None) -> dict[str, str]:
    found = {}
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            with open(path, "rb") as f:
                found[os.path.relpath(path, root)] = hashlib.file_digest(f, "sha256").hexdigest()
            seen()
    return found


@pytest.fixture
def run(image: Path, mounts: Mounts, tmp_path: Path) -> Callable[..., Daemon]:
    """A daemon whose loop runs."""

    def start(blobs: Path = image / "blobs", **changes: object) -> Daemon:
        sock = tmp_path / "api.sock"
        sock.unlink(missing_ok=True)
        daemon = mounts.nydusd(image / "boot", blobs, args=("--apisock", sock), **changes)
        until(sock.exists)
        assert call(sock, "GET", "/api/v1/daemon")[0] == 200
        return daemon

    return start


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def fillers(daemon: Daemon) -> list[int]:
    """Those that have been given a data file."""
    tasks = Path(f"/proc/{daemon.process.pid}/task").iterdir()
    children = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    return [pid for pid in children if has_a_data_file(pid)]


def has_a_data_file(pid: int) -> bool:
    """What has not begun to run its program has all of the daemon's, and the daemon waits for it (vfork(2))."""
    with suppress(OSError):  # it may just be ending
        folder = f"/proc/{pid}/fd"
        if b"storage.filler" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return any(os.readlink(f"{folder}/{fd}").endswith(".blob.data") for fd in os.listdir(folder))
    return False


@pytest.mark.parametrize("data_path", ["auto", "fuse"])
def test_all_is_right_and_the_next_daemon_needs_no_blob(
    run: Callable[..., Daemon], want: dict[str, str], tmp_path: Path, data_path: str
) -> None:
    cache, empty = tmp_path / "cache", tmp_path / "none"
    empty.mkdir()
    daemon = run(work_dir=cache, data_path=data_path)
    assert digests(daemon.mountpoint) == want
    (filler,) = fillers(daemon)
    assert daemon.stop() == 0, daemon.output
    assert not os.path.exists(f"/proc/{filler}")
    daemon = run(empty, work_dir=cache, data_path=data_path)
    assert digests(daemon.mountpoint) == want
    assert daemon.stop() == 0, daemon.output


@pytest.mark.parametrize("data_path", ["auto", "fuse"])
def test_who_reads_before_the_loop_runs(mounts: Mounts, image: Path, want: dict[str, str], data_path: str) -> None:
    daemon = mounts.nydusd(image / "boot", image / "blobs", data_path=data_path)
    assert digests(daemon.mountpoint) == want
    assert fillers(daemon)
    assert daemon.stop() == 0, daemon.output


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSTOP])
def test_readers_go_on_when_it_is_killed_or_stands_still(
    run: Callable[..., Daemon], want: dict[str, str], sig: signal.Signals
) -> None:
    daemon = run()
    hit: set[int] = set()

    def hit_it() -> None:
        for pid in fillers(daemon):
            if pid not in hit and len(hit) < (3 if sig is signal.SIGKILL else 1):
                hit.add(pid)
                os.kill(pid, sig)

    assert digests(daemon.mountpoint, hit_it) == want
    assert hit
    assert daemon.stop() == 0, daemon.output
    assert not any(os.path.exists(f"/proc/{pid}") for pid in hit)


def test_it_ends_with_a_daemon_that_is_killed(run: Callable[..., Daemon], want: dict[str, str]) -> None:
    daemon = run()
    assert digests(daemon.mountpoint) == want
    (filler,) = fillers(daemon)
    daemon.kill()
    daemon.clear()
    until(lambda: not is_running(filler))


def test_what_it_has_filled_is_noted_when_it_rests(run: Callable[..., Daemon], want: dict[str, str], tmp_path: Path) -> None:
    cache, empty = tmp_path / "cache", tmp_path / "none"
    empty.mkdir()
    daemon = run(work_dir=cache)
    assert digests(daemon.mountpoint) == want
    assert fillers(daemon)
    (file,) = cache.glob("*.chunk_map")
    until(lambda: chunkmap.all_set(bytearray(file.read_bytes()[chunkmap.HEADER_SIZE :]), FILES))  # a chunk each
    daemon.kill()
    daemon.clear()
    daemon = run(empty, work_dir=cache)
    assert digests(daemon.mountpoint) == want
    assert daemon.stop() == 0, daemon.output


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_validation_and_a_bounded_cache(run: Callable[..., Daemon], want: dict[str, str]) -> None:
    daemon = run(digest_validate=True)
    assert digests(daemon.mountpoint) == want
    assert fillers(daemon)
    assert daemon.stop() == 0, daemon.output
    daemon = run(overrides=f"cache.max_size={16 << 20}")
    assert digests(daemon.mountpoint) == want
    assert not fillers(daemon)
    assert daemon.stop() == 0, daemon.output

"""A bounded cache under a mount: the limit holds, every byte is right, also after kill -9 in the middle.

NYDUS_TEST_SOAK_S sets how long each reads (1.6 seconds by default).
"""

import hashlib
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mounting import BIN, Daemon, Mounts

SOAK_S = float(os.environ.get("NYDUS_TEST_SOAK_S", "1.6"))
META_BYTES = 64 << 10
"""Compression information, map and ages: counted, but nobody asks for room for them."""

pytestmark = pytest.mark.mounts


def files(root: Path) -> list[str]:
    found = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    return sorted(os.path.relpath(p, root) for p in found if os.path.isfile(p) and not os.path.islink(p))


def digest(path: Path) -> str:
    """What the kernel keeps of the file is thrown away: the next read reaches the daemon."""
    fd = os.open(path, os.O_RDONLY)
    try:
        with open(fd, "rb", closefd=False) as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return found
    finally:
        os.close(fd)


def used(work_dir: Path) -> int:
    total = 0
    for path in work_dir.iterdir():
        with suppress(FileNotFoundError):
            total += path.stat().st_blocks * 512
    return total


class Readers:
    """Four threads that read files in an order of their own until they are told to stop."""

    def __init__(self, root: Path, want: dict[str, str]) -> None:
        self.wrong: list[str] = []
        self.errors = self.done = 0
        self._root, self._want = root, want
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(seed,)) for seed in range(4)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _read(self, seed: int) -> None:
        dice = random.Random(seed)
        names = sorted(self._want)
        while not self._ends.is_set():
            name = dice.choice(names)
            try:
                if digest(self._root / name) != self._want[name]:
                    self.wrong.append(name)
                self.done += 1
            except OSError:
                self.errors += 1
                return


@pytest.fixture
def want(golden: Path, mounts: Mounts) -> Callable[[str], dict[str, str]]:
    def of(name: str) -> dict[str, str]:
        daemon = mounts.nydusd(golden / name / "boot", golden / name / "blobs")
        found = {file: digest(daemon.mountpoint / file) for file in files(daemon.mountpoint)}
        assert daemon.stop() == 0
        return found

    return of


def start(mounts: Mounts, golden: Path, name: str, work_dir: Path, limit: int, data_path: str) -> Daemon:
    return mounts.nydusd(
        golden / name / "boot", golden / name / "blobs", work_dir=work_dir, data_path=data_path,
        overrides=f"cache.max_size={limit}",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["v6-zstd", "v5-zstd"])
def test_a_tenth_of_the_image_under_four_readers_and_kill(
    name: str, data_path: str, golden: Path, mounts: Mounts, tmp_path: Path, want: Callable[[str], dict[str, str]]
) -> None:
    right = want(name)
    work_dir = tmp_path / "cache"
    size = sum(os.stat(p).st_size for p in (tmp_path / "m0" / "cache").glob("*.blob.data"))
    limit = size // 10 // 4096 * 4096
    for ends_by_kill in (True, False):
        daemon = start(mounts, golden, name, work_dir, limit, data_path)
        readers = Readers(daemon.mountpoint, right)
        end, most = time.monotonic() + SOAK_S / 2, 0
        while time.monotonic() < end:
            most = max(most, used(work_dir))
            time.sleep(0.005)
        if ends_by_kill:
            daemon.kill()
            daemon.clear()
        readers.stop()
        assert not readers.wrong and readers.done > 10
        assert limit // 2 < most <= limit + META_BYTES + layout(work_dir)
        if not ends_by_kill:
            assert readers.errors == 0
            assert {file: digest(daemon.mountpoint / file) for file in right} == right
            assert daemon.stop() == 0


def layout(work_dir: Path) -> int:
    """An image that is laid out as EROFS brings a file that is counted, but not evicted."""
    return sum(path.stat().st_blocks * 512 for path in work_dir.glob("*.erofs"))


def test_the_directory_of_a_bounded_cache_is_refused_to_others(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    name = "v6-zstd"
    words = ["backend.dir=" + str(golden / name / "blobs"), f"bootstrap={golden / name / 'boot'}", f"mountpoint={tmp_path}/other"]
    (tmp_path / "other").mkdir()
    work_dir = tmp_path / "cache"
    daemon = mounts.nydusd(
        golden / name / "boot", golden / name / "blobs", work_dir=work_dir, overrides="cache.min_free=1000000"
    )
    done = subprocess.run([BIN / "nydus-run", *words, f"cache.work_dir={work_dir}"], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert str(work_dir) in line and f"process {daemon.process.pid}" in line
    assert daemon.stop() == 0

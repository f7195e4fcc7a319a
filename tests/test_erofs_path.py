"""The EROFS data path: whole cache files as devices, one corrupt chunk, many mounts, copies given back."""

import errno
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from chunks import chunk_amid_others, chunks_of_files
from manifest import differences
from mounting import Daemon, Mounts, copy_blobs
from nydus_app.daemon.attachment import private_dir
from nydus_app.filesystems.blob_devices import FIRST_DEVICE
from nydus_app.linux.mount import unmount
from nydus_app.transports import device_copies, erofs
from nydus_app.transports.device_copies import DeviceCopies

pytestmark = pytest.mark.skipif(erofs.why_not() is not None, reason=erofs.why_not() or "")
IMAGE = "v6-zstd"


@pytest.fixture
def run(golden: Path, mounts: Mounts, tmp_path: Path) -> Callable[..., Daemon]:
    def start(name: str = IMAGE, blobs: Path | None = None, **changes: object) -> Daemon:
        boot = golden / name / "boot"
        return mounts.nydusd(
            boot, blobs or golden / name / "blobs", work_dir=tmp_path / "cache", data_path="erofs", **changes
        )

    return start


def read_all(root: Path) -> dict[bytes, bytes | int | None]:
    """Contents of all regular files by path, or the errno of reading one."""
    found: dict[bytes, bytes | int | None] = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                try:
                    with open(path, "rb") as f:
                        found[os.path.relpath(path, os.fsencode(root))] = f.read()
                except OSError as e:
                    found[os.path.relpath(path, os.fsencode(root))] = e.errno
    return found


@pytest.fixture
def whole_cache(run: Callable[..., Daemon], tmp_path: Path) -> Path:
    """The cache directory after everything has been read."""
    daemon = run()
    read_all(daemon.mountpoint)
    assert daemon.stop() == 0
    return tmp_path / "cache"


@pytest.mark.parametrize("driver", ["fusedev", "pyfuse3"])
def test_who_walks_the_machine_finds_no_devices(run: Callable[..., Daemon], driver: str) -> None:
    devices = Path(private_dir(str(run(driver=driver).mountpoint)))
    assert os.listdir(devices) == []
    assert (devices / str(FIRST_DEVICE)).stat().st_size > 0


def test_a_whole_cache_file_is_the_device_itself(
    run: Callable[..., Daemon], whole_cache: Path, golden: Path, tmp_path: Path
) -> None:
    """Nobody needs the blob, nor the daemon's answers: it is stopped while the tree is compared."""
    empty = tmp_path / "no-blobs"
    empty.mkdir()
    daemon = run(blobs=empty)
    (data,) = whole_cache.glob("*.blob.data")
    with open(data, "rb") as f, pytest.raises(BlockingIOError):
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        assert differences(daemon.mountpoint, golden / "kinds.manifest.jsonl") == []
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    unmount(str(daemon.mountpoint))
    assert daemon.process.wait(1) == 0
    assert not os.path.exists(private_dir(str(daemon.mountpoint)))
    with open(data, "rb") as f:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("name", ["v5-zstd", "v6-zstd"])
def test_paths_longer_than_fsconfig_takes(name: str, golden: Path, tmp_path: Path) -> None:
    """Of the bootstrap, of a layout beside the cache files, and of the mountpoint."""
    deep = tmp_path / ("a" * 200) / ("b" * 200)
    deep.mkdir(parents=True)
    boot = deep / "boot"
    shutil.copyfile(golden / name / "boot", boot)
    with Mounts(deep) as mounts:
        daemon = mounts.nydusd(boot, golden / name / "blobs", data_path="erofs")
        assert differences(daemon.mountpoint, golden / "kinds.manifest.jsonl") == []
        assert daemon.stop() == 0, daemon.output
        assert not os.path.exists(private_dir(str(daemon.mountpoint)))


def test_with_validation_a_whole_cache_file_is_still_checked(
    run: Callable[..., Daemon], whole_cache: Path, golden: Path
) -> None:
    (data,) = whole_cache.glob("*.blob.data")
    with open(data, "r+b") as f:
        f.write(bytes(1 << 16))
    daemon = run(digest_validate=True)
    assert differences(daemon.mountpoint, golden / "kinds.manifest.jsonl") == []
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("name", "data_path", "amplify_io"),
    [*itertools.product(("v5-zstd", "v6-zstd", "v6-none"), ("erofs", "fuse"), (1 << 20,)), ("v6-zstd", "erofs", 0)],
)
def test_one_corrupt_chunk_is_eio_for_its_files_alone_until_it_is_right_again(
    name: str, data_path: str, amplify_io: int, golden: Path, mounts: Mounts, tmp_path: Path
) -> None:
    """Its neighbours in the blob, fetched in one window with it and read ahead in one request, are other files'."""
    boot = golden / name / "boot"
    blobs = copy_blobs(golden, name, tmp_path / "blobs")
    right = mounts.nydusd(boot, blobs, data_path="fuse")
    want = read_all(right.mountpoint)
    assert right.stop() == 0
    chunk, owners = chunk_amid_others(chunks_of_files(boot, blobs, list(want)))
    (blob,) = blobs.iterdir()
    with open(blob, "r+b") as f:
        position = chunk.compressed_offset + chunk.compressed_size // 2
        (original,) = os.pread(f.fileno(), 1, position)
        os.pwrite(f.fileno(), bytes((original ^ 0xFF,)), position)
        daemon = mounts.nydusd(boot, blobs, data_path=data_path, digest_validate=True, amplify_io=amplify_io)
        assert read_all(daemon.mountpoint) == want | dict.fromkeys(owners, errno.EIO)
        os.pwrite(f.fileno(), bytes((original,)), position)
    assert read_all(daemon.mountpoint) == want
    assert daemon.stop() == 0


def cached_pages(path: Path) -> int:
    out = subprocess.run(["fincore", "-n", "-b", "-o", "RES", path], capture_output=True, text=True, check=True)
    return int(out.stdout)


@pytest.fixture
def big_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "big"
    path.write_bytes(os.urandom(1 << 20) * 64)
    yield path
    path.unlink()


def test_copies_of_what_was_answered_are_given_back(big_file: Path) -> None:
    os.sync()  # only clean pages can be dropped
    big_file.read_bytes()
    copies = DeviceCopies(str(big_file))
    copies.take(copies.ask())

    async def main() -> None:
        with trio.fail_after(10):
            await answer_all()

    async def answer_all() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(copies.run)
            for offset in range(0, 64 << 20, 1 << 20):
                copies.answered(offset, 1 << 20)
                await trio.lowlevel.checkpoint()
            while cached_pages(big_file) > device_copies.KEPT_BYTES + device_copies.DROPPED_BYTES:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()

    trio.run(main)
    copies.close()
    assert cached_pages(big_file) >= device_copies.KEPT_BYTES


@pytest.mark.parametrize("name", ["v6-zstd", "v5-zstd"])
def test_a_hundred_images_in_one_process(golden: Path, tmp_path: Path, name: str) -> None:
    """One FUSE session has the devices of all; what a mount takes is told by the program (docs/benchmarks.md)."""
    done = subprocess.run(
        [sys.executable, Path(__file__).parent / "many_mounts.py", "100", tmp_path, golden / name / "boot",
         golden / name / "blobs"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["digests"]) == 1
    assert told["kib_a_mount"] <= 256

"""Forms of blobs that no golden image has, built on the spot."""

import errno
import hashlib
import os
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import crc32c
import pytest

from mounting import Daemon, Mounts
from nydus_app.linux.mount import mounts_at

SEED = 5
MIB = 1 << 20


def nydus_image(peers: Path, *words: object) -> None:
    subprocess.run(
        [str(w) for w in (peers / "nydus-image", "create", "--log-level", "error", *words)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def make_tree(root: Path) -> None:
    r = random.Random(SEED)
    (root / "d").mkdir(parents=True)
    for number, size in enumerate((0, 1, 15, 16, 17, 4095, 4096, 4097, 70_000, 1_200_000)):
        (root / "d" / str(number)).write_bytes(r.randbytes(size // 2) + bytes(size - size // 2))
    for path in (root, root / "d", *(root / "d").iterdir()):
        os.utime(path, (1_700_000_000, 1_700_000_000))


def contents(root: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (root / "d").iterdir()}


def layer_of(tree: Path, path: Path) -> str:
    """A gzipped tar; its digest."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name in sorted(os.listdir(tree)):
            tar.add(tree / name, name)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("features", [(), ("--features", "blob-toc")], ids=["", "toc"])
def test_a_bootstrap_inside_of_the_object_that_describes_a_layer(
    features: tuple[str, ...], data_path: str, peers: Path, mounts: Mounts, tmp_path: Path
) -> None:
    tree, blobs = tmp_path / "tree", tmp_path / "blobs"
    make_tree(tree)
    blobs.mkdir()
    digest = layer_of(tree, tmp_path / "layer")
    nydus_image(peers, "-t", "targz-ref", "--blob-inline-meta", *features, "-D", blobs, tmp_path / "layer")
    (boot,) = blobs.iterdir()
    shutil.copy(tmp_path / "layer", blobs / digest)
    daemon = mounts.nydusd(boot, blobs, data_path=data_path, digest_validate=True)
    assert contents(daemon.mountpoint) == contents(tree)
    assert daemon.stop() == 0


def test_encrypted_batches(data_path: str, peers: Path, mounts: Mounts, tmp_path: Path) -> None:
    """nydusd 2.4 cannot read them; nydus-image makes them."""
    tree, blobs = tmp_path / "tree", tmp_path / "blobs"
    make_tree(tree)
    words = ("-t", "dir-rafs", "--encrypt", "--batch-size", "0x40000", "--compressor", "zstd")
    blobs.mkdir()
    nydus_image(peers, *words, "-D", blobs, "-B", tmp_path / "boot", tree)
    daemon = mounts.nydusd(tmp_path / "boot", blobs, data_path=data_path, digest_validate=True)
    assert contents(daemon.mountpoint) == contents(tree)
    assert daemon.stop() == 0


def test_an_external_blob_is_verified_by_its_checksums(
    data_path: str, peers: Path, mounts: Mounts, tmp_path: Path
) -> None:
    tree, blobs = tmp_path / "tree", tmp_path / "blobs"
    make_tree(tree)
    blobs.mkdir()
    data, chunk, before = (tree / "d/9").read_bytes(), 1 << 16, 100
    stored = bytes(before) + data
    blob_id = hashlib.sha256(stored).hexdigest()
    crcs = ",".join(hex(crc32c.crc32c(data[i : i + chunk])) for i in range(0, len(data), chunk))
    (tmp_path / "attributes").write_text(
        f"/d/9 type=external file_size={len(data)} blob_index=0 blob_id={blob_id} chunk_size={chunk}"
        f" chunk_0_compressed_offset={before} compressed_size={len(stored)} crcs={crcs}\n"
    )
    nydus_image(
        peers, "-t", "dir-rafs", "-v", 5, "--chunk-size", hex(chunk), "--attributes", tmp_path / "attributes",
        "-D", blobs, "-B", tmp_path / "boot", tree,
    )  # fmt: skip
    wrong = bytearray(stored)
    wrong[before + 3 * chunk] ^= 1
    (blobs / blob_id).write_bytes(wrong)
    daemon = mounts.nydusd(tmp_path / "boot.external", blobs, data_path=data_path, digest_validate=True, amplify_io=0)
    assert mounts_at(str(daemon.mountpoint))[-1].fs_type == data_path
    with open(daemon.mountpoint / "d/9", "rb", buffering=0) as f:
        assert os.pread(f.fileno(), chunk, 0) == data[:chunk]
        with pytest.raises(OSError) as caught:
            os.pread(f.fileno(), 4096, 3 * chunk)
        assert caught.value.errno == errno.EIO
    assert daemon.stop() == 0


def peak_kib(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def test_a_layer_that_is_read_through_does_not_stay_in_memory(
    data_path: str, peers: Path, mounts: Mounts, tmp_path: Path
) -> None:
    """Neither its data nor its dictionaries, which are a twentieth of them and more."""
    tree, blobs = tmp_path / "tree", tmp_path / "blobs"
    (tree / "d").mkdir(parents=True)
    blobs.mkdir()
    r = random.Random(SEED)
    for number in range(4):
        (tree / "d" / str(number)).write_bytes(r.randbytes(16 * MIB))
    digest = layer_of(tree, tmp_path / "layer")
    nydus_image(peers, "-t", "targz-ref", "-D", blobs, "-B", tmp_path / "boot", tmp_path / "layer")
    shutil.copy(tmp_path / "layer", blobs / digest)
    daemon = mounts.nydusd(tmp_path / "boot", blobs, data_path=data_path)
    os.stat(daemon.mountpoint / "d/0")
    before = peak_kib(daemon)
    assert contents(daemon.mountpoint) == contents(tree)
    assert peak_kib(daemon) - before <= 32 << 10
    assert list(tmp_path.glob("m0/cache/*.blob.meta"))[0].stat().st_size > MIB
    assert daemon.stop() == 0

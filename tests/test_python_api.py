"""For Python people: reading an image without a mount, mounting one for a block."""

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

import nydus_app
from nydus_app.errors import ConfigError, MountError
from nydus_app.linux.mount import mounts_at

IMAGES = Path(__file__).parent / "images"


@pytest.fixture(params=["v5", "v6"])
def overrides(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    image = IMAGES / request.param
    return [f"backend.dir='{image}/blobs'", f"bootstrap='{image}/boot'", f"cache.work_dir='{tmp_path}/cache'"]


def test_an_image_is_read_without_a_mount(overrides: list[str]) -> None:
    with nydus_app.open_image(*overrides) as image:
        assert sorted(image.listdir()) == ["a", "c", "long-link"]
        assert image.read("/a/small") == b"small file\n" * 20
        assert image.read("c/link") == image.read("/c/../c/./hard") == image.read(b"/../a/small")
        assert image.readlink("/c/link") == "../a/small"
        assert image.xattrs("/a/small") == {"user.colour": b"blue"}
        assert image.stat("/a/small").ino == image.stat("/c/hard").ino
        assert image.lstat("/c/null").rdev == os.makedev(1, 3)
        with image.open("/c/three") as f:
            assert f.seek(-3, os.SEEK_END) == 12093
            assert len(f.read()) == 3
            assert f.seek(4095) and f.read(2)[:1] == b"x"


def test_errors_are_those_of_a_mounted_tree(overrides: list[str]) -> None:
    with nydus_app.open_image(*overrides) as image:
        for call, number in (
            (lambda: image.read("/none"), errno.ENOENT),
            (lambda: image.read("/a"), errno.EISDIR),
            (lambda: image.listdir("/a/small"), errno.ENOTDIR),
            (lambda: image.read("/a/small/x"), errno.ENOTDIR),
            (lambda: image.read("/c/fifo"), errno.EINVAL),
            (lambda: image.readlink("/a"), errno.EINVAL),
        ):
            with pytest.raises(OSError) as e:
                call()
            assert e.value.errno == number


def test_a_golden_image_file_by_file(golden: Path, tmp_path: Path) -> None:
    words = [f"backend.dir='{golden}/v6-toc/blobs'", f"cache.work_dir='{tmp_path}'"]
    (blob,) = (golden / "v6-toc/blobs").iterdir()
    want = [json.loads(line) for line in (golden / "kinds.manifest.jsonl").read_text().splitlines()]
    with nydus_app.open_image(*words, f"bootstrap='{blob}'") as image:
        for entry in want:
            path = entry["path"] if isinstance(entry["path"], str) else bytes.fromhex(entry["path"]["hex"])
            if entry["type"] == "file":
                assert hashlib.sha256(image.read(path)).hexdigest() == entry["sha256"]
        assert sum(len(d) + len(f) for _, d, f in image.walk()) == len(want) - 1


@pytest.mark.mounts
def test_a_mount_for_a_block(overrides: list[str], tmp_path: Path) -> None:
    (tmp_path / "it's").mkdir()
    with nydus_app.mount(*overrides, mountpoint=tmp_path / "it's") as mnt:
        assert (mnt / "a/small").read_bytes() == b"small file\n" * 20
    assert not mounts_at(str(tmp_path / "it's"))


@pytest.mark.mounts
def test_a_mount_that_fails_says_why(overrides: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean `backend.dir`"):
        with nydus_app.mount(*overrides, "backend.dri=/x", mountpoint=tmp_path):
            pass
    with pytest.raises(MountError, match="No such file"):
        with nydus_app.mount(*overrides, f"bootstrap='{tmp_path}/gone'", mountpoint=tmp_path):
            pass


def test_a_wrong_override_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean `bootstrap`"):
        nydus_app.open_image("bootstrp=/x")
    with pytest.raises(ConfigError, match="missing: bootstrap, backend.dir"):
        nydus_app.open_image()

"""Every golden image, mounted by each command, equals its manifest entry by entry."""

import os
import shutil
from pathlib import Path

import pytest

from manifest import differences
from mounting import BIN, Mounts, boot_of
from nydus_app.linux.mount import mounts_at
from nydus_app.transports import erofs

NAMES = """v5-none v5-lz4_block v5-zstd v5-sha256 v5-prefetch v5-chunk4k v5-inline v5-repeatable v5-aligned
v5-layer-lower v5-merged v5-parent v5-dict v5-tar-rafs v6-none v6-lz4_block v6-zstd v6-sha256 v6-prefetch v6-chunk4k
v6-inline v6-repeatable v6-toc v6-chunk16m v6-layer-lower v6-merged v6-parent v6-dict v6-tar-rafs v6-estargz-rafs v6-batch
v6-batch-chunk64k v6-encrypt v6-zran v6-zran-kinds v6-zran-plain-tar v6-estargz-ref v6-tarfs""".split()


def test_no_image_is_forgotten(golden_images: dict[str, dict]) -> None:
    assert {n for n, i in golden_images.items() if i["manifest"]} == {*NAMES, "v6-blob-cache"}


BY_FUSE = ("v6-repeatable",)
"""Its owners are the server's, and the kernel would show those that are stored."""

OVER_LIBFUSE = ("v5-zstd", "v6-zstd", "v6-merged")


@pytest.mark.parametrize("data_path", ["auto", "fuse"])
@pytest.mark.parametrize(
    ("name", "driver"), [*((n, "fusedev") for n in NAMES), *((n, "pyfuse3") for n in OVER_LIBFUSE)]
)
def test_nydusd(
    name: str, driver: str, data_path: str, golden: Path, golden_images: dict[str, dict], mounts: Mounts
) -> None:
    image = golden_images[name]
    daemon = mounts.nydusd(boot_of(golden, image), golden / name / "blobs", data_path=data_path, driver=driver)
    loaded = Path(f"/proc/{daemon.process.pid}/maps").read_text()
    assert ("pyfuse3" in loaded) == (driver == "pyfuse3")
    is_erofs = data_path == "auto" and name not in BY_FUSE
    is_erofs = is_erofs and erofs.why_not() is None and erofs.why_not_from(str(golden / name)) is None
    assert mounts_at(str(daemon.mountpoint))[-1].fs_type == ("erofs" if is_erofs else "fuse")
    assert differences(daemon.mountpoint, golden / image["manifest"], tuple(image.get("ignore", ()))) == []
    assert daemon.stop() == 0
    assert not os.path.ismount(daemon.mountpoint)


@pytest.mark.parametrize("cache", ["blobcache", "dummycache"])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "v6-tarfs"])
def test_nydus_run_with_validation(
    name: str, cache: str, golden: Path, golden_images: dict[str, dict], mounts: Mounts, tmp_path: Path
) -> None:
    image = golden_images[name]
    words = [f"backend.dir={golden / name / 'blobs'}", f"bootstrap={boot_of(golden, image)}", f"cache={cache}"]
    words += [f"cache.work_dir={tmp_path}/cache"] if cache == "blobcache" else []
    daemon = mounts.start(
        BIN / "nydus-run", "mode=fuse", "backend=localfs", *words, f"mountpoint={tmp_path}/mnt", mountpoint=tmp_path / "mnt"
    )
    assert differences(daemon.mountpoint, golden / image["manifest"], tuple(image.get("ignore", ()))) == []
    assert daemon.stop() == 0


def test_a_tar_cannot_be_validated(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    daemon = mounts.start(
        BIN / "nydus-run", "mode=fuse", "backend=localfs", f"backend.dir={golden}/v6-tarfs/blobs",
        f"bootstrap={golden}/v6-tarfs/boot", f"mountpoint={tmp_path}/mnt",
        f"cache.work_dir={tmp_path}/cache", mountpoint=tmp_path / "mnt", wait=False,
    )  # fmt: skip
    assert daemon.process.wait(20) == 1
    (line,) = daemon.output.splitlines()
    assert "cache.validate=false rafs.validate=false" in line
    assert not os.path.ismount(tmp_path / "mnt")


@pytest.mark.parametrize("data_path", ["auto", "fuse"])
@pytest.mark.parametrize("name", ["v6-blob-cache", "v6-tarfs"])
def test_what_lies_in_the_cache_directory_already(
    name: str, data_path: str, golden: Path, golden_images: dict[str, dict], mounts: Mounts, tmp_path: Path
) -> None:
    image = golden_images[name]
    shutil.copytree(golden / name / "cache", tmp_path / "cache")
    daemon = mounts.nydusd(boot_of(golden, image), tmp_path / "nowhere", work_dir=tmp_path / "cache", data_path=data_path)
    assert differences(daemon.mountpoint, golden / image["manifest"], tuple(image.get("ignore", ()))) == []
    assert daemon.stop() == 0

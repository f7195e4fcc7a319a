"""Reads that no loop runs: right bytes where the data lie here; where they do not, nothing happens."""

import asyncio
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import trio

import nydus_app
from nydus_app.errors import BackendError
from nydus_app.filesystems.port import FileSystem
from nydus_app.python_api import Image
from nydus_app.storage.hop import NeedsLoop, run_here
from nydus_app.testing.origin import Origin, status

IMAGE = Path(__file__).parents[1] / "images/v6"
READ_WITHOUT_TRIO = """
import sys
from nydus_app.cli.late_module import load_late
load_late("trio")
import nydus_app
with nydus_app.open_image(*sys.argv[1:]) as image:
    assert image.read("/a/small") == b"small file\\n" * 20
print("trio._core" in sys.modules)
"""


def words(work_dir: Path, backend: str = f"backend.dir='{IMAGE}/blobs'") -> list[str]:
    return [*backend.split(" "), f"bootstrap='{IMAGE}/boot'", f"cache.work_dir='{work_dir}'"]


@pytest.mark.parametrize("cache", ["blobcache", "dummycache"])
def test_trio_is_not_imported_for_what_lies_here(tmp_path: Path, cache: str) -> None:
    told = words(tmp_path) if cache == "blobcache" else [*words(tmp_path)[:2], "cache=dummycache"]
    for _ in range(2):  # cold, and ready
        done = subprocess.run([sys.executable, "-c", READ_WITHOUT_TRIO, *told], capture_output=True, text=True)
        assert (done.stdout, done.stderr) == ("False\n", "")


@pytest.mark.parametrize("name", ["v5-zstd", "v5-lz4_block", "v6-zstd", "v6-none", "v6-batch", "v6-encrypt", "v6-zran-kinds"])
@pytest.mark.parametrize("validate", [True, False])
def test_every_form_of_blob(golden: Path, tmp_path: Path, name: str, validate: bool) -> None:
    told = [f"backend.dir='{golden}/{name}/blobs'", f"bootstrap='{golden}/{name}/boot'", f"cache.work_dir='{tmp_path}'"]
    with nydus_app.open_image(*told, f"cache.validate={str(validate).lower()}") as image:
        fs = image._fs
        manifest = "kinds-tar" if name == "v6-zran-kinds" else "kinds"
        for line in (golden / f"{manifest}.manifest.jsonl").read_text().splitlines():
            entry = json.loads(line)
            if "sha256" in entry and isinstance(entry["path"], str):
                attr = image.stat(entry["path"])
                for _ in range(2):
                    parts = run_here(fs.read(attr.ino, 0, attr.size + 1))
                    assert sha256(b"".join(parts)).hexdigest() == entry["sha256"]


def ino_of(image: Image) -> tuple[FileSystem, int]:
    return image._fs, image.stat("/a/small").ino


S3 = "backend=s3 backend.scheme=http backend.region=r backend.bucket_name=b backend.endpoint={place}"
FAR = ["backend=http_proxy backend.addr={url}", f"{S3} backend.access_key_id=k backend.access_key_secret=s"]


@pytest.mark.parametrize("far", FAR)
def test_what_is_far_needs_a_loop_and_leaves_no_trace(far: str, tmp_path: Path) -> None:
    blobs = {path.name: path.read_bytes() for path in (IMAGE / "blobs").iterdir()}
    with Origin(blobs) as origin:
        far = far.format(url=origin.url(), place=origin.place)
        with nydus_app.open_image(*words(tmp_path, far)) as image:
            fs, ino = ino_of(image)
            for _ in range(2):
                with pytest.raises(NeedsLoop):
                    run_here(fs.read(ino, 0, 100))
            assert not origin.seen
            assert image.read("/a/small") == b"small file\n" * 20  # by a loop of its own
            assert origin.seen and b"".join(run_here(fs.read(ino, 0, 10))) == b"small file"


def test_what_a_loop_could_not_have_is_asked_for_again(tmp_path: Path) -> None:
    blobs = {path.name: path.read_bytes() for path in (IMAGE / "blobs").iterdir()}
    with Origin(blobs) as origin:
        far = f"backend=http_proxy backend.addr={origin.url()} backend.retry_limit=0"
        with nydus_app.open_image(*words(tmp_path, far)) as image:
            origin.script(status(404))
            with pytest.raises(BackendError):
                image.read("/a/small")
            assert image.read("/a/small") == b"small file\n" * 20


def test_a_blob_that_is_not_there_is_an_error_and_no_loops(tmp_path: Path) -> None:
    with nydus_app.open_image(*words(tmp_path, f"backend.dir={tmp_path}")) as image:
        fs, ino = ino_of(image)
        with pytest.raises(BackendError, match="no blob at"):
            run_here(fs.read(ino, 0, 100))


def test_loops_of_others(tmp_path: Path) -> None:
    """asyncio's is none of ours; who is in trio's is told to wait by it."""
    with nydus_app.open_image(*words(tmp_path)) as image:
        fs, ino = ino_of(image)

        async def read() -> bytes:
            return b"".join(run_here(fs.read(ino, 0, 10)))

        assert asyncio.run(read()) == b"small file"
        with pytest.raises(NeedsLoop):
            trio.run(read)
    assert os.listdir(tmp_path)

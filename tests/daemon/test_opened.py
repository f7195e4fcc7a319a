"""A mount answers before trio, whose import takes as long as all the rest of a start, is loaded."""

import subprocess
import sys
from pathlib import Path

import pytest

from mounting import is_mounted
from nydus_app.daemon.attachment import private_dir

IMAGE = Path(__file__).parent.parent / "images/v6"

FIRST_USE = """
import os, sys
from types import ModuleType

class Trio(ModuleType):
    def __getattr__(self, name):
        print(name, *sorted(os.listdir(sys.argv[-1])), flush=True)
        raise SystemExit(9)

sys.modules["trio"] = Trio("trio")
from nydus_app.cli import run
run.run(sys.argv[1:-1])
"""
"""What the mountpoint shows when trio is used for the first time."""


@pytest.mark.mounts
@pytest.mark.parametrize("path", ["fuse", "auto"])
def test_the_tree_is_there_before_the_loop(path: str, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    words = [
        "mode=fuse", f"mode.data_path={path}", "backend=localfs", f"backend.dir={IMAGE}/blobs", "log.level=error",
        f"cache.work_dir={tmp_path}/cache", f"bootstrap={IMAGE}/boot", f"mountpoint={mountpoint}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", FIRST_USE, *words, mountpoint], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stderr, done.returncode) == ("", 9)
    use, *names = done.stdout.split()
    assert use == "run" and names
    assert not is_mounted(mountpoint) and not is_mounted(Path(private_dir(str(mountpoint))))

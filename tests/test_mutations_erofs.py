"""Damaged images and caches below the kernel's EROFS: refused, an errno, or what it would show without us.

NYDUS_TEST_MUTATIONS sets how many copies of each file are damaged (30 by default).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mounting import sweep
from mutate_erofs import KEPT_LAYOUT, OVER_EROFS
from nydus_app.linux.mount import mounts_at
from nydus_app.transports import erofs

pytestmark = [
    pytest.mark.mounts,
    pytest.mark.skipif(erofs.why_not() is not None, reason=erofs.why_not() or ""),
]
COUNT = int(os.environ.get("NYDUS_TEST_MUTATIONS", "30"))


@pytest.mark.parametrize("target", OVER_EROFS)
def test_damage_is_survived(target: str, golden: Path, tmp_path: Path) -> None:
    if (reason := erofs.why_not_from(str(tmp_path / "boot"))) is not None:
        pytest.skip(reason)
    try:
        done = subprocess.run(
            [sys.executable, Path(__file__).parent / "mutate_erofs.py", target, "1", str(COUNT), tmp_path, golden],
            capture_output=True, text=True, timeout=60 + COUNT,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        assert not mounts_at(str(tmp_path / "mnt"))
    finally:
        sweep(tmp_path)
    told = json.loads(done.stdout)
    assert (told["alarming"], told["said_more"], told["wrong"]) == ([], [], [])
    assert told["mounted"] >= COUNT // 3
    if target == KEPT_LAYOUT:
        assert (told["changed"], told["contents_eio"]) == (0, 0)
    else:
        assert told["changed"] >= COUNT // 3
        assert told["contents_eio"] < told["contents"] // 2

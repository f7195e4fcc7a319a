"""What the kernel has of a file in memory."""

import os
import subprocess
from pathlib import Path

import pytest


def cached(file: Path | str) -> int:
    """Bytes, by mincore(2)."""
    words = ["fincore", "--bytes", "--noheadings", "--output", "RES", file]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


def evict(file: Path | str) -> None:
    """Skips the test where the file system keeps its files in memory."""
    fd = os.open(file, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)
    if cached(file):
        pytest.skip("this file system keeps its files in memory")


def drop_all() -> None:
    """The whole machine's, as far as it is clean. Skips the test where that is not allowed."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError as e:
        pytest.skip(f"the page cache cannot be dropped: {e.strerror}")

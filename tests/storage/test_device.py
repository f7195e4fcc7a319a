"""Reads of data files."""

import os
from pathlib import Path

import pytest

from nydus_app.errors import CacheError
from nydus_app.storage.device import pread_ready
from nydus_app.storage.hop import run_here
from page_cache import cached, evict

SIZE, READ = 32 << 20, 1 << 20


def test_a_file_that_ends_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    with open(path, "rb") as f, pytest.raises(CacheError, match=f"ends at {SIZE}, 8192 bytes at {SIZE - 4096}"):
        run_here(pread_ready(f.fileno(), 8192, SIZE - 4096))


def test_who_reads_ahead_of_the_writer_has_no_pages_made_of_holes(tmp_path: Path) -> None:
    """As a reader of cold data does: each piece is written just before it is read."""
    path = tmp_path / "file"
    data = bytes(range(256)) * (READ // 256)
    path.touch()
    os.truncate(path, 2 * SIZE)
    evict(path)
    with open(path, "r+b", buffering=0) as f:
        for offset in range(0, SIZE, READ):
            f.seek(offset)
            f.write(data)
            assert run_here(pread_ready(f.fileno(), READ, offset)) == data
    assert cached(path) == SIZE

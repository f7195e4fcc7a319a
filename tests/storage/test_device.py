"""Reads of data files: the disk is at work on what comes next, where there is something."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nydus_app.errors import CacheError
from nydus_app.storage.device import AHEAD, LARGE_BYTES, pread_ready
from nydus_app.storage.hop import run_here
from page_cache import cached, evict

READ, SIZE = 1 << 20, 32 << 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(SIZE))
    evict(path)
    return path


@pytest.fixture
def fd(file: Path) -> Iterator[int]:
    fd = os.open(file, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # the kernel by itself reads nothing ahead
    yield fd
    os.close(fd)


def read(fd: int, offset: int, size: int, is_ready: Callable[[int], bool]) -> None:
    """A chunk has READ bytes."""
    cache = SimpleNamespace(data_fd=lambda: fd, is_ready=is_ready)
    data = run_here(pread_ready(cache, offset // READ, offset // READ, size, offset))
    assert data == os.pread(fd, size, offset)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_who_reads_large_pieces_has_the_disk_begin_with_a_later_one(file: Path, fd: int) -> None:
    asked: list[int] = []
    read(fd, 2 * READ, READ, lambda index: asked.append(index) or True)
    assert asked == [2 + AHEAD]
    until(lambda: cached(file) == 2 * READ)


def test_small_pieces_have_nothing_read_ahead(file: Path, fd: int) -> None:
    read(fd, 0, LARGE_BYTES - 4096, lambda index: True)
    assert cached(file) == LARGE_BYTES - 4096


def test_what_has_not_been_written_yet_is_left_to_who_writes_it(file: Path, fd: int) -> None:
    read(fd, 0, READ, lambda index: False)
    assert cached(file) == READ


def test_a_file_that_ends_is_an_error(fd: int) -> None:
    cache = SimpleNamespace(data_fd=lambda: fd)
    with pytest.raises(CacheError, match=f"ends at {SIZE}, 8192 bytes at {SIZE - 4096}"):
        run_here(pread_ready(cache, 0, 0, 8192, SIZE - 4096))

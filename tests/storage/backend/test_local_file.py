"""Local files: the disk is at work ahead of a sequential reader, and of no other."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from nydus_app.storage.backend.extent import AHEAD_BYTES
from nydus_app.storage.backend.local_file import LocalFileReader, open_file
from page_cache import cached, evict

PIECE, SIZE = 1 << 18, 32 << 20
MAX_BY_ITSELF = 4 << 20
"""A kernel's own read-ahead, generously."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(bytes(SIZE))
    evict(path)
    return path


@pytest.fixture
def reader(file: Path) -> Iterator[LocalFileReader]:
    reader = LocalFileReader(partial(open_file, str(file)), "file")
    yield reader
    reader.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (1, 0, 3, 2)])
def test_who_reads_on_finds_the_disk_at_work(order: tuple[int, ...], reader: LocalFileReader, file: Path) -> None:
    for number in order:
        reader.pread(number * PIECE, PIECE)
    until(lambda: cached(file) >= AHEAD_BYTES)


def test_who_jumps_has_nothing_read_that_he_did_not_ask_for(reader: LocalFileReader, file: Path) -> None:
    for offset in (0, 24 << 20, 8 << 20, 16 << 20):
        reader.pread(offset, 4096)
    assert cached(file) < MAX_BY_ITSELF

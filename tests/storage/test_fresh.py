"""What was fetched ahead is answered from memory, once, and takes no more of it than it may."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Chunk
from nydus_app.storage import fresh
from nydus_app.storage.address_space import BLOCK, AddressSpace, Extent, Run
from nydus_app.storage.cache.port import NOTHING
from nydus_app.storage.fresh import Fresh


def test_the_oldest_go_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "FRESH_BYTES", 100)
    held = Fresh()
    mine, other = held.of_blob(), held.of_blob()
    for index in range(0, 12, 2):
        for _ in range(2):
            mine.put({index: bytes(10), index + 1: bytes(10)})
    assert list(mine.data) == list(range(2, 12))
    mine.drop([2, 3, 3, 50])
    other.put({5: bytes(10), 6: bytes(10)})
    assert 4 in mine.data
    other.put({7: bytes(1)})
    assert 4 not in mine.data and 5 not in mine.data and 6 in mine.data
    mine.forget()
    assert not mine.data and list(other.data) == [5, 6, 7]
    other.put({8: bytes(79)})
    assert list(other.data) == [5, 6, 7, 8]
    other.put({9: bytes(101)})
    assert list(other.data) == [5, 6, 7, 8]
    other.put({})  # all of its chunks were damaged


def test_what_has_been_read_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many little ones are let go by their number: here the first one, which nobody reads."""
    monkeypatch.setattr(fresh, "MAX_BATCHES", 5)
    held = Fresh()
    chunks, other = held.of_blob(), held.of_blob()
    for index in range(20):
        chunks.put({index: b"x"})
        chunks.drop([index])
    other.put({0: b"x"})
    for index in range(5):
        assert other.data
        chunks.put({index: b"x"})
        chunks.drop([index])
    assert not other.data


class Cache:
    """Chunk i of two blocks holds i + 1; what the file holds is damaged."""

    def __init__(self, path: Path, count: int) -> None:
        path.write_bytes(b"\xff" * (2 * BLOCK * count))
        self.file = open(path, "rb")
        self.fresh: dict[int, Buffer] = {i: bytes([i + 1]) * (BLOCK + 7) for i in range(count)}
        self.dropped: list[int] = []

    async def are_ready(self, first: int, last: int) -> bool:
        return True

    def is_ready(self, index: int) -> bool:
        return True

    def follow(self, first: int, last: int) -> None:
        pass

    def hold(self, indexes: Iterable[int]) -> AbstractContextManager[None]:
        return NOTHING

    def drop_fresh(self, indexes: Iterable[int]) -> None:
        for index in indexes:
            self.fresh.pop(index, None)
            self.dropped.append(index)

    async def ensure(self, wanted: Sequence[int], chunks: object, ahead: object) -> Mapping[int, Buffer]:
        raise AssertionError("nothing is missing")

    def data_fd(self) -> int:
        return self.file.fileno()

    def close(self) -> None:
        self.file.close()


class Places:
    size = 8 * BLOCK

    async def load(self) -> None:
        pass

    def run(self, offset: int, end: int) -> Run:
        first, last = offset // (2 * BLOCK), (end - 1) // (2 * BLOCK)
        return Run(first, last, first * 2 * BLOCK, last * 2 * BLOCK + BLOCK + 7)

    def extents(self, offset: int, end: int) -> list[Extent]:
        first, last, _, _ = self.run(offset, end)
        size = 2 * BLOCK
        return [Extent(i, i * size, i * size + BLOCK + 7, (i + 1) * size, i * size) for i in range(first, last + 1)]

    def chunks(self, indexes: Iterable[int]) -> list[Chunk]:
        raise AssertionError("nothing is missing")


def test_a_read_takes_them_from_memory_and_lets_go_of_what_it_has_read_to_the_end(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "data", 4)
    space = AddressSpace(Places(), cache)

    def read(offset: int, size: int) -> bytes:
        return b"".join(trio.run(space.read, offset, size))

    try:
        assert read(0, 3 * BLOCK) == b"\1" * (BLOCK + 7) + bytes(BLOCK - 7) + b"\2" * BLOCK
        assert cache.dropped == [0]
        assert read(3 * BLOCK, 10) == b"\2" * 7 + bytes(3)
        assert cache.dropped == [0, 1]
        assert read(0, 5) == b"\xff" * 5  # it is there no more
        del cache.fresh[2]
        assert read(6 * BLOCK, BLOCK) == b"\4" * BLOCK
        assert read(4 * BLOCK, 4 * BLOCK)[: BLOCK] == b"\xff" * BLOCK
    finally:
        cache.close()

"""What was fetched ahead is answered from memory, once, and takes no more of it than it may."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Chunk
from nydus_app.storage import fresh
from nydus_app.storage.address_space import BLOCK, AddressSpace, Extent
from nydus_app.storage.cache.port import NOTHING
from nydus_app.storage.fresh import Fresh


def test_the_oldest_go_where_there_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "FRESH_BYTES", 100)
    held, mine, other = Fresh(), object(), object()
    for index in range(12):
        held.put(mine, index, bytes(10))
        held.put(mine, index, bytes(10))
    held.put(mine, 99, bytes(101))
    assert [i for i in range(100) if held.get(mine, i) is not None] == list(range(2, 12))
    held.drop(mine, [2, 3, 3, 50])
    held.put(other, 5, bytes(10))
    held.put(other, 6, bytes(10))
    assert held.get(mine, 4) is not None
    held.put(other, 7, bytes(1))
    assert held.get(mine, 4) is None
    held.forget(mine)
    assert held.get(mine, 11) is None and held.get(other, 5) is not None
    held.put(other, 8, bytes(79))
    assert held.get(other, 5) is not None


class Cache:
    """Chunk i of two blocks holds i + 1; what the file holds is damaged."""

    def __init__(self, path: Path, count: int) -> None:
        path.write_bytes(b"\xff" * (2 * BLOCK * count))
        self.file = open(path, "rb")
        self.held = {i: bytes([i + 1]) * (BLOCK + 7) for i in range(count)}
        self.dropped: list[int] = []

    def are_ready(self, first: int, last: int) -> bool:
        return True

    def is_ready(self, index: int) -> bool:
        return True

    def follow(self, first: int, last: int) -> None:
        pass

    def hold(self, indexes: Iterable[int]) -> AbstractContextManager[None]:
        return NOTHING

    def fresh(self, index: int) -> Buffer | None:
        return self.held.get(index)

    def drop_fresh(self, indexes: Iterable[int]) -> None:
        for index in indexes:
            self.held.pop(index, None)
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

    def run(self, offset: int, end: int) -> tuple[int, int]:
        return offset // (2 * BLOCK), (end - 1) // (2 * BLOCK)

    def extents(self, offset: int, end: int) -> list[Extent]:
        first, last = self.run(offset, end)
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
        del cache.held[2]
        assert read(6 * BLOCK, BLOCK) == b"\4" * BLOCK
        assert read(4 * BLOCK, 4 * BLOCK)[: BLOCK] == b"\xff" * BLOCK
    finally:
        cache.close()

"""Work that may block, for coroutines that are run by a trio loop or, before there is one, just by being called.

Without a loop (`run_here`), a read of what lies on this machine runs to its end where it is, and trio is not even imported;
one that would have to wait for anybody else raises NeedsLoop before it has changed anything.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TypeVar

import sniffio
import trio

T = TypeVar("T")


class NeedsLoop(BaseException):
    """Not an error: to be tried again where a loop runs."""


def has_loop() -> bool:
    """A loop of trio's runs the caller."""
    try:
        return sniffio.current_async_library() == "trio"
    except sniffio.AsyncLibraryNotFoundError:
        return False


def run_here(coroutine: Coroutine[object, object, T]) -> T:
    """Its result. Raises NeedsLoop, and what it raises."""
    try:
        if not has_loop():
            coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    finally:
        coroutine.close()
    raise NeedsLoop


async def in_thread(work: Callable[..., T], *args: object) -> T:
    """In one of the loop's threads; without a loop, here."""
    return await trio.to_thread.run_sync(work, *args) if has_loop() else work(*args)


def require_loop() -> None:
    """Raises NeedsLoop."""
    if not has_loop():
        raise NeedsLoop


class Turn:
    """`async with`: one task at a time. Without a loop there is one anyway."""

    def __init__(self) -> None:
        self._lock: trio.Lock | None = None

    async def __aenter__(self) -> None:
        if has_loop():
            if self._lock is None:
                self._lock = trio.Lock()
            await self._lock.acquire()

    async def __aexit__(self, *exc: object) -> None:
        if self._lock is not None and has_loop():  # a loop of before may have made it
            self._lock.release()

"""One fetch a chunk: who wants a chunk that is already on its way waits for it.

Concurrency: looks and claims are made on the trio thread; between a look and the claim that follows is no
checkpoint, so a chunk has one owner. A flight lands there, once, with its outcome. It is ended by whatever
thread has stored its data and made them ready: between landing and end whoever comes is given the data
at once, and who finds it gone finds them ready.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import trio

from nydus_app.storage.hop import NeedsLoop, has_loop

T = TypeVar("T")


class Flight(Generic[T]):
    """The outcomes of one job, by chunk index; a job that was given up has none.

    `is_awaited`: it was begun for somebody who waits. `wait_here` blocks until it has landed, or for long enough, and takes no loop.
    """

    def __init__(self, is_awaited: bool) -> None:
        self.is_awaited = is_awaited
        self.wait_here: Callable[[], None] | None = None
        self._outcomes: Mapping[int, T] | None = None
        self._landed: trio.Event | None = None

    async def wait(self) -> Mapping[int, T]:
        """Raises NeedsLoop."""
        if self._outcomes is None and not has_loop():
            if self.wait_here is not None:
                self.wait_here()
            if self._outcomes is None:
                raise NeedsLoop
        if self._outcomes is None:
            if self._landed is None:
                self._landed = trio.Event()
            await self._landed.wait()
        assert self._outcomes is not None
        return self._outcomes

    def land(self, outcomes: Mapping[int, T]) -> None:
        """The first outcome counts."""
        if self._outcomes is None:
            self._outcomes = outcomes
            if self._landed is not None:
                self._landed.set()


class InFlight(Generic[T]):
    """Flights by chunk index."""

    def __init__(self) -> None:
        self._flights: dict[int, Flight[T]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._flights

    def has_none_of(self, indexes: range) -> bool:
        return self._flights.keys().isdisjoint(indexes)

    def get(self, index: int) -> Flight[T] | None:
        return self._flights.get(index)

    def claim(self, indexes: Iterable[int], *, is_awaited: bool) -> Flight[T]:
        """Become the owner of these; none of them may be in flight."""
        flight: Flight[T] = Flight(is_awaited)
        for index in indexes:
            assert index not in self._flights
            self._flights[index] = flight
        return flight

    def end(self, indexes: Iterable[int]) -> None:
        """Give them up; any thread, after the flight has landed or been sent to."""
        for index in indexes:
            del self._flights[index]

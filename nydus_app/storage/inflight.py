"""One fetch a chunk: who wants a chunk that is already on its way waits for it.

Concurrency: everything here runs on the trio thread between checkpoints, so a look and the claim
that follows are one step. A flight is finished exactly once, by its owner, in a `finally`.
"""

from collections.abc import Iterable
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Flight(Generic[T]):
    """The outcome of one fetch, shared by all who wait for it."""

    def __init__(self) -> None:
        self._landed = trio.Event()
        self.result: T | None = None
        self.error: Exception | None = None

    async def wait(self) -> bool:
        """Wait for the owner. False: it was cancelled and has nothing to say; try yourself."""
        await self._landed.wait()
        return self.result is not None or self.error is not None

    def land(self) -> None:
        self._landed.set()


class InFlight(Generic[T]):
    """Flights by chunk index."""

    def __init__(self) -> None:
        self._flights: dict[int, Flight[T]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._flights

    def get(self, index: int) -> Flight[T] | None:
        return self._flights.get(index)

    def claim(self, indexes: Iterable[int]) -> dict[int, Flight[T]]:
        """Become the owner of these; none of them may be in flight."""
        mine = {}
        for index in indexes:
            assert index not in self._flights
            mine[index] = self._flights[index] = Flight()
        return mine

    def land(self, mine: dict[int, Flight[T]]) -> None:
        """Finish all flights of an owner, whatever their outcome."""
        for index, flight in mine.items():
            del self._flights[index]
            flight.land()

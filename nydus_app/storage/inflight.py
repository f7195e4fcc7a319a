"""One fetch a chunk: who wants a chunk that is already on its way waits for it.

Concurrency: everything here runs on the trio thread between checkpoints, so a look and the claim
that follows are one step. A flight lands once with its outcome, and is ended once, by its owner, in a
`finally`: between the two its data are being stored, and who comes then is given them at once.
"""

from collections.abc import Iterable, Mapping
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Flight(Generic[T]):
    """The outcomes of one job, by chunk index; a job that was cancelled has none."""

    def __init__(self) -> None:
        self._landed = trio.Event()
        self._outcomes: Mapping[int, T] = {}

    async def wait(self) -> Mapping[int, T]:
        await self._landed.wait()
        return self._outcomes

    def land(self, outcomes: Mapping[int, T]) -> None:
        """The first outcome counts."""
        if not self._landed.is_set():
            self._outcomes = outcomes
            self._landed.set()


class InFlight(Generic[T]):
    """Flights by chunk index."""

    def __init__(self) -> None:
        self._flights: dict[int, Flight[T]] = {}

    def __contains__(self, index: int) -> bool:
        return index in self._flights

    def get(self, index: int) -> Flight[T] | None:
        return self._flights.get(index)

    def claim(self, indexes: Iterable[int]) -> Flight[T]:
        """Become the owner of these; none of them may be in flight."""
        flight: Flight[T] = Flight()
        for index in indexes:
            assert index not in self._flights
            self._flights[index] = flight
        return flight

    def end(self, indexes: Iterable[int]) -> None:
        """Give them up; who still waits is told nothing and tries himself."""
        for index in indexes:
            self._flights.pop(index).land({})

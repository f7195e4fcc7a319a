"""How long one request may take: until it is connected, without a byte, and altogether."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from nydus_app.errors import BackendUnavailable
from nydus_app.storage.backend.http.settings import HttpSettings


class Deadline:
    """Moves with every byte, though never behind the end."""

    def __init__(self, scope: trio.CancelScope, settings: HttpSettings, size: int) -> None:
        self._scope = scope
        self._idle_s = settings.timeout_s or float("inf")
        self._total_s = settings.total_s(size)
        self._end = trio.current_time() + self._total_s
        self._what = ""

    def connect_within(self, seconds: float) -> None:
        self._what = f"no connection within {seconds:g} s"
        self._scope.deadline = min(self._end, trio.current_time() + (seconds or float("inf")))

    def progress(self) -> None:
        """Something has come, or has just been asked."""
        idle = trio.current_time() + self._idle_s
        self._what = f"no byte for {self._idle_s:g} s" if idle < self._end else f"not done after {self._total_s:.3g} s"
        self._scope.deadline = min(self._end, idle)

    def text(self) -> str:
        return self._what


class TimedOut(BackendUnavailable):
    """It took too long."""

    cause = "time-out"


@contextmanager
def deadline_of(settings: HttpSettings, size: int, origin: str) -> Iterator[Deadline]:
    """Raises TimedOut once it has passed."""
    with trio.CancelScope() as scope:
        deadline = Deadline(scope, settings, size)
        yield deadline
    if scope.cancelled_caught:
        raise TimedOut(f"{origin}: {deadline.text()}")

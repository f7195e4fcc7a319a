"""The one way from the API's thread into the daemon's: requests enter trio here, one at a time."""

import threading
from collections.abc import Callable
from typing import TypeVar

import trio

R = TypeVar("R")


class Bridge:
    """Made on the trio thread, called from any other. Serial, as nydusd executes requests."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._turn = threading.Lock()

    def call(self, function: Callable[..., R], *args: object) -> R:
        """`function(*args)` on the trio thread. Raises what it raises."""
        with self._turn:
            return trio.from_thread.run_sync(function, *args, trio_token=self._token)

"""Whether a proxy or a mirror is worth asking.

Concurrency: on the trio thread. Checks run in a system task, which lives as long as there is traffic and something
to check, and no longer than the loop; the next traffic starts another.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import trio

log = logging.getLogger("nydus.backend")

Ping = Callable[[], Awaitable[bool]]
"""Whether it answers well. Raises nothing but what is cancelled."""


class Health:
    """Ill after `failure_limit` failures in a row; well again after a good ping, or `interval_s` where none is possible.

    `watches`: it is pinged also while it seems well, until nobody has asked for `pause_s`.
    """

    def __init__(
        self, name: str, ping: Ping | None, *, interval_s: float, pause_s: float, failure_limit: int, watches: bool
    ) -> None:
        self._name = name
        self._ping = ping
        self._interval_s = interval_s
        self._pause_s = pause_s
        self._failure_limit = failure_limit
        self._watches = watches
        self._is_well = True
        self._failures = 0
        self._asked_at = 0.0
        self._ill_since = 0.0
        self._is_checking = False

    def is_well(self) -> bool:
        """Never waits; keeps the checks going."""
        self._asked_at = time.monotonic()
        if self._ping is not None:
            self._check_on()
        elif not self._is_well and self._asked_at - self._ill_since >= self._interval_s:
            self._set(True, "is tried again")
        return self._is_well

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self, cause: str) -> None:
        self._failures += 1
        if self._failures >= self._failure_limit:
            self._set(False, cause)

    def _set(self, is_well: bool, cause: str) -> None:
        if is_well != self._is_well:
            log.warning("%s %s: %s", self._name, "is used again" if is_well else "is not used for now", cause)
            self._is_well = is_well
            self._failures = 0
            self._ill_since = time.monotonic()

    def _check_on(self) -> None:
        if not self._is_checking and (self._watches or not self._is_well):
            self._is_checking = True
            trio.lowlevel.spawn_system_task(self._check)

    async def _check(self) -> None:
        assert self._ping is not None
        try:
            while time.monotonic() - self._asked_at < self._pause_s and (self._watches or not self._is_well):
                await trio.sleep(self._interval_s)
                is_well = await self._ping()
                self._set(is_well, "it answers a ping" if is_well else "it does not answer a ping well")
        except Exception:
            log.exception("a health check failed")
        finally:
            self._is_checking = False

"""What the caches of an image share: work that goes on behind the requests, who waits, what was fetched.

Such work is looking ahead, prefetching, storing what has been answered already.

Concurrency: on the trio thread. Whoever serves the image runs `run` for as long; without it (an image that
is only read from, call by call) `nursery` is None, nothing looks ahead, and a read ends with its storing.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from nydus_app.storage.backend.meter import BackendMetrics
from nydus_app.storage.buffers import Turns
from nydus_app.storage.demand import Demand
from nydus_app.storage.fetch_log import FetchLog
from nydus_app.storage.filler.filler import Filler
from nydus_app.storage.fresh import Fresh
from nydus_app.storage.hop import has_loop

log = logging.getLogger("nydus.storage")


class Background:
    """`tasks` are begun by `run`, and cancelled with it; none of them ends it.

    `is_served`: `run` will come, and nobody has to wait for what is stored until then.
    """

    def __init__(self) -> None:
        self.fresh = Fresh()
        self.filler = Filler()
        self.turns = Turns()
        self.nursery: trio.Nursery | None = None
        self.demand = Demand()
        self.fetches = FetchLog()
        self.metrics = BackendMetrics()
        self.is_served = False
        self.tasks: list[Callable[[], Awaitable[None]]] = []

    @property
    def goes_on(self) -> bool:
        """What a read has begun ends without it: in the nursery or, before there is a loop, at once."""
        return self.nursery is not None or not has_loop()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            self.filler.listen(nursery)
            for task in self.tasks:
                nursery.start_soon(_guarded, task)
            try:
                await trio.sleep_forever()
            finally:
                self.nursery = None
                self.filler.close()


async def _guarded(task: Callable[[], Awaitable[None]]) -> None:
    try:
        await task()
    except Exception:
        log.exception("what goes on behind the requests goes on without this")

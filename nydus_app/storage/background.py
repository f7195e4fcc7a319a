"""Work that goes on behind the requests: looking ahead, storing what has been answered already.

Concurrency: on the trio thread. Whoever serves the image runs `run` for as long; without it (an image that
is only read from, call by call) `nursery` is None, nothing looks ahead, and a read ends with its storing.
"""

import trio

from nydus_app.storage.fresh import Fresh


class Background:
    def __init__(self) -> None:
        self.fresh = Fresh()
        self.nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            try:
                await trio.sleep_forever()
            finally:
                self.nursery = None

"""The process that fills caches ahead of readers, as the daemon sees it.

Chunks of small files cost more in the interpreter than in the codec, and an interpreter has one lock: what a thread
decodes ahead is in the way of the very readers that it is done for. A process has a lock of its own (measured on two
cores: 1.1 of the small files a second, for half of the daemon's own processor time).

It is started when somebody reads a local blob on and on, and ended when it has had no order for IDLE_S. Nobody depends on it:
where it cannot be had, is killed or stands still, its orders are given up, and worker threads do what readers ask for. It
can do no harm then: what it writes is verified, and nobody is told.

Concurrency: on the trio thread, or before there is a loop (`hop`): its reports are then taken when somebody asks.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import error as StructError

import trio

from nydus_app.storage.filler.child import Child, spawn
from nydus_app.storage.filler.wire import BlobHere, Gone, Order, Report, decode_report
from nydus_app.version import __version__

log = logging.getLogger("nydus.storage")

IDLE_S = SILENCE_S = 5.0
"""An order takes some ms. Who has not reported on one for so long stands still."""

MAX_ORDERS = 16
"""Under way at a time, of up to a MiB each: where several readers want more than that, threads on other cores help."""

PATIENCE_S = 0.5
"""So long it is waited for before there is a loop: nobody else is answered meanwhile."""

MAX_FAILURES = 3
"""After so many ends that nobody wanted it is not started again."""

Reported = Callable[[Report | None], None]
"""Called with what became of an order, or None when it was given up."""


class Filler:
    """`generation` changes with each process; blobs that were attached are attached to one of them."""

    def __init__(self) -> None:
        self.generation = 0
        self._child: Child | None = None
        self._since = 0.0  # when something was heard of it last, or it was given something to do
        self._is_listened_to = False
        self._orders: dict[int, Reported] = {}
        self._blobs = 0
        self._last_order = 0
        self._failures = 0
        self._dying: list[Child] = []

    def is_at_hand(self, nursery: trio.Nursery | None) -> bool:
        """It is there, and can do more; else it is started, where it can be. No nursery: there is no loop yet."""
        self._start()
        if nursery is None:
            self._look()
        else:
            self.listen(nursery)
        return self._child is not None and self._child.is_ready and len(self._orders) < MAX_ORDERS

    def attach(self, here: BlobHere, blob_fd: int, data_fd: int) -> int | None:
        """A number for the blob's orders; `here` is given it. None where it is not to be had. The descriptors stay the caller's."""
        self._blobs += 1
        return self._blobs if self._send(here._replace(number=self._blobs).encode(), (blob_fd, data_fd)) else None

    def detach(self, blob: int) -> None:
        self._send(Gone(blob).encode())

    def order(self, blob: int, indexes: Sequence[int], table: bytes, records: bytes, reported: Reported) -> int | None:
        """The order's number; None where it cannot take it. `reported` is called later, once, where it can."""
        number = self._last_order + 1
        if not self._send(Order(number, blob, indexes, table, records).encode()):
            return None
        if not self._orders:
            self._since = time.monotonic()
        self._last_order = number
        self._orders[number] = reported
        return number

    def wait_here(self, order: int) -> None:
        """Until what became of it is known, or for PATIENCE_S. Blocks: before there is a loop."""
        until = time.monotonic() + PATIENCE_S
        while order in self._orders and self._child is not None and (left := until - time.monotonic()) > 0:
            self._child.wait(min(left, self._left_s()))
            self._look()

    def listen(self, nursery: trio.Nursery) -> None:
        """To the process that has been started, if there is one."""
        if self._child is not None and not self._is_listened_to:
            self._is_listened_to = True
            nursery.start_soon(self._listen, self._child)

    def close(self) -> None:
        """End the process. What it was ordered is given up."""
        if self._child is None:
            return
        if self._is_listened_to:
            trio.lowlevel.notify_closing(self._child.socket)
        self._child.end()
        self._dying.append(self._child)
        self._child, self._is_listened_to = None, False
        self._reap()
        orders, self._orders = self._orders, {}
        for reported in orders.values():
            _tell(reported, None)

    def _send(self, message: bytes, fds: tuple[int, ...] = ()) -> bool:
        return self._child is not None and self._child.send(message, fds)

    def _reap(self) -> None:
        self._dying = [child for child in self._dying if not child.is_reaped()]

    def _start(self) -> None:
        """Not where there is one already, or none can be."""
        if self._child is not None or self._failures >= MAX_FAILURES or len(os.sched_getaffinity(0)) < 2:
            return
        self._reap()
        try:
            self._child = spawn()
        except OSError as e:
            self._is_of_no_use(f"no process can be started: {e}")
            return
        self.generation += 1
        self._since = time.monotonic()

    # ---- what it says -------------------------------------------------------------------------

    async def _listen(self, child: Child) -> None:
        """Until the process ends, stands still or is no longer wanted."""
        try:
            while self._child is child:
                with trio.move_on_after(self._left_s()):
                    await trio.lowlevel.wait_readable(child.socket)
                if self._child is child:
                    self._look()
        except trio.ClosedResourceError:  # by `close`
            return
        finally:
            if self._child is child:
                self.close()

    def _left_s(self) -> float:
        """Until it stands still or, if it has nothing to do, is no longer wanted."""
        return max(0.0, self._since + (SILENCE_S if self._orders else IDLE_S) - time.monotonic())

    def _look(self) -> None:
        """Take what it has said, and end it if it is time to."""
        if (child := self._child) is None:
            return
        if not self._take_reports(child):
            self._fail("has ended")
        elif not self._left_s():
            if self._orders or not child.is_ready:
                self._fail("stands still")
            else:
                self.close()

    def _take_reports(self, child: Child) -> bool:
        """All that are there; False where no more will come."""
        with suppress(BlockingIOError):
            while self._child is child and (message := child.receive()):
                self._since = time.monotonic()
                self._take_report(message)
            return self._child is not child
        return True

    def _take_report(self, message: bytes) -> None:
        try:
            report = decode_report(message)
            version = report.error if report.number == 0 else __version__
        except (StructError, ValueError):
            version = "another"
        if version != __version__:
            self._is_of_no_use(f"this is version {__version__}, and {version} has taken its place on the disk")
            self.close()
        elif (reported := self._orders.pop(report.number, None)) is not None:
            _tell(reported, report)

    def _is_of_no_use(self, why: str) -> None:
        self._failures = MAX_FAILURES
        log.info("caches are filled ahead by worker threads alone: %s", why)

    def _fail(self, what: str) -> None:
        self._failures += 1
        log.warning("the process that fills caches ahead %s; worker threads do its work", what)
        self.close()


def _tell(reported: Reported, report: Report | None) -> None:
    """What goes wrong with one of them is not the others', who wait to be told."""
    try:
        reported(report)
    except Exception:
        log.exception("what was filled ahead is not noted")

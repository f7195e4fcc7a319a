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
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from nydus_app.storage.filler.wire import MAX_MESSAGE, BlobHere, Gone, Order, Report, decode_report

log = logging.getLogger("nydus.storage")

IDLE_S = SILENCE_S = 5.0
"""An order takes some ms. Who has not reported on one for so long stands still."""

MAX_ORDERS = 16
"""Under way at a time, of up to a MiB each: where several readers want more than that, threads on other cores help."""

MAX_FAILURES = 3
"""After so many ends that nobody wanted it is not started again."""

END_MS = 200

PROGRAM = "import sys; fd, *sys.path = sys.argv[1:]; from nydus_app.storage.filler.process import main; main(int(fd))"
CHILD_FD = 3

Reported = Callable[[Report | None], None]
"""Called with what became of an order, or None when it was given up."""


class Filler:
    """`generation` changes with each process; blobs that were attached are attached to one of them."""

    def __init__(self) -> None:
        self.generation = 0
        self._process: Process | None = None
        self._since = 0.0  # when something was heard of it last, or it was given something to do
        self._socket: socket.socket | None = None
        self._is_listened_to = self._is_ready = False
        self._orders: dict[int, Reported] = {}
        self._blobs = 0
        self._last_order = 0
        self._failures = 0

    def is_at_hand(self, nursery: trio.Nursery | None) -> bool:
        """It is there, and can do more; else it is started, where it can be. No nursery: there is no loop yet."""
        self._start()
        if nursery is None:
            self._look(0)
        else:
            self.listen(nursery)
        return self._is_ready and len(self._orders) < MAX_ORDERS

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
        """Until what became of it is known. Blocks: before there is a loop."""
        while order in self._orders:
            if (left := self._deadline() - time.monotonic()) > 0:
                self._look(left)
            else:
                self._failed("stands still")
                self.close()

    def _look(self, timeout_s: float) -> None:
        if self._socket is None:
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if poll.poll(timeout_s * 1000) and not self._take_reports(self._socket):
            self._failed("has ended")
            self.close()

    def close(self) -> None:
        """End the process. What it was ordered is given up."""
        if self._socket is None:
            return
        if self._is_listened_to:
            trio.lowlevel.notify_closing(self._socket)
        self._socket.close()
        self._socket, self._is_listened_to, self._is_ready = None, False, False
        if self._process is not None:
            _end(self._process)
            self._process = None
        orders, self._orders = self._orders, {}
        for reported in orders.values():
            reported(None)

    def _send(self, message: bytes, fds: tuple[int, ...] = ()) -> bool:
        if self._socket is None or not self._is_ready or len(message) > MAX_MESSAGE:
            return False
        try:
            socket.send_fds(self._socket, [message], fds)
        except OSError:  # it is too busy to read, or gone; who listens will see
            return False
        return True

    # ---- the process --------------------------------------------------------------------------

    def _start(self) -> None:
        """Not where there is one already, or none can be."""
        if self._socket is not None or self._failures >= MAX_FAILURES or len(os.sched_getaffinity(0)) < 2:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        theirs.setblocking(True)
        try:
            self._process = _spawn(theirs.fileno())
        except OSError as e:
            ours.close()
            self._failures = MAX_FAILURES
            log.info("caches are filled ahead by worker threads alone: no process can be started: %s", e)
            return
        finally:
            theirs.close()
        self.generation += 1
        self._socket = ours

    def listen(self, nursery: trio.Nursery) -> None:
        """To the process that has been started, if there is one."""
        if self._socket is not None and not self._is_listened_to:
            self._is_listened_to = True
            self._since = time.monotonic()
            nursery.start_soon(self._listen, self._socket)

    async def _listen(self, ours: socket.socket) -> None:
        """Until the process ends, stands still or is no longer wanted."""
        try:
            while (left := self._deadline() - time.monotonic()) > 0:
                with trio.move_on_after(left) as patience:
                    await trio.lowlevel.wait_readable(ours)
                if not patience.cancelled_caught and not self._take_reports(ours):
                    self._failed("has ended")
                    return
            if self._orders or not self._is_ready:
                self._failed("stands still")
        except trio.ClosedResourceError:  # by `close`
            return
        finally:
            if self._socket is ours:
                self.close()

    def _deadline(self) -> float:
        return self._since + (SILENCE_S if self._orders else IDLE_S)

    def _take_reports(self, ours: socket.socket) -> bool:
        """All that are there; False where no more will come."""
        self._since = time.monotonic()
        with suppress(BlockingIOError):
            while message := _received(ours):
                report = decode_report(message)
                self._is_ready = True
                if (reported := self._orders.pop(report.number, None)) is not None:
                    reported(report)
            return False
        return True

    def _failed(self, what: str) -> None:
        self._failures += 1
        log.warning("the process that fills caches ahead %s; worker threads do its work", what)


def _received(ours: socket.socket) -> bytes:
    try:
        return ours.recv(MAX_MESSAGE)
    except ConnectionError:
        return b""


class Process(NamedTuple):
    pid: int
    fd: int  # pidfd_open(2)


def _spawn(fd: int) -> Process:
    """Raises OSError. It gets nothing but `fd` and the standard streams: a session that it held would outlive the daemon."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    if not sys.executable:
        raise OSError("there is no interpreter to start")
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    words = [sys.executable, *flags, "-c", PROGRAM, str(CHILD_FD), package, *sys.path]
    pid = os.posix_spawn(sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, fd, CHILD_FD)])
    return Process(pid, os.pidfd_open(pid))


def _end(process: Process) -> None:
    """It is killed, which loses nothing, and waited for, though not for ever: what waits for a disk dies later."""
    with suppress(ProcessLookupError, ChildProcessError):
        signal.pidfd_send_signal(process.fd, signal.SIGKILL)
        poll = select.poll()
        poll.register(process.fd, select.POLLIN)
        if poll.poll(END_MS):
            os.waitpid(process.pid, 0)
    os.close(process.fd)

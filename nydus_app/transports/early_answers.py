"""A mount that answers before trio is there: what need not wait is answered by a thread.

The import of trio takes as long as all the rest of a start. A mount that answers meanwhile lets its user go on, and an
EROFS be mounted over its devices. A READ is answered where the data lie on this machine (`storage/hop`), one after the
other; one that has to wait for a backend is put aside for the loop.

Concurrency: from `__init__` to `end` the session and the channel's receiving side are this thread's alone.
"""

import logging
import os
import select
import sys
import threading
import time

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse.numbers import Opcode
from nydus_app.protocols.fuse.requests import Request, decode_request
from nydus_app.storage.hop import NeedsLoop, run_here
from nydus_app.transports.fuse_channel import FuseChannel
from nydus_app.transports.fuse_session import FuseSession, Parts

log = logging.getLogger("nydus.fuse")

SWITCH_S = 0.0001
"""So long the import goes on when this thread wants the interpreter; it wants it some twenty times for a MiB."""

READ_S, QUIET_S = 0.1, 0.02
"""A read, and the pause before the next one of the same reader, are over within these, or leave the interpreter alone."""

PATIENCE_S = 1.5
"""So long at most readers have precedence over the loop, which brings the API, and several threads to decode large chunks in.
Who starts daemons waits six times as long for the socket, and reads only then."""


class EarlyAnswers:
    """Answers from now on until `end`, or until the mount is gone."""

    def __init__(self, session: FuseSession, channel: FuseChannel) -> None:
        self._session = session
        self._channel = channel
        self._postponed: list[memoryview] = []
        self._is_over = False
        self._quiet_from = 0.0
        self._patient_until = time.monotonic() + PATIENCE_S
        self._end = os.eventfd(0)
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        self._thread = threading.Thread(target=self._run, name="early-answers", daemon=True)
        self._thread.start()

    def stand_back(self) -> None:
        """Returns when nobody reads, or readers pause, somebody waits for the loop, or after PATIENCE_S."""
        while time.monotonic() < min(self._quiet_from, self._patient_until) and not self._postponed:
            time.sleep(QUIET_S / 10)

    def end(self) -> list[memoryview]:
        """The messages that wait for an answer, in their order. Called once."""
        self._is_over = True
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        sys.setswitchinterval(self._switch_s)
        return self._postponed

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        poll.register(self._channel.fd, select.POLLIN)
        while True:
            poll.poll()
            while not self._is_over and (message := self._channel.take()) is not None:
                if not message:
                    return
                self._answer_or_postpone(message)
            if self._is_over:
                return

    def _answer_or_postpone(self, message: memoryview) -> None:
        try:
            self._answer(message)
        except Exception:  # the loop tries it once more
            log.exception("an early answer failed")
            self._postponed.append(memoryview(bytes(message)))

    def _answer(self, message: memoryview) -> None:
        try:
            request = decode_request(message)
        except ProtocolViolation as e:
            log.error("%s", e)
            return
        if request.opcode != Opcode.READ:
            self._channel.reply(request.unique, self._session.answer_now(request))
        elif (parts := self._read(request)) is not None:
            self._channel.reply(request.unique, parts)
        else:
            self._postponed.append(memoryview(bytes(message)))

    def _read(self, request: Request) -> Parts | None:
        """None where it has to wait for the loop."""
        self._quiet_from = time.monotonic() + READ_S
        try:
            parts = run_here(self._session.answer(request))
        except NeedsLoop:
            self._quiet_from = 0.0
            return None
        self._quiet_from = time.monotonic() + QUIET_S
        return parts

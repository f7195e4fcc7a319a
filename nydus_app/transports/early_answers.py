"""A mount that answers before trio is there: what need not wait is answered by a thread.

The import of trio takes as long as all the rest of a start. A mount that answers lookups and listings lets its
user go on in that time, and an EROFS be mounted over its devices; a READ, which may have to wait for a backend, is put
aside for the loop.

Concurrency: from `__init__` to `end` the session and the channel's receiving side are this thread's alone.
"""

import logging
import os
import select
import threading

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse.numbers import Opcode
from nydus_app.protocols.fuse.requests import decode_request
from nydus_app.transports.fuse_channel import FuseChannel
from nydus_app.transports.fuse_session import FuseSession

log = logging.getLogger("nydus.fuse")


class EarlyAnswers:
    """Answers from now on until `end`, or until the mount is gone."""

    def __init__(self, session: FuseSession, channel: FuseChannel) -> None:
        self._session = session
        self._channel = channel
        self._postponed: list[memoryview] = []
        self._end = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="early-answers", daemon=True)
        self._thread.start()

    def end(self) -> list[memoryview]:
        """The messages that wait for an answer, in their order. Called once."""
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        return self._postponed

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        poll.register(self._channel.fd, select.POLLIN)
        while not any(fd == self._end for fd, _ in poll.poll()):
            while message := self._channel.take():
                self._answer(message)
            if message is not None:
                return

    def _answer(self, message: memoryview) -> None:
        try:
            request = decode_request(message)
        except ProtocolViolation as e:
            log.error("%s", e)
            return
        if request.opcode == Opcode.READ:
            self._postponed.append(memoryview(bytes(message)))
        else:
            self._channel.reply(request.unique, self._session.answer_now(request))

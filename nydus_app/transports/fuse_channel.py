"""Messages from and to an open /dev/fuse with a mount behind it; waiting is the caller's business.

Concurrency: one thread at a time takes, into the one buffer; the codec copies out of it whatever is used
after the message's first wait. Replies may come from any thread.
"""

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import suppress

from nydus_app.formats.codec.compress import Buffer
from nydus_app.protocols.fuse.replies import encode_error, encode_resend
from nydus_app.transports.fuse_session import MAX_WRITE

log = logging.getLogger("nydus.fuse")

BUFFER_SIZE = MAX_WRITE + 4096
"""The kernel wants room for a WRITE with its headers."""

MAX_PARTS = 1024
"""IOV_MAX."""

UNMOUNTED = (errno.ENODEV, errno.ECONNABORTED)
AGAIN = (errno.EINTR, errno.ENOENT)
"""A signal; a request that was withdrawn while it was read."""


class FuseChannel:
    """The descriptor stays the caller's, and does not block from now on."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._buffer = memoryview(bytearray(BUFFER_SIZE))

    def take(self) -> memoryview | None:
        """The next message, valid until the next call; None where there is none yet, empty where there will be none."""
        while True:
            try:
                return self._buffer[: os.readv(self.fd, [self._buffer])]
            except BlockingIOError:
                return None
            except OSError as e:
                if e.errno in UNMOUNTED:
                    return self._buffer[:0]
                if e.errno not in AGAIN:
                    raise

    def reply(self, unique: int, parts: Sequence[Buffer]) -> None:
        """No parts are no reply. A reply that the kernel refuses becomes EIO."""
        if not parts:
            return
        if len(parts) > MAX_PARTS:
            parts = [parts[0], b"".join(parts[1:])]
        try:
            os.writev(self.fd, parts)
        except OSError as e:
            if e.errno in (errno.ENOENT, *UNMOUNTED):  # nobody waits any more
                return
            log.error("the kernel refuses a reply: %s", e.strerror)
            with suppress(OSError):
                os.write(self.fd, encode_error(unique, errno.EIO))

    def resend(self) -> None:
        """Have the kernel send again what it has sent and got no reply to (Linux 6.9)."""
        try:
            os.write(self.fd, encode_resend())
        except OSError as e:
            log.warning("this kernel does not send again what was in flight (%s)", e.strerror)

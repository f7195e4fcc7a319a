"""Questions to a FUSE mount that this very process answers.

Whoever waits for an answer to a request that was read from /dev/fuse already cannot be killed (Linux,
`request_wait_answer`), and a process that is killed closes its descriptors when its last thread has ended: it
would wait for itself, and its mount's readers with it, for ever. So they are asked in a thread with a table of
descriptors of its own (`unshare(2)`, CLONE_FILES) in which sessions are closed: the others end, and the session with them.
"""

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

CLONE_FILES = 0x400


def call_apart(function: Callable[[], Iterable[int]]) -> list[int]:
    """Call `function` in such a thread. Raises what it raises.

    The descriptors that it yields become this process's (close-on-exec); whatever else it opens is
    the thread's, and closed with it.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            # Where even this is forbidden (seccomp) the table is shared, and sessions are to stay open.
            if ctypes.CDLL(None).unshare(CLONE_FILES) == 0:
                _close_sessions()
            for fd in function():
                socket.send_fds(theirs, [b"+"], [fd])
                os.close(fd)
        except BaseException as e:
            failures.append(e)
        finally:
            theirs.send(b".")

    received: list[int] = []
    with ours, theirs:
        thread = threading.Thread(target=run, name="apart", daemon=True)
        thread.start()
        while (message := socket.recv_fds(ours, 1, 1, socket.MSG_CMSG_CLOEXEC))[0] == b"+":
            received += message[1]
            if not message[1]:
                failures.append(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
        thread.join()
    if failures:
        for fd in received:
            os.close(fd)
        raise failures[0]
    return received


def _close_sessions() -> None:
    """All descriptors of /dev/fuse that this thread has: libfuse keeps a duplicate of ours."""
    own = "/proc/thread-self/fd"
    for name in os.listdir(own):
        with suppress(OSError):  # the listing's own
            if os.readlink(f"{own}/{name}") == "/dev/fuse":
                os.close(int(name))

"""The process that fills caches and the socket to it, which begin and end together."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
from contextlib import suppress

from nydus_app.storage.filler.wire import MAX_MESSAGE

END_MS = 200

CHILD_FD = 3
PROGRAM = f"""
import os, sys
os.closerange({CHILD_FD + 1}, os.sysconf("SC_OPEN_MAX"))
sys.path[:] = sys.argv[1:]
from nydus_app.storage.filler.process import main
main({CHILD_FD})
"""


class Child:
    """`is_ready`: it has said something."""

    def __init__(self, pid: int, ours: socket.socket) -> None:
        self.pid = pid
        self.socket = ours
        self.is_ready = False
        self._is_reaped = False

    def send(self, message: bytes, fds: tuple[int, ...] = ()) -> bool:
        """False where it cannot be given it: it is not ready, too busy to read, or gone."""
        if not self.is_ready or len(message) > MAX_MESSAGE:
            return False
        try:
            socket.send_fds(self.socket, [message], fds)
        except OSError:
            return False
        return True

    def receive(self) -> bytes:
        """Its next message; empty when it has ended. BlockingIOError where there is none yet."""
        try:
            message = self.socket.recv(MAX_MESSAGE)
        except ConnectionError:
            return b""
        self.is_ready = True
        return message

    def wait(self, timeout_s: float) -> None:
        """Until there is something to receive. Blocks."""
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        poll.poll(timeout_s * 1000)

    def end(self) -> None:
        """It is killed, which loses nothing, and waited for, though not for ever: what waits for a disk dies later."""
        poll = select.poll()
        poll.register(self.socket, 0)  # whoever dies hangs up
        if not poll.poll(0):
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        if poll.poll(END_MS):
            self._reap(0)
        self.socket.close()

    def is_reaped(self) -> bool:
        """After `end`: it is quite gone."""
        if not self._is_reaped:
            self._reap(os.WNOHANG)
        return self._is_reaped

    def _reap(self, flags: int) -> None:
        try:
            self._is_reaped = os.waitpid(self.pid, flags)[0] != 0
        except ChildProcessError:  # who started the daemon ignores SIGCHLD
            self._is_reaped = True


def spawn() -> Child:
    """Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    theirs.setblocking(True)
    try:
        return Child(_spawn(theirs.fileno()), ours)
    except OSError:
        ours.close()
        raise
    finally:
        theirs.close()


def _spawn(fd: int) -> int:
    """It gets nothing but `fd` and the standard streams: a session that it held would outlive the daemon."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
    if not sys.executable:
        raise OSError("there is no interpreter to start")
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    words = [sys.executable, *flags, "-c", PROGRAM, package, *sys.path]
    return os.posix_spawn(sys.executable, words, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, fd, CHILD_FD)])

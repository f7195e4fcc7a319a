"""Leases (`fcntl(2)`, F_SETLEASE) as a question: does anybody else have this file open?

The kernel grants a write lease for a file that nobody else has open, neither a process nor a mount: an EROFS whose
daemon was killed still has its devices open, though no lock tells of them any more.
"""

import errno
import fcntl
import signal

F_SETSIG = 10


def is_open_elsewhere(fd: int) -> bool:
    """`fd` is open for writing. False also where the file system knows no leases, or the file is another user's."""
    # Who opens the file in this instant breaks the lease, and the notice must not end this process.
    fcntl.fcntl(fd, F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as e:
        return e.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False

"""One measurement at a time on a host, whoever started it: two would show each other's load."""

import fcntl
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def host_to_ourselves() -> Iterator[None]:
    """Waits, and says so once. The lock lies on the directory for temporary files, so nothing is left behind."""
    fd = os.open(tempfile.gettempdir(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("nydus-bench: waits for another measurement on this host", file=sys.stderr)
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)

"""Who may do what in a cache directory: flock(2) on the directory itself.

Daemons that only add share it; one whose cache is bounded, and `nydusctl` while it removes something, have it alone.
nydusd takes no lock. Who has to know whether one is there asks file by file (`linux/lease.py`).
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nydus_app.errors import CacheError

DEADLINE_S = 2.0
"""`nydusctl` has a directory for moments only: so long a daemon waits for it."""


def lock_directory(path: str, *, alone: bool, deadline_s: float = DEADLINE_S) -> int:
    """A descriptor that holds the lock until it is closed. Raises CacheError, which names the holders."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise CacheError(f"{path}: {e.strerror}") from None
    end = time.monotonic() + deadline_s
    try:
        while True:
            try:
                fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
                return fd
            except BlockingIOError:
                if time.monotonic() >= end:
                    how = "a bounded cache needs a directory of its own, and" if alone else "the bounded cache of"
                    raise CacheError(f"{path}: {how} {_holders(fd)} has it") from None
                time.sleep(0.02)
    except OSError as e:  # a file system without locks
        if not alone:
            return fd
        os.close(fd)
        raise CacheError(f"{path}: {e.strerror}") from None
    except BaseException:
        os.close(fd)
        raise


@contextmanager
def directory_alone(path: str) -> Iterator[None]:
    """For as long as the block runs. Raises CacheError at once where somebody has the directory."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as e:
        raise CacheError(f"{path}: {e.strerror}") from None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CacheError(f"{path} is in use by {_holders(fd)}") from None
        yield
    finally:
        os.close(fd)


def holders_of(path: str) -> str:
    """Who has locked the directory, as text; empty where nobody has, or it cannot be looked at."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return f"process {', '.join(pids)}" if (pids := _pids(fd)) else ""
    finally:
        os.close(fd)


def _holders(fd: int) -> str:
    return f"process {', '.join(_pids(fd)) or 'unknown'}"


def _pids(fd: int) -> list[str]:
    """The processes that lock this file, by `/proc/locks` (`proc_locks(5)`); "->" marks who waits."""
    there = os.fstat(fd)
    place = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:{there.st_ino}"
    with open("/proc/locks") as table:
        rows = [line.split() for line in table]
    return sorted({row[4] for row in rows if "->" not in row and place in row}, key=int)

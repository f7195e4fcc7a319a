"""What a kernel is told of an error: its errno, and a log line where somebody has to look."""

import errno
import logging

from nydus_app.errors import NydusError

log = logging.getLogger("nydus.fuse")

MAX_ERRNO = 511
"""The kernel refuses replies with larger ones (`fuse_dev_do_write`) and goes on waiting."""


def errno_of(error: Exception, what: str) -> int:
    """OSErrors are answers and say nothing; all else is logged, what is nobody's error class with its cause."""
    number: int | None = errno.EIO
    if isinstance(error, OSError):
        number = error.errno
    elif isinstance(error, NydusError):
        log.error("%s: %s", what, error)
        number = error.errno
    else:
        log.error("%s: unexpected error, answered with EIO", what, exc_info=error)
    return number if number is not None and 0 < number <= MAX_ERRNO else errno.EIO

"""RLIMIT_NOFILE (contract 2.3); where it cannot be raised, a warning instead of a failure."""

import logging
import resource

log = logging.getLogger("nydus.daemon")

FILE_MAX = "/proc/sys/fs/file-max"
RESERVED_FILES = 16384
MAX_FILES = 1_000_000


def raise_nofile(requested: int) -> None:
    """Soft and hard limit to `requested`, as far as the system allows; 0 leaves them alone."""
    if not requested:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(requested, max(_ceiling(), soft))
    for soft_limit, hard_limit in ((wanted, wanted), (min(wanted, hard), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
        except (OSError, ValueError):
            continue
        break
    got = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if got < min(requested, MAX_FILES):
        log.warning("the limit of open files is %d: it could not be raised to %d", got, requested)
    else:
        log.info("the limit of open files is %d", got)


def _ceiling() -> int:
    """What the system has for one process; a sandbox without /proc/sys does not tell."""
    try:
        with open(FILE_MAX, encoding="ascii") as f:
            return min(int(f.read()) - RESERVED_FILES, MAX_FILES)
    except OSError:
        return MAX_FILES

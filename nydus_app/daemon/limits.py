"""RLIMIT_NOFILE (contract 2.3); where it cannot be raised, a warning instead of a failure."""

import logging
import resource

log = logging.getLogger("nydus.daemon")

RESERVED_FILES = 16384
MAX_FILES = 1_000_000


def raise_nofile(requested: int) -> None:
    """Soft and hard limit to `requested`, as far as the system allows; 0 leaves them alone."""
    if not requested:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/proc/sys/fs/file-max", encoding="ascii") as f:
        ceiling = min(int(f.read()) - RESERVED_FILES, MAX_FILES)
    wanted = min(requested, max(ceiling, soft))
    for soft_limit, hard_limit in ((wanted, wanted), (min(wanted, hard), hard)):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft_limit, hard_limit))
        except (OSError, ValueError):
            continue
        break
    got = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if got < min(requested, MAX_FILES):
        log.warning("the limit of open files is %d; %d could not be had", got, requested)
    else:
        log.info("the limit of open files is %d", got)

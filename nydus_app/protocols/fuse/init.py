"""INIT: what the kernel offers and what we want, made one."""

from typing import NamedTuple

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse.numbers import FIRST_MINOR_VERSION, KERNEL_VERSION, MINOR_VERSION, InitFlags
from nydus_app.protocols.fuse.requests import Init


class Settings(NamedTuple):
    """`struct fuse_init_out`. Numbers only: as a wish, as a reply, and as what a successor has to know."""

    major: int
    minor: int
    max_readahead: int
    flags: int
    max_background: int
    congestion_threshold: int
    max_write: int
    time_gran: int
    max_pages: int


def negotiate(offered: Init, wanted: Settings) -> Settings:
    """The reply to INIT. Raises ProtocolViolation for a kernel that is too old.

    Flags are those that both have. A kernel of a later major version gets ours, and will ask again.
    The read-ahead is the larger of both: the kernel takes the smaller of the reply and its own limit.
    """
    if offered.major < KERNEL_VERSION or (offered.major == KERNEL_VERSION and offered.minor < FIRST_MINOR_VERSION):
        raise ProtocolViolation(f"the kernel speaks FUSE {offered.major}.{offered.minor}, too old")
    flags = offered.flags & wanted.flags
    return wanted._replace(
        major=KERNEL_VERSION,
        minor=min(offered.minor, MINOR_VERSION) if offered.major == KERNEL_VERSION else MINOR_VERSION,
        max_readahead=max(offered.max_readahead, wanted.max_readahead),
        flags=int(flags),
        max_pages=wanted.max_pages if flags & InitFlags.MAX_PAGES else 0,
    )

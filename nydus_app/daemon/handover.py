"""What a successor needs to take a mount over: the session's descriptor, and this table.

The kernel keeps a FUSE session for as long as anybody holds its descriptor. Who holds it for a daemon (a
supervisor, a keeper process) is told by `Keeper.keep` when the daemon serves; a daemon that is given both
answers what was in flight and goes on, and no reader notices. The table says what the kernel will not tell
again: what INIT agreed upon, and which blob is behind which device.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse.init import Settings


class Session(NamedTuple):
    """`served` are the ids of blobs behind the device files of an EROFS mount, in the order of their inodes.

    `image` tells two images, or two ways to lay one out, from each other.
    """

    mountpoint: str
    data_path: str  # erofs or fuse
    settings: Settings
    served: tuple[str, ...]
    image: str


class Inherited(NamedTuple):
    """`fd` is the session's /dev/fuse descriptor, from then on the daemon's."""

    fd: int
    session: Session


class Keeper(Protocol):
    def keep(self, fd: int, session: Session) -> None:
        """The descriptor stays the daemon's: duplicate or send it."""
        ...


def encode_session(session: Session) -> bytes:
    return json.dumps(session._asdict() | {"settings": session.settings._asdict()}).encode()


def decode_session(raw: bytes) -> Session:
    """Raises ProtocolViolation."""
    try:
        table = json.loads(raw)
        settings = Settings(**table["settings"])
        session = Session(table["mountpoint"], table["data_path"], settings, tuple(table["served"]), table["image"])
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise ProtocolViolation(f"no table of a session: {type(e).__name__} {e}") from None
    words: Sequence[object] = (session.mountpoint, session.data_path, session.image, *session.served)
    if not all(isinstance(w, str) for w in words) or not all(isinstance(n, int) for n in settings):
        raise ProtocolViolation("no table of a session: a value is of the wrong type")
    return session

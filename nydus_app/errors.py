"""One error tree, by whose fault it is.

Each class carries what the three edges need, so that no edge keeps a ladder of its own:
`errno` (a FUSE reply), `http_status` (an API reply) and `exit_code` (a command).
"""

import errno as _errno
from typing import ClassVar


class NydusError(Exception):
    """Root of everything this package raises on purpose; its text is one line for a person."""

    errno: ClassVar[int] = _errno.EIO
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    cause: ClassVar[str] = "failed"
    """What it is counted as, in a few words that are the same for all of the kind."""


class ConfigError(NydusError):
    """A flag, key, file or combination that cannot be meant; nothing has happened yet."""

    errno = _errno.EINVAL
    http_status = 400
    exit_code = 2


class ConfigFileError(ConfigError):
    """A file named on the command line is missing, unreadable or not what it should be."""

    exit_code = 1


class Unsupported(NydusError):
    """A legal wish that this program does not fulfil."""

    errno = _errno.ENOTSUP
    http_status = 501
    exit_code = 2


class InvalidImage(NydusError):
    """Bytes of an image (bootstrap, blob, table) break the format or a bound."""


class UnsupportedImage(InvalidImage):
    """A well-formed image that uses a feature this program does not read."""

    errno = _errno.ENOTSUP


class CorruptChunk(InvalidImage):
    """A chunk does not decode to its length, digest or checksum."""

    cause = "wrong data"


class ProtocolViolation(NydusError):
    """A kernel, guest or client broke the wire protocol."""

    errno = _errno.EPROTO
    http_status = 400


class BackendError(NydusError):
    """The place that holds the blobs did not deliver."""


class BackendNotFound(BackendError):
    """The blob is not there."""

    cause = "not found"


class BackendDenied(BackendError):
    """Access to the blob was refused."""

    cause = "denied"


class BackendUnavailable(BackendError):
    """The backend failed in a way that another try may cure, after `retry_after_s` where it has said so."""

    cause = "unavailable"

    def __init__(self, text: str, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class NotTls(BackendUnavailable):
    """Who was asked by TLS does not speak it, or nobody listens there."""

    cause = "no TLS"


class CacheError(NydusError):
    """The cache directory or a file in it cannot be used."""


class MountError(NydusError):
    """The kernel or the mount helper refused the mount."""


class StateConflict(NydusError):
    """An event that the daemon's state does not allow (`daemon/state.py`)."""

    http_status = 400

"""The port behind which blobs lie. Wrappers (retry, limit, meter …) fulfil it as well."""

from typing import Protocol, runtime_checkable

from nydus_app.storage.backend.extent import Extent


class BlobReader(Protocol):
    """One blob. Readers open lazily: a blob that is never read need not exist."""

    async def size(self) -> int:
        """Bytes of the whole object. Raises BackendError."""
        ...

    async def read(self, offset: int, size: int) -> bytes | bytearray:
        """Exactly `size` bytes at `offset`, or BackendError. Cancelling it loses nothing."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class SupportsPread(Protocol):
    """A reader whose `read` is a local system call: fetch and decode then share one thread hop."""

    def pread(self, offset: int, size: int) -> bytes:
        """As `read`, blocking; any thread."""
        ...

    def extent(self) -> Extent:
        """Where the blob lies; the descriptor stays the reader's. Blocks; raises BackendError."""
        ...


@runtime_checkable
class TakesCredentials(Protocol):
    """A backend whose credentials may be replaced while it is used."""

    def replace_credentials(self, auth: str) -> None:
        """`auth` is base64 of user:password; used from the next request on. Raises ConfigError."""
        ...


class Backend(Protocol):
    def open_blob(self, blob_id: str) -> BlobReader: ...

    def describe(self) -> str:
        """One phrase for errors and logs, without secrets."""
        ...

"""Reading bytes that nobody vouches for.

`Untrusted` is a view of a file; every read is bounded by the file's end and raises InvalidImage
behind it, so no `struct.error`, `IndexError` or allocation by a hostile count escapes a format.
"""

from struct import Struct
from typing import Any

from nydus_app.errors import InvalidImage


class Untrusted:
    """A read-only view; offsets are from the start of the file. `what` names it in errors."""

    def __init__(self, buffer: bytes | bytearray | memoryview, what: str) -> None:
        self.view = memoryview(buffer)
        self.size = len(self.view)
        self.what = what

    def check(self, offset: int, size: int, of: str) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise InvalidImage(f"{self.what}: {of} at {offset} with {size} bytes lies outside of {self.size} bytes")

    def unpack(self, layout: Struct, offset: int, of: str) -> tuple[Any, ...]:
        if offset < 0 or offset + layout.size > self.size:
            self.check(offset, layout.size, of)
        return layout.unpack_from(self.view, offset)

    def bytes(self, offset: int, size: int, of: str) -> bytes:
        self.check(offset, size, of)
        return bytes(self.view[offset : offset + size])

    def close(self) -> None:
        self.view.release()

"""Memory for what is large: it goes back to the kernel with the last view of it, and not all of it is taken at once.

What is inflated from zran contexts comes in pieces of half a MiB to 16 MiB. Between those of all sizes the allocator
would keep holes that none fits into: read through, a layer of 1 GiB made the daemon grow by 60 MiB.
"""

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager

TURN_BYTES = 8 << 20


def anonymous(size: int) -> mmap.mmap:
    """`size` zeros, more than none."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Turns:
    """Worker threads decode units of up to TURN_BYTES together, or one that is larger.

    Who waits here holds nothing that another needs.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + size <= TURN_BYTES)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()

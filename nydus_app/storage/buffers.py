"""Memory that goes back to the kernel with the last view of it.

What is inflated from zran contexts comes in pieces of half a MiB to 16 MiB. Between those of all sizes the allocator
would keep holes that none fits into: read through, a layer of 1 GiB made the daemon grow by 60 MiB.
"""

import mmap


def anonymous(size: int) -> mmap.mmap:
    """`size` zeros, more than none."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

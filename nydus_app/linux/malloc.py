"""glibc's allocator, told to keep what is freed (mallopt(3)).

Buffers of about a MiB come and go with every request. By default their memory goes back to the kernel each time, and
comes again as 256 page faults, which cost more than filling it. Other C libraries have no mallopt; nothing happens then.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
KEPT_BYTES = 32 << 20
"""Of an arena's free memory; also the largest threshold that glibc takes."""

ARENAS = 2
"""Threads share them: more would each keep memory of their own."""


def keep_freed_memory() -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    for parameter, value in ((M_ARENA_MAX, ARENAS), (M_MMAP_THRESHOLD, KEPT_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES)):
        mallopt(parameter, value)

"""fallocate(2) with FALLOC_FL_PUNCH_HOLE, which the standard library lacks."""

import ctypes
import os

FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE = 0x1, 0x2


def punch_hole(fd: int, start: int, end: int) -> None:
    """Bytes [start, end) read as zeros from now on; whole blocks of them go back to the file system. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    if end > start and libc.fallocate(fd, mode, ctypes.c_longlong(start), ctypes.c_longlong(end - start)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))

"""Calls of the C library that Python's `os` hides behind nicer ones. They let other threads run."""

import ctypes
import os
from typing import NamedTuple

_libc = ctypes.CDLL(None, use_errno=True)


class Dirent(ctypes.Structure):
    """struct dirent of 64-bit glibc."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(Dirent)
_libc.readdir.argtypes = _libc.closedir.argtypes = _libc.rewinddir.argtypes = _libc.telldir.argtypes = [ctypes.c_void_p]
_libc.telldir.restype = ctypes.c_long
_libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
_libc.getxattr.restype = _libc.listxattr.restype = ctypes.c_ssize_t
_libc.getxattr.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
_libc.listxattr.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]


class Found(NamedTuple):
    """An entry, and telldir(3) behind it; `kind` is DT_*."""

    name: bytes
    ino: int
    kind: int
    place: int


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


class Directory:
    """opendir(3)."""

    def __init__(self, path: str) -> None:
        self._dir = _libc.opendir(os.fsencode(path))
        if not self._dir:
            _check(-1)

    def __enter__(self) -> "Directory":
        return self

    def __exit__(self, *exc: object) -> None:
        _libc.closedir(self._dir)

    def read(self) -> Found | None:
        ctypes.set_errno(0)
        entry = _libc.readdir(self._dir)
        if not entry:
            _check(-1 if ctypes.get_errno() else 0)
            return None
        e = entry.contents
        return Found(e.d_name, e.d_ino, e.d_type, _libc.telldir(self._dir))

    def rest(self) -> list[Found]:
        return list(iter(self.read, None))

    def rewind(self) -> None:
        _libc.rewinddir(self._dir)

    def seek(self, place: int) -> None:
        _libc.seekdir(self._dir, place)


def getxattr(path: str, name: bytes, size: int) -> tuple[int, bytes]:
    """What getxattr(2) returns for a buffer of `size` bytes, and what it has written."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    got = _check(_libc.getxattr(os.fsencode(path), name, buffer, size))
    return got, buffer.raw[: got if size else 0]


def listxattr(path: str, size: int) -> tuple[int, bytes]:
    buffer = ctypes.create_string_buffer(max(size, 1))
    got = _check(_libc.listxattr(os.fsencode(path), buffer, size))
    return got, buffer.raw[: got if size else 0]

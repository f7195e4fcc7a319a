"""mount(2) and umount2(2), and the mount table (`proc_pid_mountinfo(5)`)."""

import ctypes
import os
from collections.abc import Iterator
from typing import NamedTuple

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOATIME = 0x400
MNT_DETACH = 0x2


def _call(name: str, path: str, *args: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)


def mount(source: str, target: str, fs_type: str, flags: int, options: str) -> None:
    """mount(2). Raises OSError."""
    _call(
        "mount",
        target,
        os.fsencode(source),
        os.fsencode(target),
        os.fsencode(fs_type),
        ctypes.c_ulong(flags),
        os.fsencode(options),
    )


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2). Raises OSError."""
    _call("umount2", target, os.fsencode(target), ctypes.c_int(flags))


class MountPoint(NamedTuple):
    """One line of mountinfo; `device` is "major:minor"."""

    device: str
    path: str
    fs_type: str
    source: str


def mounts() -> Iterator[MountPoint]:
    """The mount table of this process, in the order mounted."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as f:
        for line in f:
            left, _, right = line.partition(" - ")
            fields, (fs_type, source, *_) = left.split(" "), right.split(" ")
            yield MountPoint(fields[2], _unescape(fields[4]), fs_type, _unescape(source))


def mounts_at(path: str) -> list[MountPoint]:
    """What is mounted exactly at `path` (canonical), the topmost last."""
    return [m for m in mounts() if m.path == path]


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field

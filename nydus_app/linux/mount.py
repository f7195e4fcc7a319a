"""mount(2), umount2(2), fsopen(2) and its kin, and the mount table (`proc_pid_mountinfo(5)`)."""

import ctypes
import os
import select
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOATIME = 0x400
MNT_DETACH = 0x2

SYS_MOVE_MOUNT, SYS_FSOPEN, SYS_FSCONFIG, SYS_FSMOUNT = 429, 430, 431, 432
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MAX_VALUE = 255  # bytes of FSCONFIG_SET_STRING (Linux, `fs/fsopen.c`)
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOATIME = 0x1, 0x2, 0x4, 0x10
MOVE_MOUNT_F_EMPTY_PATH = 0x4
AT_FDCWD = -100


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


def _syscall(number: int, *args: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = libc.syscall(ctypes.c_long(number), *args)
    if done < 0:
        failed = ctypes.get_errno()
        raise OSError(failed, os.strerror(failed))
    return done


def mount_configured(fs_type: str, target: str, options: Iterable[tuple[str, str]], attributes: int) -> None:
    """Mount read-only by fsopen(2), fsconfig(2), fsmount(2), move_mount(2), whose options may be any number.

    mount(2) takes one page of them. Raises OSError.
    """
    fs = _syscall(SYS_FSOPEN, fs_type.encode(), ctypes.c_uint(FSOPEN_CLOEXEC))
    try:
        _syscall(SYS_FSCONFIG, fs, ctypes.c_uint(FSCONFIG_SET_FLAG), b"ro", None, 0)
        for key, value in options:
            words = key.encode(), os.fsencode(value)
            _syscall(SYS_FSCONFIG, fs, ctypes.c_uint(FSCONFIG_SET_STRING), *words, 0)
        _syscall(SYS_FSCONFIG, fs, ctypes.c_uint(FSCONFIG_CMD_CREATE), None, None, 0)
        tree = _syscall(SYS_FSMOUNT, fs, ctypes.c_uint(FSMOUNT_CLOEXEC), ctypes.c_uint(attributes))
    finally:
        os.close(fs)
    try:
        _syscall(SYS_MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH))
    finally:
        os.close(tree)


class MountPoint(NamedTuple):
    """One line of mountinfo; `device` is "major:minor"."""

    device: str
    path: str
    fs_type: str
    source: str


def mounts() -> Iterator[MountPoint]:
    """The mount table of this process, in the order mounted."""
    with open("/proc/self/mountinfo", "rb") as f:
        for line in map(os.fsdecode, f):  # paths as Python has them, whatever the locale
            left, _, right = line.partition(" - ")
            fields, (fs_type, source, *_) = left.split(" "), right.split(" ")
            yield MountPoint(fields[2], _unescape(fields[4]), fs_type, _unescape(source))


def mounts_at(path: str) -> list[MountPoint]:
    """What is mounted exactly at `path` (canonical), the topmost last."""
    return [m for m in mounts() if m.path == path]


def is_mounted(device: str | None, path: str) -> bool:
    """The file system `device` ("major:minor") is mounted at `path`, perhaps under another."""
    return device is not None and any(m.device == device for m in mounts_at(path))


def is_covered(device: str, path: str) -> bool:
    """umount2(2) takes the topmost mount of a place: one that somebody put over ours is not ours to take."""
    found = mounts_at(path)
    return bool(found) and found[-1].device != device


class MountTableWatch:
    """Becomes readable when the mount table of this process changes.

    The kernel reports a change of mountinfo as POLLERR | POLLPRI (`proc_pid_mounts(5)`), which event loops do
    not wait for; an epoll descriptor that watches it is readable then.
    """

    def __init__(self) -> None:
        self._table = open("/proc/self/mountinfo", "rb")
        self._epoll = select.epoll()
        self._epoll.register(self._table, select.EPOLLERR | select.EPOLLPRI)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def take(self) -> None:
        """Wait for the next change from now on."""
        self._epoll.poll(0)

    def close(self) -> None:
        self._epoll.close()
        self._table.close()


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        field = field.replace(code, chr(int(code[1:], 8)))
    return field

"""A /dev/fuse descriptor with a mount behind it: by mount(2) as root, else by fusermount3.

The descriptor is ours and not libfuse's, so that it can be handed over; the mount is ours to undo.
"""

import array
import errno
import os
import select
import shutil
import socket
import subprocess

from nydus_app.errors import MountError
from nydus_app.linux.apart import call_apart
from nydus_app.linux.mount import (
    MNT_DETACH,
    MS_NOATIME,
    MS_NODEV,
    MS_NOSUID,
    MS_RDONLY,
    is_covered,
    is_mounted,
    mount,
    mounts_at,
    unmount,
)

SOURCE = "rafs"
MAX_READ = (1 << 20) + 4096
LARGEST_REQUEST = (1 << 20) + 4096
"""A read(2) of less is EINVAL, whatever else there is to say."""

READ_AHEAD_KIB = 1024
"""One request of 1 MiB costs what eight of 128 KiB, the kernel's default, do not (measured: x3)."""


class FuseDevice:
    """A mounted FUSE file system's descriptor (close-on-exec) and its place."""

    def __init__(self, fd: int, mountpoint: str, *, is_privileged: bool) -> None:
        os.set_inheritable(fd, False)  # whoever had it would keep the session of a killed daemon
        self.fd = fd
        self.mountpoint = mountpoint
        self._is_privileged = is_privileged
        self._device = _device_number(mountpoint)

    def is_mounted(self) -> bool:
        """Our mount, not one that somebody put in its place: its device may have the number of ours, once that is free."""
        return not self._is_over() and is_mounted(self._device, self.mountpoint)

    def _is_over(self) -> bool:
        """The session ended with its last mount: ENODEV, as long as the descriptor is open. One that was aborted is still mounted."""
        if self.fd < 0:
            return False
        poll = select.poll()
        poll.register(self.fd, 0)
        if not poll.poll(0):
            return False
        try:
            os.readv(self.fd, [bytearray(LARGEST_REQUEST)])
        except OSError as e:
            return e.errno == errno.ENODEV
        return False

    def wait_until_served(self) -> None:
        """Until the first answer, which is one of this process's. Raises OSError."""

        def ask() -> tuple[int, ...]:
            os.statvfs(self.mountpoint)
            return ()

        call_apart(ask)

    def raise_read_ahead(self) -> None:
        """Best effort: only root may, and only where sysfs is mounted."""
        try:
            with open(f"/sys/class/bdi/{self._device}/read_ahead_kb", "w", encoding="ascii") as f:
                f.write(str(READ_AHEAD_KIB))
        except OSError:
            pass

    def unmount(self) -> None:
        """Take our mount away, busy or not. Nothing happens where it is gone. Raises MountError."""
        if not self.is_mounted():
            return
        if is_covered(self._device, self.mountpoint):
            raise MountError(f"cannot unmount {self.mountpoint}: something else is mounted over it")
        try:
            if self._is_privileged:
                unmount(self.mountpoint, MNT_DETACH)
                return
        except OSError as e:
            raise MountError(f"cannot unmount {self.mountpoint}: {e.strerror}") from None
        if error := _fusermount("-u", "-z", "--", self.mountpoint):
            raise MountError(f"cannot unmount {self.mountpoint}: {error}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _device_number(mountpoint: str) -> str:
    """From the mount table: a stat of the mountpoint would wait for an answer from ourselves."""
    found = mounts_at(mountpoint)
    if not found:
        raise MountError(f"{mountpoint} is not in the mount table (/proc/self/mountinfo)")
    return found[-1].device


def mount_fuse(mountpoint: str, *, writable: bool) -> FuseDevice:
    """Mount at `mountpoint` (canonical path of a directory). Raises MountError; leaves nothing then.

    Flags and options are nydusd's (contract 9.1): source `rafs`, type `fuse`, nosuid, nodev,
    noatime, ro unless writable; allow_other needs root or fuse.conf's user_allow_other.
    """
    try:
        return _mount_privileged(mountpoint, writable)
    except PermissionError:
        return _mount_by_helper(mountpoint, writable)
    except OSError as e:
        raise MountError(f"cannot mount at {mountpoint}: {e.strerror}{_advice(e.errno)}") from None


def _advice(number: int | None) -> str:
    if number in (errno.ENODEV, errno.ENOENT, errno.ENXIO):
        return " (does this kernel have FUSE? try modprobe fuse)"
    return ""


def _mount_privileged(mountpoint: str, writable: bool) -> FuseDevice:
    if os.geteuid() != 0:
        raise PermissionError
    fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    flags = MS_NOSUID | MS_NODEV | MS_NOATIME | (0 if writable else MS_RDONLY)
    options = (
        f"fd={fd},rootmode=40000,user_id={os.geteuid()},group_id={os.getegid()},"
        f"allow_other,default_permissions,max_read={MAX_READ}"
    )
    is_mounted = False
    try:
        mount(SOURCE, mountpoint, "fuse", flags, options)
        is_mounted = True
        return FuseDevice(fd, mountpoint, is_privileged=True)
    except BaseException:
        if is_mounted:
            unmount(mountpoint, MNT_DETACH)
        os.close(fd)
        raise


def _mount_by_helper(mountpoint: str, writable: bool) -> FuseDevice:
    """fusermount3 sends the descriptor over the socket named by _FUSE_COMMFD (its man page)."""
    if not os.path.exists("/etc/mtab"):
        raise MountError(
            f"cannot mount at {mountpoint}: fusermount3 could not unmount it without /etc/mtab"
            " (as root: ln -s /proc/self/mounts /etc/mtab)"
        )
    options = f"fsname={SOURCE},default_permissions,max_read={MAX_READ}" + ("" if writable else ",ro")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        error = _fusermount("-o", options, "--", mountpoint, comm=theirs)
        theirs.close()
        if error is not None:
            raise MountError(f"cannot mount at {mountpoint}: {error}")
        _, control, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(4))
    fds = array.array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[:4])
    if not fds:
        raise MountError(f"cannot mount at {mountpoint}: fusermount3 sent no descriptor")
    return FuseDevice(fds[0], mountpoint, is_privileged=False)


def _fusermount(*args: str, comm: socket.socket | None = None) -> str | None:
    """Run the helper; its own words if it failed."""
    program = shutil.which("fusermount3") or shutil.which("fusermount")
    if program is None:
        raise MountError("mounting without root needs fusermount3 (Debian's package fuse3)")
    environment = dict(os.environ)
    pass_fds: tuple[int, ...] = ()
    if comm is not None:
        environment["_FUSE_COMMFD"] = str(comm.fileno())
        pass_fds = (comm.fileno(),)
    done = subprocess.run(
        [program, *args], env=environment, pass_fds=pass_fds, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return None
    return done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{program}: exit {done.returncode}"


def clear_dead_mount(mountpoint: str) -> bool:
    """Unmount what a FUSE daemon that is gone left at `mountpoint`; True if there was anything."""
    cleared = False
    while is_dead(mountpoint):
        try:
            unmount(mountpoint, MNT_DETACH)
        except PermissionError:
            if error := _fusermount("-u", "-z", "--", mountpoint):
                raise MountError(f"a dead mount lies at {mountpoint}: {error}") from None
        except OSError as e:
            raise MountError(f"a dead mount lies at {mountpoint}: {e.strerror}") from None
        cleared = True
    return cleared


def is_dead(mountpoint: str) -> bool:
    """A FUSE mount whose daemon is gone lies there. statfs is the one question never cached."""
    try:
        os.statvfs(mountpoint)
    except OSError as e:
        return e.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False



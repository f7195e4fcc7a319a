"""The kernel's EROFS over device files: warm data and metadata never meet this process.

A mount with `device=` takes plain files since Linux 6.12 (file-backed mounts); before, and without
CAP_SYS_ADMIN, the FUSE file system serves the image.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from nydus_app.errors import MountError
from nydus_app.linux.mount import (
    MAX_VALUE,
    MNT_DETACH,
    MOUNT_ATTR_NOATIME,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    is_covered,
    is_mounted,
    mount_configured,
    mounts,
    mounts_at,
    unmount,
)

FIRST_KERNEL = (6, 12)
ATTRIBUTES = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOATIME
WITHOUT_FOLIOS = frozenset({"tmpfs", "overlay"})
"""File systems without read_folio (Linux `erofs_fc_get_tree`): mount(2) says ENOTBLK."""


def why_not() -> str | None:
    """Why this kernel cannot, in one phrase; None where it can."""
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    if match is None or (int(match[1]), int(match[2])) < FIRST_KERNEL:
        return f"Linux {os.uname().release} cannot mount EROFS from files (6.12 can)"
    if os.geteuid() != 0:
        return "mounting EROFS needs root"
    try:
        with open("/proc/filesystems", encoding="ascii") as f:
            has_erofs = any(line.split()[-1] == "erofs" for line in f)
    except OSError as e:
        return f"/proc/filesystems: {e.strerror}"
    return None if has_erofs else "this kernel has no EROFS (modprobe erofs)"


def why_not_from(path: str) -> str | None:
    """Why the kernel cannot mount this file, in one phrase: some file systems have no folios to read it by."""
    # Of a file on overlayfs st_dev may be that of the layer it lies in.
    number = os.stat(os.path.dirname(os.path.realpath(path))).st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    found = next((m.fs_type for m in mounts() if m.device == device), None)
    return f"EROFS cannot be mounted from a file in {found}" if found in WITHOUT_FOLIOS else None


@contextmanager
def _short(path: str) -> Iterator[str]:
    """A name of that file which fsconfig(2) takes, while it is open. Raises OSError."""
    if len(os.fsencode(path)) <= MAX_VALUE:
        yield path
        return
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield f"/proc/thread-self/fd/{fd}"
    finally:
        os.close(fd)


class ErofsMount:
    """`bootstrap` mounted at `mountpoint`, its device slots in the order of `devices`."""

    def __init__(self, mountpoint: str, bootstrap: str, devices: Sequence[str]) -> None:
        self._mountpoint = mountpoint
        self._bootstrap = bootstrap
        self._devices = devices
        self._device: str | None = None

    def mount(self) -> None:
        """Blocks while the kernel opens the devices: never on the thread that serves them."""
        try:
            with _short(self._bootstrap) as source:
                options = [("source", source), *(("device", d) for d in self._devices)]
                mount_configured("erofs", self._mountpoint, options, ATTRIBUTES)
        except OSError as e:
            raise MountError(f"cannot mount EROFS at {self._mountpoint}: {e.strerror}") from None
        self.adopt()

    def adopt(self) -> None:
        """It is mounted already. Raises MountError where it is not."""
        top = mounts_at(self._mountpoint)
        if not top or top[-1].fs_type != "erofs":
            raise MountError(f"no EROFS is mounted at {self._mountpoint}")
        self._device = top[-1].device

    def is_mounted(self) -> bool:
        return is_mounted(self._device, self._mountpoint)

    def unmount(self) -> None:
        """Lazily; nothing happens where it is gone. Raises MountError."""
        if self._device is None or not self.is_mounted():
            return
        if is_covered(self._device, self._mountpoint):
            raise MountError(f"cannot unmount {self._mountpoint}: something else is mounted over it")
        try:
            unmount(self._mountpoint, MNT_DETACH)
        except OSError as e:
            raise MountError(f"cannot unmount {self._mountpoint}: {e.strerror}") from None
        self._device = None  # its number is free, and the next mount's

"""How a file system is attached to the mountpoint.

    FuseTree     the FUSE mount is the tree itself
    ErofsTree    the kernel's EROFS is at the mountpoint; its devices are files of a private FUSE mount

The order is: `mount` (nothing answers yet) → the transport serves → `expose` → … → `withdraw`.
`expose` and `withdraw` may wait for answers of the transport: they run in a worker thread.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from nydus_app.errors import MountError
from nydus_app.filesystems.blob_devices import BlobDevices
from nydus_app.filesystems.port import FileSystem
from nydus_app.linux.fuse_device import FuseDevice, clear_dead_mount, is_dead, mount_fuse
from nydus_app.linux.mount import MNT_DETACH, mounts_at, unmount
from nydus_app.transports.erofs import ErofsMount

RUN_DIR = "/run/nydus"


class Attachment(Protocol):
    filesystem: FileSystem
    mountpoint: str

    def mount(self) -> FuseDevice:
        """Raises MountError, and leaves nothing then."""
        ...

    def expose(self, stop: Callable[[], None]) -> None:
        """`stop` is called, on the transport's thread, when somebody unmounts. Raises MountError."""
        ...

    def withdraw(self) -> None:
        """Unmount whatever is mounted, in the right order. Raises MountError."""
        ...


def private_dir(mountpoint: str) -> str:
    """Where the devices of the EROFS at `mountpoint` are mounted."""
    return os.path.join(RUN_DIR, hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:16])


def clear_left_behind(mountpoint: str) -> bool:
    """Remove what a daemon that was killed left at `mountpoint`; True if there was anything.

    Its EROFS still answers what the kernel has cached, so the crash is seen by the dead device mount.
    """
    private = private_dir(mountpoint)
    found = False
    if is_dead(private):
        if (top := mounts_at(mountpoint)) and top[-1].fs_type == "erofs":
            unmount(mountpoint, MNT_DETACH)
        clear_dead_mount(private)
        with suppress(OSError):
            os.rmdir(private)
        found = True
    return clear_dead_mount(mountpoint) or found


class FuseTree:
    def __init__(self, filesystem: FileSystem, mountpoint: str, *, writable: bool) -> None:
        self.filesystem = filesystem
        self.mountpoint = mountpoint
        self._writable = writable
        self._device: FuseDevice | None = None

    def mount(self) -> FuseDevice:
        self._device = mount_fuse(self.mountpoint, writable=self._writable)
        return self._device

    def expose(self, stop: Callable[[], None]) -> None:
        """The end of the FUSE session is noticed by its transport."""

    def withdraw(self) -> None:
        if self._device is not None:
            self._device.unmount()


class ErofsTree:
    """`bootstrap` is the path of a RAFS v6 bootstrap, `filesystem` serves its blobs."""

    def __init__(self, filesystem: BlobDevices, mountpoint: str, bootstrap: str) -> None:
        self.filesystem = filesystem
        self.mountpoint = mountpoint
        self._private = private_dir(mountpoint)
        self._device: FuseDevice | None = None
        devices = [os.path.join(self._private, name) for name in filesystem.names()]
        self._erofs = ErofsMount(mountpoint, bootstrap, devices)

    def mount(self) -> FuseDevice:
        try:
            os.makedirs(self._private, mode=0o700, exist_ok=True)
        except OSError as e:
            raise MountError(f"{self._private}: {e.strerror}") from None
        if mounts_at(self._private):
            raise MountError(f"{self.mountpoint} is served by another daemon (its devices are at {self._private})")
        self._device = mount_fuse(self._private, writable=False)
        return self._device

    def expose(self, stop: Callable[[], None]) -> None:
        self._erofs.mount()
        self.filesystem.on_released = stop

    def withdraw(self) -> None:
        self._erofs.unmount()
        if self._device is not None:
            self._device.unmount()
            self._device = None
            with suppress(OSError):
                os.rmdir(self._private)

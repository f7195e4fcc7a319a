"""How a file system is attached to the mountpoint.

    FuseTree     the FUSE mount is the tree itself
    ErofsTree    the kernel's EROFS is at the mountpoint; its devices are files of a private FUSE mount

The order is: `mount` (nothing answers yet) → the transport serves → `expose` → … → `withdraw`.
`expose` and `withdraw` may wait for answers of the transport: they run in a worker thread.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

import trio

from nydus_app.daemon.handover import Session
from nydus_app.errors import MountError
from nydus_app.filesystems.blob_devices import BlobDevice, BlobDevices
from nydus_app.filesystems.port import FileSystem
from nydus_app.linux.apart import call_apart
from nydus_app.linux.fuse_device import FuseDevice, clear_dead_mount, is_dead, mount_fuse
from nydus_app.linux.mount import MNT_DETACH, MountTableWatch, mounts_at, unmount
from nydus_app.transports.device_copies import DeviceCopies
from nydus_app.transports.erofs import ErofsMount

RUN_DIR = "/run/nydus"
TURN = f"{RUN_DIR}/%turn"
"""Locked by who mounts; no `private_dir` is called so, and nobody else may open it."""
NAME_LIMIT = 200
"""A device's path is at most `linux.mount.MAX_VALUE` long."""
TURN_DEADLINE_S = 5


class StillLeaving(MountError):
    """A daemon whose mount somebody took away has not ended yet."""


class Attachment(Protocol):
    filesystem: FileSystem
    mountpoint: str
    data_path: str

    def mount(self) -> FuseDevice:
        """Raises MountError, and leaves nothing then."""
        ...

    def adopt(self, fd: int, session: Session) -> FuseDevice:
        """Instead of `mount`: what a predecessor has mounted and exposed. Raises MountError."""
        ...

    def expose(self) -> None:
        """Raises MountError."""
        ...

    @property
    def served(self) -> tuple[str, ...]:
        """What a successor has to serve (`Session.served`)."""
        ...

    async def work(self, stop: Callable[[], None]) -> None:
        """What goes on besides the requests once the tree is exposed, until cancelled; `stop` when somebody unmounts."""
        ...

    def withdraw(self) -> None:
        """Unmount whatever is mounted, in the right order. Raises MountError."""
        ...

    def close(self) -> None:
        """Free what the tree is made of; nothing is mounted any more."""
        ...


def why_no_devices() -> str | None:
    """Why there can be no private mounts on this machine, in one phrase; None where there can."""
    try:
        os.makedirs(RUN_DIR, mode=0o755, exist_ok=True)
    except OSError as e:
        return f"{RUN_DIR}: {e.strerror}"
    return None if os.access(RUN_DIR, os.W_OK | os.X_OK) else f"{RUN_DIR}: it cannot be written"


def private_dir(mountpoint: str) -> str:
    """Where the devices of the EROFS at `mountpoint` are mounted: of /srv/app it is srv-app, of /srv/my-app srv-my%2Dapp."""
    name = mountpoint.strip("/").replace("%", "%25").replace("-", "%2D").replace("/", "-") or "-"
    if len(os.fsencode(name)) > NAME_LIMIT:
        name = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()
    return os.path.join(RUN_DIR, name)


@contextmanager
def turn() -> Iterator[None]:
    """One daemon of this machine at a time: between looking at what is mounted and mounting, nobody else does.

    Nothing that waits for another daemon's answer belongs in here. Raises MountError after TURN_DEADLINE_S.
    """
    try:
        os.makedirs(RUN_DIR, mode=0o755, exist_ok=True)
        fd = os.open(TURN, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # without privileges there is no EROFS, and no directory of ours
        yield
        return
    try:
        deadline = time.monotonic() + TURN_DEADLINE_S
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise MountError(f"another daemon has been mounting for {TURN_DEADLINE_S} s ({RUN_DIR})") from None
                time.sleep(0.005)
        yield
    finally:
        os.close(fd)


def is_left_behind(mountpoint: str) -> bool:
    """A daemon that was killed left something at `mountpoint`. Waits while one that lives there does not answer.

    Its EROFS still answers what the kernel has cached, so the crash is seen by the dead device mount.
    """
    return is_dead(private_dir(mountpoint)) or is_dead(mountpoint)


def clear_left_behind(mountpoint: str) -> bool:
    """Remove what a daemon that was killed left at `mountpoint`; True if there was anything."""
    private = private_dir(mountpoint)
    found = clear_dead_mount(mountpoint)  # a file tree may have been mounted over what comes next
    if is_dead(private):
        if (top := mounts_at(mountpoint)) and top[-1].fs_type == "erofs":
            unmount(mountpoint, MNT_DETACH)
        clear_dead_mount(private)
        with suppress(OSError):
            os.rmdir(private)
        found = True
    return clear_dead_mount(mountpoint) or found


class FuseTree:
    data_path = "fuse"

    def __init__(self, filesystem: FileSystem, mountpoint: str, *, writable: bool) -> None:
        self.filesystem = filesystem
        self.mountpoint = mountpoint
        self._writable = writable
        self._device: FuseDevice | None = None

    def mount(self) -> FuseDevice:
        self._device = mount_fuse(self.mountpoint, writable=self._writable)
        return self._device

    def adopt(self, fd: int, session: Session) -> FuseDevice:
        self._device = FuseDevice(fd, self.mountpoint, is_privileged=os.geteuid() == 0)
        return self._device

    served = ()

    def expose(self) -> None:
        """The tree is exposed by its mount."""

    async def work(self, stop: Callable[[], None]) -> None:
        """The end of the FUSE session is noticed by its transport."""
        await self.filesystem.work()

    def withdraw(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.unmount()

    def close(self) -> None:
        self.filesystem.close()


class ErofsTree:
    """`bootstrap` is the path of an EROFS image; its devices are files of `filesystem`, or paths of files of their own.

    Closing it calls `close`.
    """

    data_path = "erofs"

    def __init__(
        self,
        filesystem: BlobDevices,
        mountpoint: str,
        bootstrap: str,
        devices: Sequence[BlobDevice | str],
        close: Callable[[], None],
    ) -> None:
        self.filesystem = filesystem
        self.mountpoint = mountpoint
        self.close = close
        self._private = private_dir(mountpoint)
        self._device: FuseDevice | None = None
        self._served = [d for d in devices if isinstance(d, BlobDevice)]
        self._copies = [DeviceCopies(os.path.join(self._private, d.name)) for d in self._served]
        paths = [d if isinstance(d, str) else os.path.join(self._private, d.name) for d in devices]
        self._erofs = ErofsMount(mountpoint, bootstrap, paths)

    def mount(self) -> FuseDevice:
        try:
            os.makedirs(self._private, mode=0o700, exist_ok=True)
        except OSError as e:
            raise MountError(f"{self._private}: {e.strerror}") from None
        if mounts_at(self._private):
            top = mounts_at(self.mountpoint)
            is_served = bool(top) and top[-1].fs_type == "erofs"
            kind = MountError if is_served else StillLeaving
            raise kind(f"{self.mountpoint} is served by another daemon (its devices are at {self._private})")
        self._device = mount_fuse(self._private, writable=False)
        return self._device

    def adopt(self, fd: int, session: Session) -> FuseDevice:
        if session.served != self.served:
            raise MountError(f"{self.mountpoint}: the session that was handed over serves other blobs")
        self._erofs.adopt()
        for device in self._served:
            device.opens = 2  # the EROFS, and the predecessor, whose RELEASE is to come
        self._device = FuseDevice(fd, self._private, is_privileged=True)
        return self._device

    @property
    def served(self) -> tuple[str, ...]:
        return tuple(d.blob_id for d in self._served)

    def expose(self) -> None:
        for device, copies, fd in zip(self._served, self._copies, call_apart(self._ask), strict=True):
            copies.take(fd)
            device.own_opens = 1

    def _ask(self) -> Iterator[int]:
        try:
            for copies in self._copies:
                yield copies.ask()
        except OSError as e:
            raise MountError(f"{self._private}: {e.strerror}") from None
        if not self._erofs.is_mounted():
            self._erofs.mount()

    async def work(self, stop: Callable[[], None]) -> None:
        def released() -> None:
            # A successor does not know who else has opened a device: the EROFS itself has the last word.
            if all(d.opens <= d.own_opens for d in self._served) and not self._erofs.is_mounted():
                stop()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.filesystem.work)
            for device, copies in zip(self._served, self._copies, strict=True):
                device.released, device.answered = released, copies.answered
                nursery.start_soon(copies.run)
            if self._served:
                released()
            else:
                nursery.start_soon(self._stop_when_unmounted, stop)

    async def _stop_when_unmounted(self, stop: Callable[[], None]) -> None:
        """No device tells, for none is ours: the mount table does."""
        watch = MountTableWatch()
        try:
            while self._erofs.is_mounted():
                await trio.lowlevel.wait_readable(watch)
                watch.take()
            stop()
        finally:
            watch.close()

    def withdraw(self) -> None:
        for device, copies in zip(self._served, self._copies, strict=True):
            device.own_opens = 0
            copies.close()
        try:
            self._erofs.unmount()
        finally:
            if self._device is not None:
                self._device.unmount()
                self._device = None
                # Not while a successor is about to mount there.
                with suppress(OSError, MountError), turn():
                    os.rmdir(self._private)

"""Every transport passes the suite of `nydus_app.testing.transport`, over memory and over a golden image."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio

from nydus_app.builder.image import open_filesystem
from nydus_app.config.tree import Blobcache, Dummycache, Localfs, Tree
from nydus_app.filesystems.port import FileSystem
from nydus_app.linux.fuse_device import FuseDevice, mount_fuse
from nydus_app.testing.transport import DEADLINE_S, TransportConformance, check_same_tree
from nydus_app.transports.fusedev import FusedevTransport
from nydus_app.transports.libfuse import LibfuseTransport
from nydus_app.transports.port import Transport

pytestmark = pytest.mark.mounts
MakeTransport = Callable[[FileSystem, FuseDevice], Transport]


class InThread:
    """A transport that serves in a thread of its own; fulfils Served."""

    def __init__(self, filesystem: FileSystem, mountpoint: Path, make: MakeTransport) -> None:
        self.mountpoint = mountpoint
        self._device = mount_fuse(str(mountpoint), writable=False)
        self._make = make
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._serve, filesystem))
        self._thread.start()
        self._started.wait()

    async def _serve(self, filesystem: FileSystem) -> None:
        try:
            self._token = trio.lowlevel.current_trio_token()
            transport = self._make(filesystem, self._device)
        finally:
            self._started.set()
        try:
            with self._scope:
                await transport.serve()
        finally:
            transport.close()

    def unmount(self) -> None:
        self._device.unmount()

    def end(self) -> None:
        self._device.unmount()
        with suppress(trio.RunFinishedError):
            assert self._token is not None
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(DEADLINE_S)
        self._device.close()
        assert not self._thread.is_alive()


class OverMounts(TransportConformance):
    make: MakeTransport

    @pytest.fixture(autouse=True)
    def _place(self, tmp_path: Path) -> None:
        self._base = tmp_path

    @contextmanager
    def serve(self, filesystem: FileSystem) -> Iterator[InThread]:
        mountpoint = self._base / "mnt"
        mountpoint.mkdir()
        served = InThread(filesystem, mountpoint, type(self).make)
        try:
            yield served
        finally:
            served.end()
            mountpoint.rmdir()

    @pytest.mark.parametrize("name", ["v5-zstd", "v6-zstd"])
    def test_a_golden_image(self, name: str, golden: Path) -> None:
        def opened(cache: Blobcache | Dummycache) -> FileSystem:
            backend = Localfs(dir=str(golden / name / "blobs"))
            return open_filesystem(
                Tree(bootstrap=str(golden / name / "boot"), mountpoint=None, backend=backend, cache=cache)
            )

        served_fs, plain = opened(Blobcache(work_dir=str(self._base / "cache"))), opened(Dummycache())
        try:
            with self.serve(served_fs) as served:
                assert check_same_tree(plain, served.mountpoint) > 50
        finally:
            served_fs.close()
            plain.close()


class TestFusedev(OverMounts):
    make = staticmethod(lambda filesystem, device: FusedevTransport(filesystem, device.fd))


class TestLibfuse(OverMounts):
    make = LibfuseTransport
    lists_dots = False

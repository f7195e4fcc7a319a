"""For Python people: mount an image for a `with` block, or read one without any mount.

    with nydus_app.mount("backend.dir=/blobs", "bootstrap=/boot", mountpoint="/mnt") as mnt: ...
    with nydus_app.open_image("backend.dir=/blobs", "bootstrap=/boot") as image:
        image.read("/etc/os-release")

Both take the overrides of `nydus-run`; the builder makes the same objects of them.
"""

import errno
import io
import os
import posixpath
import select
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from nydus_app.errors import ConfigError, MountError
from nydus_app.filesystems.port import Attr, FileSystem
from nydus_app.storage.hop import NeedsLoop, run_here

MAX_SYMLINKS = 40
"""As many as Linux follows."""


class Image:
    """A read-only image; paths are absolute inside it, symlinks are followed inside it.

    Paths may be str (surrogateescape for bytes that are no UTF-8) or bytes. Errors are OSErrors as
    a mounted tree would give them, and those of `nydus_app.errors` for damaged data.
    """

    def __init__(self, filesystem: FileSystem) -> None:
        self._fs = filesystem

    def __enter__(self) -> "Image":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._fs.close()

    def _resolve(self, path: str | bytes, *, follow: bool = True) -> Attr:
        todo = [n for n in os.fsencode(path).split(b"/") if n][::-1]
        trail = [self._fs.root]
        links = 0
        while todo:
            name = todo.pop()
            if name == b".":
                continue
            if name == b"..":
                del trail[max(len(trail) - 1, 1) :]
                continue
            attr = self._fs.lookup(trail[-1], name)
            if attr is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))
            if stat.S_ISLNK(attr.mode) and (todo or follow):
                links += 1
                if links > MAX_SYMLINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), os.fsdecode(path))
                target = self._fs.readlink(attr.ino)
                if target.startswith(b"/"):
                    del trail[1:]
                todo += [n for n in target.split(b"/") if n][::-1]
            else:
                trail.append(attr.ino)
        return self._fs.getattr(trail[-1])

    def stat(self, path: str | bytes) -> Attr:
        return self._resolve(path)

    def lstat(self, path: str | bytes) -> Attr:
        return self._resolve(path, follow=False)

    def listdir(self, path: str | bytes = "/") -> list[str]:
        return [os.fsdecode(e.name) for e in self._fs.readdir(self._resolve(path).ino, 0)]

    def readlink(self, path: str | bytes) -> str:
        return os.fsdecode(self._fs.readlink(self.lstat(path).ino))

    def xattrs(self, path: str | bytes) -> dict[str, bytes]:
        ino = self.lstat(path).ino
        return {os.fsdecode(n): self._fs.xattr(ino, n) for n in self._fs.xattr_names(ino)}

    def walk(self, top: str = "/") -> Iterator[tuple[str, list[str], list[str]]]:
        """As os.walk: (folder, folders in it, all else in it), symlinks not followed."""
        todo = [top]
        while todo:
            folder = todo.pop()
            folders, others = [], []
            for entry in self._fs.readdir(self._resolve(folder).ino, 0):
                (folders if stat.S_ISDIR(entry.attr.mode) else others).append(os.fsdecode(entry.name))
            yield folder, folders, others
            todo += [posixpath.join(folder, name) for name in reversed(folders)]

    def open(self, path: str | bytes) -> io.BufferedReader:
        """A seekable binary file."""
        attr = self._resolve(path)
        if stat.S_ISDIR(attr.mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fsdecode(path))
        self._fs.open(attr.ino)
        return io.BufferedReader(_File(self._fs, attr), buffer_size=1 << 20)

    def read(self, path: str | bytes) -> bytes:
        with self.open(path) as f:
            return f.read()


class _File(io.RawIOBase):
    """A read of what does not lie on this machine runs the storage's event loop for as long as it takes."""

    def __init__(self, filesystem: FileSystem, attr: Attr) -> None:
        self._fs = filesystem
        self._attr = attr
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._attr.size}[whence]
        if start + offset < 0:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._at = start + offset
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        start = 0
        place = (self._attr.ino, self._at, len(buffer))
        try:
            parts = run_here(self._fs.read(*place))
        except NeedsLoop:
            parts = trio.run(self._fs.read, *place)
        for part in parts:
            buffer[start : start + len(part)] = part
            start += len(part)
        self._at += start
        return start


def open_image(*overrides: str) -> Image:
    """Open the image that the overrides name; nothing is mounted. Raises NydusError."""
    from nydus_app.builder.image import open_filesystem
    from nydus_app.config.check import check, check_supported
    from nydus_app.config.overrides import Override, compose, parse_words

    tree = compose([Override("backend", "localfs"), *parse_words(overrides), Override("mountpoint", None)])
    check(tree)
    check_supported(tree)
    return Image(open_filesystem(tree))


@contextmanager
def mount(*overrides: str, mountpoint: str | os.PathLike[str]) -> Iterator[Path]:
    """Mount an image in a daemon of its own; it is unmounted when the block ends.

    Raises ConfigError or MountError with the daemon's own words when it does not come up.
    """
    from nydus_app.config.overrides import quote

    with tempfile.TemporaryDirectory(prefix="nydus-") as private:
        address = os.path.join(private, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, open(f"{private}/log", "w+b") as log:
            ready.bind(address)
            daemon = subprocess.Popen(
                [sys.executable, "-m", "nydus_app.cli.run", *overrides, f"mountpoint={quote(os.fspath(mountpoint))}"],
                env={**os.environ, "NOTIFY_SOCKET": address},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )
            try:
                _wait_until_ready(daemon, ready, log)
                yield Path(mountpoint)
            finally:
                daemon.terminate()
                daemon.wait()


def _wait_until_ready(daemon: subprocess.Popen[bytes], ready: socket.socket, log: io.BufferedRandom) -> None:
    """Until READY=1 arrives or the process ends, whichever comes first."""
    ended = os.pidfd_open(daemon.pid)
    try:
        while ended not in (able := select.select([ready, ended], [], [])[0]):
            if able and b"READY=1" in ready.recv(4096).split(b"\n"):
                return
    finally:
        os.close(ended)
    daemon.wait()
    log.seek(0)
    words = log.read().decode(errors="replace").strip().splitlines()
    error = ConfigError if daemon.returncode == 2 else MountError
    raise error(words[-1] if words else f"the daemon ended with {daemon.returncode}")

"""What every Transport does, as a suite: inherit from TransportConformance, and say how to mount.

    class TestMine(TransportConformance):
        def serve(self, filesystem): return my_mount(filesystem)     # fulfils Served, as a context manager

The transport may serve in a thread of the test's process: what is called here lets other threads run.
"""

import errno
import mmap
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

import trio

from nydus_app.errors import BackendUnavailable, CorruptChunk, InvalidImage, ProtocolViolation, Unsupported
from nydus_app.filesystems.port import FileSystem
from nydus_app.testing import libc
from nydus_app.testing.memory import ROOT, Gate, MemoryFileSystem

DEADLINE_S = 20.0
FILE, FOLDER, LINK = stat.S_IFREG | 0o644, stat.S_IFDIR | 0o755, stat.S_IFLNK | 0o777


class Served(Protocol):
    mountpoint: Path

    def unmount(self) -> None:
        """Lazily."""
        ...

    def end(self) -> None:
        """As a daemon ends: unmount, cancel what waits, close the device. Returns when nothing is left."""
        ...


def errno_from(function: Callable[..., object], *args: object) -> int:
    """0 where it succeeds."""
    try:
        function(*args)
    except OSError as e:
        return e.errno or -1
    return 0


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


def pread(path: Path, size: int, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def check_same_tree(filesystem: FileSystem, mountpoint: Path) -> int:
    """Everything that the file system says is what the mount shows; the number of entries seen."""
    seen = 0
    todo = [(filesystem.root, os.fsencode(mountpoint))]
    while todo:
        ino, path = todo.pop()
        attr, st = filesystem.getattr(ino), os.lstat(path)
        seen += 1
        have = (st.st_ino, st.st_mode, st.st_nlink, st.st_uid, st.st_gid, st.st_rdev, st.st_size, st.st_blocks)
        assert have == attr[:8], path
        assert (st.st_atime_ns, st.st_mtime_ns, st.st_ctime_ns) == attr[8:], path
        names = filesystem.xattr_names(ino)
        assert [os.fsencode(n) for n in os.listxattr(path, follow_symlinks=False)] == names, path
        for name in names:
            assert os.getxattr(path, name, follow_symlinks=False) == filesystem.xattr(ino, name), path
        if stat.S_ISDIR(attr.mode):
            children = {e.name: e.attr.ino for e in filesystem.readdir(ino, 0)}
            assert sorted(os.listdir(path)) == sorted(children), path
            todo += [(child, os.path.join(path, name)) for name, child in children.items()]
        elif stat.S_ISLNK(attr.mode):
            assert os.readlink(path) == filesystem.readlink(ino), path
        elif stat.S_ISREG(attr.mode):
            with open(path, "rb") as f:
                assert f.read() == b"".join(trio.run(filesystem.read, ino, 0, attr.size + 1)), path
    return seen


class TransportConformance:
    lists_dots = True
    """`.` and `..` are among the entries of a directory (POSIX leaves it open)."""

    def serve(self, filesystem: FileSystem) -> AbstractContextManager[Served]:
        raise NotImplementedError

    # ---- names ----------------------------------------------------------------------------------

    def test_a_large_directory_is_listed_whole_again_and_from_any_place(self) -> None:
        fs = MemoryFileSystem()
        folder = fs.add(ROOT, b"large", FOLDER)
        kinds = (FILE, FOLDER, LINK)
        inos = {}
        for i in range(3000):
            name = b"%d" % i + b"n" * (i * 7 % 240)
            inos[name] = (fs.add(folder, name, kinds[i % 3]), stat.S_IFMT(kinds[i % 3]) >> 12)
        with self.serve(fs) as served, libc.Directory(str(served.mountpoint / "large")) as d:
            first = d.rest()
            here = {e.name: (e.ino, e.kind) for e in first if e.name not in (b".", b"..")}
            assert here == inos
            assert len(first) == len(inos) + 2 * self.lists_dots
            if self.lists_dots:
                assert [(e.name, e.ino) for e in first[:2]] == [(b".", folder), (b"..", ROOT)]
            d.rewind()
            assert d.rest() == first
            for at in (0, 1, 2, 1500, len(first) - 1):
                d.seek(first[at].place)
                assert d.rest() == first[at + 1 :]

    def test_names_are_bytes(self) -> None:
        fs = MemoryFileSystem()
        names = [b"n" * 255, b"\xff\xfe", "Grüße".encode(), b"two\nlines", b" ", b"\\", bytes(range(1, 47))]
        inos = {name: fs.add(ROOT, name, FILE, name) for name in names}
        with self.serve(fs) as served:
            top = os.fsencode(served.mountpoint)
            assert sorted(os.listdir(top)) == sorted(names)
            for name, ino in inos.items():
                assert os.stat(top + b"/" + name).st_ino == ino
            assert errno_from(os.stat, top + b"/" + b"n" * 256) == errno.ENOENT

    def test_a_name_that_is_not_there_is_asked_for_once(self) -> None:
        fs = MemoryFileSystem()
        with self.serve(fs) as served:
            before = fs.asked["lookup", ROOT]
            for _ in range(10):
                assert errno_from(os.stat, served.mountpoint / "nothing") == errno.ENOENT
            assert fs.asked["lookup", ROOT] == before + 1

    def test_attributes(self) -> None:
        fs = MemoryFileSystem()
        large = (1 << 32) - 2
        fs.add(ROOT, b"file", stat.S_IFREG | 0o4755, b"x" * 1000, mtime_ns=1_700_000_000_123_456_789, ids=large - 1)
        fs.add(ROOT, b"folder", stat.S_IFDIR | 0o1777, ids=3)
        fs.add(ROOT, b"char", stat.S_IFCHR | 0o600, rdev=os.makedev(5, 1))
        fs.add(ROOT, b"block", stat.S_IFBLK | 0o600, rdev=os.makedev(4000, 255))
        fs.add(ROOT, b"fifo", stat.S_IFIFO | 0o600)
        fs.add(ROOT, b"socket", stat.S_IFSOCK | 0o600)
        twice = fs.add(ROOT, b"one", FILE, b"linked")
        fs.link(ROOT, b"two", twice)
        with self.serve(fs) as served:
            assert check_same_tree(fs, served.mountpoint) == 9
            one, two = (os.stat(served.mountpoint / n) for n in ("one", "two"))
            assert (one.st_ino, one.st_nlink) == (two.st_ino, 2)

    def test_symlinks(self) -> None:
        fs = MemoryFileSystem()
        targets = {b"near": b"file", b"far": b"/nowhere/\xff", b"long": b"t" * 4095}
        for name, target in targets.items():
            fs.add(ROOT, name, LINK, target)
        fs.add(ROOT, b"file", FILE, b"found")
        with self.serve(fs) as served:
            for name, target in targets.items():
                assert os.readlink(os.fsencode(served.mountpoint) + b"/" + name) == target
            assert (served.mountpoint / "near").read_bytes() == b"found"

    def test_xattrs_have_sizes(self) -> None:
        fs = MemoryFileSystem()
        ino = fs.add(ROOT, b"file", FILE)
        values = {b"user.long": content(1, 60_000), b"user.empty": b"", b"trusted." + b"n" * 240: b"\0\xff\0"}
        fs.nodes[ino].xattrs.update(values)
        fs.add(ROOT, b"none", FILE)
        with self.serve(fs) as served:
            path = str(served.mountpoint / "file")
            listed = b"".join(name + b"\0" for name in values)
            assert libc.listxattr(path, 0) == (len(listed), b"")
            assert libc.listxattr(path, len(listed)) == (len(listed), listed)
            assert errno_from(libc.listxattr, path, len(listed) - 1) == errno.ERANGE
            for name, value in values.items():
                assert libc.getxattr(path, name, 0) == (len(value), b"")
                assert libc.getxattr(path, name, 65536) == (len(value), value)
                if len(value) > 1:
                    assert libc.getxattr(path, name, len(value)) == (len(value), value)
                    assert errno_from(libc.getxattr, path, name, len(value) - 1) == errno.ERANGE
            assert errno_from(os.getxattr, path, "user.nothing") == errno.ENODATA
            assert os.listxattr(served.mountpoint / "none") == []

    def test_statfs(self) -> None:
        with self.serve(MemoryFileSystem()) as served:
            found = os.statvfs(served.mountpoint)
            have = (found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_files, found.f_namemax)
            assert have == (4096, 4096, 1000, 0, 1, 255)

    # ---- data -----------------------------------------------------------------------------------

    def test_reads_of_any_size_anywhere(self) -> None:
        fs = MemoryFileSystem(part_size=4099)
        data = content(2, (3 << 20) + 17)
        fs.add(ROOT, b"file", FILE, data)
        r = random.Random(3)
        with self.serve(fs) as served:
            fd = os.open(served.mountpoint / "file", os.O_RDONLY)
            try:
                for _ in range(200):
                    offset, size = r.randrange(len(data) + 5000), r.choice((1, 4095, 65536, 1 << 20))
                    assert os.pread(fd, size, offset) == data[offset : offset + size]
                    if r.random() < 0.2:
                        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                assert os.pread(fd, 4 << 20, len(data) - 1) == data[-1:]
                assert os.pread(fd, 1, 1 << 40) == b""
            finally:
                os.close(fd)

    def test_a_read_in_a_thousand_parts(self) -> None:
        fs = MemoryFileSystem(part_size=1049)
        data = content(4, 1 << 20)
        ino = fs.add(ROOT, b"file", FILE, data)
        with self.serve(fs) as served:
            fd = os.open(served.mountpoint / "file", os.O_RDONLY | os.O_DIRECT)
            buffer = mmap.mmap(-1, len(data))
            try:
                assert os.preadv(fd, [buffer], 0) == len(data)
            finally:
                os.close(fd)
            assert bytes(buffer) == data
            assert fs.asked["read", ino] < 10

    def test_many_readers(self) -> None:
        fs = MemoryFileSystem(part_size=65_537)
        data = {f"f{i}": content(i, 500_000) for i in range(40)}
        for name, own in data.items():
            fs.add(ROOT, name.encode(), FILE, own)
        with self.serve(fs) as served, ThreadPoolExecutor(8) as pool:
            def same(name: str) -> bool:
                return (served.mountpoint / name).read_bytes() == data[name]

            assert all(pool.map(same, list(data) * 2))

    def test_opens_are_told_to_who_tracks_them(self) -> None:
        fs = MemoryFileSystem(tracks_opens=True)
        ino = fs.add(ROOT, b"file", FILE, b"content")
        with self.serve(fs) as served:
            for times in (1, 2, 3):
                assert (served.mountpoint / "file").read_bytes() == b"content"
                assert fs.asked["open", ino] == times
                assert fs.released.acquire(timeout=DEADLINE_S)
            assert fs.asked["release", ino] == 3

    def test_nothing_can_be_written(self) -> None:
        fs = MemoryFileSystem()
        fs.add(ROOT, b"file", FILE)
        with self.serve(fs) as served:
            path = served.mountpoint / "file"
            for number in (
                errno_from(os.open, path, os.O_RDWR), errno_from(os.truncate, path, 3), errno_from(os.unlink, path),
                errno_from(os.mkdir, served.mountpoint / "d"), errno_from(os.setxattr, path, "user.a", b"b"),
            ):  # fmt: skip
                assert number == errno.EROFS

    # ---- waiting --------------------------------------------------------------------------------

    def test_reads_that_are_stuck_hold_up_nobody(self) -> None:
        fs = MemoryFileSystem()
        stuck = [fs.add(ROOT, b"stuck%d" % i, FILE, b"late") for i in range(40)]
        fs.add(ROOT, b"other", FILE, b"at once")
        gates = [fs.hold(ino) for ino in stuck]
        with self.serve(fs) as served, ThreadPoolExecutor(len(stuck)) as pool:
            late = [pool.submit((served.mountpoint / f"stuck{i}").read_bytes) for i in range(len(stuck))]
            try:
                for gate in gates:
                    assert gate.reached.wait(DEADLINE_S)
                assert (served.mountpoint / "other").read_bytes() == b"at once"
                assert len(os.listdir(served.mountpoint)) == len(stuck) + 1
                assert errno_from(os.stat, served.mountpoint / "nothing") == errno.ENOENT
                assert not any(f.done() for f in late)
            finally:
                for gate in gates:
                    gate.open()
            assert {f.result(DEADLINE_S) for f in late} == {b"late"}

    def _stuck_reader(self, served: Served, gate: Gate, *, flags: int = 0) -> subprocess.Popen[bytes]:
        """A process that reads `stuck`, and what it has read on its standard output."""
        code = (
            "import mmap, os, signal, sys; signal.signal(signal.SIGUSR1, lambda *_: None); b = mmap.mmap(-1, 4096)\n"
            f"fd = os.open(sys.argv[1], os.O_RDONLY | {flags}); n = os.preadv(fd, [b], 0)\n"
            "sys.stdout.buffer.write(b[:n])"
        )
        command = [sys.executable, "-S", "-c", code, str(served.mountpoint / "stuck")]
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert gate.reached.wait(DEADLINE_S)
        return reader

    def test_a_killed_reader_leaves_the_mount_as_it_was(self) -> None:
        fs = MemoryFileSystem()
        fs.add(ROOT, b"other", FILE, b"at once")
        gate = fs.hold(fs.add(ROOT, b"stuck", FILE, b"late"))
        with self.serve(fs) as served:
            with self._stuck_reader(served, gate) as reader:
                reader.kill()
                assert reader.wait(DEADLINE_S) == -signal.SIGKILL
            assert (served.mountpoint / "other").read_bytes() == b"at once"
            gate.open()
            assert (served.mountpoint / "stuck").read_bytes() == b"late"

    def test_a_signal_interrupts_nothing(self) -> None:
        """Only reads past the page cache are told to the file system as interrupted (FUSE_INTERRUPT)."""
        fs = MemoryFileSystem()
        fs.add(ROOT, b"other", FILE, b"at once")
        gate = fs.hold(fs.add(ROOT, b"stuck", FILE, b"late"))
        with self.serve(fs) as served, self._stuck_reader(served, gate, flags=os.O_DIRECT) as reader:
            reader.send_signal(signal.SIGUSR1)
            assert (served.mountpoint / "other").read_bytes() == b"at once"
            gate.open()
            assert reader.communicate(timeout=DEADLINE_S)[0] == b"late"

    def test_the_end_with_reads_pending(self) -> None:
        fs = MemoryFileSystem()
        gate = fs.hold(fs.add(ROOT, b"stuck", FILE, b"late"))
        with self.serve(fs) as served:
            with self._stuck_reader(served, gate) as reader:
                served.end()
                assert reader.wait(DEADLINE_S) == 1  # it got an error
                assert reader.communicate()[0] == b""

    def test_an_unmount_is_an_end(self) -> None:
        with self.serve(MemoryFileSystem()) as served:
            served.unmount()
            served.end()

    # ---- errors ---------------------------------------------------------------------------------

    def test_every_error_in_every_handler_is_an_errno(self) -> None:
        fs = MemoryFileSystem()
        fs.add(ROOT, b"alive", FILE, b"yes")
        with self.serve(fs) as served:
            for number, (error, expected) in enumerate(_errors()):
                self._break_everything(fs, served.mountpoint, b"%d" % number, error, expected)
                assert (served.mountpoint / "alive").read_bytes() == b"yes"

    def _break_everything(self, fs: MemoryFileSystem, top: Path, name: bytes, error: Exception, expected: int) -> None:
        """With a folder, a file and a symlink that the kernel knows nothing of yet."""
        folder = fs.add(ROOT, b"d" + name, FOLDER)
        fs.add(folder, b"file", FILE, b"content")
        fs.add(folder, b"link", LINK, b"target")
        here = top / os.fsdecode(b"d" + name)
        fs.errors = {"lookup": error}
        assert errno_from(os.stat, here) == expected, error
        fs.errors = {}
        assert os.stat(here).st_ino == folder
        for method, function, args in (
            ("readdir", os.listdir, (here,)),
            ("read", pread, (here / "file", 10, 0)),
            ("readlink", os.readlink, (here / "link",)),
            ("xattr", os.getxattr, (here / "file", "user.a")),
            ("xattr_names", os.listxattr, (here / "file",)),
            ("statfs", os.statvfs, (here,)),
        ):
            os.stat(here / "file")
            os.lstat(here / "link")
            fs.errors = {method: error}
            assert errno_from(function, *args) == expected, (method, error)
            fs.errors = {}

    def test_an_error_is_not_remembered(self) -> None:
        fs = MemoryFileSystem()
        fs.add(ROOT, b"file", FILE, b"content")
        with self.serve(fs) as served:
            fs.errors = {"read": BackendUnavailable("away")}
            assert errno_from(pread, served.mountpoint / "file", 10, 0) == errno.EIO
            fs.errors = {}
            assert pread(served.mountpoint / "file", 10, 0) == b"content"


def _errors() -> Iterator[tuple[Exception, int]]:
    """Errors of every kind, and what a caller has to see."""
    for error in (BackendUnavailable("b"), CorruptChunk("c"), InvalidImage("i")):
        yield error, errno.EIO
    yield Unsupported("u"), errno.ENOTSUP
    yield ProtocolViolation("p"), errno.EPROTO
    yield PermissionError(errno.EACCES, "a"), errno.EACCES
    yield OSError(errno.ESTALE, "s"), errno.ESTALE
    for number in (0, -5, 600, 99999):
        yield OSError(number, "what no kernel takes"), errno.EIO
    yield OSError(), errno.EIO
    for kind in (ValueError, KeyError, RecursionError, MemoryError, AssertionError, StopIteration):
        yield kind("a mistake"), errno.EIO

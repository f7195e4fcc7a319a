"""kill -9 under readers of cold data: without a successor EIO and never a wrong byte, with one no error at all.

NYDUS_TEST_KILLS sets how many times (4 by default).
"""

import errno
import hashlib
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mounting import BIN, DEADLINE_S, Daemon, Mounts, is_mounted, wait_for_mounts
from nydus_app.daemon.attachment import private_dir
from nydus_app.linux.mount import MNT_DETACH, mounts_at, unmount
from nydus_app.transports import erofs

KILLS = int(os.environ.get("NYDUS_TEST_KILLS", "4"))
IMAGE = "v6-zstd"
MNT_FORCE = 0x1
PAIR = Path(__file__).parent / "successor.py"

pytestmark = pytest.mark.mounts


@pytest.fixture
def digests(golden: Path, mounts: Mounts) -> dict[bytes, str]:
    """Of the image's regular files, from a mount of its own."""
    daemon = mounts.nydusd(golden / IMAGE / "boot", golden / IMAGE / "blobs", data_path="fuse")
    found = {name: digest(os.path.join(os.fsencode(daemon.mountpoint), name)) for name in files(daemon.mountpoint)}
    assert daemon.stop() == 0
    return found


def files(root: Path) -> list[bytes]:
    found = []
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                found.append(os.path.relpath(path, os.fsencode(root)))
    return sorted(found)


def digest(path: bytes) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


class Readers:
    """Four threads that read all files, each in an order of its own; their findings are digests and errnos."""

    def __init__(self, root: Path, want: dict[bytes, str], seed: int) -> None:
        self.wrong: list[tuple[bytes, object]] = []
        self.errors: list[int | None] = []
        self.done = 0
        self._root, self._want = os.fsencode(root), want
        self._threads = [threading.Thread(target=self._read, args=(seed * 4 + i,)) for i in range(4)]
        self.some_read = threading.Event()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _read(self, seed: int) -> None:
        names = sorted(self._want)
        random.Random(seed).shuffle(names)
        for number, name in enumerate(names):
            if number == 3:
                self.some_read.set()
            try:
                found = digest(os.path.join(self._root, name))
            except OSError as e:
                self.errors.append(e.errno)
                continue
            self.done += 1
            if found != self._want[name]:
                self.wrong.append((name, found))


class Sessions:
    """Successive daemons of one mount; this process keeps the session between them."""

    def __init__(self, base: Path, words: list[str]) -> None:
        self._words = words
        self._log = open(base / "sessions.log", "wb")
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.daemon: subprocess.Popen[bytes] | None = None

    def start(self, session: tuple[bytes, int] | None) -> tuple[bytes, int]:
        """Start a daemon, on a session or anew; its own session, when it serves."""
        if session is not None:
            socket.send_fds(self.ours, [session[0]], [session[1]])
        self.daemon = subprocess.Popen(
            [sys.executable, PAIR, str(self._theirs.fileno()), *self._words],
            pass_fds=[self._theirs.fileno()], stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        ended = os.pidfd_open(self.daemon.pid)
        try:
            ready, _, _ = select.select([self.ours, ended], [], [], DEADLINE_S)
        finally:
            os.close(ended)
        assert self.ours in ready, Path(self._log.name).read_text()
        table, fds, _, _ = socket.recv_fds(self.ours, 65536, 1)
        return table, fds[0]

    def fail(self, session: tuple[bytes, int], *words: str) -> str:
        """What a successor says that cannot go on."""
        socket.send_fds(self.ours, [session[0]], [session[1]])
        done = subprocess.run(
            [sys.executable, PAIR, str(self._theirs.fileno()), *self._words, *words],
            pass_fds=[self._theirs.fileno()], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode != 0
        return done.stderr

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.kill()
        assert self.daemon.wait(DEADLINE_S) == -signal.SIGKILL

    def close(self) -> None:
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for sock in (self.ours, self._theirs, self._log):
            sock.close()


@pytest.fixture
def sessions(tmp_path: Path, golden: Path, data_path: str) -> Iterator[Callable[[Path], Sessions]]:
    started: list[Sessions] = []
    (tmp_path / "mnt").mkdir()

    def make(cache: Path) -> Sessions:
        words = [
            f"mode.data_path={data_path}", "backend=localfs", f"backend.dir={golden / IMAGE / 'blobs'}",
            f"bootstrap={golden / IMAGE / 'boot'}", f"mountpoint={tmp_path / 'mnt'}", f"cache.work_dir={cache}",
            "rafs.batch_size=0", "log.level=warn", "daemon.rlimit_nofile=0",
        ]  # fmt: skip
        started.append(Sessions(tmp_path, words))
        return started[-1]

    yield make
    for one in started:
        one.close()
    for place in (str(tmp_path / "mnt"), private_dir(str(tmp_path / "mnt"))):
        while mounts_at(place):
            unmount(place, MNT_DETACH)


def test_without_a_successor_there_is_eio_and_nothing_else(
    sessions: Callable[[Path], Sessions], tmp_path: Path, digests: dict[bytes, str], data_path: str
) -> None:
    for round_ in range(KILLS):
        mount = sessions(tmp_path / f"cache{round_}")
        _, fd = mount.start(None)
        os.close(fd)
        readers = Readers(tmp_path / "mnt", digests, round_)
        readers.start()
        readers.some_read.wait(DEADLINE_S)
        mount.kill()
        readers.join()
        assert readers.wrong == []
        # A FUSE tree's metadata go with its daemon; those of an EROFS stay.
        allowed = {errno.EIO} if data_path == "erofs" else {errno.EIO, errno.ENOTCONN, errno.ECONNABORTED}
        assert set(readers.errors) <= allowed
        _, fd = mount.start(None)
        os.close(fd)
        again = Readers(tmp_path / "mnt", digests, round_)
        again.start()
        again.join()
        assert (again.wrong, again.errors) == ([], [])
        unmount(str(tmp_path / "mnt"))
        assert mount.daemon is not None and mount.daemon.wait(DEADLINE_S) == 0


def test_with_a_successor_there_is_no_error(
    sessions: Callable[[Path], Sessions], tmp_path: Path, digests: dict[bytes, str]
) -> None:
    for round_ in range(KILLS):
        mount = sessions(tmp_path / f"cache{round_}")
        session = mount.start(None)
        readers = Readers(tmp_path / "mnt", digests, round_)
        readers.start()
        for _ in range(2):
            readers.some_read.wait(DEADLINE_S)
            mount.kill()
            before, session = session, mount.start(session)
            os.close(before[1])
        readers.join()
        assert (readers.wrong, readers.errors) == ([], [])
        assert readers.done == 4 * len(digests)
        os.close(session[1])
        unmount(str(tmp_path / "mnt"))
        assert mount.daemon is not None and mount.daemon.wait(DEADLINE_S) == 0
        assert wait_for_mounts(lambda: not mounts_at(private_dir(str(tmp_path / "mnt"))))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("mode.driver=pyfuse3", "cannot go on with a session"),
        ("api.sock=/proc/s", "api.sock /proc/s"),
        ("bootstrap={golden}/v6-none/boot", "is one of another image"),
    ],
)
def test_a_successor_that_fails_leaves_the_session_to_the_next_one(
    sessions: Callable[[Path], Sessions], tmp_path: Path, golden: Path, digests: dict[bytes, str], wrong: str, why: str
) -> None:
    mount = sessions(tmp_path / "cache")
    session = mount.start(None)
    mount.kill()
    assert why in mount.fail(session, wrong.format(golden=golden))
    after = mount.start(session)
    readers = Readers(tmp_path / "mnt", digests, 0)
    readers.start()
    readers.join()
    assert (readers.wrong, readers.errors) == ([], [])
    for _, fd in (session, after):
        os.close(fd)
    unmount(str(tmp_path / "mnt"))
    assert mount.daemon is not None and mount.daemon.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("driver", ["fusedev", "pyfuse3"])
@pytest.mark.parametrize("method", ["statfs", "lookup", "open"])
@pytest.mark.skipif(erofs.why_not() is not None, reason=erofs.why_not() or "")
def test_a_daemon_does_not_wait_for_itself_when_it_is_killed(
    method: str, driver: str, golden: Path, mounts: Mounts, tmp_path: Path
) -> None:
    """A thread that waits for an answer of its own process cannot be killed, and would keep the session open."""
    words = [
        "mode.data_path=erofs", f"mode.driver={driver}", "backend=localfs", f"backend.dir={golden / IMAGE / 'blobs'}",
        f"bootstrap={golden / IMAGE / 'boot'}", f"mountpoint={tmp_path / 'mnt'}", f"cache.work_dir={tmp_path / 'cache'}",
        "log.level=warn", "daemon.rlimit_nofile=0",
    ]  # fmt: skip
    program = Path(__file__).parent / "killed_asking.py"
    killed = mounts.start(sys.executable, program, method, *words, mountpoint=tmp_path / "mnt", wait=False)
    try:
        assert killed.process.wait(DEADLINE_S) == -signal.SIGKILL
    except subprocess.TimeoutExpired:
        unmount(private_dir(str(tmp_path / "mnt")), MNT_FORCE | MNT_DETACH)  # ends the session
        raise
    after = mounts.start(BIN / "nydus-run", "mode=fuse", *words, mountpoint=tmp_path / "mnt")
    assert files(tmp_path / "mnt")
    assert after.stop() == 0
    assert not os.path.exists(private_dir(str(tmp_path / "mnt")))


@pytest.fixture
def start(golden: Path, mounts: Mounts, tmp_path: Path, data_path: str) -> Callable[..., Daemon]:
    """`nydus-run` at one mountpoint."""
    words = [
        "mode=fuse", f"mode.data_path={data_path}", "backend=localfs", f"backend.dir={golden / IMAGE / 'blobs'}",
        f"bootstrap={golden / IMAGE / 'boot'}", f"mountpoint={tmp_path / 'mnt'}", f"cache.work_dir={tmp_path / 'cache'}",
        "log.level=warn", "daemon.rlimit_nofile=0",
    ]  # fmt: skip

    def run(*, wait: bool = True) -> Daemon:
        return mounts.start(BIN / "nydus-run", *words, mountpoint=tmp_path / "mnt", wait=wait)

    return run


def test_killed_at_any_moment_of_start_and_end(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """It is gone at once, and the next start finds whatever is left and takes it away."""
    r = random.Random(1)
    begun = time.monotonic()
    assert start().stop() == 0
    longest_s = time.monotonic() - begun
    for round_ in range(KILLS):
        daemon = start(wait=False)
        if round_ % 4:
            with suppress(subprocess.TimeoutExpired):
                daemon.process.wait(r.uniform(longest_s / 4, longest_s))
        else:
            assert wait_for_mounts(lambda: is_mounted(tmp_path / "mnt"))
            daemon.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                daemon.process.wait(r.uniform(0, 0.05))
        if round_ % 2:
            daemon.process.send_signal(signal.SIGSTOP)
        daemon.process.kill()
        daemon.process.wait(DEADLINE_S)
    daemon = start()
    assert files(tmp_path / "mnt")
    assert daemon.stop() == 0
    assert not mounts_at(str(tmp_path / "mnt"))
    assert not os.path.exists(private_dir(str(tmp_path / "mnt")))


def test_a_daemon_that_is_stopped_for_a_while_costs_its_readers_time_only(
    start: Callable[..., Daemon], tmp_path: Path, digests: dict[bytes, str]
) -> None:
    daemon = start()
    readers = Readers(tmp_path / "mnt", digests, 0)
    readers.start()
    readers.some_read.wait(DEADLINE_S)
    daemon.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, daemon.process.pid, os.WSTOPPED | os.WNOWAIT)
    done = readers.done
    time.sleep(0.3)  # nothing tells that a reader waits
    daemon.process.send_signal(signal.SIGCONT)
    readers.join()
    assert done < readers.done == 4 * len(digests)
    assert (readers.wrong, readers.errors) == ([], [])
    assert daemon.stop() == 0


@pytest.mark.skipif(erofs.why_not() is not None, reason=erofs.why_not() or "")
@pytest.mark.parametrize("data_path", ["erofs"], indirect=True)
def test_of_two_that_start_at_one_mountpoint_one_serves(start: Callable[..., Daemon], tmp_path: Path) -> None:
    """Also where both find what a killed one left; the other says who is in its way."""
    for round_ in range(KILLS):
        if round_ % 2:
            start().kill()
        both = [start(wait=False), start(wait=False)]
        ended = {os.pidfd_open(daemon.process.pid): daemon for daemon in both}
        ready, _, _ = select.select(list(ended), [], [], DEADLINE_S)
        (loser,) = [ended[fd] for fd in ready]
        for fd in ended:
            os.close(fd)
        assert loser.process.wait() == 1
        assert "is served by another daemon" in loser.output
        (winner,) = set(both) - {loser}
        assert wait_for_mounts(lambda: is_mounted(tmp_path / "mnt"))
        assert files(tmp_path / "mnt")
        assert winner.stop() == 0
        assert not mounts_at(str(tmp_path / "mnt"))

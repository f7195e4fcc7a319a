"""What is fusedev's own: taking a session over, the bound of waiting requests, messages that are none."""

import functools
import os
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from fuse_messages import message, read_body
from nydus_app.formats.codec.compress import Buffer
from nydus_app.linux.fuse_device import mount_fuse
from nydus_app.protocols.fuse.numbers import Opcode
from nydus_app.storage.hop import require_loop
from nydus_app.testing.memory import ROOT, MemoryFileSystem
from nydus_app.transports import fusedev
from nydus_app.transports.fusedev import FusedevTransport

DEADLINE_S = 20
FILE = stat.S_IFREG | 0o644


def in_trio(test: Callable[..., Coroutine[object, object, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(**fixtures: object) -> None:
        trio.run(functools.partial(test, **fixtures))

    return run


@pytest.mark.mounts
def test_a_successor_answers_what_was_in_flight(tmp_path: Path) -> None:
    """The first one ends like a killed one: what it has read stays unanswered."""
    fs = MemoryFileSystem()
    ino = fs.add(ROOT, b"file", FILE, b"content")
    fs.hold(ino)
    device = mount_fuse(str(tmp_path), writable=False)

    async def both() -> bytes:
        first = FusedevTransport(fs, device.fd)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(first.serve)
            await trio.to_thread.run_sync(os.statvfs, tmp_path)
            reader = subprocess.Popen(["cat", tmp_path / "file"], stdout=subprocess.PIPE)
            assert await trio.to_thread.run_sync(fs.gates[ino].reached.wait, DEADLINE_S)
            first.stop()
        first.close()
        settings = type(first.settings)(*list(first.settings))  # as it comes through a socket
        del fs.gates[ino]
        second = FusedevTransport(fs, device.fd, settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.serve)
            second.resend()
            content, _ = await trio.to_thread.run_sync(reader.communicate, None, DEADLINE_S)
            assert await trio.to_thread.run_sync(os.listdir, tmp_path) == ["file"]
            device.unmount()
        second.close()
        return content

    try:
        assert trio.run(both) == b"content"
    finally:
        device.unmount()
        device.close()


def test_a_kernel_that_sends_nothing_again(caplog: pytest.LogCaptureFixture) -> None:
    with open("/dev/null", "rb") as refuses:
        FusedevTransport(MemoryFileSystem(), refuses.fileno()).resend()
    assert "does not send again" in caplog.text


class Kernel:
    """The other end of a session: a socket that keeps messages apart."""

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self._stream = trio.socket.from_stdlib_socket(ours)

    def send(self, data: bytes) -> None:
        self._ours.send(data)

    async def reply(self) -> tuple[int, int, bytes]:
        """`unique`, errno, data."""
        with trio.fail_after(DEADLINE_S):
            data = await self._stream.recv(1 << 20)
        length, number, unique = struct.unpack_from("=IiQ", data)
        assert length == len(data)
        return unique, -number, data[16:]


@asynccontextmanager
async def kernel_of(fs: MemoryFileSystem) -> AsyncIterator[Kernel]:
    """Hangs up at the end, which ends the transport."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(FusedevTransport(fs, theirs.fileno()).serve)
            yield Kernel(ours)
            ours.shutdown(socket.SHUT_RDWR)


def read_of(unique: int, node: int) -> bytes:
    return message(Opcode.READ, read_body(0, 0, 4096), unique=unique, node=node)


@in_trio
async def test_messages_that_are_none_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    async with kernel_of(MemoryFileSystem()) as kernel:
        for garbage in (b"x", bytes(40), message(Opcode.STATFS)[:-1], message(Opcode.STATFS) + b"x"):
            kernel.send(garbage)
        kernel.send(message(Opcode.STATFS, unique=9))
        assert (await kernel.reply())[:2] == (9, 0)
    assert len(caplog.records) == 4


def answered_by(ours: socket.socket) -> tuple[int, int, bytes]:
    """`unique`, errno, data of the next reply."""
    data = ours.recv(1 << 20)
    _, number, unique = struct.unpack_from("=IiQ", data)
    return unique, -number, data[16:]


class FarAndNear(MemoryFileSystem):
    """Data of `far` have to be waited for."""

    far = 0

    async def read(self, ino: int, offset: int, size: int) -> Sequence[Buffer]:
        if ino == self.far:
            require_loop()
        return await super().read(ino, offset, size)


def test_before_the_loop_all_is_answered_but_what_has_to_wait() -> None:
    fs = FarAndNear()
    near = fs.add(ROOT, b"near", FILE, b"here")
    fs.far = far = fs.add(ROOT, b"far", FILE, b"content")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(DEADLINE_S)
    with ours, theirs:
        transport = FusedevTransport(fs, theirs.fileno())
        for data in (read_of(5, far), message(Opcode.LOOKUP, b"far\0", unique=6), b"x", read_of(7, far)):
            ours.send(data)
        assert transport.begin()
        assert answered_by(ours)[:2] == (6, 0)
        ours.send(message(Opcode.LOOKUP, b"none\0", unique=8))
        assert answered_by(ours)[:2] == (8, 0)
        ours.send(read_of(9, near))
        assert answered_by(ours) == (9, 0, b"here")

        async def loop() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transport.serve)
                for unique in (5, 7):
                    assert await trio.to_thread.run_sync(answered_by, ours) == (unique, 0, b"content")
                transport.stop()

        trio.run(loop)
        transport.close()
    assert (fs.asked["read", near], fs.asked["read", far]) == (1, 2)


def test_early_answers_end_without_a_loop() -> None:
    for hangs_up in (False, True):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs:
            transport = FusedevTransport(MemoryFileSystem(), theirs.fileno())
            transport.begin()
            if hangs_up:
                ours.shutdown(socket.SHUT_RDWR)
            transport.close()
    assert "early-answers" not in {t.name for t in threading.enumerate()}


@in_trio
async def test_only_so_many_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusedev, "MAX_WAITING", 2)
    fs = MemoryFileSystem()
    inos = [fs.add(ROOT, b"%d" % i, FILE, b"content") for i in range(3)]
    gates = [fs.hold(ino) for ino in inos]
    async with kernel_of(fs) as kernel:
        for unique, ino in enumerate(inos):
            kernel.send(read_of(unique, ino))
        await trio.testing.wait_all_tasks_blocked()
        assert [gate.reached.is_set() for gate in gates] == [True, True, False]
        for first in (1, 0, 2):
            gates[first].open()
            assert await kernel.reply() == (first, 0, b"content")
        kernel.send(message(Opcode.STATFS, unique=9))
        assert (await kernel.reply())[:2] == (9, 0)


@in_trio
async def test_answers_at_once_do_not_starve_other_tasks() -> None:
    fs = MemoryFileSystem()
    async with kernel_of(fs) as kernel:
        for _ in range(4 * fusedev.FAIR):
            kernel.send(message(Opcode.INTERRUPT, bytes(8)))
        kernel.send(message(Opcode.STATFS))
        turns = 0
        while fs.asked["statfs", ROOT] == 0:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns >= 4
        await kernel.reply()

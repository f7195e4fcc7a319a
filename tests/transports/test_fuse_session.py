"""The session without a kernel: what INIT decides, and that no message ends it."""

import errno
import logging
import os
import random
import stat
import struct

import pytest
import trio

from fuse_messages import init_body, message, mutated, read_body
from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse.numbers import InitFlags, Opcode
from nydus_app.protocols.fuse.requests import decode_request
from nydus_app.testing.memory import ROOT, MemoryFileSystem
from nydus_app.transports.fuse_session import WANTED, FuseSession

FILE = stat.S_IFREG | 0o644
ALL_FLAGS = (1 << 41) - 1


def answer(session: FuseSession, data: bytes) -> bytes:
    return b"".join(trio.run(session.answer, decode_request(memoryview(data))))


def error_of(reply: bytes) -> int:
    length, number, unique = struct.unpack_from("=IiQ", reply)
    assert length == len(reply) and unique == 2
    return -number


def open_body(flags: int) -> bytes:
    return struct.pack("=II", flags, 0)


@pytest.fixture
def fs() -> MemoryFileSystem:
    filesystem = MemoryFileSystem()
    filesystem.add(ROOT, b"name", FILE, b"content" * 1000)
    return filesystem


def test_without_init_nothing_is_taken_for_granted(fs: MemoryFileSystem) -> None:
    """A kernel without zero-message opens would take ENOSYS for an answer."""
    session = FuseSession(fs)
    assert error_of(answer(session, message(Opcode.OPEN, open_body(os.O_RDONLY)))) == 0
    assert error_of(answer(session, message(Opcode.OPENDIR, open_body(os.O_RDONLY)))) == 0
    answer(session, message(Opcode.INIT, init_body(7, 31, 4096, ALL_FLAGS & ~int(InitFlags.NO_OPEN_SUPPORT))))
    assert error_of(answer(session, message(Opcode.OPEN, open_body(os.O_RDONLY)))) == 0
    assert error_of(answer(session, message(Opcode.OPENDIR, open_body(os.O_RDONLY)))) == errno.ENOSYS


@pytest.mark.parametrize("tracks_opens", [False, True])
def test_opens_after_init_or_a_take_over(tracks_opens: bool) -> None:
    fs = MemoryFileSystem(tracks_opens=tracks_opens)
    first = FuseSession(fs)
    assert len(answer(first, message(Opcode.INIT, init_body(7, 41, 4096, ALL_FLAGS)))) == 80
    assert first.settings is not None and first.settings.flags == WANTED.flags
    for session in (first, FuseSession(fs, settings=type(first.settings)(*first.settings))):
        expected = 0 if tracks_opens else errno.ENOSYS
        assert error_of(answer(session, message(Opcode.OPEN, open_body(os.O_RDONLY)))) == expected
        assert error_of(answer(session, message(Opcode.OPEN, open_body(os.O_RDWR)))) == errno.EROFS
        assert error_of(answer(session, message(Opcode.OPENDIR, open_body(os.O_RDONLY)))) == errno.ENOSYS


def test_what_is_not_served(fs: MemoryFileSystem) -> None:
    session = FuseSession(fs)
    for opcode in (Opcode.FLUSH, Opcode.ACCESS, Opcode.LSEEK, Opcode.IOCTL, Opcode.STATX, 4095):
        assert error_of(answer(session, message(opcode, bytes(64)))) == errno.ENOSYS
    for opcode in (Opcode.WRITE, Opcode.SETATTR, Opcode.CREATE):
        assert error_of(answer(session, message(opcode, bytes(64)))) == errno.EROFS
    for opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
        assert answer(session, message(opcode, bytes(64))) == b""
    for opcode in (Opcode.DESTROY, Opcode.RELEASEDIR):
        assert error_of(answer(session, message(opcode))) == 0
    assert error_of(answer(session, message(Opcode.INIT, init_body(7, 22, 0, 0)))) == errno.EPROTO


def test_a_listing_fills_its_room_and_no_more(fs: MemoryFileSystem) -> None:
    for i in range(100):
        fs.add(ROOT, b"%03d" % i, FILE)
    for opcode, entry_size in ((Opcode.READDIR, 32), (Opcode.READDIRPLUS, 160)):
        reply = answer(FuseSession(fs), message(opcode, read_body(0, 0, 1000)))
        assert len(reply) - 16 == 1000 // entry_size * entry_size
        assert error_of(answer(FuseSession(fs), message(opcode, read_body(0, 0, 30)))) == errno.EINVAL
        assert len(answer(FuseSession(fs), message(opcode, read_body(0, 103, 1000)))) == 16
    assert error_of(answer(FuseSession(fs), message(Opcode.READDIR, read_body(0, 0, 1000), node=8))) == errno.ENOTDIR


def test_more_bytes_than_asked_for_are_an_error(fs: MemoryFileSystem, caplog: pytest.LogCaptureFixture) -> None:
    async def read(ino: int, offset: int, size: int) -> list[bytes]:
        return [bytes(size), b"x"]

    fs.read = read  # type: ignore[method-assign]
    assert error_of(answer(FuseSession(fs), message(Opcode.READ, read_body(0, 0, 100), node=8))) == errno.EIO
    assert "101 bytes for a read of 100" in caplog.text


SAMPLES = [
    message(Opcode.LOOKUP, b"name\0"),
    message(Opcode.GETATTR, bytes(16), node=8),
    message(Opcode.READLINK, node=8),
    message(Opcode.OPEN, open_body(0), node=8),
    message(Opcode.READ, read_body(0, 0, 4096), node=8),
    message(Opcode.READDIR, read_body(0, 0, 4096)),
    message(Opcode.READDIRPLUS, read_body(0, 0, 4096)),
    message(Opcode.GETXATTR, struct.pack("=II", 64, 0) + b"user.name\0", node=8),
    message(Opcode.LISTXATTR, struct.pack("=II", 64, 0), node=8),
    message(Opcode.INIT, init_body(7, 41, 131072, ALL_FLAGS)),
    message(Opcode.STATFS),
    message(Opcode.BATCH_FORGET, struct.pack("=II", 1, 0) + bytes(16)),
]
UNANSWERED = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT, Opcode.NOTIFY_REPLY)


def test_damaged_requests_are_answered_or_passed_over(fs: MemoryFileSystem, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    session, r, errors = FuseSession(fs), random.Random(5), set()

    async def all_of_them() -> None:
        for _ in range(20_000):
            try:
                request = decode_request(memoryview(mutated(r, r.choice(SAMPLES))))
            except ProtocolViolation:
                continue
            parts = await session.answer(request)
            if not parts:
                assert request.opcode in UNANSWERED
                continue
            length, number, unique = struct.unpack_from("=IiQ", parts[0])
            assert length == sum(map(len, parts)) and unique == request.unique
            assert -512 < number <= 0 and (number == 0 or length == 16)
            errors.add(-number)

    trio.run(all_of_them)
    assert {0, errno.EPROTO, errno.ESTALE, errno.ENOSYS, errno.ENODATA} <= errors
    assert not caplog.records

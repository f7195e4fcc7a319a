"""The FUSE codec: round trips, and messages that nobody should have sent."""

import errno
import random
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_messages import SAMPLES, init_body, message, mutated, read_body
from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse import replies, requests
from nydus_app.protocols.fuse.init import Settings, negotiate
from nydus_app.protocols.fuse.numbers import KERNEL_VERSION, MINOR_VERSION, InitFlags

U16 = st.integers(0, (1 << 16) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda n: b"\0" not in n and b"/" not in n)


def decode_all(data: bytes) -> list[object]:
    """Every decoder on the body of whatever `data` is."""
    body = requests.decode_request(memoryview(data)).body
    found: list[object] = []
    for decode in (
        requests.decode_init, requests.decode_read, requests.decode_open, requests.decode_name,
        requests.decode_getxattr, requests.decode_listxattr,
    ):  # fmt: skip
        try:
            found.append(decode(body))
        except ProtocolViolation as e:
            found.append(str(e))
    return found


@given(opcode=U32, unique=U64, node=U64, body=st.binary(max_size=100), words=st.integers(0, 5))
def test_a_header_is_read_as_it_was_written(opcode: int, unique: int, node: int, body: bytes, words: int) -> None:
    data = message(opcode, body, unique=unique, node=node, extension=bytes(8 * words))
    assert requests.decode_request(memoryview(data)) == (opcode, unique, node, 1000, 1001, 77, body)


@given(name=NAMES)
def test_names(name: bytes) -> None:
    assert requests.decode_name(memoryview(name + b"\0")) == name
    for wrong in (name, name + b"\0\0", b"\0" + name + b"\0", b"/" + name + b"\0", b"\0", b""):
        with pytest.raises(ProtocolViolation):
            requests.decode_name(memoryview(wrong))


@given(size=U32, name=NAMES)
def test_getxattr(size: int, name: bytes) -> None:
    body = struct.pack("=II", size, 0)
    assert requests.decode_getxattr(memoryview(body + name + b"\0")) == (size, name)
    assert requests.decode_listxattr(memoryview(body)) == size
    for wrong in (body, body + name, body + b"\0", body + bytes(2) + name + b"\0", body + b"a" * 256 + b"\0", b"\0\0"):
        with pytest.raises(ProtocolViolation):
            requests.decode_getxattr(memoryview(wrong))


@given(handle=U64, offset=st.integers(0, (1 << 63) - (1 << 32)), size=U32)
def test_reads(handle: int, offset: int, size: int) -> None:
    assert requests.decode_read(memoryview(read_body(handle, offset, size))) == (handle, offset, size)


def test_reads_end_below_2_63() -> None:
    for offset, size in ((1 << 63, 0), ((1 << 63) - 1, 1), ((1 << 64) - 1, 2)):
        with pytest.raises(ProtocolViolation):
            requests.decode_read(memoryview(read_body(0, offset, size)))


@given(major=U32, minor=U32, readahead=U32, flags=U64)
def test_init(major: int, minor: int, readahead: int, flags: int) -> None:
    if not flags & InitFlags.INIT_EXT:
        flags &= 0xFFFF_FFFF
    body = init_body(major, minor, readahead, flags)
    assert requests.decode_init(memoryview(body)) == (major, minor, readahead, flags)


WANTED = Settings(
    KERNEL_VERSION, MINOR_VERSION, 1 << 20, int(InitFlags.MAX_PAGES | InitFlags.NO_OPEN_SUPPORT), 64, 48, 4096, 1, 256
)


@given(minor=st.integers(23, 1000), readahead=U32, flags=U64)
def test_negotiation_takes_what_both_have(minor: int, readahead: int, flags: int) -> None:
    agreed = negotiate(requests.Init(7, minor, readahead, flags), WANTED)
    assert agreed.flags == flags & WANTED.flags
    assert (agreed.major, agreed.minor) == (7, min(minor, MINOR_VERSION))
    assert agreed.max_readahead == max(readahead, 1 << 20)
    assert agreed.max_pages == (256 if flags & InitFlags.MAX_PAGES else 0)
    reply = replies.encode_init(9, agreed)
    assert len(reply) == 80
    values = struct.unpack("=IiQ IIII HH II HH I 28x", reply)
    assert values == (
        80, 0, 9, 7, agreed.minor, agreed.max_readahead, agreed.flags & 0xFFFF_FFFF, 64, 48, 4096, 1,
        agreed.max_pages, 0, agreed.flags >> 32,
    )  # fmt: skip


def test_negotiation_with_other_major_versions() -> None:
    assert negotiate(requests.Init(8, 0, 0, 0), WANTED).major == 7
    for major, minor in ((7, 22), (6, 99), (0, 0)):
        with pytest.raises(ProtocolViolation):
            negotiate(requests.Init(major, minor, 0, 0), WANTED)


TIMES = st.integers(-(1 << 62), 1 << 62)
ATTRIBUTES = st.builds(
    SimpleNamespace, ino=U64, mode=U16, nlink=U32, uid=U32, gid=U32, rdev=U32, size=st.integers(0, (1 << 63) - 1),
    blocks=U64, atime_ns=TIMES, mtime_ns=TIMES, ctime_ns=TIMES,
)  # fmt: skip


def check_attr(data: bytes, a: SimpleNamespace) -> None:
    ino, size, blocks, at, mt, ct, an, mn, cn, *rest = struct.unpack("=QQQqqqIIIIIIIIII", data)
    assert (ino, size, blocks) == (a.ino, a.size, a.blocks)
    assert (at * 10**9 + an, mt * 10**9 + mn, ct * 10**9 + cn) == (a.atime_ns, a.mtime_ns, a.ctime_ns)
    assert max(an, mn, cn) < 10**9
    assert rest == [a.mode, a.nlink, a.uid, a.gid, a.rdev, 4096, 0]


@given(unique=U64, node=U64, attr=ATTRIBUTES, valid=U64)
def test_entries_and_attributes(unique: int, node: int, attr: SimpleNamespace, valid: int) -> None:
    entry = replies.encode_entry(unique, node, attr, valid)
    assert struct.unpack("=IiQ QQQQII", entry[:56]) == (144, 0, unique, node, 0, valid, valid, 0, 0)
    check_attr(entry[56:], attr)
    found = replies.encode_attr(unique, attr, valid)
    assert struct.unpack("=IiQ QII", found[:32]) == (120, 0, unique, valid, 0, 0)
    check_attr(found[32:], attr)
    negative = replies.encode_negative_entry(unique, valid)
    assert struct.unpack("=IiQ QQQ", negative[:40]) == (144, 0, unique, 0, 0, valid)
    assert negative[40:] == bytes(104)


@given(attr=ATTRIBUTES, offset=U64, name=NAMES)
def test_directory_entries(attr: SimpleNamespace, offset: int, name: bytes) -> None:
    plain = replies.encode_dirent(attr.ino, offset, attr.mode, name)
    assert struct.unpack("=QQII", plain[:24]) == (attr.ino, offset, len(name), attr.mode >> 12)
    assert plain[24:] == name + bytes(-len(name) % 8)
    plus = replies.encode_direntplus(5, attr, 1 << 32, offset, name)
    assert struct.unpack("=QQQQII", plus[:40]) == (5, 0, 1 << 32, 1 << 32, 0, 0)
    check_attr(plus[40:128], attr)
    assert plus[128:] == plain
    assert not len(plus) % 8


def test_the_other_replies() -> None:
    assert replies.encode_error(7, errno.ENOENT) == struct.pack("=IiQ", 16, -2, 7)
    assert replies.encode_data(7, 100) == struct.pack("=IiQ", 116, 0, 7)
    assert replies.encode_open(7, 5, 2) == struct.pack("=IiQ QII", 32, 0, 7, 5, 2, 0)
    assert replies.encode_xattr_size(7, 5) == struct.pack("=IiQ II", 24, 0, 7, 5, 0)
    assert replies.encode_resend() == struct.pack("=IiQ", 16, 7, 0)
    statfs = struct.pack("=IiQ QQQQQ IIII 24x", 96, 0, 7, 10, 0, 0, 20, 0, 512, 255, 512, 0)
    assert replies.encode_statfs(7, 512, 10, 20, 255) == statfs


def test_damaged_messages_are_decoded_or_refused() -> None:
    r, decoded, refused = random.Random(4), 0, 0
    for _ in range(30_000):
        data = mutated(r, r.choice(SAMPLES))
        try:
            decode_all(data)
            decoded += 1
        except ProtocolViolation:
            refused += 1
    assert decoded > 5_000 and refused > 5_000

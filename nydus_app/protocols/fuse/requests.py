"""Requests of the kernel or a guest, bytes → values. Whatever is malformed raises ProtocolViolation.

A request is a header (`struct fuse_in_header`), the body of its operation, and from 7.38 on
extensions, which nothing here asks for. Numbers are little-endian: so are all machines this runs on.
"""

from struct import Struct
from typing import NamedTuple

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.fuse.numbers import IN_HEADER_SIZE, MAX_NAME

HEADER = Struct("<2I2Q3IH2x")  # fuse_in_header
INIT_IN = Struct("<4I")  # fuse_init_in up to 7.35; from 7.36 on flags2 follows where INIT_EXT is set
U32 = Struct("<I")
READ_IN = Struct("<2QI")  # head of fuse_read_in
READ_IN_SIZE = 40
GETXATTR_IN = Struct("<I4x")
OPEN_IN = Struct("<2I")
MAX_XATTR_NAME = 255
INIT_EXT = 1 << 30


class Request(NamedTuple):
    """`opcode` is an Opcode or a number that is none; `body` is a view of the message, without extensions."""

    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    body: memoryview


class Init(NamedTuple):
    """`flags` are InitFlags and whatever else is set, with those of `flags2` from bit 32 on."""

    major: int
    minor: int
    max_readahead: int
    flags: int


class Read(NamedTuple):
    """READ, READDIR and READDIRPLUS."""

    handle: int
    offset: int
    size: int


class Getxattr(NamedTuple):
    """`size` bytes are the room for the value; 0 asks for its length."""

    size: int
    name: bytes


def decode_request(message: memoryview) -> Request:
    """The one request that `message` is, no byte more or less."""
    size = len(message)
    if size < IN_HEADER_SIZE:
        raise ProtocolViolation(f"a FUSE message of {size} bytes")
    length, opcode, unique, node, uid, gid, pid, extensions = HEADER.unpack_from(message)
    end = length - 8 * extensions
    if length != size or end < IN_HEADER_SIZE:
        raise ProtocolViolation(f"a FUSE message of {size} bytes says {length}, {8 * extensions} of them extensions")
    return Request(opcode, unique, node, uid, gid, pid, message[IN_HEADER_SIZE:end])


def decode_init(body: memoryview) -> Init:
    major, minor, max_readahead, flags = _unpack(INIT_IN, body, "INIT")
    if flags & INIT_EXT:
        _check(body, INIT_IN.size + U32.size, "INIT")
        flags |= U32.unpack_from(body, INIT_IN.size)[0] << 32
    return Init(major, minor, max_readahead, flags)


def decode_read(body: memoryview) -> Read:
    """`offset + size` fits 63 bits."""
    _check(body, READ_IN_SIZE, "READ")
    read = Read._make(READ_IN.unpack_from(body))
    if read.offset + read.size >> 63:
        raise ProtocolViolation(f"READ of {read.size} bytes at {read.offset}")
    return read


def decode_open(body: memoryview) -> int:
    """Flags of open(2)."""
    flags: int = _unpack(OPEN_IN, body, "OPEN")[0]
    return flags


def decode_name(body: memoryview) -> bytes:
    """The one name that is the body: 1 to 1024 bytes and a final NUL, no slash."""
    name = bytes(body)
    if not 2 <= len(name) <= MAX_NAME + 1 or name.find(0) != len(name) - 1 or b"/" in name:
        raise ProtocolViolation(f"{name[:64]!r} is no file name")
    return name[:-1]


def decode_getxattr(body: memoryview) -> Getxattr:
    (size,) = _unpack(GETXATTR_IN, body, "GETXATTR")
    name = bytes(body[GETXATTR_IN.size :])
    if not 2 <= len(name) <= MAX_XATTR_NAME + 1 or name.find(0) != len(name) - 1:
        raise ProtocolViolation(f"{name[:64]!r} is no xattr name")
    return Getxattr(size, name[:-1])


def decode_listxattr(body: memoryview) -> int:
    """Bytes of room for the names; 0 asks for their length."""
    size: int = _unpack(GETXATTR_IN, body, "LISTXATTR")[0]
    return size


def _check(body: memoryview, size: int, what: str) -> None:
    if len(body) < size:
        raise ProtocolViolation(f"{what} with a body of {len(body)} bytes")


def _unpack(layout: Struct, body: memoryview, what: str) -> tuple[int, ...]:
    _check(body, layout.size, what)
    return layout.unpack_from(body)

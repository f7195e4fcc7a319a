"""FUSE requests as the kernel writes them, laid out by hand, and damaged ones."""

import random
import struct

from nydus_app.protocols.fuse.numbers import Opcode


def message(opcode: int, body: bytes = b"", *, unique: int = 2, node: int = 1, extension: bytes = b"") -> bytes:
    size = 40 + len(body) + len(extension)
    header = struct.pack("=IIQQIIIHH", size, opcode, unique, node, 1000, 1001, 77, len(extension) // 8, 0)
    return header + body + extension


def read_body(handle: int, offset: int, size: int) -> bytes:
    return struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)


def init_body(major: int, minor: int, readahead: int, flags: int) -> bytes:
    return struct.pack("=IIIII44x", major, minor, readahead, flags & 0xFFFF_FFFF, flags >> 32)


SAMPLES = [
    message(Opcode.INIT, init_body(7, 41, 131072, (1 << 40) - 1)),
    message(Opcode.LOOKUP, b"name\0"),
    message(Opcode.READ, read_body(1, 4096, 131072)),
    message(Opcode.GETXATTR, struct.pack("=II", 64, 0) + b"user.name\0"),
    message(Opcode.OPEN, struct.pack("=II", 0, 0), extension=bytes(16)),
    message(Opcode.BATCH_FORGET, struct.pack("=II", 1, 0) + bytes(16)),
]


def mutated(r: random.Random, sample: bytes) -> bytes:
    data = bytearray(sample)
    for _ in range(r.randrange(1, 4)):
        kind, at = r.randrange(5), r.randrange(len(data) or 1)
        if not data:
            break
        if kind == 0:
            data[at] ^= 1 << r.randrange(8)
        elif kind == 1:
            data[at] = r.choice((0, 1, 0x2F, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            data[at : at + 4] = r.choice((0, 1, 40, 1 << 31, (1 << 32) - 1, len(data))).to_bytes(4, "little")
        elif kind == 3:
            del data[at:]
        else:
            data[at:at] = r.randbytes(r.randrange(20))
    if len(data) >= 4 and r.random() < 0.7:  # an honest length lets the rest be looked at
        data[:4] = len(data).to_bytes(4, "little")
    return bytes(data)

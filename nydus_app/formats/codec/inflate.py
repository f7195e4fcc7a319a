"""Inflating from the middle of a gzip stream (zran, rafs-format 8.3), by the system's zlib.

Python's own zlib module cannot begin within a byte. Everything is one call of the library, which holds no lock
of the interpreter, into one buffer of the caller's. The reference is zlib's examples/zran.c.
"""

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_uint, c_ulong, c_void_p

from nydus_app.errors import CorruptChunk, Unsupported
from nydus_app.formats.codec.compress import Buffer

Writable = bytearray | memoryview

Z_OK, Z_STREAM_END, Z_NEED_DICT, Z_BUF_ERROR = 0, 1, 2, -5
Z_NO_FLUSH = 0
RAW, GZIP = -15, 31
"""windowBits: a deflate stream, or one in a gzip member."""

TRAILER_SIZE = 8
"""crc32 and length, behind the deflate stream of a gzip member (RFC 1952)."""


class _Stream(ctypes.Structure):
    """z_stream of zlib.h."""

    _fields_ = [
        ("next_in", c_void_p),
        ("avail_in", c_uint),
        ("total_in", c_ulong),
        ("next_out", c_void_p),
        ("avail_out", c_uint),
        ("total_out", c_ulong),
        ("msg", c_char_p),
        ("state", c_void_p),
        ("zalloc", c_void_p),
        ("zfree", c_void_p),
        ("opaque", c_void_p),
        ("data_type", c_int),
        ("adler", c_ulong),
        ("reserved", c_ulong),
    ]


def _load_zlib() -> ctypes.CDLL:
    """Loading it again costs next to nothing beside inflating."""
    try:
        lib = ctypes.CDLL("libz.so.1")
    except OSError as e:
        raise Unsupported(f"zran needs zlib: {e}") from None
    stream = POINTER(_Stream)
    lib.zlibVersion.restype = c_char_p
    lib.inflateInit2_.argtypes = [stream, c_int, c_char_p, c_int]
    lib.inflatePrime.argtypes = [stream, c_int, c_int]
    lib.inflateSetDictionary.argtypes = [stream, c_char_p, c_uint]
    lib.inflateReset2.argtypes = [stream, c_int]
    lib.inflate.argtypes = [stream, c_int]
    lib.inflateEnd.argtypes = [stream]
    return lib


def inflate_into(out: Writable, raw: Buffer, place: slice, *, dictionary: bytes, byte: int, bits: int) -> None:
    """Fill `out` from where `raw[place]` begins, with the `bits` (0 to 7) of the byte before, and what was inflated last.

    Goes on into the gzip members that follow. Raises CorruptChunk. `raw` is not copied if it is bytes.
    """
    stored = raw if isinstance(raw, bytes) else bytes(raw)
    lib, stream = _load_zlib(), _Stream()
    _check(lib.inflateInit2_(byref(stream), RAW, lib.zlibVersion(), ctypes.sizeof(_Stream)), stream)
    try:
        if bits:
            _check(lib.inflatePrime(byref(stream), bits, byte >> (8 - bits)), stream)
        if dictionary:
            _check(lib.inflateSetDictionary(byref(stream), dictionary, len(dictionary)), stream)
        start, stop, _ = place.indices(len(stored))
        stream.next_in = (ctypes.cast(stored, c_void_p).value or 0) + start
        stream.avail_in = max(stop - start, 0)
        _fill(lib, stream, out)
    finally:
        lib.inflateEnd(byref(stream))


def _fill(lib: ctypes.CDLL, stream: _Stream, out: Writable) -> None:
    target = (ctypes.c_char * len(out)).from_buffer(out)
    stream.next_out, stream.avail_out = ctypes.addressof(target), len(out)
    is_raw = True
    while stream.avail_out:
        status = lib.inflate(byref(stream), Z_NO_FLUSH)
        if status == Z_STREAM_END and stream.avail_out:
            # inflate() has taken the trailer of a member by itself if it has seen its header.
            if not _next_member(lib, stream, TRAILER_SIZE if is_raw else 0):
                break
            is_raw = False
        elif status not in (Z_OK, Z_STREAM_END) or not stream.avail_in:
            _check(status, stream)
            break
    if stream.avail_out:
        raise CorruptChunk(f"inflate: the stored bytes end {stream.avail_out} bytes too early")


def _next_member(lib: ctypes.CDLL, stream: _Stream, skipped: int) -> bool:
    if stream.avail_in <= skipped:
        return False
    stream.next_in += skipped
    stream.avail_in -= skipped
    _check(lib.inflateReset2(byref(stream), GZIP), stream)
    return True


def _check(status: int, stream: _Stream) -> None:
    if status not in (Z_OK, Z_STREAM_END, Z_BUF_ERROR):
        raise CorruptChunk(f"inflate: {(stream.msg or b'error %d' % status).decode(errors='replace')}")

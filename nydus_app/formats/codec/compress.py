"""Decompressors of chunks and tables. Input is untrusted, output size is known beforehand.

Every function returns exactly `size` bytes or raises CorruptChunk; none allocates more than that.
The codecs release the GIL on inputs of chunk size. Their libraries are imported with the first data to decompress:
a start reads none, and an image uses one of them.
"""

import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from nydus_app.errors import CorruptChunk
from nydus_app.formats.rafs.values import Compressor

if TYPE_CHECKING:
    import zstandard

Buffer = bytes | bytearray | memoryview

MAX_STREAM_WINDOW = 8 << 20
"""What zstd's highest ordinary level asks for; a frame may ask for any amount of memory."""


def _zstd(data: Buffer, size: int, context: "zstandard.ZstdDecompressor") -> bytes:
    import zstandard

    try:
        declared = zstandard.frame_content_size(data)
        # A frame that declares another size would make the library allocate that much.
        if declared not in (size, -1):
            raise CorruptChunk(f"zstd frame declares {declared} bytes, {size} expected")
        return context.decompress(data, max_output_size=size)
    except (zstandard.ZstdError, MemoryError, OverflowError) as e:
        raise CorruptChunk(f"zstd: {e}") from None


def _lz4_block(data: Buffer, size: int) -> bytes:
    import lz4.block

    try:
        return lz4.block.decompress(data, uncompressed_size=size)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError, OverflowError) as e:
        raise CorruptChunk(f"lz4: {e}") from None


def _gzip(data: Buffer, size: int, *, is_prefix: bool) -> bytes:
    try:
        inflater = zlib.decompressobj(wbits=31)
        out = inflater.decompress(data, size)
        # The member's trailer is only read when output is asked for beyond the last byte.
        if len(out) == size and not inflater.eof and not is_prefix:
            out += inflater.decompress(inflater.unconsumed_tail, 1)
    except zlib.error as e:
        raise CorruptChunk(f"gzip: {e}") from None
    if not inflater.eof and not is_prefix:
        raise CorruptChunk("gzip: the member does not end where the chunk does")
    return out


def decompress_zstd_frames(raw: Buffer, frames: Sequence[tuple[int, int]], sizes: Sequence[int]) -> list[memoryview]:
    """Frames at (offset, size) of `raw` in one call of the codec, which holds no lock for as long; `sizes` are
    those of their contents. Raises CorruptChunk for all of them if one is damaged.
    """
    import zstandard

    segments = zstandard.BufferWithSegments(raw, array("Q", chain.from_iterable(frames)).tobytes())
    try:
        found = zstandard.ZstdDecompressor().multi_decompress_to_buffer(
            segments, decompressed_sizes=array("Q", sizes)
        )
    except (zstandard.ZstdError, ValueError) as e:
        raise CorruptChunk(f"zstd: {e}") from None
    return [memoryview(segment) for segment in found]


class Decompressor:
    """For one thread and many chunks: a new zstd context costs as much as decompressing 10 KiB.

    `is_prefix`: a gzip member may go on behind the data that are wanted, which are its first ones.
    """

    def __init__(self, compressor: Compressor, *, is_prefix: bool = False) -> None:
        self._name = compressor.name
        self._function = _function(compressor, is_prefix)

    def decompress(self, data: Buffer, size: int) -> Buffer:
        """`data` itself for Compressor.none, else its `size` decompressed bytes."""
        out = self._function(data, size)
        if len(out) != size:
            raise CorruptChunk(f"{self._name}: {len(out)} bytes after decompression, {size} expected")
        return out


def _function(compressor: Compressor, is_prefix: bool) -> Callable[[Buffer, int], Buffer]:
    match compressor:
        case Compressor.zstd:
            import zstandard

            return partial(_zstd, context=zstandard.ZstdDecompressor())
        case Compressor.lz4_block:
            return _lz4_block
        case Compressor.gzip:
            return partial(_gzip, is_prefix=is_prefix)
        case Compressor.none:
            return lambda data, size: data


class Source(Protocol):
    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""
        ...


def decompress_stream(compressor: Compressor, source: Source, size: int, piece_bytes: int) -> Iterator[bytes]:
    """What `source` holds, `size` bytes in all, in pieces of up to `piece_bytes`. Raises CorruptChunk."""
    if compressor is Compressor.zstd:
        pieces = _zstd_pieces(source, piece_bytes)
    elif compressor is Compressor.none:
        pieces = iter(partial(source.read, piece_bytes), b"")
    else:
        raise CorruptChunk(f"nobody compresses a large table by {compressor.name}")
    done = 0
    for piece in pieces:
        done += len(piece)
        if done > size:
            break
        yield piece
    if done != size:
        raise CorruptChunk(f"{compressor.name}: another number of bytes than {size} after decompression")


def _zstd_pieces(source: Source, piece_bytes: int) -> Iterator[bytes]:
    import zstandard

    context = zstandard.ZstdDecompressor(max_window_size=MAX_STREAM_WINDOW)
    try:
        with context.stream_reader(source, read_size=piece_bytes, closefd=False) as stream:  # type: ignore[arg-type]
            yield from iter(partial(stream.read, piece_bytes), b"")
    except zstandard.ZstdError as e:
        raise CorruptChunk(f"zstd: {e}") from None


def decompress(compressor: Compressor, data: Buffer, size: int) -> Buffer:
    """One piece of data; see Decompressor."""
    return Decompressor(compressor).decompress(data, size)

"""Which chunks a range of a file lies in, for images whose files are cut every `chunk_size` bytes."""

from collections.abc import Callable

from nydus_app.errors import InvalidImage
from nydus_app.formats.rafs.values import Chunk, Segment


def segments_of(chunks: Callable[[int, int], list[Chunk]], chunk_size: int, offset: int, end: int) -> list[Segment]:
    """Those of bytes [offset, end) of a file; `chunks` is given the first number and how many. Raises InvalidImage."""
    first, last = offset // chunk_size, (end - 1) // chunk_size
    segments, at = [], offset
    for number, chunk in enumerate(chunks(first, last - first + 1), first):
        start = at - number * chunk_size
        stop = min(end - number * chunk_size, chunk_size)
        if stop > chunk.uncompressed_size:
            raise InvalidImage(f"chunk {number} of a file is too short for the file's size")
        segments.append(Segment(chunk, start, stop - start))
        at += stop - start
    return segments

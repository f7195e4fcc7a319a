"""Cache files that an image builder made (`nydus-image create --blob-cache-dir`): data and `.blob.meta`, but no chunk map.

A map is what tells data from holes. Where a data file without one is complete, its chunks are compared with their
digests, once, and those that match get a map; the blob need not be anywhere then.
"""

import logging
import os
from collections.abc import Callable, Sequence

from nydus_app.errors import CorruptChunk, InvalidImage
from nydus_app.formats import chunkmap
from nydus_app.formats.chunkmap import Cutting
from nydus_app.formats.blob.compression_info import ChunkTable, decode_blob_meta
from nydus_app.formats.codec.chunk import verify_chunk
from nydus_app.formats.rafs.v6 import decode_chunk_records
from nydus_app.formats.rafs.values import Blob, Chunk
from nydus_app.storage.whole_file import replacing

log = logging.getLogger("nydus.storage")


def adopt_prebuilt(base: str, blob: Blob, stored_records_of: Callable[[Sequence[int]], bytes]) -> None:
    """Give a prebuilt `<base>.blob.data` of a RAFS v6 blob its map; nothing happens where there is none.

    `stored_records_of` ascending chunk indexes, from the bootstrap's chunk table. Raises nothing: what is not adopted is fetched.
    """
    path = f"{base}.blob.data"
    if not os.path.exists(path) or os.path.exists(f"{path}.chunk_map") or os.path.exists(f"{base}.chunk_map"):
        return
    try:
        with open(path, "rb") as data, open(f"{base}.blob.meta", "rb") as meta:
            fd, size = data.fileno(), blob.uncompressed_size
            if os.fstat(fd).st_size != size or os.lseek(fd, 0, os.SEEK_HOLE) != size:
                return
            bits = _verified(fd, decode_blob_meta(meta.read(), blob), blob, stored_records_of)
        _write_map(f"{path}.chunk_map", bits, blob.cutting)
    except (OSError, InvalidImage) as e:
        log.warning("%s has no chunk map, and cannot be given one: %s", path, e)


def _verified(fd: int, table: ChunkTable, blob: Blob, stored_records_of: Callable[[Sequence[int]], bytes]) -> bytearray:
    """A bit for each chunk that matches its digest."""
    bits = bytearray(-(-blob.chunk_count // 8))
    for index in range(min(len(table), blob.chunk_count)):
        (record,) = decode_chunk_records(stored_records_of((index,)))
        if record is None:
            continue
        start, size, digest, crc = record
        chunk = Chunk(blob.index, index, 0, 0, start, size, False, digest, crc)
        try:
            if table.extent(index) == (start, size):
                verify_chunk(blob, chunk, os.pread(fd, size, start), validate=True)
                chunkmap.set_bit(bits, index)
        except CorruptChunk as e:
            log.warning("chunk %d of the prebuilt cache of blob %s is not used: %s", index, blob.id, e)
    return bits


def _write_map(path: str, bits: bytearray, cutting: Cutting) -> None:
    header = chunkmap.encode_header(cutting, all_ready=chunkmap.all_set(bits, cutting.count))
    with replacing(path) as f:
        f.write(header + bits)

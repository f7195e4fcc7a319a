"""A blob's compression information, fetched once and kept as `<blob id>.blob.meta` (rafs-format 10).

A `.blob.meta` that somebody else wrote is taken if its header fits the blob. That of a zran blob may hold 32 KiB of
dictionary for every half MiB of the layer: one of more than a MiB passes through memory in pieces, and stays in its file.

    more than a MiB, and may not be kept    in a temporary file without a name
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from io import RawIOBase
from typing import BinaryIO, NamedTuple

import trio

from nydus_app.errors import CacheError, InvalidImage
from nydus_app.formats.blob.compression_info import (
    CI_HEADER_SIZE,
    ChunkTable,
    check_header,
    ci_range,
    decode_blob_meta,
    decode_header,
    encode_blob_meta,
    meta_file_size,
    table_size,
)
from nydus_app.formats.codec.compress import decompress, decompress_stream
from nydus_app.formats.codec.unit import DictionaryOf
from nydus_app.formats.rafs.values import Blob, BlobFeatures
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.hop import in_thread, require_loop
from nydus_app.storage.whole_file import replacing, temporary_name

log = logging.getLogger("nydus.storage")

LARGE_BYTES = 1 << 20
PIECE_BYTES = 1 << 20


class BlobMeta(NamedTuple):
    table: ChunkTable
    dictionary_of: DictionaryOf
    close: Callable[[], None]


async def load_blob_meta(blob: Blob, reader: BlobReader, path: str | None) -> BlobMeta:
    """The one kept at `path`, or fetched by `reader`, and kept there unless `path` is None.

    Raises InvalidImage, BackendError, CacheError.
    """
    kept = await in_thread(read_kept_meta, blob, path)
    if kept is not None:
        return kept
    offset, size = ci_range(blob)
    if not _is_large(blob):
        return await in_thread(_take, blob, await reader.read(offset, size), path)
    require_loop()
    end = offset + size - CI_HEADER_SIZE
    header = await reader.read(end, CI_HEADER_SIZE)
    return await in_thread(_spool, blob, header, _Fetched(reader, offset, end), path)


def _is_large(blob: Blob) -> bool:
    return bool(blob.features & BlobFeatures.ZRAN) and meta_file_size(blob) > LARGE_BYTES


def read_kept_meta(blob: Blob, path: str | None) -> BlobMeta | None:
    """The one at `path`, None where there is none that fits. Blocks."""
    if path is None:
        return None
    try:
        with ExitStack() as undo:
            file = undo.enter_context(open(path, "rb"))
            found = _in_file(blob, file) if _is_large(blob) else _in_memory(blob, file.read())
            if _is_large(blob):
                undo.pop_all()
            return found
    except FileNotFoundError:
        return None
    except (OSError, InvalidImage) as e:
        log.warning("%s is fetched anew: %s", path, e)
        return None


# ---- in memory ----------------------------------------------------------------------------------


def _in_memory(blob: Blob, content: bytes) -> BlobMeta:
    return BlobMeta(decode_blob_meta(content, blob), partial(_slice, content), lambda: None)


def _slice(content: bytes, offset: int, size: int) -> bytes:
    return content[offset : offset + size]


def _take(blob: Blob, raw: bytes, path: str | None) -> BlobMeta:
    header, table = _decrypted(blob, raw[-CI_HEADER_SIZE:]), _decrypted(blob, raw[:-CI_HEADER_SIZE])
    check_header(decode_header(header), blob)
    content = encode_blob_meta(decompress(blob.ci_compressor, table, blob.ci_uncompressed_size), header)
    found = _in_memory(blob, content)
    if path is not None:
        _keep(path, content)
    return found


def _decrypted(blob: Blob, data: bytes) -> bytes:
    if blob.cipher is None:
        return data
    from nydus_app.formats.codec.crypt import decrypt

    return decrypt(blob.cipher, data)


def _keep(path: str, content: bytes) -> None:
    """Complete under its final name or not at all: others may be reading along."""
    try:
        with replacing(path) as f:
            f.write(content)
    except OSError as e:
        log.warning("%s is not kept: %s", path, e.strerror)


# ---- in a file ----------------------------------------------------------------------------------


class _Fetched(RawIOBase):
    """Bytes [offset, end) of an object as a file to read through once, in a thread of trio's."""

    def __init__(self, reader: BlobReader, offset: int, end: int) -> None:
        self._reader = reader
        self._start = self._at = offset
        self._end = end

    def rewind(self) -> None:
        self._at = self._start

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """At most PIECE_BYTES, and fewer than `size` only for that or at the end."""
        size = min(size if size >= 0 else PIECE_BYTES, PIECE_BYTES, self._end - self._at)
        piece = trio.from_thread.run(self._reader.read, self._at, size) if size else b""
        self._at += size
        return piece


def _in_file(blob: Blob, file: BinaryIO) -> BlobMeta:
    """`file` is closed with what is returned."""
    fd, size = file.fileno(), meta_file_size(blob)
    if os.fstat(fd).st_size != size:
        raise InvalidImage(f"compression information of another size does not fit blob {blob.id}")
    header = decode_header(os.pread(fd, CI_HEADER_SIZE, size - CI_HEADER_SIZE))
    check_header(header, blob)
    table = os.pread(fd, table_size(blob, header), 0)
    return BlobMeta(ChunkTable(memoryview(table), blob, header), partial(_pread, fd), file.close)


def _pread(fd: int, offset: int, size: int) -> bytes:
    try:
        data = os.pread(fd, size, offset)
    except OSError as e:
        raise CacheError(f"compression information: {e.strerror}") from None
    if len(data) != size:
        raise CacheError("compression information: the file has become shorter")
    return data


def _spool(blob: Blob, raw_header: bytes, table: _Fetched, path: str | None) -> BlobMeta:
    check_header(decode_header(raw_header), blob)
    if path is not None:
        temporary = temporary_name(path)
        try:
            with ExitStack() as undo:
                file = undo.enter_context(open(temporary, "x+b", buffering=0))
                undo.callback(os.unlink, temporary)
                found = _write(blob, raw_header, table, file)
                os.replace(temporary, path)
                undo.pop_all()
                return found
        except OSError as e:
            log.warning("%s is not kept: %s", path, e.strerror)
            table.rewind()
    try:
        with ExitStack() as undo:
            unnamed = undo.enter_context(tempfile.TemporaryFile(buffering=0))
            found = _write(blob, raw_header, table, unnamed)
            undo.pop_all()
            return found
    except OSError as e:
        raise CacheError(f"there is no room for the compression information of blob {blob.id}: {e.strerror}") from None


def _write(blob: Blob, raw_header: bytes, table: _Fetched, file: BinaryIO) -> BlobMeta:
    size = blob.ci_uncompressed_size
    for piece in decompress_stream(blob.ci_compressor, table, size, PIECE_BYTES):
        file.write(piece)
    file.write(bytes(-size % 4096) + raw_header)
    return _in_file(blob, file)

"""A bootstrap that lies inside a blob: found from the blob's end and taken out.

nydusd keeps it as `<work_dir>/<blob id>.image.boot` (rafs-format 10); so do we, for it is mapped from
there. It is taken out anew with each mount: the blob is the truth, a kept copy could be anybody's.
"""

import logging
import mmap
import os
from typing import NamedTuple

import trio

from nydus_app.formats.blob.toc import TAIL_SIZE, check_content, find_bootstrap
from nydus_app.formats.codec.compress import Buffer, decompress
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.whole_file import replacing

log = logging.getLogger("nydus.storage")


class InlineBootstrap(NamedTuple):
    """`path` is the file that `content` is mapped from, None if it is in memory."""

    path: str | None
    content: Buffer


def extract_bootstrap(reader: BlobReader, blob_id: str, work_dir: str | None) -> InlineBootstrap | None:
    """The bootstrap inside the blob, kept in `work_dir` unless that is None.

    None: the blob carries none. Closes `reader`. Raises InvalidImage, BackendError.
    """
    try:
        content = trio.run(_read_bootstrap, reader)
    finally:
        reader.close()
    if content is None:
        return None
    if work_dir is None:
        return InlineBootstrap(None, content)
    return _keep(os.path.join(work_dir, f"{blob_file_name(blob_id)}.image.boot"), content)


async def _read_bootstrap(reader: BlobReader) -> Buffer | None:
    size = await reader.size()
    tail_size = min(TAIL_SIZE, size)
    section = find_bootstrap(await reader.read(size - tail_size, tail_size), size)
    if section is None:
        return None
    stored = await reader.read(section.offset, section.compressed_size)
    content = decompress(section.compressor, stored, section.uncompressed_size)
    check_content(section, content)
    return content


def _keep(path: str, content: Buffer) -> InlineBootstrap:
    """Written under another name and renamed: a running daemon may have the old one mapped."""
    try:
        with replacing(path) as f:
            f.write(content)
            f.flush()
            mapped = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        return InlineBootstrap(path, memoryview(mapped))
    except OSError as e:
        log.warning("%s is not kept: %s", path, e.strerror)
        return InlineBootstrap(None, content)

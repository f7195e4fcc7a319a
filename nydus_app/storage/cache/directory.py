"""What lies in a cache directory, blob by blob: names are nydusd's (rafs-format 10) and a few of our own.

Only names and sizes are looked at, and the chunk map's bits: nothing is opened for writing, and no daemon notices.
"""

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from nydus_app.errors import CacheError, InvalidImage
from nydus_app.formats import chunkmap
from nydus_app.formats.blob.compression_info import CI_HEADER_SIZE, decode_header
from nydus_app.storage.whole_file import TEMPORARY

DATA, RAW, MAP, OLD_MAP = ".blob.data", ".blob.raw", ".blob.data.chunk_map", ".chunk_map"
META, DIGEST, TOC, BOOT = ".blob.meta", ".blob.digest", ".blob.toc", ".image.boot"
AGES, ENCRYPTED = ".blob.data.ages", ".blob.data.encrypted"
SUFFIXES = (MAP, DATA, RAW, META, DIGEST, TOC, BOOT, AGES, ENCRYPTED, OLD_MAP)
"""An ending that another one ends with comes after it."""

LAYOUT = re.compile(r"[0-9a-f]{64}\.erofs")


class File(NamedTuple):
    path: str
    size: int
    allocated: int  # bytes on the disk
    mtime: float


class KeptBlob(NamedTuple):
    """The files of one blob, by suffix."""

    id: str
    files: dict[str, File]

    @property
    def allocated(self) -> int:
        return sum(file.allocated for file in self.files.values())

    @property
    def used(self) -> float:
        """When somebody last wrote to it, in seconds of the epoch."""
        return max(file.mtime for file in self.files.values())


class Listing(NamedTuple):
    blobs: list[KeptBlob]
    layouts: list[File]
    temporaries: list[File]
    others: list[File]


def list_directory(path: str) -> Listing:
    """Raises CacheError where the directory cannot be read. What vanishes meanwhile is left out."""
    blobs: dict[str, dict[str, File]] = {}
    listing = Listing([], [], [], [])
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    if not entry.is_file(follow_symlinks=False):
                        continue
                    there = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                file = File(entry.path, there.st_size, there.st_blocks * 512, there.st_mtime)
                suffix = next((s for s in SUFFIXES if entry.name.endswith(s) and entry.name != s), None)
                if suffix is not None:
                    blobs.setdefault(entry.name.removesuffix(suffix), {})[suffix] = file
                elif LAYOUT.fullmatch(entry.name):
                    listing.layouts.append(file)
                elif TEMPORARY.fullmatch(entry.name):
                    listing.temporaries.append(file)
                else:
                    listing.others.append(file)
    except OSError as e:
        raise CacheError(f"{path}: {e.strerror}") from None
    listing.blobs.extend(KeptBlob(blob_id, files) for blob_id, files in sorted(blobs.items()))
    return listing


class Readiness(NamedTuple):
    """Chunks that are there, of so many; `total` may be up to 7 too many where only the map says it."""

    ready: int
    total: int


def read_readiness(blob: KeptBlob) -> Readiness:
    """Raises InvalidImage where the map, or the header of `.blob.meta`, is damaged, CacheError where it is not to be read."""
    file = blob.files.get(MAP) or blob.files.get(OLD_MAP)
    total = _chunk_count(blob)
    if file is None:
        return Readiness(0, total or 0)
    count = max(file.size - chunkmap.HEADER_SIZE, 0) * 8 if total is None else total
    return Readiness(_population(read_bits(blob, count)), count)


def read_bits(blob: KeptBlob, chunk_count: int) -> bytearray:
    """The bitmap of its chunk map. Raises InvalidImage, CacheError."""
    file = blob.files.get(MAP) or blob.files.get(OLD_MAP)
    content = b"" if file is None else _read(file)
    if not content.strip(b"\0"):  # just created
        return bytearray(-(-chunk_count // 8))
    if not chunkmap.is_valid(content, chunk_count):
        raise InvalidImage(f"its chunk map is none of {chunk_count} chunks")
    return chunkmap.decode_bits(content, chunk_count)


def _read(file: File, offset: int = 0) -> bytes:
    try:
        with open(file.path, "rb") as f:
            f.seek(offset)
            return f.read()
    except OSError as e:
        raise CacheError(f"{file.path}: {e.strerror}") from None


def _population(bits: Iterable[int]) -> int:
    return sum(byte.bit_count() for byte in bits)


def _chunk_count(blob: KeptBlob) -> int | None:
    """What the header of `.blob.meta` says; RAFS v5 has none."""
    file = blob.files.get(META)
    if file is None:
        return None
    return decode_header(_read(file, max(file.size - CI_HEADER_SIZE, 0))).chunk_count


def why_hollow(blob: KeptBlob) -> str | None:
    """Why nothing of a blob can be believed, as far as that can be told without its image."""
    data = [blob.files[suffix] for suffix in (DATA, RAW) if suffix in blob.files]
    try:
        ready, _ = read_readiness(blob)
    except InvalidImage as e:
        return str(e)
    if ready and not data:
        return "a chunk map without data"
    if ready and not any(file.allocated for file in data):
        return "a chunk map that tells of chunks, and a data file without any"
    return None

"""Looks for damage, and says what it found, one line for each thing.

Without --bootstrap: chunk maps that cannot be right. With it: every chunk that is kept of the image's blobs is compared with its digest.
--repair takes damaged chunks out of the cache, so that they are fetched again, and drops what nothing can be read
by; where a daemon has the directory, or somebody the blob, it stays as it is.

Exit status: 0 nothing is damaged, or all of it was repaired · 1 otherwise
"""

import argparse
import mmap
import os
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from nydus_app.errors import CacheError, ConfigFileError, InvalidImage
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.formats.rafs.values import Blob, Bootstrap, Chunk
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.checkup import (
    ChunksOf,
    Damage,
    Key,
    find_damage,
    is_ready_still,
    open_data,
    ready_chunks,
    repair,
)
from nydus_app.storage.cache.directory import DATA, META, RAW, KeptBlob, list_directory, why_hollow
from nydus_app.storage.cache.directory_lock import directory_alone
from nydus_app.storage.cache.removal import is_in_use, remove_files
from nydus_app.storage.chunk_index import CompressionInfoIndex
from nydus_app.storage.named_chunks import NamedChunks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bootstrap", action="append", default=[], metavar="B", help="an image whose chunks are kept here; repeatable"
    )
    parser.add_argument("--repair", action="store_true", help="take what is damaged out of the cache")
    key = parser.add_mutually_exclusive_group()
    key.add_argument("--key", metavar="FILE", help="holds cache.encryption_key, 64 hexadecimal digits")
    key.add_argument("--convergent", action="store_true", help="the cache is encrypted, each chunk by its digest")


class Known(NamedTuple):
    """A blob that is kept, and what its image says of it."""

    kept: KeptBlob
    blob: Blob
    chunks: ChunksOf


def run(arguments: argparse.Namespace) -> int:
    key = _key(arguments)
    blobs = {kept.id: kept for kept in list_directory(arguments.directory).blobs}
    left = sum(_check_form(arguments, kept) for kept in blobs.values())
    for path in arguments.bootstrap:
        bootstrap = _open(path)
        for blob in bootstrap.blobs:
            if (kept := blobs.get(blob_file_name(blob.id))) is not None:
                left += _check_chunks(arguments, Known(kept, blob, _chunks_of(bootstrap, blob, kept)), key)
    return 1 if left else 0


def _key(arguments: argparse.Namespace) -> Key | None:
    if arguments.key is None:
        return Key(None) if arguments.convergent else None
    try:
        with open(arguments.key, encoding="ascii") as f:
            key = bytes.fromhex(f.read().strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != 32:
        raise ConfigFileError(f"--key {arguments.key}: it does not hold 64 hexadecimal digits")
    return Key(key)


def _open(path: str) -> Bootstrap:
    try:
        with open(path, "rb") as f:
            content = memoryview(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))
        return open_bootstrap(content, blob_id_hint=os.path.basename(path).partition(".")[0])
    except (OSError, ValueError) as e:
        raise ConfigFileError(f"bootstrap {path}: {getattr(e, 'strerror', None) or 'it is empty'}") from None
    except InvalidImage as e:
        raise type(e)(f"bootstrap {path}: {e}") from None


def _chunks_of(bootstrap: Bootstrap, blob: Blob, kept: KeptBlob) -> ChunksOf:
    """RAFS v6 needs the `.blob.meta` that is kept beside the data."""
    if isinstance(bootstrap, BootstrapV5):
        named = NamedChunks(bootstrap, blob)
        return lambda indexes: named.places(indexes.start, indexes.stop)
    path = kept.files[META].path if META in kept.files else None
    index = CompressionInfoIndex(blob, None, path, partial(bootstrap.stored_chunk_records, blob.index))
    return index.kept_chunks


def _check_form(arguments: argparse.Namespace, kept: KeptBlob) -> int:
    """Things that are wrong and stay so."""
    why = why_hollow(kept)
    if why is None:
        return 0
    print(f"{kept.id}: {why}")
    if not arguments.repair:
        return 1
    with directory_alone(arguments.directory):
        removed = remove_files(arguments.directory, kept)
    print(f"{kept.id}: {'dropped' if removed else 'in use, it stays'}")
    return 0 if removed else 1


def _check_chunks(arguments: argparse.Namespace, known: Known, key: Key | None) -> int:
    kept, blob, chunks = known
    try:
        data = open_data(kept, blob, key)
    except CacheError as e:
        print(f"{kept.id}: not verified: {e}")
        return 1
    damaged: list[Damage] = []
    count = 0
    try:
        for chunk in ready_chunks(kept, blob, chunks):
            count += 1
            damage = find_damage(data, blob, chunk)
            if damage is not None and is_ready_still(kept, blob, chunk):
                print(f"{kept.id}: chunk {chunk.index}: {damage.why}")
                damaged.append(damage)
    except InvalidImage as e:
        print(f"{kept.id}: not verified: {e}")
        return 1
    finally:
        data.close()
    print(f"{kept.id}: {count} chunks verified, {len(damaged)} damaged")
    if not damaged or not arguments.repair:
        return len(damaged)
    return len(damaged) - _repair(arguments.directory, known, key, [d.chunk for d in damaged])


def _repair(directory: str, known: Known, key: Key | None, chunks: Sequence[Chunk]) -> int:
    with directory_alone(directory):
        if any(is_in_use(known.kept.files[s].path) for s in (DATA, RAW) if s in known.kept.files):
            print(f"{known.kept.id}: in use, it stays")
            return 0
        count = repair(directory, known.kept, known.blob, key, chunks)
    print(f"{known.kept.id}: {count} chunks taken out")
    return count

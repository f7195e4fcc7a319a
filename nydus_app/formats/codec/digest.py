"""Digests and checksums of uncompressed chunk data (rafs-format 9.2, 9.3).

As with the codecs, libraries are imported with the first data.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import cast

from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Digester

LARGE_BYTES = 1 << 18
"""To give the interpreter's lock up for less, and to wait for it, takes longer than the checksum."""


def digest(digester: Digester, data: Buffer) -> bytes:
    """32 bytes."""
    if digester is Digester.sha256:
        return hashlib.sha256(data).digest()
    import blake3

    return blake3.blake3(data).digest()


def checksum(data: Buffer) -> int:
    """CRC-32C (Castagnoli), not zip's CRC-32."""
    return _crc32c()(data, 0, len(data) > LARGE_BYTES)


@cache
def _crc32c() -> Callable[[Buffer, int, int], int]:
    """Of the package's extension alone: the package itself imports archives, e-mail and a command line, for 30 ms."""
    package = PathFinder.find_spec("crc32c")
    found = package and PathFinder.find_spec("crc32c._crc32c", package.submodule_search_locations)
    if not found or found.loader is None:
        import crc32c

        return crc32c.crc32c
    extension = module_from_spec(found)
    found.loader.exec_module(extension)
    return cast(Callable[[Buffer, int, int], int], extension.crc32c)


class Fingerprint:
    """BLAKE3 of much data at once, by all cores: what tells whether a whole file is the one that was seen before."""

    def __init__(self) -> None:
        import blake3

        self._hasher = blake3.blake3(max_threads=blake3.blake3.AUTO)
        self.update = self._hasher.update
        self.digest = self._hasher.digest

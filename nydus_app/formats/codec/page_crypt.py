"""The cache's own encryption: AES-128-XTS, page by page (contract 7.5, `storage/src/cache/cachedfile.rs`).

Every page of 4096 bytes is a data unit of its own with a tweak of zeros; the key is 32 bytes, two AES keys. nydusd
fills the last page of a chunk with zeros, for which only aligned blobs have room. Elsewhere the rest of a chunk keeps its length
here: XTS takes any from 16 bytes on, and a shorter rest is one unit with the page before.
`cryptography` is imported with the first page.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from nydus_app.formats.codec.compress import Buffer

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher

PAGE = 4096
KEY_SIZE = 32
SHORTEST = 16
"""Bytes of the shortest data unit: AES's block."""

FALLBACK_KEY = bytes.fromhex("aced146994231eca448ced2f6b400c00fdbb3facddc7d9ee83f65cd93caa287c")
"""Instead of a digest whose halves are equal, which XTS forbids (`utils/src/crypt.rs`)."""


def convergent_key(digest: bytes) -> bytes:
    """Who has the same chunk has the same key."""
    return FALLBACK_KEY if digest[:16] == digest[16:] else digest


def _cipher(key: bytes) -> "Cipher[object]":
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import XTS

    return Cipher(AES(key), XTS(bytes(16)))


def _units(data: memoryview) -> Iterator[memoryview]:
    size = len(data)
    at = 0
    while at < size:
        end = size if size - at < PAGE + SHORTEST and size - at != PAGE else at + PAGE
        yield data[at:end]
        at = end


def padded_size(size: int) -> int:
    return -(-size // PAGE) * PAGE


def encrypt_pages(key: bytes, data: Buffer) -> bytes:
    """As many bytes as `data`, which are at least 16. OpenSSL wants a context for every unit."""
    cipher = _cipher(key)
    return b"".join([cipher.encryptor().update(unit) for unit in _units(memoryview(data))])


def decrypt_pages(key: bytes, data: Buffer) -> bytes:
    cipher = _cipher(key)
    return b"".join([cipher.decryptor().update(unit) for unit in _units(memoryview(data))])

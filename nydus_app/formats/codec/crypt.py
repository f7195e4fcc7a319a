"""AES-128-XTS of encrypted blobs (rafs-format 9.4).

Every chunk, the table of compression information and its header are encrypted by themselves, all with the same
tweak. XTS needs 16 bytes: shorter data were padded, and marked by two bytes behind the padding.
"""

from nydus_app.errors import CorruptChunk
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Cipher

BLOCK = 16
PADDED_SIZE = BLOCK + 2
MARK = b"\x78\x90"


def decrypt(cipher: Cipher, data: Buffer) -> bytes:
    """Raises CorruptChunk for what cannot have been encrypted."""
    from cryptography.hazmat.primitives.ciphers import Cipher as Algorithm
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import XTS

    if len(data) < BLOCK:
        raise CorruptChunk(f"{len(data)} bytes cannot be encrypted ones")
    decryptor = Algorithm(AES(cipher.key), XTS(cipher.iv)).decryptor()
    plain = decryptor.update(data) + decryptor.finalize()
    return _without_padding(plain) if len(plain) == PADDED_SIZE and plain.endswith(MARK) else plain


def _without_padding(plain: bytes) -> bytes:
    """The padding's bytes are their number."""
    count = plain[BLOCK - 1]
    if not 0 < count < BLOCK:
        raise CorruptChunk(f"encrypted data with a padding of {count} bytes")
    return plain[: BLOCK - count]

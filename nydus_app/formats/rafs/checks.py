"""Rules that both versions share (rafs-format 3, 12)."""

from nydus_app.errors import InvalidImage, UnsupportedImage
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Compressor, Digester, SuperFlags

PLACEHOLDER_ID = "x" * 64
"""Stands for the id of the blob that the bootstrap itself lies in."""

_ONLY_V6 = (
    BlobFeatures.BATCH | BlobFeatures.ENCRYPTED | BlobFeatures.ZRAN | BlobFeatures.TARFS | BlobFeatures.SEPARATE
)

_KNOWN_FLAGS = sum(SuperFlags) | 0xFC00_0000
_INCOMPATIBLE = 0xFFFF
_KNOWN_INCOMPATIBLE = 0xFFF


def check_chunk_size(size: int) -> int:
    if not 4096 <= size <= 16 << 20 or size & (size - 1):
        raise InvalidImage(f"chunk size {size} is no power of two from 4 KiB to 16 MiB")
    return size


def check_super_flags(flags: int) -> SuperFlags:
    if flags & ~_KNOWN_FLAGS:
        raise InvalidImage(f"superblock flags {flags & ~_KNOWN_FLAGS:#x} are unknown")
    return SuperFlags(flags & int(sum(SuperFlags)))


def compressor_of(flags: SuperFlags) -> Compressor:
    for flag, compressor in (
        (SuperFlags.COMPRESSION_NONE, Compressor.none),
        (SuperFlags.COMPRESSION_GZIP, Compressor.gzip),
        (SuperFlags.COMPRESSION_ZSTD, Compressor.zstd),
    ):
        if flags & flag:
            return compressor
    return Compressor.lz4_block


def digester_of(flags: SuperFlags) -> Digester:
    return Digester.sha256 if flags & SuperFlags.HASH_SHA256 else Digester.blake3


def check_features(blob_id: str, features: int) -> BlobFeatures:
    if features & _INCOMPATIBLE & ~_KNOWN_INCOMPATIBLE:
        raise UnsupportedImage(f"blob {blob_id} has features {features & _INCOMPATIBLE:#x}, some of them unknown")
    return BlobFeatures(features & int(sum(BlobFeatures)))


def check_v5_features(blob_id: str, features: BlobFeatures) -> BlobFeatures:
    if features & _ONLY_V6:
        raise InvalidImage(f"blob {blob_id} has features {features & _ONLY_V6!r}, which RAFS v5 has no tables for")
    return features


def check_v6_features(blob_id: str, features: BlobFeatures, *, is_tarfs: bool, is_encrypted: bool) -> BlobFeatures:
    """Each form has what it needs, and nothing that contradicts it (rafs-format 12)."""
    F = BlobFeatures
    if bool(features & F.TARFS) is not is_tarfs or bool(features & F.ENCRYPTED) is not is_encrypted:
        raise InvalidImage(f"blob {blob_id} contradicts the superblock's tarfs flag or its own cipher")
    if not features & (F.ALIGNED | F.TARFS) or (features & F.ALIGNED and features & F.TARFS):
        raise InvalidImage(f"blob {blob_id} is neither aligned to pages nor a tar, or both")
    if features & (F.BATCH | F.ZRAN | F.ENCRYPTED) and not features & F.CHUNK_INFO_V2:
        raise InvalidImage(f"blob {blob_id} has units, but no records that could name them")
    if (features & F.ZRAN and features & (F.BATCH | F.ENCRYPTED)) or (features & F.SEPARATE and is_encrypted):
        raise InvalidImage(f"blob {blob_id} has features that exclude each other ({features & 0xFFFF:#x})")
    return features


def check_blob(blob: Blob) -> Blob:
    if blob.chunk_count > 1 << 24:
        raise InvalidImage(f"blob {blob.id} has {blob.chunk_count} chunks, more than 2^24")
    if blob.uncompressed_size > 1 << 44 or blob.compressed_size > 1 << 40:
        raise InvalidImage(f"blob {blob.id} is larger than the format allows")
    return blob


def decode_id(raw: bytes, hint: str | None) -> str:
    """A blob id from its NUL-padded field."""
    try:
        blob_id = raw.rstrip(b"\0").decode()
    except UnicodeDecodeError:
        raise InvalidImage(f"blob id {raw!r} is no UTF-8") from None
    return hint if blob_id == PLACEHOLDER_ID and hint else blob_id

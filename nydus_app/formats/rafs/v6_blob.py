"""Entries of RAFS v6's blob table (rafs-format 5.4)."""

from struct import Struct
from typing import Any

from nydus_app.errors import InvalidImage, UnsupportedImage
from nydus_app.formats.blob.contexts import CONTEXT_SIZE
from nydus_app.formats.rafs.checks import check_blob, check_features, check_v6_features, decode_id
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Cipher, Compressor, Digester

BLOB = Struct("<64s6I2Q2I3Q32s32s8s8sI36x")
SIZE = Struct("<Q")
AES_128_XTS = 1

MAX_CHUNKS = 1 << 24
RECORD_BYTES, DICTIONARY_BYTES, PADDING_BYTES = 24, 32 << 10, 8192


def decode_blob(entry: tuple[Any, ...], index: int, chunk_size: int, *, is_tarfs: bool, hint: str | None) -> Blob:
    """Entry `index`, unpacked by BLOB; `chunk_size` and `is_tarfs` are the superblock's.

    `hint` is the id of the blob that carries the bootstrap, if one does. Raises InvalidImage.
    """
    (raw_id, own, own_chunk_size, count, compressor, digester, features, csize, usize, toc, ci_compressor, ci_at,
     ci_csize, ci_usize, toc_digest, key_or_meta, iv_or_size, iv, cipher) = entry  # fmt: skip
    blob_id = decode_id(raw_id, hint)
    if own != index or own_chunk_size != chunk_size:
        raise InvalidImage(f"blob table entry {index} contradicts the superblock")
    if max(compressor, ci_compressor) > max(Compressor) or digester > max(Digester):
        raise InvalidImage(f"blob {blob_id} has an unknown compressor or digester")
    if cipher not in (0, AES_128_XTS):
        raise UnsupportedImage(f"blob {blob_id} is encrypted by cipher {cipher}, which this version cannot read")
    if cipher and key_or_meta[:16] == key_or_meta[16:]:
        raise InvalidImage(f"blob {blob_id}: the halves of its key are equal")
    known = check_v6_features(
        blob_id, check_features(blob_id, features), is_tarfs=is_tarfs, is_encrypted=cipher == AES_128_XTS
    )
    meta_id, meta_size = "", csize
    if known & BlobFeatures.SEPARATE:
        # A bootstrap inside of the object with the compression information cannot know that object's digest.
        meta_id = hint if hint and known & BlobFeatures.INLINED_FS_META else key_or_meta.hex()
        meta_size = SIZE.unpack(iv_or_size)[0] or 1 << 40
    if ci_csize > ci_usize or ci_at + ci_csize > meta_size:
        raise InvalidImage(f"blob {blob_id}: its compression information lies outside of its object")
    if ci_usize > _most_compression_information(known, count):
        raise InvalidImage(f"blob {blob_id}: compression information of {ci_usize} bytes for {count} chunks")
    return check_blob(
        Blob(
            index, blob_id, known, Compressor(compressor), Digester(digester), chunk_size, count, csize, usize,
            Compressor(ci_compressor), ci_at, ci_csize, ci_usize, toc, toc_digest, meta_id,
            Cipher(key_or_meta, iv_or_size + iv) if cipher else None,
        )
    )  # fmt: skip


def _most_compression_information(features: BlobFeatures, count: int) -> int:
    """Bytes that records, contexts and zran's dictionaries of `count` chunks take at most (rafs-format 7.1, 12)."""
    if features & BlobFeatures.IS_CHUNKDICT_GENERATED:  # which counts the chunks of others
        count = MAX_CHUNKS
    contexts = CONTEXT_SIZE if features & (BlobFeatures.BATCH | BlobFeatures.ZRAN) else 0
    dictionaries = DICTIONARY_BYTES if features & BlobFeatures.ZRAN else 0
    return count * (RECORD_BYTES + contexts + dictionaries) + PADDING_BYTES

"""The chunk index and the cache of each blob of an image."""

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from nydus_app.config.tree import Blobcache, Tree
from nydus_app.formats.rafs.tarfs import BootstrapTarfs
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Bootstrap
from nydus_app.storage.backend.localfs import LocalfsBackend
from nydus_app.storage.backend.logged import LoggedReader
from nydus_app.storage.backend.meter import MeteredReader
from nydus_app.storage.backend.momentary import MomentaryReader
from nydus_app.storage.backend.port import Backend, BlobReader
from nydus_app.storage.background import Background
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.dummycache import DummyCache
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.cache.whole_blob import WholeBlob, open_whole_blob
from nydus_app.storage.chunk_index import ChunkIndex, CompressionInfoIndex, RecordedIndex
from nydus_app.storage.named_chunks import NamedChunks
from nydus_app.storage.prebuilt import adopt_prebuilt
from nydus_app.storage.tar_pieces import TarPieces
from nydus_app.storage.workers import Workers

if TYPE_CHECKING:
    from nydus_app.storage.cache.bounded_blob import BoundedBlob

    ShareOf = Callable[[Blob, ChunkIndex, bytearray], BoundedBlob]


def is_bounded(tree: Tree) -> bool:
    return isinstance(tree.cache, Blobcache) and bool(tree.cache.max_size or tree.cache.min_free)


def build_index(
    tree: Tree, bootstrap: Bootstrap, blob: Blob, reader: BlobReader, backend: Backend, background: Background
) -> ChunkIndex:
    if isinstance(bootstrap, BootstrapV5):
        return RecordedIndex(blob, NamedChunks(bootstrap, blob).places if is_bounded(tree) else None)
    if isinstance(bootstrap, BootstrapTarfs):
        return TarPieces(blob)
    if blob.meta_id:
        reader = MeteredReader(MomentaryReader(backend, blob.meta_id), background.metrics)
    reader = LoggedReader(reader, blob, background.fetches)
    stored_records_of = partial(bootstrap.stored_chunk_records, blob.index)
    if not isinstance(tree.cache, Blobcache):
        return CompressionInfoIndex(blob, reader, None, stored_records_of)
    base = os.path.join(tree.cache.work_dir, blob_file_name(blob.id))
    if not tree.cache.compressed:
        adopt_prebuilt(base, blob, stored_records_of)
    return CompressionInfoIndex(blob, reader, f"{base}.blob.meta", stored_records_of)


def build_cache(
    tree: Tree,
    blob: Blob,
    reader: BlobReader,
    index: ChunkIndex,
    backend: Backend,
    workers: Workers,
    background: Background,
    share_of: "ShareOf | None",
) -> ChunkCache:
    common = {
        "validate": tree.cache.validate or tree.rafs.validate,
        "batch_size": tree.rafs.batch_size,
        "workers": workers,
        "background": background,
    }
    if blob.features & BlobFeatures.TARFS and (whole := _local_tar(tree, blob, backend)) is not None:
        return whole
    # v5 images without an extended blob table do not say how many chunks to keep a map of.
    if isinstance(tree.cache, Blobcache) and blob.chunk_count:
        return BlobCache(blob, reader, index, keeping=_keeping(tree.cache), share_of=share_of, **common)
    return DummyCache(blob, reader, index, **common)


def _local_tar(tree: Tree, blob: Blob, backend: Backend) -> WholeBlob | None:
    """A tar that need not be fetched."""
    paths = [os.path.join(tree.cache.work_dir, blob_file_name(blob.id))] if isinstance(tree.cache, Blobcache) else []
    if isinstance(backend, LocalfsBackend):
        paths += backend.candidates(blob.id)
    return open_whole_blob(paths, blob)


def _keeping(options: Blobcache) -> Keeping:
    is_convergent = options.enable_convergent_encryption
    return Keeping(
        options.work_dir,
        is_compressed=options.compressed,
        is_encrypted=options.enable_encryption or is_convergent,
        key=bytes.fromhex(options.encryption_key) if options.enable_encryption and not is_convergent else None,
        is_indexed=not options.disable_indexed_map,
    )


def bound(options: Blobcache) -> "ShareOf":
    from nydus_app.storage.cache.bound import Bound
    from nydus_app.storage.cache.bounded_blob import BoundedBlob

    return partial(BoundedBlob, Bound(options.work_dir, max_size=options.max_size, min_free=options.min_free))

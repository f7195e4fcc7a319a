"""An opened image: a mapped bootstrap, a backend, an index and a cache for each blob."""

import mmap
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from nydus_app.builder.backends import build_backend
from nydus_app.builder.caches import bound, build_cache, build_index, is_bounded
from nydus_app.builder.fetching_ahead import record_and_fetch_ahead
from nydus_app.config.tree import Blobcache, Dummycache, Tree
from nydus_app.errors import BackendNotFound, CacheError, ConfigFileError, InvalidImage, Unsupported, UnsupportedImage
from nydus_app.filesystems.rafs import RafsFileSystem
from nydus_app.formats.rafs.open import NotABootstrap, open_bootstrap
from nydus_app.formats.rafs.tarfs import BootstrapTarfs
from nydus_app.formats.rafs.values import Bootstrap
from nydus_app.storage.backend.meter import MeteredReader
from nydus_app.storage.backend.port import Backend
from nydus_app.storage.background import Background
from nydus_app.storage.cache.directory_lock import lock_directory
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import ChunkIndex
from nydus_app.storage.device import Device
from nydus_app.storage.inline_bootstrap import InlineBootstrap, extract_bootstrap
from nydus_app.storage.workers import Workers


class Image(NamedTuple):
    """An opened image; `path` is the file whose first byte is the bootstrap's, None if in memory.

    `readable` are the caches as readers have to see them.
    """

    path: str | None
    backend: Backend
    bootstrap: Bootstrap
    indexes: Sequence[ChunkIndex]
    caches: Sequence[ChunkCache]
    readable: Sequence[ChunkCache]
    device: Device

    def close(self) -> None:
        self.device.close()
        self.bootstrap.close()


def fingerprint(image: Image) -> str:
    """Who goes on with another daemon's session has to answer in the same terms: of the same image, laid out in the same way."""
    from nydus_app.formats.codec.digest import Fingerprint
    from nydus_app.formats.erofs.kept import VERSION

    digest = Fingerprint()
    digest.update(image.bootstrap.content)
    return f"{digest.digest().hex()} {VERSION}"


def open_image(tree: Tree, background: Background | None = None) -> Image:
    """The image that `tree` names; whoever gets it closes it. Raises NydusError.

    Images that are served together share a `background`.
    """
    if not isinstance(tree.cache, Blobcache | Dummycache):
        raise Unsupported(f"cache {type(tree.cache).__name__} cannot be used yet")
    if not isinstance(tree.cache, Blobcache):
        return _open_image(tree, background, None, lambda: None)
    prepare_work_dir(tree.cache.work_dir)
    lock = lock_directory(tree.cache.work_dir, alone=is_bounded(tree))
    try:
        return _open_image(tree, background, tree.cache.work_dir, partial(os.close, lock))
    except BaseException:
        os.close(lock)
        raise


def _open_image(
    tree: Tree, background: Background | None, work_dir: str | None, release: Callable[[], None]
) -> Image:
    """`release` is called when the image is closed."""
    backend = build_backend(tree.backend)
    assert tree.bootstrap is not None
    path, bootstrap = map_bootstrap(tree.bootstrap, backend, work_dir)
    _check_validation(tree, bootstrap)
    workers = Workers(getattr(tree.mode, "threads", 4))
    background = background or Background()
    readers = [MeteredReader(backend.open_blob(blob.id), background.metrics) for blob in bootstrap.blobs]
    rows = zip(bootstrap.blobs, readers, strict=True)
    indexes = [build_index(tree, bootstrap, b, r, backend, background) for b, r in rows]
    rows = zip(bootstrap.blobs, readers, indexes, strict=True)
    share_of = bound(tree.cache) if is_bounded(tree) else None
    caches = [build_cache(tree, b, r, i, backend, workers, background, share_of) for b, r, i in rows]
    readable = record_and_fetch_ahead(tree, bootstrap, caches, indexes, background)
    return Image(path, backend, bootstrap, indexes, caches, readable, Device(readable, background, workers, release))


def open_filesystem(tree: Tree) -> RafsFileSystem:
    """The image as a FileSystem; whoever gets it closes it."""
    return image_filesystem(tree, open_image(tree))


def image_filesystem(tree: Tree, image: Image) -> RafsFileSystem:
    return RafsFileSystem(
        image.bootstrap, image.device, enable_xattr=tree.rafs.enable_xattr, verify_inodes=tree.rafs.validate
    )


def map_bootstrap(path: str, backend: Backend, work_dir: str | None) -> tuple[str | None, Bootstrap]:
    """Map the bootstrap at `path`, or the one that lies inside the blob at `path`.

    Yields the file that is mapped, None where the bootstrap could only be held in memory.

    The id of a blob that carries its own bootstrap is the blob's file name up to the first dot.
    """
    blob_id = os.path.basename(path).partition(".")[0]
    try:
        try:
            return path, open_bootstrap(_map_file(path), blob_id_hint=blob_id)
        except NotABootstrap:
            inline = _bootstrap_inside(blob_id, backend, work_dir)
            if inline is None:
                raise
            return inline.path, open_bootstrap(inline.content, blob_id_hint=blob_id)
    except InvalidImage as e:
        raise type(e)(f"bootstrap {path}: {e}") from None


def _bootstrap_inside(blob_id: str, backend: Backend, work_dir: str | None) -> InlineBootstrap | None:
    try:
        return extract_bootstrap(backend.open_blob(blob_id), blob_id, work_dir)
    except BackendNotFound:
        return None


def _map_file(path: str) -> memoryview:
    try:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ))
    except OSError as e:
        raise ConfigFileError(f"bootstrap {path}: {e.strerror}") from None


def examine(tree: Tree) -> None:
    """What a start would find wrong with the image or the cache directory; nothing is changed.

    Raises NydusError.
    """
    backend = build_backend(tree.backend)
    assert tree.bootstrap is not None
    _, bootstrap = map_bootstrap(tree.bootstrap, backend, None)
    bootstrap.close()
    _check_validation(tree, bootstrap)
    if isinstance(tree.cache, Blobcache):
        existing = os.path.abspath(tree.cache.work_dir)
        while not os.path.lexists(existing):
            existing = os.path.dirname(existing)
        _check_work_dir(existing, tree.cache.work_dir)


def _check_validation(tree: Tree, bootstrap: Bootstrap) -> None:
    if isinstance(bootstrap, BootstrapTarfs) and (tree.cache.validate or tree.rafs.validate):
        raise UnsupportedImage(
            f"bootstrap {tree.bootstrap}: a tarfs image has no digests to validate against"
            " (cache.validate=false rafs.validate=false reads it unchecked)"
        )


def prepare_work_dir(path: str) -> None:
    """Create the cache directory where it is missing. Raises CacheError."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        raise CacheError(f"cache.work_dir {path} is no directory") from None
    except OSError as e:
        raise CacheError(f"cache.work_dir {path}: {e.strerror}") from None
    _check_work_dir(path, path)


def _check_work_dir(existing: str, path: str) -> None:
    if not os.path.isdir(existing):
        raise CacheError(f"cache.work_dir {path}: {existing} is no directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CacheError(f"cache.work_dir {path}: no permission to write in {existing}")

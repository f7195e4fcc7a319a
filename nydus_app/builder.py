"""The only place where the configuration tree becomes objects.

    Tree ─► open_filesystem()  RafsFileSystem over a mapped bootstrap, caches and a backend
         └► run()         the same, mounted by a Daemon, with its API

Everything that is light is imported here; what a start can do without (the API's web stack, the
second codec) is imported where it is first used.
"""

import logging
import mmap
import os
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

import trio

from nydus_app.config.tree import Blobcache, Dummycache, Fuse, Localfs, Tree
from nydus_app.errors import BackendNotFound, CacheError, ConfigFileError, InvalidImage, Unsupported
from nydus_app.filesystems.rafs import RafsFileSystem
from nydus_app.filesystems.vfs import Vfs
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.open import NotABootstrap, open_bootstrap
from nydus_app.formats.rafs.values import Blob, Bootstrap
from nydus_app.storage.backend.localfs import LocalfsBackend
from nydus_app.storage.backend.port import Backend
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.dummycache import DummyCache
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.chunk_index import ChunkIndex, CompressionInfoIndex, RecordedIndex
from nydus_app.storage.device import Device
from nydus_app.storage.inline_bootstrap import extract_bootstrap

if TYPE_CHECKING:
    from nydus_app.daemon.daemon import FuseDaemon

log = logging.getLogger("nydus.builder")


def build_backend(options: object) -> Backend:
    match options:
        case Localfs():
            return LocalfsBackend(dir=options.dir, blob_file=options.blob_file, alt_dirs=options.alt_dirs)
    raise Unsupported(f"backend {type(options).__name__} cannot be used yet")


def prepare_work_dir(path: str) -> None:
    """Create the cache directory where it is missing. Raises CacheError."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        raise CacheError(f"cache.work_dir {path} is no directory") from None
    except OSError as e:
        raise CacheError(f"cache.work_dir {path}: {e.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise CacheError(f"cache.work_dir {path}: no permission to write there")


def map_bootstrap(path: str, backend: Backend, work_dir: str | None) -> Bootstrap:
    """Map the bootstrap at `path`, or the one that lies inside the blob at `path`.

    The id of a blob that carries its own bootstrap is the blob's file name up to the first dot.
    """
    blob_id = os.path.basename(path).partition(".")[0]
    try:
        try:
            return open_bootstrap(_map_file(path), blob_id_hint=blob_id)
        except NotABootstrap:
            inline = _bootstrap_inside(blob_id, backend, work_dir)
            if inline is None:
                raise
            return open_bootstrap(inline, blob_id_hint=blob_id)
    except InvalidImage as e:
        raise type(e)(f"bootstrap {path}: {e}") from None


def _bootstrap_inside(blob_id: str, backend: Backend, work_dir: str | None) -> Buffer | None:
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


def build_cache(
    tree: Tree, bootstrap: Bootstrap, blob: Blob, backend: Backend, workers: trio.CapacityLimiter
) -> ChunkCache:
    reader = backend.open_blob(blob.id)
    validate = tree.cache.validate or tree.rafs.validate
    keeps = isinstance(tree.cache, Blobcache)
    index: ChunkIndex
    if bootstrap.version == 5:
        index = RecordedIndex(blob)
    else:
        kept = os.path.join(tree.cache.work_dir, f"{blob.id}.blob.meta") if keeps else None
        index = CompressionInfoIndex(blob, reader, kept, partial(bootstrap.blob_chunk, blob.index))
    common = {"validate": validate, "batch_size": tree.rafs.batch_size, "workers": workers}
    # v5 images without an extended blob table do not say how many chunks to keep a map of.
    if keeps and blob.chunk_count:
        return BlobCache(blob, reader, index, work_dir=tree.cache.work_dir, **common)
    return DummyCache(blob, reader, index, **common)


def open_filesystem(tree: Tree) -> RafsFileSystem:
    """The image that `tree` names, as a FileSystem; whoever gets it closes it."""
    if not isinstance(tree.cache, Blobcache | Dummycache):
        raise Unsupported(f"cache {type(tree.cache).__name__} cannot be used yet")
    work_dir = tree.cache.work_dir if isinstance(tree.cache, Blobcache) else None
    backend = build_backend(tree.backend)
    assert tree.bootstrap is not None
    if work_dir is not None:
        prepare_work_dir(work_dir)
    bootstrap = map_bootstrap(tree.bootstrap, backend, work_dir)
    workers = trio.CapacityLimiter(getattr(tree.mode, "threads", 4))
    device = Device([build_cache(tree, bootstrap, blob, backend, workers) for blob in bootstrap.blobs])
    if tree.prefetch.enable:
        log.info("prefetch is configured, but this version fetches on demand only")
    return RafsFileSystem(
        bootstrap, device, enable_xattr=tree.rafs.enable_xattr, verify_inodes=tree.rafs.validate
    )


def run(tree: Tree) -> int:
    """Mount what the tree says and serve until stopped; the exit status of the command.

    Raises NydusError before anything is mounted, or after everything is undone.
    """
    from nydus_app.config.nydusd_view import config_v2
    from nydus_app.daemon.daemon import FuseDaemon
    from nydus_app.daemon.limits import raise_nofile
    from nydus_app.daemon.log import open_log
    from nydus_app.transports.libfuse import LibfuseTransport

    open_log(tree.log.level.value, tree.log.file, tree.log.rotation_size)
    assert isinstance(tree.mode, Fuse) and tree.mountpoint is not None
    vfs = Vfs()
    vfs.mount(tree.virtual_mountpoint, open_filesystem(tree))
    raise_nofile(tree.daemon.rlimit_nofile)
    daemon = FuseDaemon(
        vfs,
        mountpoint=os.path.realpath(tree.mountpoint),
        writable=tree.mode.writable,
        make_transport=LibfuseTransport,
        serve_api=partial(_serve_api, tree.api.sock) if tree.api.sock else None,
        views={tree.virtual_mountpoint: config_v2(tree)},
        id=tree.daemon.id,
        supervisor=tree.daemon.supervisor,
    )
    trio.run(daemon.run)
    log.info("nydusd quits")
    return 0


def _serve_api(sock: str, daemon: "FuseDaemon") -> AbstractAsyncContextManager[None]:
    from nydus_app.api.server import serve_api

    return serve_api(daemon, sock)

"""The only place where the configuration tree becomes objects.

    Tree ─► open_image()       a mapped bootstrap, caches and a backend
         ├► open_filesystem()  the same as a FileSystem
         └► run()              the same, mounted by a daemon, with its API

Everything that is light is imported here; what a start can do without (the API's web stack, the
second codec) is imported where it is first used.
"""

import gc
import logging
import mmap
import os
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import trio

from nydus_app.config.tree import Blobcache, DataPath, Driver, Dummycache, Fuse, HttpOptions, Localdisk, Localfs, Tree
from nydus_app.daemon.attachment import Attachment, ErofsTree, FuseTree, why_no_devices
from nydus_app.errors import (
    BackendNotFound,
    CacheError,
    ConfigError,
    ConfigFileError,
    InvalidImage,
    Unsupported,
    UnsupportedImage,
)
from nydus_app.fetching_ahead import record_and_fetch_ahead
from nydus_app.filesystems.blob_devices import BlobDevice, BlobDevices
from nydus_app.filesystems.rafs import RafsFileSystem
from nydus_app.filesystems.vfs import Vfs
from nydus_app.formats.rafs.open import NotABootstrap, open_bootstrap
from nydus_app.formats.rafs.tarfs import BootstrapTarfs
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.formats.rafs.values import Blob, BlobFeatures, Bootstrap, SuperFlags
from nydus_app.storage.address_space import AddressSpace, AlignedPlaces, Places
from nydus_app.storage.backend.localfs import LocalfsBackend
from nydus_app.storage.backend.logged import LoggedReader
from nydus_app.storage.backend.meter import MeteredReader
from nydus_app.storage.backend.momentary import MomentaryReader
from nydus_app.storage.backend.port import Backend, BlobReader, TakesCredentials
from nydus_app.storage.background import Background
from nydus_app.storage.blob_name import blob_file_name
from nydus_app.storage.cache.blob_files import Keeping
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.directory_lock import lock_directory
from nydus_app.storage.cache.dummycache import DummyCache
from nydus_app.storage.cache.port import ChunkCache
from nydus_app.storage.cache.whole_blob import WholeBlob, open_whole_blob
from nydus_app.storage.chunk_index import ChunkIndex, CompressionInfoIndex, RecordedIndex
from nydus_app.storage.device import Device
from nydus_app.storage.explain import Explanation
from nydus_app.storage.inline_bootstrap import InlineBootstrap, extract_bootstrap
from nydus_app.storage.named_chunks import NamedChunks
from nydus_app.storage.prebuilt import adopt_prebuilt
from nydus_app.storage.tar_pieces import TarPieces
from nydus_app.storage.workers import Workers
from nydus_app.transports import erofs

if TYPE_CHECKING:
    from nydus_app.daemon.daemon import FuseDaemon, MakeTransport
    from nydus_app.daemon.info import BackendInfo
    from nydus_app.daemon.handover import Inherited, Keeper, Session
    from nydus_app.storage.cache.bounded_blob import BoundedBlob

    ShareOf = Callable[[Blob, ChunkIndex, bytearray], BoundedBlob]

log = logging.getLogger("nydus.builder")


def build_backend(options: object) -> Backend:
    match options:
        case Localfs():
            return LocalfsBackend(dir=options.dir, blob_file=options.blob_file, alt_dirs=options.alt_dirs)
        case Localdisk():
            from nydus_app.storage.backend.localdisk import LocaldiskBackend

            return LocaldiskBackend(device_path=options.device_path, disable_gpt=options.disable_gpt)
        case HttpOptions():
            from nydus_app.backends import build_http_backend

            return build_http_backend(options)
    raise Unsupported(f"backend {type(options).__name__} cannot be used yet")


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


def _check_work_dir(existing: str, path: str) -> None:
    if not os.path.isdir(existing):
        raise CacheError(f"cache.work_dir {path}: {existing} is no directory")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise CacheError(f"cache.work_dir {path}: no permission to write in {existing}")


def prepare_work_dir(path: str) -> None:
    """Create the cache directory where it is missing. Raises CacheError."""
    try:
        os.makedirs(path, exist_ok=True)
    except FileExistsError:
        raise CacheError(f"cache.work_dir {path} is no directory") from None
    except OSError as e:
        raise CacheError(f"cache.work_dir {path}: {e.strerror}") from None
    _check_work_dir(path, path)


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


def _is_bounded(tree: Tree) -> bool:
    return isinstance(tree.cache, Blobcache) and bool(tree.cache.max_size or tree.cache.min_free)


def _build_index(
    tree: Tree, bootstrap: Bootstrap, blob: Blob, reader: BlobReader, backend: Backend, background: Background
) -> ChunkIndex:
    if isinstance(bootstrap, BootstrapV5):
        return RecordedIndex(blob, NamedChunks(bootstrap, blob).places if _is_bounded(tree) else None)
    if isinstance(bootstrap, BootstrapTarfs):
        return TarPieces(blob)
    if blob.meta_id:
        reader = MeteredReader(MomentaryReader(backend, blob.meta_id), background.metrics)
    reader = LoggedReader(reader, blob, background.fetches)
    records_of = partial(bootstrap.chunk_records, blob.index)
    if not isinstance(tree.cache, Blobcache):
        return CompressionInfoIndex(blob, reader, None, records_of)
    base = os.path.join(tree.cache.work_dir, blob_file_name(blob.id))
    if not tree.cache.compressed:
        adopt_prebuilt(base, blob, records_of)
    return CompressionInfoIndex(blob, reader, f"{base}.blob.meta", records_of)


def _local_tar(tree: Tree, blob: Blob, backend: Backend) -> WholeBlob | None:
    """A tar that need not be fetched."""
    paths = [os.path.join(tree.cache.work_dir, blob_file_name(blob.id))] if isinstance(tree.cache, Blobcache) else []
    if isinstance(backend, LocalfsBackend):
        paths += backend.candidates(blob.id)
    return open_whole_blob(paths, blob)


def _bound(options: Blobcache) -> "ShareOf":
    from nydus_app.storage.cache.bound import Bound
    from nydus_app.storage.cache.bounded_blob import BoundedBlob

    return partial(BoundedBlob, Bound(options.work_dir, max_size=options.max_size, min_free=options.min_free))


def _keeping(options: Blobcache) -> Keeping:
    is_convergent = options.enable_convergent_encryption
    return Keeping(
        options.work_dir,
        is_compressed=options.compressed,
        is_encrypted=options.enable_encryption or is_convergent,
        key=bytes.fromhex(options.encryption_key) if options.enable_encryption and not is_convergent else None,
        is_indexed=not options.disable_indexed_map,
    )


def _build_cache(
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


def open_image(tree: Tree, background: Background | None = None) -> Image:
    """The image that `tree` names; whoever gets it closes it. Raises NydusError.

    Images that are served together share a `background`.
    """
    if not isinstance(tree.cache, Blobcache | Dummycache):
        raise Unsupported(f"cache {type(tree.cache).__name__} cannot be used yet")
    if not isinstance(tree.cache, Blobcache):
        return _open_image(tree, background, None, lambda: None)
    prepare_work_dir(tree.cache.work_dir)
    lock = lock_directory(tree.cache.work_dir, alone=_is_bounded(tree))
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
    indexes = [_build_index(tree, bootstrap, b, r, backend, background) for b, r in rows]
    rows = zip(bootstrap.blobs, readers, indexes, strict=True)
    share_of = _bound(tree.cache) if _is_bounded(tree) else None
    caches = [_build_cache(tree, b, r, i, backend, workers, background, share_of) for b, r, i in rows]
    readable = record_and_fetch_ahead(tree, bootstrap, caches, indexes, background)
    return Image(path, backend, bootstrap, indexes, caches, readable, Device(readable, background, workers, release))


def open_filesystem(tree: Tree) -> RafsFileSystem:
    """The image as a FileSystem; whoever gets it closes it."""
    return _filesystem(tree, open_image(tree))


def _filesystem(tree: Tree, image: Image) -> RafsFileSystem:
    return RafsFileSystem(
        image.bootstrap, image.device, enable_xattr=tree.rafs.enable_xattr, verify_inodes=tree.rafs.validate
    )


def why_not_erofs(tree: Tree, image: Image) -> str | None:
    """Why the kernel's EROFS cannot serve this image here, in one phrase; None where it can."""
    if tree.rafs.iostats_files or tree.rafs.access_pattern or tree.rafs.latest_read_files:
        return "per-file statistics are asked for, and a kernel that serves reads counts none"
    if not isinstance(tree.cache, Blobcache):
        return "the cache is no blobcache"
    if tree.mode.writable:
        return "mode.writable is asked for"
    if not image.bootstrap.blobs:
        return "the image has no blobs"
    if isinstance(image.bootstrap, BootstrapV5):
        if not all(blob.chunk_count for blob in image.bootstrap.blobs):
            return "the image does not say how many chunks its blobs have"
    elif not image.bootstrap.flags & SuperFlags.EXPLICIT_UID_GID:
        return "the image leaves owners to the server"
    elif image.path is None:
        return "the bootstrap is in no file that could be mounted"
    return erofs.why_not() or why_no_devices() or erofs.why_not_from(_source(tree, image))


def _source(tree: Tree, image: Image) -> str:
    """The file that EROFS is mounted from; v5's is yet to be written."""
    if isinstance(image.bootstrap, BootstrapV5):
        return os.path.join(tree.cache.work_dir, "layout")
    assert image.path is not None
    return os.path.realpath(image.path)


def attach(tree: Tree, image: Image, session: "Session | None" = None) -> tuple[Attachment, str | None]:
    """How the image comes to the mountpoint, and why not by EROFS. Raises ConfigError.

    With the `session` of a predecessor it is there already, and goes on in the same way.
    """
    assert isinstance(tree.mode, Fuse) and tree.mountpoint is not None
    mountpoint = os.path.realpath(tree.mountpoint)
    if session is not None and session.mountpoint != mountpoint:
        raise ConfigError(f"mountpoint={mountpoint}: the session that was handed over is at {session.mountpoint}")
    reason = "mode.data_path=fuse" if session is None else f"the session at {mountpoint} is one of FUSE"
    if tree.mode.data_path is not DataPath.fuse if session is None else session.data_path == "erofs":
        reason, tree_of_kernel = _attach_erofs(tree, image, mountpoint, None if session is None else session.served)
        if tree_of_kernel is not None:
            return tree_of_kernel, None
        if session is not None:  # its kernel side asks for devices: answers of a file tree would be wrong bytes
            raise ConfigError(f"the session at {mountpoint} is one of EROFS: {reason}")
        if tree.mode.data_path is DataPath.erofs:
            raise ConfigError(f"mode.data_path=erofs: {reason}")
    vfs = Vfs()
    vfs.mount(tree.virtual_mountpoint, _filesystem(tree, image))
    return FuseTree(vfs, mountpoint, writable=tree.mode.writable), reason


class ErofsSource(NamedTuple):
    """`path` is the EROFS image, `places` are where the chunks of each blob lie in its device; `close` frees both."""

    path: str
    places: Sequence[Places]
    close: Callable[[], None]


def _attach_erofs(
    tree: Tree, image: Image, mountpoint: str, served: Collection[str] | None
) -> tuple[str | None, ErofsTree | None]:
    """The kernel's EROFS at the mountpoint, or why not. What is wrong with an image there, FUSE shows file by file."""
    if (reason := why_not_erofs(tree, image)) is not None:
        return reason, None
    try:
        source = erofs_source(tree, image)
    except (InvalidImage, CacheError) as e:
        return f"the image cannot be laid out as EROFS: {e}", None
    filesystem = BlobDevices(image.device.background)
    devices = add_devices(filesystem, image, source, served)
    return None, ErofsTree(filesystem, mountpoint, source.path, devices, source.close)


def erofs_source(tree: Tree, image: Image) -> ErofsSource:
    """A RAFS v6 bootstrap as it is, a v5 one laid out. Raises InvalidImage, CacheError."""
    if isinstance(image.bootstrap, BootstrapV5):
        return _lay_out(tree, image, image.bootstrap)
    places: list[Places] = []
    for blob, index in zip(image.bootstrap.blobs, image.indexes, strict=True):
        assert isinstance(index, CompressionInfoIndex | TarPieces)
        places.append(index if isinstance(index, TarPieces) else AlignedPlaces(blob, index))
    return ErofsSource(_source(tree, image), places, image.close)


def _lay_out(tree: Tree, image: Image, bootstrap: BootstrapV5) -> ErofsSource:
    from nydus_app.storage.kept_layout import open_layout
    from nydus_app.storage.laid_out import LaidOutPlaces

    owner = None if bootstrap.flags & SuperFlags.EXPLICIT_UID_GID else (os.geteuid(), os.getegid())
    layout = open_layout(bootstrap, tree.cache.work_dir, owner=owner, verify=tree.rafs.validate)
    if (reason := erofs.why_not_from(layout.path)) is not None:
        layout.file.close()
        raise CacheError(reason)
    places: list[Places] = []
    for blob, index, table in zip(bootstrap.blobs, image.indexes, layout.tables, strict=True):
        assert isinstance(index, RecordedIndex)
        order = LaidOutPlaces(bootstrap, blob, table)
        index.lay_out(order)
        places.append(order)

    def close() -> None:
        image.close()
        layout.file.close()

    return ErofsSource(layout.path, places, close)


def add_devices(
    filesystem: BlobDevices, image: Image, source: ErofsSource, served: Collection[str] | None = None
) -> list[BlobDevice | str]:
    """A device for each blob: a file of `filesystem`, or the path of a cache file that is whole and has the same addresses.

    `served` are the ids of blobs that a predecessor has decided to serve.
    """
    devices: list[BlobDevice | str] = []
    rows = zip(image.bootstrap.blobs, source.places, image.caches, image.readable, strict=True)
    for blob, places, cache, readable in rows:
        assert isinstance(cache, BlobCache | WholeBlob)
        # Reads of the file itself would not be recorded.
        may_be_file = readable is cache and isinstance(places, AlignedPlaces | TarPieces)
        may_be_file = may_be_file and (served is None or blob.id not in served)
        fd = cache.whole_file() if may_be_file else None
        if fd is None:
            devices.append(filesystem.add(blob.id, AddressSpace(places, readable)))
        else:
            devices.append(f"/proc/self/fd/{fd}")
    return devices


def _backend_info(tree: Tree, image: Image) -> "BackendInfo":
    from nydus_app.config.nydusd_view import backend_kind
    from nydus_app.daemon.info import BackendInfo

    kind, backend = backend_kind(tree.backend), image.backend
    settings = {"registry_auth": backend.replace_credentials} if isinstance(backend, TakesCredentials) else {}
    kind = "oss" if kind == "s3" else kind  # nydusd tells no difference
    return BackendInfo(tree.virtual_mountpoint, kind, image.device.background.metrics, settings)


def run(tree: Tree, inherited: "Inherited | None" = None, keeper: "Keeper | None" = None) -> int:
    """Mount what the tree says and serve until stopped; the exit status of the command.

    `inherited` is a predecessor's session to go on with, `keeper` is told of this one. Raises NydusError
    before anything is mounted, or after everything is undone.
    """
    from nydus_app.config.nydusd_view import config_v2
    from nydus_app.daemon.daemon import FuseDaemon
    from nydus_app.daemon.info import MountInfo
    from nydus_app.daemon.limits import raise_nofile
    from nydus_app.daemon.log import open_log
    from nydus_app.linux.malloc import keep_freed_memory

    open_log(tree.log.level.value, tree.log.file, tree.log.rotation_size)
    keep_freed_memory()
    image = open_image(tree)
    try:
        attachment, reason = attach(tree, image, inherited.session if inherited else None)
    except BaseException:
        image.close()
        raise
    image.device.background.is_served = True
    data_path = "erofs" if reason is None else "fuse"
    log.info("data path: %s%s", data_path, f" ({reason})" if reason else "")
    raise_nofile(tree.daemon.rlimit_nofile)
    view = MountInfo("Rafs", tree.virtual_mountpoint, "", config_v2(tree), data_path, reason)
    daemon = FuseDaemon(
        attachment,
        make_transport=_make_transport(tree.mode.driver),
        serve_api=partial(_serve_api, tree.api.sock) if tree.api.sock else None,
        views=[view],
        id=tree.daemon.id,
        supervisor=tree.daemon.supervisor,
        inherited=inherited,
        keeper=keeper,
        explanation=Explanation(image.bootstrap, image.device.background.fetches),
        backend=_backend_info(tree, image),
    )
    with daemon.opened():
        with daemon.readers_first():
            loop = trio.run  # loads it
        gc.enable()
        loop(daemon.run)
    log.info("nydusd quits")
    return 0


def _make_transport(driver: Driver) -> "MakeTransport":
    if driver is Driver.pyfuse3:
        from nydus_app.transports.libfuse import LibfuseTransport

        return LibfuseTransport
    from nydus_app.transports.fusedev import FusedevTransport

    return lambda filesystem, device, settings: FusedevTransport(filesystem, device.fd, settings)


def _serve_api(sock: str, daemon: "FuseDaemon") -> AbstractAsyncContextManager[None]:
    from nydus_app.api.server import serve_api

    return serve_api(daemon, sock)

"""How an image comes to its mountpoint: the kernel's EROFS over devices of ours, or FUSE."""

import os
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nydus_app.builder.image import Image, fingerprint, image_filesystem
from nydus_app.config.tree import Blobcache, DataPath, Fuse, Tree
from nydus_app.daemon.attachment import Attachment, ErofsTree, FuseTree, why_no_devices
from nydus_app.errors import CacheError, ConfigError, InvalidImage
from nydus_app.filesystems.blob_devices import BlobDevice, BlobDevices
from nydus_app.filesystems.vfs import Vfs
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.formats.rafs.values import SuperFlags
from nydus_app.storage.address_space import AddressSpace, AlignedPlaces, Places
from nydus_app.storage.cache.blobcache import BlobCache
from nydus_app.storage.cache.whole_blob import WholeBlob
from nydus_app.storage.chunk_index import CompressionInfoIndex, RecordedIndex
from nydus_app.storage.tar_pieces import TarPieces
from nydus_app.transports import erofs

if TYPE_CHECKING:
    from nydus_app.daemon.handover import Session


def attach(tree: Tree, image: Image, session: "Session | None" = None) -> tuple[Attachment, str | None]:
    """How the image comes to the mountpoint, and why not by EROFS. Raises ConfigError.

    With the `session` of a predecessor it is there already, and goes on in the same way.
    """
    assert isinstance(tree.mode, Fuse) and tree.mountpoint is not None
    mountpoint = _canonical(tree.mountpoint, session)
    if session is not None and session.mountpoint != mountpoint:
        raise ConfigError(f"mountpoint={mountpoint}: the session that was handed over is at {session.mountpoint}")
    if session is not None and session.image != fingerprint(image):
        raise ConfigError(f"bootstrap={tree.bootstrap}: the session at {mountpoint} is one of another image")
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
    vfs.mount(tree.virtual_mountpoint, image_filesystem(tree, image))
    return FuseTree(vfs, mountpoint, writable=tree.mode.writable), reason


def _canonical(path: str, session: "Session | None") -> str:
    """A session's mountpoint is not looked at where that can be helped: nobody answers."""
    if session is not None:
        folder, name = os.path.split(os.path.abspath(path))
        if os.path.join(os.path.realpath(folder), name) == session.mountpoint:
            return session.mountpoint
    return os.path.realpath(path)


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
    if not all(isinstance(cache, BlobCache | WholeBlob) for cache in image.caches):
        return "the image does not say how many chunks its blobs have"
    if not isinstance(image.bootstrap, BootstrapV5):
        if not image.bootstrap.flags & SuperFlags.EXPLICIT_UID_GID:
            return "the image leaves owners to the server"
        if image.path is None:
            return "the bootstrap is in no file that could be mounted"
    return erofs.why_not() or why_no_devices() or erofs.why_not_from(_source(tree, image))


def _source(tree: Tree, image: Image) -> str:
    """The file that EROFS is mounted from; v5's is yet to be written."""
    if isinstance(image.bootstrap, BootstrapV5):
        return os.path.join(tree.cache.work_dir, "layout")
    assert image.path is not None
    return os.path.realpath(image.path)


class ErofsSource(NamedTuple):
    """`path` is the EROFS image, `places` are where the chunks of each blob lie in its device; `close` frees both."""

    path: str
    places: Sequence[Places]
    close: Callable[[], None]


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

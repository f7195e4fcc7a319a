"""A mounted image and its API, from the start to the end."""

import gc
import logging
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

import trio

from nydus_app.builder.attachment import attach
from nydus_app.builder.image import Image, fingerprint, open_image
from nydus_app.config.tree import Driver, Tree
from nydus_app.storage.backend.port import TakesCredentials
from nydus_app.storage.explain import Explanation

if TYPE_CHECKING:
    from nydus_app.daemon.daemon import FuseDaemon, MakeTransport
    from nydus_app.daemon.handover import Inherited, Keeper
    from nydus_app.daemon.info import BackendInfo

log = logging.getLogger("nydus.builder")


def serve(tree: Tree, inherited: "Inherited | None" = None, keeper: "Keeper | None" = None) -> int:
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
        fingerprint=partial(fingerprint, image),
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


def _backend_info(tree: Tree, image: Image) -> "BackendInfo":
    from nydus_app.config.nydusd_view import backend_kind
    from nydus_app.daemon.info import BackendInfo

    kind, backend = backend_kind(tree.backend), image.backend
    settings = {"registry_auth": backend.replace_credentials} if isinstance(backend, TakesCredentials) else {}
    kind = "oss" if kind == "s3" else kind  # nydusd tells no difference
    return BackendInfo(tree.virtual_mountpoint, kind, image.device.background.metrics, settings)


def _make_transport(driver: Driver) -> "MakeTransport":
    if driver is Driver.pyfuse3:
        from nydus_app.transports.libfuse import LibfuseTransport

        return LibfuseTransport
    from nydus_app.transports.fusedev import FusedevTransport

    return lambda filesystem, device, settings: FusedevTransport(filesystem, device.fd, settings)


def _serve_api(sock: str, daemon: "FuseDaemon") -> AbstractAsyncContextManager[None]:
    from nydus_app.api.server import serve_api

    return serve_api(daemon, sock)

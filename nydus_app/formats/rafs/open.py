"""Which RAFS version a bootstrap is."""

from nydus_app.errors import InvalidImage
from nydus_app.formats.bounds import Untrusted
from nydus_app.formats.rafs import v5, v6
from nydus_app.formats.rafs.tarfs import BootstrapTarfs
from nydus_app.formats.rafs.values import Bootstrap


class NotABootstrap(InvalidImage):
    """Neither superblock is there; the file may still be a blob that carries a bootstrap."""


def open_bootstrap(buffer: bytes | bytearray | memoryview, *, blob_id_hint: str | None = None) -> Bootstrap:
    """The reader of `buffer`, which it keeps a view of until it is closed.

    `blob_id_hint` is the id of the blob that carries this bootstrap, if one does: such a bootstrap
    cannot know the digest of what it is a part of. Raises InvalidImage, of which NotABootstrap and
    UnsupportedImage are kinds.
    """
    data = Untrusted(buffer, "bootstrap")
    try:
        if v5.is_v5(data):
            return v5.BootstrapV5(data, blob_id_hint)
        if v6.is_v6(data):
            return BootstrapTarfs(data, blob_id_hint) if v6.is_tarfs(data) else v6.BootstrapV6(data, blob_id_hint)
        raise NotABootstrap("no RAFS bootstrap: neither the v5 nor the v6 superblock is there")
    except BaseException:
        data.close()
        raise

"""The backend that the tree names; those that speak HTTP are imported where one is named (`http_backends.py`)."""

from nydus_app.config.tree import HttpOptions, Localdisk, Localfs
from nydus_app.errors import Unsupported
from nydus_app.storage.backend.localfs import LocalfsBackend
from nydus_app.storage.backend.port import Backend


def build_backend(options: object) -> Backend:
    match options:
        case Localfs():
            return LocalfsBackend(dir=options.dir, blob_file=options.blob_file, alt_dirs=options.alt_dirs)
        case Localdisk():
            from nydus_app.storage.backend.localdisk import LocaldiskBackend

            return LocaldiskBackend(device_path=options.device_path, disable_gpt=options.disable_gpt)
        case HttpOptions():
            from nydus_app.builder.http_backends import build_http_backend

            return build_http_backend(options)
    raise Unsupported(f"backend {type(options).__name__} cannot be used yet")

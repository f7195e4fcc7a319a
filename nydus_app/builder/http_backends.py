"""The HTTP options of the tree, made backends."""

import os
from typing import Any

from nydus_app.config.tree import AddressingStyle, HttpOptions, HttpProxy, Oss, Registry, S3
from nydus_app.errors import Unsupported
from nydus_app.storage.backend.http.settings import HttpSettings, MirrorSettings, ProxySettings
from nydus_app.storage.backend.port import Backend

HEADER_PREFIX = "NYDUS_HEADER_"


def build_http_backend(options: HttpOptions) -> Backend:
    http = http_settings(options)
    match options:
        case Registry():
            from nydus_app.storage.backend.registry import RegistryBackend, RegistrySettings

            return RegistryBackend(http, RegistrySettings(**_own(options, RegistrySettings)))
        case HttpProxy():
            from nydus_app.storage.backend.http_proxy import HttpProxyBackend

            return HttpProxyBackend(http, addr=options.addr, path=options.path)
        case Oss():
            from nydus_app.storage.backend.object_store import StoreSettings
            from nydus_app.storage.backend.oss import OssBackend

            return OssBackend(http, StoreSettings(**_own(options, StoreSettings)))
        case S3():
            from nydus_app.storage.backend.object_store import StoreSettings
            from nydus_app.storage.backend.s3 import S3Backend

            virtual = options.addressing_style is AddressingStyle.virtual
            store = StoreSettings(**_own(options, StoreSettings))
            return S3Backend(http, store, region=options.region, virtual_host=virtual)
    raise Unsupported(f"backend {type(options).__name__} cannot be used yet")


def _own(options: object, settings: type) -> dict[str, Any]:
    """The options that `settings` has a name for; null is empty."""
    return {name: getattr(options, name) or "" for name in settings.__dataclass_fields__}


def http_settings(options: HttpOptions) -> HttpSettings:
    proxy = options.proxy
    return HttpSettings(
        connect_timeout_s=options.connect_timeout,
        timeout_s=options.timeout,
        min_rate=options.min_rate,
        retry_limit=options.retry_limit,
        request_rate=options.request_rate,
        skip_verify=options.skip_verify,
        ca_cert_files=tuple(options.ca_cert_files),
        client_cert_file=options.client_cert_file,
        client_key_file=options.client_key_file,
        headers={k.removeprefix(HEADER_PREFIX): v for k, v in os.environ.items() if k.startswith(HEADER_PREFIX)},
        proxy=ProxySettings(
            url=proxy.url,
            ping_url=proxy.ping_url,
            fallback=proxy.fallback,
            check_interval_s=max(proxy.check_interval, 1),
            check_pause_s=max(proxy.check_pause_elapsed, 1),
            use_http=proxy.use_http,
        )
        if proxy.url
        else None,
        mirrors=tuple(
            MirrorSettings(
                host=m.host,
                ping_url=m.ping_url,
                headers=dict(m.headers),
                auth_through=m.auth_through,
                check_interval_s=max(m.health_check_interval, 1),
                failure_limit=m.failure_limit,
            )
            for m in options.mirrors
        ),
    )

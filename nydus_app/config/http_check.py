"""What is wrong with the options of an HTTP backend; a secret that is wrong is not shown."""

import re
from collections.abc import Iterator

from nydus_app.config.tree import HttpOptions, HttpProxy, Mirror, Proxy, Registry
from nydus_app.errors import BackendError
from nydus_app.protocols.registry import is_basic
from nydus_app.storage.backend.http.url import parse_url

MAX_SOCKET_PATH = 107
_REPO = re.compile(r"[A-Za-z0-9._/-]+")
_FIELD = re.compile(r"[!-~]+")


def http_problems(backend: HttpOptions) -> Iterator[str]:
    for name, unit in (
        ("timeout", "seconds, 0 for none"),
        ("connect_timeout", "seconds, 0 for none"),
        ("min_rate", "bytes a second, 0 for any"),
        ("request_rate", "requests a second, 0 for no limit"),
    ):
        if getattr(backend, name) < 0:
            yield f"backend.{name}={getattr(backend, name)}: {unit}"
    if not 0 <= backend.retry_limit <= 255:
        yield f"backend.retry_limit={backend.retry_limit}: 0 to 255 are legal"
    if backend.client_key_file and not backend.client_cert_file:
        yield "backend.client_key_file: it needs backend.client_cert_file as well"
    yield from _proxy_problems(backend.proxy)
    for i, mirror in enumerate(backend.mirrors):
        yield from _mirror_problems(f"backend.mirrors[{i}]", mirror)
    if isinstance(backend, Registry):
        yield from _registry_problems(backend)
    if isinstance(backend, HttpProxy):
        yield from _http_proxy_problems(backend)


def _is_address(text: str) -> bool:
    try:
        parse_url(text)
    except BackendError:
        return False
    return True


def _proxy_problems(proxy: Proxy) -> Iterator[str]:
    for name in ("url", "ping_url"):
        if (text := getattr(proxy, name)) and not _is_address(text):
            yield f"backend.proxy.{name}: http://HOST or https://HOST is wanted"
    for name in ("check_interval", "check_pause_elapsed"):
        if getattr(proxy, name) < 0:
            yield f"backend.proxy.{name}={getattr(proxy, name)}: seconds"


def _mirror_problems(key: str, mirror: Mirror) -> Iterator[str]:
    has_scheme = "://" in mirror.host
    if not _is_address(mirror.host if has_scheme else f"http://{mirror.host}") or ("@" in mirror.host and not has_scheme):
        yield f"{key}.host: HOST or http://HOST is wanted"
    if mirror.ping_url and not _is_address(mirror.ping_url):
        yield f"{key}.ping_url: http://HOST/PATH is wanted"
    for name, value in mirror.headers.items():
        if not _FIELD.fullmatch(name) or not value.isprintable():
            yield f"{key}.headers: a header's name or value holds what no header can"


def _registry_problems(backend: Registry) -> Iterator[str]:
    for name in ("scheme", "blob_url_scheme"):
        value = getattr(backend, name)
        if value not in ("http", "https") and (value or name == "scheme"):
            yield f"backend.{name}={value}: http or https is wanted"
    for name in ("host", "blob_redirected_host"):
        value = getattr(backend, name)
        if value and ("/" in value or "@" in value or not _is_address(f"http://{value}")):
            yield f"backend.{name}: HOST or HOST:PORT is wanted"
    if backend.repo and not _REPO.fullmatch(backend.repo):
        yield f"backend.repo={backend.repo}: the name of a repository is wanted, such as team/app"
    if backend.auth and not is_basic(backend.auth):
        yield "backend.auth: base64 of user:password is wanted"
    if backend.registry_token and not _FIELD.fullmatch(backend.registry_token):
        yield "backend.registry_token: it holds what no header can"


def _http_proxy_problems(backend: HttpProxy) -> Iterator[str]:
    if backend.addr.startswith("/"):
        if len(backend.addr.encode()) > MAX_SOCKET_PATH:
            yield f"backend.addr: a socket's path has 1 to {MAX_SOCKET_PATH} bytes"
    elif backend.addr and not _is_address(backend.addr):
        yield "backend.addr: http://…, https://… or the absolute path of a Unix socket is wanted"

"""Addresses of HTTP servers, as they are asked for and as they are shown."""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from nydus_app.errors import BackendError

PORTS = {"http": 80, "https": 443}
SAFE = "/?&=%:;,@!$'()*+~-._[]"
_CREDENTIALS = re.compile(r"//[^/?#@]*@")


class Url(NamedTuple):
    """`socket` is the path of a Unix socket to connect to, whatever the host; `credentials` are user:password."""

    scheme: str
    host: str
    port: int
    target: str
    socket: str = ""
    credentials: str = ""

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"unix:{self.socket}" if self.socket else f"{self.scheme}://{self.host_header}"

    @property
    def text(self) -> str:
        """As it is sent to a proxy: with its query, without credentials."""
        return f"{self.scheme}://{self.host_header}{self.target}"

    @property
    def shown(self) -> str:
        """For texts: a query may be a signature."""
        return f"{self.origin}{self.target.partition('?')[0]}"

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


def parse_url(text: str, base: Url | None = None) -> Url:
    """An absolute address, or one relative to `base`. Raises BackendError."""
    try:
        if base is not None:
            text = urljoin(base.text, text)
        parts = urlsplit(text)
        port = parts.port
        host = (parts.hostname or "").encode("idna" if not (parts.hostname or "").isascii() else "ascii").decode("ascii")
    except ValueError:
        raise BackendError(f"{show(text)!r} is no address") from None
    if parts.scheme not in PORTS or not host or not re.fullmatch(r"[0-9a-z._:%-]+", host):
        raise BackendError(f"{show(text)!r} is no address of an HTTP server")
    target = quote(parts.path or "/", safe=SAFE) + (f"?{quote(parts.query, safe=SAFE)}" if parts.query else "")
    credentials = ""
    if parts.username is not None:
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Url(parts.scheme, host, PORTS[parts.scheme] if port is None else port, target, "", credentials)


def show(text: str) -> str:
    """An address that may be wrong, without what may be a secret in it."""
    return _CREDENTIALS.sub("//***@", text.partition("?")[0])[:200]

"""Blobs as layers of a repository of an OCI registry (contract 6.6).

    GET <scheme>://<host>/v2/<repo>/blobs/sha256:<blob id>     401: a header is found for all readers, and the same reader goes on
                                                               3xx: the target is asked, without that header, and remembered

A remembered target is forgotten with its first failure: signed addresses expire.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from urllib.parse import quote

from nydus_app.errors import BackendDenied, BackendError, BackendUnavailable, ConfigError, NotTls, ProtocolViolation
from nydus_app.protocols.http1 import Headers, content_range
from nydus_app.protocols.registry import Credentials, is_basic, real_host, real_repo
from nydus_app.storage.backend.docker_config import DockerConfig
from nydus_app.storage.backend.http.client import Answer, HttpClient, Request, size_of
from nydus_app.storage.backend.http.settings import HttpSettings
from nydus_app.storage.backend.http.status import REDIRECTS
from nydus_app.storage.backend.http.url import PORTS, Url, parse_url
from nydus_app.storage.backend.port import BlobReader
from nydus_app.storage.backend.registry_auth import RegistryAuth
from nydus_app.storage.backend.retry import Retrying

log = logging.getLogger("nydus.backend")

MAX_REDIRECTS = 5
MAX_REFUSALS = 4
"""A header may be refused because it was renewed by somebody in the meantime; not for ever."""


@dataclass(kw_only=True, repr=False, eq=False)
class RegistrySettings:
    """Names as in the configuration tree."""

    scheme: str
    host: str
    repo: str
    auth: str = ""
    registry_token: str = ""
    docker_config: str = ""
    blob_url_scheme: str = ""
    blob_redirected_host: str = ""


class RegistryBackend:
    """Concurrency: on the trio thread, but for `open_blob`, `replace_credentials` and closing readers, which need no loop."""

    def __init__(self, http: HttpSettings, settings: RegistrySettings) -> None:
        self.settings = settings
        self.client = HttpClient(http)
        self.host = real_host(settings.host)
        self.repo = real_repo(settings.host, settings.repo.strip("/"))
        self.scheme = settings.scheme
        self._basic = settings.auth
        self._docker = DockerConfig(settings.docker_config, settings.host) if settings.docker_config else None
        self.auth = RegistryAuth(self.client, self.repo, self._credentials, settings.registry_token)

    @property
    def is_anonymous(self) -> bool:
        return not (self._basic or self.settings.registry_token or self._docker)

    async def _credentials(self) -> Credentials:
        """The configuration's own come first."""
        if self._basic or self._docker is None:
            return Credentials(self._basic)
        return await self._docker.credentials()

    def replace_credentials(self, auth: str) -> None:
        """`auth` is base64 of user:password; used from the next request on. Raises ConfigError."""
        if not is_basic(auth):
            raise ConfigError("registry_auth: base64 of user:password is wanted")
        self._basic = auth
        self.auth.forget()

    def open_blob(self, blob_id: str) -> BlobReader:
        return Retrying(RegistryReader(self, blob_id), self.client.settings.retry_limit)

    def describe(self) -> str:
        return f"registry {self.scheme}://{self.host}/{self.repo}"

    def fall_back_to_http(self, cause: NotTls) -> None:
        """As nydusd does, only where certificates are not verified anyway, and for good if it answers. Raises BackendUnavailable."""
        if not self.client.settings.skip_verify or self.scheme != "https":
            raise BackendUnavailable(f"{cause} (backend.scheme=http asks without TLS)") from None
        log.warning("%s: it is asked by http", cause)
        self.scheme = "http"


class _NoTlsThere(NotTls):
    """It is the registry itself that speaks none: neither a token server, nor where it redirects to."""


class RegistryReader:
    """One try a call."""

    def __init__(self, backend: RegistryBackend, blob_id: str) -> None:
        self._backend = backend
        self._target = f"/v2/{quote(backend.repo)}/blobs/sha256:{quote(blob_id, safe='')}"
        self._redirected: Url | None = None
        backend.client.opened()

    async def read(self, offset: int, size: int) -> bytes | bytearray:
        return (await self._ask("GET", (offset, size))).body

    async def size(self) -> int:
        try:
            return size_of(await self._ask("HEAD", None), self._url())
        except BackendDenied:
            # An address that is signed for GET is good for nothing else.
            answer = await self._ask("GET", (0, 1))
            try:
                found = content_range(answer.headers)
            except ProtocolViolation:
                found = None
            if found is None or found[2] is None:
                raise
            return found[2]

    def close(self) -> None:
        self._backend.client.closed()

    def _url(self) -> Url:
        return parse_url(f"{self._backend.scheme}://{self._backend.host}{self._target}")

    async def _ask(self, method: str, wanted: tuple[int, int] | None) -> Answer:
        if (redirected := self._redirected) is not None:
            try:
                return await self._follow(method, wanted, redirected)
            except BackendError as e:
                self._redirected = None
                if isinstance(e, BackendUnavailable):
                    raise
                log.info("%s; the registry is asked for another address", e)
        try:
            return await self._ask_registry(method, wanted)
        except _NoTlsThere as e:
            self._backend.fall_back_to_http(e)
        try:
            return await self._ask_registry(method, wanted)
        except BackendUnavailable:
            self._backend.scheme = "https"
            raise

    async def _ask_registry(self, method: str, wanted: tuple[int, int] | None) -> Answer:
        url, auth, is_mirrored = self._url(), self._backend.auth, True
        for _ in range(MAX_REFUSALS):
            header = await auth.header()
            answer = await self._send(method, url, wanted, header, is_mirrored)
            if answer.status == 401 and header and "www-authenticate" not in answer.headers:
                answer = await self._send(method, url, wanted, "", is_mirrored)
            if answer.status in REDIRECTS:
                try:
                    return await self._follow(method, wanted, self._rewritten(self._location(answer)))
                except BackendError as e:
                    if answer.url.origin == url.origin:
                        raise
                    log.warning("%s, where the mirror %s redirects to; the registry itself is asked", e, answer.url.origin)
                is_mirrored = False
                continue
            if answer.status != 401:
                return answer
            await auth.refused(header, answer, url)
        raise answer.error(f"{method} {url.shown}")

    async def _send(self, method: str, url: Url, wanted: tuple[int, int] | None, header: str, is_mirrored: bool) -> Answer:
        headers: Headers = {"Authorization": header} if header else {}
        # A mirror that authenticates nobody is of use once we are known, or where there is nobody to be known as.
        is_known = bool(header) or self._backend.is_anonymous
        passed = {401, *REDIRECTS}
        request = Request(method, url, headers, wanted=wanted, passed=passed, is_mirrored=is_mirrored, is_known=is_known)
        try:
            return await self._backend.client.ask(request)
        except NotTls as e:
            raise _NoTlsThere(str(e)) from None

    async def _follow(self, method: str, wanted: tuple[int, int] | None, url: Url) -> Answer:
        """The registry's header goes to the registry only."""
        first, registry = url, self._url().origin
        for _ in range(MAX_REDIRECTS):
            header = await self._backend.auth.header() if url.origin == registry else ""
            headers: Headers = {"Authorization": header} if header else {}
            request = Request(method, url, headers, wanted=wanted, passed=REDIRECTS, is_mirrored=False)
            answer = await self._backend.client.ask(request)
            if answer.status not in REDIRECTS:
                self._redirected = first
                return answer
            url = self._location(answer)
        raise BackendError(f"{method} {self._url().shown}: redirects without end")

    def _location(self, answer: Answer) -> Url:
        if not (location := answer.headers.get("location")):
            raise BackendError(f"{answer.url.shown}: {answer.status} without a Location")
        return parse_url(location, answer.url)

    def _rewritten(self, url: Url) -> Url:
        """The port stays, unless it was the scheme's own, or the configured host has one."""
        settings = self._backend.settings
        if (scheme := settings.blob_url_scheme) and scheme != url.scheme:
            url = url._replace(scheme=scheme, port=PORTS[scheme] if url.port == PORTS[url.scheme] else url.port)
        if settings.blob_redirected_host:
            there = parse_url(f"{url.scheme}://{settings.blob_redirected_host}")
            has_port = settings.blob_redirected_host.rpartition(":")[2].isdigit()
            url = url._replace(host=there.host, port=there.port if has_port else url.port)
        return url

"""The Authorization header of a registry: found once for all readers, renewed before it expires or when it is refused.

Concurrency: on the trio thread. Who finds the header refused while somebody renews it waits for him and shares what
he gets, be it a header or an error; if he is cancelled, one of those who wait takes over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable

import trio

from nydus_app.errors import BackendDenied, BackendError, BackendUnavailable, ProtocolViolation
from nydus_app.protocols.registry import (
    Challenge,
    Credentials,
    Token,
    choose_challenge,
    decode_challenges,
    decode_token,
    encode_form,
    token_fields,
)
from nydus_app.storage.backend.http.client import Answer, HttpClient
from nydus_app.storage.backend.http.url import Url, parse_url

log = logging.getLogger("nydus.backend")

RENEW_BEFORE_S = 20.0
"""Before the end of a token's life, though not before three quarters of it."""

CredentialSource = Callable[[], Awaitable[Credentials]]


class _Renewal:
    def __init__(self) -> None:
        self.ended = trio.Event()
        self.error: BackendError | None = None
        self.is_done = False


class RegistryAuth:
    """`token` is a bearer token to begin with. Credentials are asked for whenever a challenge is to be met."""

    def __init__(self, client: HttpClient, repo: str, credentials: CredentialSource, token: str = "") -> None:
        self._client = client
        self._repo = repo
        self._credentials = credentials
        self._header = f"Bearer {token}" if token else ""
        self._challenge: Challenge | None = None
        self._realm_of = ""
        self._expires_at = float("inf")
        self._renew_at = float("inf")
        self._renewal: _Renewal | None = None

    def forget(self) -> None:
        """Credentials have changed: the next refusal, or the next request, begins anew."""
        self._header = ""
        self._expires_at = self._renew_at = float("inf")

    async def header(self) -> str:
        """What to send; empty for nothing. Waits only where the token has expired. Raises BackendError."""
        now = time.monotonic()
        if now >= self._expires_at:
            await self._renew()
        elif now >= self._renew_at and self._renewal is None:
            self._renew_at = float("inf")
            trio.lowlevel.spawn_system_task(self._renew_ahead)
        return self._header

    async def refused(self, header: str, answer: Answer, origin: Url) -> None:
        """`answer` was 401 to `header`: afterwards there is another one. Raises BackendError."""
        if self._header == header and self._renewal is None:
            challenge = choose_challenge(decode_challenges(answer.headers.get("www-authenticate", "")))
            if challenge is None:
                raise BackendDenied(f"{origin.origin}: 401 without a challenge that could be met")
            self._challenge, self._realm_of = challenge, origin.scheme
        if self._header == header:
            await self._renew()
            if self._header == header:
                raise BackendUnavailable(f"{origin.origin}: 401, and the token server has no other token")

    async def _renew(self) -> None:
        """Once for all who ask for it at the same time."""
        while (renewal := self._renewal) is not None:
            await renewal.ended.wait()
            if renewal.error is not None:
                raise renewal.error
            if renewal.is_done:
                return
        self._renewal = renewal = _Renewal()
        try:
            await self._meet_challenge()
            renewal.is_done = True
        except BackendError as e:
            renewal.error = e
            raise
        finally:
            self._renewal = None
            renewal.ended.set()

    async def _renew_ahead(self) -> None:
        """A system task: whatever goes wrong, the token that is there is still good."""
        try:
            await self._renew()
        except BackendError as e:
            log.warning("the registry's token is not renewed before it expires: %s", e)
        except Exception:
            log.exception("the registry's token is not renewed before it expires")

    async def _meet_challenge(self) -> None:
        assert self._challenge is not None
        credentials = await self._credentials()
        if self._challenge.scheme == "basic":
            if not credentials.basic:
                raise BackendDenied("the registry wants a user and a password, and there are none for it")
            header = f"Basic {credentials.basic}"
            if self._header == header:
                raise BackendDenied("the registry refuses the user and the password")
            self._set(header, float("inf"))
            return
        token = await self._fetch_token(self._challenge, credentials)
        self._set(f"Bearer {token.text}", token.lifetime_s)

    def _set(self, header: str, lifetime_s: float) -> None:
        now = time.monotonic()
        self._header = header
        self._expires_at = now + lifetime_s
        self._renew_at = self._expires_at - min(RENEW_BEFORE_S, lifetime_s / 4)

    async def _fetch_token(self, challenge: Challenge, credentials: Credentials) -> Token:
        """By GET, as the token specification has it, and by POST where the server knows OAuth2 only."""
        realm = parse_url(challenge.parameters["realm"])
        if realm.scheme == "http" and self._realm_of == "https" and credentials != Credentials():
            raise BackendDenied(f"the registry sends credentials to {realm.origin}, without TLS: it is given none")
        fields = token_fields(challenge, self._repo, credentials)
        headers = {"Authorization": f"Basic {credentials.basic}"} if credentials.basic else {}
        answer: Answer | None = None
        if not credentials.identity_token:
            mark = "&" if "?" in realm.target else "?"
            url = realm._replace(target=f"{realm.target}{mark}{encode_form(fields).decode()}")
            answer = await self._client.request("GET", url, headers=headers)
        if answer is None or answer.status in (404, 405):
            form = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
            answer = await self._client.request("POST", realm, headers=form, body=encode_form(fields))
        if answer.status != 200:
            raise answer.error(f"token server {realm.shown}")
        try:
            return decode_token(bytes(answer.body))
        except ProtocolViolation as e:
            raise BackendUnavailable(f"token server {realm.shown}: {e}") from None

"""The parts of the OCI distribution protocol that a puller of blobs needs: challenges, tokens, names.

Sources: OCI distribution-spec 1.1; distribution's "Token Authentication Specification" and "OAuth2 token"; RFC 9110 11.6.
What a registry says is untrusted: it raises ProtocolViolation or is passed over.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlencode

from nydus_app.errors import ProtocolViolation

CLIENT_ID = "nydus-registry-client"
DEFAULT_LIFETIME_S = 60
"""Of a token that does not say how long it is valid (token specification)."""

MAX_CHALLENGE = 8192

DOCKER_HUB = "registry-1.docker.io"
_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry.hub.docker.com", DOCKER_HUB})

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'[ \t,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_SCHEME = re.compile(rf"[ \t,]*({_TOKEN})(?=[ \t,]|$)")
_BEARER = re.compile(r"[!-~]{1,65536}")


class Challenge(NamedTuple):
    """One way to authenticate; scheme and names of parameters in lower case."""

    scheme: str
    parameters: Mapping[str, str]


class Token(NamedTuple):
    text: str
    lifetime_s: float


class Credentials(NamedTuple):
    """`basic` is base64 of user:password; an identity token stands for both. All empty: anonymous."""

    basic: str = ""
    identity_token: str = ""


def decode_challenges(text: str) -> list[Challenge]:
    """The value of WWW-Authenticate; what cannot be read, or comes behind MAX_CHALLENGE characters, is passed over."""
    text = text[:MAX_CHALLENGE]
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    at = 0
    while at < len(text):
        if found and (match := _PARAMETER.match(text, at)):
            parameters[match[1].lower()] = match[3] if match[2] is None else re.sub(r"\\(.)", r"\1", match[2])
        elif match := _SCHEME.match(text, at):
            parameters = {}
            found.append(Challenge(match[1].lower(), parameters))
        else:
            at += 1
            continue
        at = match.end()
    return found


def choose_challenge(challenges: Sequence[Challenge]) -> Challenge | None:
    """Bearer before basic; None where there is neither."""
    for scheme in ("bearer", "basic"):
        for challenge in challenges:
            if challenge.scheme == scheme and (scheme == "basic" or challenge.parameters.get("realm")):
                return challenge
    return None


def token_fields(challenge: Challenge, repo: str, credentials: Credentials) -> dict[str, str]:
    """What is sent to the realm, as a query or as a form."""
    wanted = {
        "service": challenge.parameters.get("service", ""),
        "scope": challenge.parameters.get("scope") or f"repository:{repo}:pull",
        "client_id": CLIENT_ID,
    }
    if credentials.identity_token:
        wanted |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
    return {name: value for name, value in wanted.items() if value}


def encode_form(fields: Mapping[str, str]) -> bytes:
    return urlencode(fields).encode()


def decode_token(body: bytes) -> Token:
    """The answer of a token server. Raises ProtocolViolation."""
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise ProtocolViolation("the token server's answer is no JSON") from None
    if not isinstance(data, dict):
        raise ProtocolViolation("the token server's answer is no object")
    text = data.get("token") or data.get("access_token")
    if not isinstance(text, str) or not _BEARER.fullmatch(text):
        raise ProtocolViolation("the token server's answer holds no token")
    lifetime = data.get("expires_in", DEFAULT_LIFETIME_S)
    if not isinstance(lifetime, int | float) or not 0 < lifetime < 1e9:
        lifetime = DEFAULT_LIFETIME_S
    return Token(text, float(lifetime))


def is_basic(text: str) -> bool:
    """Base64 of user:password, as `Authorization: Basic` has it."""
    try:
        return b":" in base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False


def real_host(host: str) -> str:
    """Docker Hub's registry has another name than its images (`docker.io`)."""
    return DOCKER_HUB if host in _HUB_NAMES else host


def real_repo(host: str, repo: str) -> str:
    """Official images of Docker Hub lie in `library/`."""
    return f"library/{repo}" if host in _HUB_NAMES and "/" not in repo else repo

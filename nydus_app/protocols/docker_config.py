"""Docker's `config.json`: who has which password, or which helper knows it (docker/cli `cli/config/configfile`)."""

import base64
import json
import re
from typing import Any, NamedTuple

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.registry import DOCKER_HUB, Credentials, is_basic, real_host

HUB_KEY = "https://index.docker.io/v1/"
TOKEN_USER = "<token>"
"""A helper's user name where its secret is an identity token (docker/docker-credential-helpers)."""

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Helper(NamedTuple):
    """`docker-credential-<name> get` is asked for `server`."""

    name: str
    server: str


def decode_docker_config(text: bytes, host: str) -> Credentials | Helper | None:
    """What a config.json has for the registry at `host` (as it is asked, with its port). Raises ProtocolViolation."""
    config = _object(text)
    helpers, auths = config.get("credHelpers", {}), config.get("auths", {})
    if not isinstance(helpers, dict) or not isinstance(auths, dict):
        raise ProtocolViolation("credHelpers and auths must be objects")
    names = [HUB_KEY, "docker.io", "index.docker.io", host] if real_host(host) == DOCKER_HUB else [host]
    for name in names:
        if name in helpers:
            return Helper(_helper_name(helpers[name]), name)
    own = _credentials(_entry(auths, names))
    if own is None and (store := config.get("credsStore")):
        return Helper(_helper_name(store), names[0])
    return own


def decode_helper_answer(text: bytes) -> Credentials:
    """What a helper prints for `get`. Raises ProtocolViolation."""
    data = _object(text)
    user, secret = data.get("Username"), data.get("Secret")
    if not isinstance(user, str) or not isinstance(secret, str):
        raise ProtocolViolation("no Username and Secret")
    return Credentials(identity_token=secret) if user == TOKEN_USER else Credentials(_basic(user, secret))


def _object(text: bytes) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolViolation("no JSON") from None
    if not isinstance(data, dict):
        raise ProtocolViolation("no JSON object")
    return data


def _helper_name(name: object) -> str:
    if not isinstance(name, str) or not _HELPER.fullmatch(name):
        raise ProtocolViolation("a credential helper's name is none")
    return name


def _entry(auths: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Keys may be hosts or addresses of any version of the API."""
    by_host = {_host_of(key): value for key, value in auths.items()}
    for name in names:
        entry = auths.get(name, by_host.get(_host_of(name)))
        if isinstance(entry, dict):
            return entry
    return {}


def _host_of(key: str) -> str:
    return key.partition("://")[2].partition("/")[0] if "://" in key else key.partition("/")[0]


def _credentials(entry: dict[str, Any]) -> Credentials | None:
    if isinstance(token := entry.get("identitytoken"), str) and token:
        return Credentials(identity_token=token)
    if isinstance(auth := entry.get("auth"), str) and is_basic(auth):
        return Credentials(auth)
    user, password = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(password, str):
        return Credentials(_basic(user, password))
    return None


def _basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()

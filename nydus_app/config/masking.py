"""Which values are secrets, and what stands for them in whatever is shown."""

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

SECRET_NAMES = frozenset(
    {"auth", "registry_token", "access_key_id", "access_key_secret", "encryption_key"}
)
"""Last words of keys; every value under `headers` and the address of a proxy are secrets, too."""

CREDENTIALS = re.compile(r"://[^/?#@]+@")
"""`http://user:password@host`, wherever an address may stand."""


def is_secret(path: tuple[str, ...]) -> bool:
    return path[-1] in SECRET_NAMES or "headers" in path[:-1] or path[-2:] == ("proxy", "url")


def holds_secret(path: tuple[str, ...], value: object) -> bool:
    return is_secret(path) or (isinstance(value, str) and CREDENTIALS.search(value) is not None)


def is_reference(value: object) -> bool:
    """`${oc.env:NAME}` names where a secret is; it is none itself."""
    return isinstance(value, str) and value.startswith("${") and value.endswith("}")


def mask(value: Any, path: tuple[str, ...] = ()) -> Any:
    """A copy of nested dictionaries and lists with every non-empty secret replaced."""
    if isinstance(value, Mapping):
        return {k: mask(v, (*path, str(k))) for k, v in value.items()}
    if isinstance(value, list):
        return [mask(v, path) for v in value]
    if path and value and holds_secret(path, value) and not is_reference(value):
        return MASK
    return value


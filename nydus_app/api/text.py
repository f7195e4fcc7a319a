"""Text of answers: JSON is UTF-8."""

from typing import Any


def in_utf8(value: Any) -> Any:
    """What an answer can say of it: a path may have any bytes, which Python keeps as surrogates."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {k: in_utf8(v) for k, v in value.items()}
        case list():
            return [in_utf8(v) for v in value]
    return value

"""What a status that is no success means for who wanted the bytes."""

import re
from datetime import UTC, datetime

from nydus_app.errors import BackendDenied, BackendError, BackendNotFound, BackendUnavailable
from nydus_app.protocols.http1 import Headers

REDIRECTS = frozenset({301, 302, 303, 307, 308})
WORTH_ANOTHER_TRY = frozenset({408, 425, 429})

_CODE = re.compile(rb'"code"\s*:\s*"([A-Z_]{3,40})"|<Code>([A-Za-z]{3,40})</Code>')


def error_of(status: int, reason: str, headers: Headers, body: bytes, what: str) -> BackendError:
    """Of a body nothing but a code is shown, as registries and object stores have them: the rest could be anything."""
    match = _CODE.search(body)
    code = f" ({(match[1] or match[2]).decode()})" if match else ""
    reason = "".join(c for c in reason if c.isprintable())[:60]
    text = f"{what}: {status} {reason}".rstrip() + code
    if status in (401, 403):
        return BackendDenied(text)
    if status in (404, 410):
        return BackendNotFound(text)
    if status >= 500 or status in WORTH_ANOTHER_TRY:
        return BackendUnavailable(text, retry_after_s(headers))
    if status in REDIRECTS:
        return BackendError(f"{text}: a redirect that is not followed")
    return BackendError(text)


def retry_after_s(headers: Headers) -> float | None:
    """Seconds or a date (RFC 9110 10.2.3); None where there is none, or none that is one."""
    text = headers.get("retry-after", "")
    if re.fullmatch(r"[0-9]{1,9}", text, re.ASCII):
        return float(text)
    if not text:
        return None
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None

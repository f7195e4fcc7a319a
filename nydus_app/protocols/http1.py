"""HTTP/1.1 as a client of ranges needs it: requests out, heads of responses and chunked bodies in (RFC 9110, 9112).

Bytes of servers are untrusted: whatever is not as the RFC has it raises ProtocolViolation, within bounds.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

from nydus_app.errors import ProtocolViolation

MAX_HEAD_BYTES = 64 << 10
MAX_CHUNK_LINE_BYTES = 4096
BODYLESS = (204, 304)

Headers = Mapping[str, str]

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n\0]*))?")
_FIELD_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NO_FIELD = re.compile(rb"[\r\n\0]")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", re.ASCII)
_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)


class Head(NamedTuple):
    """Header names are in lower case; a name that came more than once has its values joined by commas.

    `length` is that of the body in bytes, None where the body ends by itself (`is_chunked`) or with the connection.
    """

    status: int
    reason: str
    headers: Headers
    length: int | None
    is_chunked: bool
    keeps_alive: bool


def encode_request(method: str, target: str, headers: Headers, body: bytes = b"") -> bytes:
    """Raises ProtocolViolation where a header could not be one."""
    lines = [f"{method} {target} HTTP/1.1"]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or any(c in value for c in "\r\n\0"):
            raise ProtocolViolation(f"{name!r} cannot be a header: its name or value holds what no header can")
        lines.append(f"{name}: {value}")
    if body:
        lines.append(f"Content-Length: {len(body)}")
    try:
        return "\r\n".join((*lines, "", "")).encode("latin-1") + body
    except UnicodeEncodeError:
        raise ProtocolViolation("a header holds characters that no header can") from None


def decode_head(raw: bytes, *, is_head: bool = False) -> Head:
    """`raw` ends before the empty line; `is_head` where HEAD was asked, which has no body."""
    lines = raw.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ProtocolViolation("the answer does not begin as one of HTTP/1.1 does")
    headers: dict[str, str] = {}
    for line in lines[1:]:
        field, colon, content = line.partition(b":")
        if not colon or not _FIELD_NAME.fullmatch(field) or _NO_FIELD.search(content):
            raise ProtocolViolation("the answer has a header line that is none")
        name, value = field.decode("ascii").lower(), content.strip(b" \t").decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    status = int(status_line[2])
    length, is_chunked = _framing(status, headers, is_head)
    words = {w.strip().lower() for w in headers.get("connection", "").split(",")}
    keeps_alive = "close" not in words and (status_line[1] == b"1" or "keep-alive" in words)
    keeps_alive = keeps_alive and (length is not None or is_chunked)
    return Head(status, (status_line[3] or b"").decode("latin-1"), headers, length, is_chunked, keeps_alive)


def _framing(status: int, headers: Headers, is_head: bool) -> tuple[int | None, bool]:
    """RFC 9112 6.3."""
    stated = content_length(headers)
    if is_head or status < 200 or status in BODYLESS:
        return 0, False
    if (coding := headers.get("transfer-encoding")) is None:
        return stated, False
    if coding.lower() != "chunked" or stated is not None:
        raise ProtocolViolation(f"transfer-encoding {coding!r} is not understood, or it comes with a length")
    return None, True


def content_length(headers: Headers) -> int | None:
    """Lists of the same number are one (RFC 9110 8.6)."""
    if (text := headers.get("content-length")) is None:
        return None
    values = {v.strip() for v in text.split(",")}
    if len(values) != 1 or not _DIGITS.fullmatch(value := values.pop()):
        raise ProtocolViolation(f"content-length {text!r} is no length")
    return int(value)


def content_range(headers: Headers) -> tuple[int, int, int | None] | None:
    """Offset, size and the length of the whole where it is known; None where there is no (single) range."""
    if (text := headers.get("content-range")) is None:
        return None
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None or int(match[2]) < int(match[1]):
        raise ProtocolViolation(f"content-range {text!r} is none of bytes")
    first, last = int(match[1]), int(match[2])
    return first, last - first + 1, None if match[3] == "*" else int(match[3])


class ChunkedBody:
    """Takes a chunked body apart (RFC 9112 7.1). Extensions and trailers are dropped."""

    def __init__(self) -> None:
        self._raw = bytearray()
        self._left = 0  # of the chunk's data; -1: its line end is due; -2: in the trailers
        self._trailers = 0  # their bytes
        self.is_complete = False

    def decode(self, raw: bytes) -> bytes:
        """The data that these bytes end. Raises ProtocolViolation."""
        self._raw += raw
        found = bytearray()
        while self._raw and not self.is_complete:
            if self._left > 0:
                part = self._raw[: self._left]
                del self._raw[: len(part)]
                found += part
                self._left = self._left - len(part) or -1
            elif not self._take_line():
                break
        return bytes(found)

    @property
    def rest(self) -> bytes:
        """What came behind the body."""
        return bytes(self._raw)

    def _take_line(self) -> bool:
        end = self._raw.find(b"\r\n")
        if end < 0:
            if len(self._raw) > MAX_CHUNK_LINE_BYTES:
                raise ProtocolViolation("a chunk of the body begins with a line without end")
            return False
        line = bytes(self._raw[:end])
        del self._raw[: end + 2]
        if self._left == -1:
            if line:
                raise ProtocolViolation("a chunk of the body is longer than it says")
            self._left = 0
        elif self._left == -2:
            self.is_complete = not line
            self._trailers += len(line) + 2
            if self._trailers > MAX_HEAD_BYTES:
                raise ProtocolViolation("a body whose trailers have no end")
        else:
            size = line.partition(b";")[0].strip()
            if not re.fullmatch(rb"[0-9A-Fa-f]{1,15}", size):
                raise ProtocolViolation("a chunk of the body has no size")
            self._left = int(size, 16) or -2
        return True

"""HTTP/1.1 heads and bodies, beside h11 where both read the same."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nydus_app.errors import ProtocolViolation
from nydus_app.protocols.http1 import ChunkedBody, content_range, decode_head, encode_request

TOKEN = st.text("abcXYZ09-_!", min_size=1, max_size=12)
VALUE = st.text("abc 09:/;=\"'éü", max_size=30)


def by_h11(raw: bytes) -> h11.Response:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(raw)
    return connection.next_event()


@given(status=st.integers(200, 599), reason=st.text("abc ", max_size=20), fields=st.lists(st.tuples(TOKEN, VALUE)))
def test_heads_are_read_as_h11_reads_them(status: int, reason: str, fields: list[tuple[str, str]]) -> None:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{n}: {v}" for n, v in fields)]
    raw = "\r\n".join(lines).encode("latin-1")
    theirs, ours = by_h11(raw + b"\r\n\r\n"), decode_head(raw)
    assert ours.status == theirs.status_code
    joined: dict[str, str] = {}
    for name, value in theirs.headers:
        key, text = name.decode().lower(), value.decode("latin-1")
        joined[key] = f"{joined[key]}, {text}" if key in joined else text
    assert ours.headers == joined


@given(st.binary(max_size=200))
def test_anything_is_a_head_or_a_violation(raw: bytes) -> None:
    for data in (raw, b"HTTP/1.1 200 OK\r\n" + raw):
        try:
            decode_head(data)
        except ProtocolViolation:
            pass


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/2 200 OK", b"HTTP/1.1 99 No", b"HTTP/1.1 200 OK\r\n folded: x", b"HTTP/1.1 200 OK\r\nno colon",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked", b"HTTP/1.1 200 OK\r\na b: c", b"",
    ],
)  # fmt: skip
def test_what_is_no_head(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_head(raw)


@pytest.mark.parametrize(
    ("fields", "length", "keeps"),
    [
        (b"Content-Length: 5", 5, True), (b"Content-Length: 5, 5", 5, True), (b"Connection: close\r\nContent-Length: 5", 5, False),
        (b"", None, False), (b"Transfer-Encoding: chunked", None, True),
    ],
)  # fmt: skip
def test_where_a_body_ends(fields: bytes, length: int | None, keeps: bool) -> None:
    head = decode_head(b"HTTP/1.1 206 Partial\r\n" + fields if fields else b"HTTP/1.1 206 Partial")
    assert (head.length, head.keeps_alive) == (length, keeps)
    assert decode_head(b"HTTP/1.1 200 OK\r\nContent-Length: 9", is_head=True).length == 0


@given(parts=st.lists(st.binary(min_size=1, max_size=50)), step=st.integers(1, 40), behind=st.binary(max_size=5))
def test_chunked_bodies_in_any_pieces(parts: list[bytes], step: int, behind: bytes) -> None:
    raw = b"".join(b"%X;x=y\r\n%s\r\n" % (len(p), p) for p in parts) + b"0\r\nTrailer: 1\r\n\r\n" + behind
    body, found, rest = ChunkedBody(), b"", b""
    for i in range(0, len(raw), step):
        if body.is_complete:
            rest += raw[i : i + step]
        else:
            found += body.decode(raw[i : i + step])
    assert found == b"".join(parts) and body.is_complete and body.rest + rest == behind


@given(st.binary(max_size=100))
def test_any_chunked_body_ends_or_is_a_violation(raw: bytes) -> None:
    body = ChunkedBody()
    try:
        assert len(body.decode(raw)) <= len(raw)
    except ProtocolViolation:
        pass


@pytest.mark.parametrize("end", [b"", b"\0", b"\n", b"x"])
def test_a_long_header_takes_no_long_time(end: bytes) -> None:
    """60,000 blanks; what tried each of them as an end would take for ever."""
    raw = b"HTTP/1.1 200 OK\r\na: x" + b" " * 60_000 + end
    if end in (b"\0", b"\n"):
        with pytest.raises(ProtocolViolation):
            decode_head(raw)
    else:
        assert decode_head(raw).headers["a"] == (b"x" + b" " * 60_000 + end).strip().decode()


def test_trailers_without_end_are_refused() -> None:
    body = ChunkedBody()
    with pytest.raises(ProtocolViolation):
        body.decode(b"0\r\n" + b"a: b\r\n" * 20_000)


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        ChunkedBody().decode(b"1" * 5000)


def test_ranges() -> None:
    assert content_range({"content-range": "bytes 5-9/100"}) == (5, 5, 100)
    assert content_range({"content-range": "bytes 5-9/*"}) == (5, 5, None)
    assert content_range({}) is None
    for text in ("bytes 9-5/10", "bytes */10", "items 1-2/3", "bytes 1-2", "bytes ١-٢/٣"):
        with pytest.raises(ProtocolViolation):
            content_range({"content-range": text})


@pytest.mark.parametrize("headers", [{"A": "b\r\nEvil: 1"}, {"A\r\nEvil": "1"}, {"A": "€"}, {"": "x"}, {"A": "\0"}])
def test_no_header_smuggles_another(headers: dict[str, str]) -> None:
    with pytest.raises(ProtocolViolation):
        encode_request("GET", "/", headers)

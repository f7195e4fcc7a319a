"""From the answer to a range request to exactly the bytes that were asked for, or an error."""

from __future__ import annotations

from nydus_app.errors import BackendError, BackendUnavailable, ProtocolViolation
from nydus_app.protocols.http1 import Head, content_range
from nydus_app.storage.backend.http.connection import Connection
from nydus_app.storage.backend.http.deadline import Deadline

MAX_SKIPPED_BYTES = 1 << 20
"""A server that ignores ranges sends the whole blob: so much before the range is read in vain, and nothing behind it."""


class WrongAnswer(BackendUnavailable):
    """Something else than what was asked for."""

    cause = "wrong answer"


async def receive_range(
    connection: Connection, head: Head, offset: int, size: int, deadline: Deadline, what: str
) -> bytearray:
    """`head` has status 206 or 200; `what` is for texts. Raises BackendError."""
    if head.headers.get("content-encoding", "identity") != "identity":
        raise BackendError(f"{what}: came encoded as {head.headers['content-encoding']}, which nobody has asked for")
    if head.status == 206:
        _check_range(head, offset, size, what)
    elif offset > MAX_SKIPPED_BYTES:
        raise BackendError(f"{what}: the server ignores ranges")
    else:
        if head.length is not None and head.length < offset + size:
            raise BackendError(f"{what}: the blob has {head.length} bytes only")
        await _receive(connection, offset, deadline, what)
    return await _receive(connection, size, deadline, what)


def _check_range(head: Head, offset: int, size: int, what: str) -> None:
    try:
        given = content_range(head.headers)
    except ProtocolViolation as e:
        raise WrongAnswer(f"{what}: {e}") from None
    if given is None:
        raise WrongAnswer(f"{what}: the server does not say which range it sends")
    if given[:2] != (offset, size):
        short = given[0] == offset and given[1] < size and given[2] == offset + given[1]
        if short:
            raise BackendError(f"{what}: the blob has {given[2]} bytes only")
        raise WrongAnswer(f"{what}: the server sends {given[1]} bytes at {given[0]}")
    if head.length is not None and head.length != size:
        raise WrongAnswer(f"{what}: the server sends {head.length} bytes and calls them {size}")


async def _receive(connection: Connection, size: int, deadline: Deadline, what: str) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    while view:
        count = await connection.receive_into(view, deadline)
        if not count:
            raise WrongAnswer(f"{what}: the answer ends {len(view)} bytes too early")
        view = view[count:]
    return found


async def receive_small(connection: Connection, limit: int, deadline: Deadline) -> bytes:
    """The body of any answer, cut at `limit`: then the connection is not reusable."""
    found = bytearray(limit)
    have = 0
    with memoryview(found) as view:
        while have < limit and (count := await connection.receive_into(view[have:], deadline)):
            have += count
    return bytes(found[:have])

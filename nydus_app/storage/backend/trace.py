"""What became of the requests behind one read, for who wants to know.

    with traced() as tries:
        raw = await reader.read(offset, size)

A context variable leads from there to the place where requests are sent; a task that is started within inherits it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class Try(NamedTuple):
    """One request that went out. `status` is 0 where no answer came, `error` is empty where an answer came as it should.

    `cause` is what was wrong with it in a few words, `status NNN` of an answer that says so itself; empty where all was well.
    """

    origin: str
    status: int
    seconds: float
    error: str
    cause: str


_TRIES: ContextVar[list[Try] | None] = ContextVar("nydus_tries", default=None)


@contextmanager
def traced() -> Iterator[list[Try]]:
    """The requests that are sent within, in the order in which they ended; who traces around sees them when this ends."""
    tries: list[Try] = []
    token = _TRIES.set(tries)
    try:
        yield tries
    finally:
        _TRIES.reset(token)
        if (around := _TRIES.get()) is not None:
            around.extend(tries)


def note(made: Try) -> None:
    tries = _TRIES.get()
    if tries is not None:
        tries.append(made)

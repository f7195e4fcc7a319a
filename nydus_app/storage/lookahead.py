"""Which readers go on where they stopped. Pure: what was read in, what to fetch next out.

A stream is a reader whose next read begins with the last chunk of the one before or behind it. Its
frontier is the first chunk that nobody has been asked to fetch for it yet.
"""

from collections import deque

MAX_STREAMS = 16
"""More sequential readers of one blob than this disturb each other."""

SLACK_CHUNKS = 2
"""Requests of one reader may overtake each other by this much."""


class Stream:
    def __init__(self, last: int) -> None:
        self.last = last
        self.frontier = last + 1


class Streams:
    """The readers of one blob, the most recent last."""

    def __init__(self) -> None:
        self._streams: deque[Stream] = deque(maxlen=MAX_STREAMS)

    def step(self, first: int, last: int) -> Stream | None:
        """The stream that a read of chunks `first` to `last` advances; None where it begins one or stands still."""
        for stream in reversed(self._streams):
            if stream.last <= first + SLACK_CHUNKS and first <= stream.last + SLACK_CHUNKS:
                if last <= stream.last:
                    return None
                stream.last = last
                stream.frontier = max(stream.frontier, last + 1)
                return stream
        self._streams.append(Stream(last))
        return None

"""One line on a terminal that says where a measurement is; nothing where nobody watches.

Own lines and no library: it is a counter and a carriage return.
"""

import time
from typing import TextIO

WIDTH = 24


class Progress:
    def __init__(self, steps: int, stream: TextIO) -> None:
        self._steps = max(steps, 1)
        self._done = 0
        self._stream = stream if stream.isatty() else None
        self._began = time.monotonic()

    def step(self, what: str) -> None:
        """A step begins; the ones before are done."""
        if self._stream is not None:
            full = WIDTH * self._done // self._steps
            bar = "█" * full + "·" * (WIDTH - full)
            self._stream.write(f"\r\033[K{bar} {self._done}/{self._steps} {self._left()}{what}")
            self._stream.flush()
        self._done += 1

    def _left(self) -> str:
        if self._done < 3:
            return ""
        spent = time.monotonic() - self._began
        left = round(spent / self._done * (self._steps - self._done))
        return f"{left // 60}:{left % 60:02} left  "

    def close(self) -> None:
        if self._stream is not None:
            self._stream.write("\r\033[K")
            self._stream.flush()

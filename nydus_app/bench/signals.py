"""SIGINT and SIGTERM end a measurement as one exception, which undoes whatever is mounted.

By handlers and not by a signal mask, which child processes would inherit.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM)


def stop_on_sigterm() -> None:
    """As Ctrl-C does. Only a process's main thread can say so; elsewhere nothing happens."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def signals_held() -> Iterator[None]:
    """What arrives meanwhile is delivered when the block is over: doing and undoing are not broken off half way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {number: signal.signal(number, lambda n, _: caught.append(n)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in caught:
            signal.raise_signal(number)

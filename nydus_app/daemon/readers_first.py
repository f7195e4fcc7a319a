"""An import that steps aside, between one statement and the next, for whoever reads meanwhile.

An import holds the interpreter for most of its time: beside that of trio, a reader gets half of what he gets alone.
"""

import builtins
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def readers_first(stand_back: Callable[[], None]) -> Iterator[None]:
    """Within, this thread calls `stand_back` before each `import` statement that it comes to.

    No finder of sys.meta_path: it would wait with the lock of all imports, and readers import codecs.
    """
    thread, load = threading.get_ident(), builtins.__import__

    def load_after_readers(*args: object, **kwargs: object) -> object:
        if threading.get_ident() == thread:
            stand_back()
        return load(*args, **kwargs)  # type: ignore[arg-type]

    builtins.__import__ = load_after_readers  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.__import__ = load

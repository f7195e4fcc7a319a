"""Files that are complete under their names or not there at all: others may be reading along."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

TEMPORARY = re.compile(r".+\.(\d+)\.tmp")
"""Written by the process of that number, to be renamed when it is complete. Others may have the number elsewhere, in containers
of their own, and one process may write the same file twice: a random word makes the name nobody else's.
"""


def temporary_name(path: str) -> str:
    return f"{path}.{os.urandom(8).hex()}.{os.getpid()}.tmp"


@contextmanager
def replacing(path: str) -> Iterator[BinaryIO]:
    """A file, open for both, that takes the place of `path` at the end; whatever ends it early leaves nothing. Raises OSError."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "x+b") as f:
            yield f
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise

"""walk.py: walk the trees that are named on standard input, a line of JSON for each.

A damaged image may make the kernel read for ever, so whoever walks is a process of its own, and an alarm ends it.
"""

import hashlib
import json
import os
import signal
import stat
import sys
from collections.abc import Callable

DEADLINE_S = 5
MOST_ENTRIES = 500
HEAD_BYTES = 64 << 10
"""A mutated size may be anything: this is more than any file of the tiny images has."""

Outcome = dict[str, object]


def timed(function: Callable[..., object], *args: object) -> object:
    """The result of one operation, or its errno."""
    signal.alarm(DEADLINE_S)
    try:
        return function(*args)
    except OSError as e:
        return f"errno {e.errno}"
    finally:
        signal.alarm(0)


def walk(root: str) -> Outcome:
    """Everything that can be listed and read, errors included, by path."""
    found: Outcome = {}
    todo = [""]
    while todo and len(found) < MOST_ENTRIES:
        name = todo.pop()
        path = root + name
        st = timed(os.lstat, path)
        if not isinstance(st, os.stat_result):
            found[name] = st
            continue
        attributes = [st.st_mode, st.st_uid, st.st_gid, st.st_size, st.st_nlink, st.st_rdev, st.st_mtime_ns, st.st_ino]
        found[name] = [*attributes, timed(_xattrs, path)]
        if stat.S_ISDIR(st.st_mode):
            names = timed(os.listdir, path)
            found[name + " listing"] = sorted(names) if isinstance(names, list) else names
            if isinstance(names, list):
                todo += [f"{name}/{n}" for n in names]
        elif stat.S_ISLNK(st.st_mode):
            found[name + " target"] = timed(os.readlink, path)
        elif stat.S_ISREG(st.st_mode):
            found[name + " content"] = timed(_head, path)
    return found


def _xattrs(path: str) -> dict[str, str]:
    return {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in os.listxattr(path, follow_symlinks=False)}


def _head(path: str) -> str:
    with open(path, "rb") as f:
        return hashlib.sha256(f.read(HEAD_BYTES)).hexdigest()


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(walk(line.rstrip("\n"))), flush=True)

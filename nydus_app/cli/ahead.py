"""A start's own files are asked for ahead: a cold disk is read while the interpreter is at work on what it has.

A start opens some three hundred small files one by one, and half of its time on a cold disk is waiting for them.
`start_order.txt` names them in the order of their first use; what is missing or moved is passed over. `scripts/start_order`
writes it anew.
"""

import os
import sys
import threading

ORDER = os.path.join(os.path.dirname(__file__), "start_order.txt")


def ask_ahead() -> None:
    """Returns at once. Called while there is one thread only.

    By a process and not by a thread, which would want the interpreter a thousand times.
    """
    try:
        child = os.fork()
    except OSError:  # a limit of processes
        return
    if child:
        threading.Thread(target=_bury, args=(child,), name="ask-ahead", daemon=True).start()
        return
    try:
        os.closerange(0, 1024)  # who reads our output is not to wait for this process
        for source, file in _paths():
            _ask_for(source, file)
    finally:
        os._exit(0)


def _bury(child: int) -> None:
    try:
        os.waitpid(child, 0)
    except OSError:  # who started us ignores SIGCHLD
        return


def _ask_for(source: str, file: str) -> None:
    try:
        os.stat(source)  # its date is compared with that in its byte code
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
    os.close(fd)


def _paths() -> list[tuple[str, str]]:
    """Source and byte code of `trio/_core/_run.py`, or the extension `_json.so` twice, in each place where it may be."""
    from importlib.machinery import EXTENSION_SUFFIXES

    standard = os.path.dirname(os.__file__)
    extensions = [path for path in sys.path if path.endswith("/lib-dynload")]
    others = [path for path in sys.path[1:] if not path.startswith(standard) or path.endswith("-packages")]
    found = []
    with open(ORDER, encoding="ascii") as lines:
        for line in lines:
            place, _, name = line.strip().rpartition("/")
            stem, suffix = name.split(".")
            is_standard = (place or stem).partition("/")[0] in sys.stdlib_module_names
            if suffix == "so":
                roots = extensions if is_standard else others
                source = file = stem + EXTENSION_SUFFIXES[0]
            else:
                roots = [standard] if is_standard else others
                source, file = name, f"__pycache__/{stem}.{sys.implementation.cache_tag}.pyc"
            found += [(os.path.join(root, place, source), os.path.join(root, place, file)) for root in roots]
    return found

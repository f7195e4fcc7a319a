"""Where the commands begin: so light that Ctrl-C ends them quietly while all the rest is still being loaded.

`guarded` (`ending.py`) gives the signal back to Python as soon as there is something to undo.
"""

import os
import signal
import sys


def _end_quietly() -> None:
    """Who started us with the signal ignored, as shells do in the background, keeps his wish."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def open_standard_streams() -> None:
    """Who starts us with one of them closed would get it back as /dev/fuse, or as a cache file."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)


_LATE = ("trio", "ssl", "socket", "subprocess", "hashlib", "tempfile", "shutil", "shlex", "difflib")
"""What a start of an image that lies here can do without; libcrypto alone is 5 MB to read from a cold disk."""


def _begin(*late: str) -> None:
    """`late` modules are loaded by their first use."""
    _end_quietly()
    open_standard_streams()
    if late:
        from nydus_app.cli.late_module import load_late

        for name in late:
            load_late(name)


def _begin_start() -> None:
    from nydus_app.cli.ahead import ask_ahead

    ask_ahead()
    _begin(*_LATE)


def nydusd() -> None:
    _begin_start()
    from nydus_app.cli.nydusd import main

    main()


def nydus_run() -> None:
    _begin_start()
    from nydus_app.cli.run import main

    main()


def nydus_bench() -> None:
    _begin()
    from nydus_app.cli.bench import main

    main()


def nydusctl() -> None:
    _begin("trio")
    from nydus_app.cli.nydusctl import main

    main()

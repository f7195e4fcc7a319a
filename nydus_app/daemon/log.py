"""Logging in nydusd's format (contract 2.1).

    [2026-01-02 03:04:05.678901 +00:00] INFO message
    [2026-01-02 03:04:05.678901 +00:00] WARN [storage/fetch.py:42] message

To standard error (coloured on a terminal only) or to a file, appended, with or without rotation. The
directory of the file is made where it is missing: containerd's snapshotter leaves that to nydusd.
A log that cannot be written never stops the daemon: the first failure is told to standard error.
"""

import logging
import os
import sys
import time
from contextlib import suppress

from nydus_app.errors import ConfigError, ConfigFileError

TRACE = 5
ROOT = "nydus"
ERRORS = "backslashreplace"
"""Paths may hold bytes that are no UTF-8."""

_NAMES = {"trace": TRACE, "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_SHOWN = {TRACE: "TRACE", logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}
_COLOURS = {logging.ERROR: "1;31", logging.WARNING: "33", logging.DEBUG: "2", TRACE: "2"}
OFF = logging.CRITICAL + 1


class NydusFormatter(logging.Formatter):
    def __init__(self, *, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        when = time.localtime(record.created)
        zone = time.strftime("%z", when)
        place = "" if record.levelno == logging.INFO else f"[{_short(record.pathname)}:{record.lineno}] "
        level = _SHOWN.get(record.levelno, record.levelname)
        text = f"{level} {place}{record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._coloured and record.levelno in _COLOURS:
            text = f"\x1b[{_COLOURS[record.levelno]}m{text}\x1b[0m"
        return f"[{date_and_time(record.created, when)} {zone[:3]}:{zone[3:]}] {text}"


def date_and_time(seconds: float, when: time.struct_time) -> str:
    """As nydusd prints them, without the zone; `when` is `seconds` since the epoch, in that zone."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', when)}.{int(seconds % 1 * 1e6):06}"


def _short(path: str) -> str:
    """Room and module: storage/fetch.py."""
    return "/".join(path.rsplit("/", 2)[-2:])


class Forgiving(logging.Handler):
    """Mixed in before a handler: the first error is told, none is raised."""

    _told = False

    def handleError(self, record: logging.LogRecord | None) -> None:
        if not self._told:
            self._told = True
            with suppress(OSError, ValueError):  # its reader may be gone as well
                print(f"nydus: cannot write the log: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        with suppress(OSError):  # what could not be written cannot be flushed either
            super().close()


class _Stderr(Forgiving, logging.StreamHandler):  # type: ignore[type-arg]
    pass


class _File(Forgiving, logging.FileHandler):
    pass


class _Held(logging.Handler):
    """Keeps what is said before it is known where the log goes."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def hold_log() -> None:
    """Say nothing yet; `open_log` says it. What ends in an error before that says the error only."""
    logger = logging.getLogger(ROOT)
    logger.propagate = False
    logger.handlers[:] = [_Held()]


def open_log(level: str, file: str | None, rotation_size_mib: int) -> None:
    """Send everything below the logger "nydus" there. Raises ConfigFileError."""
    logger = logging.getLogger(ROOT)
    logger.propagate = False
    handler = _open_handler(file, rotation_size_mib)
    handler.setFormatter(NydusFormatter(coloured=file is None and sys.stderr.isatty()))
    before, logger.handlers[:] = logger.handlers[:], [handler]
    set_level(level)
    for old in before:
        old.close()
        for record in old.records if isinstance(old, _Held) else ():
            if logger.isEnabledFor(record.levelno):
                logger.handle(record)


def _open_handler(file: str | None, rotation_size_mib: int) -> logging.Handler:
    if file is None:
        return _Stderr(sys.stderr)
    base, extension = os.path.splitext(os.path.abspath(file))
    extension = extension or ".log"
    try:
        os.makedirs(os.path.dirname(base), exist_ok=True)
        if rotation_size_mib:
            from nydus_app.daemon.log_rotation import RotatedFile

            return RotatedFile(base, extension, rotation_size_mib << 20)
        return _File(base + extension, encoding="utf-8", errors=ERRORS)
    except FileExistsError:
        raise ConfigFileError(f"log file {base + extension}: its directory is a file") from None
    except OSError as e:
        raise ConfigFileError(f"log file {base + extension}: {e.strerror}") from None


def set_level(name: str) -> None:
    """off, error, warn, info, debug or trace, in any case. Raises ConfigError."""
    known = {"off": OFF, **_NAMES}
    if name.lower() not in known:
        raise ConfigError(f"log level {name!r} is none of {', '.join(known)}")
    logging.getLogger(ROOT).setLevel(known[name.lower()])

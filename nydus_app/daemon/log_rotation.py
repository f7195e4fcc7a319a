"""Log files that do not grow: `<base>_rCURRENT<ext>` is written to, older ones carry the time of their end and are
compressed by a thread, `<base>_r<time><ext>.gz`; ten are kept.

Whoever logs at that moment answers requests: he renames the file, and goes on.
"""

import glob
import gzip
import os
import threading
from contextlib import suppress
from datetime import datetime
from logging import handlers

from nydus_app.daemon.log import ERRORS, Forgiving

KEPT_FILES = 10
PIECE_BYTES = 1 << 20


class RotatedFile(Forgiving, handlers.RotatingFileHandler):
    def __init__(self, base: str, extension: str, size_bytes: int) -> None:
        self._base, self._extension, self._size_bytes = base, extension, size_bytes
        self._packing: threading.Thread | None = None
        self._is_closed = False
        super().__init__(
            f"{base}_rCURRENT{extension}", maxBytes=size_bytes, backupCount=1, encoding="utf-8", errors=ERRORS
        )

    def doRollover(self) -> None:
        """What could not be put away stays where it is; the log goes on behind it, and is tried again later."""
        self.stream.close()
        try:
            self._put_away()
        except OSError:
            self.maxBytes = os.path.getsize(self.baseFilename) + self._size_bytes
            self.handleError(None)
        finally:
            self.stream = self._open()

    def _put_away(self) -> None:
        ended = f"{self._base}_r{datetime.now():%Y-%m-%d_%H-%M-%S}{self._extension}"
        if os.path.exists(ended) or os.path.exists(f"{ended}.gz"):  # the second file of this second
            self.maxBytes = os.path.getsize(self.baseFilename) + self._size_bytes
            return
        os.rename(self.baseFilename, ended)
        self.maxBytes = self._size_bytes
        if self._packing is None or not self._packing.is_alive():
            self._packing = threading.Thread(target=self._pack_all, name="log-packing", daemon=True)
            with suppress(RuntimeError):  # no thread can be had: it is packed with the next one
                self._packing.start()

    def _pack_all(self) -> None:
        """Those that were left before, too."""
        try:
            for ended in sorted(self._older("")):
                self._pack(ended)
            for old in sorted([*self._older(""), *self._older(".gz")])[: -(KEPT_FILES - 1)]:
                os.unlink(old)
        except OSError:
            self.handleError(None)

    def _older(self, suffix: str) -> list[str]:
        return glob.glob(f"{glob.escape(self._base)}_r2*{self._extension}{suffix}")

    def _pack(self, ended: str) -> None:
        temporary = f"{ended}.gz.tmp"
        try:
            with open(ended, "rb") as content, gzip.open(temporary, "wb", compresslevel=6) as packed:
                while piece := content.read(PIECE_BYTES):
                    packed.write(piece)
                    if self._is_closed:
                        raise InterruptedError("the daemon ends")
            os.replace(temporary, f"{ended}.gz")
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        os.unlink(ended)

    def handleError(self, record: object) -> None:
        if not self._is_closed:
            super().handleError(None)

    def wait_until_packed(self) -> None:
        if self._packing is not None and self._packing.is_alive():
            self._packing.join()

    def close(self) -> None:
        """What is being packed is left as it is, for the next daemon that rotates this log."""
        self._is_closed = True
        self.wait_until_packed()
        super().close()

"""Log files that do not grow: `<base>_rCURRENT<ext>` is written to, older ones carry the time of their
end and are compressed, `<base>_r<time><ext>.gz`; ten are kept.
"""

import glob
import gzip
import os
import shutil
from contextlib import suppress
from datetime import datetime
from logging import handlers

from nydus_app.daemon.log import ERRORS, Forgiving

KEPT_FILES = 10


class RotatedFile(Forgiving, handlers.RotatingFileHandler):
    def __init__(self, base: str, extension: str, size_bytes: int) -> None:
        self._base, self._extension, self._size_bytes = base, extension, size_bytes
        super().__init__(
            f"{base}_rCURRENT{extension}", maxBytes=size_bytes, backupCount=1, encoding="utf-8", errors=ERRORS
        )

    def doRollover(self) -> None:
        """What could not be packed away stays where it is; the log goes on behind it, and is tried again later."""
        self.stream.close()
        try:
            self._pack()
            self.maxBytes = self._size_bytes
        except OSError:
            self.maxBytes = os.path.getsize(self.baseFilename) + self._size_bytes
            self.handleError(None)
        finally:
            self.stream = self._open()

    def _pack(self) -> None:
        ended = f"{self._base}_r{datetime.now():%Y-%m-%d_%H-%M-%S}{self._extension}.gz"
        before = os.path.getsize(ended) if os.path.exists(ended) else 0
        try:
            with open(self.baseFilename, "rb") as current, gzip.open(ended, "ab") as packed:
                shutil.copyfileobj(current, packed)
        except OSError:
            with suppress(OSError):
                os.truncate(ended, before) if before else os.unlink(ended)
            raise
        os.truncate(self.baseFilename, 0)
        for old in sorted(glob.glob(f"{glob.escape(self._base)}_r2*{self._extension}.gz"))[: -(KEPT_FILES - 1)]:
            os.unlink(old)

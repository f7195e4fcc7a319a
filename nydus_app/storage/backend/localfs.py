"""Blobs as files of a directory.

A blob is `blob_file`, or `<dir>/<blob id>`, or the first of `<alt_dirs>/<blob id>` that exists.
(nydusd 2.4 lets the last alternative directory shadow all others; here `dir` comes first.)
"""

import os
from collections.abc import Sequence
from functools import partial

from nydus_app.errors import BackendNotFound
from nydus_app.storage.backend.extent import Extent
from nydus_app.storage.backend.local_file import LocalFileReader, open_file
from nydus_app.storage.blob_name import blob_file_name


class LocalfsBackend:
    def __init__(self, *, dir: str = "", blob_file: str = "", alt_dirs: Sequence[str] = ()) -> None:
        self._blob_file = blob_file
        self._dirs = [d for d in (dir, *alt_dirs) if d]

    def candidates(self, blob_id: str) -> list[str]:
        """Where the blob may lie; the first that exists is it."""
        return [self._blob_file] if self._blob_file else [os.path.join(d, blob_file_name(blob_id)) for d in self._dirs]

    def open_blob(self, blob_id: str) -> LocalFileReader:
        candidates = self.candidates(blob_id)
        return LocalFileReader(partial(_open_first, candidates), candidates[0])

    def describe(self) -> str:
        return f"localfs {self._blob_file or ', '.join(self._dirs)}"


def _open_first(candidates: Sequence[str]) -> Extent:
    for path in candidates:
        try:
            return open_file(path)
        except BackendNotFound:
            continue
    raise BackendNotFound(f"no blob at {' or '.join(candidates)}")

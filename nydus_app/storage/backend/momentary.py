"""An object that is read once or twice, if at all: opened for each read, and closed behind it."""

from nydus_app.storage.backend.port import Backend


class MomentaryReader:
    """Fulfils BlobReader."""

    def __init__(self, backend: Backend, blob_id: str) -> None:
        self._backend = backend
        self._blob_id = blob_id

    async def size(self) -> int:
        reader = self._backend.open_blob(self._blob_id)
        try:
            return await reader.size()
        finally:
            reader.close()

    async def read(self, offset: int, size: int) -> bytes:
        reader = self._backend.open_blob(self._blob_id)
        try:
            return await reader.read(offset, size)
        finally:
            reader.close()

    def close(self) -> None:
        """Nothing is open between reads."""

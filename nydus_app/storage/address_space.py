"""The uncompressed address space of a RAFS v6 blob, as one file that can be read anywhere.

This is what the kernel's EROFS reads when the blob is one of its devices: chunks at their 4 KiB-aligned
offsets, and between a chunk's end and the next block zeros, which no file shows.
"""

from bisect import bisect_right

from nydus_app.errors import InvalidImage
from nydus_app.formats.codec.compress import Buffer
from nydus_app.formats.rafs.values import Blob, Chunk, Segment
from nydus_app.storage.chunk_index import CompressionInfoIndex
from nydus_app.storage.device import Device

BLOCK = 4096


class AddressSpace:
    """One blob. `device` reads its chunks, `index` knows where they are."""

    def __init__(self, blob: Blob, index: CompressionInfoIndex, device: Device) -> None:
        self._blob = blob
        self._index = index
        self._device = device
        self.size = -(-blob.uncompressed_size // BLOCK) * BLOCK

    async def read(self, offset: int, size: int) -> Buffer:
        """Exactly the bytes of [offset, offset + size), cut at `self.size`.

        Raises InvalidImage where no chunk lies: a hole is no zeros (law 1), and errors of the device.
        """
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        await self._index.load()
        parts: list[Segment | int] = []
        at = offset
        number = bisect_right(range(len(self._index)), offset, key=self._index.place) - 1
        while at < end:
            chunk = self._chunk(number)
            start, stop = chunk.uncompressed_offset, chunk.uncompressed_offset + chunk.uncompressed_size
            padded = -(-stop // BLOCK) * BLOCK
            if not start <= at < padded:
                raise InvalidImage(f"no chunk of blob {self._blob.id} lies at {at}")
            if at < stop:
                parts.append(Segment(chunk, at - start, min(stop, end) - at))
            if min(padded, end) > max(at, stop):
                parts.append(min(padded, end) - max(at, stop))
            at, number = padded, number + 1
        return await self._joined(parts)

    def _chunk(self, number: int) -> Chunk:
        if not 0 <= number < len(self._index):
            raise InvalidImage(f"blob {self._blob.id} ends before its size")
        return self._index.chunk(number)

    async def _joined(self, parts: list[Segment | int]) -> Buffer:
        """One read of the device for all segments, zeros put between them."""
        data = memoryview(await self._device.read([p for p in parts if isinstance(p, Segment)]))
        if len(parts) == 1:
            return data
        out, at = bytearray(), 0
        for part in parts:
            if isinstance(part, Segment):
                out += data[at : at + part.size]
                at += part.size
            else:
                out += bytes(part)
        return out

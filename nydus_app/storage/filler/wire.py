"""What the daemon and the process that fills its caches say to each other, over a SOCK_SEQPACKET pair.

    Blob     here is a blob: descriptors of where it lies, and of its data file
    Order    decode these chunks of it, and write them there; their records come along
    Gone     of the blob no more will be asked
    Report   what became of an order; one of number 0 says that the process is ready, and of which version (its `error`)

Both ends are of one version: a daemon whose package was replaced while it ran gives up who says another.
"""

from array import array
from collections.abc import Sequence
from struct import Struct
from typing import NamedTuple

from nydus_app.formats.rafs.values import Blob

MAX_MESSAGE = 1 << 17
"""A socket's buffer holds more by default (net.core.wmem_default is 208 KiB)."""

ORDER = Struct("<B4I")
REPORT = Struct("<3I")
WINDOW = Struct("<2QI2Q")
BLOB_KIND, ORDER_KIND, GONE_KIND = 1, 2, 3


class BlobHere(NamedTuple):
    number: int
    blob: Blob
    what: str  # names it in errors
    offset: int  # of the blob in its file
    size: int | None
    is_validated: bool

    def encode(self) -> bytes:
        import pickle  # a start needs none

        return bytes((BLOB_KIND,)) + pickle.dumps(tuple(self))


class Order(NamedTuple):
    """`table` and `records` are the chunks' own, of the blob's and of the bootstrap's table (`formats/blob/compression_info`)."""

    number: int
    blob: int
    indexes: Sequence[int]
    table: bytes
    records: bytes

    def encode(self) -> bytes:
        head = ORDER.pack(ORDER_KIND, self.number, self.blob, len(self.indexes), len(self.table))
        return b"".join((head, array("I", self.indexes).tobytes(), self.table, self.records))


class Gone(NamedTuple):
    blob: int

    def encode(self) -> bytes:
        return ORDER.pack(GONE_KIND, 0, self.blob, 0, 0)


class Filled(NamedTuple):
    """One read of the blob's file; no chunks where it failed."""

    offset: int
    size: int
    chunks: int
    read_ns: int
    latency_ns: int  # until its data were decoded and verified, too


class Report(NamedTuple):
    """`failed` are indexes of chunks that were not written, `error` says why the first of them was not."""

    number: int
    filled: list[Filled]
    failed: list[int]
    error: str

    def encode(self) -> bytes:
        head = REPORT.pack(self.number, len(self.filled), len(self.failed))
        filled = b"".join([WINDOW.pack(*f) for f in self.filled])
        return b"".join((head, filled, array("I", self.failed).tobytes(), self.error.encode()))


def decode_message(message: bytes) -> BlobHere | Order | Gone:
    if message[0] == BLOB_KIND:
        import pickle

        return BlobHere(*pickle.loads(message[1:]))
    kind, number, blob, count, size = ORDER.unpack_from(message)
    if kind == GONE_KIND:
        return Gone(blob)
    table = ORDER.size + 4 * count
    indexes = array("I", message[ORDER.size : table])
    return Order(number, blob, indexes, message[table : table + size], message[table + size :])


def decode_report(message: bytes) -> Report:
    number, windows, failures = REPORT.unpack_from(message)
    at = REPORT.size
    end = at + windows * WINDOW.size
    filled = [Filled(*fields) for fields in WINDOW.iter_unpack(message[at:end])]
    failed = array("I", message[end : end + 4 * failures])
    return Report(number, filled, failed.tolist(), message[end + 4 * failures :].decode())

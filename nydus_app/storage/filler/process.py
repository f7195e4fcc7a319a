"""What runs in the process that fills the daemon's caches: it reads, decodes, verifies and writes what it is ordered to.

It knows no image and opens no file: orders bring the chunks' records, and descriptors come with the blobs. It marks
nothing: what it has written counts when the daemon has its report (law 2). It ends when the daemon does.
"""

import gc
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from nydus_app.errors import BackendError, InvalidImage, NydusError
from nydus_app.formats.blob.compression_info import chunks_of_records
from nydus_app.formats.codec.chunk import decode_chunks
from nydus_app.formats.codec.unit import Room
from nydus_app.formats.rafs.v6 import decode_chunk_records
from nydus_app.formats.rafs.values import BlobFeatures
from nydus_app.linux.malloc import keep_freed_memory
from nydus_app.storage.backend.extent import Extent, ExtentReader
from nydus_app.storage.cache.chunk_file import Fetched, check_places
from nydus_app.storage.cache.plain_file import PlainFile
from nydus_app.storage.filler.wire import MAX_MESSAGE, BlobHere, Filled, Gone, Order, Report, decode_message
from nydus_app.storage.plan import JOB_BYTES, Window, plan_windows
from nydus_app.version import __version__

FIRST_TO_GO = "1000"
"""Where memory is short it is killed before the daemon, which goes on without it."""


class _Blob(NamedTuple):
    here: BlobHere
    reader: ExtentReader
    file: PlainFile
    daemon_pid: int

    def close(self) -> None:
        os.close(self.reader.extent.fd)
        self.file.close()


def main(fd: int) -> None:
    """`fd` is the process's end of the pair."""
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's are for the daemon, which ends this process
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as f:
        f.write(FIRST_TO_GO)
    daemon_pid = os.getppid()
    keep_freed_memory()
    gc.disable()  # nothing here refers to itself
    blobs: dict[int, _Blob] = {}
    with socket.socket(fileno=fd) as daemon, suppress(ConnectionError):
        daemon.send(Report(0, [], [], __version__).encode())
        for message, fds in _messages(daemon):
            match decode_message(message):
                case BlobHere(number=number) as here:
                    blobs[number] = _taken(here, *fds, daemon_pid)
                case Gone(blob=number):
                    blobs.pop(number).close()
                case Order() as order:
                    daemon.send(_fill(blobs[order.blob], order).encode())


def _messages(daemon: socket.socket) -> Iterator[tuple[bytes, list[int]]]:
    while True:
        message, fds, _, _ = socket.recv_fds(daemon, MAX_MESSAGE, 2)
        if not message:
            return
        yield message, fds


def _taken(here: BlobHere, blob_fd: int, data_fd: int, daemon_pid: int) -> _Blob:
    reader = ExtentReader(Extent(blob_fd, here.offset, here.size), here.what)
    file = PlainFile(data_fd, is_aligned=bool(here.blob.features & BlobFeatures.ALIGNED))
    return _Blob(here, reader, file, daemon_pid)


def _fill(blob: _Blob, order: Order) -> Report:
    filled: list[Filled] = []
    failed: dict[int, str] = {}
    records = decode_chunk_records(order.records)
    try:
        chunks = chunks_of_records(blob.here.blob, order.indexes, order.table, records)
        check_places(blob.here.blob, chunks)
        for window in plan_windows(chunks, (), JOB_BYTES):
            filled.append(_fill_window(blob, window, failed))
    except InvalidImage as e:  # who wants chunks whose records are right asks for them one by one
        failed.update(dict.fromkeys(order.indexes, str(e)))
    return Report(order.number, filled, list(failed), next(iter(failed.values()), ""))


def _fill_window(blob: _Blob, window: Window, failed: dict[int, str]) -> Filled:
    began_ns = time.monotonic_ns()
    offset, size, here = window.offset, window.end - window.offset, blob.here
    try:
        raw = blob.reader.pread(offset, size)
    except BackendError as e:
        failed.update(dict.fromkeys([c.index for c in window.chunks], str(e)))
        return Filled(offset, size, 0, time.monotonic_ns() - began_ns, 0)
    read_ns = time.monotonic_ns() - began_ns
    decoded = decode_chunks(here.blob, window.chunks, raw, offset, validate=here.is_validated, room=NO_UNITS)
    filled = Filled(offset, size, len(window.chunks), read_ns, time.monotonic_ns() - began_ns)
    failed.update((index, str(data)) for index, data in decoded.items() if isinstance(data, NydusError))
    good = [(c, data) for c in window.chunks if not isinstance(data := decoded[c.index], NydusError)]
    if os.getppid() != blob.daemon_pid:
        raise ConnectionAbortedError("the file may be another daemon's by now, which keeps it in another way")
    try:
        blob.file.write(good, Fetched(offset, raw))
    except OSError as e:
        failed.update(dict.fromkeys([c.index for c, _ in good], f"the cache cannot be written: {e.strerror}"))
    return filled


def _no_unit(*_: int) -> bytes:
    raise InvalidImage("a unit is nobody's order")


NO_UNITS = Room(_no_unit, _no_unit)

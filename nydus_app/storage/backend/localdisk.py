"""Blobs as GPT partitions of a disk, or one blob that is the whole disk.

A partition's name holds the first 32 digits of a blob id and its GUID the other 32. One of the type "basic data"
is found by its name alone, which the first 32 digits of an id may be (nydusd's localdisk knows both forms).
The table is read once, when the backend is made; where it is damaged the one at the disk's end is taken.
"""

import logging
import os
from functools import partial

from nydus_app.errors import BackendError, BackendNotFound, InvalidImage
from nydus_app.formats.gpt import BASIC_DATA, SECTOR_SIZE, Header, Partition, decode_header, decode_table
from nydus_app.storage.backend.extent import Extent, pread_whole
from nydus_app.storage.backend.local_file import LocalFileReader, open_file, size_of

log = logging.getLogger("nydus.storage")

NAME_DIGITS = 32


class LocaldiskBackend:
    """Raises BackendError where the disk cannot be read, or has a table that cannot be believed."""

    def __init__(self, *, device_path: str, disable_gpt: bool = False) -> None:
        self._path = device_path
        disk = open_file(device_path)
        try:
            self._blobs = None if disable_gpt else read_blobs(disk, device_path)
        finally:
            os.close(disk.fd)

    def open_blob(self, blob_id: str) -> LocalFileReader:
        if self._blobs is None:
            return LocalFileReader(partial(open_file, self._path), self._path)
        found = self._blobs.get(blob_id) or self._blobs.get(blob_id[:NAME_DIGITS])
        what = f"{self._path}: blob {blob_id}" if found is None else f"{self._path}: partition {found.number}"
        return LocalFileReader(partial(self._open_partition, found, blob_id), what)

    def _open_partition(self, found: Partition | None, blob_id: str) -> Extent:
        if found is None:
            raise BackendNotFound(f"{self._path}: no partition is blob {blob_id}")
        return Extent(open_file(self._path).fd, found.offset, found.size)

    def describe(self) -> str:
        return f"localdisk {self._path}"


def read_blobs(disk: Extent, path: str) -> dict[str, Partition]:
    """Partitions by the blob id that they stand for. Raises BackendError."""
    try:
        partitions = _read_partitions(disk, path)
    except InvalidImage as e:
        raise BackendError(f"{path}: {e} (backend.disable_gpt=true takes a whole disk as one blob)") from None
    blobs: dict[str, Partition] = {}
    for partition in partitions:
        name = partition.name if partition.type == BASIC_DATA else f"{partition.name}{partition.guid.hex}"
        if not name:
            raise BackendError(f"{path}: GPT partition {partition.number} has no name, which would be a blob id")
        if name in blobs:
            raise BackendError(f"{path}: GPT partitions {blobs[name].number} and {partition.number} are both {name}")
        blobs[name] = partition
    return blobs


def _read_partitions(disk: Extent, path: str) -> list[Partition]:
    """By the table at the disk's begin, else by that at its end. Raises InvalidImage for what is wrong with the first."""
    sectors = size_of(disk, path) // SECTOR_SIZE
    if sectors < 2:
        raise InvalidImage(f"{sectors} sectors have no room for a GPT")
    at_end = sectors - 1
    try:
        header = _read_header(disk, 1, sectors, path)
        at_end = min(header.alternate, at_end)  # a disk may have grown since
        return _read_table(disk, header, path)
    except InvalidImage as e:
        wrong = e
    try:
        partitions = _read_table(disk, _read_header(disk, at_end, sectors, path), path)
    except InvalidImage:
        raise wrong from None
    log.warning("%s: %s; the table at the disk's end is taken", path, wrong)
    return partitions


def _read_header(disk: Extent, lba: int, sectors: int, path: str) -> Header:
    return decode_header(pread_whole(disk.fd, lba * SECTOR_SIZE, SECTOR_SIZE, path), lba, sectors)


def _read_table(disk: Extent, header: Header, path: str) -> list[Partition]:
    return decode_table(pread_whole(disk.fd, header.table_offset, header.table_size, path), header)

"""Removes what is kept of a blob; whoever calls has the directory alone (`directory_lock.py`)."""

import fcntl
import logging
import os
from contextlib import suppress

from nydus_app.linux.lease import is_open_elsewhere
from nydus_app.storage.cache.directory import DATA, MAP, OLD_MAP, RAW, KeptBlob, list_directory

log = logging.getLogger("nydus.storage")


def remove_blob(work_dir: str, blob_id: str) -> int:
    """All its files, unless somebody uses the data; the bytes that were freed."""
    return sum(remove_files(work_dir, blob) for blob in list_directory(work_dir).blobs if blob.id == blob_id)


def remove_files(work_dir: str, blob: KeptBlob) -> int:
    """The map first, and that durably: bits without data would be believed by others."""
    if any(is_in_use(blob.files[suffix].path) for suffix in (DATA, RAW) if suffix in blob.files):
        return 0
    try:
        for suffix in (MAP, OLD_MAP):
            if suffix in blob.files:
                os.unlink(blob.files[suffix].path)
        _sync_directory(work_dir)
        for suffix, file in blob.files.items():
            if suffix not in (MAP, OLD_MAP):
                with suppress(FileNotFoundError):
                    os.unlink(file.path)
    except OSError as e:
        log.warning("cannot remove blob %s from the cache: %s", blob.id, e.strerror)
        return 0
    return blob.allocated


def is_in_use(path: str) -> bool:
    """Somebody has it open (also a mount of the kernel's), or has locked it as a device."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return is_open_elsewhere(fd)
    except OSError:
        return True
    finally:
        os.close(fd)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""RAFS v5 images laid out as EROFS, kept beside the cache files as `<fingerprint of the bootstrap>.erofs`.

Laying out takes time with the number of files, so it is done once. A kept file is believed if it is whole and
was made from the same bytes, for the same owner; it may be deleted at any time, also while it is mounted.
"""

import logging
import mmap
import os
import tempfile
from contextlib import ExitStack, suppress
from typing import BinaryIO, NamedTuple

from nydus_app.errors import CacheError, InvalidImage
from nydus_app.formats.codec.digest import Fingerprint
from nydus_app.formats.erofs.addresses import AddressTable
from nydus_app.formats.erofs.image import ErofsImage, Owner
from nydus_app.formats.erofs.kept import (
    HEADER_SIZE,
    Kept,
    Origin,
    check_content,
    decode_kept,
    encode_header,
    encode_tables,
)
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.storage.whole_file import temporary_name

log = logging.getLogger("nydus.storage")


class Layout(NamedTuple):
    """`path` can be mounted while `file` is open, which whoever gets it closes."""

    path: str
    file: BinaryIO
    tables: list[AddressTable]


def open_layout(bootstrap: BootstrapV5, work_dir: str, *, owner: Owner, verify: bool) -> Layout:
    """The kept layout of a bootstrap, laid out now where there is none. Raises InvalidImage, CacheError."""
    view, _ = bootstrap.raw()
    fingerprint = Fingerprint()
    fingerprint.update(view)
    _give_back(view)
    origin = Origin(fingerprint.digest(), owner, verify)
    path = os.path.join(work_dir, f"{origin.bootstrap.hex()}.erofs")
    return _open_kept(path, origin) or _lay_out(path, bootstrap, origin)


def _map(file: BinaryIO) -> memoryview:
    return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


def _give_back(view: memoryview) -> None:
    """Pages that were read once, and for a while no more, count as memory of this process."""
    if isinstance(view.obj, mmap.mmap):
        view.obj.madvise(mmap.MADV_DONTNEED)


def _open_kept(path: str, wanted: Origin) -> Layout | None:
    try:
        file = open(path, "rb")
    except FileNotFoundError:
        return None
    except OSError as e:
        log.warning("%s is laid out anew: %s", path, e.strerror)
        return None
    try:
        view = _map(file)
        kept = decode_kept(view)
        check_content(view)
        _give_back(view)
        if kept.origin.bootstrap != wanted.bootstrap:
            raise InvalidImage("it was made from another bootstrap")
        if kept.origin.serves(wanted):
            with suppress(OSError):
                os.utime(path)  # when it was used last, for who deletes what nobody uses
            return Layout(path, file, kept.tables)
    except (InvalidImage, OSError, ValueError) as e:  # ValueError: an empty file cannot be mapped
        log.warning("%s is laid out anew: %s", path, e)
    file.close()
    return None


def _lay_out(path: str, bootstrap: BootstrapV5, origin: Origin) -> Layout:
    image = ErofsImage(bootstrap, owner=origin.owner, verify=origin.is_verified)
    try:
        return _keep(path, image, origin)
    except OSError as e:
        log.warning("%s is not kept: %s", path, e.strerror)
    return _lay_out_for_now(image, origin)


def _keep(path: str, image: ErofsImage, origin: Origin) -> Layout:
    """The file gets a name when it is complete: who is killed before leaves nothing."""
    with ExitStack() as undo:
        file = undo.enter_context(open(os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o600), "w+b"))
        kept = _write(file, image, origin)
        _name(file, path)
        undo.pop_all()
    return Layout(path, file, kept.tables)


def _name(file: BinaryIO, path: str) -> None:
    """Give a file without a name one, in place of what has it now."""
    temporary = temporary_name(path)
    # With descriptors of directories os.link is linkat(2), which alone follows the link in /proc.
    proc = os.open("/proc/self/fd", os.O_PATH)
    try:
        os.link(str(file.fileno()), temporary, src_dir_fd=proc, follow_symlinks=True)
    finally:
        os.close(proc)
    try:
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def _lay_out_for_now(image: ErofsImage, origin: Origin) -> Layout:
    """In a file without a name, gone with the daemon."""
    try:
        with ExitStack() as undo:
            file = undo.enter_context(tempfile.TemporaryFile())
            kept = _write(file, image, origin)
            undo.pop_all()
    except OSError as e:
        raise CacheError(f"there is no room for its layout: {e.strerror}") from None
    return Layout(f"/proc/{os.getpid()}/fd/{file.fileno()}", file, kept.tables)


def _write(file: BinaryIO, image: ErofsImage, origin: Origin) -> Kept:
    content = Fingerprint()
    file.seek(HEADER_SIZE)
    for piece in image.pieces():
        content.update(piece)
        file.write(piece)
    for part in encode_tables(image.tables):
        content.update(part)
        file.write(part)
    file.seek(0)
    file.write(encode_header(origin, image.size, len(image.tables), content))
    file.flush()
    return decode_kept(_map(file))

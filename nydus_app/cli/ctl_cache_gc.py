"""Removes what nobody needs, one line for each thing:

  blobs and layouts that no daemon has used for --unused-for days
  with --max-size: the blobs that were used the longest time ago, until no more than so much is left
  temporary files of processes that are gone, and chunk maps that nothing can be read by

What somebody has open or locked stays, also where the kernel mounts it.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import suppress

from nydus_app.cli.columns import format_age, format_bytes
from nydus_app.storage.cache.directory import File, KeptBlob, Listing, list_directory, why_hollow
from nydus_app.storage.cache.directory_lock import directory_alone
from nydus_app.storage.cache.removal import is_in_use, remove_files
from nydus_app.storage.whole_file import TEMPORARY

UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def size_of(text: str) -> int:
    """Bytes, or with K, M, G or T behind them."""
    number = text.lower().removesuffix("ib")
    unit = number[-1:] if number[-1:] in UNITS else ""
    return int(float(number.removesuffix(unit)) * UNITS[unit])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--unused-for", type=float, default=30, metavar="DAYS", help="30 days unless said otherwise")
    parser.add_argument("--max-size", type=size_of, metavar="SIZE", help="bytes, or such as 500M, 20G")
    parser.add_argument("--dry-run", action="store_true", help="say what would go, and remove nothing")


def run(arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        freed = _collect(arguments, is_dry=True)
    else:
        with directory_alone(arguments.directory):
            freed = _collect(arguments, is_dry=False)
    print(f"{format_bytes(freed)} {'would be ' if arguments.dry_run else ''}freed")
    return 0


def _collect(arguments: argparse.Namespace, *, is_dry: bool) -> int:
    listing = list_directory(arguments.directory)
    freed = 0
    for blob, why in _unwanted(listing, arguments.unused_for * 86400, arguments.max_size):
        gone = blob.allocated if is_dry else remove_files(arguments.directory, blob)
        stays = "" if gone or not blob.allocated else " (in use: it stays)"
        print(f"{blob.id}: {why}, {format_bytes(blob.allocated)}{stays}")
        freed += gone
    for file, why in _leftover(listing, arguments.unused_for * 86400):
        if is_dry or _remove(file):
            print(f"{os.path.basename(file.path)}: {why}, {format_bytes(file.allocated)}")
            freed += file.allocated
    return freed


def _unwanted(listing: Listing, age_s: float, max_size: int | None) -> Iterator[tuple[KeptBlob, str]]:
    now = time.time()
    left = sum(blob.allocated for blob in listing.blobs)
    for blob in sorted(listing.blobs, key=lambda b: b.used):
        unused = now - blob.used
        if (why := why_hollow(blob)) is None:
            if unused >= age_s:
                why = f"unused for {format_age(unused)}"
            elif max_size is not None and left > max_size:
                why = f"too much is kept, and it was used {format_age(unused)} ago"
            else:
                continue
        left -= blob.allocated
        yield blob, why


def _leftover(listing: Listing, age_s: float) -> Iterator[tuple[File, str]]:
    now = time.time()
    for file in listing.layouts:
        if now - file.mtime >= age_s:
            yield file, f"layout unused for {format_age(now - file.mtime)}"
    for file in listing.temporaries:
        found = TEMPORARY.fullmatch(os.path.basename(file.path))
        if found and not os.path.exists(f"/proc/{found[1]}"):
            yield file, "temporary file of a process that is gone"


def _remove(file: File) -> bool:
    if is_in_use(file.path):
        return False
    with suppress(OSError):
        os.unlink(file.path)
        return True
    return False

"""One line a blob; changes nothing.

  blob       its id (the first 16 digits; --long: all)
  kind       how its chunks are kept: plain, raw (compressed) or encrypted
  chunks     that are there, of those that the blob has, and how much that is
  on disk    bytes of all its files
  asked for  ranges that readers asked for, of all, and when last: known of bounded caches
  written    when something was written to it
"""

import argparse
import time

from nydus_app.cli.columns import format_age, format_bytes, format_columns
from nydus_app.errors import InvalidImage
from nydus_app.storage.cache.ages import read_ages
from nydus_app.storage.cache.directory import AGES, DATA, ENCRYPTED, RAW, File, KeptBlob, list_directory, read_readiness
from nydus_app.storage.cache.directory_lock import holders_of

HEAD = ["blob", "kind", "chunks", "", "on disk", "asked for", "last", "written"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--long", action="store_true", help="whole blob ids")


def run(arguments: argparse.Namespace) -> int:
    listing = list_directory(arguments.directory)
    now = time.time()
    if listing.blobs:
        lines = [_line(blob, now, arguments.long) for blob in listing.blobs]
        print(format_columns(HEAD, lines, 2))
    others = [listing.layouts, listing.temporaries, listing.others]
    total = sum(blob.allocated for blob in listing.blobs) + sum(file.allocated for files in others for file in files)
    print(f"{len(listing.blobs)} blobs, {format_bytes(total)} on disk")
    _print_files("layouts of RAFS v5 images", listing.layouts)
    _print_files("temporary files", listing.temporaries)
    _print_files("files that are no cache's", listing.others)
    if holders := holders_of(arguments.directory):
        print(f"in use by {holders}")
    return 0


def _print_files(what: str, files: list[File]) -> None:
    if files:
        print(f"{len(files)} {what}, {format_bytes(sum(file.allocated for file in files))}")


def _line(blob: KeptBlob, now: float, is_long: bool) -> list[str]:
    name = blob.id if is_long else blob.id[:16]
    return [
        name, _kind(blob), *_chunks(blob), format_bytes(blob.allocated), *_asked(blob, now), _ago(now - blob.used)
    ]  # fmt: skip


def _kind(blob: KeptBlob) -> str:
    kinds = [("raw", RAW), ("encrypted" if ENCRYPTED in blob.files else "plain", DATA)]
    return "+".join(kind for kind, suffix in kinds if suffix in blob.files) or "-"


def _chunks(blob: KeptBlob) -> tuple[str, str]:
    try:
        ready, total = read_readiness(blob)
    except InvalidImage as e:
        return f"damaged: {e}", "-"
    return f"{ready}/{total}", f"{ready / total:.0%}" if total else "-"


def _asked(blob: KeptBlob, now: float) -> tuple[str, str]:
    known = read_ages(blob.files[AGES].path) if AGES in blob.files else None
    if known is None or not any(known[1]):
        return "-", "-"
    ages = known[1]
    return f"{sum(map(bool, ages))}/{len(ages)}", _ago(now - max(ages) / 1e9)


def _ago(seconds: float) -> str:
    return f"{format_age(seconds)} ago"

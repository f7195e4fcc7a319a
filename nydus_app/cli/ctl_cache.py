"""What a cache directory holds, and what is wrong with it. DIR is the cache.work_dir of the daemons."""

import argparse
import time

from nydus_app.cli.columns import format_age, format_bytes, format_columns
from nydus_app.errors import InvalidImage
from nydus_app.storage.cache.directory import KeptBlob, list_directory, read_readiness


def add_arguments(parser: argparse.ArgumentParser) -> None:
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    status = steps.add_parser("status", help="what is there, blob by blob; changes nothing")
    status.add_argument("directory", metavar="DIR")
    status.set_defaults(run=run_status)


def run(arguments: argparse.Namespace) -> int:
    status: int = arguments.run(arguments)
    return status


def run_status(arguments: argparse.Namespace) -> int:
    listing = list_directory(arguments.directory)
    now = time.time()
    head = ["blob", "chunks", "ready", "on disk", "written"]
    print(format_columns(head, [_line(blob, now) for blob in listing.blobs], 1))
    return 0


def _line(blob: KeptBlob, now: float) -> list[str]:
    try:
        ready, total = read_readiness(blob)
        chunks = [f"{ready}/{total}", f"{ready / total:.0%}" if total else "-"]
    except InvalidImage as e:
        chunks = [str(e), "-"]
    return [blob.id[:16], *chunks, format_bytes(blob.allocated), f"{format_age(now - blob.used)} ago"]

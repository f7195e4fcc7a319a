"""When the ranges of a blob were last read, kept beside its data as `<id>.blob.data.ages`, so that a restart knows.

    16 bytes   magic "NYDAGES1", shift (chunks of a range are a power of two), number of ranges (little-endian u32)
    8 each     nanoseconds of the epoch, 0: never

Nothing depends on it but what goes first; a file that is not whole, or of another shift, counts as none.
"""

import os
from array import array
from contextlib import suppress
from struct import Struct

from nydus_app.storage.whole_file import replacing

MAGIC = b"NYDAGES1"
HEADER = Struct("<8s2I")


def ages_path(work_dir: str, blob_id: str) -> str:
    return os.path.join(work_dir, f"{blob_id}.blob.data.ages")


def read_ages(path: str) -> tuple[int, "array[int]"] | None:
    """Shift and ages."""
    try:
        with open(path, "rb") as f:
            content = f.read()
    except OSError:
        return None
    if len(content) < HEADER.size:
        return None
    magic, shift, count = HEADER.unpack_from(content)
    if magic != MAGIC or len(content) != HEADER.size + 8 * count:
        return None
    return shift, array("Q", content[HEADER.size :])


def write_ages(path: str, shift: int, ages: "array[int]") -> None:
    """Whole or not at all; where there is no room for it a restart knows less."""
    with suppress(OSError), replacing(path) as f:
        f.write(HEADER.pack(MAGIC, shift, len(ages)) + ages.tobytes())

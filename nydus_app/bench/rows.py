"""What is measured: one table of rows, their units, and which way is better."""

from typing import NamedTuple

from nydus_app.config.bench_tree import Row


class Kind(NamedTuple):
    """`rate` rows are better when higher, the others when lower. `part` says which mount serves the row."""

    title: str
    unit: str
    part: str
    is_rate: bool = True
    digits: int = 0
    needs: str = ""  # "big": a file that is not empty; "small": small files; "check": bench.check


ROWS: dict[Row, Kind] = {
    Row.start: Kind("start to the first stat", "s", "begin", is_rate=False, digits=3),
    Row.health: Kind("start to the end of a command in the image", "s", "health", is_rate=False, digits=3, needs="check"),
    Row.first_mib: Kind("first MiB of the big file, cold", "ms", "begin", is_rate=False, digits=1, needs="big"),
    Row.cold_seq: Kind("cold sequential", "MiB/s", "cold", needs="big"),
    Row.cold_rand: Kind("cold random, 4 KiB in every MiB", "reads/s", "begin", needs="big"),
    Row.cold_small: Kind("cold small files", "files/s", "cold", needs="small"),
    Row.walk: Kind("walk with lstat, cold", "entries/s", "begin"),
    Row.full_read: Kind("walk and read everything, cold", "MiB/s", "full"),
    Row.disk_seq: Kind("sequential from the cache directory", "MiB/s", "warm", needs="big"),
    Row.disk_small: Kind("small files from the cache directory", "files/s", "warm", needs="small"),
    Row.warm_seq: Kind("warm sequential", "MiB/s", "warm", needs="big"),
    Row.warm_rand: Kind("warm random, 4 KiB", "reads/s", "warm", needs="big"),
    Row.stat: Kind("warm lstat", "1/s", "warm"),
    Row.readdir: Kind("warm directory entries", "1/s", "warm"),
    Row.warm_small: Kind("warm small files", "files/s", "warm", needs="small"),
    Row.memory: Kind("memory (PSS) after all that", "MiB", "warm", is_rate=False, digits=1),
}
"""Parts, each with mounts of its own:

    health  an empty cache: a command in the image
    begin   an empty cache: start, the first MiB, then places all over the big file, then the tree
    cold    an empty cache: the big file, then the small ones
    full    an empty cache: everything
    warm    a new mount over what `cold` left in the cache directory
"""


def ratio(row: Row, ours: float, theirs: float) -> float | None:
    """How many times better ours is; None where one of them is nothing."""
    if not ours or not theirs:
        return None
    return ours / theirs if ROWS[row].is_rate else theirs / ours

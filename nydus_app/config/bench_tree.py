"""What `nydus-bench` adds to the tree: the `bench` group, its options, types and defaults.

Sizes are bytes, times are seconds. The YAML files of `conf/bench/` choose rows; what a row is stands in
`nydus_app/bench/rows.py`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Optional

from nydus_app.config.tree import Tree


class Row(Enum):
    """What can be measured, in the order it is measured and shown."""

    start = "start"
    health = "health"
    first_mib = "first_mib"
    cold_seq = "cold_seq"
    cold_rand = "cold_rand"
    cold_small = "cold_small"
    walk = "walk"
    full_read = "full_read"
    disk_seq = "disk_seq"
    disk_small = "disk_small"
    warm_seq = "warm_seq"
    warm_rand = "warm_rand"
    stat = "stat"
    readdir = "readdir"
    warm_small = "warm_small"
    memory = "memory"


class Network(Enum):
    """What lies between a backend and the origin that nydus-bench serves `bench.blobs` by."""

    near = "near"
    far = "far"  # 20 ms before each answer
    narrow = "narrow"  # 5 ms, and 200 Mbit/s for all answers together


class Format(Enum):
    csv = "csv"
    json = "json"
    png = "png"
    svg = "svg"


class Program(Enum):
    """Which command line mounts ours. `nydus_run` composes by Hydra, which its start row then shows."""

    nydusd = "nydusd"
    nydus_run = "nydus_run"


@dataclass(kw_only=True)
class Bench:
    """bench=ROW or bench=all."""

    rows: list[Row] = field(default_factory=list)
    rounds: int = 5  # 1..1000
    round: Optional[int] = None  # a sweep's axis; nydus-bench sets it
    seconds: float = 1.0  # length of a warm row
    timeout: int = 600  # the longest that a single figure may take
    check: Optional[str] = None  # the command of the health row, run in the image (chroot)
    blobs: Optional[str] = None  # directory of blobs to serve to the backend, whichever it is
    network: Network = Network.near
    port: int = 5170  # of that origin, on 127.0.0.1
    big_file: Optional[str] = None  # path in the image; null: its largest regular file
    small_limit: int = 65536  # small files are not larger
    program: Program = Program.nydusd
    peer: Optional[str] = None  # a nydusd, measured beside ours
    tree: Optional[str] = None  # the image's content as a directory
    erofs: Optional[str] = None  # the image's content as a plain EROFS image
    work_dir: str = "/var/tmp"  # mountpoints and cache directories are made in it, and removed
    output: Optional[str] = None  # null: bench-results/<time> in the current directory
    formats: list[Format] = field(default_factory=lambda: list(Format))
    report: Optional[str] = None  # Markdown file, written from this and earlier results beside it


@dataclass(kw_only=True)
class BenchTree(Tree):
    """The tree of nydus-bench, which chooses its mountpoints itself."""

    mountpoint: Optional[str] = None
    bench: Any = field(default_factory=Bench)


BENCH_OPTIONS = [*(row.name for row in Row), "all"]

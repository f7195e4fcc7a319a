"""One round of one contender: which mounts, in which order, and what is asked of them.

A row's part (`rows.py`) says which mount it belongs to. Where a part begins the page cache is dropped,
if we may; mounts with a cache get an empty directory, only `warm` finds what `cold` left.
"""

import os
import select
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from nydus_app.bench.contenders import Contender, Mounted, Place
from nydus_app.bench.memory import tree_pss_bytes
from nydus_app.bench.probe import Figure, MeasureError, Probe, Survey
from nydus_app.bench.rows import ROWS
from nydus_app.bench.signals import signals_held
from nydus_app.config.bench_tree import Bench, Row
from nydus_app.linux.mount import mounts_at

MIB = 1 << 20
START_S = 60.0


def drop_page_cache() -> bool:
    """Data, dentries and inodes (`proc_sys_vm(5)`, drop_caches); False where we may not."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as f:
            f.write("3")
    except OSError:
        return False
    return True


@contextmanager
def place_below(parent: str) -> Iterator[Place]:
    """Fresh directories for a mount; removed, unless something is still mounted there."""
    base = None
    try:
        with signals_held():
            base = tempfile.mkdtemp(prefix="nydus-bench-", dir=parent)
            place = Place(*(os.path.join(base, name) for name in ("mnt", "cache", "run")))
            for path in place:
                os.mkdir(path)
        yield place
    finally:
        with signals_held():
            if base is not None and not mounts_at(os.path.join(base, "mnt")):
                shutil.rmtree(base, ignore_errors=True)


@dataclass
class Round:
    """Measures one contender once. `asked` is called before each row with its name."""

    contender: Contender
    bench: Bench
    probe: Probe
    survey: Survey
    seed: int
    asked: Callable[[str], None] = lambda row: None
    figures: dict[Row, float] = field(default_factory=dict)
    serves: str = ""  # type of the file system that was at the mountpoint

    def run(self) -> dict[Row, float]:
        """Figures in the units of the table. Raises MeasureError or MountError with the contender's name."""
        self.figures.clear()
        if self._wants("health"):
            with place_below(self.bench.work_dir) as place, self._mounted(place) as mounted:
                self._health(mounted)
        if self._wants("begin"):
            with place_below(self.bench.work_dir) as place, self._mounted(place) as mounted:
                self._begin(mounted)
        if self._wants("full"):
            with place_below(self.bench.work_dir) as place, self._mounted(place) as mounted:
                self._full(mounted)
        if self._wants("cold", "warm"):
            with place_below(self.bench.work_dir) as place:
                if self._wants("cold") or self._rows(Row.disk_seq, Row.disk_small):
                    with self._mounted(place) as mounted:
                        self._cold(mounted)
                if self._wants("warm"):
                    with self._mounted(place) as mounted:
                        self._warm(mounted)
        return self.figures

    def _wanted(self) -> Iterator[Row]:
        for row in self.bench.rows:
            kind = ROWS[row]
            lacks = {
                "big": not self.survey.big_bytes,
                "small": not self.survey.small_files,
                "check": self.bench.check is None,
                "": False,
            }
            empty = lacks[kind.needs]
            alone = (row is Row.start and not self.contender.has_start) or (
                row is Row.memory and (not self.contender.has_start or not self.contender.has_cache)
            )
            if not empty and not alone:
                yield row

    def _wants(self, *parts: str) -> bool:
        return any(ROWS[row].part in parts for row in self._wanted())

    def _rows(self, *rows: Row) -> list[Row]:
        wanted = set(self._wanted())
        return [row for row in rows if row in wanted]

    @contextmanager
    def _mounted(self, place: Place) -> Iterator[Mounted]:
        """Waits until the big file (else the root) answers; that is `start`, if it is asked for."""
        drop_page_cache()
        with self.contender.mounted(place) as mounted:
            path = os.path.join(mounted.root, self.survey.big_file)
            if mounted.process is not None or self.contender.has_start:
                answered = self.probe.figure("await", path, START_S, watched=mounted.process).seconds
                if self._rows(Row.start) and Row.start not in self.figures:
                    self.asked("start")
                    self.figures[Row.start] = answered - mounted.since
            there = mounts_at(place.mnt)
            self.serves = there[-1].fs_type if there else ""
            yield mounted

    def _take(self, rows: Sequence[Row], row: Row, what: str, path: str, *arguments: float) -> None:
        if row in rows:
            self.asked(row.name)
            self.figures[row] = _in_units(row, self.probe.figure(what, path, *arguments))

    def _begin(self, mounted: Mounted) -> None:
        rows, big = self._rows(Row.first_mib, Row.cold_rand, Row.walk), self._big(mounted)
        self._take(rows, Row.first_mib, "head", big, MIB)
        self._take(rows, Row.cold_rand, "scatter", big, self.seed)
        self._take(rows, Row.walk, "walk", mounted.root)

    def _health(self, mounted: Mounted) -> None:
        """The command's own time where there is no start."""
        if not self._rows(Row.health) or self.bench.check is None:
            return
        self.asked("health")
        words = ["chroot", mounted.root, *shlex.split(self.bench.check)]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=self.bench.timeout
            )
        except subprocess.TimeoutExpired:
            raise MeasureError(f"bench.check: not ended within {self.bench.timeout} s") from None
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-200:]
            raise MeasureError(f"bench.check ended with {done.returncode}: {said or 'it said nothing'}")
        self.figures[Row.health] = time.monotonic() - mounted.since

    def _full(self, mounted: Mounted) -> None:
        self._take([Row.full_read], Row.full_read, "full", mounted.root)

    def _cold(self, mounted: Mounted) -> None:
        """Also fills the cache directory with what the disk rows will read."""
        rows, big, limit = self._rows(*Row), self._big(mounted), self.bench.small_limit
        self._take(rows, Row.cold_seq, "seq", big, 0.0)
        if Row.disk_seq in rows and Row.cold_seq not in rows:
            self.probe.figure("seq", big, 0.0)
        self._take(rows, Row.cold_small, "small", mounted.root, limit, 0.0)
        if Row.disk_small in rows and Row.cold_small not in rows:
            self.probe.figure("small", mounted.root, limit, 0.0)

    def _warm(self, mounted: Mounted) -> None:
        rows, big, limit = self._rows(*Row), self._big(mounted), self.bench.small_limit
        seconds = float(self.bench.seconds)
        self._take(rows, Row.disk_seq, "seq", big, 0.0)
        self._take(rows, Row.disk_small, "small", mounted.root, limit, 0.0)
        if self.survey.big_bytes and (Row.warm_seq in rows or Row.warm_rand in rows or Row.memory in rows):
            self.probe.figure("seq", big, 0.0)
        self._take(rows, Row.warm_seq, "seq", big, seconds)
        self._take(rows, Row.warm_rand, "random", big, seconds, self.seed)
        if Row.stat in rows:
            self.probe.figure("stat", mounted.root, 0.0)
        self._take(rows, Row.stat, "stat", mounted.root, seconds)
        if Row.readdir in rows:
            self.probe.figure("list", mounted.root, 0.0)
        self._take(rows, Row.readdir, "list", mounted.root, seconds)
        if Row.warm_small in rows or Row.memory in rows:
            self.probe.figure("small", mounted.root, limit, 0.0)
        self._take(rows, Row.warm_small, "small", mounted.root, limit, seconds)
        if Row.memory in rows and mounted.process is not None:
            self.asked("memory")
            self.figures[Row.memory] = tree_pss_bytes(mounted.process.pid) / MIB

    def _big(self, mounted: Mounted) -> str:
        return os.path.join(mounted.root, self.survey.big_file)


def _in_units(row: Row, figure: Figure) -> float:
    seconds = max(figure.seconds, 1e-9)
    match ROWS[row].unit:
        case "ms":
            return seconds * 1e3
        case "MiB/s":
            return figure.bytes / MIB / seconds
        case _:
            return figure.count / seconds


def survey_of(contender: Contender, bench: Bench, probe: Probe) -> Survey:
    """What the contender shows, by a mount of its own. Raises MeasureError, MountError."""
    with place_below(bench.work_dir) as place, contender.mounted(place) as mounted:
        if mounted.process is not None:
            _wait_until_mounted(place.mnt, mounted.process)
        found = probe.survey(mounted.root, bench.small_limit)
        if bench.big_file is None:
            return found
        big = bench.big_file.lstrip("/")
        try:
            size = probe.figure("seq", os.path.join(mounted.root, big), 0.0).bytes
        except MeasureError as e:
            raise MeasureError(f"bench.big_file: {e}") from None
        return found._replace(big_file=big, big_bytes=size)


def _wait_until_mounted(mountpoint: str, process: subprocess.Popen[bytes]) -> None:
    """The mount table changes (poll(2) on mountinfo), or the process ends, or it takes too long."""
    end = time.monotonic() + START_S
    with open("/proc/self/mountinfo", "rb") as table:
        poll = select.poll()
        poll.register(table, select.POLLERR | select.POLLPRI)
        while not mounts_at(mountpoint):
            if process.poll() is not None or time.monotonic() > end:
                raise MeasureError(f"not mounted within {START_S:g} s")
            poll.poll(50)
            table.seek(0)
            table.read()

"""Who is measured: ours and a peer as child processes, the native directory, a plain EROFS image.

    with contender.mounted(place) as mounted: …      mounted.root holds the files while the block runs

Whatever is mounted is gone when the block ends, also by an exception or a signal; nothing here reads
inside of a mount (`probe.py` says why).
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from nydus_app.bench.probe import MeasureError
from nydus_app.bench.signals import signals_held
from nydus_app.config.bench_tree import Program
from nydus_app.config.classic_file import classic_text, classic_words
from nydus_app.config.classic_flags import parse, to_overrides
from nydus_app.config.difference import difference
from nydus_app.config.overrides import Override, compose, format_words, take_secrets_out
from nydus_app.config.tree import Blobcache, Tree
from nydus_app.daemon.attachment import private_dir
from nydus_app.errors import MountError
from nydus_app.linux.mount import MNT_DETACH, MS_RDONLY, mount, mounts_at, unmount

STOP_S = 15.0
ENDING_S = 0.5


class Place(NamedTuple):
    """Directories of one mount: `mnt` is empty, `cache` may be kept for the next mount."""

    mnt: str
    cache: str
    run: str


class Mounted(NamedTuple):
    """`process` is None where the kernel serves alone; `since` is the monotonic time of the spawn."""

    root: str
    process: subprocess.Popen[bytes] | None
    since: float


class Contender(Protocol):
    name: str
    has_start: bool
    has_cache: bool

    def mounted(self, place: Place) -> AbstractContextManager[Mounted]: ...


def clear_mountpoint(mountpoint: str) -> None:
    """Unmount whatever is there, and the devices of an EROFS that was there."""
    for path in (mountpoint, private_dir(mountpoint)):
        while mounts_at(path):
            unmount(path, MNT_DETACH)


@dataclass(frozen=True)
class Daemon:
    """A command line that mounts at `place.mnt`; `prepare` gives it and its additional environment."""

    name: str
    tree: Tree
    validate: bool
    program: str | None = None  # a peer's path, None: ours
    by: Program = Program.nydusd
    has_start = True
    has_cache = True

    def command(self, place: Place) -> tuple[list[str], dict[str, str]]:
        """Words and environment; writes the configuration, which may hold secrets, where only we can read."""
        tree = self._tree_at(place)
        if self.program is None and self.by is Program.nydus_run:
            words, environment = _words_and_secrets(difference(compose([]), tree))
            return [sys.executable, "-m", "nydus_app.cli.run", *words], environment
        path = os.path.join(place.run, "config.json")
        with open(os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "w", encoding="utf-8") as f:
            f.write(classic_text(tree, validate=self.validate))
        flags = classic_words(tree, path)
        if self.program is not None:
            return [self.program, *flags], {}
        words, environment = _words_and_secrets(difference(compose(to_overrides(parse(flags))), tree))
        return [sys.executable, "-m", "nydus_app.cli.nydusd", *flags], {
            **environment,
            "NYDUS_OVERRIDES": " ".join(_shell(w) for w in words),
        }

    def _tree_at(self, place: Place) -> Tree:
        cache = self.tree.cache
        if isinstance(cache, Blobcache):
            cache = replace(cache, work_dir=place.cache)
        return replace(self.tree, mountpoint=place.mnt, cache=cache)

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """Spawned, not yet serving: whoever measures waits for it. Raises MeasureError with its last words."""
        command, environment = self.command(place)
        log = os.path.join(place.run, "log")
        process = None
        try:
            with signals_held(), open(log, "wb") as output:
                since = time.monotonic()
                process = subprocess.Popen(
                    command, env={**os.environ, "NYDUS_OVERRIDES": "", **environment}, start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                )  # fmt: skip
            yield Mounted(place.mnt, process, since)
        except MeasureError as e:
            if process is not None and (status := _ended(process)) is not None:
                raise MeasureError(f"ended with {status}: {_last_words(log)}") from None
            raise e
        finally:
            with signals_held():
                if process is not None:
                    _stop(process)
                clear_mountpoint(place.mnt)


def _words_and_secrets(overrides: Sequence[Override]) -> tuple[list[str], dict[str, str]]:
    return format_words(overrides), take_secrets_out(overrides)[1]


def _shell(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """A mount breaks a moment before its process is gone."""
    try:
        return process.wait(ENDING_S)
    except subprocess.TimeoutExpired:
        return None


def _last_words(log: str) -> str:
    with open(log, "rb") as f:
        lines = f.read().decode(errors="replace").strip().splitlines()
    return " ".join(lines[-1].split()) if lines else "it said nothing"


@dataclass(frozen=True)
class Native:
    """The files as they lie in a directory: no mount, no start, no cache."""

    tree: str
    name: str = "native"
    has_start = False
    has_cache = False

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        yield Mounted(self.tree, None, time.monotonic())


@dataclass(frozen=True)
class PlainErofs:
    """An EROFS image without any daemon, mounted by the kernel."""

    image: str
    name: str = "plain EROFS"
    has_start = True
    has_cache = False

    @contextmanager
    def mounted(self, place: Place) -> Iterator[Mounted]:
        """Raises MountError."""
        since = time.monotonic()
        try:
            try:
                mount(self.image, place.mnt, "erofs", MS_RDONLY, "")
            except OSError as e:
                advice = "mounting a file needs root and Linux 6.12"
                raise MountError(f"bench.erofs {self.image}: {e.strerror} ({advice})") from None
            yield Mounted(place.mnt, None, since)
        finally:
            with signals_held():
                clear_mountpoint(place.mnt)

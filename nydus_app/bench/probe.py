"""The measuring stick: `probe.c`, compiled on first use, and one call of it for one figure.

Only the probe touches the mounts. A daemon that hangs or dies in the middle stops it, not us: whatever
it waits for, it can be killed, and so a figure has a deadline.
"""

import os
import select
import shutil
import signal
import subprocess
from importlib import resources
from typing import NamedTuple

from nydus_app.errors import ConfigError, NydusError

SOURCE = "probe.c"
GRACE_S = 10


class MeasureError(NydusError):
    """A figure could not be had; the row and the contender are named by whoever knows them."""


class Figure(NamedTuple):
    """What was done in how many seconds."""

    count: int
    bytes: int
    seconds: float


class Survey(NamedTuple):
    """What lies in a tree; `small` are the regular files up to a limit, `big_file` the largest (path inside)."""

    entries: int
    directories: int
    files: int
    bytes: int
    small_files: int
    small_bytes: int
    big_bytes: int
    big_file: str


def find_compiler() -> str:
    """Raises ConfigError."""
    name = os.environ.get("CC", "cc")
    found = shutil.which(name)
    if found is None:
        raise ConfigError(f"nydus-bench compiles its measuring stick and needs a C compiler: no `{name}` (Debian: gcc)")
    return found


class Probe:
    def __init__(self, program: str, timeout_s: float) -> None:
        self._program = program
        self._timeout_s = timeout_s

    @classmethod
    def compiled(cls, folder: str, timeout_s: float) -> "Probe":
        """Compile into `folder`. Raises ConfigError with the compiler's last line."""
        program = os.path.join(folder, "probe")
        with resources.as_file(resources.files("nydus_app.bench") / SOURCE) as source:
            done = subprocess.run(
                [find_compiler(), "-O2", "-o", program, str(source)], capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()
            raise ConfigError(f"the measuring stick does not compile: {said[-1] if said else done.returncode}")
        return cls(program, timeout_s)

    def figure(self, what: str, path: str, *arguments: float, watched: subprocess.Popen[bytes] | None = None) -> Figure:
        """Raises MeasureError; `watched` is a process without which the figure will not come."""
        count, total, seconds = self._said(what, path, *arguments, watched=watched).split()
        return Figure(int(count), int(total), float(seconds))

    def survey(self, root: str, small_limit: int) -> Survey:
        numbers, _, big = self._said("survey", root, small_limit).partition("\n")
        return Survey(*map(int, numbers.split()), big.lstrip("/"))

    def _said(self, what: str, path: str, *arguments: float, watched: subprocess.Popen[bytes] | None = None) -> str:
        process = subprocess.Popen(
            [self._program, what, path, *(f"{a:g}" if isinstance(a, float) else str(a) for a in arguments)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            encoding="utf-8", errors="surrogateescape",
        )  # fmt: skip
        try:
            if watched is not None:
                _wait_for_either(process, watched, self._timeout_s)
            out, error = process.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            raise MeasureError(f"no figure within bench.timeout={self._timeout_s:g} s") from None
        finally:
            _end(process)
        if process.returncode != 0:
            raise MeasureError(error.strip() or f"the measuring stick ended with {process.returncode}")
        return out


def _wait_for_either(process: subprocess.Popen[str], watched: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Until the probe has ended. Raises MeasureError when the watched process goes first."""
    ends = [os.pidfd_open(process.pid), os.pidfd_open(watched.pid)]
    try:
        ended, _, _ = select.select(ends, [], [], timeout_s)
        if ends[1] in ended and ends[0] not in ended:
            raise MeasureError("ended")
    finally:
        for fd in ends:
            os.close(fd)


def _end(process: subprocess.Popen[str]) -> None:
    """A probe that waits for a daemon ends by the signal; if the kernel holds it, it goes with the mount."""
    if process.poll() is None:
        process.send_signal(signal.SIGKILL)
        try:
            process.communicate(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            pass

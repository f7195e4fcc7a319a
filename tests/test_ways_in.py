"""How the commands begin and end as processes: Ctrl-C, closed streams, odd places, mounts of others."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mounting import BIN, DEADLINE_S, Daemon, Mounts, is_mounted
from nydus_app.linux.mount import mounts_at

IMAGE = Path(__file__).parent / "images/v6"
CLASSIC = ["--localfs-dir", IMAGE / "blobs", "--bootstrap", IMAGE / "boot"]

INTERRUPTED = """
import os, signal, sys
from nydus_app.cli import entry

class CtrlC:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
entry.{command}()
"""


@pytest.mark.parametrize(
    ("command", "module", "status"),
    [
        ("nydusd", "nydus_app.cli.nydusd", -signal.SIGINT),
        ("nydusd", "nydus_app.config.tree", -signal.SIGINT),
        ("nydusd", "nydus_app.builder", 130),
        ("nydusd", "nydus_app.daemon.daemon", 130),
        ("nydus_run", "hydra", -signal.SIGINT),
        ("nydus_run", "nydus_app.storage.device", 130),
    ],
)
def test_ctrl_c_while_modules_are_loaded_says_nothing(command: str, module: str, status: int, tmp_path: Path) -> None:
    """Before there is anything to undo it kills; after that it undoes, and is an exit status."""
    code = INTERRUPTED.format(command=command, module=module)
    (mountpoint := tmp_path / "mnt").mkdir()
    cache = tmp_path / "cache"
    if command == "nydusd":
        words = [*map(str, CLASSIC), "--mountpoint", str(mountpoint)]
    else:
        words = [f"backend.dir={IMAGE}/blobs", f"bootstrap={IMAGE}/boot", f"mountpoint={mountpoint}", f"cache.work_dir={cache}"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=DEADLINE_S)
    assert (done.returncode, done.stderr, done.stdout) == (status, "", "")
    assert not is_mounted(mountpoint)


def environment(tmp_path: Path, data_path: str) -> dict[str, str]:
    return {**os.environ, "NYDUS_OVERRIDES": f"mode.data_path={data_path} cache.work_dir={tmp_path}/cache"}


def mount(mounts: Mounts, tmp_path: Path, mountpoint: Path, data_path: str) -> Daemon:
    command = [BIN / "nydusd", *CLASSIC, "--mountpoint", mountpoint, "--rlimit-nofile", "0"]
    return mounts.start(*command, mountpoint=mountpoint, env=environment(tmp_path, data_path))


CLOSED = """
import os, sys
for fd in {closed}: os.close(fd)
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("data_path", ["auto", "fuse"])
def test_closed_streams_do_not_become_something_else(
    closed: tuple[int, ...], data_path: str, mounts: Mounts, tmp_path: Path
) -> None:
    daemon = mounts.start(
        sys.executable, "-c", CLOSED.format(closed=closed), BIN / "nydusd", *CLASSIC, "--mountpoint", tmp_path / "m",
        mountpoint=tmp_path / "m", env=environment(tmp_path, data_path),
    )  # fmt: skip
    for fd in closed:
        assert os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}") == "/dev/null"
    assert (tmp_path / "m/a/small").read_bytes() == b"small file\n" * 20
    assert daemon.stop() == 0


@pytest.mark.parametrize("name", ["with blank", "ünï", "tab\tand\nnewline", "back\\slash", "a,b", "%s {x}"])
@pytest.mark.parametrize("data_path", ["auto", "fuse"])
def test_odd_mountpoints(name: str, data_path: str, mounts: Mounts, tmp_path: Path) -> None:
    daemon = mount(mounts, tmp_path, tmp_path / name, data_path)
    assert (tmp_path / name / "a/small").read_bytes() == b"small file\n" * 20
    assert daemon.stop() == 0
    assert not mounts_at(str(tmp_path / name))


@pytest.mark.parametrize("data_path", ["auto", "fuse"])
def test_a_locale_that_knows_no_umlauts(data_path: str, mounts: Mounts, tmp_path: Path) -> None:
    """The mount table is compared as bytes; nydus-run, because nydusd takes UTF-8 arguments only."""
    words = [f"backend.dir={IMAGE}/blobs", f"bootstrap={IMAGE}/boot", f"cache.work_dir={tmp_path}/cache"]
    plain = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    daemon = mounts.start(
        BIN / "nydus-run", *words, f"mountpoint='{tmp_path}/ü'", f"mode.data_path={data_path}",
        mountpoint=tmp_path / "ü", env={**os.environ, **plain},
    )  # fmt: skip
    assert (tmp_path / "ü/a/small").read_bytes() == b"small file\n" * 20
    assert daemon.stop() == 0
    assert not mounts_at(str(tmp_path / "ü"))


def test_a_daemon_leaves_the_mount_that_lies_over_its_own(mounts: Mounts, tmp_path: Path, data_path: str) -> None:
    below = mount(mounts, tmp_path, tmp_path / "m", data_path)
    above = mount(mounts, tmp_path, tmp_path / "m", "fuse")
    assert below.stop() == 1
    assert "something else is mounted over it" in below.output
    assert above.process.poll() is None
    assert (tmp_path / "m/a/small").read_bytes() == b"small file\n" * 20
    assert above.stop() == 0


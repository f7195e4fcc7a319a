"""Starting daemons and watching the mount table, without sleeping."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from nydus_app.daemon.attachment import private_dir
from nydus_app.linux.fuse_device import is_dead
from nydus_app.linux.mount import MNT_DETACH, mounts_at, unmount
from nydus_app.linux.mount import mounts as mount_table

BIN = Path(sys.executable).parent
DEADLINE_S = 20.0


def wait_for_mounts(condition: Callable[[], bool], deadline_s: float = DEADLINE_S) -> bool:
    """Look again whenever the mount table changes (poll(2) on mountinfo) or a tenth has passed."""
    end = time.monotonic() + deadline_s
    with open("/proc/self/mountinfo", "rb") as table:
        poll = select.poll()
        poll.register(table, select.POLLERR | select.POLLPRI)
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, 0.1) * 1000)
            table.seek(0)
            table.read()
    return True


def is_mounted(path: Path) -> bool:
    return bool(mounts_at(str(path)))


def sweep(below: Path) -> None:
    """Unmount everything below a directory, and the device mounts that belong to it."""
    for mount in reversed(list(mount_table())):
        if mount.path.startswith(f"{below}/"):
            unmount(mount.path, MNT_DETACH)
            if mounts_at(private_dir(mount.path)):
                unmount(private_dir(mount.path), MNT_DETACH)


def sweep_dead(below: Path) -> None:
    """Unmount what killed runs left; running ones are left alone."""
    for mount in reversed(list(mount_table())):
        if mount.path.startswith(f"{below}/") and (is_dead(mount.path) or is_dead(private_dir(mount.path))):
            unmount(mount.path, MNT_DETACH)
            if mounts_at(private_dir(mount.path)):
                unmount(private_dir(mount.path), MNT_DETACH)


def nydusd_config(blobs: Path, work_dir: Path, **changes: object) -> dict:
    """A classic configuration, as containerd's snapshotter writes it."""
    config = {
        "device": {
            "backend": {"type": "localfs", "config": {"dir": str(blobs), "readahead": False}},
            "cache": {"type": "blobcache", "config": {"work_dir": str(work_dir)}},
        },
        "mode": "direct",
        "digest_validate": False,
        "enable_xattr": True,
        "amplify_io": 1 << 20,
    }
    config.update(changes)
    return config


class Daemon:
    """A daemon under test. `stop` is SIGTERM and the exit status."""

    def __init__(self, process: subprocess.Popen, mountpoint: Path, log: Path) -> None:
        self.process = process
        self.mountpoint = mountpoint
        self._log = log

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    def stop(self, sig: int = signal.SIGTERM) -> int:
        self.process.send_signal(sig)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def clear(self) -> None:
        """Take away what a killed daemon left."""
        for place in (str(self.mountpoint), private_dir(str(self.mountpoint))):
            while mounts_at(place):
                unmount(place, MNT_DETACH)
        with suppress(OSError):
            os.rmdir(private_dir(str(self.mountpoint)))


class Mounts:
    """Context that owns daemons; every daemon gets a directory of its own below `base`."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._daemons: list[Daemon] = []

    def __enter__(self) -> "Mounts":
        return self

    def start(self, *command: object, mountpoint: Path, wait: bool = True, **popen: object) -> Daemon:
        """Run a command that mounts; returns when it is mounted or has ended."""
        if not is_mounted(mountpoint):  # a dead mount cannot be looked at
            mountpoint.mkdir(parents=True, exist_ok=True)
        log = self._base / f"daemon{len(self._daemons)}.log"
        before = len(mounts_at(str(mountpoint)))
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [str(c) for c in command], stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **popen
            )
        daemon = Daemon(process, mountpoint, log)
        self._daemons.append(daemon)
        if wait:
            wait_for_mounts(lambda: len(mounts_at(str(mountpoint))) > before or process.poll() is not None)
            assert process.poll() is None, f"ended with {process.returncode}: {daemon.output}"
        return daemon

    def nydusd(
        self,
        boot: Path,
        blobs: Path,
        *,
        work_dir: Path | None = None,
        program: Path | str = BIN / "nydusd",
        args: tuple[object, ...] = (),
        data_path: str = "auto",
        driver: str = "fusedev",
        overrides: str = "",
        **changes: object,
    ) -> Daemon:
        """`program` with classic flags on an image over localfs."""
        here = self._base / f"m{len(self._daemons)}"
        here.mkdir()
        work_dir = work_dir or here / "cache"
        config = here / "config.json"
        config.write_text(json.dumps(nydusd_config(blobs, work_dir, **changes)))
        return self.start(
            program, "fuse", "--config", config, "--bootstrap", boot, "--mountpoint", here / "mnt",
            "--log-level", "warn", "--rlimit-nofile", "0", *args, mountpoint=here / "mnt",
            env={**os.environ, "NYDUS_OVERRIDES": f"mode.data_path={data_path} mode.driver={driver} {overrides}"},
        )  # fmt: skip

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for daemon in self._daemons:
            if daemon.process.poll() is None:
                daemon.process.kill()
                daemon.process.wait()
            daemon.clear()
        sweep(self._base)


def boot_of(golden: Path, image: dict) -> Path:
    """The bootstrap of a golden image: its `boot`, or the blob that holds it."""
    folder = golden / image["name"]
    return folder / "boot" if (folder / "boot").exists() else next((folder / "blobs").iterdir())


def copy_blobs(golden: Path, name: str, target: Path) -> Path:
    """A copy of an image's blobs that a test may damage."""
    shutil.copytree(golden / name / "blobs", target)
    for path in target.iterdir():
        os.chmod(path, 0o644)
    return target

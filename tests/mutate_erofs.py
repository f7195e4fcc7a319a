"""mutate_erofs.py WHAT SEED COUNT BASE GOLDEN: COUNT damaged copies of a tiny image, mounted by the kernel's EROFS over our devices.

One FUSE session has the devices of all; a process of its own walks the trees. Prints a line of JSON. An outcome is
the refusal, or everything that can be listed and read, errors included:

    damaged bootstraps   what a plain EROFS mount of the same file over the right data shows, or EIO for contents;
                         and the kernel says nothing that it would not say there
    everything else      with validation, the right bytes or EIO
"""

import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import trio

from mutate import TARGETS, damage, prepare
from nydus_app.builder.attachment import add_devices, erofs_source, why_not_erofs
from nydus_app.builder.image import open_image
from nydus_app.config.tree import Blobcache, Localfs, Rafs, Tree
from nydus_app.errors import NydusError
from nydus_app.filesystems.blob_devices import BlobDevice, BlobDevices
from nydus_app.linux.fuse_device import mount_fuse
from nydus_app.linux.mount import MNT_DETACH, unmount
from nydus_app.storage.background import Background
from nydus_app.transports.erofs import ErofsMount
from nydus_app.transports.fusedev import FusedevTransport
from walk import DEADLINE_S, Outcome

EIO = "errno 5"
KEPT_LAYOUT = "kept layout"
OVER_EROFS = [*(name for name in TARGETS if name != "v5 bootstrap laid out as EROFS"), KEPT_LAYOUT]
"""Of v5 all are laid out here."""

ALARMING = re.compile(r"WARNING|BUG|Oops|cut here|Call Trace|protection fault|blocked for more than|rcu.*stall", re.I)


class KernelLog:
    """What /dev/kmsg says from now on."""

    def __init__(self) -> None:
        self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.skip()

    def skip(self) -> None:
        os.lseek(self._fd, 0, os.SEEK_END)

    def lines(self) -> list[str]:
        """Without the news that something was mounted, which anybody may have done."""
        found = []
        while True:
            try:
                found.append(os.read(self._fd, 8192).decode(errors="replace").partition(";")[2].partition("\n")[0])
            except BlockingIOError:
                return [line for line in found if "mounted with root inode" not in line]
            except BrokenPipeError:  # overwritten before it was read
                continue

    def close(self) -> None:
        os.close(self._fd)


class Walker:
    """A process that walks trees until it is closed; one that does not end in time fails the run."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "walk.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def walk(self, root: Path) -> Outcome:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{root}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise TimeoutError(f"an operation took longer than {DEADLINE_S} s ({self._process.wait()})")
        return json.loads(line)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(DEADLINE_S)
        self._process.stdout.close()


class Bench:
    """One image after the other at `mnt` below `base`, their devices in one FUSE mount."""

    def __init__(self, base: Path, background: Background, devices: BlobDevices, private: Path, walker: Walker) -> None:
        self._background = background
        self._devices = devices
        self._private = private
        self._walker = walker
        self._log = KernelLog()
        self._at = base / "mnt"
        self._stand_in = base / "stand-in"
        self._at.mkdir()

    def close(self) -> None:
        self._log.close()

    def look(
        self, boot: Path, blobs: Path, work_dir: Path, data: Path | None
    ) -> tuple[Outcome, list[str], Outcome | None, list[str]]:
        """Ours and what the kernel said, and the same of a plain mount where `data`, the right address space, is given."""
        tree = Tree(
            bootstrap=str(boot),
            mountpoint=None,
            backend=Localfs(dir=str(blobs)),
            cache=Blobcache(work_dir=str(work_dir), validate=True),
            rafs=Rafs(validate=False),  # digests of v5 inodes would keep most damage from the kernel
        )
        try:
            image = open_image(tree, self._background)
        except NydusError as e:
            return {"refused": str(e)}, [], None, []
        with ExitStack() as stack:
            stack.callback(image.close)
            if (reason := why_not_erofs(tree, image)) is not None:
                return {"refused": reason}, [], None, []
            try:
                source = erofs_source(tree, image)
            except NydusError as e:
                return {"refused": str(e)}, [], None, []
            stack.pop_all()
            stack.callback(source.close)
            added = add_devices(self._devices, image, source)
            served = [d for d in added if isinstance(d, BlobDevice)]
            assert len(served) == len(added)  # with validation no file is believed
            for device in served:
                stack.callback(self._devices.remove, device)
            ours = self._outcome(source.path, [str(self._private / d.name) for d in served])
            paths = None if data is None else self._stand_ins(served, data)
            if paths is None:
                return *ours, None, []
            return *ours, *self._outcome(source.path, paths)

    def _stand_ins(self, devices: list[BlobDevice], data: Path) -> list[str] | None:
        """A file for each device and of its size; None where no file can be as large."""
        paths = []
        for number, device in enumerate(devices):
            paths.append(f"{self._stand_in}{number}")
            shutil.copyfile(data, paths[-1])
            try:
                os.truncate(paths[-1], device.space.size)
            except OSError:
                return None
        return paths

    def _outcome(self, source: str, devices: list[str]) -> tuple[Outcome, list[str]]:
        self._log.skip()
        erofs = ErofsMount(str(self._at), source, devices)
        try:
            erofs.mount()
        except NydusError as e:
            return {"refused": str(e)}, self._log.lines()
        try:
            found = self._walker.walk(self._at)
        finally:
            erofs.unmount()
        return found, self._log.lines()


def differs(ours: Outcome, right: Outcome, *, with_contents: bool) -> list[str]:
    """What is neither the same nor, for a content, EIO."""
    wrong = []
    for key in sorted(ours.keys() | right.keys()):
        is_content = key.endswith(" content")
        if ours.get(key) != right.get(key) and not (is_content and ours.get(key) == EIO) and (with_contents or not is_content):
            wrong.append(f"{key}: {ours.get(key)} instead of {right.get(key)}")
    return wrong


class Findings:
    """What came of the copies of one target."""

    def __init__(self) -> None:
        self.mounted = self.refused = self.compared = self.changed = 0
        self.contents = self.contents_eio = 0
        self.wrong: list[str] = []
        self.alarming: list[str] = []
        self.said_more: list[str] = []


def run(name: str, seed: int, count: int, base: Path, golden: Path, bench: Bench) -> Findings:
    target = "v5 bootstrap" if name == KEPT_LAYOUT else name
    _, _, ranges, warm = TARGETS[target]
    is_bootstrap = "bootstrap" in name
    boot, blobs, work_dir, file = prepare(target, base, golden)
    kept, data = base / "kept", base / "data"
    shutil.copytree(work_dir, kept) if warm else kept.mkdir()
    right, _, _, _ = bench.look(boot, blobs, work_dir, None)
    assert EIO not in right.values() and "refused" not in right, right
    shutil.copyfile(next(work_dir.glob("*.blob.data")), data)
    if name == KEPT_LAYOUT:
        shutil.copytree(work_dir, kept, dirs_exist_ok=True)
        file = next(work_dir.glob("*.erofs"))
    content = file.read_bytes()
    found, r = Findings(), random.Random(seed)
    for number in range(count):
        start, end = (0, len(content)) if name == KEPT_LAYOUT else r.choice(ranges(len(content)))
        damaged = damage(r, content, start, end) if r.random() < 0.97 else content[: r.randrange(len(content))]
        for attempt in range(2):  # others mount EROFS on this machine, too: what the kernel says once may be of theirs
            shutil.rmtree(work_dir, ignore_errors=True)
            shutil.copytree(kept, work_dir)
            file.write_bytes(damaged)
            ours, said, plain, said_plain = bench.look(boot, blobs, work_dir, data if is_bootstrap else None)
            if plain is None or set(said) <= set(said_plain):
                break
            if attempt:
                found.said_more.append(f"{number}: {sorted(set(said) - set(said_plain))}")
        found.changed += ours != right
        found.alarming += [f"{number}: {line}" for line in said + said_plain if ALARMING.search(line)]
        if "refused" in ours:
            found.refused += 1
        else:
            found.mounted += 1
            contents = [value for key, value in ours.items() if key.endswith(" content")]
            found.contents += len(contents)
            found.contents_eio += contents.count(EIO)
        if plain is not None:
            found.compared += 1
            found.wrong += [f"{number}: {line}" for line in differs(ours, plain, with_contents=not name.startswith("v5"))]
        elif not is_bootstrap:
            found.wrong += [f"{number}: {line}" for line in differs(ours, right, with_contents=True)]
    file.write_bytes(content)
    return found


async def main(name: str, seed: int, count: int, base: Path, golden: Path) -> None:
    background = Background()
    devices = BlobDevices(background)
    private = base / "devices"
    private.mkdir()
    fuse = mount_fuse(str(private), writable=False)
    try:
        walker = Walker()
        with closing(walker), closing(Bench(base, background, devices, private, walker)) as bench:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(FusedevTransport(devices, fuse.fd).serve)
                nursery.start_soon(background.run)
                found = await trio.to_thread.run_sync(run, name, seed, count, base, golden, bench)
                nursery.cancel_scope.cancel()
    finally:
        unmount(str(private), MNT_DETACH)
        fuse.close()
    print(json.dumps(vars(found)))


if __name__ == "__main__":
    logging.getLogger("nydus").addHandler(logging.NullHandler())
    logging.getLogger("nydus").propagate = False
    trio.run(main, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))

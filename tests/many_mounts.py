"""many_mounts.py COUNT BASE BOOT BLOBS: COUNT images mounted by one process over one FUSE session.

Prints a line of JSON: milliseconds and KiB of anonymous memory that a mount took, and the digest of every mounted tree.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import trio

from nydus_app.builder.attachment import add_devices, erofs_source
from nydus_app.builder.image import open_image
from nydus_app.config.tree import Blobcache, Localfs, Tree
from nydus_app.filesystems.blob_devices import BlobDevices
from nydus_app.linux.fuse_device import mount_fuse
from nydus_app.linux.mount import MNT_DETACH, unmount
from nydus_app.storage.background import Background
from nydus_app.transports.erofs import ErofsMount
from nydus_app.transports.fusedev import FusedevTransport


def anonymous_kib() -> int:
    with open("/proc/self/smaps_rollup", encoding="ascii") as f:
        return next(int(line.split()[1]) for line in f if line.startswith("Pss_Anon:"))


def tree_digest(root: str) -> str:
    found = hashlib.sha256()
    for folder, folders, names in os.walk(os.fsencode(root)):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path):
                with open(path, "rb") as f:
                    found.update(name + hashlib.sha256(f.read()).digest())
    return found.hexdigest()


async def main(count: int, base: Path, boot: str, blobs: str) -> None:
    background = Background()
    devices = BlobDevices(background)
    private = base / "devices"
    private.mkdir()
    fuse = mount_fuse(str(private), writable=False)
    transport = FusedevTransport(devices, fuse.fd)
    mounted: list[tuple[ErofsMount, builder.ErofsSource]] = []
    durations, digests = [], set()

    def mount(number: int) -> None:
        tree = Tree(bootstrap=boot, mountpoint=None, backend=Localfs(dir=blobs), cache=Blobcache(work_dir=str(base / f"c{number}")))
        image = open_image(tree, background)
        source = erofs_source(tree, image)
        paths = [d if isinstance(d, str) else str(private / d.name) for d in add_devices(devices, image, source)]
        target = base / f"m{number}"
        target.mkdir()
        erofs = ErofsMount(str(target), source.path, paths)
        erofs.mount()
        mounted.append((erofs, source))

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(transport.serve)
            nursery.start_soon(background.run)
            await trio.to_thread.run_sync(mount, 0)
            before = anonymous_kib()
            for number in range(1, count):
                begun = time.monotonic()
                await trio.to_thread.run_sync(mount, number)
                durations.append(time.monotonic() - begun)
            grown = anonymous_kib() - before
            for number in range(count):
                digests.add(await trio.to_thread.run_sync(tree_digest, str(base / f"m{number}")))
            nursery.cancel_scope.cancel()
    finally:
        for erofs, source in mounted:
            erofs.unmount()
            source.close()
        unmount(str(private), MNT_DETACH)
        fuse.close()
    durations.sort()
    print(
        json.dumps(
            {
                "median_ms": durations[len(durations) // 2] * 1000,
                "longest_ms": durations[-1] * 1000,
                "kib_a_mount": grown / (count - 1),
                "digests": sorted(digests),
            }
        )
    )


trio.run(main, int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4])

"""mutate.py WHAT SEED COUNT GOLDEN: read COUNT damaged copies of a small image; a line of JSON says what came of it.

Run as a process of its own, so that its peak memory is that of the reader alone. WHAT names a target
below. An outcome is the refusal, or everything that can be listed and read, errors included. Of damaged
blobs and caches, which are validated, nothing may come but the right bytes or EIO.
"""

import errno
import hashlib
import json
import os
import random
import shutil
import signal
import stat
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from nydus_app.builder.image import open_filesystem
from nydus_app.config.tree import Blobcache, Localfs, Tree
from nydus_app.errors import InvalidImage, NydusError
from nydus_app.formats.erofs.image import ErofsImage
from nydus_app.formats.erofs.structs import SUPERBLOCK_AT
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.v5 import BootstrapV5
from nydus_app.python_api import Image

IMAGES = Path(__file__).parent / "images"
DEADLINE_S = 5
Outcome = dict[str, object]


class TooSlow(BaseException):
    pass


def _alarm(*_: object) -> None:
    raise TooSlow


def timed(function: Callable[..., object], *args: object) -> object:
    """The result, or the error, of one operation; TooSlow after the deadline."""
    signal.alarm(DEADLINE_S)
    try:
        return function(*args)
    except (NydusError, OSError) as e:
        return f"{type(e).__name__} {getattr(e, 'errno', '')}"
    finally:
        signal.alarm(0)


def outcome(boot: Path, blobs: Path, work_dir: Path) -> Outcome:
    tree = Tree(
        bootstrap=str(boot), mountpoint=None, backend=Localfs(dir=str(blobs)), cache=Blobcache(work_dir=str(work_dir))
    )
    filesystem = timed(open_filesystem, tree)
    if isinstance(filesystem, str):
        return {"refused": filesystem}
    with Image(filesystem) as image:  # type: ignore[arg-type]
        found: Outcome = {}
        todo, seen = ["/"], 0
        while todo and seen < 500:
            path = todo.pop()
            seen += 1
            attr = timed(image.lstat, path)
            found[path] = attr if isinstance(attr, str) else [*attr[1:], timed(image.xattrs, path)]
            if isinstance(attr, str):
                continue
            if stat.S_ISDIR(attr.mode):
                names = timed(image.listdir, path)
                if isinstance(names, list):
                    todo += [f"{path.rstrip('/')}/{n}" for n in names]
                else:
                    found[path + " listing"] = names
            elif stat.S_ISLNK(attr.mode):
                found[path + " target"] = timed(image.readlink, path)
            elif stat.S_ISREG(attr.mode):
                content = timed(_head, image, path)
                found[path + " content"] = content
    return found


def laid_out(boot: Path, blobs: Path, work_dir: Path) -> Outcome:
    """A v5 bootstrap as an EROFS image; only InvalidImage may come of it otherwise."""
    signal.alarm(DEADLINE_S)
    try:
        bootstrap = open_bootstrap(boot.read_bytes())
        if not isinstance(bootstrap, BootstrapV5):
            return {"refused": "another version"}
        image = ErofsImage(bootstrap, owner=None, verify=False)
        content = hashlib.sha256()
        size = SUPERBLOCK_AT
        for piece in image.pieces():
            content.update(piece)
            size += len(piece)
        assert size == image.size
        return {"image": content.hexdigest(), "tables": [[list(rows) for rows in t[:3]] for t in image.tables]}
    except InvalidImage as e:
        return {"refused": str(e)}
    finally:
        signal.alarm(0)


def _head(image: Image, path: str) -> str:
    """A mutated size may be anything: 64 KiB are more than any file of the image has."""
    with image.open(path) as f:
        return hashlib.sha256(f.read(64 << 10)).hexdigest()


def damage(r: random.Random, content: bytes, start: int, end: int) -> bytes:
    at = r.randrange(start, end)
    for _ in range(20):  # padding is zeros; most damage is to hit something
        if content[at]:
            break
        at = r.randrange(start, end)
    data = bytearray(content)
    kind = r.randrange(6)
    if kind <= 1:
        data[at] ^= 1 << r.randrange(8)
    elif kind == 2:
        data[at] = r.choice((0x00, 0xFF, 0x7F, 0x80, data[at] + 1 & 0xFF))
    elif kind == 3:
        at -= at % 4
        data[at : at + 4] = r.choice((0, 1, 0x7FFF_FFFF, 0xFFFF_FFFF, len(content), r.getrandbits(32))).to_bytes(4, "little")
    elif kind == 4:
        at -= at % 8
        data[at : at + 8] = r.getrandbits(64).to_bytes(8, "little")
    else:
        other = r.randrange(start, end)
        data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]
    return bytes(data[: len(content)])


# Byte ranges that mean something; between them the files are padded with zeros.
def _v5_boot(size: int) -> list[tuple[int, int]]:
    return [(0, 80), (8192, size)]


def _v6_boot(size: int) -> list[tuple[int, int]]:
    return [(1024, 1114), (1152, 1204), (1408, 1480), (4096, 4316), (8192 + 4096, size)]


def _zran_contexts(size: int) -> list[tuple[int, int]]:
    """16 records without the places that mean nothing, 2 contexts, dictionaries, header."""
    words = [(24 * i + at, 24 * i + at + 8) for i in range(16) for at in (0, 16)]
    return [*words, *[(384, 464)] * 20, (464, size - 4096), (size - 4096, size - 4030)]


OUTCOMES = {"v5 bootstrap laid out as EROFS": laid_out}
"""Of targets that are not read as a mounted image is."""

TARGETS: dict[str, tuple[str, str, Callable[[int], list[tuple[int, int]]], str]] = {
    # name: image (tiny, or of the unpacked golden set), file (glob), ranges, what of the cache is there (and then not
    # in the backend)
    "v5 bootstrap": ("v5", "boot", _v5_boot, ""),
    "v5 bootstrap laid out as EROFS": ("v5", "boot", _v5_boot, ""),
    "v6 bootstrap": ("v6", "boot", _v6_boot, ""),
    "inline bootstrap and TOC": ("v6-toc", "blobs/*", lambda size: [(0, size)], ""),
    "v5 blob": ("v5", "blobs/*", lambda size: [(0, size)], ""),
    "v6 blob": ("v6", "blobs/*", lambda size: [(0, size)], ""),
    "v5 cache data": ("v5", "cache/*.blob.data", lambda size: [(0, size)], "all"),
    "v6 cache data": ("v6", "cache/*.blob.data", lambda size: [(0, size)], "all"),
    "chunk map": ("v6", "cache/*.chunk_map", lambda size: [(0, 16), (4096, size)], "all"),
    "batch blob": ("v6-batch", "blobs/*", lambda size: [(0, size)], ""),
    "batch blob.meta": ("v6-batch", "cache/*.blob.meta", lambda size: [(0, 856), (size - 4096, size - 4030)], "blob.meta"),
    "encrypted blob": ("v6-encrypt", "blobs/*", lambda size: [(0, size)], ""),
    "zran layer": ("v6-zran", "blobs/9d8d740e*", lambda size: [(0, size)], ""),
    "zran contexts": ("v6-zran", "blobs/433625c9*", _zran_contexts, ""),
    "blob.meta": ("v6", "cache/*.blob.meta", lambda size: [(0, 200), (size - 4096, size - 4036)], "blob.meta"),
}


def _is_eio(value: object) -> bool:
    return isinstance(value, str) and value.endswith(f" {errno.EIO}")


def prepare(name: str, base: Path, golden: Path) -> tuple[Path, Path, Path, Path]:
    """Bootstrap, blobs, work_dir and the file to damage of a copy of the target's image."""
    image, pattern, _, warm = TARGETS[name]
    folder = base / "image"
    shutil.copytree(IMAGES / image if (IMAGES / image).exists() else golden / image, folder)
    blobs, work_dir = folder / "blobs", folder / "cache"
    boot = folder / "boot" if (folder / "boot").exists() else next(blobs.iterdir())
    if warm:
        outcome(boot, blobs, work_dir)
    if warm == "all":
        shutil.rmtree(blobs)
        blobs.mkdir()
    elif warm == "blob.meta":
        _leave_only_the_kept_index(next(blobs.iterdir()), work_dir)
    return boot, blobs, work_dir, next(folder.glob(pattern))


def _leave_only_the_kept_index(blob: Path, work_dir: Path) -> None:
    """The blob's own copy of its compression information (its last 8 KiB and less) is lost."""
    for path in work_dir.iterdir():
        if path.suffix != ".meta":
            path.unlink()
    content = bytearray(blob.read_bytes())
    (offset,) = struct.unpack_from("<Q", content, len(content) - 4096 + 16)
    content[offset:] = b"\xff" * (len(content) - offset)
    blob.write_bytes(content)


def run(name: str, seed: int, count: int, golden: Path) -> dict[str, object]:
    warm = TARGETS[name][3]
    with tempfile.TemporaryDirectory() as base:
        boot, blobs, work_dir, file = prepare(name, Path(base), golden)
        content = file.read_bytes()
        kept = Path(base) / "kept"
        if warm:
            shutil.copytree(work_dir, kept)
        look = OUTCOMES.get(name, outcome)
        right = look(boot, blobs, work_dir)
        r, changed, wrong = random.Random(seed), 0, []
        for _ in range(count):
            shutil.rmtree(work_dir, ignore_errors=True)
            if warm:
                shutil.copytree(kept, work_dir)
            start, end = r.choice(TARGETS[name][2](len(content)))
            damaged = damage(r, content, start, end) if r.random() < 0.97 else content[: r.randrange(len(content))]
            file.write_bytes(damaged)
            got = look(boot, blobs, work_dir)
            changed += got != right
            if "bootstrap" not in name:
                wrong += [f"{k}: {v}" for k, v in got.items() if v != right.get(k) and not _is_eio(v)]
        file.write_bytes(content)
    return {"changed": changed, "wrong": wrong[:5], "peak_kib": _peak_kib()}


def _peak_kib() -> int:
    """VmHWM; getrusage would count the process that started us, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _alarm)
    os.environ.pop("NYDUS_OVERRIDES", None)
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))))

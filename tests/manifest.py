"""A tree in the form of the golden manifests: one dictionary an entry, sorted by path.

Keys: path (text, or {"hex": …} where it is no UTF-8), type, mode, uid, gid, size, mtime_ns, rdev,
links (names of this inode within the tree), target, xattrs (hex), sha256.
"""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}


def text(name: bytes) -> str | dict[str, str]:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return {"hex": name.hex()}


def _sha256(path: bytes) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _paths(root: bytes) -> Iterator[bytes]:
    yield root
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            yield os.path.join(folder, name)


def describe(mountpoint: Path) -> list[dict]:
    root = os.fsencode(mountpoint)
    found = []
    links: Counter[tuple[int, int]] = Counter()
    for path in sorted(_paths(root)):
        st = os.lstat(path)
        kind = KINDS[stat.S_IFMT(st.st_mode)]
        entry = {
            "path": text(path[len(root) :] or b"/"),
            "type": kind,
            "mode": f"{stat.S_IMODE(st.st_mode):04o}",
            "uid": st.st_uid,
            "gid": st.st_gid,
            "mtime_ns": st.st_mtime_ns,
        }
        if kind in ("file", "symlink"):
            entry["size"] = st.st_size
        if kind in ("char", "block"):
            entry["rdev"] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
        if kind == "symlink":
            entry["target"] = text(os.readlink(path))
        names = os.listxattr(path, follow_symlinks=False)
        if names:
            entry["xattrs"] = {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in names}
        if kind == "file":
            entry["sha256"] = _sha256(path)
        if kind != "dir":
            links[st.st_dev, st.st_ino] += 1
        if path == root:
            del entry["mtime_ns"]  # the builder stores 0 for the root
        found.append((entry, (st.st_dev, st.st_ino)))
    for entry, key in found:
        if entry["type"] != "dir":
            entry["links"] = links[key]
    return [entry for entry, _ in found]


def differences(mountpoint: Path, manifest: Path, ignore: tuple[str, ...] = ()) -> list[str]:
    """One line per difference between a tree and a manifest file."""

    def keyed(entries: list[dict]) -> dict[str, dict]:
        return {
            json.dumps(e["path"]): {k: v for k, v in e.items() if k not in ignore} for e in entries
        }

    want = keyed([json.loads(line) for line in manifest.read_text().splitlines()])
    have = keyed(describe(mountpoint))
    bad = [f"missing {k}" for k in want.keys() - have.keys()]
    bad += [f"extra {k}" for k in have.keys() - want.keys()]
    for k in sorted(want.keys() & have.keys()):
        for field in sorted(want[k].keys() | have[k].keys()):
            if want[k].get(field) != have[k].get(field):
                bad.append(f"{k} {field}: want {want[k].get(field)} have {have[k].get(field)}")
    return bad

"""RAFS v5 by the kernel's EROFS and by FUSE: the same tree, entry by entry."""

import os
import random
import socket
import stat
import struct
import subprocess
import tempfile
from pathlib import Path

import pytest

from manifest import describe, differences
from mounting import BIN, Daemon, Mounts, boot_of, copy_blobs
from nydus_app.builder.attachment import attach
from nydus_app.builder.image import fingerprint, open_image
from nydus_app.config.tree import Blobcache, Localfs, Tree
from nydus_app.daemon.attachment import FuseTree
from nydus_app.daemon.handover import Session
from nydus_app.errors import ConfigError
from nydus_app.formats.rafs.values import SuperFlags
from nydus_app.linux.mount import mounts as mount_table
from nydus_app.linux.mount import mounts_at
from nydus_app.protocols.fuse.init import Settings
from nydus_app.transports import erofs
from v5_boot import DIR, LINK, Boot, Chunk, Node

WHY_NOT = erofs.why_not() or erofs.why_not_from(os.path.join(tempfile.gettempdir(), "layout"))
pytestmark = [pytest.mark.mounts, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]

NAME_BYTES = [bytes([c]) for c in range(1, 256) if c != ord("/")]
XATTRS = ("user.a", "user.long-" + "n" * 200, "trusted.t", "security.s")


def _name(r: random.Random) -> bytes:
    kind = r.random()
    if kind < 0.5:
        return b"%x" % r.getrandbits(40)
    if kind < 0.9:
        name = b"".join(r.choice(NAME_BYTES) for _ in range(r.choice((1, 2, 9, 60, 255))))
    else:
        name = r.choice((b"-", b".x", b"..x", b"...", b" ", b"\n", b"!", b"Z" * 255))
    return name if name not in (b".", b"..") and not name.startswith(b".wh.") else b"dots"


def _acl() -> bytes:
    entries = [(1, 6, 0xFFFF_FFFF), (2, 4, 1234), (4, 4, 0xFFFF_FFFF), (16, 4, 0xFFFF_FFFF), (32, 0, 0xFFFF_FFFF)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries)


def _decorate(r: random.Random, path: bytes) -> None:
    st = os.lstat(path)
    is_link = stat.S_ISLNK(st.st_mode)
    if r.random() < 0.2:
        os.chown(path, r.choice((0, 7, 70_000, 4_000_000_000)), r.choice((0, 9, 3_999_999_999)), follow_symlinks=False)
    if not is_link:
        os.chmod(path, r.choice((0, 0o400, 0o644, 0o755, 0o4755, 0o1777, 0o7777)))
        if r.random() < 0.2:
            os.setxattr(path, r.choice(XATTRS[2:]), r.randbytes(r.choice((0, 1, 30, 700))))
        if stat.S_ISREG(st.st_mode) or stat.S_ISDIR(st.st_mode):
            for name in XATTRS[:2]:
                if r.random() < 0.15:
                    os.setxattr(path, name, r.randbytes(r.choice((0, 5, 700))))
            if r.random() < 0.05:
                os.setxattr(path, "system.posix_acl_access", _acl())
    ns = r.choice((0, 1, 1_700_000_000_123_456_789, 5_000_000_000_000_000_007))
    os.utime(path, ns=(ns, ns), follow_symlinks=False)


def _content(r: random.Random, seen: list[bytes]) -> bytes:
    """Files around the borders of 4 KiB chunks, some of chunks that others have as well."""
    size = r.choice((0, 1, 100, 4095, 4096, 4097, 8192, 12289, 70_000))
    if seen and r.random() < 0.3:
        return r.choice(seen)[: r.choice((4096, 8192, 1 << 20))]
    seen.append(r.randbytes(size) if r.random() < 0.7 else bytes(size))
    return seen[-1]


def make_tree(seed: int, root: bytes) -> None:
    r = random.Random(seed)
    directories, files, seen = [root], [], []
    os.makedirs(root)
    for _ in range(r.choice((30, 150, 400))):
        path = os.path.join(r.choice(directories[:8] if r.random() < 0.7 else directories), _name(r))
        kind = r.random()
        if os.path.lexists(path) or len(path) > 3000:
            continue
        if kind < 0.15:
            os.mkdir(path)
            directories.append(path)
        elif kind < 0.75:
            with open(path, "wb") as f:
                f.write(_content(r, seen))
            files.append(path)
        elif kind < 0.85:
            os.symlink(b"t" * r.choice((1, 50, 3000, 4032, 4033, 4095)), path)
        elif kind < 0.93 and files:
            os.link(r.choice(files), path)
        else:
            _make_special(r, path)
    for path in [p for _, _, p in _walk(root)]:
        _decorate(r, path)


def _make_special(r: random.Random, path: bytes) -> None:
    kind = r.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK))
    device = os.makedev(r.choice((1, 10, 255)), r.choice((3, 255, 300)))
    if kind == stat.S_IFSOCK and len(path) < 100:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
    else:
        os.mknod(path, (stat.S_IFIFO if kind == stat.S_IFSOCK else kind) | 0o600, device)


def _walk(root: bytes) -> list[tuple[bytes, os.stat_result, bytes]]:
    """Path below the root, lstat and full path of everything, directories behind what is in them."""
    found = []
    for folder, folders, files in os.walk(root, topdown=False):
        for name in folders + files:
            path = os.path.join(folder, name)
            found.append((path[len(root) :], os.lstat(path), path))
    return found


def same_links(root: Path) -> dict[bytes, int]:
    """By path: inode numbers, made small in the order of the paths; and the stored number of links."""
    numbers: dict[int, int] = {}
    found = {}
    for path, st, _ in sorted(_walk(os.fsencode(root))):
        if not stat.S_ISDIR(st.st_mode):
            found[path] = numbers.setdefault(st.st_ino, len(numbers)) << 32 | st.st_nlink
    return found


def numbers_of(root: Path) -> dict[bytes, int]:
    return {path: st.st_ino for path, st, _ in _walk(os.fsencode(root))}


def fs_type(daemon: Daemon) -> str:
    return mounts_at(str(daemon.mountpoint))[-1].fs_type


@pytest.mark.parametrize("seed", range(6))
def test_generated_trees_are_the_same_both_ways(seed: int, tmp_path: Path, peers: Path, mounts: Mounts) -> None:
    tree, blobs = tmp_path / "tree", tmp_path / "blobs"
    make_tree(seed, os.fsencode(tree))
    blobs.mkdir()
    boot = tmp_path / "boot"
    chunk_size = ("0x1000", "0x10000", "0x100000")[seed % 3]
    subprocess.run(
        [peers / "nydus-image", "create", "-v", "5", "-B", boot, "-D", blobs, "--chunk-size", chunk_size,
         "--log-level", "error", *(["--aligned-chunk"] if seed == 4 else []), tree],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    by_fuse = mounts.nydusd(boot, blobs, data_path="fuse", digest_validate=True)
    by_erofs = mounts.nydusd(boot, blobs, data_path="erofs", digest_validate=True)
    assert (fs_type(by_fuse), fs_type(by_erofs)) == ("fuse", "erofs")
    assert describe(by_erofs.mountpoint) == describe(by_fuse.mountpoint)
    assert same_links(by_erofs.mountpoint) == same_links(by_fuse.mountpoint)
    assert by_fuse.stop() == by_erofs.stop() == 0


def test_what_only_other_builders_make_is_the_same_both_ways(tmp_path: Path, mounts: Mounts) -> None:
    """Linked symlinks and pipes, a blob of which no chunk is named, spare records, a chunk longer than what is shown."""
    nodes = (
        Node(b"/", DIR, first=2, count=7, nlink=3),
        Node(b"file", size=5000, chunks=(Chunk(3, 4096, offset=10), Chunk(1, 1000, offset=5000), Chunk(2, 9, offset=7000))),
        Node(b"link", LINK, 4, target=b"file", nlink=2),
        Node(b"link2", LINK, 4, target=b"file", ino=3, nlink=2),
        Node(b"other", size=100, chunks=(Chunk(3, 4096, offset=10),)),
        Node(b"pipe", stat.S_IFIFO | 0o600, nlink=2),
        Node(b"sub", DIR, first=9, count=1, nlink=2, xattrs=((b"user.big", b"x" * 5000),)),
        Node(b"zero", chunks=(Chunk(1, 1000, offset=5000),)),
        Node(b"pipe2", stat.S_IFIFO | 0o600, ino=6, nlink=2),
    )
    (tmp_path / "boot").write_bytes(Boot(nodes, chunk_counts=(9, 5)).encode())
    (tmp_path / "blobs").mkdir()
    data = random.Random(1).randbytes(8192)
    for name in "ab":
        (tmp_path / "blobs" / (name * 64)).write_bytes(data)
    both = [mounts.nydusd(tmp_path / "boot", tmp_path / "blobs", data_path=path) for path in ("fuse", "erofs")]
    by_fuse, by_erofs = (daemon.mountpoint for daemon in both)
    assert (by_erofs / "file").read_bytes() == data[10:4106] + data[5000:5904]
    assert describe(by_erofs) == describe(by_fuse)
    assert same_links(by_erofs) == same_links(by_fuse)
    assert [daemon.stop() for daemon in both] == [0, 0]


def test_inode_numbers_are_the_same_after_a_restart(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    """Also where the layout has been deleted in between."""
    first = mounts.nydusd(golden / "v5-zstd/boot", golden / "v5-zstd/blobs", work_dir=tmp_path / "cache")
    assert fs_type(first) == "erofs"
    numbers = numbers_of(first.mountpoint)
    assert numbers[b"/links/hard-1"] == numbers[b"/links/target"] == numbers[b"/dirs/hard-2"]
    (kept,) = (tmp_path / "cache").glob("*.erofs")
    kept.unlink()  # while it is mounted
    assert numbers_of(first.mountpoint) == numbers
    assert first.stop() == 0
    for _ in range(2):
        again = mounts.nydusd(golden / "v5-zstd/boot", golden / "v5-zstd/blobs", work_dir=tmp_path / "cache")
        assert numbers_of(again.mountpoint) == numbers
        assert again.stop() == 0


def test_owners_that_an_image_leaves_to_the_server_are_the_daemon_s(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    content = bytearray((golden / "v5-zstd/boot").read_bytes())
    content[16] &= ~SuperFlags.EXPLICIT_UID_GID & 0xFF
    boot.write_bytes(content)
    both = [mounts.nydusd(boot, golden / "v5-zstd/blobs", data_path=path) for path in ("fuse", "erofs")]
    by_fuse, by_erofs = (describe(daemon.mountpoint) for daemon in both)
    assert {(e["uid"], e["gid"]) for e in by_erofs} == {(os.geteuid(), os.getegid())}
    assert by_erofs == by_fuse
    assert [daemon.stop() for daemon in both] == [0, 0]


def test_an_image_that_cannot_be_laid_out_goes_by_fuse_and_says_why(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    content = bytearray((golden / "v5-zstd/boot").read_bytes())
    name = content.rindex(b"text-65537") - 128
    content[name + 88 : name + 92] = bytes(4)  # no links
    boot.write_bytes(content)
    words = [BIN / "nydus-run", "mode=fuse", "backend=localfs", f"backend.dir={golden}/v5-zstd/blobs", f"bootstrap={boot}"]
    words += [f"cache.work_dir={tmp_path}/cache", f"mountpoint={tmp_path}/mnt"]
    daemon = mounts.start(*words, "rafs.validate=false", mountpoint=tmp_path / "mnt")
    assert fs_type(daemon) == "fuse"
    assert "data path: fuse (the image cannot be laid out as EROFS: inode " in daemon.output
    assert (daemon.mountpoint / "sizes/text-65536").stat().st_size == 65536
    assert daemon.stop() == 0
    refused = mounts.start(*words, "mode.data_path=erofs", mountpoint=tmp_path / "mnt", wait=False)
    assert refused.process.wait(20) == 2
    (line,) = refused.output.splitlines()
    assert "mode.data_path=erofs: the image cannot be laid out as EROFS" in line


@pytest.mark.parametrize("name", ["v5-zstd", "v6-inline"])
def test_what_lies_in_memory_only_goes_by_fuse(name: str, golden: Path, golden_images: dict[str, dict], mounts: Mounts) -> None:
    """The kernel cannot mount EROFS from a file in tmpfs; the layout, or what was taken out of a blob, would be one."""
    if not any(m.path == "/dev/shm" and m.fs_type == "tmpfs" for m in mount_table()):
        pytest.skip("/dev/shm is no tmpfs")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as work_dir:
        boot = boot_of(golden, golden_images[name])
        daemon = mounts.nydusd(boot, golden / name / "blobs", work_dir=Path(work_dir))
        assert fs_type(daemon) == "fuse"
        assert differences(daemon.mountpoint, golden / golden_images[name]["manifest"]) == []
        assert daemon.stop() == 0


def test_a_session_of_devices_is_not_taken_over_with_a_file_tree(tmp_path: Path) -> None:
    nodes = (Node(b"/", DIR, first=2, count=1, nlink=2), Node(b"unsound", nlink=0))
    (tmp_path / "boot").write_bytes(Boot(nodes).encode())
    tree = Tree(
        bootstrap=str(tmp_path / "boot"), mountpoint=str(tmp_path), backend=Localfs(dir=str(tmp_path)),
        cache=Blobcache(work_dir=str(tmp_path)),
    )  # fmt: skip
    image = open_image(tree)
    try:
        attachment, reason = attach(tree, image)
        assert isinstance(attachment, FuseTree) and reason is not None and "cannot be laid out" in reason
        session = Session(str(tmp_path), "erofs", Settings(*(0 for _ in Settings._fields)), ("a" * 64,), fingerprint(image))
        with pytest.raises(ConfigError, match="one of EROFS"):
            attach(tree, image, session)
        with pytest.raises(ConfigError, match="one of another image"):
            attach(tree, image, session._replace(image="another"))
    finally:
        image.close()


def test_a_corrupt_chunk_is_eio_for_its_file_alone(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    """Also where it shares requests with others; and it is right once the blob is."""
    (source,) = (golden / "v5-none/blobs").iterdir()
    blobs = copy_blobs(golden, "v5-none", tmp_path / "blobs")
    right = (golden / "v5-none/blobs" / source.name).read_bytes()
    daemon = mounts.nydusd(golden / "v5-none/boot", source.parent)
    text, neighbour = ((daemon.mountpoint / f"sizes/text-{n}").read_bytes() for n in (65536, 65535))
    assert daemon.stop() == 0
    damaged = bytearray(right)
    damaged[right.index(text[:4096]) + 100] ^= 1
    (blobs / source.name).write_bytes(damaged)
    daemon = mounts.nydusd(golden / "v5-none/boot", blobs, digest_validate=True)
    assert fs_type(daemon) == "erofs"
    with pytest.raises(OSError, match="Input/output"):
        (daemon.mountpoint / "sizes/text-65536").read_bytes()
    assert (daemon.mountpoint / "sizes/text-65535").read_bytes() == neighbour
    (blobs / source.name).write_bytes(right)
    assert (daemon.mountpoint / "sizes/text-65536").read_bytes() == text
    assert daemon.stop() == 0

"""RAFS v5 laid out as EROFS: what is written is what was read, and what cannot be is refused."""

import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nydus_app.errors import InvalidImage, UnsupportedImage
from nydus_app.formats.erofs.addresses import AddressTable
from nydus_app.formats.erofs.image import ErofsImage, Owner
from nydus_app.formats.erofs.kept import decode_kept
from nydus_app.formats.erofs.structs import DIRENT, EXTENDED, FLAT_INLINE, FLAT_PLAIN, SUPERBLOCK, SUPERBLOCK_AT
from nydus_app.formats.erofs.xattrs import encode_xattrs
from nydus_app.formats.rafs.open import open_bootstrap
from nydus_app.formats.rafs.v5 import FLAG_XATTR, U32, U64, BootstrapV5
from v5_boot import DIR, FILE, LINK, Boot, Chunk, Node

ROOT = Node(b"/", DIR, 4096, nlink=3, first=2, count=3)
TREE = Boot(
    (
        ROOT,
        Node(b"a", FILE, 8192 + 5, chunks=(Chunk(0, 4096), Chunk(1, 4096), Chunk(7, 5, offset=99))),
        Node(b"d", DIR, 4096, nlink=2, first=5, count=1),
        Node(b"l", LINK, 6, target=b"target"),
        Node(b"inner", FILE, 5, chunks=(Chunk(7, 5, offset=99),)),
    )
)


def lay_out(boot: Boot | bytes, *, owner: Owner = None, verify: bool = False) -> tuple[bytes, list[AddressTable]]:
    """The mounted file and the address tables."""
    bootstrap = open_bootstrap(boot.encode() if isinstance(boot, Boot) else boot)
    assert isinstance(bootstrap, BootstrapV5)
    image = ErofsImage(bootstrap, owner=owner, verify=verify)
    content = bytes(SUPERBLOCK_AT) + b"".join(image.pieces())
    assert len(content) == image.size
    return content, image.tables


def inode_at(content: bytes, nid: int) -> tuple[int, ...]:
    return EXTENDED.unpack_from(content, nid * 32)


def names_in(content: bytes, nid: int) -> dict[bytes, int]:
    """A directory's names and nids."""
    form, icount, _, _, size, start, *_ = inode_at(content, nid)
    layout = form >> 1 & 7
    at = nid * 32 + 64 + (12 + 4 * (icount - 1) if icount else 0) if layout == FLAT_INLINE else start * 4096
    assert layout in (FLAT_INLINE, FLAT_PLAIN)
    assert layout == FLAT_PLAIN or at // 4096 == (at + size - 1) // 4096
    found = {}
    for block in range(at, at + size, 4096):
        end = min(block + 4096, at + size)
        count = DIRENT.unpack_from(content, block)[1] // 12
        dirents = [DIRENT.unpack_from(content, block + 12 * i) for i in range(count)]
        for (child, start, _), stop in zip(dirents, [d[1] for d in dirents[1:]] + [end - block], strict=True):
            found[content[block + start : block + stop].rstrip(b"\0")] = child
    assert list(found) == sorted(found)
    return found


def root_of(content: bytes) -> int:
    return SUPERBLOCK.unpack_from(content, SUPERBLOCK_AT)[5]


def test_each_named_chunk_gets_blocks_of_its_own_in_the_order_of_the_blob() -> None:
    _, (table,) = lay_out(TREE)
    assert (list(table.indexes), list(table.starts), table.blocks, table.longest_gap) == ([0, 1, 7], [0, 1, 2], 3, 5)


def test_files_of_one_chunk_share_its_address() -> None:
    content, _ = lay_out(TREE)
    root = names_in(content, root_of(content))
    inner = names_in(content, root[b"d"])[b"inner"]
    assert content[root[b"a"] * 32 + 64 : root[b"a"] * 32 + 88] == bytes.fromhex(
        "0000010000000000" "0000010001000000" "0000010002000000"
    )
    assert content[inner * 32 + 64 : inner * 32 + 72] == bytes.fromhex("0000010002000000")


def test_dots_lead_up_and_are_sorted_among_names_that_precede_them() -> None:
    names = [b"!", b"-x", b".", b"..", b"...", b"..two", b".hidden", b"a"]
    nodes = [Node(n) for n in names if n not in (b".", b"..")]
    content, _ = lay_out(Boot((replace(ROOT, count=len(nodes)), *nodes)))
    root = root_of(content)
    found = names_in(content, root)
    assert list(found) == names and found[b"."] == found[b".."] == root


@pytest.mark.parametrize("count", [1, 190, 191, 192, 193, 194, 400, 5000])
@pytest.mark.parametrize("xattrs", [(), ((b"user.x", b"v" * 700),)])
def test_directories_of_every_size_keep_all_names(count: int, xattrs: tuple) -> None:
    """Around 4096 - 64 bytes they move out of their inode, around each block they get another."""
    nodes = [Node(b"%07d%s" % (i, b"x" * (i % 3)), parent=2) for i in range(count)]
    directory = Node(b"d", DIR, nlink=2, first=3, count=count, xattrs=xattrs)
    content, _ = lay_out(Boot((replace(ROOT, count=1), directory, *nodes)))
    root = root_of(content)
    inside = names_in(content, names_in(content, root)[b"d"])
    assert inside.keys() == {n.name for n in nodes} | {b".", b".."}
    assert inside[b".."] == root
    assert len(set(inside.values())) == count + 2


@pytest.mark.parametrize("size", [1, 4000, 4032, 4033, 4095])
def test_targets_of_every_length_stay_whole(size: int) -> None:
    links = [Node(b"l%d" % i, LINK, size, target=b"t" * size) for i in range(5)]
    content, _ = lay_out(Boot((replace(ROOT, count=5), *links)))
    for name, nid in names_in(content, root_of(content)).items():
        if name.startswith(b"l"):
            form, _, _, _, length, start, *_ = inode_at(content, nid)
            at = nid * 32 + 64 if form >> 1 & 7 == FLAT_INLINE else start * 4096
            assert length == size and content[at : at + size] == b"t" * size
            assert at // 4096 == (at + size - 1) // 4096


def test_attributes_are_those_of_the_fuse_path() -> None:
    nodes = (
        replace(ROOT, mode=stat.S_IFDIR | 0o700, count=2),
        Node(b"dev", stat.S_IFCHR | 0o600, rdev=0x10_0A2C, nlink=4, mtime=(2**64 - 5, 7)),
        Node(b"s", FILE | 0o4000, uid=4_000_000_000, gid=0),
    )
    content, _ = lay_out(Boot(nodes))
    root = root_of(content)
    found = names_in(content, root)
    assert inode_at(content, root)[2] == DIR  # its permissions are always 0755
    assert inode_at(content, found[b"dev"])[5] == 0x10_0A2C
    assert inode_at(content, found[b"dev"])[9:] == (2**64 - 5, 7, 4)
    assert inode_at(content, found[b"s"])[2] == FILE | 0o4000
    assert inode_at(content, found[b"s"])[7:9] == (4_000_000_000, 0)
    content, _ = lay_out(Boot(nodes), owner=(5, 6))
    assert inode_at(content, names_in(content, root)[b"s"])[7:9] == (5, 6)


def test_hard_links_share_one_inode_whichever_name_comes_first() -> None:
    nodes = (
        replace(ROOT, count=3),
        Node(b"a", ino=3, nlink=2),
        Node(b"b", uid=77, nlink=2),
        Node(b"c", LINK, 6, target=b"target"),
    )
    content, _ = lay_out(Boot(nodes))
    found = names_in(content, root_of(content))
    assert found[b"a"] == found[b"b"]
    assert inode_at(content, found[b"a"])[7] == 77
    assert SUPERBLOCK.unpack_from(content, SUPERBLOCK_AT)[6] == 3


def test_the_same_bytes_give_the_same_image(golden: Path) -> None:
    boot = (golden / "v5-zstd/boot").read_bytes()
    assert lay_out(boot)[0] == lay_out(boot, verify=True)[0]


def test_a_blob_may_have_many_more_chunks_than_are_named() -> None:
    _, (named, none) = lay_out(replace(TREE, chunk_counts=(1 << 23, 1 << 23)))
    assert (list(named.indexes), named.blocks) == ([0, 1, 7], 3)
    assert (list(none.indexes), none.blocks) == ([], 0)
    with pytest.raises(UnsupportedImage):
        lay_out(replace(TREE, chunk_counts=(1 << 24, 1)))


A, D, L, INNER = TREE.nodes[1:]
REFUSED = {
    "a directory that is its own child": TREE.but(_3=replace(D, first=3)),
    "a directory cycle": TREE.but(_5=replace(INNER, mode=DIR, first=3, count=1, chunks=())),
    "a directory reached twice": TREE.but(_5=replace(INNER, mode=DIR, ino=3)),
    "children of two directories": TREE.but(_3=replace(D, first=2)),
    "children beyond the table": TREE.but(_3=replace(D, count=1000)),
    "the root as a child": TREE.but(_3=replace(D, first=1)),
    "an index with another's record": replace(TREE, places={2: 1}),
    "a link to nobody": TREE.but(_2=replace(A, ino=99)),
    "a link to a link": TREE.but(_2=replace(A, ino=4), _4=replace(L, ino=5)),
    "names out of order": TREE.but(_2=replace(A, name=b"z")),
    "a name twice": TREE.but(_2=replace(A, name=b"d")),
    "a slash": TREE.but(_2=replace(A, name=b"a/b")),
    "a NUL": TREE.but(_2=replace(A, name=b"a\0b")),
    "a dot": TREE.but(_2=replace(A, name=b".")),
    "two dots": TREE.but(_2=replace(A, name=b"..")),
    "no name": TREE.but(_2=replace(A, name=b"")),
    "a name of 256 bytes": TREE.but(_2=replace(A, name=b"a" * 256)),
    "a size of more chunks than records": TREE.but(_2=replace(A, size=3 * 4096 + 1)),
    "a size of 2^62": TREE.but(_2=replace(A, size=1 << 62)),
    "a size of 2^63": TREE.but(_2=replace(A, size=1 << 63)),
    "a chunk too short in the middle": TREE.but(_2=replace(A, chunks=(Chunk(0, 4096), Chunk(1, 4095), A.chunks[2]))),
    "a last chunk too short": TREE.but(_2=replace(A, chunks=(*A.chunks[:2], Chunk(2, 4)))),
    "one chunk of two digests": TREE.but(_5=replace(INNER, chunks=(replace(INNER.chunks[0], digest=b"e" * 32),))),
    "one chunk of two sizes": TREE.but(_5=replace(INNER, chunks=(replace(INNER.chunks[0], size=6),))),
    "one chunk at two places": TREE.but(_5=replace(INNER, chunks=(replace(INNER.chunks[0], offset=98),))),
    "a chunk of no blob": TREE.but(_5=replace(INNER, chunks=(replace(INNER.chunks[0], blob=1),))),
    "a chunk behind the blob's last": TREE.but(_5=replace(INNER, chunks=(replace(INNER.chunks[0], index=100),))),
    "a chunk of 17 MiB": TREE.but(_5=replace(INNER, chunks=(replace(INNER.chunks[0], index=9, size=17 << 20),))),
    "no kind": TREE.but(_2=replace(A, mode=0o644)),
    "a mode of 17 bits": TREE.but(_2=replace(A, mode=FILE | 1 << 16)),
    "no links": TREE.but(_2=replace(A, nlink=0)),
    "nanoseconds of more than a second": TREE.but(_2=replace(A, mtime=(0, 1_000_000_000))),
    "a root that is a file": TREE.but(_1=replace(ROOT, mode=FILE)),
    "a target of another size": TREE.but(_4=replace(L, size=7)),
    "a target of 4096 bytes": TREE.but(_4=replace(L, size=4096, target=b"t" * 4096)),
    "an xattr that EROFS has no prefix for": TREE.but(_4=replace(L, xattrs=((b"btrfs.compression", b"zstd"),))),
    "an xattr of 64 KiB": TREE.but(_4=replace(L, xattrs=((b"user.x", bytes(65536)),))),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_cannot_be_shown_is_refused(why: str) -> None:
    lay_out(TREE)
    with pytest.raises(InvalidImage):
        lay_out(REFUSED[why])


def test_digests_are_compared_where_that_is_asked_for(golden: Path) -> None:
    lay_out(TREE)
    with pytest.raises(InvalidImage, match="digest"):
        lay_out(TREE, verify=True)
    lay_out((golden / "v5-sha256/boot").read_bytes(), verify=True)


def test_records_that_overlap_do_not_grow_into_a_large_image() -> None:
    """Every 160 bytes a file with an xattr that is made of the 60,000 bytes behind it."""
    count, size = 2000, 60_000
    pair = U64.pack(size) + U32.pack(size - 4) + b"user.x\0"
    many = [Node(b"%07d" % i, flags=FLAG_XATTR, raw=pair) for i in range(count)]
    last = Node(b"z", raw=bytes(size))
    lay_out(Boot((replace(ROOT, count=2), many[0], last)))
    with pytest.raises(InvalidImage, match="overlap"):
        lay_out(Boot((replace(ROOT, count=count + 1), *many, last)))


@pytest.mark.parametrize("key", [b"", b"user", b"user.", b"security.", b"system.posix_acl_accessory", b"system.x", b"a\0b"])
def test_xattrs_that_cannot_be_said_are_refused_by_name(key: bytes) -> None:
    with pytest.raises(UnsupportedImage):
        encode_xattrs([(key, b"")])


@pytest.mark.parametrize("damaged", [b"", bytes(2000), b"NYDUSv5\0" + b"\1\0\0\0" + b"\xff" * 1500])
def test_a_kept_layout_is_bounded_by_its_file(damaged: bytes) -> None:
    with pytest.raises(InvalidImage):
        decode_kept(damaged)


NAMES = ["v5-none", "v5-sha256", "v5-chunk4k", "v5-merged", "v5-dict", "v5-layer-upper"]


@pytest.mark.skipif(shutil.which("fsck.erofs") is None, reason="erofs-utils are not installed")
@pytest.mark.parametrize("name", NAMES)
def test_fsck_finds_nothing(name: str, golden: Path, tmp_path: Path) -> None:
    content, tables = lay_out((golden / name / "boot").read_bytes())
    image = tmp_path / "image"
    image.write_bytes(content)
    devices = []
    for number, table in enumerate(tables):
        device = tmp_path / f"device{number}"
        with open(device, "wb") as f:
            f.truncate(table.blocks * 4096)
        devices.append(f"--device={device}")
    done = subprocess.run(["fsck.erofs", *devices, image], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""Blobs in partitions of a disk that sfdisk made."""

import os
import zlib
from pathlib import Path
from struct import pack, pack_into

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from disk import ALIGNED, BASIC_DATA, SECTOR, Wanted, blob_partition, make_disk
from mounting import Mounts
from nydus_app.errors import BackendError, BackendNotFound, InvalidImage
from nydus_app.formats.gpt import decode_header, decode_table
from nydus_app.storage.backend.localdisk import LocaldiskBackend
from over_backend import assert_tree, start_over, start_peer_over


@pytest.mark.parametrize("name", ["v5-merged", "v6-merged"])
def test_golden_image(name: str, data_path: str, golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    """Two blobs, one found by name and GUID, the other by the half of its id."""
    half, whole = sorted((golden / name / "blobs").iterdir())
    disk = make_disk(tmp_path / "disk", [blob_partition(half, basic=True), blob_partition(whole)])
    words = ["backend=localdisk", f"backend.device_path={disk}"]
    assert_tree(start_over(words, golden, name, mounts, tmp_path, data_path=data_path), golden, name)


def test_the_whole_disk_is_a_blob_where_gpt_is_disabled(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    (blob,) = (golden / "v6-zstd/blobs").iterdir()
    words = ["backend=localdisk", f"backend.device_path={blob}", "backend.disable_gpt=true"]
    assert_tree(start_over(words, golden, "v6-zstd", mounts, tmp_path), golden, "v6-zstd")


def test_nydusd_finds_the_same_partitions(golden: Path, mounts: Mounts, tmp_path: Path, peers: Path) -> None:
    blobs = sorted((golden / "v6-merged/blobs").iterdir())
    disk = make_disk(tmp_path / "disk", [blob_partition(blobs[0], basic=True), blob_partition(blobs[1])])
    options = {"device_path": str(disk)}
    assert_tree(start_peer_over("localdisk", options, golden, "v6-merged", mounts, tmp_path, peers), golden, "v6-merged")


CONTENT = bytes(range(256)) * 5
ID = "0123456789abcdef" * 4


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return make_disk(tmp_path / "disk", [Wanted(ID[:32], CONTENT, guid=ID[32:]), Wanted("half", CONTENT, BASIC_DATA)])


def test_reads_end_with_the_partition(disk: Path) -> None:
    reader = LocaldiskBackend(device_path=str(disk)).open_blob(ID)
    size = -(-len(CONTENT) // SECTOR) * SECTOR
    assert reader.pread(3, 1000) == CONTENT[3:1003]
    assert reader.pread(0, size) == CONTENT.ljust(size, b"\0")
    with pytest.raises(BackendError, match=f"partition 1: ends at {size}"):
        reader.pread(size - 1, 2)
    reader.close()


def test_a_blob_without_a_partition_is_missed_by_its_readers_alone(disk: Path) -> None:
    backend = LocaldiskBackend(device_path=str(disk))
    with pytest.raises(BackendNotFound, match="no partition is blob ffff"):
        backend.open_blob("f" * 64).pread(0, 1)


def _patch(disk: Path, offset: int, new: bytes) -> None:
    with open(disk, "r+b") as f:
        f.seek(offset)
        f.write(new)


@pytest.mark.parametrize("offset", [SECTOR, SECTOR + 24, SECTOR + 60, 2 * SECTOR + 60])
def test_a_damaged_first_table_is_replaced_by_the_second(
    offset: int, disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _patch(disk, offset, b"\xee")
    assert LocaldiskBackend(device_path=str(disk)).open_blob(ID).pread(0, 9) == CONTENT[:9]
    assert len(caplog.messages) == 1 and "the table at the disk's end is taken" in caplog.text


def test_the_second_table_is_found_on_a_disk_that_has_grown(disk: Path) -> None:
    with open(disk, "r+b") as f:
        f.truncate(disk.stat().st_size + 10 * SECTOR)
    _patch(disk, 2 * SECTOR, b"\xee")
    assert LocaldiskBackend(device_path=str(disk)).open_blob(ID).pread(0, 9) == CONTENT[:9]


def _both_tables(disk: Path, offset: int, new: bytes) -> None:
    """Change entries of both tables, checksums made anew: `offset` is from the table's first byte."""
    sectors = disk.stat().st_size // SECTOR
    for header_at, table_at in ((SECTOR, 2 * SECTOR), ((sectors - 1) * SECTOR, (sectors - 33) * SECTOR)):
        _patch(disk, table_at + offset, new)
        raw = disk.read_bytes()
        header = bytearray(raw[header_at : header_at + 92])
        pack_into("<I", header, 88, zlib.crc32(raw[table_at : table_at + 128 * 128]))
        pack_into("<I", header, 16, 0)
        pack_into("<I", header, 16, zlib.crc32(header))
        _patch(disk, header_at, bytes(header))


def _no_table(disk: Path) -> None:
    os.truncate(disk, 0)
    os.truncate(disk, 1 << 20)


BROKEN = {
    "no GPT": (_no_table, "there is none"),
    "a few bytes": (lambda disk: os.truncate(disk, 700), "no room for a GPT"),
    "cut": (lambda disk: os.truncate(disk, 2100 * SECTOR), "usable sectors"),
    "beyond": (lambda disk: _both_tables(disk, 40, pack("<Q", 1 << 60)), "partition 1: sectors"),
    "backwards": (lambda disk: _both_tables(disk, 40, pack("<Q", ALIGNED - 1)), "partition 1: sectors"),
    "nameless": (lambda disk: _both_tables(disk, 128 + 56, bytes(72)), "partition 2 has no name"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_tables_are_one_clear_line(kind: str, disk: Path) -> None:
    damage, said = BROKEN[kind]
    damage(disk)
    with pytest.raises(BackendError, match=said) as e:
        LocaldiskBackend(device_path=str(disk))
    assert str(e.value).startswith(f"{disk}: ") and "\n" not in str(e.value)


def test_two_partitions_of_one_name_are_refused(tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "disk", [Wanted("same", b"1", BASIC_DATA), Wanted("same", b"2", BASIC_DATA)])
    with pytest.raises(BackendError, match="partitions 1 and 2 are both same"):
        LocaldiskBackend(device_path=str(disk))


@pytest.mark.parametrize("broken", [True, False])
def test_a_start_names_what_is_wrong_before_anything_is_mounted(
    broken: bool, disk: Path, golden: Path, mounts: Mounts, tmp_path: Path
) -> None:
    if broken:
        _no_table(disk)
    else:
        disk.unlink()
    words = ["backend=localdisk", f"backend.device_path={disk}"]
    daemon = start_over(words, golden, "v6-zstd", mounts, tmp_path, wait=False)
    assert daemon.process.wait(20) == 1
    assert len(daemon.output.splitlines()) == 1
    assert str(disk) in daemon.output and ("GPT" if broken else "no such file") in daemon.output.replace("No s", "no s")


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_raise_one_family(data: st.DataObject) -> None:
    """With right checksums, so that what is behind them is reached."""
    table = bytearray(data.draw(st.binary(min_size=256, max_size=256)))
    header = bytearray(pack("<8s4I4Q16sQ3I", b"EFI PART", 1 << 16, 92, 0, 0, 1, 99, 34, 60, bytes(16), 2, 2, 128, zlib.crc32(table)))
    for _ in range(data.draw(st.integers(0, 2))):
        pack_into("<I", header, data.draw(st.integers(5, 22)) * 4, data.draw(st.integers(0, 2**32 - 1)))
    pack_into("<I", header, 16, 0)
    pack_into("<I", header, 16, zlib.crc32(header))
    try:
        decoded = decode_header(bytes(header).ljust(512, b"\0"), 1, 100)
        partitions = decode_table(bytes(table), decoded)
    except InvalidImage:
        return
    assert all(34 * 512 <= p.offset < p.offset + p.size <= 61 * 512 for p in partitions)

"""`nydusctl cache`: says what is there, repairs what is damaged, and hurts no daemon."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mounting import BIN, Mounts
from test_bounded_mount import digest, files

Ctl = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ctl(tmp_path: Path) -> Ctl:
    def run(step: str, *words: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "nydusctl", "cache", step, tmp_path / "cache", *map(str, words)], capture_output=True, text=True
        )

    return run


@pytest.fixture
def fill(golden: Path, mounts: Mounts, tmp_path: Path) -> Callable[..., dict[str, str]]:
    """Reads a whole image into the cache of this test; the digests of its files."""

    def run(name: str, overrides: str = "") -> dict[str, str]:
        daemon = mounts.nydusd(
            golden / name / "boot", golden / name / "blobs", work_dir=tmp_path / "cache", overrides=overrides
        )
        found = {file: digest(daemon.mountpoint / file) for file in files(daemon.mountpoint)}
        assert daemon.stop() == 0
        return found

    return run


def data_file(tmp_path: Path) -> Path:
    (found,) = [p for p in (tmp_path / "cache").iterdir() if p.name.endswith((".blob.data", ".blob.raw"))]
    return found


def damage(path: Path) -> None:
    """A page of 0xFF and a hole, in data that were written."""
    with open(path, "r+b") as f:
        f.seek(os.lseek(f.fileno(), 1 << 20, os.SEEK_DATA))
        f.write(b"\xff" * 4096)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("v5-zstd", ""), ("v6-lz4_block", "cache.compressed=true"), ("v5-zstd", "cache.enable_convergent_encryption=true")],
)
def test_damage_is_found_and_repaired(
    name: str, kind: str, golden: Path, tmp_path: Path, ctl: Ctl, fill: Callable[..., dict[str, str]]
) -> None:
    right = fill(name, kind)
    boot = ("--bootstrap", golden / name / "boot", *(["--convergent"] if "convergent" in kind else []))
    done = ctl("verify", *boot)
    assert (done.returncode, done.stderr) == (0, "") and " 0 damaged" in done.stdout
    damage(data_file(tmp_path))
    done = ctl("verify", *boot)
    assert done.returncode == 1 and " 0 damaged" not in done.stdout and ": chunk " in done.stdout
    done = ctl("verify", *boot, "--repair")
    assert done.returncode == 0 and "taken out" in done.stdout
    done = ctl("verify", *boot)
    assert done.returncode == 0 and " 0 damaged" in done.stdout
    assert fill(name, f"{kind} cache.validate=false rafs.validate=false") == right


def test_an_encrypted_cache_is_not_called_damaged_for_want_of_a_key(
    golden: Path, tmp_path: Path, ctl: Ctl, fill: Callable[..., dict[str, str]]
) -> None:
    key = bytes(range(32)).hex()
    fill("v6-lz4_block", f"cache.enable_encryption=true cache.encryption_key={key}")
    boot = ("--bootstrap", golden / "v6-lz4_block" / "boot")
    done = ctl("verify", *boot, "--repair")
    assert done.returncode == 1 and "encrypted (--key" in done.stdout and "taken out" not in done.stdout
    (tmp_path / "key").write_text(key + "\n")
    done = ctl("verify", *boot, "--key", tmp_path / "key")
    assert done.returncode == 0 and " 0 damaged" in done.stdout
    assert key not in done.stdout + done.stderr


def test_status_says_what_is_there_and_who_is_there(
    golden: Path, mounts: Mounts, tmp_path: Path, ctl: Ctl, fill: Callable[..., dict[str, str]]
) -> None:
    fill("v6-lz4_block", "cache.max_size=100000000")
    daemon = mounts.nydusd(golden / "v5-zstd/boot", golden / "v5-zstd/blobs", work_dir=tmp_path / "cache")
    digest(daemon.mountpoint / files(daemon.mountpoint)[0])
    done = ctl("status")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["blob", "kind", "chunks", "on", "disk", "asked", "for", "last", "written"]
    full = next(line for line in lines if "100%" in line)
    assert "plain" in full and "s ago" in full
    assert f"in use by process {daemon.process.pid}" in lines
    before = {p: p.stat() for p in (tmp_path / "cache").iterdir()}
    for words in (["gc", "--unused-for", "0"], ["verify", "--bootstrap", golden / "v6-lz4_block/boot"]):
        ctl(*words)
    assert {p: p.stat().st_mtime_ns for p in before} == {p: s.st_mtime_ns for p, s in before.items()}
    done = ctl("gc", "--unused-for", "0")
    assert done.returncode == 1 and f"is in use by process {daemon.process.pid}" in done.stderr


def test_gc_takes_what_is_old_or_too_much_or_left_behind(
    tmp_path: Path, ctl: Ctl, fill: Callable[..., dict[str, str]]
) -> None:
    fill("v5-zstd")
    old = {p for p in (tmp_path / "cache").iterdir()}
    for path in old:
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    fill("v6-lz4_block")
    left = tmp_path / "cache" / "x.blob.meta.4194305.tmp"  # above the largest number of a process
    left.write_bytes(b"x" * 10)
    names = lambda: {p.name for p in (tmp_path / "cache").iterdir()}  # noqa: E731
    before = names()
    done = ctl("gc", "--dry-run")
    assert done.returncode == 0 and "would be freed" in done.stdout and names() == before
    done = ctl("gc")
    assert done.returncode == 0 and "unused for 40 d" in done.stdout
    assert names() == before - {p.name for p in old} - {left.name}
    with open(data_file(tmp_path), "rb"):
        done = ctl("gc", "--max-size", "1M")
        assert "in use: it stays" in done.stdout and data_file(tmp_path)
    assert ctl("gc", "--max-size", "1M").returncode == 0
    assert not any(".blob.data" in name for name in names())


def test_what_cannot_be_right_is_dropped_without_an_image(
    tmp_path: Path, ctl: Ctl, fill: Callable[..., dict[str, str]]
) -> None:
    fill("v6-lz4_block")
    data_file(tmp_path).unlink()
    assert ctl("verify").returncode == 1
    done = ctl("verify", "--repair")
    assert done.returncode == 0 and "dropped" in done.stdout
    assert not list((tmp_path / "cache").glob("*.chunk_map"))


@pytest.mark.parametrize(
    ("words", "text"),
    [(["nonsense"], "choose from"), (["cache"], "STEP"), (["cache", "status"], "DIR"), (["cache", "gc", "/", "--max-size", "x"], "--max-size")],
)  # fmt: skip
def test_wrong_words_end_with_status_two(words: list[str], text: str) -> None:
    done = subprocess.run([BIN / "nydusctl", *words], capture_output=True, text=True)
    assert done.returncode == 2 and text in done.stderr and "Traceback" not in done.stderr

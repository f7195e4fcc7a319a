"""nydusd's log format, rotation, and a log that cannot be written."""

import errno
import gzip
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from nydus_app.daemon.log import hold_log, open_log, set_level
from nydus_app.daemon.log_rotation import RotatedFile
from nydus_app.errors import ConfigError, ConfigFileError

log = logging.getLogger("nydus.test")
STAMP = r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} [+-]\d\d:\d\d\]"


def test_lines_and_the_added_extension(tmp_path: Path) -> None:
    open_log("info", str(tmp_path / "x"), 0)
    log.info("hello %s", "you")
    log.warning("careful")
    log.debug("not shown")
    first, second = (tmp_path / "x.log").read_text().splitlines()
    assert re.fullmatch(STAMP + " INFO hello you", first)
    assert re.fullmatch(STAMP + r" WARN \[daemon/test_log\.py:\d+\] careful", second)


def test_levels_change_at_run_time(tmp_path: Path) -> None:
    open_log("error", str(tmp_path / "x.txt"), 0)
    log.info("1")
    set_level("DEBUG")
    log.debug("2")
    set_level("off")
    log.error("3")
    assert [line[-1] for line in (tmp_path / "x.txt").read_text().splitlines()] == ["2"]
    with pytest.raises(ConfigError, match="loud"):
        set_level("loud")


def test_what_is_said_early_comes_first(tmp_path: Path) -> None:
    hold_log()
    log.warning("early")
    open_log("info", str(tmp_path / "x"), 0)
    log.info("late")
    assert [line.split()[-1] for line in (tmp_path / "x.log").read_text().splitlines()] == ["early", "late"]


def test_rotation_keeps_ten_compressed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_log("info", str(tmp_path / "x.log"), 1)
    for _ in range(2):
        log.info("y" * (600 << 10))
    assert (tmp_path / "x_rCURRENT.log").exists() and not (tmp_path / "x.log").exists()
    packed_away()
    (packed,) = tmp_path.glob("x_r2*.log.gz")
    assert len(gzip.decompress(packed.read_bytes())) > 600 << 10
    for year in range(2000, 2020):
        (tmp_path / f"x_r{year}-01-01_00-00-00.log.gz").write_bytes(b"")
    os.rename(packed, tmp_path / "x_r2020-01-01_00-00-00.log.gz")  # or all is within one second
    log.info("z" * (600 << 10))
    log.info("z" * (600 << 10))
    packed_away()
    assert len(list(tmp_path.glob("x_r2*"))) == 9


def packed_away() -> None:
    (handler,) = logging.getLogger("nydus").handlers
    assert isinstance(handler, RotatedFile)
    handler.wait_until_packed()


def test_who_logs_does_not_wait_for_what_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the loop's thread, mostly; 100 MiB take seconds."""
    may_pack, packing = threading.Event(), threading.Event()
    gzip_open = gzip.open

    def slow(*args: object, **named: object) -> object:
        packing.set()
        assert may_pack.wait(20)
        return gzip_open(*args, **named)

    monkeypatch.setattr(gzip, "open", slow)
    open_log("info", str(tmp_path / "x.log"), 1)
    for _ in range(3):
        log.info("y" * (600 << 10))
    assert packing.wait(20) and not list(tmp_path.glob("*.gz"))
    may_pack.set()
    packed_away()
    assert len(list(tmp_path.glob("x_r2*.log.gz"))) == 1


def test_a_daemon_that_ends_leaves_what_it_was_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (ended := tmp_path / "x_r2020-01-01_00-00-00.log").write_bytes(b"y" * (64 << 20))
    handler = RotatedFile(str(tmp_path / "x"), ".log", 1 << 20)
    handler._is_closed = True
    handler._pack_all()
    assert [p.name for p in tmp_path.glob("x_r2*")] == [ended.name]
    handler._is_closed = False
    handler._pack_all()
    assert [p.name for p in tmp_path.glob("x_r2*")] == [f"{ended.name}.gz"]
    handler.close()


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full.log").symlink_to("/dev/full")
    open_log("info", str(tmp_path / "full.log"), 0)
    for _ in range(3):
        log.info("lost")
    assert capfd.readouterr().err.count("cannot write the log") == 1


def test_standard_error_without_a_reader_raises_nothing() -> None:
    code = "import logging; from nydus_app.daemon.log import open_log; open_log('info', None, 0)\n"
    code += "for _ in range(3): logging.getLogger('nydus.test').info('lost')\nprint('alive')"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=writer, text=True)
    os.close(writer)
    assert done.stdout == "alive\n"


def test_a_log_that_cannot_be_packed_away_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It stays as it is, and is packed with the next one."""

    def full(*_: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    open_log("info", str(tmp_path / "x.log"), 1)
    with monkeypatch.context() as broken:
        broken.setattr(gzip, "open", full)
        for number in range(3):
            log.info("%d %s", number, "y" * (600 << 10))
        packed_away()
    (ended,) = tmp_path.glob("x_r2*")
    assert [line.split()[4] for line in ended.read_text().splitlines()] == ["0"]
    assert capfd.readouterr().err.count("cannot write the log") == 1
    ended = ended.rename(tmp_path / "x_r2020-01-01_00-00-00.log")
    log.info("z" * (2 << 20))
    packed_away()
    packed = sorted(tmp_path.glob("x_r2*"))
    assert [p.suffix for p in packed] == [".gz", ".gz"]
    assert len(gzip.decompress(packed[0].read_bytes()).splitlines()) == 1


def test_a_log_that_cannot_be_renamed_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    open_log("info", str(tmp_path / "x.log"), 1)
    with monkeypatch.context() as broken:
        broken.setattr(os, "rename", denied)
        for number in range(4):
            log.info("%d %s", number, "y" * (600 << 10))
    current = tmp_path / "x_rCURRENT.log"
    assert [line.split()[4] for line in current.read_text().splitlines()] == ["0", "1", "2", "3"]
    assert capfd.readouterr().err.count("cannot write the log") == 1


def test_missing_directories_are_made_and_odd_names_written(tmp_path: Path) -> None:
    open_log("info", str(tmp_path / "a" / "b" / "x"), 0)
    log.info("serving at %s", os.fsdecode(b"/m\xff"))
    assert (tmp_path / "a/b/x.log").read_text().endswith("serving at /m\\udcff\n")


def test_a_log_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigFileError, match="its directory is a file"):
        open_log("info", str(tmp_path / "file" / "x"), 0)

"""nydusd's flags: what they become, which lines are wrong, and the same exit status as the real one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nydus_app.cli import nydusd
from nydus_app.config.classic_flags import UsageError, parse, to_overrides
from nydus_app.config.overrides import compose
from nydus_app.config.tree import FailoverPolicy, Fuse, LogLevel, Singleton, Tree, Virtiofs
from nydus_app.errors import ConfigFileError


def tree(*words: str) -> Tree:
    return compose(to_overrides(parse(words)))


def test_without_a_word_it_is_fuse() -> None:
    words = ("-M", "/m", "-B", "/b", "-D", "/d")
    assert tree(*words) == tree("fuse", *words)
    assert isinstance(tree(*words).mode, Fuse)


def test_a_line_of_containerds_snapshotter() -> None:
    got = tree(
        "fuse", "--thread-num", "10", "--id", "x", "--mountpoint", "/m", "--apisock", "/s", "--log-level", "warn",
        "--log-rotation-size", "100", "--supervisor", "/v", "--log-file", "/l", "--failover-policy", "flush",
    )  # fmt: skip
    assert got.mode == Fuse(threads=10, failover_policy=FailoverPolicy.flush)
    assert (got.mountpoint, got.api.sock, got.daemon.id, got.daemon.supervisor) == ("/m", "/s", "x", "/v")
    assert (got.log.level, got.log.file, got.log.rotation_size) == (LogLevel.warn, "/l", 100)
    assert got.bootstrap is None
    assert got.daemon.rlimit_nofile == 1_000_000


def test_a_localfs_directory_is_a_whole_configuration() -> None:
    got = tree("-M", "/m", "-B", "/b", "-D", "/d")
    assert (got.backend.dir, got.cache.work_dir) == ("/d", "/d")
    assert not got.cache.validate and not got.rafs.validate and not got.rafs.enable_xattr
    assert not got.prefetch.enable


@pytest.mark.parametrize(
    "words",
    [
        ["-M/m"], ["-M=/m"], ["-M", "/m"], ["--mountpoint=/m"], ["--mountpoint", "/m"], ["-M", "/m", "--"],
        ["-C", "/nonexistent", "-M", "/m"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_spellings_of_a_value(words: list[str]) -> None:
    assert tree(*words).mountpoint == "/m"


def test_values_that_look_odd_are_values() -> None:
    assert tree("-M", "-").mountpoint == "-"
    assert tree("--mountpoint=a=b").mountpoint == "a=b"
    assert tree("-M", "/m", "--id", "", "--supervisor", "").daemon.id == ""
    assert tree("-M", "/m", "--fuse-threads", "+4").mode.threads == 4
    assert tree("-M", "/m", "--rlimit-nofile", "+0").daemon.rlimit_nofile == 0


def test_other_modes_parse_whole() -> None:
    virtiofs = tree("virtiofs", "--sock", "/s", "--hybrid-mode", "-B", "/b", "-D", "/d")
    assert virtiofs.mode == Virtiofs(sock="/s", hybrid_mode=False)
    assert virtiofs.mountpoint is None
    singleton = tree("singleton", "-F", "/f", "--fscache-tag", "t", "--fscache-threads", "7", "-C", "/c")
    assert singleton.mode == Singleton(fscache="/f", fscache_tag="t", fscache_threads=7, blobs_file="/c")
    assert tree("-M", "/m", "-s", "/d", "-m", "/v", "--upgrade").shared_dir == "/d"


def test_dedup_has_no_effect_behind_a_subcommand(caplog: pytest.LogCaptureFixture) -> None:
    assert tree("-M", "/m", "--dedup-db", "/x").daemon.dedup_db == "/x"
    caplog.set_level("WARNING", "nydus")
    assert tree("fuse", "-M", "/m", "--dedup-db", "/x").daemon.dedup_db is None
    assert "--dedup-db has no effect" in caplog.text


def test_prefetch_files_do_not_want_a_bootstrap_that_is_forbidden() -> None:
    assert tree("-M", "/m", "-s", "/d", "--prefetch-files", "/p").prefetch_files == "/p"


def test_the_environment_gives_a_registrys_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = '{"type": "registry", "config": {"host": "h", "repo": "r", "auth": "file"}}'
    (tmp_path / "c").write_text(f'{{"device": {{"backend": {backend}}}, "mode": "direct"}}')
    words = ("-M", "/m", "-B", "/b", "-C", str(tmp_path / "c"))
    assert tree(*words).backend.auth == "file"
    monkeypatch.setenv("IMAGE_PULL_AUTH", "environment")
    assert tree(*words).backend.auth == "environment"


WRONG: list[tuple[list[str], str]] = [
    (["fuse"], "--mountpoint"),
    ([], "--mountpoint"),
    (["-M"], "a value is required for '--mountpoint"),
    (["-M", "-x"], "a value is required"),
    (["-M", "/m", "extra"], "unexpected argument 'extra'"),
    (["-M", "/m", "--", "x"], "unexpected argument 'x'"),
    (["--mountpiont", "/m"], "did you mean '--mountpoint'?"),
    (["-M", "/m", "-M", "/m"], "multiple times"),
    (["-M", "/m", "--mountpoint=/m"], "multiple times"),
    (["-M", "/m", "--fuse-threads", "4", "--thread-num", "4"], "multiple times"),
    (["-M", "/m", "--writable", "--writable"], "multiple times"),
    (["-M", "/m", "--writable=yes"], "unexpected value 'yes'"),
    (["-M", "/m", "--fuse-threads", "0"], "invalid thread number 0, valid range: [1-1024]"),
    (["-M", "/m", "--fuse-threads", "1025"], "valid range: [1-1024]"),
    (["-M", "/m", "--fuse-threads", "x"], "invalid thread number configuration: x"),
    (["-M", "/m", "--fuse-threads", " 4"], "invalid thread number configuration"),
    (["-M", "/m", "--fuse-threads", "1_0"], "invalid thread number configuration"),
    (["-M", "/m", "--fuse-threads", "٤"], "invalid thread number configuration"),
    (["-M", "/m", "--fuse-threads", "9" * 30], "invalid thread number"),
    (["-M", "/m", "--fuse-threads="], "invalid thread number configuration"),
    (["-M", "/m", "--failover-policy", "Resend"], "possible values: none, resend, flush"),
    (["-M", "/m", "-l", "INFO"], "possible values: trace, debug, info, warn, error"),
    (["-M", "/m", "-l", ""], "possible values"),
    (["-M", "/m", "--id", "x"], "--supervisor"),
    (["singleton", "--supervisor", "x"], "--id"),
    (["-M", "/m", "-B", "/b", "-s", "/s"], "cannot be used with '--shared-dir'"),
    (["-M", "/m", "-D", "/d", "-C", "/c"], "cannot be used with '--config'"),
    (["-M", "/m", "--prefetch-files", "/p"], "--bootstrap"),
    (["-M", "/m", "--backend-source", "x"], "unexpected argument '--backend-source'"),
    (["singleton", "--fscache-tag", "t"], "--fscache"),
    (["singleton", "-M", "/m"], "unexpected argument '-M'"),
    (["virtiofs", "-B", "/b"], "--sock"),
    (["fuse", "-V"], "unexpected argument '-V'"),
    (["fues"], "did you mean 'fuse'?"),
    (["-l", "debug", "fuse", "-M", "/m"], "'fuse' must come first"),
    (["nbd", "/dev/nbd0"], "'nbd' is not supported"),
    (["uffd", "--sock", "/s"], "'uffd' is not supported"),
    (["help", "nope"], "unrecognized subcommand 'nope'"),
    (["help", "fuse", "x"], "unrecognized subcommand 'x'"),
    (["help", "--help"], "unrecognized subcommand '--help'"),
    (["-M", "m\udcff"], "invalid UTF-8"),
    (["-M", "/m", "--print-overrides", "--print-recipe"], "cannot be used"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[ascii(" ".join(w)) for w, _ in WRONG])
def test_wrong_usage(words: list[str], said: str) -> None:
    with pytest.raises(UsageError) as wrong:
        parse(words)
    assert said in str(wrong.value)
    assert wrong.value.exit_code == 2


@pytest.mark.parametrize("flag", ["--log-rotation-size", "--rlimit-nofile"])
@pytest.mark.parametrize("value", ["x", "", "1.5", "1_0", "9" * 21, str(1 << 64)])
def test_numbers_that_nydusd_reads_late(flag: str, value: str) -> None:
    with pytest.raises(ConfigFileError) as wrong:
        parse(["-M", "/m", flag, value])
    assert wrong.value.exit_code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--help"], "Usage: nydusd [OPTIONS] --mountpoint <mountpoint>"),
        (["-hX"], "Commands:"),
        (["-M", "/m", "-h"], "Commands:"),
        (["help"], "Commands:"),
        (["help", "help"], "Commands:"),
        (["help", "singleton"], "--fscache-tag"),
        (["fuse", "-h"], "--mountpoint"),
        (["virtiofs", "--help"], "--sock"),
        (["--version"], "Version: \tv2.4.4\n"),
        (["-V"], "Git Commit:"),
    ],
)
def test_what_is_asked_is_printed(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert nydusd.run(words) == 0
    out, err = capsys.readouterr()
    assert said in out
    assert not err
    assert "thread-num" not in out


def test_the_version_is_found_as_callers_look_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    nydusd.run(["--version"])
    out = capsys.readouterr().out
    assert re.search(r"Version:\s+v(\d+\.\d+\.\d+)\b", out)
    assert [line.split(":")[0] for line in out.splitlines() if ":" in line] == [
        "Version", "Git Commit", "Build Time", "Profile", "Rustc",
    ]  # fmt: skip


LIKE_THE_PEER = [
    *(w for w, said in WRONG if w[:1] not in (["virtiofs"], ["nbd"], ["uffd"]) and "--print-recipe" not in w),
    ["--help"], ["-hX"], ["-Vh"], ["help", "fuse"], ["help", "help"], ["fuse", "-h"], ["--version"], ["--version=3"],
    ["-M", "/m", "--log-rotation-size", "x"], ["-M", "/m", "--rlimit-nofile", "x"], ["-M", "/m", "--rlimit-nofile", ""],
    ["-M", ".", "-B", "/nonexistent"],
    ["-M", ".", "-B", "/nonexistent", "-D", "/tmp", "--rlimit-nofile", "0"],
    ["-M", ".", "-B", "/nonexistent", "-C", "/nonexistent"],
    ["-M", "/nonexistent", "-B", "/dev/null", "-D", "/tmp", "--rlimit-nofile", "0"],
    ["-M", ".", "-B", "/dev/null", "-D", "/tmp", "--prefetch-files", "/nonexistent", "--rlimit-nofile", "0"],
    ["-M", "", "-B", "/dev/null", "-D", "/tmp"],
    ["-M", ".", "-B", "", "-D", "/tmp"],
    ["-M", ".", "-B", "/dev/null", "-C", ""],
]  # fmt: skip


def test_exit_statuses_are_the_peers(peers: Path, tmp_path: Path) -> None:
    """All lines of LIKE_THE_PEER end before anything is mounted."""
    differing = []
    for words in LIKE_THE_PEER:
        arguments = [os.fsencode(w) for w in words]
        theirs = subprocess.run([peers / "nydusd", *arguments], cwd=tmp_path, capture_output=True, timeout=20)
        ours = subprocess.run(
            [sys.executable, "-m", "nydus_app.cli.nydusd", *arguments], cwd=tmp_path, capture_output=True, timeout=20
        )
        assert b"Traceback" not in ours.stderr
        if theirs.returncode != ours.returncode:
            differing.append((words, theirs.returncode, ours.returncode))
    assert not differing

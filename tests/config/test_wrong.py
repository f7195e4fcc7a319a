"""Wrong command lines, trees and files: one line that names the cause, the right exit status, no secret."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from nydus_app.cli import nydusd
from nydus_app.cli import run as nydus_run
from nydus_app.config.check import check
from nydus_app.config.overrides import Override, compose
from nydus_app.errors import ConfigError
from nydus_app.linux.mount import mounts

IMAGE = Path(__file__).parent.parent / "images/v6"
SECRET = "dXNlcjpzZWNyZXQtcGFzc3dk"  # user:secret-passwd
GOOD = ["backend.dir={tmp}", "bootstrap={boot}", "mountpoint={mnt}", "cache.work_dir={tmp}/cache"]
REGISTRY = ["backend=registry", "backend.host=h", "backend.repo=r", "bootstrap={boot}", "mountpoint={mnt}"]

# words after GOOD, exit status, words that the line must hold
RUN: list[tuple[list[str], int, list[str]]] = [
    (["backend.dri=/x"], 2, ["backend.dri", "did you mean `backend.dir`"]),
    (["backend.Dir=/x"], 2, ["backend.Dir", "backend.dir"]),
    (["bakend=localfs"], 2, ["bakend", "did you mean `backend`"]),
    (["mode.thread=3"], 2, ["mode.thread", "mode.threads"]),
    (["log.lvl=info"], 2, ["log.lvl", "log.level"]),
    (["montpoint=/mnt"], 2, ["montpoint", "mountpoint"]),
    (["cache.prefetch.treads=3"], 2, ["cache.prefetch.treads", "cache.prefetch.threads"]),
    (["rafs.batch=3"], 2, ["rafs.batch"]),
    (["backend.dir.x=3"], 2, ["backend.dir"]),
    (["+backend.dri=3"], 2, ["+backend.dri", "cannot be added", "backend.dir"]),
    (["+bogus=3"], 2, ["+bogus", "cannot be added"]),
    (["+backnd=localfs"], 2, ["+backnd", "backend"]),
    (["++backend.dir=/x"], 2, ["cannot be added", "backend.dir=…"]),
    (["++new.key=1"], 2, ["++new.key", "cannot be added"]),
    (["+backend=oss"], 2, ["+backend", "cannot be added", "backend=…"]),
    (["~backend"], 2, ["~backend", "cannot be removed"]),
    (["~backend.dir"], 2, ["~backend.dir", "cannot be removed"]),
    (["mode.threads=many"], 2, ["mode.threads=many", "whole number"]),
    (["mode.threads=1.5"], 2, ["mode.threads=1.5", "whole number"]),
    (["mode.threads=true"], 2, ["mode.threads=true", "whole number"]),
    (["mode.threads=0"], 2, ["mode.threads=0", "1 to 1024"]),
    (["mode.threads=1025"], 2, ["mode.threads=1025", "1 to 1024"]),
    (["mode.threads=null"], 2, ["mode.threads"]),
    (["mode.threads=[1,2]"], 2, ["mode.threads"]),
    (["cache.validate=maybe"], 2, ["cache.validate=maybe", "true or false"]),
    (["mode.writable=2x"], 2, ["mode.writable=2x", "true or false"]),
    (["mode.failover_policy=resent"], 2, ["mode.failover_policy=resent", "resend", "flush"]),
    (["log.level=loud"], 2, ["log.level=loud", "trace", "error"]),
    (["rafs.mode=mapped"], 2, ["rafs.mode=mapped", "direct", "cached"]),
    (["rafs.batch_size=1e3"], 2, ["rafs.batch_size=1e3", "whole number"]),
    (["rafs.batch_size=-1"], 2, ["rafs.batch_size=-1", "256 MiB"]),
    (["rafs.batch_size=268435457"], 2, ["rafs.batch_size", "256 MiB"]),
    (["prefetch.enable=true", "prefetch.threads=1025"], 2, ["prefetch.threads=1025", "1 to 1024", "0 is off"]),
    (["recording.time=-1"], 2, ["recording.time=-1"]),
    (["recording.save=''"], 2, ["recording.save"]),
    (["recording.save=/nowhere/at/all"], 1, ["recording.save", "/nowhere/at"]),
    (["recording.replay=/nowhere/at/all"], 1, ["recording.replay", "/nowhere/at/all"]),
    (["prefetch.enable=true", "prefetch.batch_size=999999999"], 2, ["prefetch.batch_size"]),
    (["backend.alt_dirs=/x"], 2, ["backend.alt_dirs=/x", "list"]),
    (["backend.dir=[a]"], 2, ["backend.dir=[a]", "text"]),
    (["backend.dir={a:b}"], 2, ["backend.dir", "text"]),
    (["backend=ftp"], 2, ["backend=ftp", "localfs", "registry"]),
    (["backend=base_localfs"], 2, ["backend=base_localfs"]),
    (["mode=null"], 2, ["mode=null", "no such choice", "fuse"]),
    (["cache=null"], 2, ["cache=null", "no such choice", "blobcache"]),
    (["log=null"], 2, ["log=null", "no such choice"]),
    (["mode=fuze"], 2, ["mode=fuze", "did you mean `fuse`"]),
    (["cache=blobcash"], 2, ["cache=blobcash", "did you mean `blobcache`"]),
    (["log=quiet"], 2, ["log=quiet", "default"]),
    (["+recipe=lokal"], 2, ["recipe=lokal", "did you mean `local`"]),
    (["recipe=local"], 2, ["+recipe=local"]),
    (["backend.dir=/a,/b"], 2, ["backend.dir", "sweep"]),
    (["backend.dir=???"], 2, ["backend.dir", "???"]),
    (["backend.dir=/x=y"], 2, ["backend.dir", "quote", "backend.dir='…'"]),
    (["backend.dir=/x(y"], 2, ["backend.dir", "quote"]),
    (["backend.dir=~/x{"], 2, ["backend.dir", "quote"]),
    (["backend.dir='/x"], 2, ["backend.dir", "quote"]),
    (["backend.dir=${oc.env:NYDUS_NO_SUCH}"], 2, ["backend.dir", "NYDUS_NO_SUCH", "not set"]),
    (["backend.dir=${nope}"], 2, ["backend.dir", "nope"]),
    (["bootstrap"], 2, ["bootstrap", "key=value"]),
    (["hydra.run.dir=/x"], 2, ["hydra.run.dir", "fixed"]),
    (["hydra/launcher=joblib"], 2, ["hydra/launcher", "fixed"]),
    (["--bogus"], 2, ["--bogus"]),
    (["--hlep"], 2, ["--hlep", "did you mean `--help`"]),
    (["--dry-run"], 1, ["boot", "no RAFS bootstrap"]),
    (["--cfg", "jobs"], 2, ["--cfg", "job"]),
    (["-sc"], 2, ["-sc", "install=bash"]),
    (["-sc", "install=ksh"], 2, ["-sc", "bash, zsh or fish"]),
    (["=3"], 2, ["key=value"]),
    (["-m"], 2, ["-m", "sweep"]),
    (["--multirun", "mode.threads=1,2"], 2, ["sweep"]),
    (["--config-dir", "{gone}"], 2, ["/gone"]),
    (["mode=virtiofs", "mode.sock=/s"], 2, ["mode=virtiofs", "not supported"]),
    (["mode=singleton"], 2, ["mode=singleton", "not supported"]),
    (["cache=fscache"], 2, ["cache=fscache", "not supported"]),
    (["cache.enable_encryption=true", "cache.encryption_key=abc"], 2, ["cache.encryption_key", "64 hexadecimal"]),
    (["cache.work_dir=''"], 2, ["cache.work_dir", "empty"]),
    (["virtual_mountpoint=/a"], 2, ["virtual_mountpoint", "not supported"]),
    (["virtual_mountpoint=a"], 2, ["virtual_mountpoint=a", "absolute"]),
    (["daemon.upgrade=true"], 2, ["daemon.upgrade", "not supported"]),
    (["daemon.id=x"], 2, ["daemon.supervisor", "both"]),
    (["shared_dir=/x"], 2, ["shared_dir"]),
    (["bootstrap=null"], 2, ["bootstrap", "not supported"]),
    (["mountpoint=null"], 2, ["mountpoint"]),
    (["log.rotation_size=-1"], 2, ["log.rotation_size=-1"]),
    (["api.sock=/" + "x" * 120], 2, ["api.sock", "107"]),
    (["bootstrap={gone}/boot"], 1, ["/gone", "No such file"]),
    (["bootstrap={tmp}"], 1, ["bootstrap", "directory"]),
    (["mountpoint={gone}"], 1, ["mountpoint", "/gone"]),
    (["mountpoint={boot}"], 1, ["mountpoint", "no directory"]),
    (["backend.dir={gone}"], 1, ["backend.dir", "/gone"]),
    (["prefetch_files={gone}"], 1, ["prefetch_files", "/gone"]),
    (["prefetch_files={relative}"], 1, ["prefetch_files", "line 3"]),
    (["api.sock={gone}/s"], 1, ["api.sock", "/gone"]),
    (["log.file={tmp}"], 1, ["log.file", "directory"]),
    (["log.file={boot}/new/l"], 1, ["log.file", "no directory"]),
]
HTTP: list[tuple[list[str], int, list[str]]] = [
    (["backend.mirrors=[{headers:{a:'???'}}]"], 2, ["missing", "backend.mirrors"]),
    (["backend.min_rate=-1"], 2, ["backend.min_rate=-1", "bytes a second"]),
    (["backend.host=http://h"], 2, ["backend.host", "HOST:PORT"]),
    (["backend.repo='a b'"], 2, ["backend.repo=a b", "team/app"]),
    (["backend.scheme=ftp"], 2, ["backend.scheme=ftp", "https"]),
    (["backend.client_key_file=/k"], 2, ["backend.client_key_file", "backend.client_cert_file"]),
    (["backend.ca_cert_files=[{gone}]"], 1, ["backend.ca_cert_files[0]", "/gone"]),
    (["backend.client_cert_file={gone}"], 1, ["backend.client_cert_file", "/gone"]),
]
SECRETS: list[tuple[list[str], int, list[str]]] = [
    (["backend.auth=" + SECRET + "=="], 2, ["backend.auth", "quote", "backend.auth='…'"]),
    (["backend.auth=[" + SECRET + "]"], 2, ["backend.auth", "text"]),
    (["backend.auth={" + SECRET + ":1}"], 2, ["backend.auth"]),
    (["backend.auth=" + SECRET + "x"], 2, ["backend.auth", "base64 of user:password"]),
    (["backend.proxy.url=ftp://u:" + SECRET + "@p"], 2, ["backend.proxy.url", "http://HOST"]),
    (["backend.mirrors=[{host:'http://u:" + SECRET + "@a b'}]"], 2, ["backend.mirrors[0].host", "HOST"]),
    (["backend.mirrors=[{host:'u:" + SECRET + "@mirror.example'}]"], 2, ["backend.mirrors[0].host", "http://HOST"]),
    (["backend.auth=" + SECRET, "backend.hots=x"], 2, ["backend.hots", "backend.host"]),
    (["backend.auth=" + SECRET, "-m"], 2, ["sweep"]),
    (["backend.auth=" + SECRET, "backend.timeout=x"], 2, ["backend.timeout=x"]),
    (["backend.registry_token='" + SECRET], 2, ["backend.registry_token", "quote"]),
    (["backend.proxy.url=http://u:" + SECRET + "@p=x"], 2, ["backend.proxy.url", "quote"]),
    (["backend.proxy.check_interval=http://u:" + SECRET + "@p"], 2, ["backend.proxy.check_interval", "whole number"]),
    (["backend.mirrors=http://u:" + SECRET + "@p"], 2, ["backend.mirrors", "list"]),
]


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "mnt").mkdir()
    (tmp_path / "boot").write_bytes(b"no bootstrap")
    (tmp_path / "relative").write_text("/ok\n\nbad\n")
    names = {"tmp": tmp_path, "boot": tmp_path / "boot", "mnt": tmp_path / "mnt", "relative": tmp_path / "relative", "gone": tmp_path / "gone"}
    return {k: str(v) for k, v in names.items()}


Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, places: dict[str, str]) -> Call:
    """Run a command's main; its exit status and standard error."""

    def one(main: Callable[[], None], words: list[str]) -> tuple[int, str]:
        filled = [_fill(w, places) for w in words]
        monkeypatch.setattr("sys.argv", ["program", *filled])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capfd.readouterr()
        assert not [m for m in mounts() if m.path.startswith(places["tmp"])]
        assert SECRET not in out + err
        assert "Traceback" not in err
        return int(end.value.code or 0), err

    return one


def _fill(word: str, places: dict[str, str]) -> str:
    for name, value in places.items():
        word = word.replace("{" + name + "}", value)
    return word


def check_line(status: int, err: str, want_status: int, words: list[str]) -> None:
    assert status == want_status, err
    assert len(err.strip().splitlines()) == 1, err
    for word in words:
        assert word in err


@pytest.mark.parametrize(("words", "status", "said"), RUN, ids=[" ".join(w)[:60] for w, _, _ in RUN])
def test_nydus_run(words: list[str], status: int, said: list[str], call: Call) -> None:
    check_line(*call(nydus_run.main, [*GOOD, *words]), status, said)


@pytest.mark.parametrize(("words", "status", "said"), HTTP, ids=lambda v: str(v[0]) if isinstance(v, list) else None)
def test_http_backends(words: list[str], status: int, said: list[str], call: Call) -> None:
    check_line(*call(nydus_run.main, [*REGISTRY, *words]), status, said)


def test_http_proxy_wants_an_address_or_a_socket(call: Call) -> None:
    words = ["backend=http_proxy", "backend.addr=ftp://h", *REGISTRY[3:]]
    check_line(*call(nydus_run.main, words), 2, ["backend.addr", "Unix socket"])


@pytest.mark.parametrize(("words", "status", "said"), SECRETS, ids=range(len(SECRETS)))
def test_secrets_stay_secret(words: list[str], status: int, said: list[str], call: Call) -> None:
    check_line(*call(nydus_run.main, [*REGISTRY, *words]), status, said)


def test_all_missing_keys_are_named_in_one_line(call: Call) -> None:
    check_line(*call(nydus_run.main, []), 2, ["bootstrap", "mountpoint", "backend.dir"])
    check_line(*call(nydus_run.main, ["backend=registry"]), 2, ["bootstrap", "mountpoint", "backend.host", "backend.repo"])


@pytest.mark.parametrize("flag", [["--cfg", "job"], ["--cfg", "job", "--resolve"], ["--cfg", "all"], ["--info", "config"]])
@pytest.mark.parametrize("given", ["literal", "reference"])
def test_printed_trees_show_no_secret(
    flag: list[str], given: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, places: dict[str, str]
) -> None:
    monkeypatch.setenv("THE_SECRET", SECRET)
    value = f"'{SECRET}=='" if given == "literal" else "${oc.env:THE_SECRET}"
    headers = f"[{{host:'http://u:{SECRET}@m',headers:{{Authorization:'{SECRET}'}}}}]"
    words = [_fill(w, places) for w in REGISTRY]
    monkeypatch.setattr("sys.argv", ["p", *words, f"backend.auth={value}", f"backend.mirrors={headers}", f"backend.proxy.ping_url='http://{SECRET}@p'", *flag])
    with pytest.raises(SystemExit) as end:
        nydus_run.main()
    out, err = capfd.readouterr()
    assert not end.value.code, err
    assert "backend" in out
    assert SECRET not in out + err


def test_a_dry_run_does_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, places: dict[str, str]
) -> None:
    words = [*[_fill(w, places) for w in GOOD], f"bootstrap={IMAGE}/boot", f"backend.dir={IMAGE}/blobs"]
    monkeypatch.setattr("sys.argv", ["p", *words, "--dry-run"])
    with pytest.raises(SystemExit) as end:
        nydus_run.main()
    assert end.value.code == 0
    assert "nothing was done" in capfd.readouterr().out
    assert not os.path.exists(places["tmp"] + "/cache")


LEGACY = {
    "device": {"backend": {"type": "localfs", "config": {"dir": "/d"}}, "cache": {"type": "blobcache", "config": {"work_dir": "/c"}}},
    "mode": "direct",
}


def changed(**top: object) -> bytes:
    return json.dumps({**LEGACY, **top}).encode()


def device(**parts: object) -> bytes:
    return changed(device={**LEGACY["device"], **parts})  # type: ignore[dict-item]


FILES: list[tuple[str, bytes, list[str]]] = [
    ("cut", b'{"device": {"backend": {"type"', ["no valid JSON", "line 1", "column"]),
    ("empty", b"", ["device"]),
    ("a list", b"[]", ["object"]),
    ("a number", b"3", ["object"]),
    ("noise", bytes(range(128, 256)), ["UTF-8"]),
    ("neither", b"this is nothing", ["neither JSON nor TOML"]),
    ("too large", b" " * (1 << 20) + b"{}", ["1 MiB"]),
    ("deep", b'{"a":' * 100_000, ["nested"]),
    ("no device", b'{"mode": "direct"}', ["device"]),
    ("no mode", json.dumps({"device": LEGACY["device"]}).encode(), ["mode"]),
    ("mode", changed(mode="mapped"), ["mapped", "direct"]),
    ("backend type", device(backend={"type": "ftp", "config": {}}), ["ftp", "localfs"]),
    ("no backend type", device(backend={"config": {}}), ["device.backend.type"]),
    ("legacy http-proxy", device(backend={"type": "http-proxy", "config": {"addr": "http://x"}}), ["http-proxy", "version 2"]),
    ("registry without host", device(backend={"type": "registry", "config": {"repo": "r"}}), ["host"]),
    ("localfs without dir", device(backend={"type": "localfs", "config": {}}), ["backend.dir"]),
    ("cache type", device(cache={"type": "ramcache"}), ["ramcache", "blobcache"]),
    ("cache without config", device(cache={"type": "blobcache"}), ["work_dir"]),
    ("wrong type", changed(amplify_io="1M"), ["amplify_io", "whole number"]),
    ("negative", changed(amplify_io=-1), ["amplify_io"]),
    ("bool as text", changed(enable_xattr="yes"), ["enable_xattr", "boolean"]),
    ("prefetch", changed(fs_prefetch={"enable": True, "threads_count": 2000}), ["threads", "1 to 1024"]),
    ("version 3", b'{"version": 3}', ["version 3"]),
    ("version text", b'{"version": "2"}', ["version", "whole number"]),
    ("v2 without section", b'{"version": 2, "backend": {"type": "oss"}}', ["backend.oss"]),
    ("v2 cache", b'{"version": 2, "backend": {"type": "localfs", "localfs": {"dir": "/d"}}, "cache": {"type": "filecache"}}', ["work_dir"]),
    ("v2 prefetch", b'{"version": 2, "backend": {"type": "localfs", "localfs": {"dir": "/d"}}, "cache": {"type": ""}, "rafs": {"prefetch": {"threads": 3}}}', ["rafs.prefetch.enable"]),
    ("toml", b"version = 2\n[backend]\ntype = ", ["neither JSON nor TOML"]),
]  # fmt: skip


@pytest.mark.parametrize(("content", "said"), [(c, s) for _, c, s in FILES], ids=[n for n, _, _ in FILES])
def test_configuration_files(content: bytes, said: list[str], call: Call, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(content)
    status, err = call(nydusd.main, ["--config", str(tmp_path / "c"), "--bootstrap", "{boot}", "--mountpoint", "{mnt}"])
    check_line(status, err, 1, said)


B = ["--bootstrap", "{boot}", "--localfs-dir", "{tmp}"]
CLASSIC: list[tuple[list[str], int, list[str]]] = [
    (["fuse"], 2, ["--mountpoint"]),
    (["--mountpiont", "/x"], 2, ["--mountpiont", "--mountpoint"]),
    (["-M", "{mnt}", "-M", "{mnt}"], 2, ["multiple times"]),
    (["-M"], 2, ["value is required"]),
    (["-M", "{mnt}", "--writable=yes"], 2, ["--writable"]),
    (["-l", "info", "fuse", "-M", "{mnt}"], 2, ["fuse", "first"]),
    (["fues", "-M", "{mnt}"], 2, ["fues", "fuse"]),
    (["nbd", "/dev/nbd0"], 2, ["nbd", "not supported"]),
    (["-M", "{mnt}", "-l", "chatty"], 2, ["chatty", "trace"]),
    (["-M", "{mnt}", "--fuse-threads", "0"], 2, ["1-1024"]),
    (["-M", "{mnt}", "--fuse-threads", "1025"], 2, ["1-1024"]),
    (["-M", "{mnt}", "--thread-num", "x"], 2, ["invalid thread number configuration"]),
    (["-M", "{mnt}", "--failover-policy", "retry"], 2, ["retry", "resend"]),
    (["-M", "{mnt}", "--id", "x"], 2, ["--supervisor"]),
    (["-M", "{mnt}", "--supervisor", "x"], 2, ["--id"]),
    (["-M", "{mnt}", "-B", "{boot}", "-s", "/x"], 2, ["--bootstrap", "--shared-dir"]),
    (["-M", "{mnt}", "-B", "{boot}", "-D", "/x", "-C", "/y"], 2, ["--localfs-dir", "--config"]),
    (["-M", "{mnt}", "--prefetch-files", "/x"], 2, ["--bootstrap"]),
    (["-M", "{mnt}", "--backend-source", "/x"], 2, ["--backend-source"]),
    (["virtiofs", "-B", "{boot}"], 2, ["--sock"]),
    (["singleton", "--fscache-tag", "t"], 2, ["--fscache"]),
    (["-M", "{mnt}", "-B", "{boot}"], 1, ["both --config and --localfs-dir are missing"]),
    (["-M", "{gone}", *B], 1, ["/gone"]),
    (["-M", "{mnt}", *B, "--log-rotation-size", "x"], 1, ["Invalid log rotation size"]),
    (["-M", "{mnt}", *B, "--rlimit-nofile", "x"], 1, ["rlimit-nofile"]),
    (["-M", "{mnt}", *B, "--prefetch-files", "{gone}"], 1, ["/gone"]),
    (["-M", "{mnt}", "-B", "{gone}", "-D", "/x"], 1, ["/gone"]),
    (["-M", "{mnt}", "-B", "{boot}", "-C", "{gone}"], 1, ["/gone", "No such file"]),
    (["-M", "{mnt}", "-s", "/x"], 2, ["shared_dir", "not supported"]),
    (["-M", "{mnt}", "-C", "{gone}"], 2, ["without bootstrap", "not supported"]),
    (["-M", "{mnt}", *B, "--upgrade"], 2, ["daemon.upgrade", "not supported"]),
    (["-M", "{mnt}", *B, "-m", "/a"], 2, ["virtual_mountpoint", "not supported"]),
    (["-M", "{mnt}", *B, "--dedup-db", "/x"], 2, ["daemon.dedup_db", "not supported"]),
    (["singleton"], 2, ["mode=singleton", "not supported"]),
    (["virtiofs", "--sock", "/s", *B], 2, ["mode=virtiofs", "not supported"]),
    (["-M", "{mnt}", *B], 1, ["boot", "no RAFS bootstrap"]),
]


@pytest.mark.parametrize(("words", "status", "said"), CLASSIC, ids=[" ".join(w)[:60] for w, _, _ in CLASSIC])
def test_nydusd(words: list[str], status: int, said: list[str], call: Call) -> None:
    got, err = call(nydusd.main, words)
    lines = [line for line in err.strip().splitlines() if "WARN" not in line]
    check_line(got, "\n".join(lines), status, said)


def test_overrides_in_the_environment_come_last(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NYDUS_OVERRIDES", "mode.threads=0")
    check_line(*call(nydus_run.main, [*GOOD, "mode.threads=3"]), 2, ["mode.threads=0"])
    check_line(*call(nydusd.main, ["-M", "{mnt}", *B, "--fuse-threads", "3"]), 1, ["mode.threads=0"])
    monkeypatch.setenv("NYDUS_OVERRIDES", "--dry-run")
    check_line(*call(nydus_run.main, GOOD), 2, ["NYDUS_OVERRIDES", "--dry-run"])
    monkeypatch.setenv("NYDUS_OVERRIDES", "mode.threads='0")
    check_line(*call(nydus_run.main, GOOD), 2, ["NYDUS_OVERRIDES"])


COMPLETED = [
    ("mode=", {"mode=fuse", "mode=virtiofs", "mode=singleton"}),
    ("backend=lo", {"backend=localfs", "backend=localdisk"}),
    ("cache.val", {"cache.validate="}),
    ("log.level=", {"log.level=info"}),
    ("backend=registry backend.ho", {"backend.host="}),
]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(("line", "want"), COMPLETED, ids=[line for line, _ in COMPLETED])
def test_shells_complete_keys_and_choices(
    line: str, want: set[str], shell: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", f"nydus-run {line}")
    assert nydus_run.run(["-sc", f"query={shell}"]) == 0
    separator = "\n" if shell == "fish" else " "
    assert set(capfd.readouterr().out.rstrip("\n").split(separator)) == want


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cache.work_dir={boot}"], ["cache.work_dir", "no directory"]),
        (["cache.work_dir={boot}/cache"], ["cache.work_dir", "directory"]),
        (["bootstrap={tmp}/relative"], ["bootstrap", "no RAFS bootstrap"]),
    ],
)
def test_a_dry_run_finds_what_a_start_would(words: list[str], said: list[str], call: Call) -> None:
    good = [*GOOD, f"bootstrap={IMAGE}/boot", f"backend.dir={IMAGE}/blobs"]
    check_line(*call(nydus_run.main, [*good, *words, "--dry-run"]), 1, said)
    check_line(*call(nydus_run.main, [*good, *words]), 1, said)


def test_who_has_no_home_is_asked_for_a_cache_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    tree = compose([Override("bootstrap", "/b"), Override("mountpoint", "/m"), Override("backend.dir", "/d")])
    with pytest.raises(ConfigError, match="no home directory"):
        check(tree)

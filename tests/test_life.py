"""From start to end: every way out leaves no mount, no socket, no process, no temporary file."""

import errno
import fcntl
import json
import os
import pwd
import random
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from manifest import describe, differences
from mounting import BIN, DEADLINE_S, Daemon, Mounts, copy_blobs, is_mounted, nydusd_config, wait_for_mounts
from nydus_app.daemon.attachment import RUN_DIR, TURN, private_dir
from nydus_app.formats import chunkmap
from nydus_app.linux.mount import MNT_DETACH, mounts_at, unmount
from nydus_app.transports import erofs
from unix_http import call

IMAGE = "v6-zstd"


@pytest.fixture
def run(golden: Path, mounts: Mounts, tmp_path: Path, data_path: str) -> Callable[..., Daemon]:
    """nydusd on a golden image with an API socket at `tmp_path`/api.sock."""

    def start(*args: object, name: str = IMAGE, **changes: object) -> Daemon:
        boot = golden / name / "boot"
        args = ("--apisock", tmp_path / "api.sock", *args)
        daemon = mounts.nydusd(boot, golden / name / "blobs", args=args, data_path=data_path, **changes)
        wait_until((tmp_path / "api.sock").exists, daemon)
        return daemon

    return start


def wait_until(condition: Callable[[], bool], daemon: Daemon) -> None:
    """The socket appears by rename(2) right after the mount; there is no event to wait for."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert daemon.process.poll() is None, daemon.output
        assert time.monotonic() < end
        time.sleep(0.01)


def assert_nothing_left(daemon: Daemon, tmp_path: Path) -> None:
    assert not is_mounted(daemon.mountpoint)
    assert not os.path.exists(private_dir(str(daemon.mountpoint)))
    assert not (tmp_path / "api.sock").exists()
    assert not [p for p in tmp_path.rglob("*") if "tmp" in p.suffix]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_is_a_good_end(run: Callable[..., Daemon], number: int, tmp_path: Path) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # the daemon respects who ignores SIGHUP, such as nohup
    try:
        daemon = run()
    finally:
        signal.signal(number, before)
    assert daemon.stop(number) == 0
    assert_nothing_left(daemon, tmp_path)


def test_an_outside_unmount_ends_the_daemon_within_a_second(run: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = run()
    unmount(str(daemon.mountpoint))
    assert daemon.process.wait(1) == 0
    assert_nothing_left(daemon, tmp_path)


def test_who_starts_again_after_an_unmount_has_his_own_mount(run: Callable[..., Daemon], tmp_path: Path) -> None:
    """The first daemon is still ending, held up by a client of its API; the second's mounts have the numbers of its own."""
    first = run()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "api.sock"))
        client.sendall(b"GET /api/v1/daemon HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1) == b"H"
        unmount(str(first.mountpoint))
        command = [a.decode() for a in Path(f"/proc/{first.process.pid}/cmdline").read_bytes().split(b"\0")[:-1]]
        env = dict(v.decode().split("=", 1) for v in Path(f"/proc/{first.process.pid}/environ").read_bytes().split(b"\0")[:-1])
        command[command.index("--apisock") + 1] = str(tmp_path / "second.sock")
        second = Daemon(subprocess.Popen(command, env=env), first.mountpoint, tmp_path / "second.log")
        try:
            assert wait_for_mounts(lambda: is_mounted(first.mountpoint))
            assert first.process.wait(DEADLINE_S) == 0
            wait_until((tmp_path / "second.sock").exists, second)
            assert second.process.poll() is None and (first.mountpoint / "sizes").is_dir()
        finally:
            code = second.stop()
    assert code == 0 and not is_mounted(first.mountpoint)


def test_a_busy_mount_goes_away_with_its_daemon(run: Callable[..., Daemon], tmp_path: Path) -> None:
    daemon = run()
    fd = os.open(next(p for p in daemon.mountpoint.rglob("*") if p.is_file()), os.O_RDONLY)
    try:
        assert daemon.stop() == 0
        assert_nothing_left(daemon, tmp_path)
    finally:
        with suppress(OSError):  # FLUSH finds nobody
            os.close(fd)


@pytest.mark.parametrize("second_path", ["auto", "fuse"])
def test_a_dead_mount_is_replaced(golden: Path, mounts: Mounts, tmp_path: Path, data_path: str, second_path: str) -> None:
    first = mounts.nydusd(golden / IMAGE / "boot", golden / IMAGE / "blobs", data_path=data_path)
    first.kill()
    if data_path == "fuse":
        with pytest.raises(OSError) as e:
            os.stat(first.mountpoint)
        assert e.value.errno == errno.ENOTCONN
    config = tmp_path / "c.json"
    config.write_text(json.dumps(nydusd_config(golden / IMAGE / "blobs", tmp_path / "cache")))
    process = subprocess.Popen(
        [BIN / "nydusd", "--config", config, "--bootstrap", golden / IMAGE / "boot", "--mountpoint", first.mountpoint],
        stderr=subprocess.PIPE, env={**os.environ, "NYDUS_OVERRIDES": f"mode.data_path={second_path}"},
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any(b"serving at" in line for line in process.stderr)
        assert process.poll() is None
        assert differences(first.mountpoint, golden / "kinds.manifest.jsonl") == []
    finally:
        process.terminate()
        assert process.wait(DEADLINE_S) == 0
        process.stderr.close()
    assert not is_mounted(first.mountpoint)
    assert not os.path.exists(private_dir(str(first.mountpoint)))


def test_a_dead_file_tree_over_a_dead_erofs(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    """Both are taken away, in their order: nothing of the lower one comes to light at the end."""
    mountpoint, config = tmp_path / "mnt", tmp_path / "c.json"
    config.write_text(json.dumps(nydusd_config(golden / IMAGE / "blobs", tmp_path / "cache")))

    def begin(data_path: str) -> Daemon:
        words = ["--config", config, "--bootstrap", golden / IMAGE / "boot", "--mountpoint", mountpoint]
        env = {**os.environ, "NYDUS_OVERRIDES": f"mode.data_path={data_path}"}
        return mounts.start(BIN / "nydusd", *words, mountpoint=mountpoint, env=env)

    dead = [begin("erofs"), begin("fuse")]
    for daemon in dead:
        daemon.kill()
    last = begin("erofs")
    wait_until(lambda: "serving at" in last.output, last)
    assert differences(mountpoint, golden / "kinds.manifest.jsonl") == []
    assert last.stop() == 0
    assert not mounts_at(str(mountpoint)) and not os.path.exists(private_dir(str(mountpoint)))


def test_who_may_only_look_at_the_run_directory_holds_nobody_up(run: Callable[..., Daemon], data_path: str) -> None:
    os.makedirs(RUN_DIR, exist_ok=True)
    fd = os.open(RUN_DIR, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)  # as anybody can who opens it
        daemon = run()
        assert daemon.stop() == 0
        assert (os.stat(TURN).st_mode & 0o777, os.stat(TURN).st_uid) == (0o600, 0)
    finally:
        os.close(fd)


def test_the_api_tells_and_obeys(run: Callable[..., Daemon], tmp_path: Path, data_path: str) -> None:
    daemon = run()
    sock = tmp_path / "api.sock"
    status, info = call(sock, "GET", "/api/v1/daemon")
    assert status == 200
    assert info["state"] == "RUNNING"
    assert info["backend_collection"]["/"]["backend_type"] == "Rafs"
    assert info["backend_collection"]["/"]["data_path"] == data_path
    assert call(sock, "PUT", "/api/v1/daemon", {"log_level": "debug"}) == (204, None)
    assert call(sock, "PUT", "/api/v1/daemon", {"log_level": "loud"})[0] == 500
    assert call(sock, "PUT", "/api/v1/daemon/exit") == (204, None)
    assert daemon.process.wait(DEADLINE_S) == 0
    assert_nothing_left(daemon, tmp_path)


def test_the_api_tells_of_paths_of_any_bytes(golden: Path, mounts: Mounts, tmp_path: Path) -> None:
    """A client that waits for RUNNING would wait for ever."""
    cache = os.fsdecode(os.fsencode(tmp_path) + b"/cache \xff")
    sock = tmp_path / "api.sock"
    daemon = mounts.start(
        BIN / "nydus-run", "mode=fuse", "backend=localfs", f"backend.dir={golden / IMAGE / 'blobs'}", f"bootstrap={golden / IMAGE / 'boot'}",
        f"mountpoint={tmp_path}/mnt", f"cache.work_dir='{cache}'", f"api.sock={sock}", mountpoint=tmp_path / "mnt",
    )  # fmt: skip
    wait_until(sock.exists, daemon)
    status, body = call(sock, "GET", "/api/v1/daemon")
    (shown,) = body["backend_collection"].values()
    assert status == 200 and "/cache ?" in json.dumps(shown)
    assert daemon.stop() == 0


def test_mount_flags_are_those_of_nydusd(run: Callable[..., Daemon], data_path: str) -> None:
    daemon = run()
    table = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    (line,) = [words for words in table if words[1] == str(daemon.mountpoint)]
    assert line[2] == data_path
    flags = set(line[3].split(","))
    assert {"ro", "nosuid", "nodev", "noatime"} <= flags
    assert data_path == "erofs" or (line[0] == "rafs" and {"default_permissions", "allow_other"} <= flags)


@pytest.fixture
def tiny_tmpfs(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "tiny"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", path], check=True)
    yield path
    unmount(str(path), MNT_DETACH)


@pytest.mark.parametrize("left", [0, 64 << 10, 2 << 20])
@pytest.mark.parametrize("name", ["v5-zstd", "v6-zstd"])
def test_a_full_cache_disk_costs_one_warning(
    golden: Path, mounts: Mounts, tiny_tmpfs: Path, name: str, left: int
) -> None:
    with open(tiny_tmpfs / "fill", "wb") as f:
        os.posix_fallocate(f.fileno(), 0, (16 << 20) - left)
    (tiny_tmpfs / "cache").mkdir()
    daemon = mounts.nydusd(golden / name / "boot", golden / name / "blobs", work_dir=tiny_tmpfs / "cache")
    assert differences(daemon.mountpoint, golden / "kinds.manifest.jsonl") == []
    assert daemon.stop() == 0
    assert sum("cannot write the cache" in line for line in daemon.output.splitlines()) == 1


@pytest.fixture
def fuse_for_all() -> Iterator[None]:
    """udev makes /dev/fuse 0666; a machine without udev leaves it to root."""
    before = os.stat("/dev/fuse").st_mode
    os.chmod("/dev/fuse", 0o666)
    yield
    os.chmod("/dev/fuse", before)


@pytest.mark.skipif(not os.path.exists("/etc/mtab"), reason="fusermount3 cannot unmount without /etc/mtab")
def test_an_ordinary_user_mounts_on_his_own_directory(golden: Path, mounts: Mounts, fuse_for_all: None) -> None:
    with tempfile.TemporaryDirectory() as home:
        base = Path(home)
        base.chmod(0o755)
        blobs = copy_blobs(golden, IMAGE, base / "blobs")
        boot = base / "boot"
        boot.write_bytes((golden / IMAGE / "boot").read_bytes())
        (base / "mnt").mkdir()
        (base / "cache").mkdir()
        # fusermount3 wants to know the user's name; a bare Debian has none but nobody.
        uid = 1000 if any(u.pw_uid == 1000 for u in pwd.getpwall()) else pwd.getpwnam("nobody").pw_uid
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        for path in (base / "mnt", base / "cache"):
            os.chown(path, uid, uid)
        daemon = mounts.start(
            *become, BIN / "nydus-run", "mode=fuse", "backend=localfs", f"backend.dir={blobs}", f"bootstrap={boot}", f"mountpoint={base}/mnt",
            f"cache.work_dir={base}/cache", mountpoint=base / "mnt",
        )  # fmt: skip
        listed = subprocess.run([*become, "ls", "-A", base / "mnt"], capture_output=True, text=True)
        assert listed.returncode == 0 and "sizes" in listed.stdout
        assert daemon.stop() == 0
        assert not is_mounted(base / "mnt")


def _truncated(path: Path) -> Path:
    target = path.parent / "truncated"
    target.write_bytes(path.read_bytes()[:1500])
    return target


FAILING_STARTS: dict[str, Callable[[dict], None]] = {
    "no such bootstrap": lambda s: s.update(bootstrap=str(s["tmp"] / "gone/boot")),
    "the bootstrap is a directory": lambda s: s.update(bootstrap=str(s["tmp"])),
    "the bootstrap is empty": lambda s: s.update(bootstrap=_file(s, "empty", b"")),
    "the bootstrap is noise": lambda s: s.update(bootstrap=_file(s, "noise", os.urandom(9000))),
    "the bootstrap is cut": lambda s: s.update(bootstrap=_file(s, "cut", s["boot"].read_bytes()[:1500])),
    "no such mountpoint": lambda s: s.update(mountpoint=str(s["tmp"] / "gone/mnt")),
    "the mountpoint is a file": lambda s: s.update(mountpoint=_file(s, "plain", b"")),
    "no such configuration": lambda s: s.update(config=str(s["tmp"] / "gone/c.json")),
    "the configuration is cut": lambda s: s.update(config=_file(s, "c.json", b'{"device": {"backend"')),
    "the configuration is a directory": lambda s: s.update(config=str(s["tmp"])),
    "the configuration has no backend": lambda s: s.update(config=_file(s, "c.json", b'{"device":{},"mode":"direct"}')),
    "the configuration is version 3": lambda s: s.update(config=_file(s, "c.json", b'{"version": 3}')),
    "the backend is unknown": lambda s: _config(s, backend={"type": "ftp", "config": {}}),
    "the backend's password is none": lambda s: _config(
        s, backend={"type": "registry", "config": {"host": "h", "repo": "r", "auth": "c2VjcmV0"}}
    ),
    "the cache directory is a file": lambda s: _config(
        s, cache={"type": "blobcache", "config": {"work_dir": _file(s, "plain", b"")}}
    ),
    "the cache has no configuration": lambda s: _config(s, cache={"type": "blobcache"}),
    "the API socket's directory is missing": lambda s: s.update(extra=["--apisock", str(s["tmp"] / "gone/api.sock")]),
    "the API socket is a directory": lambda s: s.update(extra=["--apisock", str(s["tmp"])]),
    "the log's directory is a file": lambda s: s.update(extra=["--log-file", _file(s, "plain", b"") + "/log"]),
    "the prefetch list is missing": lambda s: s.update(extra=["--prefetch-files", str(s["tmp"] / "gone/list")]),
    "the log rotation is no number": lambda s: s.update(extra=["--log-rotation-size", "x"]),
    "the API socket lies below the mountpoint": lambda s: s.update(extra=["--apisock", s["mountpoint"] + "/api.sock"]),
    "the log lies below the mountpoint": lambda s: s.update(extra=["--log-file", s["mountpoint"] + "/log"]),
    "the cache lies at the mountpoint": lambda s: _config(
        s, cache={"type": "blobcache", "config": {"work_dir": s["mountpoint"]}}
    ),
    "the blobs lie below the mountpoint, by another name": lambda s: (
        (s["tmp"] / "other").symlink_to(s["tmp"]),
        _config(s, backend={"type": "localfs", "config": {"dir": str(s["tmp"] / "other/mnt/blobs")}}),
    ),
    "a flag is unknown": lambda s: s.update(extra=["--mountpiont", "/mnt"]),
}


def _file(setup: dict, name: str, content: bytes) -> str:
    path = setup["tmp"] / name
    path.write_bytes(content)
    return str(path)


def _config(setup: dict, **device: object) -> None:
    config = nydusd_config(setup["tmp"], setup["tmp"] / "cache")
    config["device"].update(device)
    setup["config"] = _file(setup, "c.json", json.dumps(config).encode())


@pytest.mark.mounts
@pytest.mark.parametrize("kind", FAILING_STARTS)
def test_a_failing_start_leaves_nothing(kind: str, golden: Path, tmp_path: Path) -> None:
    mountpoint = tmp_path / "mnt"
    mountpoint.mkdir()
    setup = {
        "tmp": tmp_path,
        "boot": golden / IMAGE / "boot",
        "bootstrap": str(golden / IMAGE / "boot"),
        "mountpoint": str(mountpoint),
        "extra": ["--apisock", str(tmp_path / "api.sock")],
    }
    _config(setup)
    FAILING_STARTS[kind](setup)
    before = set(tmp_path.rglob("*"))
    done = subprocess.run(
        [BIN / "nydusd", "fuse", "--config", setup["config"], "--bootstrap", setup["bootstrap"],
         "--mountpoint", setup["mountpoint"], "--log-level", "error", *setup["extra"]],
        capture_output=True, text=True, timeout=DEADLINE_S,
    )  # fmt: skip
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr and "c2VjcmV0" not in done.stderr
    assert done.stderr.strip()
    assert not is_mounted(mountpoint)
    assert not os.path.exists(private_dir(str(mountpoint)))
    assert set(tmp_path.rglob("*")) - before <= {tmp_path / "cache"}


def start_that_fails(golden: Path, tmp_path: Path, boot: Path, path: str, *args: object) -> str:
    """What it says; the mount was there when it failed, and nothing is left of it."""
    (tmp_path / "mnt").mkdir()
    done = subprocess.run(
        [BIN / "nydusd", "-B", boot, "-D", golden / IMAGE / "blobs", "-M", tmp_path / "mnt", *args],
        capture_output=True, text=True, timeout=DEADLINE_S,
        env={**os.environ, "NYDUS_OVERRIDES": f"mode.data_path={path} cache.work_dir={tmp_path}/cache"},
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not is_mounted(tmp_path / "mnt")
    assert not os.path.exists(private_dir(str(tmp_path / "mnt")))
    assert not list(tmp_path.rglob("*.tmp"))
    return done.stderr.splitlines()[-1]


@pytest.mark.mounts
def test_an_api_socket_that_cannot_be_bound_ends_the_mount(golden: Path, tmp_path: Path, data_path: str) -> None:
    said = start_that_fails(golden, tmp_path, golden / IMAGE / "boot", data_path, "--apisock", "/proc/self/api.sock")
    assert said.startswith("Error: api.sock /proc/self/api.sock: ")


@pytest.mark.mounts
def test_a_bootstrap_that_the_kernel_refuses_ends_the_mount(golden: Path, tmp_path: Path) -> None:
    if reason := erofs.why_not():
        pytest.skip(reason)
    content = bytearray((golden / IMAGE / "boot").read_bytes())
    content[1024 + 8] |= 1  # claims a checksum of the superblock, which is wrong then
    (tmp_path / "boot").write_bytes(content)
    said = start_that_fails(golden, tmp_path, tmp_path / "boot", "erofs")
    assert said.startswith(f"Error: cannot mount EROFS at {tmp_path}/mnt: ")


KILLS = 20


@pytest.mark.parametrize(("name", "data_path"), [("v5-zstd", "fuse"), ("v6-zstd", "fuse"), ("v6-zstd", "auto")])
def test_killed_in_the_middle_of_cold_reads_again_and_again(
    golden: Path, mounts: Mounts, tmp_path: Path, name: str, data_path: str
) -> None:
    """Every restart goes on with the same cache directory; validation is off, so only order protects."""
    counts: list[int] = []
    wanted = {e["path"]: e["sha256"] for e in describe_golden(golden) if e["type"] == "file" and isinstance(e["path"], str)}
    names = [n.lstrip("/") for n in wanted]
    order = random.Random(1)
    for _ in range(KILLS):
        daemon = mounts.nydusd(golden / name / "boot", golden / name / "blobs", work_dir=tmp_path / "cache", amplify_io=0, data_path=data_path)
        reader = subprocess.Popen(
            ["cat", *(daemon.mountpoint / n for n in order.sample(names, len(names)))],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert reader.stdout is not None
        reader.stdout.read(order.choice((1, 10_000, 100_000)))
        daemon.kill()
        reader.stdout.close()
        reader.wait(DEADLINE_S)
        daemon.clear()
        counts.append(ready_chunks(tmp_path / "cache"))
    assert len(set(counts)) > KILLS // 2, f"chunks ready after each kill: {counts}; too few were cold reads"
    last = mounts.nydusd(golden / name / "boot", golden / name / "blobs", work_dir=tmp_path / "cache")
    have = {e["path"]: e["sha256"] for e in describe(last.mountpoint) if e["type"] == "file" and isinstance(e["path"], str)}
    assert have == wanted


def ready_chunks(work_dir: Path) -> int:
    (chunk_map,) = work_dir.glob("*.chunk_map")
    return int.from_bytes(chunk_map.read_bytes()[chunkmap.HEADER_SIZE :], "big").bit_count()


def describe_golden(golden: Path) -> list[dict]:
    return [json.loads(line) for line in (golden / "kinds.manifest.jsonl").read_text().splitlines()]
